//! How far a shard was fetched, what is asked next, and what an answer does to that. Pure: it is told the time and the
//! answers.
//!
//! ```text
//!            ask                                   admit
//! place --> token of the last answer, while good --> records behind the place, or: it is gone
//!      \--> Begin, and what must come first     --/
//! ```

use std::time::Duration;

use headwater_common::position::Position;
use headwater_common::timestamp::Timestamp;
use tokio::time::Instant;

use super::buffer::Record;
use super::plan::{self, Begin, Check, Facts, Place, Trimmed};

/// What the service is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// To begin there.
    Begin(Begin),
    /// To go on where the last answer ended: an iterator, or the number behind the last event of a subscription.
    Token(String),
}

/// What the service said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Records, in order.
    pub(super) records: Vec<Record>,
    /// How to go on; `None` at the shard's end.
    pub(super) token: Option<String>,
    /// How far the answer is from the shard's newest record.
    pub(super) behind: Duration,
    /// When it was asked, if the answer goes to the end of what there was.
    pub(super) complete_until: Option<Timestamp>,
}

/// How far a shard was fetched.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    place: Place,
    check: Check,
    /// Where to begin, once that was decided otherwise than by the place.
    begin: Option<Begin>,
    token: Option<(String, Instant)>,
    tips_without_it: u32,
    behind: Duration,
    brought_records: bool,
    ended: bool,
}

impl Cursor {
    /// Returns the cursor of a reader that asks for what is after a position.
    pub(super) fn new(after: Position) -> Self {
        let mut place = Place { after: after.unmarked(), start: None, complete_until: after.complete_until() };
        if place.is_start() {
            place.start = after.complete_until();
        }
        Self {
            place,
            check: Check::Nothing,
            begin: None,
            token: None,
            tips_without_it: 0,
            behind: Duration::ZERO,
            brought_records: false,
            ended: false,
        }
    }

    /// Returns true when the shard is closed and all of it was fetched.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns how far the last answer was from the shard's newest record.
    pub(super) fn behind(&self) -> Duration {
        self.behind
    }

    /// Returns a time before which everything that arrived was fetched.
    pub(super) fn complete_until(&self) -> Option<Timestamp> {
        self.place.complete_until
    }

    /// Learns from elsewhere that everything which arrived before a time was fetched.
    pub(super) fn note_complete_until(&mut self, time: Option<Timestamp>) {
        self.place.complete_until = self.place.complete_until.max(time);
    }

    /// The token cannot be used any more: the next ask begins again behind the last record.
    pub(super) fn lose_token(&mut self) {
        self.token = None;
    }

    /// Returns true when what follows the last answer is what is wanted next; else reading begins elsewhere, or ended.
    pub(super) fn goes_on(&self) -> bool {
        self.token.is_some()
    }

    /// Decides what to ask next.
    ///
    /// # Errors
    /// When retention has passed the place.
    pub(super) fn ask(&mut self, now: Instant, facts: Facts) -> Result<Ask, Trimmed> {
        if let Some((token, at)) = &self.token
            && plan::may_go_on(now.duration_since(*at), self.behind, self.brought_records, facts)
        {
            return Ok(Ask::Token(token.clone()));
        }
        self.token = None;
        if let Some(begin) = self.begin {
            return Ok(Ask::Begin(begin));
        }
        let (begin, check) = plan::begin(&self.place, facts)?;
        self.check = check;
        self.tips_without_it = 0;
        Ok(Ask::Begin(begin))
    }

