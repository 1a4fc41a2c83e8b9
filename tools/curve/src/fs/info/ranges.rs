//! Ranges of a file: in an object, allocated and never written, or holes between those. Pure.

use curvefs_data::ObjectPart;
use serde_json::{Value, json};

/// What a range is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Inside one object.
    Data,
    /// Allocated, reads as zeros.
    Unwritten,
    /// Reads as zeros.
    Hole,
}

/// A range of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Where it is.
    pub place: Place,
}

/// Where a range is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In an object.
    Object(ObjectPart),
    /// Nowhere.
    Nowhere(Kind),
}

impl Range {
    /// The first byte after it.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match &self.place {
            Place::Object(_) => Kind::Data,
            Place::Nowhere(kind) => *kind,
        }
    }

    fn kind_name(&self) -> &'static str {
        match self.kind() {
            Kind::Data => "data",
            Kind::Unwritten => "unwritten",
            Kind::Hole => "hole",
        }
    }

    /// As JSON.
    pub fn json(&self, chunk_bytes: u64) -> Value {
        let mut value = json!({
            "chunk": self.offset / chunk_bytes,
            "offset": self.offset,
            "bytes": self.len,
            "kind": self.kind_name(),
        });
        if let Place::Object(part) = &self.place {
            value["bucket"] = part.bucket.clone().into();
            value["object"] = part.object.clone().into();
            value["object_bytes"] = part.object_bytes.into();
            value["at"] = part.at.into();
            value["version"] = version(&part.object).into();
        }
        value
    }

    /// As a row of the table.
    pub fn row(&self, chunk_bytes: u64) -> Vec<String> {
        let chunk = (self.offset / chunk_bytes).to_string();
        let mut row = vec![chunk, self.offset.to_string(), self.len.to_string(), self.kind_name().to_owned()];
        match &self.place {
            Place::Object(part) => row.extend([
                part.bucket.clone(),
                part.object.clone(),
                part.object_bytes.to_string(),
                part.at.to_string(),
                version(&part.object),
            ]),
            Place::Nowhere(_) => row.extend(std::iter::repeat_n("-".to_owned(), 5)),
        }
        row
    }
}

/// Who wrote an object, and its how-manieth slice it is part of: names are never used again, so that is the object's version.
/// `PREFIX/FS/WRITER/SERIAL/INDEX` in hexadecimal.
fn version(object: &str) -> String {
    let number = |at| object.split('/').nth(at).and_then(|part| u64::from_str_radix(part, 16).ok());
    match (number(2), number(3)) {
        (Some(writer), Some(serial)) => format!("{writer}.{serial}"),
        _ => "-".to_owned(),
    }
}

/// The ranges from an offset to an end, with the holes between them, in order.
pub fn with_holes(ranges: Vec<Range>, from: u64, to: u64) -> Vec<Range> {
    let mut all = Vec::with_capacity(ranges.len() * 2);
    let mut at = from;
    let hole = |at: u64, end: u64| Range { offset: at, len: end - at, place: Place::Nowhere(Kind::Hole) };
    for range in ranges {
        if range.offset > at {
            all.push(hole(at, range.offset));
        }
        at = at.max(range.end());
        all.push(range);
    }
    if at < to {
        all.push(hole(at, to));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, len: u64, kind: Kind) -> Range {
        Range { offset, len, place: Place::Nowhere(kind) }
    }

    #[test]
    fn holes_are_what_is_between() {
        let (data, hole) = (Kind::Unwritten, Kind::Hole);
        let ranges = vec![range(10, 5, data), range(15, 5, data), range(30, 5, data)];
        let all = with_holes(ranges.clone(), 0, 50);
        let wanted = [
            range(0, 10, hole),
            range(10, 5, data),
            range(15, 5, data),
            range(20, 10, hole),
            range(30, 5, data),
            range(35, 15, hole),
        ];
        assert_eq!(all, wanted);
        assert_eq!(with_holes(ranges.clone(), 10, 35).len(), 4);
        assert_eq!(with_holes(ranges, 10, 20).len(), 4, "what is behind the end stays");
        assert_eq!(with_holes(Vec::new(), 5, 5), []);
    }

    #[test]
    fn a_name_has_its_version() {
        let object = "a3/00000001/0000000000000010/0000000000000002/0000";
        assert_eq!(version(object), "16.2");
        assert_eq!(version("x"), "-");
        let part = ObjectPart {
            offset: 7,
            len: 3,
            bucket: "b".into(),
            object: object.into(),
            object_bytes: 9,
            at: 1,
        };
        let range = Range { offset: 7, len: 3, place: Place::Object(part) };
        assert_eq!(range.row(4), ["1", "7", "3", "data", "b", object, "9", "1", "16.2"]);
        assert_eq!(range.json(4)["version"], "16.2");
        assert_eq!(range.end(), 10);
    }
}
