//! The bytes between two processes, one of which goes on with the other's mount.
//!
//! A message is
//!
//! | bytes | what |
//! |---|---|
//! | 1 | kind |
//! | 8 | length of the body, little-endian |
//! | … | body |
//!
//! | kind | from | body |
//! |---|---|---|
//! | 1 `HELLO` | next | 8: `"CURVEHND"`; 2: the newest version it reads; may grow |
//! | 2 `REFUSED` | both | UTF-8: why; it ends here |
//! | 3 `TERMS` | serving | 2: the version of this and of `STATE`; [`Terms`] |
//! | 4 `PREPARED` | next | nothing |
//! | 5 `STATE` | serving | [`State`]; with it travel the descriptors of `/dev/fuse` and of the door |
//! | 6 `READY` | next | nothing |
//! | 7 `GO` | serving | nothing |
//! | 8 `TAKEN` | next | nothing |
//!
//! `Terms` and `State` are `curvefs_types::wire`'s: fields in the order of their `wire_struct!` line, numbers little-endian, texts
//! and lists with a length of 4 bytes before them. A process speaks the version it was built with if the other reads it, and
//! reads all versions from [`VERSION_MIN`] on. Fields are never reordered: a new one means a new version, and a `struct` of its own for
//! the old. Any bytes are taken: nothing panics, and no length is believed before its bytes are there.

use curve_types::Sequence;
use curvefs_client::Held;
use curvefs_fuse::SessionState;
use curvefs_types::wire::{Input, Seeds, Wire, WireError};
use curvefs_types::{InodeId, PartitionId, wire_struct};
use curvefs_vfs::VfsState;
use thiserror::Error;

/// The version that is written.
pub const VERSION: u16 = 1;
/// The oldest version that is read.
pub const VERSION_MIN: u16 = 1;
/// Bytes of a body. A mount of ten million inodes has less.
pub const BODY_BYTES_MAX: u64 = 4 << 30;
/// Bytes of a body that is no [`Kind::State`].
pub const SMALL_BODY_BYTES_MAX: u64 = 1 << 20;
/// Bytes before a body.
pub const HEADER_BYTES: usize = 9;

const MAGIC: &[u8; 8] = b"CURVEHND";

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What the next process can read.
    Hello = 1,
    /// It ends here.
    Refused = 2,
    /// Which mount.
    Terms = 3,
    /// The next process can go on.
    Prepared = 4,
    /// Everything that changes.
    State = 5,
    /// The next process has it in place.
    Ready = 6,
    /// The process that served serves no more.
    Go = 7,
    /// The next process serves.
    Taken = 8,
}

const KINDS: [Kind; 8] = [
    Kind::Hello,
    Kind::Refused,
    Kind::Terms,
    Kind::Prepared,
    Kind::State,
    Kind::Ready,
    Kind::Go,
    Kind::Taken,
];

/// Bytes that are no message of ours.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FormatError {
    /// Something else talks.
    #[error("it does not speak the language of curve-fuse")]
    Magic,
    /// A kind that nobody sends.
    #[error("message {0} is not known")]
    Kind(u8),
    /// Longer than anything is.
    #[error("a message of {0} bytes is too long")]
    Long(u64),
    /// Neither older nor newer ones can be read.
    #[error("its version {0} is not known (known are {VERSION_MIN} to {VERSION})")]
    Version(u16),
    /// The body is not what it should be.
    #[error("a message is damaged: {0}")]
    Body(#[from] WireError),
}

/// What precedes a body.
pub fn header(kind: Kind, body: usize) -> [u8; HEADER_BYTES] {
    let mut header = [kind as u8; HEADER_BYTES];
    header[1..].copy_from_slice(&(body as u64).to_le_bytes());
    header
}

/// The kind, and the length of the body.
pub fn parse_header(header: &[u8; HEADER_BYTES]) -> Result<(Kind, u64), FormatError> {
    let (kind, length) = header.split_first_chunk::<1>().expect("it is longer");
    let kind = kind[0];
    let known = KINDS.into_iter().find(|known| *known as u8 == kind).ok_or(FormatError::Kind(kind))?;
    let length = u64::from_le_bytes(length.try_into().expect("8 follow"));
    let max = if known == Kind::State { BODY_BYTES_MAX } else { SMALL_BODY_BYTES_MAX };
    if length > max { Err(FormatError::Long(length)) } else { Ok((known, length)) }
}

