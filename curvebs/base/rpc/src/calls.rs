//! The calls to one address: which wait, which are sent, which are answered. Knows no socket and no clock.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::task::{Poll, Waker};

use curve_io::Message;
use tokio::time::Instant;

use crate::format::SLOTS_MAX;

/// Names one call: low half its slot, high half the slot's generation. Travels as the request id.
pub(crate) type CallId = u64;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server answered.
    Replied(Message),
    /// The call was not sent, or the server did not look at it.
    Unreachable(Arc<str>),
    /// The connection or the server gave the call up after it was sent.
    Broken(Arc<str>),
    /// The deadline passed.
    Deadline,
}

/// How much the server of a connection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    /// Unanswered requests.
    pub(crate) requests: u32,
    /// Bytes of unanswered requests; one request may exceed it when alone.
    pub(crate) bytes: u64,
}

/// The calls to one address.
///
/// A call waits in `queue` in the order of submission, is sent when there is credit, and is `Done` once a reply, a
/// failure or its deadline ended it; then its future takes the outcome and the slot is free again. Waiting calls
/// belong to living futures, so their number is bounded by the callers, and by `SLOTS_MAX`.
///
/// Deadlines cost no timer each: `next_deadline` is a lower bound of all of them, for the one timer of the owner.
#[derive(Debug, Default)]
pub(crate) struct CallTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<CallId>,
    /// Calls in `queue` that still wait; the others in it were given up.
    queued: usize,
    cancels: Vec<CallId>,
    sent: u32,
    sent_bytes: u64,
    next_deadline: Option<Instant>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    bytes: u32,
    arrives_by: Instant,
    deadline: Instant,
    waker: Option<Waker>,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Free,
    Queued(Message),
    Sent,
    Done(Outcome),
}

