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
/// Lanes that are this worker's.
pub const LEASES_OWNED: &str = "headwater_lease_owned_lanes";
/// Lanes that are nobody's, as this worker sees it.
pub const LEASES_UNOWNED: &str = "headwater_lease_unowned_lanes";
/// Leases taken that were nobody's, or whose owner gave no sign of life.
pub const LEASES_TAKEN: &str = "headwater_lease_taken_total";
/// Leases that another worker handed over, or did not hand over in time.
pub const LEASES_STOLEN: &str = "headwater_lease_stolen_total";
/// Leases handed over to another worker.
pub const LEASES_GIVEN: &str = "headwater_lease_given_total";
/// Leases that others took, or that could not be renewed in time.
pub const LEASES_LOST: &str = "headwater_lease_lost_total";

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
