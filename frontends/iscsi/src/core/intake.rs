//! Data of one write on its way in: immediate, unsolicited, and asked for by R2T (RFC 7143 4.2.5.2, 11.7, 11.8).

use std::collections::VecDeque;

use bytes::Bytes;

use super::negotiate::SessionParams;
use super::reply::ReadyToTransfer;
use super::request::DataOut;
use super::wire::TAG_NONE;

/// A sequence of Data-Out PDUs that breaks the rules: what it brings cannot be trusted.
pub type Broken = &'static str;

/// Collects the data of a command. Data comes in order, within a run and from run to run (DataPDUInOrder and
/// DataSequenceInOrder are always Yes).
#[derive(Debug)]
pub struct Intake {
    /// Bytes to keep: what the initiator has and the command wants. What comes beyond is dropped.
    total: u32,
    parts: Vec<Bytes>,
    /// End of what was received.
    offset: u32,
    unsolicited: Option<Run>,
    solicited: VecDeque<Run>,
    /// End of what was asked for.
    asked: u32,
    /// R2Ts so far.
    r2ts: u32,
    burst_max: u32,
    outstanding_max: usize,
}

/// A sequence of Data-Out PDUs that is under way.
#[derive(Clone, Copy, Debug)]
struct Run {
    ttt: u32,
    end: u32,
    number: u32,
}

/// What a command says of its data.
#[derive(Clone, Debug)]
pub struct Announced {
    /// Expected data transfer length.
    pub expected: u32,
    /// Bytes that the command is going to use.
    pub wanted: u64,
    /// Immediate data.
    pub immediate: Bytes,
    /// No unsolicited Data-Out follows.
    pub last: bool,
}

impl Intake {
    /// Nothing is to come.
    pub fn none() -> Self {
        Self {
            total: 0,
            parts: Vec::new(),
            offset: 0,
            unsolicited: None,
            solicited: VecDeque::new(),
            asked: 0,
            r2ts: 0,
            burst_max: 1,
            outstanding_max: 1,
        }
    }

    /// Begins with what came with the command.
    pub fn begin(announced: Announced, params: &SessionParams) -> Result<Self, Broken> {
        let Announced { expected, wanted, immediate, last } = announced;
        let first_end = expected.min(params.first_burst_max);
        if !immediate.is_empty() && !params.immediate_data {
            return Err("immediate data although it was not agreed on");
        }
        if immediate.len() > first_end as usize {
            return Err("more immediate data than the first burst or the command has");
        }
        if !last && params.initial_r2t {
            return Err("unsolicited data is announced although it was not agreed on");
        }
        let mut intake = Self {
            total: u64::from(expected).min(wanted) as u32,
            unsolicited: (!last).then_some(Run { ttt: TAG_NONE, end: first_end, number: 0 }),
            burst_max: params.burst_max,
            outstanding_max: params.outstanding_r2t as usize,
            ..Self::none()
        };
        intake.keep(immediate);
        intake.asked = intake.offset;
        Ok(intake)
    }

    /// Bytes that this will hold.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// R2Ts so far.
    pub fn r2ts(&self) -> u32 {
        self.r2ts
    }

    /// Whether all is here.
    pub fn is_complete(&self) -> bool {
        self.unsolicited.is_none() && self.solicited.is_empty() && self.offset >= self.total
    }

    /// Takes a PDU in.
    pub fn accept(&mut self, pdu: DataOut) -> Result<(), Broken> {
        let run = if pdu.ttt == TAG_NONE { self.unsolicited.as_mut() } else { self.solicited.front_mut() };
        let run = run.filter(|run| run.ttt == pdu.ttt).ok_or("data that nobody asked for")?;
        if pdu.number != run.number {
            return Err("DataSN is out of order");
        }
        if pdu.offset != self.offset {
            return Err("data does not follow the data before it");
        }
        let end = self.offset.checked_add(pdu.data.len() as u32).filter(|end| *end <= run.end);
        let end = end.ok_or("more data than was asked for")?;
        run.number = run.number.wrapping_add(1);
        match (pdu.last, pdu.ttt) {
            (false, _) => {}
            (true, TAG_NONE) => {
                self.unsolicited = None;
                self.asked = end;
            }
            (true, _) if end < run.end => return Err("less data than was asked for"),
            (true, _) => {
                self.solicited.pop_front();
            }
        }
        self.keep(pdu.data);
        Ok(())
    }

    /// The next piece to ask for, under a tag that `ttt` gives, if there is one and it may be asked for now.
    pub fn next_r2t(&mut self, ttt: impl FnOnce() -> u32) -> Option<ReadyToTransfer> {
        let may = self.unsolicited.is_none() && self.solicited.len() < self.outstanding_max;
        if !may || self.asked >= self.total {
            return None;
        }
        let ttt = ttt();
        let r2t = ReadyToTransfer {
            ttt,
            number: self.r2ts,
            offset: self.asked,
            len: self.burst_max.min(self.total - self.asked),
        };
        self.asked += r2t.len;
        self.r2ts += 1;
        self.solicited.push_back(Run { ttt, end: self.asked, number: 0 });
        Some(r2t)
    }

