//! The stream: shards that are split and merged while keyed events are put into them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_common::hash;
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_stream::Shard;
use rand::Rng;

use super::clock::{Time, timestamp};
use super::{Plan, Sabotage};
use crate::parts::Chance;

/// Events that one read gives of a shard at most.
const READ_MAX: usize = 6;

/// For how long after a change a list may be the one before it.
const LIST_LAG: Duration = Duration::from_secs(1);

/// An event, as it is a row of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) key: u32,
    /// Counts the events of its key: 1, 2, 3 …
    pub(super) counter: u32,
    /// The lane that the key's event before this one is in.
    pub(super) lane_before: u32,
}

struct StreamEvent {
    position: Position,
    row: Row,
    arrived_at: Timestamp,
}

struct ShardState {
    shard: Shard,
    lane: u32,
    last_hash: u128,
    events: Vec<StreamEvent>,
    is_closed: bool,
    /// The stream has forgotten it.
    is_forgotten: bool,
}

struct Key {
    hash: u128,
    counter: u32,
    /// The lane of its newest event.
    lane: u32,
}

/// The shards as they are listed.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    /// Grows whenever it changes.
    pub(super) number: u64,
    pub(super) shards: Arc<[Shard]>,
}

/// What a read gave of one shard.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) shard: ShardId,
    pub(super) rows: Vec<Row>,
    /// The position of the last row; where the read began when there is none.
    pub(super) to: Position,
    pub(super) is_ended: bool,
    pub(super) complete_until: Option<Timestamp>,
}

pub(super) struct Stream {
    shards: Vec<ShardState>,
    places: BTreeMap<ShardId, usize>,
    /// The shards that take events, in the order of their hashes.
    open: Vec<usize>,
    keys: Vec<Key>,
    lanes: u32,
    sequence: u64,
    listing: Listing,
    /// What some of the stream's servers still say for a moment after a change.
    listing_before: Listing,
    listed_at: Time,
    /// Where reading begins.
    pub(super) start: Arc<BTreeMap<ShardId, Position>>,
    throttle_one_in: u32,
    sabotage: Sabotage,
}

impl Stream {
    pub(super) fn new(plan: &Plan, sabotage: Sabotage, chance: &mut Chance) -> Self {
        let keys = (0..plan.keys).map(|_| Key { hash: chance.random.random(), counter: 0, lane: 0 }).collect();
        let nothing = Listing { number: 0, shards: Arc::default() };
        let mut stream = Self {
            shards: Vec::new(),
            places: BTreeMap::new(),
            open: Vec::new(),
            keys,
            lanes: plan.lanes,
            sequence: 0,
            listing: nothing.clone(),
            listing_before: nothing,
            listed_at: Time::ZERO,
            start: Arc::default(),
            throttle_one_in: plan.throttle_one_in,
            sabotage,
        };
        for index in 0..plan.shards {
            let first = hash::first_of_slice(index, plan.shards);
            let next = index + 1;
            let last = if next == plan.shards { u128::MAX } else { hash::first_of_slice(next, plan.shards) - 1 };
            let place = stream.begin_shard(first, last, &[]);
            stream.open.push(place);
        }
        stream.start = Arc::new(stream.places.keys().map(|shard| (shard.clone(), Position::START)).collect());
        stream.list_anew(Time::ZERO);
        stream.listing_before = stream.listing.clone();
        stream
    }

    fn begin_shard(&mut self, first_hash_key: u128, last_hash: u128, parents: &[usize]) -> usize {
        let place = self.shards.len();
        let id = ShardId::from(format!("shard-{place:06}").as_str());
        let parents = parents.iter().map(|parent| self.shards[*parent].shard.id.clone()).collect();
        self.places.insert(id.clone(), place);
        self.shards.push(ShardState {
            lane: hash::slice_of(first_hash_key, self.lanes),
            shard: Shard { id, first_hash_key, parents },
            last_hash,
            events: Vec::new(),
            is_closed: false,
            is_forgotten: false,
        });
        place
    }

    fn list_anew(&mut self, now: Time) {
        self.listed_at = now;
        let listed = self.shards.iter().filter(|state| !state.is_forgotten).map(|state| state.shard.clone());
        let listing = Listing { number: self.listing.number + 1, shards: listed.collect() };
        self.listing_before = std::mem::replace(&mut self.listing, listing);
    }

    /// Puts a record of one to three events of one key.
    pub(super) fn put(&mut self, now: Time, chance: &mut Chance) {
        let key = chance.below(self.keys.len());
        let hash = self.keys[key].hash;
        let place = self.open.partition_point(|place| self.shards[*place].shard.first_hash_key <= hash) - 1;
        let state = &mut self.shards[self.open[place]];
        self.sequence += 1 + chance.below(3) as u64;
        let events = if chance.one_in(4) { 1 + chance.below(3) } else { 1 };
        for sub_sequence in 0..events {
            let known = &mut self.keys[key];
            known.counter += 1;
            let row = Row { key: key as u32, counter: known.counter, lane_before: known.lane };
            known.lane = state.lane;
            let position = Position::new(self.sequence.into(), sub_sequence as u32);
            state.events.push(StreamEvent { position, row, arrived_at: timestamp(now) });
        }
    }

    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Splits a shard in two; false when it is too narrow.
    pub(super) fn split(&mut self, now: Time, chance: &mut Chance) -> bool {
        let index = chance.below(self.open.len());
        let parent = self.open[index];
        let (first, last) = (self.shards[parent].shard.first_hash_key, self.shards[parent].last_hash);
        if last - first < 2 {
            return false;
        }
        let middle = first + (last - first) / 2 + 1;
        let low = self.begin_shard(first, middle - 1, &[parent]);
        let high = self.begin_shard(middle, last, &[parent]);
        self.shards[parent].is_closed = true;
        self.open[index] = low;
        self.open.insert(index + 1, high);
        self.list_anew(now);
        true
    }

