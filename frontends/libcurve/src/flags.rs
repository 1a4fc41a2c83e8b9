//! Open flags, and the mode that they mean.

use curve_client::OpenOptions;
use curve_client::mds::OpenMode;

use crate::code::Code;

/// The bits, as in the header.
pub mod flag {
    /// Alone among writers.
    pub const EXCLUSIVE: i32 = 1;
    /// Beside other writers.
    pub const SHARED: i32 = 1 << 1;
    /// Reads and writes.
    pub const RDWR: i32 = 1 << 2;
    /// Reads only, beside anybody.
    pub const RDONLY: i32 = 1 << 3;
    /// Reads and writes; the original's word for "although another client might".
    pub const FORCE_WRITE: i32 = 1 << 4;
    /// Ours: let 512-byte sectors be addressed.
    pub const SECTORS: i32 = 1 << 16;
}

const ALL: i32 =
    flag::EXCLUSIVE | flag::SHARED | flag::RDWR | flag::RDONLY | flag::FORCE_WRITE | flag::SECTORS;

/// How a volume is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening(pub OpenOptions);

impl Opening {
    /// What `Open` without flags means.
    pub const DEFAULT_FLAGS: i32 = flag::EXCLUSIVE | flag::RDWR;

    /// Reads flags. Exclusive unless shared; without a flag for writing it only reads, as the original does.
    pub fn parse(flags: i32, takeover: bool) -> Result<Self, Code> {
        let has = |bit: i32| flags & bit != 0;
        let writes = has(flag::RDWR) || has(flag::FORCE_WRITE);
        let contradicts = has(flag::EXCLUSIVE) && has(flag::SHARED) || has(flag::RDONLY) && writes;
        if flags & !flag::SECTORS == 0 || flags & !ALL != 0 || contradicts {
            return Err(Code::Param);
        }
        let mode = match (writes, has(flag::SHARED)) {
            (false, _) => OpenMode::ReadOnly,
            (true, true) => OpenMode::Shared,
            (true, false) => OpenMode::Exclusive,
        };
        Ok(Self(OpenOptions { mode, takeover, sectors: has(flag::SECTORS) }))
    }
}

#[cfg(test)]
mod tests {
    use super::flag::{EXCLUSIVE, FORCE_WRITE, RDONLY, RDWR, SECTORS, SHARED};
    use super::*;

    #[test]
    fn flags_mean_modes() {
        let cases = [
            (EXCLUSIVE | RDWR, Ok(OpenMode::Exclusive)),
            (RDWR, Ok(OpenMode::Exclusive)),
            (FORCE_WRITE, Ok(OpenMode::Exclusive)),
            (SHARED | RDWR, Ok(OpenMode::Shared)),
            (SHARED | FORCE_WRITE, Ok(OpenMode::Shared)),
            (SHARED | RDONLY, Ok(OpenMode::ReadOnly)),
            (EXCLUSIVE | RDONLY | SECTORS, Ok(OpenMode::ReadOnly)),
            (EXCLUSIVE, Ok(OpenMode::ReadOnly)),
            (0, Err(Code::Param)),
            (SECTORS, Err(Code::Param)),
            (EXCLUSIVE | SHARED | RDWR, Err(Code::Param)),
            (RDONLY | RDWR, Err(Code::Param)),
            (RDWR | 1 << 9, Err(Code::Param)),
            (-1, Err(Code::Param)),
        ];
        for (flags, mode) in cases {
            assert_eq!(Opening::parse(flags, false).map(|opening| opening.0.mode), mode, "{flags:#x}");
        }
        let Opening(options) = Opening::parse(RDWR | SECTORS, true).unwrap();
        assert!(options.sectors && options.takeover);
    }

    #[test]
    fn the_header_has_the_same_bits() {
        let header = include_str!("../include/libcurve_define.h");
        for (name, shift, bit) in [
            ("CURVE_EXCLUSIVE", 0, EXCLUSIVE),
            ("CURVE_SHARED", 1, SHARED),
            ("CURVE_RDWR", 2, RDWR),
            ("CURVE_RDONLY", 3, RDONLY),
            ("CURVE_FORCE_WRITE", 4, FORCE_WRITE),
            ("CURVE_SECTORS", 16, SECTORS),
        ] {
            assert_eq!(bit, 1 << shift);
            assert!(header.contains(&format!("    {name} = 1 << {shift},")), "{name}");
        }
    }
}
