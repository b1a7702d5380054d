//! Where reading goes on in a shard, and what an answer says of that place. Decisions only: nothing here waits.
//!
//! Kinesis never says that a place is gone: asked for a record that retention has deleted, it begins with the oldest
//! one it has. So a place behind a record is asked for by *that* record, which must come first. If another comes
//! instead, everything up to that one is gone, and whether something was lost nobody knows: that is
//! [`Trimmed`], unless a mark says that nothing had arrived until a time which retention has not reached.

use std::time::Duration;

use headwater_common::position::{Position, Sequence};
use headwater_common::timestamp::Timestamp;

use super::limits::ITERATOR_LIFE;

/// How far from the end of the retention a time counts as inside it: clocks differ, and deleting takes its time.
const HORIZON_MARGIN: Duration = Duration::from_secs(10 * 60);

/// How far before a mark reading begins again. What the mark says of was asked by our idea of the service's time, which
/// may be off by what the service lets pass in a signature.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// How long before its end an iterator is not used any more, so that it does not expire on the way.
const ITERATOR_MARGIN: Duration = Duration::from_secs(15);

/// How near to the end of the retention every answer is made to begin with the last record before it.
const NEAR_HORIZON: Duration = Duration::from_secs(60);

/// How often the end of the shard is reached without the record that must come first, until it counts as gone. An
/// answer without records may be a matter of timing.
const TIPS_WITHOUT_IT_MAX: u32 = 3;

/// What an iterator, or a subscription, is asked to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// The oldest record.
    TrimHorizon,
    /// This record.
    AtSequence(Sequence),
    /// The first record that arrived then or later.
    AtTime(Timestamp),
}

/// What the first records must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Anything.
    Nothing,
    /// This record comes first, or it is gone.
    First(Sequence),
    /// Those that arrived before that time come first, if at all, and are not asked for.
    NotBefore(Timestamp),
}

/// What is known of the stream when something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The service's time.
    pub(super) now: Timestamp,
    /// How long records are kept.
    pub(super) retention: Duration,
}

/// Retention has passed the place where reading was to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trimmed {
    /// The oldest record that is left; the shard's end when there is none.
    pub(super) oldest: Position,
}

/// A place in a shard, as reading knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// What comes next is after it; without a mark.
    pub(super) after: Position,
    /// What comes next arrived at that time or later, where reading begins with a time and not behind a record.
    pub(super) start: Option<Timestamp>,
    /// Everything that arrived before that time is at or before `after`.
    pub(super) complete_until: Option<Timestamp>,
}

impl Place {
    /// Returns true when no record was read before this place.
    pub(super) fn is_start(&self) -> bool {
        self.after.sequence == Sequence::default()
    }
}

impl Facts {
    /// Returns true when nothing that arrived since `time` can have been deleted.
    pub(super) fn keeps(&self, time: Timestamp) -> bool {
        time > self.now.minus(self.retention).plus(HORIZON_MARGIN.min(self.retention / 10))
    }
}

/// Decides where reading begins when there is no iterator.
pub(super) fn begin(place: &Place, facts: Facts) -> Result<(Begin, Check), Trimmed> {
    if !place.is_start() {
        let sequence = place.after.sequence;
        return Ok((Begin::AtSequence(sequence), Check::First(sequence)));
    }
    let known = place.start.max(place.complete_until);
    match (place.start, known) {
        // What was deleted before the first look is not missed by anybody.
        (None, None) => Ok((Begin::TrimHorizon, Check::Nothing)),
        (_, Some(known)) if !facts.keeps(known) => Err(Trimmed { oldest: Position::SHARD_END }),
        (None, Some(_)) => Ok((Begin::TrimHorizon, Check::Nothing)),
        (Some(start), known) => {
            let from = known.map_or(start, |known| start.max(known.minus(SKEW_MAX)));
            // Some servers know whole seconds only.
            Ok((Begin::AtTime(from), Check::NotBefore(whole_second(start))))
        }
    }
}

/// Decides how reading goes on when the record before it is gone.
pub(super) fn begin_without_it(place: &Place, oldest: Position, facts: Facts) -> Result<(Begin, Check), Trimmed> {
    match place.complete_until {
        // Nothing came between the record and that time, and all that came since is there. Asking from a little before
        // costs nothing, and makes up for clocks that differ.
        Some(quiet_until) if facts.keeps(quiet_until) => {
            Ok((Begin::AtTime(quiet_until.minus(SKEW_MAX)), Check::Nothing))
        }
        _ => Err(Trimmed { oldest }),
    }
}

/// Returns true when reading may go on with the token of the last answer. Near the end of the retention it may not
/// after an answer with records: the next record could be deleted before the token is used, and nobody would know.
pub(super) fn may_go_on(token_age: Duration, behind: Duration, brought_records: bool, facts: Facts) -> bool {
    if token_age + ITERATOR_MARGIN >= ITERATOR_LIFE {
        return false;
    }
    !brought_records || behind + token_age + NEAR_HORIZON < facts.retention
}

