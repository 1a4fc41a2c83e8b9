//! fuser does not pass `FUSE_INTERRUPT` on. Who waits for a lock has to die when it is told to, so its pending signals are
//! read where the kernel shows them (`proc_pid_status(5)`).

/// Whether a thread has a signal that is neither blocked nor ignored. A thread that is gone has been interrupted for good.
pub(crate) fn is_interrupted(thread: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(status) => has_signal(&status),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

fn has_signal(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_signals_count_unless_blocked_or_ignored() {
        for (pending, shared, blocked, ignored, expected) in [
            (0, 0, 0, 0, false),
            (4, 0, 0, 0, true),
            (0, 4, 0, 0, true),
            (4, 2, 4, 2, false),
            (256, 0, 1, 2, true),
        ] {
            let status = format!(
                "Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
            );
            assert_eq!(has_signal(&status), expected, "{status}");
        }
        assert!(!is_interrupted(std::process::id()));
    }
}
