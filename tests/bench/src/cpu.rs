//! CPU time of processes and of the machine, from `/proc`.

// USER_HZ is 100 on every Linux that matters; it is part of the ABI of /proc.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds (user and system) that the processes have spent since they started. One that has ended counts 0.
pub fn seconds(pids: &[u32]) -> f64 {
    pids.iter()
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .map(|stat| ticks(&stat, 14))
        .sum::<f64>()
        / TICKS_PER_SECOND
}

/// CPU seconds of all programs that this process has run to their end. All their threads count, which fio's own
/// figures leave out: librbd does its work in threads of its own.
pub fn ended_children_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    ticks(&stat, 16) / TICKS_PER_SECOND
}

/// CPU seconds of the whole machine since it started, and those that its host took away.
pub fn machine_seconds() -> f64 {
    busy_ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default()) / TICKS_PER_SECOND
}

/// A field of `/proc/PID/stat`, counted from 1, and the one after it.
fn ticks(stat: &str, field: usize) -> f64 {
    // The command, field 2, is in parentheses and may hold spaces.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after.split_whitespace().skip(field - 3).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}

fn busy_ticks(stat: &str) -> f64 {
    // user, nice, system, (idle, iowait, irq, softirq,) steal
    let fields = stat.lines().next().unwrap_or("").split_whitespace().skip(1);
    let numbers = fields.map(|field| field.parse::<f64>().unwrap_or(0.0));
    numbers.enumerate().filter(|(at, _)| matches!(at, 0..=2 | 7)).map(|(_, ticks)| ticks).sum()
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
        assert_eq!(ticks(stat, 14), 100.0);
        assert_eq!(ticks(stat, 16), 0.0);
        assert!(seconds(&[std::process::id()]) >= 0.0);
        assert!(resident_bytes(&[std::process::id()]) > 0);
    }

    #[test]
    fn idle_time_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 2000 50 60 8 0 0\ncpu0 9 9 9 9"), 15.0);
        assert!(machine_seconds() > 0.0);
    }
}
