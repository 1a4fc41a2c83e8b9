//! How the disks of the MDSs are: each tells the leader of its own, and the leader tells everybody.

use curve_multiraft::DiskState;
use curve_proto::mds::{HealthItem, HealthLevel};
use curve_proto::pb::mds::{DiskCondition, PeerDisk};
use curve_types::{ByteSize, NodeId};

use crate::memory::Memory;
use crate::node::Shared;

/// With less free than this, and less than a twentieth of the disk, an MDS's disk counts as low. What an MDS needs is small, and
/// what fills its disk is mostly something else.
const LOW_BYTES: u64 = 1 << 30;

/// How this MDS's disk is.
pub(crate) fn own(shared: &Shared) -> PeerDisk {
    let condition = match shared.raft.disk() {
        DiskState::Fine => DiskCondition::DiskFine,
        DiskState::Hangs => DiskCondition::DiskHangs,
        DiskState::Full => DiskCondition::DiskFull,
    };
    // A file system that cannot say how full it is is not called low, and one that hangs is not asked.
    let space = match condition {
        DiskCondition::DiskHangs => None,
        _ => shared.log.disk().space().ok(),
    };
    PeerDisk {
        condition: condition.into(),
        free_bytes: space.map_or(0, |space| space.free),
        total_bytes: space.map_or(0, |space| space.total),
    }
}

/// What is wrong with this MDS's disk.
pub(crate) fn own_findings(shared: &Shared) -> Vec<HealthItem> {
    items(&[(shared.config.node(), own(shared))])
}

/// What is wrong with the disks of all MDSs, as the leader has heard.
pub(crate) fn findings(shared: &Shared, memory: &Memory) -> Vec<HealthItem> {
    let mut disks = vec![(shared.config.node(), own(shared))];
    disks.extend(memory.peers.iter().filter_map(|(node, peer)| Some((*node, peer.pong.disk?))));
    items(&disks)
}

fn is_low(disk: &PeerDisk) -> bool {
    disk.condition() == DiskCondition::DiskFine && disk.free_bytes < LOW_BYTES.min(disk.total_bytes / 20)
}

fn items(disks: &[(NodeId, PeerDisk)]) -> Vec<HealthItem> {
    let of = |condition| move |disk: &PeerDisk| disk.condition() == condition;
    let hang = named(disks, of(DiskCondition::DiskHangs)).map(|who| HealthItem {
        level: HealthLevel::Err,
        code: "MDS_DISK_HANGS".into(),
        summary: format!("disks of MDSs do not answer: {who}"),
        cause:
            "Something that was asked of the disk has had no answer for 2 s. Another MDS leads until it has."
                .into(),
        remedy: "Check the disk and what it hangs on (dmesg, smartctl, iostat).".into(),
    });
    let full = named(disks, of(DiskCondition::DiskFull)).map(|who| HealthItem {
        level: HealthLevel::Err,
        code: "MDS_DISK_FULL".into(),
        summary: format!("disks of MDSs are full: {who}"),
        cause: "There is no room for the log or for changes of the state. Another MDS leads meanwhile, if its disk has room; \
                otherwise nothing is changed. Open volumes and mounts go on."
            .into(),
        remedy: "Make room on the disk. The MDS goes on by itself.".into(),
    });
    let low = named(disks, is_low).map(|who| HealthItem {
        level: HealthLevel::Warn,
        code: "MDS_DISK_LOW".into(),
        summary: format!("disks of MDSs are nearly full: {who}"),
        cause: "Less than a twentieth of the disk and less than 1 GiB is free.".into(),
        remedy: "Make room on the disk before the MDS has to stop.".into(),
    });
    [hang, full, low].into_iter().flatten().collect()
}

/// Those whose disk is like that, if there are any.
fn named(disks: &[(NodeId, PeerDisk)], is: impl Fn(&PeerDisk) -> bool) -> Option<String> {
    let who = |(node, disk): &(NodeId, PeerDisk)| match disk.total_bytes {
        0 => node.to_string(),
        _ => format!("{node} ({} free)", ByteSize(disk.free_bytes)),
    };
    let such: Vec<_> = disks.iter().filter(|(_, disk)| is(disk)).map(who).collect();
    (!such.is_empty()).then(|| such.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(disks: &[(u64, PeerDisk)]) -> Vec<(String, String)> {
        let disks: Vec<_> = disks.iter().map(|(node, disk)| (NodeId(*node), *disk)).collect();
        items(&disks).into_iter().map(|item| (item.code, item.summary)).collect()
    }

    fn disk(condition: DiskCondition, free_bytes: u64, total_bytes: u64) -> PeerDisk {
        PeerDisk { condition: condition.into(), free_bytes, total_bytes }
    }

    #[test]
    fn what_is_wrong_with_a_disk_is_said_once_and_of_whom() {
        use DiskCondition::{DiskFine, DiskFull, DiskHangs};
        let whole = disk(DiskFine, 10 << 30, 100 << 30);
        assert_eq!(codes(&[(1, whole), (2, whole), (3, PeerDisk::default())]), []);
        let found = codes(&[
            (1, disk(DiskHangs, 0, 0)),
            (2, disk(DiskFull, 0, 100 << 30)),
            (3, disk(DiskFine, 1 << 20, 100 << 30)),
        ]);
        let found: Vec<_> = found.iter().map(|(code, summary)| (code.as_str(), summary.as_str())).collect();
        assert_eq!(
            found,
            [
                ("MDS_DISK_HANGS", "disks of MDSs do not answer: node-1"),
                ("MDS_DISK_FULL", "disks of MDSs are full: node-2 (0B free)"),
                ("MDS_DISK_LOW", "disks of MDSs are nearly full: node-3 (1MiB free)"),
            ]
        );
    }

    #[test]
    fn a_disk_is_low_by_its_share_and_by_what_is_left() {
        let low = |free, total| is_low(&disk(DiskCondition::DiskFine, free, total));
        assert!(low(900 << 20, 100 << 30));
        assert!(!low(2 << 30, 1 << 50), "enough for an MDS, whatever share it is");
        assert!(!low(100 << 20, 1 << 30), "a small disk with a tenth free");
        assert!(low(40 << 20, 1 << 30));
    }
}
