//! What is sent, and when: the producing side's state, moved by what is queued, by the time and by answers.
//!
//! ```text
//! push ──> line of the key ──> bay of the shard ──> call ──answer──> settled
//!              ^                  ^   (pacing)        │
//!              └── key is free    └── again, later ───┘ refused, or no answer
//! ```
//!
//! Guarantees, which `tests.rs` checks under random failures:
//! - **Nothing is lost**: what is pushed is settled, as stored or as rejected, or a call's failure ends it all.
//! - **Nothing is sent again** that the service said it has. What no answer came for is, with the same bytes.
//! - **The order of a key** is kept, unless that is not asked for: while a record with events of a key is on its way,
//!   or waits to be sent again, later events of the key wait. An aggregate holds several events of a key in their
//!   order; two aggregates on their way have no key in common.
//! - **Bounds**: tries, calls on their way, their bytes. What may be queued, [`Packer::has_room`] says.
//!
//! Keys are told apart by their hash keys: two keys with the same one would wait for each other, and nothing else.

mod answers;
mod fill;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use headwater_common::position::{Position, Sequence, ShardId};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::fill::Filling;
use self::unit::{Item, Line, Unit};
pub use self::unit::{Outgoing, Payload};
use super::hash;
use super::limits::PARTITION_KEY_CHARACTERS_MAX;
use super::pacing::Pacing;
use super::shard_map::ShardMap;
use super::tally::{Counts, Tally};
use crate::Put;

/// Calls on their way at most.
pub const CALLS_MAX: usize = 8;

/// Bytes of records on their way at most, but for one record that is larger alone.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of records that wait or are on their way, beyond which nothing more is taken in.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Records that do.
const QUEUE_RECORDS_MAX: usize = 50_000;

/// How records are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The largest record that the stream takes, in bytes, its partition key included.
    pub record_bytes_max: usize,
    /// Whether the order of each key is kept.
    pub is_ordered: bool,
    /// The size of aggregates, in bytes, their partition key included; without one every event is a record.
    pub aggregate_bytes: Option<usize>,
    /// Whether the pace of each shard is kept.
    pub is_paced: bool,
}

/// Records for one PutRecords.
#[derive(Debug)]
pub struct Call {
    /// Its number; the answer names it.
    pub id: u64,
    /// The records, at least one.
    pub records: Vec<Outgoing>,
}

/// What to do next.
#[derive(Debug)]
pub enum Decision {
    /// Send these, and ask again.
    Send(Call),
    /// Nothing before this time, unless something is pushed or answered.
    WaitUntil(Duration),
    /// Nothing before an answer, unless something is pushed.
    WaitForAnswer,
    /// All is settled.
    Nothing,
}

/// What the service says of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is in the stream.
    Stored {
        /// The shard.
        shard: ShardId,
        /// The sequence number.
        sequence: Sequence,
    },
    /// It is not, so far.
    Refused {
        /// The error code.
        code: String,
        /// The error's message.
        message: String,
    },
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Its number among all that were pushed.
    pub ticket: u64,
    /// Where it is, or why it is not in the stream.
    pub outcome: Result<(ShardId, Position), String>,
}

/// A record's calls failed too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyFailures;

/// What stands before a shard.
#[derive(Debug, Default)]
struct Bay {
    /// Records that are sent again. They are older than what is ready.
    again: VecDeque<Unit>,
    again_bytes: usize,
    /// Lines whose next event may be sent, the bytes of all their events.
    ready: VecDeque<u128>,
    ready_bytes: usize,
}

#[derive(Debug)]
struct Flight {
    units: Vec<Unit>,
    bytes: usize,
    /// The map it was made by.
    map_version: u64,
}

