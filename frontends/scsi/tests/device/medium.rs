//! Commands that touch blocks.

use curve_blockdev::{BlockError, Fault, Operation};

use crate::lab::{BLOCKS, Disk, Initiator, cdb10, cdb16, code, disk, read16, target, write16};

const LBA_OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const INVALID_FIELD_IN_CDB: (u8, u8, u8) = (5, 0x24, 0);

async fn lab(block_bytes: u32) -> (Disk, Initiator) {
    let disk = disk(1, block_bytes);
    let target = target(&[&disk]);
    let initiator = Initiator::login(&target, 1).await;
    (disk, initiator)
}

#[tokio::test]
async fn all_forms_of_read_and_write_reach_the_same_blocks() {
    for block_bytes in [512u32, 4096] {
        let (_disk, initiator) = lab(block_bytes).await;
        let block = |byte: u8| vec![byte; block_bytes as usize];
        initiator.good(&[0x0a, 0, 0, 1, 1, 0], &block(6)).await;
        initiator.good(&cdb10(0x2a, 0x18, 2, 1), &block(10)).await;
        initiator.good(&[0xaa, 0x08, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0], &block(12)).await;
        initiator.good(&write16(4, 1), &block(16)).await;
        let expected = [block(0), block(6), block(10), block(12), block(16)].concat();
        assert_eq!(initiator.good(&[0x08, 0, 0, 0, 5, 0], &[]).await, expected);
        assert_eq!(initiator.good(&cdb10(0x28, 0, 0, 5), &[]).await, expected);
        assert_eq!(initiator.good(&[0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0], &[]).await, expected);
        assert_eq!(initiator.good(&read16(0, 5), &[]).await, expected);
        let all = initiator.good(&[0x08, 0, 0, 0, 0, 0], &[]).await;
        assert_eq!(all.len(), 256 * block_bytes as usize, "0 means 256 in a CDB of six bytes");
    }
}

#[tokio::test]
async fn nothing_goes_past_the_end() {
    let (disk, initiator) = lab(512).await;
    let last = BLOCKS - 1;
    for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x93] {
        let flags = if opcode == 0x8f { 2 } else { 0 };
        for (lba, count) in [(last, 2), (BLOCKS, 1), (BLOCKS + 1, 0), (u64::MAX, 1), (1 << 32, 1)] {
            let cdb = cdb16(opcode, flags, lba, count);
            assert_eq!(initiator.refused(&cdb, &[7; 1024]).await, LBA_OUT_OF_RANGE, "{cdb:02x?}");
        }
        if opcode != 0x93 {
            initiator.good(&cdb16(opcode, flags, BLOCKS, 0), &[]).await;
        }
    }
    let status = cdb16(0x9e, 0x12, BLOCKS, 24);
    assert_eq!(initiator.refused(&status, &[]).await, LBA_OUT_OF_RANGE);
    assert_eq!(disk.memory.allocated_bytes(), 0);
}

#[tokio::test]
async fn transfers_have_a_longest() {
    let (_disk, initiator) = lab(4096).await;
    let limits = initiator.good(&[0x12, 1, 0xb0, 0, 64, 0], &[]).await;
    let longest = u32::from_be_bytes([limits[8], limits[9], limits[10], limits[11]]);
    assert_eq!(longest, (16 << 20) / 4096);
    assert_eq!(initiator.refused(&read16(0, longest + 1), &[]).await, INVALID_FIELD_IN_CDB);
    assert_eq!(initiator.good(&read16(0, longest), &[]).await.len(), 16 << 20);
}

#[tokio::test]
async fn protection_is_not_offered() {
    let (_disk, initiator) = lab(512).await;
    for opcode in [0x88, 0x8a, 0x8b, 0x8e, 0x8f, 0x93, 0x9c] {
        for protect in 1..8 {
            let cdb = cdb16(opcode, protect << 5, 0, 1);
            assert_eq!(initiator.refused(&cdb, &[0; 512]).await, INVALID_FIELD_IN_CDB, "{cdb:02x?}");
        }
    }
}

#[tokio::test]
async fn a_write_with_too_little_data_writes_what_there_is() {
    for block_bytes in [512usize, 4096] {
        let (_disk, initiator) = lab(block_bytes as u32).await;
        initiator.good(&write16(0, 2), &vec![b'a'; 2 * block_bytes]).await;
        initiator.good(&write16(0, 2), &[]).await;
        initiator.good(&write16(0, 2), &vec![b'b'; block_bytes + 200]).await;
        let mut expected = vec![b'b'; block_bytes + 200];
        expected.resize(2 * block_bytes, b'a');
        assert_eq!(initiator.good(&read16(0, 2), &[]).await, expected);
        // Too much is cut.
        initiator.good(&write16(0, 1), &vec![b'c'; 2 * block_bytes]).await;
        expected[..block_bytes].fill(b'c');
        assert_eq!(initiator.good(&read16(0, 2), &[]).await, expected);
    }
}

