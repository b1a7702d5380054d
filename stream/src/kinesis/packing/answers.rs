//! Takes what the service says: what is settled by it, what is sent again and when.

use std::time::Duration;

use headwater_common::position::{Position, Sequence, ShardId};
use headwater_common::retry::Policy;
use rand::Rng;

use super::unit::{Item, Unit};
use super::{Answer, Flight, Packer, Settled, TooManyFailures};

/// How often a record is offered that the service refuses. Half a minute at the most.
pub(super) const REFUSED: Policy =
    Policy { tries_max: 12, pause_first: Duration::from_millis(50), pause_max: Duration::from_secs(5) };

/// How often a record's calls may fail before the run does: two minutes at the most, and the caller can go on later.
pub(super) const FAILED: Policy =
    Policy { tries_max: 20, pause_first: Duration::from_millis(100), pause_max: Duration::from_secs(10) };

/// The error code of a shard that has taken as much as it takes in a second.
pub(super) const THROTTLED: &str = "ProvisionedThroughputExceededException";

impl Packer {
    /// Takes the answer to a call, a word for each record. Returns what is settled by it.
    pub fn answer(&mut self, call: u64, answers: Vec<Answer>, now: Duration) -> Vec<Settled> {
        let mut settled = Vec::new();
        let Some(flight) = self.land(call) else { return settled };
        let is_map_current = flight.map_version == self.map_version;
        let mut answers = answers.into_iter();
        for unit in flight.units {
            // A service that leaves words out is not believed that all is well.
            let answer = answers.next().unwrap_or_else(|| Answer::Refused {
                code: String::new(),
                message: "the answer does not mention the record".to_owned(),
            });
            match answer {
                Answer::Stored { shard, sequence } => {
                    self.is_map_in_doubt |= is_map_current && self.map.shard_of(unit.hash_key()).id != shard;
                    self.stored(unit, &shard, sequence, &mut settled);
                }
                Answer::Refused { code, message } => self.refused(unit, &code, &message, now, &mut settled),
            }
        }
        settled
    }

    /// Takes the failure of a whole call, whose records may or may not be in the stream: all of them go again.
    ///
    /// # Errors
    /// When that has been so too often.
    pub fn call_failed(&mut self, call: u64, code: &str, now: Duration) -> Result<(), TooManyFailures> {
        let Some(mut flight) = self.land(call) else { return Ok(()) };
        if code == THROTTLED {
            for unit in &flight.units {
                let shard = self.map.index_of(unit.hash_key());
                self.is_map_in_doubt |= self.pacing.throttled(shard, now);
                self.tally.throttled();
            }
        }
        let mut failures = 0;
        for item in flight.units.iter_mut().flat_map(Unit::items_mut) {
            item.failed_calls += 1;
            failures = failures.max(item.failed_calls);
        }
        let pause = FAILED.pause_before(failures + 1, self.random.random()).ok_or(TooManyFailures)?;
        for unit in flight.units {
            self.tally.sent_again();
            let number = self.number();
            self.later.insert((now + pause, number), unit);
        }
        Ok(())
    }

    fn land(&mut self, call: u64) -> Option<Flight> {
        let flight = self.flights.remove(&call)?;
        self.in_flight_bytes -= flight.bytes;
        Some(flight)
    }

    fn stored(&mut self, unit: Unit, shard: &ShardId, sequence: Sequence, settled: &mut Vec<Settled>) {
        self.tally.stored(unit.bytes, unit.items().map(Item::bytes));
        for (place, item) in (0..).zip(unit.into_items()) {
            let outcome = Ok((shard.clone(), Position::new(sequence, place)));
            self.settle(item, outcome, settled);
        }
    }

    fn refused(&mut self, mut unit: Unit, code: &str, message: &str, now: Duration, settled: &mut Vec<Settled>) {
        if code == THROTTLED {
            let shard = self.map.index_of(unit.hash_key());
            self.is_map_in_doubt |= self.pacing.throttled(shard, now);
            self.tally.throttled();
        }
        let mut refusals = 0;
        for item in unit.items_mut() {
            item.refusals += 1;
            refusals = refusals.max(item.refusals);
        }
        if let Some(pause) = REFUSED.pause_before(refusals + 1, self.random.random()) {
            self.tally.sent_again();
            let number = self.number();
            self.later.insert((now + pause, number), unit);
            return;
        }
        let (over, rest): (Vec<_>, Vec<_>) = unit.into_items().partition(|item| item.refusals == refusals);
        self.take_back(rest);
        for item in over {
            let reason = format!("refused {refusals} times, at last with {code}: {message}");
            self.settle(item, Err(reason), settled);
        }
    }

    /// Notes what became of an event, and lets the next of its key go.
    fn settle(&mut self, item: Item, outcome: Result<(ShardId, Position), String>, settled: &mut Vec<Settled>) {
        self.queued_records -= 1;
        self.queued_bytes -= item.bytes();
        if self.options.is_ordered {
            self.release(item.hash_key);
        }
        settled.push(Settled { ticket: item.ticket, outcome });
    }
}
