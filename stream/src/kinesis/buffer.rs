//! Records that were fetched and not yet taken by the reader, and the events in them.
//!
//! A record stays until the reader asks for what is after it: a reader that takes less than it was given gets the rest
//! from here. An aggregate is taken apart when it is handed out, so that what waits takes no more memory than it took
//! on its way. Its user records are all events of this shard, also one whose key hashes elsewhere: the producer knew
//! an older shard map, and dropping the event would lose it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use headwater_common::event::Event;
use headwater_common::position::{Position, Sequence};
use headwater_common::timestamp::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::kpl;

/// Events that one read returns at most: it bounds the memory of events without payload.
const READ_EVENTS_MAX: usize = 100_000;

/// A record as the service gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Its number.
    pub(super) sequence: Sequence,
    /// When the service accepted it.
    pub(super) arrived_at: Timestamp,
    /// The key that chose its shard.
    pub(super) partition_key: Bytes,
    /// Its bytes, perhaps an aggregate.
    pub(super) payload: Bytes,
}

impl Record {
    /// Returns the position behind everything in the record.
    pub(super) fn end(&self) -> Position {
        Position::new(self.sequence, u32::MAX)
    }

    /// Returns the event at a place in the record.
    fn event(&self, sub_sequence: u32, partition_key: Bytes, payload: Bytes) -> Event {
        let position = Position::new(self.sequence, sub_sequence);
        Event { position, arrived_at: self.arrived_at, partition_key, payload }
    }

    /// Returns the record as one event: what is not aggregated, or only seems to be.
    fn whole(&self) -> Event {
        self.event(0, self.partition_key.clone(), self.payload.clone())
    }
}

/// A record that waits, and the place of its last event once that is known.
#[derive(Debug)]
struct Waiting {
    record: Record,
    last: Option<u32>,
}

/// What was fetched of a shard and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    records: VecDeque<Waiting>,
    /// The part of the memory budget that the records take; given back when the last is taken.
    room: Option<OwnedSemaphorePermit>,
}

/// What one read gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Served {
    /// The events.
    pub(super) events: Vec<Event>,
    /// True when no event that waits comes after them.
    pub(super) is_all: bool,
    /// How long before the last record that waits the last event arrived.
    pub(super) behind_last: Duration,
}

impl Buffer {
    /// Takes up an answer's records, after the earlier ones were taken.
    pub(super) fn fill(&mut self, records: Vec<Record>, room: Option<OwnedSemaphorePermit>) {
        debug_assert!(self.records.is_empty(), "the earlier records were taken");
        self.records = records.into_iter().map(|record| Waiting { record, last: None }).collect();
        self.room = room.filter(|_| !self.records.is_empty());
    }

    /// Returns true when no record waits.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns true when a record of that number waits.
    pub(super) fn holds(&self, sequence: Sequence) -> bool {
        self.records.binary_search_by_key(&sequence, |waiting| waiting.record.sequence).is_ok()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.records = VecDeque::new();
        self.room = None;
    }

    /// Forgets the records that have no event after `after`.
    pub(super) fn drop_taken(&mut self, after: Position) {
        while let Some(Waiting { record, last }) = self.records.front() {
            let end = Position::new(record.sequence, last.unwrap_or(u32::MAX));
            if end > after {
                break;
            }
            self.records.pop_front();
        }
        if self.records.is_empty() {
            self.clear();
        }
    }

    /// Returns events after `after`, at most `bytes_max` of payload but at least one when there is one.
    pub(super) fn serve(&mut self, after: Position, bytes_max: usize) -> Served {
        let newest = self.records.back().map(|waiting| waiting.record.arrived_at);
        let mut taking = Taking { after, bytes_max, bytes: 0, events: Vec::new() };
        let is_all = self.records.iter_mut().all(|waiting| waiting.hand_out(&mut taking));
        let events = taking.events;
        let behind_last = match (newest, events.last()) {
            (Some(newest), Some(last)) => newest.since(last.arrived_at),
            _ => Duration::ZERO,
        };
        Served { events, is_all, behind_last }
    }
}

impl Waiting {
    /// Hands out the record's events; false when not all of them were taken.
    fn hand_out(&mut self, taking: &mut Taking) -> bool {
        let record = &self.record;
        if !kpl::is_aggregate(&record.payload) {
            self.last = Some(0);
            return taking.take(|| record.whole(), Position::of_record(record.sequence));
        }
        let users = kpl::split(&record.payload).unwrap_or_default();
        if users.is_empty() {
            // Broken, or it only begins like one: the decoder makes a dead letter of what it cannot read.
            self.last = Some(0);
            return taking.take(|| record.whole(), Position::of_record(record.sequence));
        }
        self.last = u32::try_from(users.len() - 1).ok();
        (0..).zip(users).all(|(place, user)| {
            let position = Position::new(record.sequence, place);
            taking.take(|| record.event(place, user.partition_key, user.payload), position)
        })
    }
}

