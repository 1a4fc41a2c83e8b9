//! Who a unit is and what it can: INQUIRY, VPD, REPORT LUNS, capacity, mode pages, operation codes, absent units.

use std::sync::Arc;

use bytes::Bytes;
use curve_blockdev::MemoryDevice;
use curve_scsi::opcodes::COMMANDS;
use curve_scsi::{
    AccessState, Ended, Identity, LogicalUnit, LunAddress, PortGroup, Status, TargetDevice, UnitOptions,
};

use crate::lab::{BLOCKS, Initiator, cdb10, cdb16, code, disk, lun, read16, target, write16};

#[tokio::test]
async fn every_supported_page_is_there_and_as_long_as_it_says() {
    let target = target(&[&disk(1, 512)]);
    let initiator = Initiator::login(&target, 1).await;
    let pages = initiator.good(&[0x12, 1, 0, 0, 255, 0], &[]).await;
    assert_eq!(&pages[4..], [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for page in &pages[4..] {
        let data = initiator.good(&[0x12, 1, *page, 1, 0, 0], &[]).await;
        let len = usize::from(u16::from_be_bytes([data[2], data[3]]));
        assert_eq!((data[0], data[1], data.len()), (0, *page, len + 4));
        let short = initiator.good(&[0x12, 1, *page, 0, 5, 0], &[]).await;
        assert_eq!(short, data[..5]);
    }
    assert_eq!(initiator.refused(&[0x12, 1, 0xc0, 0, 255, 0], &[]).await, (5, 0x24, 0));
    let standard = initiator.good(&[0x12, 0, 0, 0, 255, 0], &[]).await;
    assert_eq!((standard.len(), standard[4]), (96, 91));
}

#[tokio::test]
async fn capacity_is_told_in_blocks() {
    for block_bytes in [512, 4096] {
        let target = target(&[&disk(1, block_bytes)]);
        let initiator = Initiator::login(&target, 1).await;
        let ten = initiator.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
        let expected = [(BLOCKS as u32 - 1).to_be_bytes(), block_bytes.to_be_bytes()].concat();
        assert_eq!(ten, expected);
        let sixteen = initiator.good(&cdb16(0x9e, 0x10, 0, 32), &[]).await;
        assert_eq!(sixteen[..8], (BLOCKS - 1).to_be_bytes());
        assert_eq!(sixteen[8..12], block_bytes.to_be_bytes());
        assert_eq!(sixteen[14], 0xc0, "thin, and unmapped blocks read as zeros");
    }
}

#[tokio::test]
async fn more_than_32_bits_of_blocks_are_said_with_all_ones() {
    let device = Arc::new(MemoryDevice::new(4 << 40, 512));
    let options = UnitOptions { block_bytes: 512, read_only: true };
    let unit = LogicalUnit::new(Identity::of_volume([1; 16]), device, options).expect("a valid size");
    let target = TargetDevice::new("iqn.2026-11.test:large");
    target.insert(lun(0), unit);
    let initiator = Initiator::login(&target, 1).await;
    let ten = initiator.good(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
    assert_eq!(ten[..4], [0xff; 4]);
    let mode = initiator.good(&[0x1a, 0, 0x0a, 0, 255, 0], &[]).await;
    assert_eq!(mode[2] & 0x80, 0x80, "write protected");
    assert_eq!(mode[4..8], [0xff; 4]);
    assert_eq!(initiator.refused(&write16(0, 1), &[0; 512]).await, (7, 0x27, 0));
    assert_eq!(initiator.good(&read16((8 << 30) - 1, 1), &[]).await, vec![0; 512]);
}

#[tokio::test]
async fn units_are_listed_and_absent_ones_say_so() {
    let (one, two) = (disk(1, 512), disk(2, 512));
    let target = target(&[&one]);
    target.insert(lun(300), two.unit.clone());
    let initiator = Initiator::login(&target, 1).await;
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    let listed = [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0];
    assert_eq!(initiator.good(&report, &[]).await, listed);
    // Absent units, and the well known one.
    assert_eq!(initiator.send_to(5, &report, &[]).await.data_in.concat(), listed);
    let inquiry = initiator.send_to(5, &[0x12, 0, 0, 0, 96, 0], &[]).await;
    assert_eq!(inquiry.data_in.concat()[0], 0x7f);
    assert_eq!(code(&initiator.send_to(5, &[0; 6], &[]).await), Some((5, 0x25, 0)));
    let sense = initiator.send_to(5, &[3, 0, 0, 0, 18, 0], &[]).await;
    assert_eq!(sense.data_in.concat()[12], 0x25);
    let well_known = initiator.attachment.task(LunAddress::ReportLuns, &report).execute(vec![]).await;
    assert_eq!(well_known, Ended::Completed(curve_scsi::Response::data(vec![Bytes::from(listed.to_vec())])));
    assert_eq!(initiator.refused(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0], &[]).await, (5, 0x24, 0));
}

#[tokio::test]
async fn a_changed_list_of_units_is_told_until_it_is_read() {
    let (one, two) = (disk(1, 512), disk(2, 512));
    let target = target(&[&one]);
    let initiator = Initiator::login(&target, 1).await;
    target.insert(lun(1), two.unit.clone());
    assert_eq!(initiator.refused(&[0; 6], &[]).await, (6, 0x3f, 0x0e));
    target.remove(lun(1));
    initiator.good(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]).await;
    initiator.good(&[0; 6], &[]).await;
    assert_eq!(code(&initiator.send_to(1, &[0; 6], &[]).await), Some((5, 0x25, 0)));
}

#[tokio::test]
async fn request_sense_delivers_what_is_pending() {
    let target = target(&[&disk(1, 512)]);
    let initiator = Initiator::login_quietly(&target, 1);
    let pending = initiator.good(&[3, 1, 0, 0, 252, 0], &[]).await;
    assert_eq!(pending, [0x72, 6, 0x29, 0, 0, 0, 0, 0]);
    let nothing = initiator.good(&[3, 0, 0, 0, 252, 0], &[]).await;
    assert_eq!((nothing[0], nothing[2], nothing.len()), (0x70, 0, 18));
}

#[tokio::test]
async fn mode_parameters_change_for_everybody_until_a_reset() {
    let target = target(&[&disk(1, 512)]);
    let (one, two) = (Initiator::login(&target, 1).await, Initiator::login(&target, 2).await);
    let sense = [0x1a, 0x08, 0x0a, 0, 255, 0];
    let mut page = one.good(&sense, &[]).await;
    assert_eq!(page.len(), 16);
    page[0] = 0;
    page[4 + 2] |= 0x04;
    page[4 + 4] |= 0x08;
    one.good(&[0x15, 0x10, 0, 0, 16, 0], &page).await;
    assert_eq!(one.good(&sense, &[]).await[4..], page[4..]);
    let refused = one.send(&write16(0, 1), &[0; 512]).await;
    assert_eq!(refused.sense[..4], [0x72, 7, 0x27, 0x02], "software write protect, descriptor format");
    assert_eq!(two.send(&[0; 6], &[]).await.sense[..4], [0x72, 6, 0x2a, 0x01]);
    one.attachment.reset_unit(lun(0).into()).await.expect("there");
    for initiator in [&one, &two] {
        assert_eq!(initiator.refused(&[0; 6], &[]).await, (6, 0x29, 3));
    }
    one.good(&write16(0, 1), &[0; 512]).await;
    // All pages, ten bytes, changeable, and what is not there.
    assert_eq!(one.good(&cdb10(0x5a, 0, 0x3f00_0000, 255), &[]).await.len(), 8 + 8 + 20 + 12);
    let changeable = one.good(&[0x1a, 0x08, 0x4a, 0, 255, 0], &[]).await;
    assert_eq!(changeable[4..], [0x0a, 10, 0x04, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(one.refused(&[0x1a, 0, 0xca, 0, 255, 0], &[]).await, (5, 0x39, 0));
    assert_eq!(one.refused(&[0x1a, 0, 0x11, 0, 255, 0], &[]).await, (5, 0x24, 0));
    assert_eq!(one.refused(&[0x15, 0x00, 0, 0, 16, 0], &page).await, (5, 0x24, 0));
    assert_eq!(one.refused(&[0x15, 0x10, 0, 0, 17, 0], &page).await, (5, 0x1a, 0));
}

#[tokio::test]
async fn every_listed_command_is_known_and_others_are_not() {
    let target = target(&[&disk(1, 512)]);
    let initiator = Initiator::login(&target, 1).await;
    let all = initiator.good(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], &[]).await;
    assert_eq!(all.len(), 4 + 8 * COMMANDS.len());
    for spec in COMMANDS.iter().filter(|spec| !spec.writes) {
        let mut cdb = vec![0; spec.usage.len()];
        cdb[0] = spec.opcode();
        cdb[1] = spec.service_action.unwrap_or(0) as u8;
        let response = initiator.send(&cdb, &[]).await;
        assert_ne!(code(&response), Some((5, 0x20, 0)), "{}", spec.name);
    }
    assert_eq!(initiator.refused(&[0xc0; 10], &[]).await, (5, 0x20, 0));
    let functions = initiator.good(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0], &[]).await;
    assert_eq!(functions, [0xda, 0, 0, 0]);
}

#[tokio::test]
async fn write_atomic_is_hidden_where_the_device_has_none() {
    let device = Arc::new(MemoryDevice::new(1 << 20, 4096));
    let options = UnitOptions { block_bytes: 4096, read_only: false };
    let unit = LogicalUnit::new(Identity::of_volume([1; 16]), device, options).expect("a valid size");
    let target = TargetDevice::new("iqn.2026-11.test:plain");
    target.insert(lun(0), unit);
    let initiator = Initiator::login(&target, 1).await;
    let all = initiator.good(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], &[]).await;
    assert_eq!(all.len(), 4 + 8 * (COMMANDS.len() - 1));
    let mut cdb = cdb16(0x9c, 0, 0, 0);
    cdb[13] = 1;
    assert_eq!(initiator.refused(&cdb, &[0; 4096]).await, (5, 0x20, 0));
    assert_eq!(initiator.good(&[0x12, 1, 0xb0, 0, 64, 0], &[]).await[44..48], [0; 4]);
}