    /// Merges two neighbours; false when there is one shard only.
    pub(super) fn merge(&mut self, now: Time, chance: &mut Chance) -> bool {
        if self.open.len() < 2 {
            return false;
        }
        let index = chance.below(self.open.len() - 1);
        let (low, high) = (self.open[index], self.open[index + 1]);
        let (first, last) = (self.shards[low].shard.first_hash_key, self.shards[high].last_hash);
        let child = self.begin_shard(first, last, &[low, high]);
        self.shards[low].is_closed = true;
        self.shards[high].is_closed = true;
        self.open[index] = child;
        self.open.remove(index + 1);
        self.list_anew(now);
        true
    }

    /// Forgets the shards whose end the lake has, as retention does; returns whether there was one.
    pub(super) fn forget(&mut self, now: Time, is_done: impl Fn(&ShardId) -> bool) -> bool {
        let mut is_any = false;
        for state in self.shards.iter_mut().filter(|state| state.is_closed && !state.is_forgotten) {
            state.is_forgotten = is_done(&state.shard.id);
            is_any |= state.is_forgotten;
        }
        if is_any {
            self.list_anew(now);
        }
        is_any
    }

    /// Returns the shards; some servers' lists are old for a moment. Nobody gets an older one than was seen.
    pub(super) fn list(&self, seen: u64, now: Time, chance: &mut Chance) -> Listing {
        let is_new = now < self.listed_at + LIST_LAG && self.listing_before.number >= seen;
        if is_new && chance.trouble_one_in(4) { self.listing_before.clone() } else { self.listing.clone() }
    }

    /// Reads shard after shard, `room` events at most; `None` when one of them is forgotten.
    pub(super) fn read(
        &self,
        wanted: &[(ShardId, Position)],
        mut room: usize,
        now: Time,
        chance: &mut Chance,
    ) -> Option<Vec<Taken>> {
        let mut taken = Vec::new();
        for (shard, after) in wanted {
            let state = self.state(shard);
            if state.is_forgotten {
                return None;
            }
            if room == 0 {
                break;
            }
            let mut read = Taken {
                shard: shard.clone(),
                rows: Vec::new(),
                to: *after,
                is_ended: state.is_closed && self.sabotage == Sabotage::EmptyReadIsTheEnd,
                complete_until: None,
            };
            if !chance.trouble_one_in(self.throttle_one_in) {
                let is_passed_over = self.sabotage == Sabotage::ChildBeginsAtTheEnd
                    && !state.shard.parents.is_empty()
                    && after.unmarked() == Position::START;
                let from = match is_passed_over {
                    true => state.events.len().saturating_sub(1),
                    false => state.events.partition_point(|event| event.position <= *after),
                };
                let most = room.min(READ_MAX).min(state.events.len() - from);
                // A read need not give all there is.
                let count = if most > 1 && chance.one_in(3) { 1 + chance.below(most) } else { most };
                let events = &state.events[from..from + count];
                read.rows.extend(events.iter().map(|event| event.row));
                read.to = events.last().map_or(*after, |event| event.position);
                let is_all = from + count == state.events.len();
                read.is_ended = is_all && state.is_closed;
                read.complete_until = (is_all && !state.is_closed).then(|| timestamp(now));
                room -= count;
            }
            taken.push(read);
        }
        Some(taken)
    }

    /// Returns the rows of segments once more; `None` when their shard is forgotten.
    pub(super) fn read_again(&self, segments: &[Segment]) -> Option<Vec<Row>> {
        let mut rows = Vec::new();
        for segment in segments.iter().filter(|segment| !segment.is_without_events()) {
            let state = self.state(&segment.shard);
            if state.is_forgotten {
                return None;
            }
            let from = state.events.partition_point(|event| event.position <= segment.from);
            let to = state.events.partition_point(|event| event.position <= segment.to);
            rows.extend(state.events[from..to].iter().map(|event| event.row));
        }
        Some(rows)
    }

    pub(super) fn lane_of(&self, shard: &ShardId) -> u32 {
        self.state(shard).lane
    }

    pub(super) fn is_closed(&self, shard: &ShardId) -> bool {
        self.state(shard).is_closed
    }

    /// Returns the names of the closed shards.
    pub(super) fn closed(&self) -> impl Iterator<Item = &ShardId> {
        self.shards.iter().filter(|state| state.is_closed).map(|state| &state.shard.id)
    }

    /// Returns the event that a segment denies by saying that its shard has ended, or how far it is known.
    pub(super) fn denied_by(&self, segment: &Segment) -> Option<Position> {
        let state = self.state(&segment.shard);
        let from = state.events.partition_point(|event| event.position <= segment.from);
        let mut left = state.events[from..].iter();
        let denied = match segment.to.complete_until() {
            Some(time) => left.find(|event| event.arrived_at < time),
            None if segment.to == Position::SHARD_END => left.next(),
            None => None,
        };
        denied.map(|event| event.position)
    }

    /// Returns how many events each key has.
    pub(super) fn counters(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().map(|key| key.counter)
    }

    fn state(&self, shard: &ShardId) -> &ShardState {
        &self.shards[self.places[shard]]
    }
}
