//! Kinesis Data Streams: the adapter to both sides of the contract.
//!
//! Both sides: [`limits`] says what the service allows, `target` how a stream is named in a call, [`hash`] where a
//! partition key belongs, [`kpl`] how many events are packed into one record. The producing side, in the order of the
//! data: `ledger` remembers whose event is whose, [`packing`] decides what is sent and when, by [`shard_map`] and
//! [`pacing`], `call` sends it, [`sink`] drives them, [`tally`] counts, [`price`] says what that costs, `summary` says
//! what a stream is, and [`create`] makes one. Everything that decides is pure: it is told the time and the answers.

mod call;
pub mod create;
pub mod hash;
pub mod kpl;
mod ledger;
pub mod limits;
pub mod metrics;
pub mod pacing;
pub mod packing;
pub mod price;
pub mod shard_map;
pub mod sink;
mod summary;
pub mod tally;
mod target;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder;

pub use sink::{KinesisSink, SinkOptions};

use crate::aws::CallCounter;

/// Returns a client whose calls are counted, with settings such as [`crate::aws::load`] gives.
pub fn client(settings: &SdkConfig) -> Client {
    Client::from_conf(Builder::from(settings).interceptor(CallCounter::default()).build())
}
