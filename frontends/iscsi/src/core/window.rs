//! The command window of a session: which CmdSNs the initiator may use (RFC 7143 4.2.2.1).

use super::serial::Serial;

/// Numbers the commands of one connection.
///
/// A session has one connection, and an initiator sends commands on a connection in the order of their numbers. So the
/// only number in the window that can follow is the expected one; another one is a hole that nothing will ever fill.
///
/// MaxCmdSN never goes back: a command that arrives takes a place of the window, and one that ends gives it back.
#[derive(Debug)]
pub struct Window {
    expected: Serial,
    depth: u32,
    open: u32,
}

/// What a command's number says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It is next.
    InTurn,
    /// It is outside of the window: the command is to be ignored in silence.
    Outside,
    /// It is in the window but not next.
    Gap,
}

impl Window {
    /// A window of `depth` commands that begins at `first`.
    pub fn new(first: Serial, depth: u32) -> Self {
        assert!(depth > 0, "a window without room lets nothing in");
        Self { expected: first, depth, open: 0 }
    }

    /// Takes in the number of a non-immediate command.
    pub fn arrive(&mut self, number: Serial) -> Arrival {
        if number.is_before(self.expected) || self.last().is_before(number) {
            return Arrival::Outside;
        }
        if number != self.expected {
            return Arrival::Gap;
        }
        self.expected = self.expected.next();
        self.open += 1;
        Arrival::InTurn
    }

    /// Gives the place of a command back.
    pub fn leave(&mut self) {
        self.open = self.open.checked_sub(1).expect("more commands ended than came");
    }

    /// ExpCmdSN.
    pub fn expected(&self) -> Serial {
        self.expected
    }

    /// MaxCmdSN. One before ExpCmdSN while the window is closed.
    pub fn last(&self) -> Serial {
        self.expected.plus(self.depth - self.open).plus(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_in_turn() {
        for first in [1, 0, u32::MAX - 1] {
            let mut window = Window::new(Serial(first), 3);
            let at = |offset: u32| Serial(first).plus(offset);
            for (offset, arrival) in [
                (u32::MAX, Arrival::Outside),
                (1, Arrival::Gap),
                (3, Arrival::Outside),
                (0, Arrival::InTurn),
                (0, Arrival::Outside),
                (1, Arrival::InTurn),
                (2, Arrival::InTurn),
                // The window is closed now.
                (3, Arrival::Outside),
            ] {
                assert_eq!(window.arrive(at(offset)), arrival, "{first}+{offset}");
            }
            assert_eq!((window.expected(), window.last()), (at(3), at(2)));
            window.leave();
            assert_eq!(window.last(), at(3));
            assert_eq!(window.arrive(at(3)), Arrival::InTurn);
        }
    }

    #[test]
    fn the_last_number_never_goes_back() {
        let mut window = Window::new(Serial(7), 4);
        let mut last = window.last();
        for step in 0u32..1000 {
            if step.wrapping_mul(2_654_435_761) >> 31 == 0 {
                let expected = window.expected();
                window.arrive(expected);
            } else if window.open > 0 {
                window.leave();
            }
            assert!(!window.last().is_before(last), "step {step}");
            last = window.last();
        }
    }
}
