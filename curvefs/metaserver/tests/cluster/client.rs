//! A mount, as far as metaservers see one: numbers its changes, finds leaders, and repeats until there is an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use curve_io::Network;
use curve_types::{Epoch, FRAME_PAYLOAD_BYTES_MAX, Sequence};
use curvefs_proto::{Call, Outcome, Refusal, answer_of, call_frame};
use curvefs_types::{Answer, Ask, FsError, InodeId, MountId, Op, PartitionId, Query, Reply, Request};
use tokio::time::{Instant, sleep};

use crate::mds::Mds;

/// How long an answer is waited for, through all failures.
const PATIENCE: Duration = Duration::from_secs(90);
const ATTEMPT: Duration = Duration::from_secs(3);

pub struct Client {
    network: Arc<dyn Network>,
    mds: Arc<Mds>,
    partitions: u32,
    pub mount: MountId,
    pub epoch: Epoch,
    sequences: BTreeMap<PartitionId, u64>,
    leaders: BTreeMap<PartitionId, String>,
    servers: Vec<String>,
    next_server: usize,
    /// For the text of a failure.
    seed: u64,
}

impl Client {
    pub fn new(
        network: Arc<dyn Network>,
        mds: Arc<Mds>,
        partitions: u32,
        servers: Vec<String>,
        mount: u64,
        seed: u64,
    ) -> Self {
        Self {
            network,
            mds,
            partitions,
            mount: MountId(mount),
            epoch: Epoch(1),
            sequences: BTreeMap::new(),
            leaders: BTreeMap::new(),
            servers,
            next_server: mount as usize,
            seed,
        }
    }

    fn home(&self, inode: InodeId) -> PartitionId {
        PartitionId(inode.slot().min(self.partitions - 1) + 1)
    }

    pub async fn change(&mut self, op: Op) -> Outcome<Reply> {
        let (partition, request) = self.request(op);
        self.call(partition, &request).await
    }

    /// A change that is not asked for yet.
    pub fn request(&mut self, op: Op) -> (PartitionId, Request) {
        let partition = self.home(op.home().expect("a mount's operation has a home"));
        let sequence = self.sequences.entry(partition).or_default();
        *sequence += 1;
        let request = Request {
            mount: self.mount,
            epoch: self.epoch,
            sequence: Sequence(*sequence),
            ack_below: Sequence(*sequence),
            now_ns: 0,
            op,
        };
        (partition, request)
    }

    pub async fn query(&mut self, query: Query) -> Outcome<Answer> {
        let partition = self.home(query.home().expect("a mount's question has a home"));
        let ask = Ask { mount: self.mount, epoch: self.epoch, query };
        self.call(partition, &ask).await
    }

    /// One call, again and again with the same bytes.
    pub async fn call<C: Call + std::fmt::Debug>(
        &mut self,
        partition: PartitionId,
        call: &C,
    ) -> Outcome<C::Answer> {
        let until = Instant::now() + PATIENCE;
        let mut last = String::from("nothing");
        let mut in_doubt = false;
        while Instant::now() < until {
            let address = match self.leaders.get(&partition) {
                Some(address) => address.clone(),
                None => {
                    self.next_server += 1;
                    self.servers[self.next_server % self.servers.len()].clone()
                }
            };
            let frame = call_frame(C::FROM_MOUNTS, partition, call);
            let refusal = match self.network.call(&address, frame, ATTEMPT).await {
                Ok(reply) if reply.payload_len() > FRAME_PAYLOAD_BYTES_MAX => {
                    panic!("{call:?}: a reply of {} bytes", reply.payload_len())
                }
                Ok(reply) => match answer_of::<C::Answer>(&reply) {
                    // Of an earlier try it is not known whether it was made.
                    Err(Refusal::NoSpace) if !in_doubt => return Err(FsError::NoSpace),
                    Ok(Err(FsError::Busy | FsError::Stopped)) => {
                        last = "busy".into();
                        continue;
                    }
                    Ok(outcome) => {
                        self.leaders.insert(partition, address);
                        return outcome;
                    }
                    Err(refusal) => refusal,
                },
                Err(error) => Refusal::Unavailable { why: error.to_string() },
            };
            in_doubt |= matches!(refusal, Refusal::Unavailable { .. } | Refusal::Stopped);
            last = format!("{address}: {refusal}");
            match refusal {
                Refusal::NotLeader { hint: Some(leader) } => {
                    let address = self.mds.address(leader.node.get()).unwrap_or(leader.address);
                    self.leaders.insert(partition, address);
                }
                Refusal::BadRequest { .. } | Refusal::Malformed { .. } => panic!("{call:?}: {refusal}"),
                _ => drop(self.leaders.remove(&partition)),
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("seed {}: no answer to {call:?} of {partition}: {last}", self.seed);
    }
}
