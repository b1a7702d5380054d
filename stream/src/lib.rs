//! The log: where events are put and read from.
//!
//! [`contract`] says what every adapter promises; `tests/harness` holds the suite that each of them passes.
//! [`embedded`] is the durable log on this machine (LMDB), `kinesis` the one in the cloud (feature `aws`), [`memory`] the
//! adapter for tests, [`joined`] reads an archive and its stream as one log, [`url`] names them. [`lineage`] says which
//! shards may be read while a stream is split and merged, [`stretch`] reads a part of a shard whole. The archive's own
//! adapter is in the consumer: it reads a lake.
//! Absent on purpose: decoding (a log holds bytes), and any knowledge of the lake.

#[cfg(feature = "aws")]
pub mod aws;
pub mod contract;
pub mod embedded;
mod error;
pub mod joined;
#[cfg(feature = "aws")]
pub mod kinesis;
pub mod lineage;
pub mod memory;
pub mod stretch;
pub mod url;

pub use contract::{Accepted, Put, Read, Shard, Sink, Source, StartAt, StreamIdentity};
pub use error::Error;
