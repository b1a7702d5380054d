//! The names of this crate's metrics.

/// Rows that the stream acknowledged.
pub const EVENTS: &str = "headwater_producer_events_total";
/// Their bytes.
pub const BYTES: &str = "headwater_producer_bytes_total";
/// Rows that went to the reject file; label `reason`: `unreadable`, or `refused` by the stream.
pub const REJECTED: &str = "headwater_producer_rejected_total";