#[tokio::test]
async fn verify_compares() {
    let (_disk, initiator) = lab(512).await;
    let data: Vec<u8> = (0..2048u32).map(|byte| byte as u8 ^ (byte >> 8) as u8).collect();
    initiator.good(&write16(10, 4), &data).await;
    initiator.good(&cdb16(0x8f, 0, 0, BLOCKS as u32), &[]).await;
    initiator.good(&cdb16(0x8f, 2, 10, 4), &data).await;
    initiator.good(&cdb10(0x2f, 2, 10, 4), &data).await;
    let mut other = data.clone();
    other[1500] ^= 1;
    let response = initiator.send(&cdb16(0x8f, 2, 10, 4), &other).await;
    assert_eq!(code(&response), Some((0xe, 0x1d, 0)));
    assert_eq!((response.sense[0], &response.sense[3..7]), (0xf0, &1500u32.to_be_bytes()[..]));
    // One block with each.
    initiator.good(&write16(100, 3), &[5; 1536]).await;
    initiator.good(&cdb16(0x8f, 6, 100, 3), &[5; 512]).await;
    let response = initiator.send(&cdb16(0x8f, 6, 99, 4), &[5; 512]).await;
    assert_eq!((code(&response), &response.sense[3..7]), (Some((0xe, 0x1d, 0)), &[0; 4][..]));
    assert_eq!(initiator.refused(&cdb16(0x8f, 4, 0, 1), &[0; 512]).await, INVALID_FIELD_IN_CDB);
}

#[tokio::test]
async fn write_and_verify_writes() {
    let (_disk, initiator) = lab(512).await;
    initiator.good(&cdb16(0x8e, 2, 7, 2), &[3; 1024]).await;
    initiator.good(&cdb10(0x2e, 0, 9, 1), &[4; 512]).await;
    let expected = [vec![3; 1024], vec![4; 512]].concat();
    assert_eq!(initiator.good(&read16(7, 3), &[]).await, expected);
}

#[tokio::test]
async fn compare_and_write_decides_once() {
    let (_disk, initiator) = lab(512).await;
    let cdb = |lba, count: u8| {
        let mut cdb = cdb16(0x89, 0, lba, 0);
        cdb[13] = count;
        cdb
    };
    let swap = |from: u8, to: u8| [[from; 1024], [to; 1024]].concat();
    initiator.good(&cdb(5, 2), &swap(0, 1)).await;
    let mut nearly = swap(1, 2);
    nearly[700] = 9;
    let response = initiator.send(&cdb(5, 2), &nearly).await;
    assert_eq!((code(&response), &response.sense[3..7]), (Some((0xe, 0x1d, 0)), &700u32.to_be_bytes()[..]));
    assert_eq!(initiator.good(&read16(5, 2), &[]).await, [1; 1024]);
    initiator.good(&cdb(5, 2), &swap(1, 2)).await;
    assert_eq!(initiator.good(&read16(5, 2), &[]).await, [2; 1024]);
    for wrong in [1024, 1536, 2560] {
        assert_eq!(initiator.refused(&cdb(5, 2), &vec![2; wrong]).await, INVALID_FIELD_IN_CDB);
    }
    assert_eq!(initiator.refused(&cdb(BLOCKS - 1, 2), &swap(0, 1)).await, LBA_OUT_OF_RANGE);
    initiator.good(&cdb(5, 0), &[]).await;
}

#[tokio::test]
async fn orwrite_and_write_atomic() {
    let (_disk, initiator) = lab(512).await;
    initiator.good(&write16(0, 2), &[0x0f; 1024]).await;
    initiator.good(&cdb16(0x8b, 0, 0, 2), &[0xa0; 1024]).await;
    assert_eq!(initiator.good(&read16(0, 2), &[]).await, [0xaf; 1024]);
    let atomic = |count: u16, boundary: u16| {
        let mut cdb = cdb16(0x9c, 0, 0, 0);
        cdb[10..12].copy_from_slice(&boundary.to_be_bytes());
        cdb[12..14].copy_from_slice(&count.to_be_bytes());
        cdb
    };
    initiator.good(&atomic(2, 0), &[9; 1024]).await;
    assert_eq!(initiator.good(&read16(0, 2), &[]).await, [9; 1024]);
    assert_eq!(initiator.refused(&atomic(2, 1), &[9; 1024]).await, INVALID_FIELD_IN_CDB);
    assert_eq!(initiator.refused(&atomic(2049, 0), &vec![9; 2049 * 512]).await, INVALID_FIELD_IN_CDB);
    initiator.good(&atomic(2048, 0), &vec![9; 1 << 20]).await;
}