/// Events on their way out.
struct Taking {
    after: Position,
    bytes_max: usize,
    bytes: usize,
    events: Vec<Event>,
}

impl Taking {
    /// Takes an event that is asked for; false when there is no room for it.
    fn take(&mut self, event: impl FnOnce() -> Event, position: Position) -> bool {
        if position <= self.after {
            return true;
        }
        let event = event();
        self.bytes = self.bytes.saturating_add(event.payload.len());
        let full = self.bytes > self.bytes_max || self.events.len() == READ_EVENTS_MAX;
        if full && !self.events.is_empty() {
            return false;
        }
        self.events.push(event);
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::kpl::Aggregate;
    use super::*;

    pub(crate) fn record(sequence: u64, payload: impl Into<Bytes>) -> Record {
        Record {
            sequence: sequence.into(),
            arrived_at: Timestamp::from_micros(i64::try_from(sequence).expect("a small number") * 1_000_000),
            partition_key: Bytes::from_static(b"k"),
            payload: payload.into(),
        }
    }

    pub(crate) fn aggregate(sequence: u64, payloads: &[&str]) -> Record {
        let mut aggregate = Aggregate::new();
        for payload in payloads {
            let payload = Bytes::copy_from_slice(payload.as_bytes());
            aggregate.push(Bytes::from_static(b"user"), None, payload).expect("the key is text");
        }
        record(sequence, aggregate.finish())
    }

    fn filled(records: Vec<Record>) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.fill(records, None);
        buffer
    }

    fn texts(served: &Served) -> Vec<String> {
        let text = |event: &Event| format!("{} {}", event.position, String::from_utf8_lossy(&event.payload));
        served.events.iter().map(text).collect()
    }

    #[test]
    fn fm15_reading_goes_on_inside_an_aggregate() {
        let mut buffer = filled(vec![aggregate(7, &["a", "b", "c"]), record(8, "d")]);
        let all = ["7:0 a", "7:1 b", "7:2 c", "8:0 d"];
        for (taken, after) in ["0:0", "7:0", "7:1", "7:2", "8:0"].into_iter().enumerate() {
            let after: Position = after.parse().unwrap();
            buffer.drop_taken(after);
            let served = buffer.serve(after, 1000);
            assert_eq!(texts(&served), all[taken..], "after {after}");
            assert!(served.is_all);
        }
        buffer.drop_taken("8:0".parse().unwrap());
        assert!(buffer.is_empty());
    }

    #[test]
    fn fm15_a_reader_that_takes_less_than_it_was_given_gets_the_rest_again() {
        let mut buffer = filled(vec![aggregate(7, &["a", "b", "c"]), record(8, "d")]);
        let served = buffer.serve(Position::START, 2);
        assert_eq!((texts(&served), served.is_all), (vec!["7:0 a".to_owned(), "7:1 b".to_owned()], false));
        let first: Position = "7:0".parse().unwrap();
        assert!(buffer.holds(first.sequence));
        buffer.drop_taken(first);
        assert_eq!(texts(&buffer.serve(first, 2)), ["7:1 b", "7:2 c"]);
        buffer.drop_taken("7:2".parse().unwrap());
        assert!(!buffer.holds(first.sequence), "all of the aggregate was taken");
    }

    #[test]
    fn an_event_larger_than_the_read_still_comes() {
        let mut buffer = filled(vec![record(1, "large"), record(2, "")]);
        assert_eq!(texts(&buffer.serve(Position::START, 1)), ["1:0 large"]);
        assert_eq!(texts(&buffer.serve(Position::START, 5)), ["1:0 large", "2:0 "]);
    }

    #[test]
    fn a_broken_aggregate_is_one_event_with_all_its_bytes() {
        let mut bytes = aggregate(7, &["a", "b"]).payload.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let mut buffer = filled(vec![record(7, bytes.clone()), aggregate(8, &["c"])]);
        let served = buffer.serve(Position::START, 1000);
        let positions: Vec<_> = served.events.iter().map(|event| event.position.to_string()).collect();
        assert_eq!(positions, ["7:0", "8:0"]);
        assert_eq!(served.events[0].payload, bytes);
        assert_eq!(served.events[0].partition_key, "k");
        assert_eq!(served.events[1].partition_key, "user");
    }

    #[test]
    fn what_waits_says_how_far_behind_an_event_is() {
        let mut buffer = filled(vec![record(1, "a"), record(5, "b")]);
        assert_eq!(buffer.serve(Position::START, 1).behind_last, Duration::from_secs(4));
        assert_eq!(buffer.serve(Position::START, 9).behind_last, Duration::ZERO);
    }
}
