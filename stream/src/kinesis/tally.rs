//! Counts what is sent, and what the same events would have been the other way: one record each, or aggregated.

use super::limits::{ON_DEMAND_UNIT_BYTES, PAYLOAD_UNIT_BYTES, PUT_RECORDS_MAX};

/// The size of aggregates unless told otherwise, in bytes, their partition key included: two payload units, as the KPL
/// has it. Larger ones save few calls more; each is billed in whole units, so a half-filled third one costs.
pub const AGGREGATE_BYTES: usize = 2 * PAYLOAD_UNIT_BYTES;

/// What an event takes in an aggregate besides its key and its payload: tags, lengths and places in the tables.
const ENVELOPE_BYTES: usize = 12;

/// Bytes of a call, for the way that is only estimated.
const CALL_BYTES: u64 = 5 * 1024 * 1024;

/// Events as records of Kinesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// PutRecords calls, also those that failed.
    pub calls: u64,
    /// Kinesis records.
    pub records: u64,
    /// Their bytes, partition keys included.
    pub bytes: u64,
    /// PUT payload units, as a provisioned stream bills them: each record rounded up.
    pub payload_units: u64,
    /// Bytes as an on-demand stream bills them: each record rounded up.
    pub on_demand_bytes: u64,
}

impl Way {
    fn add(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes as u64;
        self.payload_units += bytes.div_ceil(PAYLOAD_UNIT_BYTES) as u64;
        self.on_demand_bytes += (bytes.div_ceil(ON_DEMAND_UNIT_BYTES) * ON_DEMAND_UNIT_BYTES) as u64;
    }

    /// Returns the way with the fewest calls that it could take.
    fn with_fewest_calls(self) -> Self {
        let calls = self.records.div_ceil(PUT_RECORDS_MAX as u64).max(self.bytes.div_ceil(CALL_BYTES));
        Self { calls, ..self }
    }
}

/// What was sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events that are in the stream.
    pub events: u64,
    /// How they got there.
    pub sent: Way,
    /// How they would have got there the other way: aggregated if they were not, one record each if they were. An
    /// estimate for full aggregates and full calls.
    pub other: Way,
    /// Whether they were aggregated.
    pub is_aggregated: bool,
    /// Records that a shard refused because it had taken as much as it takes in a second.
    pub throttles: u64,
    /// Records that were sent again, throttled ones included.
    pub sent_again: u64,
}

/// Counts.
#[derive(Debug)]
pub(crate) struct Tally {
    counts: Counts,
    /// The bytes of the aggregate that is filled, where that is the other way.
    open_bytes: usize,
}

impl Tally {
    /// Returns one that has counted nothing. `aggregate_bytes` is the size of aggregates, where they are made.
    pub(crate) fn new(aggregate_bytes: Option<usize>) -> Self {
        Self { counts: Counts { is_aggregated: aggregate_bytes.is_some(), ..Counts::default() }, open_bytes: 0 }
    }

    /// Counts a call.
    pub(crate) fn called(&mut self) {
        self.counts.sent.calls += 1;
    }

    /// Counts a record that is in the stream, and the events in it by what each takes alone.
    pub(crate) fn stored(&mut self, bytes: usize, events: impl Iterator<Item = usize>) {
        self.counts.sent.add(bytes);
        for event in events {
            self.counts.events += 1;
            if self.counts.is_aggregated {
                self.counts.other.add(event);
                continue;
            }
            let bytes = event + ENVELOPE_BYTES;
            if self.open_bytes + bytes > AGGREGATE_BYTES && self.open_bytes > 0 {
                self.counts.other.add(std::mem::take(&mut self.open_bytes));
            }
            self.open_bytes += bytes;
        }
    }

    /// Counts a record that was throttled.
    pub(crate) fn throttled(&mut self) {
        self.counts.throttles += 1;
        metrics::counter!(super::metrics::THROTTLES).increment(1);
    }

    /// Counts a record that is sent again.
    pub(crate) fn sent_again(&mut self) {
        self.counts.sent_again += 1;
    }

    /// Returns what was counted.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.counts;
        if self.open_bytes > 0 {
            counts.other.add(self.open_bytes);
        }
        Counts { other: counts.other.with_fewest_calls(), ..counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_billed_in_whole_units() {
        let mut way = Way::default();
        for bytes in [1, 25 * 1024, 25 * 1024 + 1] {
            way.add(bytes);
        }
        assert_eq!((way.records, way.payload_units), (3, 4));
        assert_eq!(way.on_demand_bytes, (1 + 25 + 26) * 1024);
    }

    #[test]
    fn a_million_small_events_are_some_thousands_of_aggregates() {
        let mut tally = Tally::new(None);
        for _ in 0..1_000_000 {
            tally.stored(238, std::iter::once(238));
        }
        let Counts { events, sent, other, .. } = tally.counts();
        assert_eq!((events, sent.records, sent.payload_units), (1_000_000, 1_000_000, 1_000_000));
        assert_eq!((other.records, other.payload_units), (4_902, 9_804), "204 events of 250 bytes in each");
        assert_eq!(other.calls, 48);
    }

    #[test]
    fn of_aggregates_the_other_way_is_a_record_an_event() {
        let mut tally = Tally::new(Some(AGGREGATE_BYTES));
        tally.called();
        tally.stored(40_000, (0..1000).map(|_| 30));
        let Counts { sent, other, .. } = tally.counts();
        assert_eq!((sent.calls, sent.records, sent.payload_units), (1, 1, 2));
        assert_eq!((other.calls, other.records, other.payload_units, other.bytes), (2, 1000, 1000, 30_000));
    }
}
