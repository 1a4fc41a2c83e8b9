//! The data of the options that have some.

use super::fields::Fields;

/// The longest export name or query, in bytes: the protocol's limit for a string.
pub const NAME_BYTES_MAX: usize = 4096;
/// The longest data of an option that is looked at. A longer one is skipped and answered with `NBD_REP_ERR_TOO_BIG`.
pub const OPTION_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(OPTION_BYTES_MAX >= 4 * NAME_BYTES_MAX, "a name and some queries must fit");

/// `NBD_OPT_INFO` and `NBD_OPT_GO`: which export, and what the client wants to know of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoQuery<'a> {
    pub name: &'a str,
    pub wants_name: bool,
    pub wants_description: bool,
}

/// `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`: which export, and which contexts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextQuery<'a> {
    pub name: &'a str,
    pub queries: Vec<&'a str>,
}

/// A string as the protocol wants it: UTF-8 without NUL, and not too long.
pub(super) fn name(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= NAME_BYTES_MAX && !text.contains('\0')).then_some(text)
}

fn counted_name<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    let len = fields.u32()?;
    name(fields.bytes(usize::try_from(len).ok()?)?)
}

impl<'a> InfoQuery<'a> {
    /// `None` if the data is malformed.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        use super::wire::info;
        let mut fields = Fields::new(data);
        let mut query =
            Self { name: counted_name(&mut fields)?, wants_name: false, wants_description: false };
        for _ in 0..fields.u16()? {
            match fields.u16()? {
                info::NAME => query.wants_name = true,
                info::DESCRIPTION => query.wants_description = true,
                // The size and the block sizes are always sent; what is unknown is ignored, says the protocol.
                _ => {}
            }
        }
        fields.is_empty().then_some(query)
    }
}

impl<'a> ContextQuery<'a> {
    /// `None` if the data is malformed.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(data);
        let name = counted_name(&mut fields)?;
        let mut queries = Vec::new();
        // The count is the client's word, so nothing is reserved for it: each query takes at least 4 bytes of the data.
        for _ in 0..fields.u32()? {
            queries.push(counted_name(&mut fields)?);
        }
        fields.is_empty().then_some(Self { name, queries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_queries() {
        let all = b"\0\0\0\x04demo\0\x04\0\x01\0\x02\0\x03\xff\xff";
        assert_eq!(
            InfoQuery::parse(all),
            Some(InfoQuery { name: "demo", wants_name: true, wants_description: true })
        );
        let none = b"\0\0\0\0\0\0";
        assert_eq!(
            InfoQuery::parse(none),
            Some(InfoQuery { name: "", wants_name: false, wants_description: false })
        );
        for bad in [
            &b""[..],
            b"\0\0\0\x05demo\0\0",
            b"\0\0\0\x04demo",
            b"\0\0\0\x04demo\0\x01",
            b"\0\0\0\x04demo\0\0\0",
            b"\0\0\0\x01\xff\0\0",
            b"\0\0\0\x01\0\0\0",
            b"\xff\xff\xff\xff\0\0",
        ] {
            assert_eq!(InfoQuery::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn context_queries() {
        let two = b"\0\0\0\x01a\0\0\0\x02\0\0\0\x05base:\0\0\0\x03x:y";
        assert_eq!(ContextQuery::parse(two), Some(ContextQuery { name: "a", queries: vec!["base:", "x:y"] }));
        for bad in [&b"\0\0\0\x01a"[..], b"\0\0\0\x01a\xff\xff\xff\xff", b"\0\0\0\x01a\0\0\0\0x"] {
            assert_eq!(ContextQuery::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_have_a_limit() {
        assert!(name(&[b'x'; NAME_BYTES_MAX]).is_some());
        assert!(name(&[b'x'; NAME_BYTES_MAX + 1]).is_none());
    }
}
