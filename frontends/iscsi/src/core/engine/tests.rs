use std::io::IoSlice;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::core::catalog::{Access, Portal, TargetEntry};
use crate::core::digest::Digests;
use crate::core::engine::tasks::MEMORY_BYTES_MAX;
use crate::core::pdu::PduDecoder;

mod data;
mod management;
mod numbers;
mod text;

/// A task is the first byte of its CDB, and so is its handle.
type Machine = Engine<u8, u8>;

const LUN: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];

/// The machine, and the initiator's side of it.
struct Harness {
    engine: Machine,
    out: Outbox,
    /// Bytes that the next command wants; what it announces if absent.
    wanted: Option<u64>,
    actions: Vec<Action<u8, u8>>,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a good name")
}

fn params() -> SessionParams {
    SessionParams {
        initial_r2t: false,
        immediate_data: true,
        send_data_max: 512,
        burst_max: 1024,
        first_burst_max: 512,
        outstanding_r2t: 1,
        digests: Digests::default(),
    }
}

fn catalog() -> Arc<Catalog> {
    let target =
        |text: &str| TargetEntry { name: name(text), alias: None, access: Access::All, credentials: None };
    Arc::new(Catalog {
        targets: vec![target("iqn.t:a"), target("iqn.t:b")],
        portals: vec![Portal { address: None, group: 1 }],
        discovery: None,
    })
}

impl Harness {
    fn new() -> Self {
        Self::with(SessionKind::Normal, params())
    }

    fn with(kind: SessionKind, params: SessionParams) -> Self {
        let established = Established {
            kind,
            initiator: name("iqn.i:a"),
            isid: [1; 6],
            cid: 1,
            target: Some(0),
            params,
            first_command: Serial(1),
            first_status: Serial(100),
        };
        let parties = Parties {
            initiator: name("iqn.i:a"),
            target: (kind == SessionKind::Normal).then(|| name("iqn.t:a")),
            local: "10.0.0.1:3260".to_owned(),
        };
        let engine = Engine::new(&established, parties);
        Self { engine, out: Outbox::default(), wanted: None, actions: Vec::new() }
    }

    /// Sends a PDU and collects what it leads to.
    fn send(&mut self, pdu: Pdu) -> Result<(), Violation> {
        let wanted = self.wanted;
        let enter = |command: &Command| Entered {
            task: command.cdb[0],
            abort: command.cdb[0],
            wanted: wanted.unwrap_or(u64::from(command.expected_len)),
        };
        let result = self.engine.receive(pdu, catalog, enter, &mut self.out);
        self.collect();
        result
    }

    fn good(&mut self, pdu: Pdu) {
        self.send(pdu).expect("no violation");
    }

    fn collect(&mut self) {
        self.actions.extend(std::iter::from_fn(|| self.engine.next_action()));
    }

    fn complete(&mut self, itt: u32, status: u8, data: &[usize]) {
        let data = data.iter().map(|len| Bytes::from(vec![7; *len])).collect();
        let sense = if status == 2 { Bytes::from_static(&[0x70; 18]) } else { Bytes::new() };
        self.engine.complete(itt, Outcome::Completed(Answer { status, sense, data }), &mut self.out);
        self.collect();
    }

    /// The tags of commands that are to be executed, and how much data each has.
    fn executing(&mut self) -> Vec<(u32, usize)> {
        let actions = std::mem::take(&mut self.actions);
        let executing = actions.into_iter().filter_map(|action| match action {
            Action::Execute { itt, data, .. } => Some((itt, data.iter().map(Bytes::len).sum())),
            Action::Manage { .. } => None,
        });
        executing.collect()
    }

    /// The PDUs that came back.
    fn answers(&mut self) -> Vec<Pdu> {
        let mut input = BytesMut::new();
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let filled = self.out.slices(&mut slices);
            let before = input.len();
            slices[..filled].iter().for_each(|slice| input.extend_from_slice(slice));
            self.out.advance(input.len() - before);
        }
        let mut decoder = PduDecoder::new(Digests::default(), (1 << 24) - 1);
        std::iter::from_fn(|| decoder.next(&mut input).expect("they are well formed")).collect()
    }

    fn answer(&mut self) -> Pdu {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }
}

/// A PDU with these fields and data.
fn pdu(fields: &[(usize, &[u8])], data: &[u8]) -> Pdu {
    let mut bhs = [0; 48];
    for (at, field) in fields {
        bhs[*at..*at + field.len()].copy_from_slice(field);
    }
    Pdu { bhs, ahs: Bytes::new(), data: Bytes::copy_from_slice(data) }
}

const READ: u8 = 0xc0;
const WRITE: u8 = 0xa0;
const WRITE_MORE: u8 = 0x20;

/// A command with the tag and number `itt`.
fn command(flags: u8, itt: u32, expected: u32, data: &[u8]) -> Pdu {
    pdu(
        &[
            (0, &[0x01, flags | 1]),
            (8, &LUN),
            (16, &itt.to_be_bytes()),
            (20, &expected.to_be_bytes()),
            (24, &itt.to_be_bytes()),
            (32, &[itt as u8]),
        ],
        data,
    )
}

fn field(pdu: &Pdu, at: usize) -> u32 {
    u32::from_be_bytes(*pdu.bhs[at..].first_chunk().expect("inside"))
}

fn opcodes(pdus: &[Pdu]) -> Vec<u8> {
    pdus.iter().map(|pdu| pdu.bhs[0]).collect()
}