/// The sender's state. Times count from the start of the sender and never go back.
#[derive(Debug)]
pub struct Packer {
    options: Options,
    map: ShardMap,
    map_version: u64,
    /// Something spoke against the map since it was last asked.
    is_map_in_doubt: bool,
    pacing: Pacing,
    /// As many as the map has shards, in their order.
    bays: Vec<Bay>,
    /// The bay that is served first next time.
    turn: usize,
    /// By hash key; without order, by ticket.
    lines: HashMap<u128, Line>,
    /// Units that are sent again, by when.
    later: BTreeMap<(Duration, u64), Unit>,
    flights: HashMap<u64, Flight>,
    in_flight_bytes: usize,
    /// Of all that is not settled.
    queued_records: usize,
    queued_bytes: usize,
    /// For calls and for units that wait.
    next_number: u64,
    random: SmallRng,
    tally: Tally,
}

impl Packer {
    /// Returns one that has nothing to do.
    pub fn new(options: Options, map: ShardMap, seed: u64, now: Duration) -> Self {
        let bays = map.shards().len();
        Self {
            map_version: 0,
            is_map_in_doubt: false,
            pacing: Pacing::new(bays, options.is_paced, now),
            bays: (0..bays).map(|_| Bay::default()).collect(),
            turn: 0,
            lines: HashMap::new(),
            later: BTreeMap::new(),
            flights: HashMap::new(),
            in_flight_bytes: 0,
            queued_records: 0,
            queued_bytes: 0,
            next_number: 0,
            random: SmallRng::seed_from_u64(seed),
            tally: Tally::new(options.aggregate_bytes),
            options,
            map,
        }
    }

    /// Returns true when more may be pushed.
    pub fn has_room(&self) -> bool {
        self.queued_bytes < QUEUE_BYTES_MAX && self.queued_records < QUEUE_RECORDS_MAX
    }

    /// Returns what was counted so far.
    pub fn counts(&self) -> Counts {
        self.tally.counts()
    }

    /// Queues a batch; its events have the numbers from `first_ticket`. Returns those that no stream of Kinesis takes.
    pub fn push(&mut self, batch: Vec<Put>, first_ticket: u64) -> Vec<Settled> {
        let mut settled = Vec::new();
        for (ticket, put) in (first_ticket..).zip(batch) {
            if let Some(reason) = unfit(&put, self.options.record_bytes_max) {
                settled.push(Settled { ticket, outcome: Err(reason) });
                continue;
            }
            let Put { partition_key, payload } = put;
            let hash_key = hash::of_partition_key(&partition_key);
            self.enqueue(Item { ticket, hash_key, partition_key, payload, refusals: 0, failed_calls: 0 });
        }
        settled
    }

    fn enqueue(&mut self, item: Item) {
        let bytes = item.bytes();
        self.queued_records += 1;
        self.queued_bytes += bytes;
        let (line, bay) = (self.line_of(&item), self.map.index_of(item.hash_key));
        let waiting = self.lines.entry(line).or_default();
        let (is_new, is_held) = (waiting.is_empty() && !waiting.is_held, waiting.is_held);
        waiting.push_back(item);
        if is_new {
            self.bays[bay].ready.push_back(line);
        }
        if !is_held {
            self.bays[bay].ready_bytes += bytes;
        }
    }

    fn line_of(&self, item: &Item) -> u128 {
        if self.options.is_ordered { item.hash_key } else { item.ticket.into() }
    }

    /// Returns what to do next.
    pub fn next(&mut self, now: Duration) -> Decision {
        self.wake(now);
        if self.flights.len() >= CALLS_MAX {
            return Decision::WaitForAnswer;
        }
        let filling = self.fill(now);
        if !filling.units.is_empty() {
            return Decision::Send(self.launch(filling));
        }
        let next_try = self.later.first_key_value().map(|((at, _), _)| *at);
        let opening = (0..self.bays.len()).filter_map(|bay| self.opens_at(bay, now)).filter(|at| *at > now).min();
        match next_try.into_iter().chain(opening).min() {
            Some(at) => Decision::WaitUntil(at),
            None if self.flights.is_empty() => {
                debug_assert_eq!(self.queued_records, 0, "what waits goes out, or waits for a time or an answer");
                Decision::Nothing
            }
            None => Decision::WaitForAnswer,
        }
    }

