//! Whether all replicas hold the same once faults have stopped.
//!
//! Clients see one replica of a block at a time. This looks at all of them: when nothing is in flight any more, every
//! member of a copyset has applied the same entries and holds the same bytes in every block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use curve_chunkserver::Replica;
use curve_chunkstore::{BadBlock, ReadError};
use curve_multiraft::GroupStatus;
use curve_types::{ChunkKey, CopysetId, NodeId};
use tokio::time::{Instant, sleep};

use crate::world::World;

/// How long replicas without faults and without work may need to be level.
const LEVEL_WITHIN: Duration = Duration::from_secs(60);

/// A replica and where it is.
struct Place {
    host: usize,
    node: NodeId,
    replica: Arc<Replica>,
}

/// Checks all copysets; damaged blocks are excused on one host.
pub async fn check(world: &World, damaged: Option<usize>) -> Result<(), String> {
    let until = Instant::now() + LEVEL_WITHIN;
    let level = loop {
        let all = replicas(world).into_iter().map(|(copyset, places)| Ok((copyset, level(copyset, places)?)));
        match all.collect::<Result<Vec<_>, String>>() {
            Ok(level) => break level,
            Err(uneven) if Instant::now() > until => {
                return Err(format!("replicas differ {LEVEL_WITHIN:?} after all faults stopped: {uneven}"));
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    };
    for (copyset, places) in level {
        let keys: BTreeSet<ChunkKey> =
            places.iter().flat_map(|place| place.replica.store().chunks()).collect();
        for key in keys {
            same_bytes(world, &places, key, damaged).await.map_err(|error| format!("{copyset}: {error}"))?;
        }
    }
    Ok(())
}

fn replicas(world: &World) -> BTreeMap<CopysetId, Vec<Place>> {
    let mut found: BTreeMap<CopysetId, Vec<Place>> = BTreeMap::new();
    for host in 0..world.host_count() {
        let Some(server) = world.chunkserver(host) else { continue };
        for replica in server.replicas() {
            found.entry(replica.id()).or_default().push(Place { host, node: server.node(), replica });
        }
    }
    found
}

/// The members of a copyset, if each has applied all that is in its leader's log. A replica that is no member any more
/// is none of the copyset's business.
fn level(copyset: CopysetId, places: Vec<Place>) -> Result<Vec<Place>, String> {
    let status = |place: &Place| place.replica.group().map(|group| group.status());
    let known: BTreeMap<NodeId, GroupStatus> =
        places.iter().filter_map(|place| Some((place.node, status(place)?))).collect();
    let leader = known.iter().find(|(node, status)| status.leader == Some(**node));
    let Some((_, leader)) = leader else { return Err(format!("{copyset} has no leader")) };
    for member in &leader.members {
        let applied = known.get(member).map(|status| status.applied);
        if applied != Some(leader.last_log) {
            return Err(format!("{member} of {copyset} has applied {applied:?} of {}", leader.last_log));
        }
    }
    Ok(places.into_iter().filter(|place| leader.members.contains(&place.node)).collect())
}

async fn same_bytes(
    world: &World,
    places: &[Place],
    key: ChunkKey,
    damaged: Option<usize>,
) -> Result<(), String> {
    let mut first: Option<(usize, Vec<Option<u32>>)> = None;
    for place in places {
        let bytes = place.replica.geometry().chunk_bytes();
        // Reading verifies the checksums, so comparing them compares the bytes.
        let crcs: Vec<Option<u32>> = match place.replica.store().read(key, 0, bytes).await {
            Ok(data) => data.crcs.into_iter().map(Some).collect(),
            Err(ReadError::Corrupt { bad, .. }) if Some(place.host) == damaged => {
                without(place.replica.store().crcs(key).await.map_err(|error| error.to_string())?, &bad)
            }
            Err(_) if Some(place.host) == damaged => continue,
            Err(error) => {
                return Err(format!("{}: {key:?} cannot be read: {error}", world.name(place.host)));
            }
        };
        let Some((other, before)) = &first else {
            first = Some((place.host, crcs));
            continue;
        };
        let differs = |(a, b): (&Option<u32>, &Option<u32>)| a.is_some() && b.is_some() && a != b;
        if let Some(block) = before.iter().zip(&crcs).position(differs) {
            let (one, two) = (world.name(*other), world.name(place.host));
            return Err(format!("block {block} of {key:?} is not the same on {one} and {two}"));
        }
    }
    Ok(())
}

/// The checksums of a chunk, those of bad blocks left out.
fn without(crcs: Vec<u32>, bad: &[BadBlock]) -> Vec<Option<u32>> {
    let mut crcs: Vec<Option<u32>> = crcs.into_iter().map(Some).collect();
    for block in bad {
        crcs[block.block as usize] = None;
    }
    crcs
}
