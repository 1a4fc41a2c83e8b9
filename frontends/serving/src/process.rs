//! What `/proc/PID/stat` says of a process. Source: proc_pid_stat(5).

/// Its fields from the third on, the state.
pub fn fields_after_name(stat: &str) -> impl Iterator<Item = &str> {
    // The name of the program, in parentheses, may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace()
}

/// Whether a process has ended and only waits for its parent to notice.
pub fn is_dead(stat: &str) -> bool {
    matches!(fields_after_name(stat).next(), Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_dead_and_a_stopped_process_is_not() {
        assert!(is_dead("17 (curve-nbd) Z 1 17 17 0"));
        assert!(!is_dead("17 (curve-nbd) T 1 17 17 0"));
        assert!(!is_dead("17 (odd ) Z name) S 1 17 17 0"));
        assert!(!is_dead(""));
    }
}
