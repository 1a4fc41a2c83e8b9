//! CPU time of processes, from `/proc`.

/// CPU seconds (user and system) that the processes have spent since they started. One that has ended counts 0.
pub fn seconds(pids: &[u32]) -> f64 {
    // USER_HZ is 100 on every Linux that matters; it is part of the ABI of /proc.
    pids.iter()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .map(|stat| ticks(&stat))
        .sum::<f64>()
        / 100.0
}

fn ticks(stat: &str) -> f64 {
    // Fields 14 and 15; the command in parentheses may hold spaces.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// Bytes resident of all processes together.
pub fn resident_bytes(pids: &[u32]) -> u64 {
    let pages = |pid: &u32| {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    pids.iter().filter_map(pages).sum::<u64>() * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_survive_odd_names() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), 100.0);
        assert!(seconds(&[std::process::id()]) >= 0.0);
        assert!(resident_bytes(&[std::process::id()]) > 0);
    }
}
