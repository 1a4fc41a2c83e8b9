use std::io::IoSlice;

use bytes::Bytes;
use curve_blockdev::{Allocation, Extent, push_zeroes};

use super::{EXTENTS_MAX, Errno, Framing, Outbox, ReplyEncoder, ReplyHead};

const READ: ReplyHead = ReplyHead { cookie: 0x1122_3344_5566_7788, offset: 0x10000, is_read: true };
const OTHER: ReplyHead = ReplyHead { is_read: false, ..READ };
const COOKIE: &str = "1122334455667788";
const AT: &str = "0000000000010000";

fn encoded(framing: Framing, encode: impl FnOnce(ReplyEncoder, &mut Outbox)) -> String {
    let mut outbox = Outbox::default();
    encode(ReplyEncoder::new(framing), &mut outbox);
    let mut slices = [IoSlice::new(&[]); 256];
    let filled = outbox.slices(&mut slices);
    let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect();
    assert_eq!(bytes.len(), outbox.len());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn success_without_data() {
    let done = |framing, head| encoded(framing, |encoder, out| encoder.done(out, head));
    let simple = format!("67446698 00000000 {COOKIE}").replace(' ', "");
    assert_eq!(done(Framing::Simple, OTHER), simple);
    assert_eq!(done(Framing::Simple, READ), simple);
    assert_eq!(done(Framing::Structured, OTHER), simple);
    assert_eq!(done(Framing::Structured, READ), format!("668e33ef00010000{COOKIE}00000000"));
    assert_eq!(done(Framing::Extended, OTHER), format!("6e8a278c00010000{COOKIE}{AT}0000000000000000"));
}

#[test]
fn errors() {
    let error = |framing| encoded(framing, |encoder, out| encoder.error(out, READ, Errno::NoSpace, "full"));
    assert_eq!(error(Framing::Simple), format!("674466980000001c{COOKIE}"));
    assert_eq!(error(Framing::Structured), format!("668e33ef00018001{COOKIE}0000000a0000001c000466756c6c"));
    assert_eq!(
        error(Framing::Extended),
        format!("6e8a278c00018001{COOKIE}{AT}000000000000000a0000001c000466756c6c")
    );
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let message = "ü".repeat(5000);
    let text = encoded(Framing::Structured, |encoder, out| encoder.error(out, READ, Errno::Io, &message));
    assert_eq!(text.len() / 2, 20 + 6 + 1024);
}

#[test]
fn reads_of_data() {
    let parts = || vec![Bytes::from_static(b"ab"), Bytes::from_static(b"cd")];
    let read = |framing| encoded(framing, |encoder, out| encoder.read(out, READ, parts(), true));
    assert_eq!(read(Framing::Simple), format!("6744669800000000{COOKIE}61626364"));
    assert_eq!(read(Framing::Structured), format!("668e33ef00010001{COOKIE}0000000c{AT}61626364"));
    assert_eq!(read(Framing::Extended), format!("6e8a278c00010001{COOKIE}{AT}000000000000000c{AT}61626364"));
}

fn with_holes() -> Vec<Bytes> {
    let mut parts = Vec::new();
    push_zeroes(&mut parts, 65536 + 2);
    parts.push(Bytes::from_static(b"a"));
    parts.push(Bytes::from_static(b"b"));
    push_zeroes(&mut parts, 3);
    parts
}

#[test]
fn holes_are_sent_as_holes() {
    let text = encoded(Framing::Structured, |encoder, out| encoder.read(out, READ, with_holes(), true));
    let hole =
        |flags: &str, at: u64, len: u32| format!("668e33ef{flags}0002{COOKIE}0000000c{at:016x}{len:08x}");
    let data = format!("668e33ef00000001{COOKIE}0000000a{:016x}6162", 0x20002);
    assert_eq!(text, [hole("0000", 0x10000, 65538), data, hole("0001", 0x20004, 3)].concat());

    let mut all = Vec::new();
    push_zeroes(&mut all, 1 << 20);
    for may_fragment in [false, true] {
        let text =
            encoded(Framing::Structured, |encoder, out| encoder.read(out, READ, all.clone(), may_fragment));
        assert_eq!(text, hole("0001", 0x10000, 1 << 20), "one hole is one chunk, fragments or not");
    }
}

#[test]
fn holes_are_sent_as_zeros_where_fragments_are_forbidden_or_unknown() {
    let text = encoded(Framing::Structured, |encoder, out| encoder.read(out, READ, with_holes(), false));
    assert_eq!(text.len() / 2, 20 + 8 + 65543);
    let text = encoded(Framing::Simple, |encoder, out| encoder.read(out, READ, with_holes(), true));
    assert_eq!(text.len() / 2, 16 + 65543);
}

#[test]
fn block_status() {
    let extents = [
        Extent { len: 8192, allocation: Allocation::Data },
        Extent { len: 4096, allocation: Allocation::Hole },
    ];
    let status = |framing, one| encoded(framing, |encoder, out| encoder.status(out, OTHER, &extents, one));
    assert_eq!(
        status(Framing::Structured, false),
        format!("668e33ef00010005{COOKIE}00000014000000010000200000000000{}", "0000100000000003")
    );
    assert_eq!(
        status(Framing::Structured, true),
        format!("668e33ef00010005{COOKIE}0000000c000000010000200000000000")
    );
    assert_eq!(
        status(Framing::Extended, false),
        format!(
            "6e8a278c00010006{COOKIE}{AT}00000000000000280000000100000002{:016x}{:016x}{:016x}{:016x}",
            8192, 0, 4096, 3
        )
    );
}

#[test]
fn block_status_has_a_limit() {
    let extents = vec![Extent { len: 4096, allocation: Allocation::Data }; EXTENTS_MAX + 1];
    let mut outbox = Outbox::default();
    ReplyEncoder::new(Framing::Structured).status(&mut outbox, OTHER, &extents, false);
    assert_eq!(outbox.len(), 20 + 4 + 8 * EXTENTS_MAX);
}
