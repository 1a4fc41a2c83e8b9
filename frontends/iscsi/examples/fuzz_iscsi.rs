//! Fuzzes the protocol core: `cargo run --release -p curve-iscsi --example fuzz_iscsi -- --seconds 60`.
//!
//! Each case is a conversation as an initiator could have it (a login, then commands, data, text, task management),
//! damaged in a few places, and made from `(seed, case)` alone. It is taken in twice, whole and cut into pieces at random,
//! and must
//!
//! 1. not panic,
//! 2. give the same answers both times,
//! 3. never want or hold more input than the limits say,
//! 4. never have more commands under way than the window and the immediate ones allow, nor more data for one than it
//!    expected,
//! 5. be answered with PDUs that an initiator can parse.
//!
//! A failure prints the seed and the case, which `--seed S --case N` runs again. The counts printed at the end show how
//! deep the generator reaches.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use curve_fuzzer::{Seen, damage, pieces};
use curve_iscsi::core::{
    Access, Account, Action, Answer, CHALLENGE_BYTES, COMMANDS_MAX, Catalog, Challenge, Command, Credentials,
    Digests, Engine, Entered, Established, IMMEDIATES_MAX, LOGIN_DATA_BYTES_MAX, Login, LoginStep, NodeName,
    Outbox, Outcome, Parties, PduDecoder, PduEncoder, Portal, RECV_DATA_BYTES_MAX, Request, Secret,
    TargetEntry, TaskOutcome,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

fn main() {
    curve_fuzzer::run("-p curve-iscsi --example fuzz_iscsi", case);
}

fn case(rng: &mut StdRng, seen: &mut Seen) {
    let mut input = conversation(rng);
    damage(rng, &mut input);
    let whole = converse(&mut [&input[..]].into_iter(), seen);
    let pieces = pieces(rng, &input, &[1, 3, 60, 5000]);
    let cut = converse(&mut pieces.into_iter(), &mut Seen::default());
    assert!(whole == cut, "the cut into packets changed the answers");
}

// What an initiator sends.

/// A PDU being written.
fn pdu(encoder: PduEncoder, out: &mut Vec<u8>, fields: &[(usize, &[u8])], data: &[u8]) {
    let mut bhs = [0; 48];
    for (at, field) in fields {
        bhs[*at..*at + field.len()].copy_from_slice(field);
    }
    let mut outbox = Outbox::default();
    encoder.push_copied(&mut outbox, &mut bhs, data);
    out.extend(drain(&mut outbox));
}

fn conversation(rng: &mut StdRng) -> Vec<u8> {
    let mut out = Vec::new();
    let target = *["iqn.t:open", "iqn.t:open", "iqn.t:open", "iqn.t:chap", "iqn.t:none"].choose(rng).unwrap();
    let session = if rng.random_ratio(1, 6) { "SessionType=Discovery" } else { "SessionType=Normal" };
    let header = rng.random_ratio(1, 3);
    let data = rng.random_ratio(1, 3);
    let digest = |on| if on { "CRC32C" } else { "None" };
    let mut keys = vec![
        format!("HeaderDigest={}", digest(header)),
        format!("DataDigest={}", digest(data)),
        format!("InitialR2T={}", ["Yes", "No"].choose(rng).unwrap()),
        format!("ImmediateData={}", ["Yes", "No"].choose(rng).unwrap()),
        format!("MaxBurstLength={}", [512, 4096, 1 << 20].choose(rng).unwrap()),
        format!("FirstBurstLength={}", [512, 4096, 1 << 20].choose(rng).unwrap()),
        format!("MaxOutstandingR2T={}", rng.random_range(0..10)),
        format!("MaxRecvDataSegmentLength={}", [512, 8192, 1 << 18].choose(rng).unwrap()),
        "X-odd=1".to_owned(),
    ];
    keys.truncate(rng.random_range(2..=keys.len()));
    let names = format!("InitiatorName=iqn.i:a\0TargetName={target}\0{session}\0");
    let plain = PduEncoder::default();
    if rng.random_ratio(1, 3) {
        let text = format!("{names}AuthMethod={}\0", ["None", "CHAP,None", "CHAP"].choose(rng).unwrap());
        pdu(plain, &mut out, &[(0, &[0x43, 0x81]), (8, &[1; 6]), (27, &[1])], text.as_bytes());
        if target == "iqn.t:chap" {
            pdu(plain, &mut out, &[(0, &[0x43, 0x00]), (8, &[1; 6]), (27, &[1])], b"CHAP_A=5,7\0");
            let text = b"CHAP_N=alice\0CHAP_R=0x00112233445566778899aabbccddeeff\0CHAP_I=1\0CHAP_C=0bAAEC\0";
            pdu(plain, &mut out, &[(0, &[0x43, 0x81]), (8, &[1; 6]), (27, &[1])], text);
        }
        let text = keys.join("\0") + "\0";
        pdu(plain, &mut out, &[(0, &[0x43, 0x87]), (8, &[1; 6]), (27, &[1])], text.as_bytes());
    } else {
        let text = names + &keys.join("\0") + "\0";
        pdu(plain, &mut out, &[(0, &[0x43, 0x87]), (8, &[1; 6]), (27, &[1])], text.as_bytes());
    }
    let encoder = PduEncoder { digests: Digests { header, data } };
    let mut number = 1;
    for itt in 1..rng.random_range(1..30u32) {
        request(rng, encoder, &mut out, itt, &mut number);
    }
    out
}

fn request(rng: &mut StdRng, encoder: PduEncoder, out: &mut Vec<u8>, itt: u32, number: &mut u32) {
    let immediate = if rng.random_ratio(1, 8) { 0x40 } else { 0 };
    let tag = itt.to_be_bytes();
    let sn = if rng.random_ratio(1, 30) { rng.random() } else { *number }.to_be_bytes();
    let lun = [0, rng.random_range(0..3), 0, 0, 0, 0, 0, 0];
    let none = [0xff; 4];
    let kind = rng.random_range(0..12);
    if kind < 9 && immediate == 0 {
        *number += 1;
    }
    let expected: u32 = *[0, 512, 4096, 70_000, 3 << 20, u32::MAX].choose(rng).unwrap();
    let attribute = rng.random_range(0..5);
    match kind {
        0..3 => {
            let fields: &[(usize, &[u8])] = &[
                (0, &[immediate | 1, 0xc0 | attribute]),
                (8, &lun),
                (16, &tag),
                (20, &expected.to_be_bytes()),
                (24, &sn),
                (32, &[rng.random()]),
            ];
            pdu(encoder, out, fields, b"");
        }
        3..6 => {
            let len = expected.min(*[0, 512, 4096].choose(rng).unwrap()) as usize;
            let last = rng.random_ratio(2, 3);
            let fields: &[(usize, &[u8])] = &[
                (0, &[immediate | 1, if last { 0xa0 } else { 0x20 } | attribute]),
                (8, &lun),
                (16, &tag),
                (20, &expected.to_be_bytes()),
                (24, &sn),
                (32, &[rng.random()]),
            ];
            pdu(encoder, out, fields, &vec![itt as u8; len]);
            data_out(rng, encoder, out, itt, len as u32, expected, last);
        }
        6 => pdu(encoder, out, &[(0, &[immediate, 0x80]), (16, &tag), (20, &none), (24, &sn)], b"ping"),
        7 => {
            let function = rng.random_range(0..10);
            let referenced = rng.random_range(0..30u32).to_be_bytes();
            let fields: &[(usize, &[u8])] = &[
                (0, &[immediate | 2, 0x80 | function]),
                (8, &lun),
                (16, &tag),
                (20, &referenced),
                (24, &sn),
            ];
            pdu(encoder, out, fields, b"");
        }
        8 => {
            let text =
                *[&b"SendTargets=All\0"[..], b"SendTargets=\0", b"MaxRecvDataSegmentLength=600\0", b"x"]
                    .choose(rng)
                    .unwrap();
            let flags = *[0x80, 0x40, 0x00].choose(rng).unwrap();
            pdu(encoder, out, &[(0, &[immediate | 4, flags]), (16, &tag), (20, &none), (24, &sn)], text);
        }
        9 => pdu(encoder, out, &[(0, &[0x40, 0x80]), (16, &none), (20, &none), (24, &sn)], b""),
        10 => pdu(encoder, out, &[(0, &[rng.random(), rng.random()]), (16, &tag), (24, &sn)], b""),
        _ if rng.random_ratio(1, 6) => {
            pdu(encoder, out, &[(0, &[0x46, 0x80 | rng.random_range(0..3)]), (16, &tag), (24, &sn)], b"");
        }
        _ => {}
    }
}

/// Data of a write, right more often than not.
fn data_out(
    rng: &mut StdRng,
    encoder: PduEncoder,
    out: &mut Vec<u8>,
    itt: u32,
    from: u32,
    expected: u32,
    last: bool,
) {
    let (mut offset, mut number) = (from, 0u32);
    let ttt = if last { rng.random_range(1..4) } else { u32::MAX };
    for _ in 0..rng.random_range(0..3) {
        let len = (expected - offset.min(expected)).min(*[512, 4096].choose(rng).unwrap());
        let fields: &[(usize, &[u8])] = &[
            (0, &[0x05, if rng.random() { 0x80 } else { 0 }]),
            (16, &itt.to_be_bytes()),
            (20, &ttt.to_be_bytes()),
            (36, &number.to_be_bytes()),
            (40, &offset.to_be_bytes()),
        ];
        pdu(encoder, out, fields, &vec![itt as u8; len as usize]);
        offset = offset.saturating_add(len);
        number += 1;
    }
}

// What the core makes of it.

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a good name")
}

