//! The numbers of changes that are under way at one partition.

use std::collections::VecDeque;

use curve_types::Sequence;

/// Gives out numbers from 1 and knows below which one all are answered.
///
/// Numbers belong to one partition: a change that turns out to belong to another one gets a number there. So what a
/// partition is told to forget never depends on how slow another one is.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// The lowest number that is not finished, or the next one.
    low: u64,
    /// Whether `low + i` is finished.
    finished: VecDeque<bool>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { low: 1, finished: VecDeque::new() }
    }
}

impl Numbers {
    /// Goes on where another process has stopped: it would have begun with `next`.
    pub fn from_next(next: Sequence) -> Self {
        Self { low: next.0.max(1), finished: VecDeque::new() }
    }

    /// The next number, if none is under way: all smaller ones are finished.
    pub fn next(&self) -> Option<Sequence> {
        self.finished.is_empty().then_some(Sequence(self.low))
    }

    /// The next number.
    pub fn begin(&mut self) -> Sequence {
        let number = self.low + self.finished.len() as u64;
        self.finished.push_back(false);
        Sequence(number)
    }

    /// Nobody waits for the answer to this one any more: it is known, or given up. Finishing twice changes nothing.
    pub fn finish(&mut self, number: Sequence) {
        let Some(at) = number.0.checked_sub(self.low) else { return };
        if let Some(finished) = self.finished.get_mut(at as usize) {
            *finished = true;
        }
        while self.finished.front() == Some(&true) {
            self.finished.pop_front();
            self.low += 1;
        }
    }

    /// All smaller numbers are finished.
    pub fn ack_below(&self) -> Sequence {
        Sequence(self.low)
    }

    /// How many are not finished.
    pub fn under_way(&self) -> usize {
        self.finished.iter().filter(|finished| !**finished).count()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_is_waited_for() {
        let mut numbers = Numbers::default();
        let all: Vec<_> = (0..3).map(|_| numbers.begin()).collect();
        assert_eq!(all, [1, 2, 3].map(Sequence));
        for (finish, ack_below, under_way) in
            [(2, 1, 2), (2, 1, 2), (1, 3, 1), (1, 3, 1), (3, 4, 0), (9, 4, 0)]
        {
            numbers.finish(Sequence(finish));
            assert_eq!(
                (numbers.ack_below(), numbers.under_way()),
                (Sequence(ack_below), under_way),
                "{finish}"
            );
        }
        assert_eq!(numbers.next(), Some(Sequence(4)));
        let mut after = Numbers::from_next(Sequence(4));
        assert_eq!(
            (after.ack_below(), numbers.begin(), after.begin()),
            (Sequence(4), Sequence(4), Sequence(4))
        );
        assert_eq!(numbers.next(), None, "one is under way");
        assert_eq!(Numbers::from_next(Sequence(0)).begin(), Sequence(1));
    }

    proptest! {
        #[test]
        fn no_number_is_acknowledged_before_it_is_finished(steps in prop::collection::vec(any::<Option<u8>>(), 0..300)) {
            let (mut numbers, mut open, mut last) = (Numbers::default(), BTreeSet::new(), 0);
            for step in steps {
                match step {
                    None => {
                        let number = numbers.begin();
                        prop_assert_eq!(number, Sequence(last + 1));
                        last = number.0;
                        open.insert(number.0);
                    }
                    Some(which) => {
                        let Some(number) = open.iter().nth(which as usize % open.len().max(1)).copied() else { continue };
                        open.remove(&number);
                        numbers.finish(Sequence(number));
                    }
                }
                prop_assert_eq!(numbers.ack_below().0, open.first().copied().unwrap_or(last + 1));
                prop_assert_eq!(numbers.under_way(), open.len());
            }
        }
    }
}
