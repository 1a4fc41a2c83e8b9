//! The data plane's frames: any bytes, cut anywhere, give the same frames or the same error.

use curve_rpc::format::{FrameError, Kind, PAYLOAD_BYTES_MAX, encode_prefix};
use curve_rpc::{Decoder, Frame};
use rand::rngs::StdRng;
use rand::{Rng, RngCore};

use crate::damage::damage;

pub fn case(random: &mut StdRng) -> &'static str {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..6) {
        bytes.extend(frame(random));
    }
    let damaged = random.random_bool(0.8);
    if damaged {
        damage(random, &mut bytes);
    }
    let whole = decode(&bytes, || bytes.len());
    let mut lengths = StdRng::clone(random);
    let pieces = decode(&bytes, || lengths.random_range(1..4096));
    assert_eq!(whole, pieces, "how the bytes are cut must not matter");
    let (frames, error) = whole;
    assert!(frames.iter().all(|frame| frame.payload.len() <= PAYLOAD_BYTES_MAX));
    assert!(damaged || error.is_none(), "valid frames were refused: {error:?}");
    match error {
        None => "accepted",
        Some(FrameError::Checksum) => "checksum",
        Some(_) => "refused",
    }
}

fn decode(bytes: &[u8], mut length: impl FnMut() -> usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut frames, mut rest) = (Decoder::new(), Vec::new(), bytes);
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => frames.push(frame),
            Err(error) => return (frames, Some(error)),
            Ok(None) if rest.is_empty() => return (frames, None),
            Ok(None) => {
                let (now, later) = rest.split_at(length().clamp(1, rest.len()));
                decoder.feed(now);
                rest = later;
            }
        }
    }
}

fn frame(random: &mut StdRng) -> Vec<u8> {
    const KINDS: [Kind; 9] = [
        Kind::Request,
        Kind::Reply,
        Kind::Dropped,
        Kind::Refused,
        Kind::Cancel,
        Kind::Ping,
        Kind::Pong,
        Kind::GoAway,
        Kind::Late,
    ];
    let kind = KINDS[random.random_range(0..KINDS.len())];
    let mut header = vec![0; random.random_range(0..80)];
    random.fill_bytes(&mut header);
    let payload_len = [0, 1, 512, 4096, 40_000][random.random_range(0..5)];
    let id = u64::from(random.random_range(0..1000u32)) | (u64::from(random.random::<u32>()) << 32);
    let mut bytes = encode_prefix(kind, random.random(), id, random.random(), &header, payload_len).to_vec();
    bytes.extend(header);
    bytes.extend(vec![0x5a; payload_len]);
    bytes
}