fn catalog() -> Arc<Catalog> {
    let account = |user: &str, secret: &str| Account {
        user: user.to_owned(),
        secret: Secret::new(secret.as_bytes().to_vec()).expect("long enough"),
    };
    let credentials =
        Credentials::new(account("alice", "secret of alice"), Some(account("gw", "another secret")));
    let target = |text: &str, credentials| TargetEntry {
        name: name(text),
        alias: Some("alias".to_owned()),
        access: Access::All,
        credentials,
    };
    Arc::new(Catalog {
        targets: vec![target("iqn.t:open", None), target("iqn.t:chap", credentials.ok())],
        portals: vec![Portal { address: None, group: 1 }],
        discovery: None,
    })
}

fn drain(outbox: &mut Outbox) -> Vec<u8> {
    let mut all = Vec::new();
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = outbox.slices(&mut slices);
        let before = all.len();
        slices[..filled].iter().for_each(|slice| all.extend_from_slice(slice));
        outbox.advance(all.len() - before);
    }
    all
}

/// Everything that was sent.
fn converse(pieces: &mut dyn Iterator<Item = &[u8]>, seen: &mut Seen) -> Vec<u8> {
    let challenge = Challenge { id: 1, bytes: [2; CHALLENGE_BYTES] };
    let mut login = Login::new(catalog(), challenge, COMMANDS_MAX);
    let mut decoder = PduDecoder::new(Digests::default(), LOGIN_DATA_BYTES_MAX);
    let (mut input, mut out, mut sent) = (BytesMut::new(), Outbox::default(), Vec::new());
    for piece in &mut *pieces {
        input.extend_from_slice(piece);
        loop {
            bounded(&decoder, &input, LOGIN_DATA_BYTES_MAX);
            let pdu = match decoder.next(&mut input) {
                Ok(Some(pdu)) => pdu,
                Ok(None) => break,
                Err(_) => return sent,
            };
            let Ok(Request::Login(request)) = Request::decode(pdu) else { return sent };
            let step = login.handle(request, &mut out);
            match step {
                LoginStep::Continue => seen.count("login goes on"),
                LoginStep::Refused(refusal) => {
                    seen.count(format!("login refused: {refusal}"));
                    sent.extend(drain(&mut out));
                    return sent;
                }
                LoginStep::Admit(established) => {
                    seen.count("login admitted");
                    login.admit(1, &mut out);
                    sent.extend(drain(&mut out));
                    Session::new(&established).converse(input, pieces, &mut sent, seen);
                    return sent;
                }
            }
            sent.extend(drain(&mut out));
        }
    }
    sent
}

