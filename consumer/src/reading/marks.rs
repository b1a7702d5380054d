//! When it is written down until when a shard was quiet.
//!
//! A stream without gapless numbers tells a reader that retention has passed only by the record that it stood at: of a
//! shard that was quiet for longer than the retention that record is gone, although nothing was lost. So the position
//! of a quiet shard gets a mark from time to time: all that arrived before this moment is at or before it. Only streams
//! whose reads say until when they are complete have marks.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;

use crate::shards::{Positions, position_of};

/// A shard's position that is older than this gets a mark with the next cut: a mark costs a line of it.
const WITH_OTHERS_AFTER: Duration = Duration::from_secs(3600);

/// A shard's position that is older than this is reason enough for a cut: several of them fit into the shortest
/// retention of Kinesis, 24 hours (<https://docs.aws.amazon.com/streams/latest/dev/kinesis-extended-retention.html>).
const ALONE_AFTER: Duration = Duration::from_secs(6 * 3600);

/// How much earlier than the read said the mark is of a shard of which no event was taken: reading begins again exactly
/// there, and the arrival times are another clock's.
const EARLIER_AT_START: Duration = Duration::from_secs(300);

/// What is known of the age of a lane's positions.
#[derive(Debug)]
pub(super) struct Marks {
    /// When the lane began to read.
    since: Timestamp,
    /// When the newest event of a shard arrived, of those that this reader saw.
    arrived: BTreeMap<ShardId, Timestamp>,
    /// Until when a shard is known to be complete.
    complete: BTreeMap<ShardId, Timestamp>,
}

impl Marks {
    /// Returns what is known when a lane begins to read.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, arrived: BTreeMap::new(), complete: BTreeMap::new() }
    }

    /// Takes what a read said of a shard.
    pub(super) fn saw(&mut self, shard: &ShardId, arrived: Option<Timestamp>, complete_until: Option<Timestamp>) {
        for (known, time) in [(&mut self.arrived, arrived), (&mut self.complete, complete_until)] {
            if let Some(time) = time {
                known.insert(shard.clone(), time);
            }
        }
    }

    /// Forgets a shard that was read to its end.
    pub(super) fn end(&mut self, shard: &ShardId) {
        self.arrived.remove(shard);
        self.complete.remove(shard);
    }

    /// Forgets what was read: the positions are others, and what was complete then need not be so now.
    pub(super) fn forget(&mut self) {
        self.arrived.clear();
        self.complete.clear();
    }

    /// Returns the marks that go with a cut that is made anyway. What another process read is as good as old.
    pub(super) fn due(&self, positions: &Positions) -> Vec<(ShardId, Timestamp)> {
        let due = |(shard, until): (&ShardId, &Timestamp)| {
            let position = position_of(positions, shard);
            let is_at_start = position.unmarked() == Position::START;
            let until = if is_at_start { until.minus(EARLIER_AT_START) } else { *until };
            let known = self.time_of(shard, position);
            let is_due = known.is_none_or(|time| until.since(time) >= WITH_OTHERS_AFTER);
            is_due.then(|| (shard.clone(), until))
        };
        self.complete.iter().filter_map(due).collect()
    }

    /// Returns true when a mark is reason enough for a cut.
    pub(super) fn are_overdue(&self, positions: &Positions) -> bool {
        self.complete.iter().any(|(shard, until)| {
            let known = self.time_of(shard, position_of(positions, shard)).unwrap_or(self.since);
            until.since(known) >= ALONE_AFTER
        })
    }

    /// Returns how old a position is known to be.
    fn time_of(&self, shard: &ShardId, position: Position) -> Option<Timestamp> {
        position.complete_until().or_else(|| self.arrived.get(shard).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(Duration::from_secs(1_000_000 + second))
    }

    fn at(text: &str) -> Positions {
        Positions::from([("a".into(), text.parse().unwrap())])
    }

    fn check(marks: &Marks, positions: &Positions, due: Option<u64>, is_overdue: bool) {
        let expect: Vec<_> = due.into_iter().map(|until| (ShardId::from("a"), second(until))).collect();
        assert_eq!(marks.due(positions), expect);
        assert_eq!(marks.are_overdue(positions), is_overdue);
    }

    #[test]
    fn fm11_a_quiet_shard_is_marked_with_others_after_an_hour_and_alone_after_six() {
        let mut marks = Marks::new(second(0));
        let shard = ShardId::from("a");
        marks.saw(&shard, Some(second(100)), Some(second(101)));
        check(&marks, &at("7:0"), None, false);
        marks.saw(&shard, None, Some(second(100 + 3_600)));
        check(&marks, &at("7:0"), Some(100 + 3_600), false);
        marks.saw(&shard, None, Some(second(100 + 6 * 3_600)));
        check(&marks, &at("7:0"), Some(100 + 6 * 3_600), true);
        let marked = Positions::from([("a".into(), at("7:0")[&shard].marked(second(100 + 6 * 3_600)))]);
        check(&marks, &marked, None, false);
    }

    #[test]
    fn what_another_process_read_is_marked_with_the_next_cut() {
        let mut marks = Marks::new(second(0));
        check(&marks, &at("7:0"), None, false);
        marks.saw(&"a".into(), None, Some(second(1)));
        check(&marks, &at("7:0"), Some(1), false);
        let early = second(1).minus(EARLIER_AT_START);
        assert_eq!(marks.due(&at("0:0")), [("a".into(), early)], "reading begins again there");
        marks.saw(&"a".into(), None, Some(second(6 * 3_600)));
        check(&marks, &at("7:0"), Some(6 * 3_600), true);
        marks.forget();
        check(&marks, &at("7:0"), None, false);
    }
}