    /// Takes up the answer to a request that began at a time, and returns its records that are after the place, which
    /// moves behind them.
    ///
    /// # Errors
    /// When the record before the place is gone, and with it perhaps records after the place.
    pub(super) fn admit(&mut self, answer: Answer, asked: Instant, facts: Facts) -> Result<Vec<Record>, Trimmed> {
        let Answer { mut records, token, behind, complete_until } = answer;
        self.behind = behind;
        match self.check {
            Check::Nothing => {}
            Check::First(sequence) => match records.iter().find(|record| record.sequence >= sequence) {
                Some(first) if first.sequence == sequence => self.check = Check::Nothing,
                Some(first) => return self.go_on_without_it(Position::of_record(first.sequence), facts),
                // What stands before it tells nothing of it.
                None if !records.is_empty() && token.is_some() => {
                    self.continue_with(token, asked);
                    return Ok(Vec::new());
                }
                None => {
                    self.tips_without_it += u32::from(complete_until.is_some());
                    if plan::is_gone(token.is_none(), self.tips_without_it) {
                        return self.go_on_without_it(Position::SHARD_END, facts);
                    }
                    self.continue_with(token, asked);
                    return Ok(Vec::new());
                }
            },
            Check::NotBefore(time) => {
                let early = records.iter().take_while(|record| record.arrived_at < time).count();
                records.drain(..early);
                if !records.is_empty() {
                    self.check = Check::Nothing;
                }
            }
        }
        let after = self.place.after;
        records.retain(|record| record.end() > after);
        self.brought_records = records.last().is_some_and(|last| last.sequence > after.sequence);
        if let Some(last) = records.last() {
            let end = last.end();
            self.place = Place { after: end, start: None, complete_until };
        } else {
            self.note_complete_until(complete_until);
        }
        self.continue_with(token, asked);
        Ok(records)
    }

    fn continue_with(&mut self, token: Option<String>, asked: Instant) {
        self.begin = None;
        self.ended = token.is_none();
        self.token = token.map(|token| (token, asked));
    }