    /// The data.
    pub fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.parts)
    }

    fn keep(&mut self, mut data: Bytes) {
        let room = self.total.saturating_sub(self.offset) as usize;
        self.offset += data.len() as u32;
        data.truncate(room);
        if !data.is_empty() {
            self.parts.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: u32 = TAG_NONE;

    fn params(initial_r2t: bool, immediate_data: bool) -> SessionParams {
        SessionParams {
            initial_r2t,
            immediate_data,
            first_burst_max: 8,
            burst_max: 10,
            outstanding_r2t: 2,
            ..SessionParams::default()
        }
    }

    fn begin(expected: u32, wanted: u64, immediate: usize, last: bool) -> Intake {
        let immediate = Bytes::from(vec![1; immediate]);
        Intake::begin(Announced { expected, wanted, immediate, last }, &params(false, true))
            .expect("it is in order")
    }

    fn pdu(ttt: u32, number: u32, offset: u32, len: usize, last: bool) -> DataOut {
        DataOut { last, itt: 1, ttt, number, offset, data: Bytes::from(vec![2; len]) }
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        for (initial_r2t, immediate_data, immediate, last, good) in [
            (true, false, 0, true, true),
            (true, true, 8, true, true),
            (true, false, 1, true, false),
            (true, true, 9, true, false),
            (true, true, 4, false, false),
            (false, true, 4, false, true),
            (false, false, 0, false, true),
        ] {
            let immediate = Bytes::from(vec![1; immediate]);
            let announced = Announced { expected: 20, wanted: 20, immediate, last };
            let begun = Intake::begin(announced, &params(initial_r2t, immediate_data));
            assert_eq!(begun.is_ok(), good, "{initial_r2t} {immediate_data} {last}");
        }
        // Not more than the command has, either.
        let announced =
            Announced { expected: 4, wanted: 4, immediate: Bytes::from_static(b"12345"), last: true };
        assert!(Intake::begin(announced, &params(true, true)).is_err());
    }

    #[test]
    fn a_write_of_all_three_kinds() {
        let mut intake = begin(30, 30, 4, false);
        assert_eq!(intake.next_r2t(|| 1), None, "unsolicited data is still to come");
        assert_eq!(intake.accept(pdu(NONE, 0, 4, 2, false)), Ok(()));
        assert_eq!(intake.accept(pdu(NONE, 1, 6, 2, true)), Ok(()));
        let r2t = |ttt, number, offset, len| Some(ReadyToTransfer { ttt, number, offset, len });
        assert_eq!(intake.next_r2t(|| 5), r2t(5, 0, 8, 10));
        assert_eq!(intake.next_r2t(|| 6), r2t(6, 1, 18, 10));
        assert_eq!(intake.next_r2t(|| 7), None, "two may be outstanding");
        assert_eq!(intake.accept(pdu(5, 0, 8, 10, true)), Ok(()));
        assert_eq!(intake.next_r2t(|| 7), r2t(7, 2, 28, 2));
        assert_eq!(intake.accept(pdu(6, 0, 18, 5, false)), Ok(()));
        assert_eq!(intake.accept(pdu(6, 1, 23, 5, true)), Ok(()));
        assert!(!intake.is_complete());
        assert_eq!(intake.accept(pdu(7, 0, 28, 2, true)), Ok(()));
        assert!(intake.is_complete());
        assert_eq!(intake.next_r2t(|| 8), None);
        assert_eq!(intake.take().iter().map(Bytes::len).sum::<usize>(), 30);
    }

    #[test]
    fn what_breaks_the_order_is_refused() {
        for (broken, why) in [
            (pdu(9, 0, 0, 10, true), "data that nobody asked for"),
            (pdu(6, 0, 10, 10, true), "data that nobody asked for"),
            (pdu(NONE, 0, 0, 10, true), "data that nobody asked for"),
            (pdu(5, 1, 0, 10, true), "DataSN is out of order"),
            (pdu(5, 0, 1, 9, true), "data does not follow the data before it"),
            (pdu(5, 0, 0, 11, true), "more data than was asked for"),
            (pdu(5, 0, 0, 9, true), "less data than was asked for"),
        ] {
            let mut intake = begin(20, 20, 0, true);
            intake.next_r2t(|| 5);
            intake.next_r2t(|| 6);
            assert_eq!(intake.accept(broken), Err(why));
        }
    }

    #[test]
    fn less_is_kept_than_comes_if_the_command_wants_less() {
        let mut intake = begin(8, 5, 4, false);
        assert_eq!(intake.total(), 5);
        assert_eq!(intake.accept(pdu(NONE, 0, 4, 4, true)), Ok(()));
        assert!(intake.is_complete());
        assert_eq!(intake.take().iter().map(Bytes::len).sum::<usize>(), 5);
        // A command that is going to be refused has its unsolicited data swallowed, and asks for none.
        let mut intake = begin(100, 0, 4, false);
        assert!(!intake.is_complete());
        assert_eq!(intake.accept(pdu(NONE, 0, 4, 4, true)), Ok(()));
        assert!(intake.is_complete() && intake.next_r2t(|| 1).is_none() && intake.take().is_empty());
        // And the other way round: the command wants more than there is.
        let intake = begin(4, 100, 4, true);
        assert!(intake.is_complete());
    }

    #[test]
    fn unsolicited_data_may_end_early() {
        let mut intake = begin(20, 20, 0, false);
        assert_eq!(intake.accept(pdu(NONE, 0, 0, 3, true)), Ok(()));
        assert_eq!(intake.next_r2t(|| 1).map(|r2t| (r2t.offset, r2t.len)), Some((3, 10)));
    }
}
