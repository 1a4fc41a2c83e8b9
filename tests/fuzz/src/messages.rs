//! Messages of both planes: any bytes decode to a domain value or an error.

use bytes::Bytes;
use curve_proto::mds::{
    ChunkserverInfo, ClusterStatus, CopysetInfo, DiskUsage, Entry, Heartbeat, HeartbeatReply, MdsError,
    Registered, Registration, SessionState, VolumeRecord,
};
use curve_proto::pb::mds as pb;
use curve_proto::pb::mds::mds_request::Op;
use curve_proto::pb::mds::mds_response::Result as Answer;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};

use crate::damage::damage;

pub fn case(random: &mut StdRng) -> &'static str {
    let mut bytes =
        if random.random() { request(random).encode_to_vec() } else { response(random).encode_to_vec() };
    damage(random, &mut bytes);
    let as_request = pb::MdsRequest::decode(&bytes[..]).ok().and_then(|request| request.op);
    let as_response = pb::MdsResponse::decode(&bytes[..]).ok().and_then(|response| response.result);
    match (as_request.map(take_request), as_response.map(take_response)) {
        (Some(true), _) | (_, Some(true)) => "accepted",
        (None, None) => "undecodable",
        _ => "refused",
    }
}

/// Converts what has a domain type; whether it was accepted.
fn take_request(op: Op) -> bool {
    match op {
        Op::Register(register) => Registration::try_from(register).is_ok(),
        Op::Heartbeat(heartbeat) => Heartbeat::try_from(heartbeat).is_ok(),
        _ => true,
    }
}

fn take_response(answer: Answer) -> bool {
    match answer {
        Answer::Error(error) => !MdsError::from(error).to_string().is_empty(),
        Answer::Entry(entry) => Entry::try_from(entry).is_ok(),
        Answer::Entries(entries) => entries.entries.into_iter().all(|entry| Entry::try_from(entry).is_ok()),
        Answer::Volume(volume) => VolumeRecord::try_from(volume).is_ok(),
        Answer::DiskUsage(usage) => DiskUsage::from(usage).size < u64::MAX,
        Answer::Refreshed(refreshed) => {
            refreshed.sessions.into_iter().all(|s| SessionState::try_from(s).is_ok())
        }
        Answer::Copysets(copysets) => copysets.copysets.into_iter().map(CopysetInfo::from).count() > 0,
        Answer::Registered(registered) => Registered::from(registered).node.get() > 0,
        Answer::Heartbeat(reply) => HeartbeatReply::try_from(reply).is_ok(),
        Answer::Status(status) => ClusterStatus::from(status).volumes > 0,
        Answer::Chunkservers(list) => list.chunkservers.into_iter().map(ChunkserverInfo::from).count() > 0,
        _ => true,
    }
}

fn request(random: &mut StdRng) -> pb::MdsRequest {
    let op = match random.random_range(0..4) {
        0 => Op::CreateVolume(pb::CreateVolume { path: "/a/b".into(), size: random.random() }),
        1 => Op::Register(pb::Register {
            token: token(random),
            address: "127.0.0.1:1".into(),
            zone: "z".into(),
            block_bytes: 4096,
            chunk_bytes: 16 << 20,
            segment_bytes: 1 << 30,
            ..Default::default()
        }),
        2 => Op::Open(pb::Open { path: "/a".into(), client: random.random(), ..Default::default() }),
        _ => Op::Heartbeat(pb::Heartbeat {
            node: 101,
            token: token(random),
            replicas: vec![pb::Replica { copyset: 1, members: vec![101, 102, 103], ..Default::default() }],
            ..Default::default()
        }),
    };
    pb::MdsRequest { deadline_ms: 1000, client: random.random(), sequence: 1, op: Some(op) }
}

fn response(random: &mut StdRng) -> pb::MdsResponse {
    let volume = pb::Volume {
        id: 1,
        size: 1 << 30,
        epoch: 1,
        block_bytes: 4096,
        chunk_bytes: 16 << 20,
        segment_bytes: 1 << 30,
        ..Default::default()
    };
    let holder = pb::Holder { client: 7, host: "h".into(), process: 1, ..Default::default() };
    let result = match random.random_range(0..5) {
        0 => Answer::Entry(pb::Entry { name: "a".into(), volume: Some(volume), holders: vec![holder] }),
        1 => Answer::Error(pb::Error {
            code: random.random_range(0..20),
            holder: Some(holder),
            ..Default::default()
        }),
        2 => Answer::Refreshed(pb::Refreshed {
            sessions: vec![pb::SessionState { volume: Some(volume), ..Default::default() }],
            lease_ms: random.random(),
        }),
        3 => Answer::Heartbeat(pb::HeartbeatReply {
            orders: vec![pb::Order {
                copyset: 1,
                action: Some(pb::order::Action::AddMember(random.random())),
            }],
            ..Default::default()
        }),
        _ => Answer::Status(pb::ClusterStatus { volumes: 1, ..Default::default() }),
    };
    pb::MdsResponse { result: Some(result) }
}

fn token(random: &mut StdRng) -> Bytes {
    let mut token = vec![0; 16];
    random.fill_bytes(&mut token);
    token.into()
}