#[tokio::test]
async fn port_groups_are_the_targets() {
    let target = target(&[&disk(1, 512)]);
    let initiator = Initiator::login(&target, 1).await;
    let ask = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
    let own = [0, 0, 0, 12, 0, 0x0b, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1];
    assert_eq!(initiator.good(&ask, &[]).await, own);
    let group = |id, ports: &[u16]| PortGroup {
        id,
        state: AccessState::ActiveOptimized,
        preferred: false,
        ports: ports.to_vec(),
    };
    target.set_port_groups(vec![group(7, &[1]), group(8, &[2, 3])]);
    assert_eq!(initiator.good(&ask, &[]).await.len(), 4 + 8 + 4 + 8 + 8);
    let page = initiator.good(&[0x12, 1, 0x83, 1, 0, 0], &[]).await;
    let group_designator = [0x51, 0x95, 0, 4, 0, 0, 0, 7];
    assert!(page.windows(8).any(|window| window == group_designator), "{page:02x?}");
}

#[tokio::test]
async fn start_stop_is_accepted_and_ejecting_is_not() {
    let target = target(&[&disk(1, 512)]);
    let initiator = Initiator::login(&target, 1).await;
    for cdb in [[0x1b, 0, 0, 0, 1, 0], [0x1b, 0, 0, 0, 0, 0], [0x1b, 0, 0, 0, 0x20, 0]] {
        initiator.good(&cdb, &[]).await;
    }
    assert_eq!(initiator.refused(&[0x1b, 0, 0, 0, 2, 0], &[]).await, (5, 0x24, 0));
    assert_eq!(initiator.send(&[0; 6], &[]).await.status, Status::Good);
}
