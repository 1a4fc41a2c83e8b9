//! fuser does not pass `FUSE_INTERRUPT` on. Who waits for a lock has to die when it is told to, so its pending signals are
//! read where the kernel shows them (`proc_pid_status(5)`).
//!
//! **A signal to the process** is pending for all its threads until one takes it: the kernel wakes the first thread if it may have
//! it, else some other (`complete_signal` in the kernel's `signal.c`). Only the one that was woken may be told `EINTR`: FUSE makes
//! it a restart of the call, and who has no signal does not restart: it gets an error that no program knows (512, `ERESTARTSYS`).
//! Who was woken is not shown, so it is the thread when it is the first, or when nobody else can be on its way to the signal:
//! a thread that was woken runs until it has taken it, or waits where signals do not wake it.

use std::io;

/// What is shown of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Thread {
    /// Runs, is about to, or waits where a signal does not wake it.
    is_busy: bool,
    /// Signals for it, for all of its process, and those that it does not take.
    own: u64,
    shared: u64,
    kept_out: u64,
}

impl Thread {
    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map_or("", str::trim)
        };
        let mask = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(0);
        Self {
            is_busy: field("State").starts_with(['R', 'D']),
            own: mask("SigPnd"),
            shared: mask("ShdPnd"),
            kept_out: mask("SigBlk") | mask("SigIgn"),
        }
    }

    /// Signals to the process that this thread has been woken for, if `others` are the other threads.
    fn shared_with(&self, others: impl IntoIterator<Item = Self>) -> u64 {
        let busy = others.into_iter().filter(|other| other.is_busy);
        busy.fold(self.shared & !self.kept_out, |signals, other| signals & other.kept_out)
    }
}

/// Whether a thread was woken for a signal. A thread that is gone has been interrupted for good.
pub(crate) fn is_interrupted(thread: u32) -> bool {
    look(thread).unwrap_or_else(|error| error.kind() == io::ErrorKind::NotFound)
}

fn look(thread: u32) -> io::Result<bool> {
    let status = |of: u32| std::fs::read_to_string(format!("/proc/{of}/status"));
    let text = status(thread)?;
    let own = Thread::parse(&text);
    if own.own & !own.kept_out != 0 {
        return Ok(true);
    }
    let signals = own.shared & !own.kept_out;
    if signals == 0 || text.lines().any(|line| line == format!("Tgid:\t{thread}")) {
        return Ok(signals != 0);
    }
    let mut others = Vec::new();
    for other in std::fs::read_dir(format!("/proc/{thread}/task"))? {
        let other = other?.file_name().to_str().and_then(|name| name.parse().ok());
        // One that has ended meanwhile takes nothing.
        if let Some(status) = other.filter(|other| *other != thread).and_then(|other| status(other).ok()) {
            others.push(Thread::parse(&status));
        }
    }
    // Another may have taken it before it was looked at.
    let later = Thread::parse(&status(thread)?).shared;
    Ok(own.shared_with(others) & later != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_shows_is_read() {
        let status = "Name:\tx\nState:\tD (disk sleep)\nTgid:\t7\nSigPnd:\t0000000000000004\nShdPnd:\t0000000000000200\n\
                      SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\n";
        let thread = Thread::parse(status);
        assert_eq!(thread, Thread { is_busy: true, own: 4, shared: 0x200, kept_out: 0x1001 });
        assert!(!Thread::parse("State:\tS (sleeping)\n").is_busy);
        assert!(Thread::parse("State:\tR (running)\n").is_busy);
        assert_eq!(Thread::parse("Sig"), Thread::default());
        assert!(!is_interrupted(std::process::id()));
        assert!(is_interrupted(u32::MAX >> 1), "nobody has this number");
    }

    #[test]
    fn signals_to_the_process_are_somebody_elses_if_they_can_be() {
        let thread = |is_busy, kept_out| Thread { is_busy, kept_out, own: 0, shared: 0b110 };
        for (own, others, expected) in [
            (thread(true, 0), vec![], 0b110),
            (thread(true, 0b010), vec![], 0b100),
            (thread(true, 0b110), vec![], 0),
            (thread(true, 0), vec![thread(false, 0), thread(false, 0)], 0b110),
            (thread(true, 0), vec![thread(false, 0), thread(true, 0)], 0),
            (thread(true, 0), vec![thread(true, 0b010), thread(false, 0)], 0b010),
            (thread(true, 0), vec![thread(true, 0b010), thread(true, 0b100)], 0),
        ] {
            assert_eq!(own.shared_with(others.clone()), expected, "{own:?} {others:?}");
        }
    }
}
