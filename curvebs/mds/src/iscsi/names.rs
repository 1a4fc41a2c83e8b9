//! Names of targets, initiators and gateways.

use curve_proto::MdsError;

/// Longest name of a target or initiator in bytes (RFC 7143 4.2.7.1).
const NODE_BYTES_MAX: usize = 223;
const GATEWAY_BYTES_MAX: usize = 63;

/// The normal form of a target's or an initiator's name: case makes no difference.
pub(super) fn node(name: &str) -> Result<String, MdsError> {
    let normal = name.to_lowercase();
    let refuse = |why: &str| Err(MdsError::BadName { name: name.to_owned(), why: why.to_owned() });
    if !["iqn.", "eui.", "naa."].iter().any(|kind| normal.starts_with(kind) && normal.len() > kind.len()) {
        return refuse("it must begin with iqn., eui. or naa.");
    }
    if normal.len() > NODE_BYTES_MAX {
        return refuse("it has more than 223 bytes");
    }
    if !normal.chars().all(|letter| letter.is_alphanumeric() || "-.:".contains(letter)) {
        return refuse("only letters, digits, - . and : may be in it");
    }
    Ok(normal)
}

/// Checks a gateway's name.
pub(super) fn gateway(name: &str) -> Result<(), MdsError> {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if name.is_empty() || name.len() > GATEWAY_BYTES_MAX || !name.chars().all(good) {
        let why = "1 to 63 letters, digits, - . and _".to_owned();
        return Err(MdsError::BadName { name: name.to_owned(), why });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_rules() {
        assert_eq!(node("IQN.2026-01.com.Example:Disk").as_deref(), Ok("iqn.2026-01.com.example:disk"));
        for bad in ["", "iqn.", "disk", "any", "iqn.a b", "iqn.a\nb", &format!("iqn.{}", "x".repeat(220))] {
            assert!(matches!(node(bad), Err(MdsError::BadName { .. })), "{bad}");
        }
        assert_eq!(gateway("gw-1.rack_2"), Ok(()));
        for bad in ["", "a b", "ä", &"x".repeat(64)] {
            assert!(matches!(gateway(bad), Err(MdsError::BadName { .. })), "{bad}");
        }
    }
}
