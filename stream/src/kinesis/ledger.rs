//! Remembers which event is of which batch, and answers a batch once all of it is settled.

use std::collections::BTreeMap;

use headwater_common::position::{Position, ShardId};
use tokio::sync::oneshot;

use super::packing::Settled;
use crate::{Accepted, Error};

/// Where a batch is answered.
pub(crate) type Reply = oneshot::Sender<Result<Accepted, Error>>;

#[derive(Debug)]
struct Batch {
    places: Vec<Option<(ShardId, Position)>>,
    rejected: Vec<(usize, String)>,
    /// Events that are not settled.
    open: usize,
    reply: Reply,
}

/// The batches that are not answered, by the number of their first event.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    batches: BTreeMap<u64, Batch>,
    next_ticket: u64,
}

impl Ledger {
    /// Notes a batch of so many events, at least one, and returns the number of its first.
    pub(crate) fn open(&mut self, events: usize, reply: Reply) -> u64 {
        let first = self.next_ticket;
        self.next_ticket += events as u64;
        let batch = Batch { places: vec![None; events], rejected: Vec::new(), open: events, reply };
        self.batches.insert(first, batch);
        first
    }

    /// Notes what became of events, and answers the batches that are settled by it.
    pub(crate) fn settle(&mut self, settled: Vec<Settled>) {
        for Settled { ticket, outcome } in settled {
            let Some((&first, batch)) = self.batches.range_mut(..=ticket).next_back() else {
                debug_assert!(false, "event {ticket} is of no batch");
                continue;
            };
            let place = usize::try_from(ticket - first).expect("a place in a batch");
            match outcome {
                Ok(position) => batch.places[place] = Some(position),
                Err(reason) => batch.rejected.push((place, reason)),
            }
            batch.open -= 1;
            if batch.open == 0
                && let Some(Batch { places, mut rejected, reply, .. }) = self.batches.remove(&first)
            {
                rejected.sort_unstable_by_key(|(place, _)| *place);
                // A caller that has gone does not want the answer.
                let _ = reply.send(Ok(Accepted { positions: places.into_iter().flatten().collect(), rejected }));
            }
        }
    }

    /// Answers what is left: the oldest with what went wrong, the others that they are unknown.
    pub(crate) fn fail(&mut self, error: Error) {
        let mut error = Some(error);
        for (_, batch) in std::mem::take(&mut self.batches) {
            let _ = batch.reply.send(Err(error.take().unwrap_or(Error::WriterGone)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(ticket: u64, outcome: Result<u64, &str>) -> Settled {
        let place = |number: u64| (ShardId::from("s"), Position::of_record(number.into()));
        Settled { ticket, outcome: outcome.map(place).map_err(str::to_owned) }
    }

    #[test]
    fn a_batch_is_answered_when_all_of_it_is_settled() {
        let mut ledger = Ledger::default();
        let (reply, mut first) = oneshot::channel();
        assert_eq!(ledger.open(3, reply), 0);
        let (reply, mut second) = oneshot::channel();
        assert_eq!(ledger.open(1, reply), 3);
        ledger.settle(vec![settled(2, Err("too long")), settled(3, Ok(9)), settled(0, Ok(7))]);
        let accepted = second.try_recv().unwrap().unwrap();
        assert_eq!(accepted.positions, [(ShardId::from("s"), Position::of_record(9.into()))]);
        assert!(first.try_recv().is_err(), "one of its events is not settled");
        ledger.settle(vec![settled(1, Err("empty"))]);
        let accepted = first.try_recv().unwrap().unwrap();
        assert_eq!(accepted.positions, [(ShardId::from("s"), Position::of_record(7.into()))]);
        assert_eq!(accepted.rejected, [(1, "empty".to_owned()), (2, "too long".to_owned())]);
    }

    #[test]
    fn when_it_ends_early_the_oldest_hears_why() {
        let mut ledger = Ledger::default();
        let (reply, mut first) = oneshot::channel();
        ledger.open(1, reply);
        let (reply, mut second) = oneshot::channel();
        ledger.open(1, reply);
        ledger.fail(Error::Stopped);
        assert!(matches!(first.try_recv(), Ok(Err(Error::Stopped))));
        assert!(matches!(second.try_recv(), Ok(Err(Error::WriterGone))));
    }
}
