//! Kinesis Data Streams: the adapter to both sides of the contract.
//!
//! Both sides: [`limits`] says what the service allows, `target` how a stream is named in a call, [`hash`] where a
//! partition key belongs, [`kpl`] how many events are packed into one record.
//!
//! The producing side, in the order of the data: `ledger` remembers whose event is whose, [`packing`] decides what is
//! sent and when, by [`shard_map`] and [`pacing`], `call` sends it, [`sink`] drives them, [`tally`] counts, [`price`]
//! says what that costs, `summary` says what a stream is, and [`create`] makes one.
//!
//! The consuming side: [`source`] hands out, `reader` reads one shard, `cursor` and `plan` decide where and what an
//! answer means, `pace` when; `buffer` holds what came, `fetch` and `fan_out` ask for it, `running` owns what is under
//! way; `shards` lists, `stream` and `service_clock` are what all of them share.
//!
//! Everything that decides is pure: it is told the time and the answers.

mod buffer;
mod call;
pub mod create;
mod cursor;
mod fan_out;
mod fetch;
pub mod hash;
pub mod kpl;
mod ledger;
pub mod limits;
pub mod metrics;
mod pace;
pub mod pacing;
pub mod packing;
mod plan;
pub mod price;
mod reader;
mod running;
mod service_clock;
pub mod shard_map;
mod shards;
pub mod sink;
pub mod source;
mod stream;
mod summary;
pub mod tally;
mod target;
#[cfg(test)]
mod tests;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder;

pub use sink::{KinesisSink, SinkOptions};
pub use source::{KinesisSource, SourceOptions};

use crate::aws::CallCounter;

/// Returns a client whose calls are counted, with settings such as [`crate::aws::load`] gives.
pub fn client(settings: &SdkConfig) -> Client {
    Client::from_conf(Builder::from(settings).interceptor(CallCounter::default()).build())
}
