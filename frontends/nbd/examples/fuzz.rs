//! Fuzzes the protocol core: `cargo run --release -p curve-nbd --example fuzz -- --seconds 60`.
//!
//! Each case is a conversation as a client could have it (flags, options, requests with payloads), damaged in a few
//! places, and made from `(seed, case)` alone. It is decoded twice, whole and cut into pieces at random, and must
//!
//! 1. not panic,
//! 2. give the same replies and events both times,
//! 3. never want or hold more input than the limits say,
//! 4. let only requests through that are aligned, inside the export and of allowed length,
//! 5. get replies that a client can parse.
//!
//! A failure prints the seed and the case, which `--seed S --case N` runs again. Coverage-guided fuzzing would need a
//! nightly compiler; a generator that knows the grammar reaches the deep states without one, and the counts printed at
//! the end show that it does.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use curve_blockdev::{Allocation, DeviceShape, Extent, push_zeroes};
use curve_fuzzer::{Seen, damage, pieces};
use curve_nbd::core::{
    Catalog, Command, Errno, Event, ExportInfo, Framing, Handshake, Limits, Negotiated, OPTION_BYTES_MAX,
    Outbox, ReplyEncoder, RequestDecoder, Step, TlsPolicy,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

fn main() {
    curve_fuzzer::run("-p curve-nbd --example fuzz", case);
}

fn case(rng: &mut StdRng, seen: &mut Seen) {
    let catalog = catalog(rng);
    let tls = *[TlsPolicy::Off, TlsPolicy::Off, TlsPolicy::Required, TlsPolicy::Active].choose(rng).unwrap();
    let mut input = conversation(rng);
    damage(rng, &mut input);

    let whole = converse(&catalog, tls, &mut [&input[..]].into_iter(), seen);
    let pieces = pieces(rng, &input, &[1, 3, 30, 5000]);
    let cut = converse(&catalog, tls, &mut pieces.into_iter(), &mut Seen::default());
    // Where the clear text ends matters with TLS, and only there: the core refuses what came too early.
    if tls != TlsPolicy::Required {
        assert_eq!(whole, cut, "the cut into packets changed the outcome");
    }
}

fn catalog(rng: &mut StdRng) -> Catalog {
    let shape = DeviceShape {
        size: *[0, 4096, 1 << 20, 1 << 40, u64::MAX / 4096 * 4096].choose(rng).unwrap(),
        block_min: *[512, 4096].choose(rng).unwrap(),
        block_preferred: 4096,
        request_max: *[64 << 10, 32 << 20, u32::MAX].choose(rng).unwrap(),
        read_only: rng.random_ratio(1, 4),
    };
    let export = |name: &str| ExportInfo { name: name.to_owned(), description: "x".repeat(30), shape };
    Catalog::new(vec![export("/demo"), export("/other")])
}

// What a client sends.

fn text(name: &str) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat()
}