    /// The record before the place is gone.
    fn go_on_without_it(&mut self, oldest: Position, facts: Facts) -> Result<Vec<Record>, Trimmed> {
        let (begin, check) = plan::begin_without_it(&self.place, oldest, facts)?;
        tracing::info!(after = %self.place.after, "the last record is gone, and nothing came after it until lately");
        (self.begin, self.check, self.token, self.ended) = (Some(begin), check, None, false);
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::tests::{aggregate, record};
    use super::super::limits::ITERATOR_LIFE;
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: u64 = 1_000_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).plus(Duration::from_secs(seconds))
    }

    fn facts() -> Facts {
        Facts { now: at(NOW), retention: DAY }
    }

    fn cursor(after: &str) -> Cursor {
        Cursor::new(after.parse().expect("a position"))
    }

    /// An answer with more behind it.
    fn page(records: Vec<Record>) -> Answer {
        Answer { records, token: Some("next".to_owned()), behind: Duration::from_secs(9), complete_until: None }
    }

    /// An answer up to the newest record.
    fn tip(records: Vec<Record>) -> Answer {
        Answer { behind: Duration::ZERO, complete_until: Some(at(NOW)), ..page(records) }
    }

    fn sequences(admitted: Result<Vec<Record>, Trimmed>) -> Vec<String> {
        admitted.expect("not trimmed").iter().map(|record| record.sequence.to_string()).collect()
    }

    fn begins(cursor: &mut Cursor) -> Begin {
        match cursor.ask(Instant::now(), facts()) {
            Ok(Ask::Begin(begin)) => begin,
            other => panic!("{other:?} is no beginning"),
        }
    }

    #[test]
    fn reading_begins_at_the_place_and_goes_on_with_the_token() {
        let (mut cursor, now) = (cursor("0:0"), Instant::now());
        assert_eq!(begins(&mut cursor), Begin::TrimHorizon);
        assert_eq!(sequences(cursor.admit(page(vec![record(1, "a"), record(2, "b")]), now, facts())), ["1", "2"]);
        assert_eq!(cursor.ask(now, facts()), Ok(Ask::Token("next".to_owned())));
        assert_eq!(cursor.complete_until(), None, "there is more");
        assert_eq!(sequences(cursor.admit(tip(vec![record(3, "c")]), now, facts())), ["3"]);
        assert_eq!(cursor.complete_until(), Some(at(NOW)));
    }

    #[test]
    fn fm05_a_shard_has_ended_when_there_is_no_way_on() {
        let (mut cursor, now) = (cursor("0:0"), Instant::now());
        begins(&mut cursor);
        assert_eq!(sequences(cursor.admit(page(Vec::new()), now, facts())), [""; 0]);
        assert!(!cursor.has_ended(), "an empty answer is not the end");
        let last = Answer { token: None, ..page(vec![record(1, "a")]) };
        assert_eq!(sequences(cursor.admit(last, now, facts())), ["1"]);
        assert!(cursor.has_ended());
    }

    #[test]
    fn fm10_an_expired_iterator_is_made_anew_behind_the_last_record() {
        let (mut cursor, now) = (cursor("0:0@999999000000"), Instant::now());
        assert_eq!(begins(&mut cursor), Begin::AtTime(at(999_999)));
        sequences(cursor.admit(tip(vec![record(999_999, "a")]), now, facts()));
        cursor.lose_token();
        assert_eq!(begins(&mut cursor), Begin::AtSequence(999_999.into()));
        let again = tip(vec![record(999_999, "a"), record(1_000_000, "b")]);
        assert_eq!(sequences(cursor.admit(again, now, facts())), ["1000000"], "nothing twice");
        let later = now + ITERATOR_LIFE;
        assert!(matches!(cursor.ask(later, facts()), Ok(Ask::Begin(Begin::AtSequence(_)))), "its age is known as well");
    }

    #[test]
    fn fm10_a_quiet_shard_that_began_at_a_time_begins_there_again() {
        let (mut cursor, now) = (cursor("0:0@999000000000"), Instant::now());
        assert_eq!(begins(&mut cursor), Begin::AtTime(at(999_000)));
        sequences(cursor.admit(tip(Vec::new()), now, facts()));
        cursor.lose_token();
        assert_eq!(begins(&mut cursor), Begin::AtTime(at(NOW - 300)));
        // Servers that know no such time begin with the oldest record.
        let all = tip(vec![record(998_999, "old"), record(999_500, "new")]);
        assert_eq!(sequences(cursor.admit(all, now, facts())), ["999500"]);
    }

    #[test]
    fn fm11_another_record_first_means_that_the_position_is_gone() {
        let (mut cursor, now) = (cursor("7:0"), Instant::now());
        assert_eq!(begins(&mut cursor), Begin::AtSequence(7.into()));
        let gone = cursor.admit(page(vec![record(9, "a")]), now, facts());
        assert_eq!(gone, Err(Trimmed { oldest: Position::of_record(9.into()) }));
    }

    #[test]
    fn fm11_an_empty_shard_means_that_the_position_is_gone_but_one_empty_answer_does_not() {
        let now = Instant::now();
        let mut open = cursor("7:0");
        begins(&mut open);
        for _ in 0..20 {
            assert_eq!(sequences(open.admit(page(Vec::new()), now, facts())), [""; 0], "it is not the tip");
        }
        for _ in 0..2 {
            assert_eq!(sequences(open.admit(tip(Vec::new()), now, facts())), [""; 0]);
            assert_eq!(open.complete_until(), None, "nothing is known while the record did not come");
        }
        assert!(open.admit(tip(Vec::new()), now, facts()).is_err());
        let mut closed = cursor("7:0");
        begins(&mut closed);
        assert!(closed.admit(Answer { token: None, ..tip(Vec::new()) }, now, facts()).is_err());
    }

    #[test]
    fn fm11_a_mark_bridges_a_record_that_is_gone() {
        let (mut cursor, now) = (cursor("7:0@999000000000"), Instant::now());
        assert_eq!(begins(&mut cursor), Begin::AtSequence(7.into()));
        assert_eq!(sequences(cursor.admit(page(vec![record(999_001, "a")]), now, facts())), [""; 0]);
        assert!(!cursor.goes_on(), "what follows that record would not be all");
        assert_eq!(begins(&mut cursor), Begin::AtTime(at(999_000 - 300)));
        let found = page(vec![record(6, "before"), record(999_001, "a")]);
        assert_eq!(sequences(cursor.admit(found, now, facts())), ["999001"], "what was read does not come again");
    }

    #[test]
    fn fm15_a_position_inside_an_aggregate_asks_for_its_record_again() {
        let (mut cursor, now) = (cursor("7:1"), Instant::now());
        assert_eq!(begins(&mut cursor), Begin::AtSequence(7.into()));
        let records = vec![aggregate(7, &["a", "b", "c"]), record(8, "d")];
        assert_eq!(sequences(cursor.admit(page(records), now, facts())), ["7", "8"]);
    }
}
