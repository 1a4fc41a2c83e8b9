use bytes::BytesMut;
use curve_blockdev::ZeroMode;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::{collection, prop_assert, prop_assert_eq};

use super::{
    Command, DRAIN_BYTES_MAX, EXTENDED_REQUEST_MAGIC, Errno, Event, Framing, Limits, REQUEST_MAGIC, Refusal,
    Request, RequestDecoder, Violation, cmd, flag,
};

const LIMITS: Limits = Limits {
    framing: Framing::Structured,
    allocation: true,
    size: 1 << 20,
    block_min: 4096,
    payload_max: 64 << 10,
    read_only: false,
};
const EXTENDED: Limits = Limits { framing: Framing::Extended, ..LIMITS };

/// A request as a client would write it.
#[derive(Clone, Debug)]
struct Raw {
    flags: u16,
    kind: u16,
    offset: u64,
    len: u64,
    payload: Vec<u8>,
}

fn raw(kind: u16, flags: u16, offset: u64, len: u64) -> Raw {
    Raw { flags, kind, offset, len, payload: Vec::new() }
}

fn write(flags: u16, offset: u64, len: u64) -> Raw {
    Raw { payload: vec![0x5a; len as usize], ..raw(cmd::WRITE, flags, offset, len) }
}

fn status_payload(offset: u64, range: u64, ids: &[u32]) -> Raw {
    let mut payload = range.to_be_bytes().to_vec();
    ids.iter().for_each(|id| payload.extend_from_slice(&id.to_be_bytes()));
    Raw {
        payload: payload.clone(),
        ..raw(cmd::BLOCK_STATUS, flag::PAYLOAD_LEN, offset, payload.len() as u64)
    }
}

fn bytes(framing: Framing, cookie: u64, raw: &Raw) -> Vec<u8> {
    let extended = framing == Framing::Extended;
    let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend_from_slice(&raw.flags.to_be_bytes());
    bytes.extend_from_slice(&raw.kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&raw.offset.to_be_bytes());
    if extended {
        bytes.extend_from_slice(&raw.len.to_be_bytes());
    } else {
        bytes.extend_from_slice(&(raw.len as u32).to_be_bytes());
    }
    bytes.extend_from_slice(&raw.payload);
    bytes
}

fn decode(limits: Limits, raw: &Raw) -> Event {
    let mut input = BytesMut::from(&bytes(limits.framing, 77, raw)[..]);
    let event = RequestDecoder::new(limits).next(&mut input).expect("no violation").expect("a whole request");
    assert!(input.is_empty(), "{} bytes are left of {raw:?}", input.len());
    event
}

fn command(limits: Limits, raw: &Raw) -> Command {
    match decode(limits, raw) {
        Event::Request(Request { head, command }) => {
            assert_eq!((head.cookie, head.offset, head.is_read), (77, raw.offset, raw.kind == cmd::READ));
            command
        }
        other => panic!("{raw:?} gave {other:?}"),
    }
}

fn refused(limits: Limits, raw: &Raw) -> Errno {
    match decode(limits, raw) {
        Event::Refused(Refusal { head, errno, .. }) => {
            assert_eq!(head.cookie, 77);
            errno
        }
        other => panic!("{raw:?} gave {other:?}"),
    }
}