/// The body of a `HELLO`.
pub fn hello() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// The version to speak with who says this `HELLO`.
pub fn version_for(hello: &[u8]) -> Result<u16, FormatError> {
    let rest = hello.strip_prefix(MAGIC).ok_or(FormatError::Magic)?;
    let newest = rest.first_chunk().map(|newest| u16::from_le_bytes(*newest)).ok_or(FormatError::Magic)?;
    // Older versions are read, not written.
    if newest >= VERSION { Ok(VERSION) } else { Err(FormatError::Version(newest)) }
}

/// Text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text(pub String);

impl Wire for Text {
    fn put(&self, out: &mut Vec<u8>) {
        Raw(self.0.clone().into_bytes()).put(out);
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        String::from_utf8(Raw::get(input)?.0).map(Self).map_err(|_| WireError::Value("text"))
    }

    fn sample(seeds: &mut Seeds) -> Self {
        Self(format!("é{}", seeds.number()))
    }
}

/// Bytes with their length: a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Raw(pub Vec<u8>);

impl Wire for Raw {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.0.len()).expect("texts and paths are short").put(out);
        out.extend_from_slice(&self.0);
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        let len = u32::get(input)? as usize;
        Ok(Self(input.take(len)?.to_vec()))
    }

    fn sample(seeds: &mut Seeds) -> Self {
        Self((0..seeds.below(20)).map(|_| seeds.number() as u8).collect())
    }
}

/// Which mount it is, where and how: what does not change while it is handed over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// What is mounted: `NAME` or `NAME:/DIR`.
    pub source: Text,
    /// The directory of the file system that is the root, if it is not the file system's own.
    pub top: Option<InodeId>,
    /// Where it is mounted.
    pub dir: Raw,
    /// Mount options, separated by commas.
    pub options: Text,
    /// The MDSs.
    pub mds: Vec<Text>,
    /// How long one may take to answer.
    pub mds_timeout_ms: u64,
    /// The log, if one was named.
    pub log: Option<Raw>,
    /// Where metrics are served.
    pub http: Option<Text>,
    /// The mount at the MDS.
    pub held: Held,
}

wire_struct!(Terms { source, top, dir, options, mds, mds_timeout_ms, log, http, held });

/// The next number of a change at a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number {
    /// Where.
    pub partition: PartitionId,
    /// The number.
    pub next: Sequence,
}

wire_struct!(Number { partition, next });

/// Everything that changes while a mount is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The number of the next slice of data.
    pub serial: u64,
    /// The next numbers of changes.
    pub numbers: Vec<Number>,
    /// The kernel's session.
    pub session: SessionState,
    /// Inodes and handles.
    pub vfs: VfsState,
}

wire_struct!(State { serial, numbers, session, vfs });

/// The body of `TERMS`.
pub fn put_terms(version: u16, terms: &Terms) -> Vec<u8> {
    let mut body = version.to_le_bytes().to_vec();
    terms.put(&mut body);
    body
}

/// Version and terms.
pub fn parse_terms(body: &[u8]) -> Result<(u16, Terms), FormatError> {
    let (version, rest) = body.split_first_chunk().ok_or(WireError::Short)?;
    let version = u16::from_le_bytes(*version);
    match version {
        1 => Ok((version, Terms::from_row(rest)?)),
        other => Err(FormatError::Version(other)),
    }
}

