//! Kinesis Data Streams: the adapter to both sides of the contract.
//!
//! Both sides: [`limits`] says what the service allows, [`hash`] where a partition key belongs, [`kpl`] how many events
//! are packed into one record.

pub mod hash;
pub mod kpl;
pub mod limits;
