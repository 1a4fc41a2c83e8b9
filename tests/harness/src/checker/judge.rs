//! What each block may hold. Pure: calls in, verdicts out.

use std::collections::VecDeque;
use std::fmt;

use super::stamp::{self, BLOCK, Found};

/// How many past values of a block are remembered as "zeros or stamped".
const HISTORY: usize = 256;

/// Something that no correct device returns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The block.
    pub block: u64,
    /// The lowest sequence it could have held.
    pub floor: u64,
    /// The highest sequence it could have held.
    pub issued: u64,
    /// What came instead.
    pub found: Found,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block, floor, issued, found } = self;
        let kind = match found {
            Found::Torn { .. } => "torn",
            Found::Stamped(stamp) if stamp.sequence < *floor => "stale or lost",
            Found::Zeros => "lost",
            Found::Stamped(_) => "foreign",
        };
        write!(f, "block {block}: {kind}: expected sequence {floor}..={issued}, found {found:?}")
    }
}

/// One block's past.
#[derive(Clone, Debug, Default)]
struct Register {
    /// The highest sequence known to have happened.
    floor: u64,
    /// The highest sequence issued.
    issued: u64,
    /// Whether a write is in flight.
    writing: bool,
    /// Sequences whose value is zeros, newest last. Sequence 0, the fresh volume, is zeros too.
    zeros: VecDeque<u64>,
}

/// The floors of a read's blocks, taken when it began.
#[derive(Clone, Debug)]
pub struct ReadTicket {
    first: u64,
    floors: Vec<u64>,
}

/// All blocks of one run.
#[derive(Clone, Debug)]
pub struct Judge {
    run: u64,
    registers: Vec<Register>,
}

impl Judge {
    /// Blocks that were never written.
    pub fn new(run: u64, blocks: u64) -> Self {
        Self { run, registers: vec![Register::default(); blocks as usize] }
    }

    /// How many blocks.
    pub fn blocks(&self) -> u64 {
        self.registers.len() as u64
    }

    /// Issues a value for each block of the range, or `None` when one of them is being written.
    pub fn begin_write(&mut self, first: u64, count: u64, zeros: bool) -> Option<Vec<u64>> {
        let range = first as usize..(first + count) as usize;
        if self.registers[range.clone()].iter().any(|register| register.writing) {
            return None;
        }
        let issue = |register: &mut Register| {
            register.writing = true;
            register.issued += 1;
            if zeros {
                register.zeros.push_back(register.issued);
                if register.zeros.len() > HISTORY {
                    register.zeros.pop_front();
                }
            }
            register.issued
        };
        Some(self.registers[range].iter_mut().map(issue).collect())
    }

    /// The write of these values ended; `acknowledged` when it certainly happened.
    pub fn end_write(&mut self, first: u64, sequences: &[u64], acknowledged: bool) {
        for (register, sequence) in self.registers[first as usize..].iter_mut().zip(sequences) {
            register.writing = false;
            if acknowledged {
                register.floor = register.floor.max(*sequence);
            }
        }
    }

    /// A read begins.
    pub fn begin_read(&self, first: u64, count: u64) -> ReadTicket {
        let range = first as usize..(first + count) as usize;
        ReadTicket { first, floors: self.registers[range].iter().map(|register| register.floor).collect() }
    }

    /// A read ended with these bytes.
    pub fn end_read(&mut self, ticket: &ReadTicket, bytes: &[u8]) -> Vec<Violation> {
        assert_eq!(bytes.len(), ticket.floors.len() * BLOCK, "the read's length was checked");
        let blocks = ticket.floors.iter().enumerate().zip(bytes.chunks(BLOCK));
        blocks
            .filter_map(|((at, floor), bytes)| self.judge(ticket.first + at as u64, *floor, bytes).err())
            .collect()
    }

    fn judge(&mut self, block: u64, floor: u64, bytes: &[u8]) -> Result<(), Violation> {
        let run = self.run;
        let register = &mut self.registers[block as usize];
        let found = stamp::read(bytes);
        let sequence = match found {
            Found::Zeros => register.zeros_from(floor),
            Found::Stamped(stamp) if stamp.run == run && stamp.block == block => {
                Some(stamp.sequence).filter(|sequence| (floor..=register.issued).contains(sequence))
            }
            Found::Stamped(_) | Found::Torn { .. } => None,
        };
        let Some(sequence) = sequence else {
            return Err(Violation { block, floor, issued: register.issued, found });
        };
        register.floor = register.floor.max(sequence);
        Ok(())
    }
}

impl Register {
    /// The oldest value from `floor` on that is zeros.
    fn zeros_from(&self, floor: u64) -> Option<u64> {
        if floor == 0 {
            return Some(0);
        }
        self.zeros.iter().copied().find(|sequence| *sequence >= floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Stamp;

    fn block(sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        if sequence > 0 {
            Stamp { run: 7, block: 1, sequence }.fill(&mut bytes);
        }
        bytes
    }

    fn judge_with_acknowledged(count: u64) -> Judge {
        let mut judge = Judge::new(7, 4);
        for _ in 0..count {
            let sequences = judge.begin_write(1, 1, false).expect("nobody writes");
            judge.end_write(1, &sequences, true);
        }
        judge
    }

    #[test]
    fn a_lost_write_a_stale_read_and_a_torn_block_are_found() {
        let mut judge = judge_with_acknowledged(3);
        let ticket = judge.begin_read(1, 1);
        assert!(judge.end_read(&ticket, &block(3)).is_empty());
        assert_eq!(judge.end_read(&ticket, &block(0)).len(), 1, "lost");
        assert_eq!(judge.end_read(&ticket, &block(2)).len(), 1, "stale");
        assert_eq!(judge.end_read(&ticket, &block(4)).len(), 1, "never written");
        let mut torn = block(3);
        torn[1000] ^= 1;
        assert!(judge.end_read(&ticket, &torn)[0].to_string().contains("torn"));
        let mut foreign = block(0);
        Stamp { run: 7, block: 2, sequence: 3 }.fill(&mut foreign);
        assert_eq!(judge.end_read(&ticket, &foreign).len(), 1, "another block's bytes");
    }

    #[test]
    fn a_write_in_flight_may_show_and_once_shown_stays() {
        let mut judge = judge_with_acknowledged(1);
        let before = judge.begin_read(1, 1);
        let sequences = judge.begin_write(1, 1, false).expect("nobody writes");
        assert!(judge.begin_write(1, 1, false).is_none(), "one writer at a time");
        let during = judge.begin_read(1, 1);
        assert!(judge.end_read(&during, &block(2)).is_empty(), "the new value may show");
        assert!(
            judge.end_read(&before, &block(1)).is_empty(),
            "a read that began earlier may see the old one"
        );
        let after = judge.begin_read(1, 1);
        assert_eq!(judge.end_read(&after, &block(1)).len(), 1, "it must not disappear again");
        judge.end_write(1, &sequences, false);
        assert!(judge.begin_write(1, 1, false).is_some());
    }

    #[test]
    fn zeros_are_a_value() {
        let mut judge = judge_with_acknowledged(2);
        let sequences = judge.begin_write(1, 1, true).expect("nobody writes");
        judge.end_write(1, &sequences, true);
        let ticket = judge.begin_read(1, 1);
        assert!(judge.end_read(&ticket, &block(0)).is_empty());
        assert_eq!(judge.end_read(&ticket, &block(2)).len(), 1, "trimmed bytes must not come back");
    }
}