impl CallTable {
    /// Puts a call at the end of the queue; `None` when there are too many. The server is not to look at it after
    /// `arrives_by`.
    pub(crate) fn submit(
        &mut self,
        request: Message,
        arrives_by: Instant,
        deadline: Instant,
    ) -> Option<CallId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < SLOTS_MAX as usize => self.new_slot(deadline),
            None => return None,
        };
        let slot = &mut self.slots[index as usize];
        slot.bytes = (request.header.len() + request.payload_len()) as u32;
        slot.arrives_by = arrives_by;
        slot.deadline = deadline;
        slot.state = SlotState::Queued(request);
        let id = u64::from(slot.generation) << 32 | u64::from(index);
        self.queue.push_back(id);
        self.queued += 1;
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        Some(id)
    }

    /// The outcome of a call, once; afterwards the id names nothing.
    pub(crate) fn poll(&mut self, id: CallId, waker: &Waker) -> Poll<Outcome> {
        let slot = self.slot(id).expect("a call is polled until it ends, not longer");
        if let SlotState::Done(_) = slot.state {
            let SlotState::Done(outcome) = self.release(id) else { unreachable!("matched above") };
            return Poll::Ready(outcome);
        }
        match &slot.waker {
            Some(known) if known.will_wake(waker) => {}
            _ => slot.waker = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// The call's future is gone.
    pub(crate) fn abandon(&mut self, id: CallId) {
        if self.slot(id).is_some() {
            self.end(id);
            self.release(id);
        }
    }

    /// The next call to send, if there is one and credit for it, and by when it must arrive.
    pub(crate) fn next_to_send(&mut self, credit: Credit) -> Option<(CallId, Instant, Message)> {
        loop {
            let id = *self.queue.front()?;
            let (sent, sent_bytes) = (self.sent, self.sent_bytes);
            let Some(slot) = self.slot(id).filter(|slot| matches!(slot.state, SlotState::Queued(_))) else {
                self.queue.pop_front();
                continue;
            };
            let (bytes, arrives_by) = (u64::from(slot.bytes), slot.arrives_by);
            if sent > 0 && (sent >= credit.requests || sent_bytes + bytes > credit.bytes) {
                return None;
            }
            let SlotState::Queued(message) = mem::replace(&mut slot.state, SlotState::Sent) else {
                unreachable!("matched above")
            };
            self.queue.pop_front();
            self.queued -= 1;
            self.sent += 1;
            self.sent_bytes += bytes;
            return Some((id, arrives_by, message));
        }
    }

    /// Calls that were sent and are no longer waited for; the server is to be told, before anything else is sent.
    pub(crate) fn take_cancels(&mut self) -> Vec<CallId> {
        mem::take(&mut self.cancels)
    }

    /// Whether something could be sent.
    pub(crate) fn has_work(&mut self, credit: Credit) -> bool {
        if !self.cancels.is_empty() {
            return true;
        }
        self.queued > 0 && (self.sent == 0 || (self.sent < credit.requests && self.front_fits(credit)))
    }

    /// Whether further calls may be about to join those that wait.
    pub(crate) fn more_may_follow(&self) -> bool {
        self.queued > 0 && self.slots.len() - self.free.len() > self.queued
    }

    /// Whether calls wait to be sent.
    pub(crate) fn has_queued(&self) -> bool {
        self.queued > 0
    }

    /// A sent call ended. `None` when nobody waits for it (any more); such replies are expected after a cancel.
    pub(crate) fn complete(&mut self, id: CallId, outcome: Outcome) -> Option<Waker> {
        let slot = self.slot(id).filter(|slot| matches!(slot.state, SlotState::Sent))?;
        slot.state = SlotState::Done(outcome);
        let (bytes, waker) = (u64::from(slot.bytes), slot.waker.take());
        self.sent -= 1;
        self.sent_bytes -= bytes;
        waker
    }

    /// When `expire` should be called again at the latest; may be too early, never too late.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Ends the calls whose deadline has come; returns how many.
    pub(crate) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> u64 {
        if self.next_deadline.is_none_or(|next| now < next) {
            return 0;
        }
        self.next_deadline = None;
        let mut expired = 0;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if !matches!(slot.state, SlotState::Queued(_) | SlotState::Sent) {
                continue;
            }
            let deadline = slot.deadline;
            if deadline <= now {
                self.fail(index, Outcome::Deadline, wakers);
                expired += 1;
            } else {
                self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
            }
        }
        expired
    }

    /// The connection is gone: ends all calls that were sent.
    pub(crate) fn fail_sent(&mut self, cause: &Arc<str>, wakers: &mut Vec<Waker>) {
        for index in 0..self.slots.len() {
            if matches!(self.slots[index].state, SlotState::Sent) {
                self.fail(index, Outcome::Broken(Arc::clone(cause)), wakers);
            }
        }
        self.cancels.clear();
        assert_eq!((self.sent, self.sent_bytes), (0, 0), "every sent call was ended");
    }

    /// There will be no connection soon: ends all calls that wait.
    pub(crate) fn fail_queued(&mut self, cause: &Arc<str>, wakers: &mut Vec<Waker>) {
        for index in 0..self.slots.len() {
            if matches!(self.slots[index].state, SlotState::Queued(_)) {
                self.fail(index, Outcome::Unreachable(Arc::clone(cause)), wakers);
            }
        }
        self.queue.clear();
        assert_eq!(self.queued, 0, "every waiting call was ended");
    }

    fn new_slot(&mut self, deadline: Instant) -> u32 {
        let index = self.slots.len() as u32;
        self.slots.push(Slot {
            generation: 0,
            bytes: 0,
            arrives_by: deadline,
            deadline,
            waker: None,
            state: SlotState::Free,
        });
        index
    }

    fn slot(&mut self, id: CallId) -> Option<&mut Slot> {
        let (index, generation) = (id as u32, (id >> 32) as u32);
        self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)
    }

    fn front_fits(&mut self, credit: Credit) -> bool {
        let sent_bytes = self.sent_bytes;
        while let Some(id) = self.queue.front().copied() {
            match self.slot(id) {
                Some(slot) if matches!(slot.state, SlotState::Queued(_)) => {
                    return sent_bytes + u64::from(slot.bytes) <= credit.bytes;
                }
                _ => self.queue.pop_front(),
            };
        }
        false
    }

    fn fail(&mut self, index: usize, outcome: Outcome, wakers: &mut Vec<Waker>) {
        let id = u64::from(self.slots[index].generation) << 32 | index as u64;
        self.end(id);
        let slot = &mut self.slots[index];
        slot.state = SlotState::Done(outcome);
        wakers.extend(slot.waker.take());
    }

    /// Takes a call out of the counts, wherever it is.
    fn end(&mut self, id: CallId) {
        let slot = &self.slots[id as u32 as usize];
        match slot.state {
            SlotState::Queued(_) => {
                self.queued -= 1;
                self.compact_queue();
            }
            SlotState::Sent => {
                self.sent -= 1;
                self.sent_bytes -= u64::from(slot.bytes);
                self.cancels.push(id);
            }
            SlotState::Done(_) | SlotState::Free => {}
        }
    }

    /// Calls that are given up again and again while nothing can be sent must not pile up in the queue.
    fn compact_queue(&mut self) {
        if self.queue.len() > 2 * self.queued + 64 {
            let mut queue = mem::take(&mut self.queue);
            queue.retain(|id| self.slot(*id).is_some_and(|slot| matches!(slot.state, SlotState::Queued(_))));
            self.queue = queue;
        }
    }

    fn release(&mut self, id: CallId) -> SlotState {
        let index = id as u32;
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.waker = None;
        self.free.push(index);
        mem::replace(&mut slot.state, SlotState::Free)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    const CREDIT: Credit = Credit { requests: 2, bytes: 100 };

    fn request(len: usize) -> Message {
        Message { method: 1, header: Bytes::from(vec![0; len]), payload: Vec::new() }
    }

    fn submit(table: &mut CallTable, len: usize, deadline_ms: u64) -> CallId {
        let deadline = base() + Duration::from_millis(deadline_ms);
        table.submit(request(len), deadline, deadline).unwrap()
    }

    fn base() -> Instant {
        thread_local! { static BASE: Instant = Instant::now(); }
        BASE.with(|base| *base)
    }

    fn send_all(table: &mut CallTable) -> Vec<CallId> {
        std::iter::from_fn(|| table.next_to_send(CREDIT).map(|(id, ..)| id)).collect()
    }

    fn poll(table: &mut CallTable, id: CallId) -> Poll<Outcome> {
        table.poll(id, Waker::noop())
    }

    #[test]
    fn calls_are_sent_in_order_within_the_credit() {
        let mut table = CallTable::default();
        let ids: Vec<_> = (0..3).map(|_| submit(&mut table, 10, 1000)).collect();
        assert_eq!(send_all(&mut table), ids[..2]);
        assert!(!table.has_work(CREDIT));
        assert!(table.complete(ids[1], Outcome::Replied(request(1))).is_none());
        assert!(table.has_work(CREDIT));
        assert_eq!(send_all(&mut table), ids[2..]);
        assert_eq!(poll(&mut table, ids[1]), Poll::Ready(Outcome::Replied(request(1))));
        assert_eq!(poll(&mut table, ids[0]), Poll::Pending);
    }

    #[test]
    fn bytes_are_limited_too_but_one_call_always_passes() {
        let mut table = CallTable::default();
        let (big, small) = (submit(&mut table, 500, 1000), submit(&mut table, 1, 1000));
        assert_eq!(send_all(&mut table), [big]);
        assert!(!table.has_work(CREDIT));
        table.complete(big, Outcome::Replied(request(0)));
        assert_eq!(send_all(&mut table), [small]);
    }

    #[test]
    fn an_abandoned_call_is_cancelled_when_sent_and_forgotten_when_not() {
        let mut table = CallTable::default();
        let ids: Vec<_> = (0..3).map(|_| submit(&mut table, 60, 1000)).collect();
        assert_eq!(send_all(&mut table), ids[..1]);
        table.abandon(ids[1]);
        assert!(table.take_cancels().is_empty());
        table.abandon(ids[0]);
        assert_eq!(table.take_cancels(), ids[..1]);
        assert_eq!(send_all(&mut table), ids[2..]);
        assert!(table.complete(ids[0], Outcome::Replied(request(0))).is_none());
        let again = submit(&mut table, 1, 1000);
        assert_ne!(again, ids[0]);
        assert_ne!(again, ids[1]);
    }

    #[test]
    fn a_late_reply_does_not_reach_the_next_call_of_the_slot() {
        let mut table = CallTable::default();
        let first = submit(&mut table, 1, 1000);
        send_all(&mut table);
        table.abandon(first);
        let second = submit(&mut table, 1, 1000);
        assert_eq!(second as u32, first as u32);
        send_all(&mut table);
        table.complete(first, Outcome::Replied(request(9)));
        assert_eq!(poll(&mut table, second), Poll::Pending);
    }

    #[test]
    fn deadlines_end_queued_and_sent_calls() {
        let mut table = CallTable::default();
        let ids: Vec<_> = [30, 10, 20].iter().map(|ms| submit(&mut table, 10, *ms)).collect();
        send_all(&mut table);
        assert_eq!(table.next_deadline(), Some(base() + Duration::from_millis(10)));
        let mut wakers = Vec::new();
        assert_eq!(table.expire(base() + Duration::from_millis(5), &mut wakers), 0);
        assert_eq!(table.expire(base() + Duration::from_millis(20), &mut wakers), 2);
        assert_eq!(poll(&mut table, ids[1]), Poll::Ready(Outcome::Deadline));
        assert_eq!(poll(&mut table, ids[2]), Poll::Ready(Outcome::Deadline));
        assert_eq!(table.take_cancels(), [ids[1]]);
        assert_eq!(table.next_deadline(), Some(base() + Duration::from_millis(30)));
        assert!(!table.has_queued());
    }

    #[test]
    fn a_break_ends_what_was_sent_and_keeps_what_waits() {
        let mut table = CallTable::default();
        let ids: Vec<_> = (0..3).map(|_| submit(&mut table, 10, 1000)).collect();
        send_all(&mut table);
        let mut wakers = Vec::new();
        let cause: Arc<str> = "reset".into();
        table.fail_sent(&cause, &mut wakers);
        assert_eq!(table.sent, 0);
        assert_eq!(poll(&mut table, ids[0]), Poll::Ready(Outcome::Broken(Arc::clone(&cause))));
        assert_eq!(poll(&mut table, ids[2]), Poll::Pending);
        assert!(table.take_cancels().is_empty());
        assert_eq!(send_all(&mut table), ids[2..]);
    }

    #[test]
    fn calls_given_up_while_nothing_is_sent_do_not_pile_up() {
        let mut table = CallTable::default();
        for _ in 0..10_000 {
            let id = submit(&mut table, 1, 1000);
            table.abandon(id);
        }
        assert!(table.queue.len() < 200 && table.slots.len() == 1);
    }
}