/// The state in the version of the terms.
pub fn parse_state(version: u16, body: &[u8]) -> Result<State, FormatError> {
    match version {
        1 => Ok(State::from_row(body)?),
        other => Err(FormatError::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use curve_types::Epoch;
    use curvefs_client::MountKey;
    use curvefs_types::{FsId, MountId, WriterId};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_told_is_understood(seed: u64, kind in 0usize..8, length in 0..SMALL_BODY_BYTES_MAX) {
            let terms = Terms::sample(&mut Seeds::new(seed));
            prop_assert_eq!(parse_terms(&put_terms(1, &terms)), Ok((1, terms)));
            let state = State::sample(&mut Seeds::new(seed));
            prop_assert_eq!(parse_state(1, &state.to_row()), Ok(state));
            let kind = KINDS[kind];
            prop_assert_eq!(parse_header(&header(kind, length as usize)), Ok((kind, length)));
        }

        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, start: [u8; HEADER_BYTES], seed: u64, cut: u16, flip: u16) {
            let _ = (parse_header(&start), version_for(&bytes), parse_terms(&bytes), parse_state(1, &bytes));
            let whole = State::sample(&mut Seeds::new(seed)).to_row();
            prop_assert!(parse_state(1, &whole[..usize::from(cut) % whole.len()]).is_err());
            let mut damaged = whole;
            let at = usize::from(flip) % damaged.len();
            damaged[at] ^= 1 << (flip % 8);
            let _ = parse_state(1, &damaged);
        }
    }

    #[test]
    fn versions_are_agreed_on_or_refused() {
        let of = |newest: u16| [&MAGIC[..], &newest.to_le_bytes(), b"more"].concat();
        for (hello, version) in [
            (hello(), Ok(VERSION)),
            (of(VERSION + 7), Ok(VERSION)),
            (of(0), Err(FormatError::Version(0))),
            (b"GET / HTTP/1.1".to_vec(), Err(FormatError::Magic)),
            (MAGIC.to_vec(), Err(FormatError::Magic)),
            (vec![], Err(FormatError::Magic)),
        ] {
            assert_eq!(version_for(&hello), version, "{hello:?}");
        }
        assert_eq!(parse_terms(&[9, 0]), Err(FormatError::Version(9)));
        assert_eq!(parse_state(9, &[]), Err(FormatError::Version(9)));
        assert!(parse_terms(&[9, 0]).unwrap_err().to_string().contains("version 9 is not known"));
    }

    #[test]
    fn long_messages_are_refused() {
        for (kind, length, good) in [
            (Kind::Hello, SMALL_BODY_BYTES_MAX, true),
            (Kind::Hello, SMALL_BODY_BYTES_MAX + 1, false),
            (Kind::State, BODY_BYTES_MAX, true),
            (Kind::State, u64::MAX, false),
        ] {
            assert_eq!(parse_header(&header(kind, length as usize)).is_ok(), good, "{kind:?} {length}");
        }
        assert_eq!(parse_header(&[0; HEADER_BYTES]), Err(FormatError::Kind(0)));
    }

    /// Version 1 as it was released: a newer program has to read it.
    #[test]
    fn golden_bytes_of_version_1() {
        let key = MountKey { fs: FsId(3), mount: MountId(4), epoch: Epoch(5) };
        let terms = Terms {
            source: Text("data".into()),
            top: Some(InodeId(9)),
            dir: Raw(b"/mnt".to_vec()),
            options: Text("ro".into()),
            mds: vec![Text("a:1".into())],
            mds_timeout_ms: 5000,
            log: None,
            http: Some(Text("h:2".into())),
            held: Held { key, writer: WriterId(6) },
        };
        let number = |number: u64| number.to_le_bytes().to_vec();
        let text = |text: &str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
        let golden = [
            vec![1, 0],
            text("data"),
            vec![1],
            number(9),
            text("/mnt"),
            text("ro"),
            vec![1, 0, 0, 0],
            text("a:1"),
            number(5000),
            vec![0],
            vec![1],
            text("h:2"),
            key.fs.to_row(),
            number(4),
            number(5),
            number(6),
        ]
        .concat();
        assert_eq!(put_terms(1, &terms), golden);
        assert_eq!(parse_terms(&golden), Ok((1, terms)));
        let state = State {
            serial: 7,
            numbers: vec![Number { partition: PartitionId(2), next: Sequence(8) }],
            session: SessionState { agreed: Default::default(), waits: vec![] },
            vfs: VfsState::default(),
        };
        let golden = [
            number(7),
            vec![1, 0, 0, 0, 2, 0, 0, 0],
            number(8),
            // The session: what was agreed, no waits.
            vec![0; 38 + 4],
            // No inodes, no handles.
            vec![0; 8 + 3 * 4],
        ]
        .concat();
        assert_eq!(state.to_row(), golden);
        assert_eq!(parse_state(1, &golden), Ok(state));
    }
}
