//! One volume's fence: which holders' requests a copyset accepts. Pure.

use std::collections::BTreeMap;

use curve_types::{ClientId, Epoch};

/// The lowest epoch that is accepted, and the holders of lower ones that go on.
///
/// The MDS grants each opener an epoch. To shut a holder out it fences every copyset at a new epoch and names the holders
/// that go on, each with the epoch it was granted; they notice nothing. Everybody else below the epoch is refused.
///
/// A fence only tightens: the epoch never falls, and whoever was refused before is refused after, whatever a later fence
/// names. So a request that is refused once is refused for ever.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fence {
    /// The lowest epoch that is accepted from anybody.
    pub lowest: Epoch,
    /// Who goes on below it, with its own epoch.
    pub kept: BTreeMap<ClientId, Epoch>,
}

impl Fence {
    /// Whether a request of `client` under `epoch` is accepted.
    pub fn accepts(&self, client: ClientId, epoch: Epoch) -> bool {
        epoch >= self.lowest || self.kept.get(&client) == Some(&epoch)
    }

    /// Raises the fence, and lets those in `kept` go on that it accepted so far. A fence that is not higher changes
    /// nothing. Returns whether it was raised.
    pub fn raise(&mut self, lowest: Epoch, kept: &[(ClientId, Epoch)]) -> bool {
        if lowest <= self.lowest {
            return false;
        }
        let accepted = kept.iter().copied().filter(|(client, epoch)| self.accepts(*client, *epoch));
        // Those at the new epoch need no mention.
        self.kept = accepted.filter(|(_, epoch)| *epoch < lowest).collect();
        self.lowest = lowest;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(pairs: &[(u64, u64)]) -> Vec<(ClientId, Epoch)> {
        pairs.iter().map(|&(client, epoch)| (ClientId(client), Epoch(epoch))).collect()
    }

    fn accepts(fence: &Fence, client: u64, epoch: u64) -> bool {
        fence.accepts(ClientId(client), Epoch(epoch))
    }

    #[test]
    fn the_named_go_on_under_their_own_epoch_only() {
        let mut fence = Fence::default();
        assert!(accepts(&fence, 1, 1));
        assert!(fence.raise(Epoch(2), &pairs(&[(1, 1)])));
        assert!(accepts(&fence, 1, 1) && accepts(&fence, 3, 2));
        assert!(!accepts(&fence, 2, 1) && !accepts(&fence, 1, 0));
        assert!(!fence.raise(Epoch(2), &pairs(&[(2, 1)])), "a fence is not raised twice");
        assert!(fence.raise(Epoch(3), &pairs(&[(1, 1), (2, 1), (3, 2)])));
        assert!(accepts(&fence, 1, 1) && accepts(&fence, 3, 2));
        assert!(!accepts(&fence, 2, 1), "whoever was refused stays out");
        assert!(fence.raise(Epoch(4), &[]));
        assert!(!accepts(&fence, 1, 1) && !accepts(&fence, 3, 2) && accepts(&fence, 4, 4));
    }

    proptest! {
        #[test]
        fn fences_only_tighten(
            fences in proptest::collection::vec((1u64..6, proptest::collection::btree_map(0u64..4, 0u64..6, 0..4)), 1..8)
        ) {
            let mut fence = Fence::default();
            for (lowest, kept) in fences {
                let kept: Vec<(u64, u64)> = kept.into_iter().collect();
                let before = fence.clone();
                let raised = fence.raise(Epoch(lowest), &pairs(&kept));
                for client in 0..4 {
                    for epoch in 0..6 {
                        let (was, is) = (accepts(&before, client, epoch), accepts(&fence, client, epoch));
                        prop_assert!(was || !is, "client {client} of epoch {epoch} came back");
                        let named = kept.contains(&(client, epoch));
                        if raised && epoch < lowest {
                            prop_assert_eq!(is, was && named);
                        }
                    }
                }
            }
        }
    }
}
