//! A page of a file's extents as text. Lines:
//!
//! | line | |
//! |---|---|
//! | `generation N` | changes with every change of the file's bytes: pages of two generations do not fit together |
//! | `length N` | of what is published |
//! | `data OFFSET LEN BUCKET OBJECT OBJECT_BYTES AT` | a range of the file inside one object |
//! | `unwritten OFFSET LEN` | allocated, never written |
//! | `next OFFSET` or `end` | the last line: where to go on |
//!
//! What no line covers is a hole.

use std::fmt::Write as _;

use curvefs_data::ObjectPart;
use curvefs_types::{DataRef, Extent};
use curvefs_vfs::ExtentPage;

const NAME: &[u8] = b"curve.file.extents.";
/// Bytes of a page: below what the kernel lets an attribute have (64 KiB), with room for a line and the last one.
const PAGE_BYTES: usize = 60 << 10;

/// The offset in the attribute's name.
pub fn offset(name: &[u8]) -> Option<u64> {
    std::str::from_utf8(name.strip_prefix(NAME)?).ok()?.parse().ok()
}

/// The page from an offset on.
pub fn text(page: &ExtentPage, from: u64, locate: impl Fn(&Extent) -> Vec<ObjectPart>) -> String {
    let mut out = format!("generation {}\nlength {}\n", page.attr.generation, page.attr.length);
    let parts = page.extents.iter().filter_map(|extent| extent.part(from, u64::MAX));
    let mut next = from;
    for extent in parts {
        next = extent.end();
        if extent.data == DataRef::Unwritten {
            // Writing to a string does not fail.
            let _ = writeln!(out, "unwritten {} {}", extent.offset, extent.len);
        }
        for part in locate(&extent) {
            if out.len() > PAGE_BYTES {
                let _ = writeln!(out, "next {}", part.offset);
                return out;
            }
            let _ = writeln!(out, "data {part}");
        }
        if out.len() > PAGE_BYTES {
            break;
        }
    }
    let is_all = page.end && page.extents.last().is_none_or(|last| last.end() <= next);
    let _ = if is_all { writeln!(out, "end") } else { writeln!(out, "next {next}") };
    out
}

#[cfg(test)]
mod tests {
    use curvefs_types::{Attr, InodeId, Kind, SliceId};

    use super::*;

    fn page(extents: Vec<Extent>, end: bool) -> ExtentPage {
        let attr = Attr { generation: 4, length: 500, ..attr() };
        ExtentPage { attr, extents, end }
    }

    fn attr() -> Attr {
        let mut seeds = curvefs_types::wire::Seeds::new(1);
        let attr: Attr = curvefs_types::Wire::sample(&mut seeds);
        Attr { inode: InodeId(5), kind: Kind::File, ..attr }
    }

    fn slice(offset: u64, len: u32) -> Extent {
        let data = DataRef::Slice { slice: SliceId::default(), bytes: len, at: 0 };
        Extent::checked(offset, len, data).unwrap()
    }

    /// Objects of a hundred bytes.
    fn locate(extent: &Extent) -> Vec<ObjectPart> {
        if extent.data == DataRef::Unwritten {
            return Vec::new();
        }
        let steps = (extent.offset..extent.end()).step_by(100);
        let part = |offset: u64| ObjectPart {
            offset,
            len: (extent.end() - offset).min(100) as u32,
            bucket: "b".into(),
            object: "o".into(),
            object_bytes: 100,
            at: 0,
        };
        steps.map(part).collect()
    }

    #[test]
    fn names_have_offsets() {
        assert_eq!(offset(b"curve.file.extents.0"), Some(0));
        assert_eq!(offset(b"curve.file.extents.123"), Some(123));
        for bad in [
            &b"curve.file.extents."[..],
            b"curve.file.extents.-1",
            b"curve.file.info",
            b"curve.file.extents.\xff",
        ] {
            assert_eq!(offset(bad), None);
        }
    }

    #[test]
    fn pages_have_objects_and_what_was_never_written() {
        let extents = vec![slice(100, 150), Extent::checked(300, 50, DataRef::Unwritten).unwrap()];
        let told = text(&page(extents.clone(), true), 120, locate);
        let wanted = "generation 4\nlength 500\ndata 120 100 b o 100 0\ndata 220 30 b o 100 0\nunwritten 300 50\nend\n";
        assert_eq!(told, wanted);
        assert!(text(&page(extents, false), 0, locate).ends_with("unwritten 300 50\nnext 350\n"));
        assert_eq!(text(&page(Vec::new(), true), 0, locate), "generation 4\nlength 500\nend\n");
    }

    #[test]
    fn long_files_are_told_in_pages_and_nothing_is_left_out() {
        let extents = vec![slice(0, 1_000_000), slice(1_000_000, 50)];
        let (mut from, mut at, mut pages) = (0, 0, 0);
        loop {
            let told = text(&page(extents.clone(), true), from, locate);
            assert!(told.len() < 64 << 10);
            pages += 1;
            for line in told.lines().filter_map(|line| line.strip_prefix("data ")) {
                let part: ObjectPart = line.parse().unwrap();
                assert_eq!(part.offset, at);
                at += u64::from(part.len);
            }
            match told.lines().last().unwrap().strip_prefix("next ") {
                Some(next) => from = next.parse().unwrap(),
                None => break,
            }
        }
        assert_eq!(at, 1_000_050);
        assert!(pages > 2, "{pages}");
    }
}
