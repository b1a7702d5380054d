//! The names of the adapter's metrics. API calls are counted for all services together: [`crate::aws::API_CALLS`].

/// Records that a shard refused because it had taken as much as it takes in a second. They are sent again.
pub const THROTTLES: &str = "headwater_producer_throttles_total";

/// Reads that the service refused for a while because there were too many, or that had to wait for another's; label
/// `operation`.
pub const READ_THROTTLES: &str = "headwater_stream_throttles_total";
