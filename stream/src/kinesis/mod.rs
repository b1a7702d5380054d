//! Kinesis Data Streams: the adapter to both sides of the contract.
//!
//! Both sides: [`limits`] says what the service allows, `target` how a stream is named in a call, [`kpl`] how many
//! events are packed into one record. The consuming side: [`source`] hands out, `reader` reads one shard, `cursor` and
//! `plan` decide where and what an answer means, `pace` when; `buffer` holds what came, `fetch` and `fan_out` ask for
//! it, `running` owns what is under way; `shards` lists, `stream` and `service_clock` are what all of them share.

mod buffer;
mod cursor;
mod fan_out;
mod fetch;
pub mod kpl;
pub mod limits;
mod pace;
mod plan;
mod reader;
mod running;
mod service_clock;
mod shards;
pub mod source;
mod stream;
mod target;
#[cfg(test)]
mod tests;

pub use source::{KinesisSource, SourceOptions};
