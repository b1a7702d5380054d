//! What one run reads: which shards, how far, and what is buffered of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headwater_common::hash;
use headwater_common::position::{Position, Segment, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::layout::Lane;
use headwater_stream::Shard;
use headwater_stream::lineage::{self, Gone, Waiting};

use super::clock::Time;
use super::lane_run::Limits;
use super::network::Request;
use super::stream::{Listing, Row, Taken};
use super::{LEASE, Sabotage};
use crate::parts::Chance;

/// A quiet shard is marked in one cut of so many.
const MARKS: u32 = 8;

pub(super) struct Reader {
    lane: Lane,
    /// Where each shard of the lane stands, with what is buffered.
    pub(super) positions: BTreeMap<ShardId, Position>,
    segments: Vec<Segment>,
    rows: Vec<Row>,
    /// When the first of them was read.
    first_read_at: Option<Time>,
    /// The shards that may be read.
    readable: Vec<ShardId>,
    /// The shard that is read next.
    next: usize,
    /// Shards that others have children of, and whether the end of one of them is buffered.
    parents_elsewhere: BTreeSet<ShardId>,
    is_end_awaited: bool,
    /// Shards that were read to their newest event, and when.
    tips: BTreeMap<ShardId, Timestamp>,
    /// The listing that was looked at last, and how many ends were in the lake then.
    seen: (u64, u64),
    /// Something happened after which others may be readable.
    must_look: bool,
    list_due: Time,
    sabotage: Sabotage,
}

impl Reader {
    pub(super) fn new(lane: Lane, sabotage: Sabotage) -> Self {
        Self {
            lane,
            positions: BTreeMap::new(),
            segments: Vec::new(),
            rows: Vec::new(),
            first_read_at: None,
            readable: Vec::new(),
            next: 0,
            parents_elsewhere: BTreeSet::new(),
            is_end_awaited: false,
            tips: BTreeMap::new(),
            seen: (0, 0),
            must_look: true,
            list_due: Time::ZERO,
            sabotage,
        }
    }

    /// Forgets what is buffered and goes on after these positions.
    pub(super) fn resume(&mut self, positions: BTreeMap<ShardId, Position>) {
        *self = Self { positions, seen: self.seen, ..Self::new(self.lane, self.sabotage) };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Says whether what is buffered is to be cut.
    pub(super) fn is_due(&self, limits: Limits, now: Time) -> bool {
        self.is_end_awaited
            || self.first_read_at.is_some_and(|first| self.rows.len() >= limits.rows || now - first >= limits.age)
    }

    pub(super) fn room(&self, limits: Limits) -> usize {
        limits.rows.saturating_sub(self.rows.len()).max(1)
    }

    /// Returns the request for the shards when it is time for it.
    pub(super) fn wants_list(&self, now: Time) -> Option<Request> {
        let request = Request::List { seen: self.seen, is_forced: self.must_look };
        (self.must_look || now >= self.list_due).then_some(request)
    }

    pub(super) fn put_off_list(&mut self, now: Time) {
        self.list_due = now + Self::list_every();
    }

    fn list_every() -> Duration {
        LEASE / 4
    }

    /// Looks which shards may be read; false when one that is the lane's, or that it waits for, is gone. `listed` comes
    /// with the number of ends that are in the lake.
    pub(super) fn look(
        &mut self,
        (listing, ends): (&Listing, u64),
        start: &BTreeMap<ShardId, Position>,
        others: BTreeMap<ShardId, Position>,
        now: Time,
    ) -> bool {
        (self.seen, self.must_look) = ((listing.number, ends), false);
        self.put_off_list(now);
        let mut positions = others;
        positions.extend(self.positions.iter().map(|(shard, position)| (shard.clone(), *position)));
        let found = lineage::look(&listing.shards, start, &positions);
        let is_own = |shard: &&Shard| hash::slice_of(shard.first_hash_key, self.lane.count) == self.lane.index;
        let own: BTreeSet<&ShardId> = listing.shards.iter().filter(is_own).map(|shard| &shard.id).collect();
        let waiting: Vec<&Waiting> = found.waiting.iter().filter(|waiting| own.contains(&waiting.shard)).collect();
        let awaited: BTreeSet<&ShardId> = waiting.iter().flat_map(|waiting| &waiting.parents).collect();
        let concerns = |gone: &Gone| self.positions.contains_key(&gone.shard) || awaited.contains(&gone.shard);
        if found.gone.iter().any(concerns) {
            return false;
        }
        let hasty: Vec<ShardId> = match self.sabotage {
            Sabotage::ChildDoesNotWait => waiting.iter().map(|waiting| waiting.shard.clone()).collect(),
            _ => Vec::new(),
        };
        let elsewhere = listing.shards.iter().filter(|shard| !own.contains(&shard.id));
        self.parents_elsewhere = elsewhere.flat_map(|shard| &shard.parents).cloned().collect();
        self.readable = found.readable.iter().filter(|shard| own.contains(shard)).cloned().chain(hasty).collect();
        true
    }

    /// Returns the shards to be read and after what, in turn.
    pub(super) fn wanted(&self) -> Vec<(ShardId, Position)> {
        let (before, from) = self.readable.split_at(self.next.min(self.readable.len()));
        from.iter().chain(before).map(|shard| (shard.clone(), self.position(shard))).collect()
    }

    /// Adds what a read gave; false when that was nothing.
    pub(super) fn add(&mut self, taken: Vec<Taken>, now: Time) -> bool {
        self.next = (self.next + taken.len()) % self.readable.len().max(1);
        let mut is_any = false;
        for Taken { shard, rows, to, is_ended, complete_until } in taken {
            if !rows.is_empty() {
                self.rows.extend(rows);
                self.move_to(&shard, to);
                is_any = true;
            }
            if is_ended {
                self.move_to(&shard, Position::SHARD_END);
                self.is_end_awaited |= self.parents_elsewhere.contains(&shard);
                self.readable.retain(|readable| *readable != shard);
                // Its children may be read now.
                self.must_look = true;
                is_any = true;
            }
            match complete_until {
                Some(time) => _ = self.tips.insert(shard, time),
                None => _ = self.tips.remove(&shard),
            }
        }
        if is_any {
            self.first_read_at.get_or_insert(now);
        }
        is_any
    }

    /// Takes what is buffered, for a cut.
    pub(super) fn take(&mut self, chance: &mut Chance) -> (Vec<Segment>, Vec<Row>) {
        for (shard, time) in std::mem::take(&mut self.tips) {
            let position = self.position(&shard);
            let is_newer = position.complete_until().is_none_or(|known| known < time);
            if is_newer && chance.one_in(MARKS) {
                self.move_to(&shard, position.marked(time));
            }
        }
        (self.first_read_at, self.is_end_awaited) = (None, false);
        (std::mem::take(&mut self.segments), std::mem::take(&mut self.rows))
    }

    fn position(&self, shard: &ShardId) -> Position {
        self.positions.get(shard).copied().unwrap_or(Position::START)
    }

    /// Notes a segment. What goes to a mark or to a shard's end is one of its own.
    fn move_to(&mut self, shard: &ShardId, to: Position) {
        let from = self.position(shard);
        let next = Segment { shard: shard.clone(), from, to };
        match self.segments.last_mut() {
            Some(last) if last.shard == *shard && !last.is_without_events() && !next.is_without_events() => {
                last.to = to
            }
            _ => self.segments.push(next),
        }
        self.positions.insert(shard.clone(), to);
    }
}
