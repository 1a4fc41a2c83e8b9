//! `--block-size`.

use clap::ValueEnum;

/// A block size that devices can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BlockSize {
    /// Sectors, which everybody takes; a part of a block that is written costs a read of its block.
    #[value(name = "512")]
    Sector,
    /// Blocks as they are stored.
    #[value(name = "4096")]
    Block,
}

impl BlockSize {
    /// As a number.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Sector => 512,
            Self::Block => 4096,
        }
    }
}
