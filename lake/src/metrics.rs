//! The names of this crate's metrics.

/// Files put into the lake.
pub const FILES: &str = "headwater_lake_files_total";
/// Bytes of those files.
pub const FILE_BYTES: &str = "headwater_lake_file_bytes_total";
/// Seconds from the cut to the last commit of an epoch.
pub const COMMIT_SECONDS: &str = "headwater_lake_commit_seconds";
