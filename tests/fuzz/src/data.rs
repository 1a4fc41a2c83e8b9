//! Headers of the data plane: any bytes decode to a message or are refused, and every reply says what to do.

use curve_proto::pb::data as pb;
use prost::Message;
use rand::Rng;
use rand::rngs::StdRng;

use crate::damage::damage;

pub fn case(random: &mut StdRng) -> &'static str {
    let mut bytes = sample(random);
    damage(random, &mut bytes);
    let requests = [
        decodes::<pb::WriteRequest>(&bytes),
        decodes::<pb::ReadRequest>(&bytes),
        decodes::<pb::DiscardRequest>(&bytes),
        decodes::<pb::WriteZeroesRequest>(&bytes),
        decodes::<pb::BlockStatusRequest>(&bytes),
        decodes::<pb::FenceRequest>(&bytes),
        decodes::<pb::DeleteVolumeRequest>(&bytes),
        decodes::<pb::DeleteChunksRequest>(&bytes),
        decodes::<pb::RepairReadRequest>(&bytes),
    ];
    match pb::ChunkReply::decode(&bytes[..]).map(pb::ChunkReply::outcome) {
        Ok(Ok(_)) => "a reply",
        Ok(Err(error)) => {
            assert!(!error.to_string().is_empty());
            "an error"
        }
        Err(_) if requests.contains(&true) => "a request",
        Err(_) => "refused",
    }
}

/// What is accepted is the same after another round.
fn decodes<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = M::decode(bytes) else { return false };
    assert_eq!(M::decode(&message.encode_to_vec()[..]), Ok(message));
    true
}

fn sample(random: &mut StdRng) -> Vec<u8> {
    let crcs = vec![random.random(); random.random_range(0..9)];
    let (copyset, volume, chunk) = (random.random_range(0..9), random.random(), random.random());
    match random.random_range(0..5) {
        0 => pb::WriteRequest { copyset, volume, chunk, sequence: 7, crcs, ..Default::default() }
            .encode_to_vec(),
        1 => pb::ReadRequest { copyset, volume, chunk, len: random.random(), ..Default::default() }
            .encode_to_vec(),
        2 => pb::DeleteChunksRequest { copyset, volume, chunks: crcs, ..Default::default() }.encode_to_vec(),
        3 => pb::WriteZeroesRequest { copyset, volume, keep_allocated: true, ..Default::default() }
            .encode_to_vec(),
        _ => pb::ChunkReply {
            status: random.random_range(-1..12),
            leader_node: random.random_range(0..3),
            leader_address: "127.0.0.1:7000".into(),
            message: "why".into(),
            crcs,
            extents: vec![pb::Extent { len: 4096, allocated: true }; 3],
            ..Default::default()
        }
        .encode_to_vec(),
    }
}