/// Returns true when the record that must come first is gone, although no other came: the shard is at its end, or the
/// tip was reached often enough.
pub(super) fn is_gone(ended: bool, tips_without_it: u32) -> bool {
    ended || tips_without_it >= TIPS_WITHOUT_IT_MAX
}

/// Returns the second that a time lies in.
pub(super) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_micros(time.micros() - time.micros().rem_euclid(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(Duration::from_secs(seconds))
    }

    fn place(after: &str) -> Place {
        let after: Position = after.parse().unwrap();
        let start = if after.sequence == Sequence::default() { after.complete_until() } else { None };
        Place { after: after.unmarked(), start, complete_until: after.complete_until() }
    }

    fn facts(now: u64) -> Facts {
        Facts { now: at(now), retention: DAY }
    }

    #[test]
    fn fm06_a_shard_without_a_position_begins_with_its_oldest_record() {
        assert_eq!(begin(&place("0:0"), facts(1_000_000)), Ok((Begin::TrimHorizon, Check::Nothing)));
    }

    #[test]
    fn fm10_a_position_is_asked_for_by_its_record_and_never_by_latest() {
        let sequence: Sequence = "7".parse().unwrap();
        for text in ["7:0", "7:3", "7:3@999000000000"] {
            let (begin, check) = begin(&place(text), facts(1_000_000)).unwrap();
            assert_eq!((begin, check), (Begin::AtSequence(sequence), Check::First(sequence)), "{text}");
        }
    }

    #[test]
    fn fm10_latest_is_a_time_and_stays_that_time() {
        let place = place("0:0@999000500000");
        let expect = (Begin::AtTime(Timestamp::from_micros(999_000_500_000)), Check::NotBefore(at(999_000)));
        assert_eq!(begin(&place, facts(999_001)), Ok(expect));
        assert_eq!(begin(&place, facts(999_001 + 3600)), Ok(expect), "an hour later it is the same");
    }

    #[test]
    fn fm11_a_time_that_retention_has_passed_is_no_beginning() {
        let gone = Err(Trimmed { oldest: Position::SHARD_END });
        assert_eq!(begin(&place("0:0@1000000"), facts(24 * 3600 + 2)), gone);
        let quiet = Place { complete_until: Some(at(24 * 3600)), ..place("0:0@1000000") };
        let (begin, _) = begin(&quiet, facts(24 * 3600 + 2)).unwrap();
        assert_eq!(begin, Begin::AtTime(at(24 * 3600 - 300)), "it is known to have been quiet since");
    }

    #[test]
    fn fm11_a_record_that_is_gone_stops_the_reader_unless_a_mark_bridges_it() {
        let oldest = Position::of_record(9.into());
        let check = |text: &str, now: u64, expect: Option<Begin>| {
            let decided = begin_without_it(&place(text), oldest, facts(now));
            assert_eq!(decided.map(|(begin, _)| begin), expect.ok_or(Trimmed { oldest }), "{text} at {now}");
        };
        check("7:0", 90_000, None);
        check("7:0@50000000000", 90_000, Some(Begin::AtTime(at(50_000 - 300))));
        check("7:0@50000000000", 50_000 + 24 * 3600, None);
        // Within the margin of the retention's end the mark is not trusted.
        check("7:0@50000000000", 50_000 + 24 * 3600 - 599, None);
        check("7:0@50000000000", 50_000 + 24 * 3600 - 601, Some(Begin::AtTime(at(50_000 - 300))));
    }

    #[test]
    fn fm11_near_the_end_of_the_retention_each_answer_begins_with_the_record_before() {
        let second = Duration::from_secs(1);
        let check = |age: Duration, behind: Duration, brought: bool, expect: bool| {
            assert_eq!(may_go_on(age, behind, brought, facts(1_000_000)), expect, "{age:?} {behind:?} {brought}");
        };
        check(second, Duration::ZERO, true, true);
        check(second, DAY / 2, true, true);
        check(second, DAY - second, true, false);
        // An answer without records leads on, or a wide gap between two records could never be crossed.
        check(second, DAY - second, false, true);
        check(ITERATOR_LIFE, Duration::ZERO, false, false);
        check(ITERATOR_LIFE - Duration::from_secs(16), Duration::ZERO, false, true);
    }

    #[test]
    fn times_are_rounded_down_to_seconds_also_before_1970() {
        assert_eq!(whole_second(Timestamp::from_micros(1_999_999)), Timestamp::from_micros(1_000_000));
        assert_eq!(whole_second(Timestamp::from_micros(-1)), Timestamp::from_micros(-1_000_000));
    }
}
