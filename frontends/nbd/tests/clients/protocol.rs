//! What real clients do not send: extended headers, and mistakes.

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::raw::{
    BLOCK_STATUS, CACHE, Chunk, DF, DISC, EINVAL, ENOSPC, ENOTSUP, EPERM, FAST_ZERO, FLUSH, FUA, Framing,
    NO_HOLE, OK, PAYLOAD_LEN, READ, REQ_ONE, RawClient, TRIM, WRITE, WRITE_ZEROES,
};
use crate::server::{Server, noise, scratch, socket};

const SIZE: u64 = 64 << 20;
const ALL: [Framing; 3] = [Framing::Simple, Framing::Structured, Framing::Extended];

struct Fixture {
    dir: tempfile::TempDir,
    _server: Server,
}

impl Fixture {
    fn new(more: &[&str]) -> Self {
        let dir = scratch();
        let server = Server::memory(dir.path(), "64MiB", more);
        Self { dir, _server: server }
    }

    async fn connect(&self, framing: Framing) -> RawClient<UnixStream> {
        let stream = UnixStream::connect(socket(self.dir.path())).await.expect("the server listens");
        let client = RawClient::connect(stream, framing, "demo").await;
        assert_eq!(client.size, SIZE);
        client
    }
}

#[tokio::test]
async fn every_framing_reads_what_every_other_wrote() {
    let fixture = Fixture::new(&[]);
    for (i, writer) in ALL.into_iter().enumerate() {
        let data = noise(i as u64, 256 << 10);
        assert_eq!(fixture.connect(writer).await.write(1 << 20, &data).await, OK);
        for reader in ALL {
            let mut reader = fixture.connect(reader).await;
            assert!(
                reader.read(1 << 20, 256 << 10).await == data,
                "{writer:?} wrote, {reader:?} reads",
                reader = i
            );
            assert_eq!(reader.read(0, 4096).await, vec![0; 4096]);
        }
    }
}

