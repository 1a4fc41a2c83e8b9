//! Frames between mounts and metaservers, and between metaservers: a header that says which partition, and beside it what
//! `curvefs-types` encodes. The methods are in `curve_proto::methods`.

use bytes::Bytes;
use curve_io::Message;
use curve_proto::methods;
use curve_proto::pb::meta::{MetaStatus, PartitionCall, PartitionReply};
use curve_types::NodeId;
use curvefs_types::{Answer, Ask, FsError, PartitionId, Reply, Request, Wire, WireError};
use prost::Message as _;
use thiserror::Error;

/// What a partition says to a request or a question.
pub type Outcome<T> = Result<T, FsError>;

/// What can be asked of a partition, and how it is answered.
pub trait Call: Wire {
    /// What a partition that has understood answers.
    type Answer: Wire;
    /// The method for mounts.
    const FROM_MOUNTS: u16;
    /// The method for metaservers.
    const FROM_SERVERS: u16;
}

impl Call for Request {
    type Answer = Reply;
    const FROM_MOUNTS: u16 = methods::META_CHANGE;
    const FROM_SERVERS: u16 = methods::META_PEER_CHANGE;
}

impl Call for Ask {
    type Answer = Answer;
    const FROM_MOUNTS: u16 = methods::META_QUERY;
    const FROM_SERVERS: u16 = methods::META_PEER_QUERY;
}

/// Who leads a partition, as another replica knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// Which metaserver.
    pub node: NodeId,
    /// Where it is; empty if that is not known.
    pub address: String,
}

/// Why a metaserver gave no partition's answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// The replica does not lead: nothing was done.
    #[error("the replica does not lead")]
    NotLeader {
        /// Who does.
        hint: Option<Leader>,
    },
    /// No replica of the partition is there: nothing was done.
    #[error("no replica of the partition is there")]
    NoPartition,
    /// A change may or may not have been made: send the same sequence again.
    #[error("not done in time: {why}")]
    Unavailable {
        /// For people.
        why: String,
    },
    /// The request makes no sense.
    #[error("refused: {why}")]
    BadRequest {
        /// For people.
        why: String,
    },
    /// A disk is full up to the reserve, and the change would make the rows more. It was not made by this try, but an earlier
    /// one may yet have been.
    #[error("no space left for metadata")]
    NoSpace,
    /// The metaserver is stopping, or its disk has failed. A change may or may not have been made.
    #[error("the metaserver is stopping")]
    Stopped,
    /// What came back cannot be understood.
    #[error("not understood: {why}")]
    Malformed {
        /// For people.
        why: String,
    },
}

/// The frame of a call.
pub fn call_frame<C: Call>(method: u16, partition: PartitionId, call: &C) -> Message {
    let header = PartitionCall { partition: partition.get() }.encode_to_vec().into();
    Message { method, header, payload: vec![call.encode()] }
}

/// The call in a frame; the error is for people.
pub fn call_of<C: Call>(frame: &Message) -> Result<(PartitionId, C), String> {
    let header = PartitionCall::decode(&*frame.header).map_err(|error| format!("header: {error}"))?;
    let call = C::decode(&payload(frame)).map_err(|error: WireError| error.to_string())?;
    Ok((PartitionId(header.partition), call))
}

/// The bytes of an answer: what a partition's state machine gives its proposer, and what travels.
pub fn outcome_bytes<T: Wire>(outcome: &Outcome<T>) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(curvefs_types::wire::WIRE_VERSION);
    match outcome {
        Ok(answer) => {
            bytes.push(0);
            answer.put(&mut bytes);
        }
        Err(error) => {
            bytes.push(1);
            error.put(&mut bytes);
        }
    }
    bytes.into()
}

/// The frame of an answer.
pub fn answer_frame<T: Wire>(method: u16, outcome: &Outcome<T>) -> Message {
    outcome_frame(method, outcome_bytes(outcome))
}

/// The frame of an answer that is in bytes already.
pub fn outcome_frame(method: u16, outcome: Bytes) -> Message {
    let header = PartitionReply::default().encode_to_vec().into();
    Message { method, header, payload: vec![outcome] }
}

/// The frame that says why there is no answer.
pub fn refusal_frame(method: u16, refusal: &Refusal) -> Message {
    let mut reply = PartitionReply::default();
    let status = match refusal {
        Refusal::NotLeader { hint } => {
            if let Some(leader) = hint {
                reply.leader_node = leader.node.get();
                reply.leader_address = leader.address.clone();
            }
            MetaStatus::MetaNotLeader
        }
        Refusal::NoPartition => MetaStatus::MetaNoPartition,
        Refusal::Unavailable { why } => {
            reply.message = why.clone();
            MetaStatus::MetaUnavailable
        }
        Refusal::BadRequest { why } | Refusal::Malformed { why } => {
            reply.message = why.clone();
            MetaStatus::MetaBadRequest
        }
        Refusal::NoSpace => MetaStatus::MetaNoSpace,
        Refusal::Stopped => MetaStatus::MetaStopped,
    };
    reply.set_status(status);
    Message { method, header: reply.encode_to_vec().into(), payload: Vec::new() }
}

