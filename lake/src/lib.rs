//! The lake: tables of Parquet files with a Delta log, written so that every epoch of the stream is in them once.
//!
//! In the order of the data: [`layout`] says where things lie, [`pointer`](mod@pointer) which build of a table is live,
//! [`generation`] opens one, [`schema`] and [`digest`] say what its rows are, [`cut`] is the intent of an epoch,
//! [`commit`] the protocol that carries it out, [`lanes`] the sets of lanes that do so, [`table`] one output's Delta log,
//! [`file`](mod@file) what a data file says of itself, [`verify`] proves it all afterwards, [`reading`] lists what a
//! query reads, [`cutover`] makes another build live, and [`gc`] removes old ones, [`vacuum`] what a commit took out.
//! [`archive`] is a stream's records kept as they were, in a table like the others. Absent on purpose: encoding rows (the
//! consumer does it), and any clock or random id in a key.

pub mod archive;
pub mod commit;
pub mod cut;
pub mod cutover;
pub mod digest;
pub mod durable;
mod error;
pub mod file;
pub mod gc;
pub mod generation;
pub mod lanes;
pub mod layout;
pub mod metrics;
pub mod pointer;
pub mod reading;
pub mod schema;
pub mod store;
pub mod table;
pub mod vacuum;
pub mod verify;

pub use error::Error;