#[test]
fn good_requests() {
    let zero = |keep_allocated, fast_only| ZeroMode { keep_allocated, fast_only };
    let (offset, len) = (4096, 8192);
    let table = [
        (raw(cmd::READ, 0, 4096, 8192), Command::Read { offset, len: 8192, may_fragment: true }),
        (raw(cmd::READ, flag::DF, 4096, 8192), Command::Read { offset, len: 8192, may_fragment: false }),
        (raw(cmd::READ, flag::FUA, 4096, 8192), Command::Read { offset, len: 8192, may_fragment: true }),
        (write(0, 4096, 8192), Command::Write { offset, data: vec![0x5a; 8192].into() }),
        (write(flag::FUA, 4096, 8192), Command::Write { offset, data: vec![0x5a; 8192].into() }),
        (raw(cmd::FLUSH, 0, 0, 0), Command::Flush),
        (raw(cmd::FLUSH, flag::FUA, 0, 0), Command::Flush),
        (raw(cmd::TRIM, 0, 4096, 8192), Command::Trim { offset, len, fua: false }),
        (raw(cmd::TRIM, flag::FUA, 4096, 8192), Command::Trim { offset, len, fua: true }),
        (
            raw(cmd::WRITE_ZEROES, 0, 4096, 8192),
            Command::WriteZeroes { offset, len, mode: zero(false, false), fua: false },
        ),
        (
            raw(cmd::WRITE_ZEROES, flag::NO_HOLE | flag::FAST_ZERO | flag::FUA, 4096, 8192),
            Command::WriteZeroes { offset, len, mode: zero(true, true), fua: true },
        ),
        (raw(cmd::CACHE, 0, 4096, 8192), Command::Nothing),
        (raw(cmd::BLOCK_STATUS, 0, 4096, 8192), Command::BlockStatus { offset, len, one: false }),
        (raw(cmd::BLOCK_STATUS, flag::REQ_ONE, 4096, 8192), Command::BlockStatus { offset, len, one: true }),
        // Ranges of no bytes, also at the very end.
        (raw(cmd::READ, 0, 1 << 20, 0), Command::Nothing),
        (write(0, 1 << 20, 0), Command::Nothing),
        (raw(cmd::TRIM, 0, 4096, 0), Command::Nothing),
        // The whole export.
        (raw(cmd::TRIM, 0, 0, 1 << 20), Command::Trim { offset: 0, len: 1 << 20, fua: false }),
    ];
    for (raw, expected) in table {
        assert_eq!(command(LIMITS, &raw), expected);
        if raw.kind != cmd::WRITE {
            assert_eq!(command(EXTENDED, &raw), expected);
        }
    }
}

#[test]
fn refused_requests_get_the_protocols_error() {
    let read_only = Limits { read_only: true, ..LIMITS };
    let simple = Limits { framing: Framing::Simple, ..LIMITS };
    let no_context = Limits { allocation: false, ..LIMITS };
    let size = LIMITS.size;
    let table = [
        // Unknown commands and flags.
        (LIMITS, raw(8, 0, 0, 0), Errno::Invalid),
        (LIMITS, raw(0xffff, 0, 0, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::READ, flag::NO_HOLE, 0, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::READ, 1 << 15, 0, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::READ, flag::PAYLOAD_LEN, 0, 4096), Errno::Invalid),
        (simple, raw(cmd::READ, flag::DF, 0, 4096), Errno::Invalid),
        (LIMITS, write(flag::DF, 0, 4096), Errno::Invalid),
        (LIMITS, write(flag::PAYLOAD_LEN, 0, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::TRIM, flag::FAST_ZERO, 0, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::FLUSH, flag::REQ_ONE, 0, 0), Errno::Invalid),
        // Out of range.
        (LIMITS, raw(cmd::READ, 0, size, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::READ, 0, u64::MAX - 4095, 8192), Errno::Invalid),
        (LIMITS, write(0, size - 4096, 8192), Errno::NoSpace),
        (LIMITS, write(0, u64::MAX - 4095, 4096), Errno::NoSpace),
        (LIMITS, raw(cmd::WRITE_ZEROES, 0, size, 4096), Errno::NoSpace),
        (LIMITS, raw(cmd::TRIM, 0, size, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::CACHE, 0, size, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::BLOCK_STATUS, 0, size, 4096), Errno::Invalid),
        (EXTENDED, raw(cmd::TRIM, 0, 0, u64::MAX), Errno::Invalid),
        // Unaligned.
        (LIMITS, raw(cmd::READ, 0, 512, 4096), Errno::Invalid),
        (LIMITS, raw(cmd::READ, 0, 4096, 512), Errno::Invalid),
        (LIMITS, write(0, 4096, 511), Errno::Invalid),
        (LIMITS, raw(cmd::TRIM, 0, 1, 4096), Errno::Invalid),
        // Oversize.
        (LIMITS, raw(cmd::READ, 0, 0, (64 << 10) + 4096), Errno::Invalid),
        (LIMITS, write(0, 0, (64 << 10) + 4096), Errno::Invalid),
        (EXTENDED, raw(cmd::READ, 0, 0, 1 << 40), Errno::Invalid),
        // Read-only.
        (read_only, write(0, 0, 4096), Errno::NotPermitted),
        (read_only, raw(cmd::TRIM, 0, 0, 4096), Errno::NotPermitted),
        (read_only, raw(cmd::WRITE_ZEROES, 0, 0, 4096), Errno::NotPermitted),
        // Block status.
        (LIMITS, raw(cmd::BLOCK_STATUS, 0, 0, 0), Errno::Invalid),
        (no_context, raw(cmd::BLOCK_STATUS, 0, 0, 4096), Errno::Invalid),
        (EXTENDED, status_payload(0, 0, &[1]), Errno::Invalid),
        (EXTENDED, status_payload(0, 4096, &[]), Errno::Invalid),
        (EXTENDED, status_payload(0, 4096, &[2]), Errno::Invalid),
        (EXTENDED, status_payload(0, 4096, &[1, 1]), Errno::Invalid),
        (EXTENDED, status_payload(0, size + 4096, &[1]), Errno::Invalid),
        (EXTENDED, status_payload(0, 4096, &[1; 100]), Errno::Invalid),
    ];
    for (limits, raw, errno) in table {
        assert_eq!(refused(limits, &raw), errno, "{raw:?}");
    }
}