fn option(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    out.extend_from_slice(b"IHAVEOPT");
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

fn conversation(rng: &mut StdRng) -> Vec<u8> {
    let mut out = 3u32.to_be_bytes().to_vec();
    let name = *["", "demo", "/demo", "other", "missing", "dem\0o"].choose(rng).unwrap();
    let mut extended = false;
    for _ in 0..rng.random_range(0..6) {
        let contexts =
            [text(name), 2u32.to_be_bytes().to_vec(), text("base:allocation"), text("base:")].concat();
        match rng.random_range(0..8) {
            0 => option(&mut out, 3, b""),
            1 => option(&mut out, 6, &[text(name), vec![0, 2, 0, 1, 0, 3]].concat()),
            2 => option(&mut out, 8, b""),
            3 => {
                extended = true;
                option(&mut out, 11, b"");
            }
            4 => option(&mut out, 9, &contexts),
            5 => option(&mut out, 10, &contexts),
            6 => option(&mut out, 5, b""),
            _ => {
                let len = *[0, 10, 5000, OPTION_BYTES_MAX, OPTION_BYTES_MAX + 1].choose(rng).unwrap();
                option(&mut out, rng.random_range(0..20), &vec![7; len]);
            }
        }
    }
    match rng.random_range(0..5) {
        0 => option(&mut out, 1, name.as_bytes()),
        1 => {
            // A client that starts TLS says nothing more in the clear.
            option(&mut out, 5, b"");
            return out;
        }
        _ => option(&mut out, 7, &[text(name), vec![0, 1, 0, 3]].concat()),
    }
    for cookie in 0..rng.random_range(0..20) {
        request(rng, &mut out, extended, cookie);
    }
    out
}

fn request(rng: &mut StdRng, out: &mut Vec<u8>, extended: bool, cookie: u64) {
    let kind = rng.random_range(0..9u16);
    let mut flags: u16 = if rng.random_ratio(1, 3) { 1 << rng.random_range(0..7) } else { 0 };
    let offset: u64 = match rng.random_range(0..4) {
        0 => rng.random::<u64>() >> rng.random_range(0..64),
        _ => rng.random_range(0..200) * 4096,
    };
    let mut len: u64 = match rng.random_range(0..6) {
        0 => rng.random::<u64>() >> rng.random_range(0..64),
        1 => 0,
        _ => rng.random_range(1..20) * 4096,
    };
    let mut payload = Vec::new();
    if kind == 1 {
        len %= 200_000;
        payload = vec![cookie as u8; len as usize];
        flags |= u16::from(extended) << 5;
    } else if kind == 7 && extended && rng.random_ratio(1, 2) {
        flags |= 1 << 5;
        payload = [&len.to_be_bytes()[..], &1u32.to_be_bytes()].concat();
        len = payload.len() as u64;
    }
    out.extend_from_slice(&if extended { 0x21e4_1c71u32 } else { 0x2560_9513 }.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    if extended {
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.extend_from_slice(&(len as u32).to_be_bytes());
    }
    out.extend_from_slice(&payload);
}

// What the server makes of it.

/// Everything that can be seen of a conversation from outside.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    replies: Vec<u8>,
    end: Option<Step>,
    events: Vec<Event>,
    broken: bool,
}

fn converse(
    catalog: &Catalog,
    tls: TlsPolicy,
    pieces: &mut dyn Iterator<Item = &[u8]>,
    seen: &mut Seen,
) -> Outcome {
    let mut input = BytesMut::new();
    let mut handshake = Handshake::new(tls);
    let mut outcome = Outcome { replies: Vec::new(), end: None, events: Vec::new(), broken: false };
    loop {
        let step = handshake.advance(&mut input, catalog, &mut outcome.replies);
        match step {
            Step::NeedInput => {
                assert!(input.len() < OPTION_BYTES_MAX + 16, "the handshake holds {} bytes", input.len());
                let Some(piece) = pieces.next() else { return outcome };
                input.extend_from_slice(piece);
            }
            Step::StartTls => {
                seen.count("TLS started");
                outcome.end = Some(step);
                return outcome;
            }
            Step::Close(_) => {
                seen.count("handshake refused");
                outcome.end = Some(step);
                return outcome;
            }
            Step::Transmit(negotiated) => {
                seen.count(match negotiated.framing {
                    Framing::Simple => "simple framing",
                    Framing::Structured => "structured framing",
                    Framing::Extended => "extended framing",
                });
                outcome.end = Some(step);
                transmit(catalog, negotiated, input, pieces, &mut outcome, seen);
                return outcome;
            }
        }
    }
}

fn transmit(
    catalog: &Catalog,
    negotiated: Negotiated,
    mut input: BytesMut,
    pieces: &mut dyn Iterator<Item = &[u8]>,
    outcome: &mut Outcome,
    seen: &mut Seen,
) {
    let limits = negotiated.limits(catalog);
    let mut decoder = RequestDecoder::new(limits);
    loop {
        match decoder.next(&mut input) {
            Err(_) => {
                seen.count("framing broken");
                outcome.broken = true;
                return;
            }
            Ok(None) => {
                assert!(
                    decoder.wanted() <= (limits.payload_max as usize).max(64 << 10),
                    "{}",
                    decoder.wanted()
                );
                assert!(input.len() < decoder.wanted(), "the decoder does not take what it wanted");
                let Some(piece) = pieces.next() else { return };
                input.extend_from_slice(piece);
            }
            Ok(Some(Event::Disconnect)) => {
                seen.count("disconnect");
                return outcome.events.push(Event::Disconnect);
            }
            Ok(Some(event)) => {
                check(limits, &event, seen);
                outcome.events.push(event);
            }
        }
    }
}

/// Holds what passed to the limits, and its reply to what a client can parse.
fn check(limits: Limits, event: &Event, seen: &mut Seen) {
    let mut outbox = Outbox::default();
    let encoder = ReplyEncoder::new(limits.framing);
    let inside = |offset: u64, len: u64| {
        assert!(
            len > 0 && offset.checked_add(len).is_some_and(|end| end <= limits.size),
            "{event:?} in {limits:?}"
        );
        assert!((offset | len).is_multiple_of(u64::from(limits.block_min)), "{event:?} in {limits:?}");
    };
    match event {
        Event::Disconnect => unreachable!("it has no reply"),
        Event::Refused(refusal) => {
            seen.count("refused");
            encoder.error(&mut outbox, refusal.head, refusal.errno, refusal.reason);
        }
        Event::Request(request) => match &request.command {
            Command::Read { offset, len, may_fragment } => {
                seen.count("read");
                inside(*offset, u64::from(*len));
                assert!(*len <= limits.payload_max);
                let mut parts = vec![Bytes::from(vec![1; 512])];
                push_zeroes(&mut parts, u64::from(*len - 512));
                encoder.read(&mut outbox, request.head, parts, *may_fragment);
            }
            Command::Write { offset, data } => {
                seen.count("write");
                inside(*offset, data.len() as u64);
                assert!(data.len() <= limits.payload_max as usize && !limits.read_only);
                encoder.done(&mut outbox, request.head);
            }
            Command::Trim { offset, len, .. } | Command::WriteZeroes { offset, len, .. } => {
                seen.count("trim or zero");
                inside(*offset, *len);
                assert!(!limits.read_only);
                encoder.error(&mut outbox, request.head, Errno::NotSupported, "no");
            }
            Command::BlockStatus { offset, len, one } => {
                seen.count("block status");
                inside(*offset, *len);
                assert!(limits.allocation && *len < 1 << 32);
                let extents = [Extent { len: *len, allocation: Allocation::Hole }];
                encoder.status(&mut outbox, request.head, &extents, *one);
            }
            Command::Flush | Command::Nothing => {
                seen.count("flush or nothing");
                encoder.done(&mut outbox, request.head);
            }
        },
    }
    parse_replies(limits.framing, event, &mut outbox, seen);
}

/// Takes a reply apart as a client would; it must end where its chunks say.
fn parse_replies(framing: Framing, event: &Event, outbox: &mut Outbox, seen: &mut Seen) {
    let mut bytes = Vec::with_capacity(outbox.len());
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = outbox.slices(&mut slices);
        slices[..filled].iter().for_each(|slice| bytes.extend_from_slice(slice));
        let sent = slices[..filled].iter().map(|slice| slice.len()).sum();
        outbox.advance(sent);
    }
    let number =
        |at: usize, len: usize| bytes[at..at + len].iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    if number(0, 4) == 0x6744_6698 {
        assert_ne!(framing, Framing::Extended);
        let data = match event {
            Event::Request(request) => match request.command {
                Command::Read { len, .. } => len as usize,
                _ => 0,
            },
            _ => 0,
        };
        seen.count("simple reply");
        return assert_eq!(bytes.len(), 16 + data);
    }
    let mut at = 0;
    loop {
        let (header, payload) = match framing {
            Framing::Extended => (32, number(at + 24, 8)),
            _ => (20, number(at + 16, 4)),
        };
        let last = number(at + 4, 2) & 1 == 1;
        seen.count(match number(at + 6, 2) {
            0 => "empty chunk",
            1 => "data chunk",
            2 => "hole chunk",
            5 | 6 => "status chunk",
            0x8001 => "error chunk",
            kind => panic!("chunk of type {kind}"),
        });
        at += header + payload as usize;
        if last {
            return assert_eq!(at, bytes.len(), "bytes follow the last chunk");
        }
    }
}
