//! What clients saw of each block, and whether one register could have shown it.
//!
//! Every write stores a value of its own, so a read names the write it saw. For such histories linearizability is
//! decided by *zones* (Gibbons and Korach, "Testing shared memories", 1997): the zone of a value lies between the
//! earliest end and the latest start of the operations that wrote or read it. If the earliest end comes first, the
//! value was surely current throughout (a forward zone); otherwise it was current at some instant within (a backward
//! zone). The history is linearizable exactly if no read ends before its write began, no two forward zones overlap,
//! and no backward zone lies inside a forward one.
//!
//! A write whose outcome nobody knows may take effect at any time after its start, or never: its end is at infinity,
//! and it counts only if its value was read.

use std::collections::BTreeMap;

/// A moment: the number of the event in the run. A simulation has one thread, so events are in one order.
pub type Moment = u64;

/// The value of a block that was never written.
pub const NEVER_WRITTEN: u64 = 0;

/// Operations on all blocks.
#[derive(Debug, Default)]
pub struct History {
    now: Moment,
    writes: BTreeMap<u64, Write>,
    reads: Vec<Read>,
    /// Since when a volume's epoch has been open, by epoch.
    opened: BTreeMap<u64, Moment>,
    /// Since when a writer has been shut out.
    shut_out: BTreeMap<u64, Moment>,
}

#[derive(Debug, Clone, Copy)]
struct Write {
    block: u64,
    started: Moment,
    /// `None`: nobody knows whether it happened.
    ended: Option<Moment>,
    /// Surely never happened.
    refused: bool,
    /// The epoch of its writer.
    epoch: u64,
    /// Its writer, where writers are told apart; else 0.
    writer: u64,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    block: u64,
    value: u64,
    started: Moment,
    ended: Moment,
}

/// Names a write until its end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(pub u64);

#[derive(Debug, Clone, Copy)]
struct Zone {
    value: u64,
    first_end: Moment,
    last_start: Moment,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.first_end < self.last_start
    }

    fn low(&self) -> Moment {
        self.first_end.min(self.last_start)
    }

    fn high(&self) -> Moment {
        self.first_end.max(self.last_start)
    }
}

impl History {
    /// A new moment, later than all before.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A client has the volume under `epoch`: from now on no write of a lower one may be acknowledged.
    pub fn open(&mut self, epoch: u64) {
        let now = self.tick();
        self.opened.entry(epoch).or_insert(now);
    }

    /// Begins a write of a new value to `block` by a holder of `epoch`.
    pub fn begin_write(&mut self, block: u64, epoch: u64) -> Value {
        let started = self.tick();
        self.writes.insert(started, Write { block, started, ended: None, refused: false, epoch, writer: 0 });
        Value(started)
    }

    /// Begins a write of a new value to `block` by one of several writers, who are told apart by a number above 0 and not
    /// by their epochs.
    pub fn begin_write_by(&mut self, block: u64, writer: u64) -> Value {
        let value = self.begin_write(block, 0);
        self.writes.get_mut(&value.0).expect("it was begun").writer = writer;
        value
    }

    /// A writer was shut out at `moment` at the latest: what it began before took effect before, or never does, and what
    /// it begins after never does.
    pub fn shut_out(&mut self, writer: u64, moment: Moment) {
        self.shut_out.entry(writer).or_insert(moment);
    }

    /// The write was acknowledged.
    pub fn end_write(&mut self, value: Value) {
        let ended = self.tick();
        self.writes.get_mut(&value.0).expect("it was begun").ended = Some(ended);
    }

    /// The write was refused before it could happen: its value must never be seen.
    pub fn refuse_write(&mut self, value: Value) {
        self.writes.get_mut(&value.0).expect("it was begun").refused = true;
    }

    /// A read that began at `started` and now ends with `value`.
    pub fn end_read(&mut self, block: u64, value: u64, started: Moment) {
        let ended = self.tick();
        self.reads.push(Read { block, value, started, ended });
    }

    /// Operations recorded: writes acknowledged, writes of unknown outcome, reads.
    pub fn counts(&self) -> (usize, usize, usize) {
        let acknowledged = self.writes.values().filter(|write| write.ended.is_some()).count();
        (acknowledged, self.writes.len() - acknowledged, self.reads.len())
    }

