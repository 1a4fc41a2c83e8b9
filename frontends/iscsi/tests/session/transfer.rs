//! Data both ways, with and without digests.

use bytes::Bytes;
use curve_iscsi::session::SessionError;
use tokio::io::{AsyncWriteExt, DuplexStream};

use crate::initiator::{Initiator, NONE, bhs, field};
use crate::world::World;

fn noise(len: usize) -> Bytes {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

/// Answers R2Ts until the status comes.
async fn serve_r2ts(initiator: &mut Initiator<DuplexStream>, itt: u32, data: &Bytes) {
    loop {
        let pdu = initiator.pdu().await;
        assert_eq!(field(&pdu, 16), itt);
        if pdu.bhs[0] == 0x21 {
            return assert_eq!(pdu.bhs[3], 0, "{:02x?}", pdu.data);
        }
        assert_eq!(pdu.bhs[0], 0x31);
        let (ttt, offset, len) = (field(&pdu, 20), field(&pdu, 40), field(&pdu, 44));
        let half = len / 2 / 512 * 512;
        let at = |offset: u32, len: u32| data.slice(offset as usize..(offset + len) as usize);
        initiator.data_out(itt, ttt, 0, offset, &at(offset, half), false).await;
        initiator.data_out(itt, ttt, 1, offset + half, &at(offset + half, len - half), true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_is_read_with_every_choice_of_keys() {
    for digests in ["", "HeaderDigest=CRC32C", "DataDigest=CRC32C", "HeaderDigest=CRC32C DataDigest=CRC32C"] {
        for keys in [
            "InitialR2T=Yes ImmediateData=No",
            "InitialR2T=Yes ImmediateData=Yes",
            "InitialR2T=No ImmediateData=No",
            "InitialR2T=No ImmediateData=Yes MaxBurstLength=4096 FirstBurstLength=1024 MaxOutstandingR2T=4",
            "MaxRecvDataSegmentLength=512",
        ] {
            let world = World::new();
            let (mut initiator, served) = world.login(1, &format!("{digests} {keys}")).await;
            initiator.settle().await;
            let data = noise(20 * 512);
            let immediate = if keys.contains("ImmediateData=No") { 0 } else { 1024 };
            let itt = initiator.begin_write(3, &data, immediate).await;
            serve_r2ts(&mut initiator, itt, &data).await;
            assert_eq!(world.read(3 * 512, data.len() as u32).await, data, "{digests} {keys}");
            assert_eq!(initiator.read(3, 20).await, data, "{digests} {keys}");
            initiator.logout().await;
            served.ended.await.expect("no panic").expect("it ended in order");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unsolicited_data_needs_no_r2t() {
    let world = World::new();
    let (mut initiator, _served) = world.login(1, "InitialR2T=No").await;
    initiator.settle().await;
    let data = noise(4096);
    let itt = initiator.command(0x20, &crate::initiator::cdb(0x2a, 0, 8), 4096, &data[..512]).await;
    initiator.data_out(itt, NONE, 0, 512, &data[512..2048], false).await;
    initiator.data_out(itt, NONE, 1, 2048, &data[2048..], true).await;
    assert_eq!(initiator.finish(itt).await.status, 0);
    assert_eq!(world.read(0, 4096).await, data);
}

#[tokio::test(start_paused = true)]
async fn commands_of_one_session_run_together() {
    let world = World::new();
    let (mut initiator, _served) = world.login(1, "").await;
    initiator.settle().await;
    let mut tags = Vec::new();
    for lba in 0..50 {
        tags.push(initiator.begin_write(lba, &Bytes::from(vec![lba; 512]), 512).await);
    }
    for itt in tags {
        assert_eq!(initiator.finish(itt).await.status, 0);
    }
    for lba in 0..50 {
        assert_eq!(initiator.read(lba, 1).await, [lba; 512]);
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_data_is_refused_and_never_written() {
    let world = World::new();
    let (mut initiator, served) = world.login(1, "DataDigest=CRC32C").await;
    initiator.settle().await;
    let command = bhs(&[
        (0, &[0x01, 0xa1]),
        (18, &[1]),
        (22, &[2]),
        (24, &initiator.number.to_be_bytes()),
        (32, &crate::initiator::cdb(0x2a, 0, 1)),
    ]);
    let mut wire = initiator.encode(&command, &[7; 512]);
    wire[100] ^= 1;
    initiator.stream.write_all(&wire).await.expect("the gateway reads");
    let reject = initiator.pdu().await;
    let mut refused = command;
    refused[6] = 2;
    assert_eq!((reject.bhs[0], reject.bhs[2], &reject.data[..]), (0x3f, 2, &refused[..]));
    assert_eq!(initiator.receive().await, None);
    let error = served.ended.await.expect("no panic").expect_err("it was broken");
    assert!(matches!(error, SessionError::Framing(_)), "{error}");
    assert_eq!(world.read(0, 512).await, [0; 512]);
}

#[tokio::test(start_paused = true)]
async fn damaged_headers_end_the_connection() {
    let world = World::new();
    let (mut initiator, served) = world.login(1, "HeaderDigest=CRC32C").await;
    let mut wire = initiator.encode(&bhs(&[(0, &[0x01, 0x81])]), b"");
    wire[20] ^= 1;
    initiator.stream.write_all(&wire).await.expect("the gateway reads");
    assert_eq!(initiator.receive().await, None);
    let error = served.ended.await.expect("no panic").expect_err("it was broken");
    assert!(matches!(error, SessionError::Framing(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn too_long_a_segment_ends_the_connection() {
    let world = World::new();
    let (mut initiator, served) = world.login(1, "").await;
    let mut header = bhs(&[(0, &[0x40, 0x80]), (16, &[0xff; 8])]);
    header[5..8].copy_from_slice(&[0x7f, 0xff, 0xff]);
    initiator.stream.write_all(&header).await.expect("the gateway reads");
    assert_eq!(initiator.pdu().await.bhs[..3], [0x3f, 0x80, 4]);
    assert_eq!(initiator.receive().await, None);
    served.ended.await.expect("no panic").expect_err("it was broken");
}