fn bounded(decoder: &PduDecoder, input: &[u8], data_max: u32) {
    let wanted = decoder.wanted(input);
    assert!(wanted <= 48 + 1020 + 4 + data_max as usize + 4, "{wanted} bytes are wanted");
}

struct Session {
    engine: Engine<Task, ()>,
    decoder: PduDecoder,
    digests: Digests,
    out: Outbox,
    /// Commands under way, the oldest first: they end in that order, a few PDUs after they came.
    executing: Vec<(u32, Task)>,
}

/// What a command is made into.
#[derive(Clone, Copy)]
struct Task {
    code: u8,
    expected: u32,
    read: bool,
}

impl Session {
    fn new(established: &Established) -> Self {
        let parties =
            Parties { initiator: established.initiator.clone(), target: None, local: "h:1".to_owned() };
        let digests = established.params.digests;
        Self {
            engine: Engine::new(established, parties),
            decoder: PduDecoder::new(digests, RECV_DATA_BYTES_MAX),
            digests,
            out: Outbox::default(),
            executing: Vec::new(),
        }
    }

    fn converse(
        mut self,
        mut input: BytesMut,
        pieces: &mut dyn Iterator<Item = &[u8]>,
        sent: &mut Vec<u8>,
        seen: &mut Seen,
    ) {
        let begin = sent.len();
        loop {
            bounded(&self.decoder, &input, RECV_DATA_BYTES_MAX);
            match self.decoder.next(&mut input) {
                Ok(Some(pdu)) => {
                    seen.count(format!("opcode {:#04x}", pdu.bhs[0] & 0x3f));
                    let enter = |command: &Command| {
                        let task =
                            Task { code: command.cdb[0], expected: command.expected_len, read: command.read };
                        Entered { task, abort: (), wanted: u64::from(command.cdb[0]) * 700 }
                    };
                    let taken = self.engine.receive(pdu, catalog, enter, &mut self.out);
                    self.act(seen);
                    sent.extend(drain(&mut self.out));
                    if let Err(violation) = taken {
                        seen.count(format!("violation: {violation}"));
                        break;
                    }
                    self.end_some(seen);
                    sent.extend(drain(&mut self.out));
                    if self.engine.is_leaving() {
                        seen.count("logout");
                        break;
                    }
                }
                Ok(None) => match pieces.next() {
                    Some(piece) => input.extend_from_slice(piece),
                    None => break,
                },
                Err(error) => {
                    seen.count(format!(
                        "framing: {}",
                        error.to_string().split(' ').take(3).collect::<Vec<_>>().join(" ")
                    ));
                    break;
                }
            }
        }
        self.engine.abandon();
        self.parse(&sent[begin..]);
    }