#[tokio::test]
async fn unmapping_frees_space_and_says_so() {
    let (disk, initiator) = lab(4096).await;
    initiator.good(&write16(0, 8), &[1; 8 * 4096]).await;
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, count) in [(1u64, 2u32), (5, 1)] {
        list.extend(lba.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    initiator.good(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list).await;
    assert_eq!(disk.memory.allocated_bytes(), 5 * 4096);
    assert_eq!(initiator.good(&read16(1, 2), &[]).await, [0; 8192]);
    let status = initiator.good(&cdb16(0x9e, 0x12, 0, 255), &[]).await;
    let runs: Vec<(u64, u32, u8)> = status[8..]
        .chunks_exact(16)
        .map(|run| {
            let lba = u64::from_be_bytes(run[..8].try_into().expect("eight bytes"));
            (lba, u32::from_be_bytes(run[8..12].try_into().expect("four bytes")), run[12])
        })
        .collect();
    let rest = BLOCKS as u32 - 8;
    assert_eq!(runs, [(0, 1, 0), (1, 2, 1), (3, 2, 0), (5, 1, 1), (6, 2, 0), (8, rest, 1)]);
    let one = initiator.good(&cdb16(0x9e, 0x12, 3, 24), &[]).await;
    assert_eq!((one.len(), one[3], one[8 + 7], one[8 + 11]), (24, 20, 3, 2));
    // Nothing happens where one range is wrong.
    list[8 + 16..8 + 24].copy_from_slice(&BLOCKS.to_be_bytes());
    assert_eq!(initiator.refused(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0], &list).await, LBA_OUT_OF_RANGE);
    assert_eq!(initiator.refused(&[0x42, 0, 0, 0, 0, 0, 0, 0, 41, 0], &list).await, (5, 0x1a, 0));
    assert_eq!(initiator.refused(&[0x42, 1, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await, INVALID_FIELD_IN_CDB);
    initiator.good(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).await;
}

#[tokio::test]
async fn write_same_repeats_zeroes_and_unmaps() {
    let (disk, initiator) = lab(4096).await;
    let pattern: Vec<u8> = (0..4096u32).map(|byte| byte as u8).collect();
    initiator.good(&cdb16(0x93, 0, 3, 600), &pattern).await;
    assert_eq!(initiator.good(&read16(3, 600), &[]).await, pattern.repeat(600));
    assert_eq!(initiator.good(&read16(603, 1), &[]).await, [0; 4096]);
    initiator.good(&cdb16(0x93, 0x08, 3, 100), &[0; 4096]).await;
    assert_eq!(disk.memory.allocated_bytes(), 500 * 4096);
    initiator.good(&cdb16(0x93, 0x09, 103, 100), &[]).await;
    assert_eq!(disk.memory.allocated_bytes(), 400 * 4096);
    initiator.good(&cdb10(0x41, 0, 3, 10), &[0; 4096]).await;
    assert_eq!(disk.memory.allocated_bytes(), 410 * 4096, "without UNMAP blocks are mapped");
    initiator.good(&cdb16(0x93, 0x08, 203, 1), &pattern).await;
    assert_eq!(initiator.good(&read16(203, 1), &[]).await, pattern, "a pattern is never unmapped");
    assert_eq!(initiator.refused(&cdb16(0x93, 0, 0, 0), &pattern).await, INVALID_FIELD_IN_CDB);
    assert_eq!(initiator.refused(&cdb16(0x93, 0x18, 0, 1), &pattern).await, INVALID_FIELD_IN_CDB);
    for wrong in [2048, 8192] {
        assert_eq!(initiator.refused(&cdb16(0x93, 0, 0, 1), &vec![0; wrong]).await, INVALID_FIELD_IN_CDB);
    }
}

#[tokio::test]
async fn what_the_device_says_is_told() {
    let (disk, initiator) = lab(512).await;
    for (error, sense) in [
        (BlockError::NoSpace, (7, 0x27, 0x07)),
        (BlockError::Fenced, (2, 0x04, 0x0c)),
        (BlockError::TimedOut { seconds: 1 }, (0xb, 0x08, 1)),
    ] {
        disk.faulty.fail_next(Operation::Write, Fault::Refuse(error));
        assert_eq!(initiator.refused(&write16(0, 1), &[1; 512]).await, sense);
    }
    disk.faulty.fail_next(Operation::Read, Fault::Refuse(BlockError::Corrupt { offset: 7 * 512, len: 512 }));
    let response = initiator.send(&read16(5, 4), &[]).await;
    assert_eq!(code(&response), Some((3, 0x11, 0)));
    assert_eq!(response.sense[3..7], [0, 0, 0, 7]);
    disk.faulty.fail_next(Operation::Flush, Fault::Refuse(BlockError::Io("x".to_owned())));
    assert_eq!(initiator.refused(&cdb10(0x35, 0, 0, 0), &[]).await, (4, 0x44, 0));
}