    /// Checks every block. The error names the block and the operations that contradict each other.
    pub fn check(&self) -> Result<(), String> {
        let mut blocks: BTreeMap<u64, BTreeMap<u64, Zone>> = BTreeMap::new();
        for (&value, write) in &self.writes {
            self.check_fence(value, write)?;
            let shut_out = self.shut_out_at(write);
            let first_end = write.ended.unwrap_or(Moment::MAX).min(shut_out);
            let zone = Zone { value, first_end, last_start: write.started };
            blocks.entry(write.block).or_default().insert(value, zone);
        }
        let mut seen = BTreeMap::new();
        for read in &self.reads {
            let zones = blocks.entry(read.block).or_default();
            zones.entry(NEVER_WRITTEN).or_insert(Zone { value: NEVER_WRITTEN, first_end: 0, last_start: 0 });
            self.check_origin(read)?;
            let zone = zones.get_mut(&read.value).expect("the origin was checked");
            zone.first_end = zone.first_end.min(read.ended);
            zone.last_start = zone.last_start.max(read.started);
            seen.insert(read.value, ());
        }
        for (block, zones) in &blocks {
            let counted = zones.values().filter(|zone| {
                zone.value == NEVER_WRITTEN
                    || seen.contains_key(&zone.value)
                    || self.writes[&zone.value].ended.is_some()
            });
            check_zones(*block, counted.copied().collect())
                .map_err(|error| format!("{error}\n{}", self.tell(*block)))?;
        }
        Ok(())
    }

    /// A write that began after its writer was shut out, or after somebody else had opened the volume under a higher
    /// epoch, cannot be acknowledged.
    fn check_fence(&self, value: u64, write: &Write) -> Result<(), String> {
        if write.ended.is_some() && self.shut_out_at(write) < write.started {
            let (block, writer) = (write.block, write.writer);
            return Err(format!(
                "block {block}: write {value} was acknowledged after writer {writer} was shut out"
            ));
        }
        let fenced_by = self.opened.range(write.epoch + 1..).find(|(_, opened)| **opened < write.started);
        match (write.ended, fenced_by) {
            (Some(_), Some((epoch, _))) => Err(format!(
                "block {}: write {value} of epoch {} was acknowledged although epoch {epoch} had been opened",
                write.block, write.epoch
            )),
            _ => Ok(()),
        }
    }

    fn shut_out_at(&self, write: &Write) -> Moment {
        self.shut_out.get(&write.writer).copied().unwrap_or(Moment::MAX)
    }

    fn check_origin(&self, read: &Read) -> Result<(), String> {
        if read.value == NEVER_WRITTEN {
            return Ok(());
        }
        let Some(write) = self.writes.get(&read.value) else {
            return Err(format!("block {}: a read returned {}, which nobody wrote", read.block, read.value));
        };
        if write.block != read.block {
            return Err(format!(
                "block {}: a read returned {}, written to block {}",
                read.block, read.value, write.block
            ));
        }
        if write.refused {
            return Err(format!(
                "block {}: a read returned {}, whose write was refused",
                read.block, read.value
            ));
        }
        if self.shut_out_at(write) < write.started {
            return Err(format!(
                "block {}: a read returned {}, written after writer {} was shut out",
                read.block, read.value, write.writer
            ));
        }
        if write.started > read.ended {
            return Err(format!(
                "block {}: a read returned {} before it was written",
                read.block, read.value
            ));
        }
        Ok(())
    }

    fn tell(&self, block: u64) -> String {
        let mut lines = Vec::new();
        for (value, write) in self.writes.iter().filter(|(_, write)| write.block == block) {
            let ended = write.ended.map_or_else(|| "?".into(), |ended| ended.to_string());
            lines.push((write.started, format!("  write {value}: {}..{ended}", write.started)));
        }
        for read in self.reads.iter().filter(|read| read.block == block) {
            lines.push((read.started, format!("  read of {}: {}..{}", read.value, read.started, read.ended)));
        }
        lines.sort();
        lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    }
}

