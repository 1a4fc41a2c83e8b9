//! Logical unit numbers (SAM-5 4.7).

/// The number of a logical unit in its target: 0 to 16383.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lun(u16);

impl Lun {
    /// The highest number that flat space addressing can express.
    pub const MAX: Lun = Lun(0x3fff);

    /// `number`, if it can be addressed.
    pub fn new(number: u16) -> Option<Lun> {
        (number <= Self::MAX.0).then_some(Lun(number))
    }

    /// The number itself.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The eight bytes that address it: peripheral device addressing below 256, flat space addressing above.
    pub fn to_bytes(self) -> [u8; 8] {
        let [high, low] = self.0.to_be_bytes();
        let method = if self.0 < 256 { 0x00 } else { 0x40 };
        [method | high, low, 0, 0, 0, 0, 0, 0]
    }
}

/// What the eight bytes of a LUN field address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LunAddress {
    /// A logical unit of the target.
    Unit(Lun),
    /// The REPORT LUNS well known logical unit.
    ReportLuns,
    /// Something no unit here can have: another level, another method, another well known unit.
    Unknown,
}

impl LunAddress {
    /// Reads a LUN field.
    pub fn from_bytes(field: [u8; 8]) -> LunAddress {
        let [first, second, rest @ ..] = field;
        if rest != [0; 6] {
            return LunAddress::Unknown;
        }
        match (first >> 6, first, second) {
            (0b00, 0x00, number) => LunAddress::Unit(Lun(u16::from(number))),
            (0b01, high, low) => LunAddress::Unit(Lun(u16::from_be_bytes([high & 0x3f, low]))),
            (0b11, 0xc1, 0x01) => LunAddress::ReportLuns,
            _ => LunAddress::Unknown,
        }
    }
}

impl From<Lun> for LunAddress {
    fn from(lun: Lun) -> Self {
        LunAddress::Unit(lun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_sam_says() {
        let unit = |number| LunAddress::Unit(Lun(number));
        for (field, address) in [
            ([0, 0, 0, 0, 0, 0, 0, 0], unit(0)),
            ([0, 255, 0, 0, 0, 0, 0, 0], unit(255)),
            ([0x40, 5, 0, 0, 0, 0, 0, 0], unit(5)),
            ([0x41, 0, 0, 0, 0, 0, 0, 0], unit(256)),
            ([0x7f, 0xff, 0, 0, 0, 0, 0, 0], unit(0x3fff)),
            ([0xc1, 1, 0, 0, 0, 0, 0, 0], LunAddress::ReportLuns),
            ([0xc1, 2, 0, 0, 0, 0, 0, 0], LunAddress::Unknown),
            ([1, 0, 0, 0, 0, 0, 0, 0], LunAddress::Unknown),
            ([0x80, 0, 0, 0, 0, 0, 0, 0], LunAddress::Unknown),
            ([0, 1, 0, 1, 0, 0, 0, 0], LunAddress::Unknown),
        ] {
            assert_eq!(LunAddress::from_bytes(field), address, "{field:02x?}");
        }
    }

    #[test]
    fn every_number_comes_back_from_its_bytes() {
        for number in 0..=Lun::MAX.0 {
            let lun = Lun::new(number).expect("in range");
            assert_eq!(LunAddress::from_bytes(lun.to_bytes()), LunAddress::Unit(lun));
        }
        assert_eq!(Lun::new(0x4000), None);
    }
}
