//! The names of this crate's metrics, and how they are counted: per epoch, after its commit.

use crate::epoch::Ledger;

/// Events read from the stream and committed.
pub const EVENTS: &str = "headwater_consumer_events_total";
/// Bytes of those events.
pub const BYTES: &str = "headwater_consumer_bytes_total";
/// Events that the transform left out.
pub const FILTERED: &str = "headwater_consumer_filtered_total";
/// Events that cannot be rows, by reason.
pub const DEAD_LETTERS: &str = "headwater_consumer_dead_letters_total";
/// Events that were committed before.
pub const DUPLICATES: &str = "headwater_consumer_duplicates_total";
/// Seconds from the first read of an epoch's events to its commit.
pub const END_TO_END_SECONDS: &str = "headwater_end_to_end_latency_seconds";
/// How far the lane's slowest shard is behind the newest event.
pub const MILLIS_BEHIND: &str = "headwater_stream_millis_behind_latest";
/// Records written to an archive and committed.
pub const ARCHIVED_RECORDS: &str = "headwater_archive_records_total";
/// Payload bytes of those records.
pub const ARCHIVED_BYTES: &str = "headwater_archive_bytes_total";

/// Counts an epoch after its commit, so that the counters agree with the lake.
pub(crate) fn count_epoch(ledger: &Ledger) {
    let account = &ledger.account;
    metrics::counter!(EVENTS).increment(account.read);
    metrics::counter!(BYTES).increment(ledger.bytes);
    metrics::counter!(FILTERED).increment(account.filtered);
    metrics::counter!(DUPLICATES).increment(account.duplicates);
    for (reason, count) in &ledger.reasons {
        metrics::counter!(DEAD_LETTERS, "reason" => reason.as_str()).increment(*count);
    }
}