/// What a reply says.
pub fn answer_of<T: Wire>(frame: &Message) -> Result<Outcome<T>, Refusal> {
    let malformed = |why: String| Refusal::Malformed { why };
    let reply = PartitionReply::decode(&*frame.header).map_err(|error| malformed(error.to_string()))?;
    match MetaStatus::try_from(reply.status) {
        Ok(MetaStatus::MetaOk) => outcome_of(&payload(frame)).map_err(|error| malformed(error.to_string())),
        Ok(MetaStatus::MetaNotLeader) => {
            let leader = Leader { node: NodeId(reply.leader_node), address: reply.leader_address };
            Err(Refusal::NotLeader { hint: Some(leader).filter(|leader| leader.node != NodeId(0)) })
        }
        Ok(MetaStatus::MetaNoPartition) => Err(Refusal::NoPartition),
        Ok(MetaStatus::MetaUnavailable) => Err(Refusal::Unavailable { why: reply.message }),
        Ok(MetaStatus::MetaBadRequest) => Err(Refusal::BadRequest { why: reply.message }),
        Ok(MetaStatus::MetaNoSpace) => Err(Refusal::NoSpace),
        Ok(MetaStatus::MetaStopped) => Err(Refusal::Stopped),
        Err(unknown) => Err(malformed(unknown.to_string())),
    }
}

/// An answer's error, without looking at what a success has to say.
pub fn error_in(outcome: &[u8]) -> Option<FsError> {
    match outcome {
        [curvefs_types::wire::WIRE_VERSION, 1, rest @ ..] => FsError::from_row(rest).ok(),
        _ => None,
    }
}

/// The reverse of [`outcome_bytes`].
pub fn outcome_of<T: Wire>(bytes: &[u8]) -> Result<Outcome<T>, WireError> {
    match bytes {
        [curvefs_types::wire::WIRE_VERSION, 0, rest @ ..] => T::from_row(rest).map(Ok),
        [curvefs_types::wire::WIRE_VERSION, 1, rest @ ..] => FsError::from_row(rest).map(Err),
        [curvefs_types::wire::WIRE_VERSION, tag, ..] => Err(WireError::Tag(*tag, "outcome")),
        [version, _, ..] => Err(WireError::Version(*version)),
        _ => Err(WireError::Short),
    }
}

fn payload(frame: &Message) -> Bytes {
    match frame.payload.as_slice() {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::wire::Seeds;

    use super::*;

    fn calls_and_answers<C: Call + PartialEq + std::fmt::Debug>()
    where
        C::Answer: PartialEq + std::fmt::Debug,
    {
        for seed in 0..200 {
            let call = C::sample(&mut Seeds::new(seed));
            let frame = call_frame(C::FROM_MOUNTS, PartitionId(7), &call);
            assert_eq!(call_of(&frame), Ok((PartitionId(7), call)));
            let outcomes =
                [Ok(C::Answer::sample(&mut Seeds::new(seed))), Err(FsError::sample(&mut Seeds::new(seed)))];
            for outcome in outcomes {
                let frame = answer_frame(C::FROM_MOUNTS, &outcome);
                assert_eq!(answer_of(&frame), Ok(outcome));
                let short = frame.payload[0].slice(..frame.payload[0].len() - 1);
                let short = Message { payload: vec![short], ..frame };
                assert!(matches!(answer_of::<C::Answer>(&short), Err(Refusal::Malformed { .. })));
            }
        }
    }

    #[test]
    fn frames_say_what_was_put_in() {
        calls_and_answers::<Request>();
        calls_and_answers::<Ask>();
    }

    #[test]
    fn refusals_come_through() {
        let why = || "why".to_owned();
        for refusal in [
            Refusal::NotLeader { hint: None },
            Refusal::NotLeader { hint: Some(Leader { node: NodeId(3), address: "a:1".into() }) },
            Refusal::NoPartition,
            Refusal::Unavailable { why: why() },
            Refusal::BadRequest { why: why() },
            Refusal::NoSpace,
            Refusal::Stopped,
        ] {
            assert_eq!(answer_of::<Reply>(&refusal_frame(1, &refusal)), Err(refusal));
        }
    }
}
