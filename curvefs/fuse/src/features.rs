//! What the kernel can do of what is wanted.

use std::sync::{Arc, OnceLock};

use fuser::InitFlags;

/// The kernel's answer to what it was asked for. Known once it has spoken.
#[derive(Clone, Debug, Default)]
pub struct Features {
    missing: Arc<OnceLock<Vec<String>>>,
}

impl Features {
    /// The kernel has said what it offers.
    pub(crate) fn told(&self, wanted: InitFlags, offered: InitFlags) {
        let missing = (wanted & !offered).iter_names().map(|(name, _)| name.to_owned()).collect();
        // It speaks once in a mount's life; after that nothing changes.
        let _ = self.missing.set(missing);
    }

    /// What is wanted and not offered, by the kernel's names; none before it has spoken.
    pub fn missing(&self) -> Option<&[String]> {
        self.missing.get().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_offered_is_named() {
        let features = Features::default();
        assert_eq!(features.missing(), None);
        let wanted = InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_BIG_WRITES;
        features.told(wanted, InitFlags::FUSE_ASYNC_READ | InitFlags::FUSE_BIG_WRITES);
        assert_eq!(features.missing(), Some(&["FUSE_POSIX_ACL".to_owned()][..]));
    }
}
