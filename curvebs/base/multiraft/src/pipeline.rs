//! A stream of appends to one follower: several in flight, and few that carry nothing but a commit index.
//!
//! After each round openraft tells every follower how far the log is committed, in a message of its own: half of all
//! messages. Followers are in no hurry to know, so such a notice is held for a moment; usually the next entries come
//! meanwhile and bring the commit index with them. openraft counts a request as answered when a later one is, so the
//! notice that was left out needs no reply.

use std::future::Future;
use std::time::Duration;

use futures::stream::{BoxStream, FuturesOrdered, Stream, StreamExt};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::time::{Instant, sleep_until};

use crate::types::C;

/// Appends to one follower that wait for their reply, at most.
const IN_FLIGHT_MAX: usize = 8;
/// How long a notice is held.
const NOTICE_DELAY: Duration = Duration::from_millis(5);

type Request = AppendEntriesRequest<C>;
type Reply = Result<StreamAppendResult<C>, RPCError<C>>;

struct Pipeline<S, F, Fut: Future> {
    input: S,
    ended: bool,
    send: F,
    sent: bool,
    in_flight: FuturesOrdered<Fut>,
    held: Option<(Request, Instant)>,
}

impl<S, F, Fut> Pipeline<S, F, Fut>
where
    S: Stream<Item = Request> + Unpin,
    F: FnMut(Request) -> Fut,
    Fut: Future<Output = Reply>,
{
    async fn next(&mut self) -> Option<Reply> {
        loop {
            let release_at = self.held.as_ref().map(|(_, at)| *at);
            if self.ended && self.in_flight.is_empty() && release_at.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                Some(reply) = self.in_flight.next(), if !self.in_flight.is_empty() => return Some(reply),
                request = self.input.next(), if !self.ended && self.in_flight.len() < IN_FLIGHT_MAX => match request {
                    Some(request) => self.take(request),
                    None => {
                        self.ended = true;
                        self.release();
                    }
                },
                () = sleep_until(release_at.unwrap_or_else(Instant::now)), if release_at.is_some() => self.release(),
            }
        }
    }

    fn take(&mut self, request: Request) {
        // The first request of a stream may be a question about the follower's log, which must not wait.
        if request.entries.is_empty() && self.sent {
            let at = self.held.as_ref().map_or_else(|| Instant::now() + NOTICE_DELAY, |(_, at)| *at);
            self.held = Some((request, at));
            return;
        }
        self.held = None;
        self.sent = true;
        self.in_flight.push_back((self.send)(request));
    }

    fn release(&mut self) {
        if let Some((notice, _)) = self.held.take() {
            self.in_flight.push_back((self.send)(notice));
        }
    }
}

/// Sends what comes from `input` in order and yields the replies in order.
pub(crate) fn pipeline<'s, S, F, Fut>(input: S, send: F) -> BoxStream<'s, Reply>
where
    S: Stream<Item = Request> + Send + Unpin + 's,
    F: FnMut(Request) -> Fut + Send + 's,
    Fut: Future<Output = Reply> + Send + 's,
{
    let pipeline =
        Pipeline { input, ended: false, send, sent: false, in_flight: FuturesOrdered::new(), held: None };
    futures::stream::unfold(pipeline, |mut pipeline| async move {
        let reply = pipeline.next().await?;
        Some((reply, pipeline))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::mpsc;

    use super::*;
    use crate::types::{Entry, LeaderId, LogId, Payload, Vote};

    fn request(prev: u64, entries: u64, committed: u64) -> Request {
        let id = |index| LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index };
        let entry = |index| Entry { log_id: id(index), payload: Payload::Blank };
        Request {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(prev)),
            entries: (prev + 1..=prev + entries).map(entry).collect(),
            leader_commit: Some(id(committed)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_waits_for_entries_and_not_for_long() {
        let (feed, mut fed) = mpsc::unbounded_channel::<Request>();
        let input = futures::stream::poll_fn(move |cx| fed.poll_recv(cx));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = sent.clone();
        let mut replies = pipeline(input, move |request: Request| {
            log.lock().unwrap().push((request.entries.len(), request.leader_commit.unwrap().index));
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            async move { Ok(Ok(last)) }
        });
        for request in
            [request(0, 0, 0), request(0, 2, 0), request(2, 0, 1), request(2, 0, 2), request(2, 1, 2)]
        {
            feed.send(request).unwrap();
        }
        let mut got = Vec::new();
        for _ in 0..3 {
            got.push(replies.next().await.unwrap().unwrap().unwrap().unwrap().index);
        }
        assert_eq!(got, [0, 2, 3]);
        assert_eq!(*sent.lock().unwrap(), [(0, 0), (2, 0), (1, 2)]);
        feed.send(request(3, 0, 3)).unwrap();
        let start = Instant::now();
        assert!(replies.next().await.is_some());
        assert_eq!(start.elapsed(), NOTICE_DELAY);
        assert_eq!(sent.lock().unwrap().last(), Some(&(0, 3)));
        feed.send(request(3, 0, 3)).unwrap();
        drop(feed);
        assert!(replies.next().await.is_some());
        assert!(replies.next().await.is_none());
    }
}
