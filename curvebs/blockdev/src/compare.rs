//! Comparison of bytes that lie in parts.

use bytes::Bytes;

/// Bytes in all parts.
pub fn total_bytes(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The first byte in which two runs of parts differ. What one is longer than the other is not looked at.
pub fn first_difference(left: &[Bytes], right: &[Bytes]) -> Option<u64> {
    let (mut at, mut skip_left, mut skip_right) = (0, 0, 0);
    let (mut left, mut right) = (left.iter(), right.iter());
    let (mut a, mut b) = (left.next(), right.next());
    while let (Some(one), Some(other)) = (a, b) {
        let (rest_one, rest_other) = (&one[skip_left..], &other[skip_right..]);
        let len = rest_one.len().min(rest_other.len());
        if rest_one[..len] != rest_other[..len] {
            let equal = rest_one.iter().zip(rest_other).take_while(|(x, y)| x == y).count();
            return Some(at + equal as u64);
        }
        at += len as u64;
        skip_left += len;
        skip_right += len;
        if skip_left == one.len() {
            (a, skip_left) = (left.next(), 0);
        }
        if skip_right == other.len() {
            (b, skip_right) = (right.next(), 0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_across_parts() {
        let parts = |texts: &[&'static str]| texts.iter().map(|text| Bytes::from(*text)).collect::<Vec<_>>();
        for (left, right, at) in [
            (parts(&["abc", "def"]), parts(&["a", "bcde", "f"]), None),
            (parts(&["abc", "def"]), parts(&["a", "bcdX", "f"]), Some(4)),
            (parts(&["", "Xb"]), parts(&["ab"]), Some(0)),
            (parts(&[]), parts(&[]), None),
        ] {
            assert_eq!(first_difference(&left, &right), at);
        }
    }
}
