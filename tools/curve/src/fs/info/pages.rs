//! The extents of a file, asked for page by page: `curve.file.extents.OFFSET`. The format is the one of `curve-fuse`
//! (`frontends/fuse/src/inspect/extents.rs`).

use std::path::Path;

use super::ranges::{Kind, Place, Range, with_holes};
use crate::failure::{Code, Failure};
use crate::fs::attributes::{self, Links};

/// How often a file may change while its pages are asked for.
const CHANGES_MAX: u32 = 5;

/// Ranges of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The state of the file's bytes that they are of.
    pub generation: u64,
    /// In order, with holes.
    pub ranges: Vec<Range>,
    /// Where to go on; none when that is all.
    pub next: Option<u64>,
}

/// One page.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Page {
    generation: u64,
    length: u64,
    ranges: Vec<Range>,
    next: Option<u64>,
}

/// At most `limit` ranges from an offset on, of one state of the file.
pub fn find(path: &Path, from: u64, limit: usize) -> Result<Found, Failure> {
    for _ in 0..CHANGES_MAX {
        let ask = |at: u64| {
            let text = attributes::get(path, &format!("curve.file.extents.{at}"), Links::Themselves);
            let text = text.map_err(|error| attributes::failure(path, error))?;
            parse(&text)
                .ok_or_else(|| attributes::confused(path, &text.chars().take(200).collect::<String>()))
        };
        if let Some(found) = collect(from, limit, ask)? {
            return Ok(found);
        }
    }
    Err(Failure::new(Code::Conflict, format!("{} changes faster than it can be looked at", path.display()))
        .try_this("look again when nobody writes to it, or use a smaller --limit"))
}

/// Pages together; none when the file changed between them.
fn collect(
    from: u64,
    limit: usize,
    mut ask: impl FnMut(u64) -> Result<Page, Failure>,
) -> Result<Option<Found>, Failure> {
    let (mut at, mut ranges, mut first) = (from, Vec::new(), None);
    loop {
        let page = ask(at)?;
        let generation = *first.get_or_insert(page.generation);
        if page.generation != generation {
            return Ok(None);
        }
        ranges.extend(page.ranges);
        // A page without progress would be the last thing this command does.
        let next = page.next.filter(|next| *next > at);
        let to = next.unwrap_or(page.length.max(at));
        if next.is_none() || ranges.len() >= limit {
            let mut all = with_holes(ranges, from, to);
            let cut = all.get(limit).map(|range| range.offset);
            all.truncate(limit);
            return Ok(Some(Found { generation, ranges: all, next: cut.or(next) }));
        }
        at = to;
    }
}

fn parse(text: &str) -> Option<Page> {
    let mut page = Page::default();
    let mut is_whole = false;
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "generation" => page.generation = rest.parse().ok()?,
            "length" => page.length = rest.parse().ok()?,
            "data" => {
                let part: curvefs_data::ObjectPart = rest.parse().ok()?;
                page.ranges.push(Range {
                    offset: part.offset,
                    len: part.len.into(),
                    place: Place::Object(part),
                });
            }
            "unwritten" => {
                let (offset, len) = rest.split_once(' ')?;
                let (offset, len) = (offset.parse().ok()?, len.parse().ok()?);
                page.ranges.push(Range { offset, len, place: Place::Nowhere(Kind::Unwritten) });
            }
            "next" => {
                page.next = Some(rest.parse().ok()?);
                is_whole = true;
            }
            "end" => is_whole = true,
            // A later version may say more.
            _ => {}
        }
    }
    is_whole.then_some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "generation 4\nlength 500\ndata 0 100 b o 100 0\nunwritten 150 50\nnext 200\n";
    const LAST: &str = "generation 4\nlength 500\ndata 300 100 b p 100 0\nend\n";

    fn answer(at: u64) -> Result<Page, Failure> {
        Ok(parse(if at < 200 { FIRST } else { LAST }).unwrap())
    }

    #[test]
    fn pages_are_put_together_with_holes_between() {
        let found = collect(0, 100, answer).unwrap().unwrap();
        let kinds: Vec<_> =
            found.ranges.iter().map(|range| (range.offset, range.len, range.kind())).collect();
        assert_eq!(
            kinds,
            [
                (0, 100, Kind::Data),
                (100, 50, Kind::Hole),
                (150, 50, Kind::Unwritten),
                (200, 100, Kind::Hole),
                (300, 100, Kind::Data),
                (400, 100, Kind::Hole)
            ]
        );
        assert_eq!((found.generation, found.next), (4, None));
    }

    #[test]
    fn what_is_too_much_is_cut_and_can_be_gone_on_with() {
        for (limit, next) in [(1, Some(100)), (2, Some(150)), (3, Some(200)), (4, Some(300)), (6, None)] {
            let found = collect(0, limit, answer).unwrap().unwrap();
            assert_eq!((found.ranges.len(), found.next), (limit, next), "{limit}");
        }
        let rest = collect(300, 10, answer).unwrap().unwrap();
        assert_eq!((rest.ranges.len(), rest.next), (2, None));
    }

    #[test]
    fn a_change_between_pages_begins_anew() {
        let mut generation = 0;
        let changing = |at| {
            generation += 1;
            Ok(Page { generation, ..answer(at)? })
        };
        assert_eq!(collect(0, 100, changing), Ok(None));
        let stuck = |_| Ok(Page { length: 500, next: Some(0), ..Page::default() });
        assert!(collect(0, 100, stuck).unwrap().is_some(), "it ends");
        assert_eq!(parse("generation 4\nlength 500\n"), None, "cut off");
    }

    #[test]
    fn odd_texts_are_refused_or_passed_over() {
        for odd in [
            "data 1 2 3\nend",
            "data x 2 b o 1 1\nend",
            "unwritten 5\nend",
            "unwritten 5 -1\nend",
            "next\n",
            "next 18446744073709551616",
            "length x\nend",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
        let far = format!("length {0}\nunwritten {0} {0}\nmore to come\nend\n", u64::MAX);
        let page = parse(&far).unwrap();
        assert!(collect(0, 5, |_| Ok(page.clone())).unwrap().is_some(), "no sum overflows");
    }
}