#[test]
fn extended_requests_announce_their_payload() {
    let data = vec![0x5a; 4096];
    assert_eq!(
        command(EXTENDED, &write(flag::PAYLOAD_LEN, 0, 4096)),
        Command::Write { offset: 0, data: data.clone().into() }
    );
    // Against the rules, but clear.
    assert_eq!(
        command(EXTENDED, &write(0, 0, 4096)),
        Command::Write { offset: 0, data: data.clone().into() }
    );
    assert_eq!(
        command(EXTENDED, &status_payload(4096, 8192, &[1])),
        Command::BlockStatus { offset: 4096, len: 8192, one: false }
    );
    // A payload where none belongs is thrown away.
    let trim = Raw { payload: data, ..raw(cmd::TRIM, flag::PAYLOAD_LEN, 0, 4096) };
    assert_eq!(refused(EXTENDED, &trim), Errno::Invalid);
    let odd = Raw { payload: vec![0; 13], ..raw(cmd::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 13) };
    assert_eq!(refused(EXTENDED, &odd), Errno::Invalid);
}

#[test]
fn a_block_status_looks_at_less_than_4_gib() {
    let large = Limits { size: 64 << 40, ..EXTENDED };
    let len = (4 << 30) - 4096;
    assert_eq!(
        command(large, &raw(cmd::BLOCK_STATUS, 0, 0, 64 << 40)),
        Command::BlockStatus { offset: 0, len, one: false }
    );
    assert!(u32::try_from(len).is_ok(), "a compact descriptor can say it");
}

#[test]
fn a_refused_payload_is_drained_without_being_held() {
    let mut decoder = RequestDecoder::new(Limits { read_only: true, ..LIMITS });
    let header = bytes(LIMITS.framing, 1, &raw(cmd::WRITE, 0, 0, DRAIN_BYTES_MAX));
    let mut input = BytesMut::from(&header[..]);
    for _ in 0..DRAIN_BYTES_MAX / (1 << 20) {
        assert_eq!(decoder.next(&mut input), Ok(None));
        assert!(input.is_empty());
        assert!(decoder.wanted() <= 64 << 10);
        input.extend_from_slice(&vec![0; 1 << 20]);
    }
    assert!(matches!(decoder.next(&mut input), Ok(Some(Event::Refused(_)))));
    input.extend_from_slice(&bytes(LIMITS.framing, 2, &raw(cmd::FLUSH, 0, 0, 0)));
    assert!(matches!(decoder.next(&mut input), Ok(Some(Event::Request(_)))), "the connection lives on");
}

