//! A target with units over memory, and initiators that send it commands.

use std::sync::Arc;

use bytes::Bytes;
use curve_blockdev::{FaultRates, Faulty, MemoryDevice};
use curve_scsi::reservations::LocalReservations;
use curve_scsi::{
    Attachment, Ended, Identity, InitiatorPort, LocalAtomics, LogicalUnit, Lun, Nexus, Response, Status,
    TargetDevice, TargetPort, UnitOptions,
};

/// Blocks of a unit.
pub const BLOCKS: u64 = 8192;

/// A unit over memory behind a device that can be made to fail.
pub struct Disk {
    pub unit: Arc<LogicalUnit>,
    pub memory: Arc<MemoryDevice>,
    pub faulty: Arc<Faulty<MemoryDevice>>,
}

/// Makes a unit; `number` tells it from others.
pub fn disk(number: u8, block_bytes: u32) -> Disk {
    let memory = Arc::new(MemoryDevice::new(BLOCKS * u64::from(block_bytes), block_bytes));
    let faulty = Arc::new(Faulty::new(memory.clone(), 1, FaultRates::default()));
    let unit = LogicalUnit::with_seams(
        Identity::of_volume([number; 16]),
        Arc::new(LocalAtomics::new(faulty.clone(), 1 << 20)),
        Arc::new(LocalReservations::in_memory()),
        UnitOptions { block_bytes, read_only: false },
    );
    Disk { unit: unit.expect("a valid size"), memory, faulty }
}

/// A target with units 0, 1, …
pub fn target(disks: &[&Disk]) -> Arc<TargetDevice> {
    let target = TargetDevice::new("iqn.2026-11.test:target");
    for (number, disk) in (0..).zip(disks) {
        target.insert(lun(number), disk.unit.clone());
    }
    target
}

pub fn lun(number: u16) -> Lun {
    Lun::new(number).expect("in range")
}

/// An initiator that has seen its first unit attentions.
pub struct Initiator {
    pub attachment: Attachment,
}

impl Initiator {
    /// Logs in, and clears what is pending on each unit.
    pub async fn login(target: &Arc<TargetDevice>, number: u8) -> Self {
        let initiator = Self::login_quietly(target, number);
        for (lun, _) in target.units() {
            let first = initiator.send_to(lun.number(), &[0; 6], &[]).await;
            assert_eq!(code(&first), Some((6, 0x29, 0)), "a new nexus hears that the unit was switched on");
        }
        initiator
    }

    /// Logs in and does nothing else.
    pub fn login_quietly(target: &Arc<TargetDevice>, number: u8) -> Self {
        let attachment = target.attach(Nexus {
            initiator: InitiatorPort {
                name: format!("iqn.2026-11.test:{number}").into(),
                isid: [0x40, 0, 0, 0, 0, number],
            },
            target_port: TargetPort { name: target.name().into(), relative_id: 1, portal_group: 1 },
        });
        Self { attachment }
    }

    /// Sends a command to unit 0.
    pub async fn send(&self, cdb: &[u8], data_out: &[u8]) -> Response {
        self.send_to(0, cdb, data_out).await
    }

    /// Sends a command to a unit.
    pub async fn send_to(&self, number: u16, cdb: &[u8], data_out: &[u8]) -> Response {
        let task = self.attachment.task(lun(number).into(), cdb);
        let parts = data_out.chunks(1500).map(Bytes::copy_from_slice).collect();
        match task.execute(parts).await {
            Ended::Completed(response) => response,
            Ended::Aborted => panic!("nobody aborts {cdb:02x?}"),
        }
    }

    /// Sends a command that must end with GOOD, and returns its data-in.
    pub async fn good(&self, cdb: &[u8], data_out: &[u8]) -> Vec<u8> {
        let response = self.send(cdb, data_out).await;
        assert_eq!(response.status, Status::Good, "{cdb:02x?}: {:02x?}", response.sense);
        response.data_in.concat()
    }

    /// Sends a command that must end with CHECK CONDITION, and returns key, code and qualifier.
    pub async fn refused(&self, cdb: &[u8], data_out: &[u8]) -> (u8, u8, u8) {
        let response = self.send(cdb, data_out).await;
        code(&response).unwrap_or_else(|| panic!("{cdb:02x?}: {response:?}"))
    }
}

/// Key, code and qualifier of fixed format sense data.
pub fn code(response: &Response) -> Option<(u8, u8, u8)> {
    (response.status == Status::CheckCondition)
        .then(|| (response.sense[2] & 0x0f, response.sense[12], response.sense[13]))
}

/// A CDB of sixteen bytes with an LBA and a count.
pub fn cdb16(opcode: u8, flags: u8, lba: u64, count: u32) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(count.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

/// A CDB of ten bytes with an LBA and a count.
pub fn cdb10(opcode: u8, flags: u8, lba: u32, count: u16) -> Vec<u8> {
    let mut cdb = vec![opcode, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.push(0);
    cdb.extend(count.to_be_bytes());
    cdb.push(0);
    cdb
}

/// WRITE(16)
pub fn write16(lba: u64, count: u32) -> Vec<u8> {
    cdb16(0x8a, 0, lba, count)
}

/// READ(16)
pub fn read16(lba: u64, count: u32) -> Vec<u8> {
    cdb16(0x88, 0, lba, count)
}