    fn act(&mut self, seen: &mut Seen) {
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Execute { itt, task, data } => {
                    let len: usize = data.iter().map(Bytes::len).sum();
                    assert!(len <= task.expected as usize, "{len} bytes for {}", task.expected);
                    self.executing.push((itt, task));
                    seen.count(if len > 0 { "executed with data" } else { "executed" });
                }
                Action::Manage { itt, .. } => {
                    seen.count("managed");
                    self.engine.managed(itt, TaskOutcome::Complete, &mut self.out);
                }
            }
        }
        let most = (COMMANDS_MAX + IMMEDIATES_MAX) as usize;
        assert!(self.executing.len() <= most, "{} commands are under way", self.executing.len());
    }

    /// Ends a command once a few are under way.
    fn end_some(&mut self, seen: &mut Seen) {
        while self.executing.len() > 3 {
            let (itt, task) = self.executing.remove(0);
            let outcome = match task.code % 4 {
                0 => Outcome::Aborted,
                1 => Outcome::Completed(Answer {
                    status: 2,
                    sense: Bytes::from_static(&[0x70; 18]),
                    data: vec![],
                }),
                _ => {
                    let len = if task.read { usize::from(task.code) * 100 } else { 0 };
                    let part = Bytes::from(vec![task.code; len]);
                    Outcome::Completed(Answer {
                        status: 0,
                        sense: Bytes::new(),
                        data: vec![part.clone(), part],
                    })
                }
            };
            self.engine.complete(itt, outcome, &mut self.out);
            self.act(seen);
        }
    }

    /// That an initiator understands what was sent.
    fn parse(&self, sent: &[u8]) {
        let mut decoder = PduDecoder::new(self.digests, (1 << 24) - 1);
        let mut input = BytesMut::from(sent);
        while let Some(pdu) = decoder.next(&mut input).expect("our PDUs are sound") {
            assert!(pdu.bhs[0] & 0x20 != 0, "a target does not send opcode {:#04x}", pdu.bhs[0]);
        }
        assert!(input.is_empty(), "{} bytes are left over", input.len());
    }
}
