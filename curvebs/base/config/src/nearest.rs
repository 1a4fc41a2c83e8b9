//! Which name was probably meant.

/// The known name that `name` is most likely a slip of, if one is close enough.
///
/// Close is a third of the letters (at least two edits; swapped neighbours are one edit), `-` and `_` and the case of
/// letters not counting, or one being the beginning of the other.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = fold(name);
    let score = |candidate: &str| {
        let candidate = fold(candidate);
        let is_prefix = folded.len() >= 3
            && candidate.len() >= 3
            && (candidate.starts_with(&folded) || folded.starts_with(&candidate));
        let distance = strsim::damerau_levenshtein(&folded, &candidate);
        let edits_max = (folded.chars().count().max(candidate.chars().count()) / 3).max(2);
        let is_close = distance <= edits_max && distance < candidate.chars().count();
        (is_close || is_prefix).then_some(distance)
    };
    known
        .iter()
        .filter_map(|candidate| Some((score(candidate)?, *candidate)))
        .min()
        .map(|(_, candidate)| candidate)
}

fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["address", "data_dir", "copysets", "tls", "heartbeat_interval"];
        for (slip, meant) in [
            ("adress", Some("address")),
            ("data-dir", Some("data_dir")),
            ("DataDir", Some("data_dir")),
            ("copyset", Some("copysets")),
            ("heartbeat", Some("heartbeat_interval")),
            ("tsl", Some("tls")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(slip, &known), meant, "{slip}");
        }
    }
}