#[test]
fn what_cannot_be_understood_ends_the_connection() {
    let mut input = BytesMut::from(&[0u8; 28][..]);
    assert_eq!(RequestDecoder::new(LIMITS).next(&mut input), Err(Violation::Magic(0)));
    let compact = bytes(Framing::Structured, 1, &raw(cmd::FLUSH, 0, 0, 0));
    let mut input = BytesMut::from(&[compact, vec![0; 4]].concat()[..]);
    assert_eq!(RequestDecoder::new(EXTENDED).next(&mut input), Err(Violation::Magic(REQUEST_MAGIC)));
    let huge = raw(cmd::WRITE, 0, 0, DRAIN_BYTES_MAX + 1);
    let mut input = BytesMut::from(&bytes(LIMITS.framing, 1, &huge)[..]);
    assert_eq!(RequestDecoder::new(LIMITS).next(&mut input), Err(Violation::Payload(DRAIN_BYTES_MAX + 1)));
}

#[test]
fn disconnect() {
    assert_eq!(decode(LIMITS, &raw(cmd::DISC, 0, 0, 0)), Event::Disconnect);
    assert_eq!(decode(EXTENDED, &raw(cmd::DISC, 0, 0, 0)), Event::Disconnect);
}

fn some_request() -> impl Strategy<Value = Raw> {
    let edge = prop_oneof![
        (0u64..300).prop_map(|blocks| blocks * 4096),
        Just(u64::MAX - 4095),
        any::<u64>(),
        (0u64..1 << 21),
    ];
    let len = prop_oneof![(0u64..40).prop_map(|blocks| blocks * 4096), 0u64..100_000];
    (0u16..10, prop_oneof![Just(0u16), Just(1), 0u16..64, any::<u16>()], edge, len).prop_map(
        |(kind, flags, offset, len)| {
            let raw = raw(kind, flags, offset, len);
            if kind == cmd::WRITE { Raw { payload: vec![1; len as usize], ..raw } } else { raw }
        },
    )
}

proptest! {
    /// However a stream of requests is cut into packets, the same events come out, in order, and none is lost; and what
    /// passes is aligned and inside the export.
    #[test]
    fn the_cut_into_packets_makes_no_difference(
        requests in collection::vec(some_request(), 1..12),
        cuts in collection::vec(1usize..5000, 1..20),
    ) {
        let requests: Vec<Raw> = requests.into_iter().filter(|raw| raw.kind != cmd::DISC).collect();
        let stream: Vec<u8> =
            requests.iter().enumerate().flat_map(|(i, raw)| bytes(LIMITS.framing, i as u64, raw)).collect();
        let mut decoder = RequestDecoder::new(LIMITS);
        let mut input = BytesMut::new();
        let mut rest = &stream[..];
        let mut cuts = cuts.into_iter().cycle();
        let mut cookies = Vec::new();
        loop {
            while let Some(event) = decoder.next(&mut input).expect("the framing is right") {
                match event {
                    Event::Request(Request { head, command }) => {
                        cookies.push(head.cookie);
                        if let Command::Read { offset, len, .. } = command {
                            prop_assert!(offset + u64::from(len) <= LIMITS.size && offset % 4096 == 0);
                        }
                        if let Command::Write { offset, data } = command {
                            prop_assert!(offset + data.len() as u64 <= LIMITS.size && data.len() % 4096 == 0);
                        }
                    }
                    Event::Refused(refusal) => cookies.push(refusal.head.cookie),
                    Event::Disconnect => prop_assert!(false, "nobody disconnected"),
                }
            }
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at(rest.len().min(cuts.next().expect("cycles")));
            input.extend_from_slice(piece);
            rest = left;
        }
        prop_assert_eq!(cookies, (0..requests.len() as u64).collect::<Vec<_>>());
    }

    /// Garbage ends in an error or in events, never in a panic.
    #[test]
    fn garbage_is_survived(garbage in collection::vec(any::<u8>(), 0..4096), extended in any::<bool>()) {
        let limits = if extended { EXTENDED } else { LIMITS };
        let mut decoder = RequestDecoder::new(limits);
        let mut input = BytesMut::from(&garbage[..]);
        while let Ok(Some(_)) = decoder.next(&mut input) {}
        prop_assert!(decoder.wanted() <= limits.payload_max as usize);
    }
}