    fn launch(&mut self, filling: Filling) -> Call {
        let Filling { mut units, bytes, .. } = filling;
        let id = self.number();
        let records: Vec<Outgoing> = units.iter_mut().map(Unit::record).collect();
        self.in_flight_bytes += bytes;
        self.tally.called();
        self.flights.insert(id, Flight { units, bytes, map_version: self.map_version });
        Call { id, records }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Lets the events of a line go on, or forgets it when there are none.
    fn release(&mut self, id: u128) {
        let Some(line) = self.lines.get_mut(&id).filter(|line| line.is_held) else { return };
        let Some(front) = line.front() else {
            self.lines.remove(&id);
            return;
        };
        let bay = self.map.index_of(front.hash_key);
        line.is_held = false;
        self.bays[bay].ready.push_back(id);
        self.bays[bay].ready_bytes += line.bytes();
    }

    /// Puts events of a unit back before those of their keys that wait.
    fn take_back(&mut self, items: Vec<Item>) {
        let mut lines = Vec::with_capacity(items.len());
        for item in items.into_iter().rev() {
            let id = self.line_of(&item);
            let line = self.lines.entry(id).or_default();
            line.is_held = true;
            line.push_front(item);
            lines.push(id);
        }
        lines.into_iter().for_each(|id| self.release(id));
    }

    /// Lets those go again whose time has come.
    fn wake(&mut self, now: Duration) {
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now) {
            let unit = first.remove();
            self.stand(unit);
        }
    }

    /// Lets a unit stand before its shard. An aggregate whose shard is no more is taken apart.
    fn stand(&mut self, unit: Unit) {
        if unit.suits(&self.map) {
            let bay = &mut self.bays[self.map.index_of(unit.hash_key())];
            bay.again_bytes += unit.bytes;
            bay.again.push_back(unit);
        } else {
            self.take_back(unit.into_items().collect());
        }
    }

    /// Goes on with another map; returns false when it is the one there was.
    pub fn follow(&mut self, map: ShardMap, now: Duration) -> bool {
        if map == self.map {
            return false;
        }
        self.pacing.follow(&self.map, &map, now);
        let bays = (0..map.shards().len()).map(|_| Bay::default()).collect();
        let before = std::mem::replace(&mut self.bays, bays);
        self.map = map;
        self.map_version += 1;
        self.turn = 0;
        for Bay { again, ready, .. } in before {
            for id in ready {
                let line = self.lines.get_mut(&id).expect("a line that is ready is there");
                // Held for the moment of the move.
                line.is_held = true;
                self.release(id);
            }
            again.into_iter().for_each(|unit| self.stand(unit));
        }
        true
    }

    /// Returns whether something has spoken against the map since this was last asked.
    pub fn doubts_map(&mut self) -> bool {
        std::mem::take(&mut self.is_map_in_doubt)
    }
}

/// Returns why no stream with this limit takes a record.
fn unfit(put: &Put, record_bytes_max: usize) -> Option<String> {
    let Put { partition_key, payload } = put;
    let Ok(key) = std::str::from_utf8(partition_key) else {
        return Some("the partition key is not UTF-8; Kinesis takes text only".to_owned());
    };
    if key.is_empty() {
        return Some(format!(
            "the partition key is empty; Kinesis takes 1 to {PARTITION_KEY_CHARACTERS_MAX} characters"
        ));
    }
    let characters = if key.len() > PARTITION_KEY_CHARACTERS_MAX { key.chars().count() } else { 0 };
    if characters > PARTITION_KEY_CHARACTERS_MAX {
        let limit = PARTITION_KEY_CHARACTERS_MAX;
        return Some(format!("the partition key has {characters} characters; Kinesis takes 1 to {limit}"));
    }
    let bytes = partition_key.len() + payload.len();
    (bytes > record_bytes_max)
        .then(|| format!("the record has {bytes} bytes with its key; the stream takes {record_bytes_max}"))
}