#[tokio::test]
async fn commands_in_every_framing() {
    let fixture = Fixture::new(&[]);
    for framing in ALL {
        let mut client = fixture.connect(framing).await;
        assert_eq!(client.write(0, &[7; 16384]).await, OK);
        for (kind, flags) in [
            (FLUSH, 0),
            (CACHE, 0),
            (TRIM, 0),
            (TRIM, FUA),
            (WRITE_ZEROES, 0),
            (WRITE_ZEROES, NO_HOLE),
            (WRITE_ZEROES, FAST_ZERO),
            (WRITE_ZEROES, FUA),
        ] {
            let len = if kind == FLUSH { 0 } else { 4096 };
            assert_eq!(client.ask(kind, flags, 0, len).await.error, OK, "{framing:?} {kind} {flags}");
        }
        // A memory device cannot keep space and be fast.
        assert_eq!(client.ask(WRITE_ZEROES, NO_HOLE | FAST_ZERO, 0, 4096).await.error, ENOTSUP);
        assert_eq!(client.read(0, 16384).await, [vec![0; 4096], vec![7; 12288]].concat());
        client.send(DISC, 0, 0, 0, &[]).await;
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn mistakes_get_the_protocols_error_and_the_connection_lives() {
    let fixture = Fixture::new(&[]);
    for framing in ALL {
        let mut client = fixture.connect(framing).await;
        for (kind, flags, offset, len, error) in [
            (8, 0, 0, 0, EINVAL),
            (999, 0, 0, 4096, EINVAL),
            (READ, 0, SIZE, 4096, EINVAL),
            (READ, 0, u64::MAX, 4096, EINVAL),
            (READ, 0, 1, 4096, EINVAL),
            (READ, 0, 0, 100, EINVAL),
            (READ, 0, 0, 33 << 20, EINVAL),
            (READ, 0, 0, 0xffff_f000, EINVAL),
            (READ, NO_HOLE, 0, 4096, EINVAL),
            (TRIM, 0, SIZE, 4096, EINVAL),
            (TRIM, DF, 0, 4096, EINVAL),
            (WRITE_ZEROES, 0, SIZE, 4096, ENOSPC),
            (BLOCK_STATUS, 0, 0, 0, EINVAL),
            (BLOCK_STATUS, 0, SIZE, 4096, EINVAL),
        ] {
            let reply = client.ask(kind, flags, offset, len).await;
            assert_eq!(reply.error, error, "{framing:?}: {kind} {flags:#x} {offset}+{len}");
        }
        assert_eq!(client.write(SIZE, &[1; 4096]).await, ENOSPC);
        assert_eq!(client.write(SIZE - 4096, &[1; 8192]).await, ENOSPC);
        assert_eq!(client.write(100, &[1; 4096]).await, EINVAL);
        // Too long, but read to its end.
        assert_eq!(client.write(0, &vec![1; 33 << 20]).await, EINVAL);
        assert_eq!(client.write(0, &[framing as u8; 4096]).await, OK);
        assert_eq!(client.read(0, 4096).await, vec![framing as u8; 4096]);
    }
}

#[tokio::test]
async fn a_write_of_absurd_length_ends_the_connection_only() {
    let fixture = Fixture::new(&[]);
    let mut other = fixture.connect(Framing::Structured).await;
    for framing in ALL {
        let mut client = fixture.connect(framing).await;
        client.send(WRITE, 0, 0, 0xffff_f000, &[]).await;
        assert!(client.is_closed().await);
        let mut client = fixture.connect(framing).await;
        client.stream.write_all(&[0x55; 64]).await.unwrap();
        assert!(client.is_closed().await);
    }
    assert_eq!(other.read(0, 4096).await, vec![0; 4096]);
}

#[tokio::test]
async fn a_read_only_export_refuses_changes() {
    let fixture = Fixture::new(&["--read-only"]);
    let mut client = fixture.connect(Framing::Structured).await;
    assert_ne!(client.flags & 2, 0);
    assert_eq!(client.write(0, &[1; 4096]).await, EPERM);
    assert_eq!(client.ask(TRIM, 0, 0, 4096).await.error, EPERM);
    assert_eq!(client.ask(WRITE_ZEROES, 0, 0, 4096).await.error, EPERM);
    assert_eq!(client.ask(FLUSH, 0, 0, 0).await.error, OK);
    assert_eq!(client.read(0, 4096).await, vec![0; 4096]);
}

#[tokio::test]
async fn holes_travel_as_holes_unless_fragments_are_forbidden() {
    let fixture = Fixture::new(&[]);
    let mut client = fixture.connect(Framing::Structured).await;
    assert_eq!(client.write(8192, &[5; 4096]).await, OK);
    let reply = client.ask(READ, 0, 0, 16384).await;
    assert_eq!(reply.chunks.iter().map(|chunk| chunk.kind).collect::<Vec<_>>(), [2, 1, 2]);
    let reply = client.ask(READ, DF, 0, 16384).await;
    assert_eq!(
        reply.chunks.iter().map(|chunk| (chunk.kind, chunk.payload.len())).collect::<Vec<_>>(),
        [(1, 16392)]
    );
    assert_eq!(client.read(0, 16384).await, [vec![0; 8192], vec![5; 4096], vec![0; 4096]].concat());
}

fn status_chunk(kind: u16, payload: &[&[u8]]) -> Vec<Chunk> {
    vec![Chunk { kind, payload: payload.concat() }]
}

#[tokio::test]
async fn block_status_in_both_sizes() {
    let fixture = Fixture::new(&[]);
    let mut client = fixture.connect(Framing::Structured).await;
    assert_eq!(client.write(4096, &[5; 4096]).await, OK);
    let compact: [&[u8]; 4] =
        [&1u32.to_be_bytes(), b"\0\0\x10\0\0\0\0\x03", b"\0\0\x10\0\0\0\0\0", b"\0\0\x20\0\0\0\0\x03"];
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 16384).await.chunks, status_chunk(5, &compact));
    assert_eq!(client.ask(BLOCK_STATUS, REQ_ONE, 0, 16384).await.chunks, status_chunk(5, &compact[..2]));

    let mut client = fixture.connect(Framing::Extended).await;
    let wide = |len: u64, flags: u64| [len.to_be_bytes(), flags.to_be_bytes()].concat();
    let three = [wide(4096, 3), wide(4096, 0), wide(8192, 3)].concat();
    let all = status_chunk(6, &[&1u32.to_be_bytes(), &3u32.to_be_bytes(), &three]);
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 16384).await.chunks, all);
    // The same, with the list of contexts as a payload.
    let payload = [&16384u64.to_be_bytes()[..], &1u32.to_be_bytes()].concat();
    client.send(BLOCK_STATUS, PAYLOAD_LEN, 0, 12, &payload).await;
    assert_eq!(client.receive().await.chunks, all);
    let unknown = [&16384u64.to_be_bytes()[..], &9u32.to_be_bytes()].concat();
    client.send(BLOCK_STATUS, PAYLOAD_LEN, 0, 12, &unknown).await;
    assert_eq!(client.receive().await.error, EINVAL);
}

#[tokio::test]
async fn many_connections_see_each_others_writes() {
    let fixture = Fixture::new(&["--threads", "2"]);
    let mut clients = Vec::new();
    for _ in 0..32 {
        clients.push(fixture.connect(Framing::Structured).await);
    }
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.write(i as u64 * 4096, &[i as u8; 4096]).await, OK);
    }
    let all: Vec<u8> = (0..32u8).flat_map(|i| [i; 4096]).collect();
    for client in &mut clients {
        assert!(client.read(0, 32 * 4096).await == all);
    }
}
