//! Listing objects in order of their keys.

use std::ops::ControlFlow;

use super::Store;
use crate::error::StoreError;
use crate::format::{self, ObjectRow};
use crate::meta::successor;

/// Where a listing goes on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum After {
    /// At the first key.
    #[default]
    Nothing,
    /// After a key.
    Key(String),
    /// After all keys that begin with it.
    Prefix(String),
}

/// What is to be listed.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Only keys that begin with it.
    pub prefix: String,
    /// Keys that have it after the prefix are listed as one, up to it.
    pub delimiter: Option<String>,
    /// Where to go on.
    pub after: After,
    /// At most so many keys and common prefixes.
    pub max: usize,
}

/// A page of a listing.
#[derive(Debug, Default)]
pub struct Listed {
    /// Keys with their objects.
    pub objects: Vec<(String, ObjectRow)>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<After>,
}

/// What one step over the rows came to.
enum Step {
    End,
    Full,
    /// Everything that begins with a common prefix is to be passed over.
    Skip(String),
}

impl Store {
    /// A page of objects.
    pub fn list(&self, bucket: &str, query: &ListQuery) -> Result<Listed, StoreError> {
        self.check_bucket(bucket)?;
        let base = format::object_prefix(bucket);
        let prefix = [base.as_slice(), query.prefix.as_bytes()].concat();
        let absolute = |key: &str| [base.as_slice(), key.as_bytes()].concat();
        let mut from = match &query.after {
            After::Nothing => Some(prefix.clone()),
            After::Key(key) => Some([absolute(key).as_slice(), &[0]].concat()),
            After::Prefix(prefix) => successor(&absolute(prefix)),
        };
        let mut page = Listed::default();
        let mut last = None;
        if query.max == 0 {
            return Ok(page);
        }
        while let Some(start) = from.take() {
            match self.list_some(&base, &prefix, &start, query, &mut page, &mut last)? {
                Step::End => break,
                Step::Full => {
                    page.next = last;
                    break;
                }
                Step::Skip(common) => from = successor(&absolute(&common)),
            }
        }
        Ok(page)
    }

    fn list_some(
        &self,
        base: &[u8],
        prefix: &[u8],
        start: &[u8],
        query: &ListQuery,
        page: &mut Listed,
        last: &mut Option<After>,
    ) -> Result<Step, StoreError> {
        let mut step = Step::End;
        self.meta.scan(prefix, start, |row_key, value| {
            if page.objects.len() + page.prefixes.len() == query.max {
                step = Step::Full;
                return Ok(ControlFlow::Break(()));
            }
            let key = String::from_utf8(row_key[base.len()..].to_vec())
                .map_err(|_| StoreError::Damaged("a key is not UTF-8".into()))?;
            if let Some(common) = common_prefix(&key, query) {
                page.prefixes.push(common.clone());
                *last = Some(After::Prefix(common.clone()));
                step = Step::Skip(common);
                return Ok(ControlFlow::Break(()));
            }
            *last = Some(After::Key(key.clone()));
            page.objects.push((key, ObjectRow::decode(value)?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(step)
    }
}

fn common_prefix(key: &str, query: &ListQuery) -> Option<String> {
    let delimiter = query.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty())?;
    let at = key[query.prefix.len()..].find(delimiter)?;
    Some(key[..query.prefix.len() + at + delimiter.len()].to_owned())
}
