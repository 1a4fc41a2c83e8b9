//! The way of writes to the log: in the engine's order, although some must wait for what their entries place.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use curve_io::BoxFuture;
use futures::FutureExt;

use crate::engine::WriteKind;
use crate::placer::{self, Placer};
use crate::types::{Batch, LogId};

/// Something to be done to the log.
pub(super) enum Step {
    /// To be reported under this number.
    Write(u64, WriteKind),
    /// Forget all entries up to here, which may lie behind the last one.
    Purge(LogId),
}

/// What an entry places, by its place in the write.
enum Placing {
    Busy(BoxFuture<'static, io::Result<Option<Batch>>>),
    Done(Option<Batch>),
}

struct Queued {
    step: Step,
    placing: Vec<(usize, Placing)>,
}

impl Queued {
    fn is_ready(&self) -> bool {
        self.placing.iter().all(|(_, placing)| matches!(placing, Placing::Done(_)))
    }
}

/// Steps that wait for what they place, or for those before them. All placings are at work at the same time; what is
/// ready goes to the log in order.
pub(super) struct Appends {
    placer: Option<Arc<dyn Placer>>,
    queue: VecDeque<Queued>,
}

/// A step whose turn it is, and the bodies that the log is to hold in place of those of some entries.
pub(super) type Ready = (Step, Vec<(usize, Batch)>);

impl Appends {
    pub(super) fn new(placer: Option<Arc<dyn Placer>>) -> Self {
        Self { placer, queue: VecDeque::new() }
    }

    pub(super) fn placer(&self) -> Option<&Arc<dyn Placer>> {
        self.placer.as_ref()
    }

    /// Takes the next step. Gives it back if nothing has to be waited for.
    pub(super) fn begin(&mut self, step: Step) -> Option<Ready> {
        let mut placing = Vec::new();
        if let (Some(placer), Step::Write(_, WriteKind::Append(entries))) = (&self.placer, &step) {
            for (n, entry) in entries.iter().enumerate() {
                let begun = placer::begin(&**placer, entry);
                placing.extend(begun.map(|place| (n, Placing::Busy(place))));
            }
        }
        if placing.is_empty() && self.queue.is_empty() {
            return Some((step, Vec::new()));
        }
        self.queue.push_back(Queued { step, placing });
        None
    }

    /// Goes on with all placings; ready when the first step is, or a placing has failed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for (_, placing) in self.queue.iter_mut().flat_map(|queued| &mut queued.placing) {
            if let Placing::Busy(place) = placing
                && let Poll::Ready(placed) = place.poll_unpin(cx)
            {
                let (placed, failed) = match placed {
                    Ok(placed) => (placed, Ok(())),
                    Err(error) => (None, Err(error)),
                };
                *placing = Placing::Done(placed);
                failed?;
            }
        }
        if self.queue.front().is_some_and(Queued::is_ready) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// The next step whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Ready> {
        let Queued { step, placing } = self.queue.pop_front_if(|queued| queued.is_ready())?;
        let placed = placing.into_iter().filter_map(|(n, placing)| match placing {
            Placing::Done(Some(body)) => Some((n, body)),
            Placing::Done(None) | Placing::Busy(_) => None,
        });
        Some((step, placed.collect()))
    }

    /// Brings what is being placed to an end: nothing may write to the state machine's files after it is gone.
    pub(super) async fn settle(mut self) {
        let placings = self.queue.drain(..).flat_map(|queued| queued.placing);
        let busy = placings.filter_map(|(_, placing)| match placing {
            Placing::Busy(place) => Some(place),
            Placing::Done(_) => None,
        });
        // The group is over, whatever they say.
        drop(futures::future::join_all(busy).await);
    }
}
