//! Replays the rows of files as events.
//!
//! In the order of the data: [`input`] opens a file whatever it is packed with, [`rows`] makes events of its rows,
//! [`columns`] gives CSV cells their types, a thread reads ahead and batches them, [`pace`] says when they go out,
//! [`run`](mod@run) sends them and notes in [`state`] how far it is. What is no event, or is not taken, goes to a reject
//! file. Absent on purpose: any knowledge of who reads the events.

pub mod columns;
mod csv;
mod csv_rows;
pub mod input;
mod lines;
pub mod metrics;
mod ndjson_rows;
pub mod pace;
mod read_ahead;
mod rejects;
mod resume;
pub mod rows;
pub mod run;
pub mod state;

pub use run::{Error, Options, Progress, Report, run};