fn check_zones(block: u64, mut zones: Vec<Zone>) -> Result<(), String> {
    zones.sort_by_key(|zone| (zone.low(), zone.high()));
    let mut forward: Option<Zone> = None;
    for zone in &zones {
        let Some(before) = forward.filter(|before| zone.low() < before.high()) else {
            forward = if zone.is_forward() { Some(*zone) } else { forward };
            continue;
        };
        if zone.is_forward() {
            return Err(format!(
                "block {block}: {} and {} were both current: a stale read or a lost write",
                before.value, zone.value
            ));
        }
        if zone.high() < before.high() {
            return Err(format!(
                "block {block}: {} was written and gone while {} stayed current: a lost write",
                zone.value, before.value
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(history: &mut History, block: u64) -> u64 {
        let value = history.begin_write(block, 1);
        history.end_write(value);
        value.0
    }

    fn read(history: &mut History, block: u64, value: u64) {
        let started = history.tick();
        history.end_read(block, value, started);
    }

    #[test]
    fn a_sequential_history_passes() {
        let mut history = History::default();
        read(&mut history, 1, NEVER_WRITTEN);
        let a = write(&mut history, 1);
        read(&mut history, 1, a);
        let b = write(&mut history, 1);
        read(&mut history, 1, b);
        read(&mut history, 2, NEVER_WRITTEN);
        history.check().unwrap();
    }

    #[test]
    fn a_lost_write_is_found() {
        let mut history = History::default();
        let a = write(&mut history, 1);
        write(&mut history, 1);
        read(&mut history, 1, a);
        assert!(history.check().unwrap_err().contains("lost write"));
    }

    #[test]
    fn a_vanished_first_write_is_found() {
        let mut history = History::default();
        write(&mut history, 1);
        read(&mut history, 1, NEVER_WRITTEN);
        assert!(history.check().is_err());
    }

    #[test]
    fn reads_that_go_back_are_found() {
        let mut history = History::default();
        let old = write(&mut history, 1);
        let new = history.begin_write(1, 1);
        read(&mut history, 1, new.0);
        read(&mut history, 1, old);
        history.end_write(new);
        assert!(history.check().is_err());
    }

    #[test]
    fn a_write_of_unknown_outcome_may_land_late_or_never() {
        let mut history = History::default();
        let a = write(&mut history, 1);
        let unknown = history.begin_write(1, 1);
        read(&mut history, 1, a);
        let b = write(&mut history, 1);
        read(&mut history, 1, b);
        history.check().unwrap();
        read(&mut history, 1, unknown.0);
        history.check().unwrap();
        read(&mut history, 1, b);
        assert!(history.check().is_err(), "it cannot come and go");
    }

    #[test]
    fn concurrent_writes_may_land_in_either_order() {
        for first in [true, false] {
            let mut history = History::default();
            let (a, b) = (history.begin_write(1, 1), history.begin_write(1, 1));
            history.end_write(a);
            history.end_write(b);
            read(&mut history, 1, if first { a.0 } else { b.0 });
            history.check().unwrap();
            read(&mut history, 1, if first { b.0 } else { a.0 });
            assert!(history.check().is_err());
        }
    }

    #[test]
    fn a_refused_or_foreign_value_is_found() {
        let mut history = History::default();
        let refused = history.begin_write(1, 1);
        history.refuse_write(refused);
        read(&mut history, 1, refused.0);
        assert!(history.check().unwrap_err().contains("refused"));
        let mut history = History::default();
        let other = write(&mut history, 2);
        read(&mut history, 1, other);
        assert!(history.check().unwrap_err().contains("written to block 2"));
    }

    #[test]
    fn a_write_that_lands_after_its_writer_was_shut_out_is_found() {
        let mut history = History::default();
        let old = write(&mut history, 1);
        let early = history.begin_write_by(1, 7);
        let late = history.begin_write_by(1, 7);
        let now = history.tick();
        history.shut_out(7, now);
        read(&mut history, 1, early.0);
        history.check().unwrap();
        read(&mut history, 1, late.0);
        assert!(history.check().is_err(), "it was not there when its writer was shut out");

        let mut history = History::default();
        let now = history.tick();
        history.shut_out(7, now);
        let after = history.begin_write_by(1, 7);
        read(&mut history, 1, NEVER_WRITTEN);
        history.check().unwrap();
        read(&mut history, 1, after.0);
        assert!(history.check().unwrap_err().contains("written after writer 7 was shut out"));
        history.end_write(after);
        assert!(history.check().unwrap_err().contains("acknowledged after"));
        let _ = old;
    }

    #[test]
    fn an_acknowledged_write_of_a_fenced_holder_is_found() {
        let mut history = History::default();
        history.open(1);
        let before = history.begin_write(1, 1);
        history.open(2);
        history.end_write(before);
        history.check().unwrap();
        let after = history.begin_write(1, 1);
        history.check().unwrap();
        history.end_write(after);
        assert!(history.check().unwrap_err().contains("although epoch 2"));
    }
}
