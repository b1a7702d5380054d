//! Events decoded while the schema grows, and again with the schema they ended with, as a redo decodes them.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_common::{event::Event, event_time, position::Position, timestamp::Timestamp};
use headwater_consumer::decode::{DecodeRules, Decoder, EVENT_ID_FIELD, Growing, Misfit, MissingTime, adapt};
use headwater_lake::digest::{RowDigest, RowHasher};
use libfuzzer_sys::fuzz_target;

/// 2026-11-21T00:00:00Z.
const ARRIVED_AT: Timestamp = Timestamp::from_micros(1_795_219_200_000_000);

fuzz_target!(|data: &[u8]| {
    // The record separator: no JSON has one inside, so every list of events can be written.
    let payloads = (1_u64..).zip(data.split(|byte| *byte == 0x1e));
    let event = |(number, payload): (u64, &[u8])| Event {
        position: Position::of_record(number.into()),
        arrived_at: ARRIVED_AT,
        partition_key: Bytes::new(),
        payload: Bytes::copy_from_slice(payload),
    };
    let events: Vec<Event> = payloads.map(event).collect();
    let rules = DecodeRules {
        id_field: EVENT_ID_FIELD.into(),
        time_field: Some("t".into()),
        time_format: event_time::Format::Text,
        missing_time: MissingTime::Arrival,
        future_max: Duration::from_secs(3600),
    };
    let mut growing = Decoder::new(&rules, None, &[], 20, Growing::Allowed);
    let grown = decode(&mut growing, &events);
    let schema = growing.schema();
    let redo = || decode(&mut Decoder::new(&rules, Some(&schema), &[], 20, Growing::Fixed), &events);
    let again = redo();
    if !growing.must_read_again() {
        assert_eq!(grown, again);
    }
    // What must be read again is committed as the first redo reads it, so a second one must agree.
    assert_eq!(redo(), again);
});

/// Returns what became of each event, and the digest of the rows in the schema that the decoder ends with.
fn decode(decoder: &mut Decoder, events: &[Event]) -> (Vec<Result<Timestamp, Misfit>>, RowDigest) {
    let results = events.iter().map(|event| decoder.push("0", event)).collect();
    let schema = Arc::new(decoder.schema().arrow_schema());
    let mut hasher = RowHasher::new(&schema);
    decoder.take(true).iter().for_each(|decoded| hasher.update(&adapt(&decoded.rows, &schema)));
    (results, hasher.finish())
}
