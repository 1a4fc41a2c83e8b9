//! Fuzzes the device server: `cargo run --release -p curve-scsi --example fuzz_scsi -- [SECONDS] [SEED]`.
//!
//! Each case is a command of the table with fields of interesting values, damaged now and then, and data-out that is a
//! parameter list of the command, damaged as well. It goes to a unit of 1 MiB with two initiators, so that
//! reservations, mode parameters and unit attentions of earlier cases are in the way of later ones. No command may panic or
//! wait, an answer must be well formed, and the unit must keep its size. A panic prints the seed and the number of the
//! case; the same seed repeats the run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curve_blockdev::MemoryDevice;
use curve_scsi::opcodes::{COMMANDS, CommandSpec};
use curve_scsi::reservations::LocalReservations;
use curve_scsi::{
    Attachment, Ended, Identity, InitiatorPort, LocalAtomics, LogicalUnit, Lun, LunAddress, Nexus, Response,
    Status, TargetDevice, TargetPort, UnitOptions,
};
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const BYTES: u64 = 1 << 20;
/// A fresh target now and then, so that a reservation does not refuse everything for good.
const CASES_PER_TARGET: u64 = 200;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(10, |text| text.parse().expect("seconds are a number"));
    let seed = arguments.next().map_or_else(|| rand::rng().random(), |text| text.parse().expect("a seed"));
    let mut rng = StdRng::seed_from_u64(seed);
    let begin = Instant::now();
    let mut counts = [0u64; 3];
    let mut case = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        let initiators = fresh(&mut rng);
        for _ in 0..CASES_PER_TARGET {
            let guard = Named { seed, case };
            let status = one(&mut rng, &initiators);
            std::mem::forget(guard);
            counts[usize::from(status != Status::Good) + usize::from(status == Status::CheckCondition)] += 1;
            case += 1;
        }
    }
    let [good, other, check] = counts;
    println!("seed {seed}: {case} commands: {good} good, {check} check condition, {other} other");
}

/// Names the case when it panics.
struct Named {
    seed: u64,
    case: u64,
}

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("seed {}, case {}", self.seed, self.case);
    }
}

fn fresh(rng: &mut StdRng) -> Vec<Attachment> {
    let block_bytes = *[512, 4096].choose(rng).expect("two");
    let device = Arc::new(MemoryDevice::new(BYTES, block_bytes));
    let unit = LogicalUnit::with_seams(
        Identity::of_volume([7; 16]),
        Arc::new(LocalAtomics::new(device, 1 << 16)),
        Arc::new(LocalReservations::in_memory()),
        UnitOptions { block_bytes, read_only: rng.random_ratio(1, 20) },
    );
    let target = TargetDevice::new("iqn.2026-11.test:fuzz");
    target.insert(Lun::new(0).expect("in range"), unit.expect("a valid size"));
    let attach = |number: u8| {
        let initiator = InitiatorPort {
            name: format!("iqn.2026-11.test:{number}").into(),
            isid: [0, 0, 0, 0, 0, number],
        };
        let port = TargetPort { name: "iqn.2026-11.test:fuzz".into(), relative_id: 1, portal_group: 1 };
        target.attach(Nexus { initiator, target_port: port })
    };
    (0..2).map(attach).collect()
}

fn one(rng: &mut StdRng, initiators: &[Attachment]) -> Status {
    let spec = COMMANDS.choose(rng).expect("commands");
    let cdb = cdb(rng, spec);
    let lun = if rng.random_ratio(1, 50) { rng.random() } else { [0; 8] };
    let initiator = initiators.choose(rng).expect("two");
    let mut task = initiator.task(LunAddress::from_bytes(lun), &cdb);
    // What a command of 4 GiB would want is not sent.
    let wanted = task.data_out_len().min(1 << 21) as usize;
    if rng.random_ratio(1, 4) {
        task = task.with_expected_len(rng.random_range(0..=1 << 21));
    }
    let data = data_out(rng, wanted);
    let parts = data.chunks(rng.random_range(1..=data.len().max(1))).map(Bytes::copy_from_slice).collect();
    let ended = task.execute(parts).now_or_never().expect("a device in memory waits for nothing");
    let Ended::Completed(response) = ended else { panic!("nobody aborts {cdb:02x?}") };
    check(&cdb, &response);
    response.status
}

fn check(cdb: &[u8], response: &Response) {
    let failed = response.status == Status::CheckCondition;
    assert_eq!(failed, !response.sense.is_empty(), "{cdb:02x?}: {response:?}");
    if failed {
        assert!(matches!(response.sense[0] & 0x7f, 0x70 | 0x72), "{cdb:02x?}: {:02x?}", response.sense);
    }
    assert!(failed || response.data_in_len() <= BYTES, "{cdb:02x?} returns {} bytes", response.data_in_len());
    assert!(response.status == Status::Good || response.data_in.is_empty(), "{cdb:02x?}: {response:?}");
}

/// A CDB of the command: its fields hold numbers near 0, near the capacity, near their limits, or anything.
fn cdb(rng: &mut StdRng, spec: &CommandSpec) -> Vec<u8> {
    let mut cdb: Vec<u8> = match rng.random_range(0..4) {
        0 => spec.usage.iter().map(|_| rng.random()).collect(),
        _ => vec![0; spec.usage.len()],
    };
    for (byte, usage) in cdb.iter_mut().zip(spec.usage).skip(1) {
        if rng.random_ratio(1, 3) {
            *byte = *[0, 1, 2, 7, 8, 16, 24, 0x7f, 0xff].choose(rng).expect("values") & usage;
        }
    }
    cdb[0] = spec.opcode();
    if let Some(action) = spec.service_action {
        cdb[1] = cdb[1] & 0xe0 | action as u8 & 0x1f;
    }
    if rng.random_ratio(1, 30) {
        let at = rng.random_range(0..cdb.len());
        cdb[at] = rng.random();
    }
    if rng.random_ratio(1, 60) {
        cdb.truncate(rng.random_range(0..=cdb.len()));
    }
    cdb
}

/// Data of about the length that is wanted: small numbers, as lengths and keys in parameter lists are.
fn data_out(rng: &mut StdRng, wanted: usize) -> Vec<u8> {
    let len = match rng.random_range(0..8) {
        0 => rng.random_range(0..=wanted.max(64)),
        1 => wanted + rng.random_range(0..64),
        _ => wanted,
    };
    let mut data = vec![0; len];
    for byte in data.iter_mut().take(256) {
        if rng.random_ratio(1, 4) {
            *byte = *[0, 1, 2, 4, 8, 10, 16, 28, 32, 0x0a, 0xe4, 0xff].choose(rng).expect("values");
        }
    }
    data
}
