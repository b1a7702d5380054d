//! Turns the events of a stream into the rows of a lake.
//!
//! In the order of the data: [`decode`] makes rows of events, or [`dead_letter`]s; [`transform`] makes the table's rows
//! of those, with SQL and only with the feature `sql`; [`window`] says which rows belong together; [`epoch`] gathers
//! them, beyond the budget in a [`spill`], and [`encode`]s them; [`policy`] says when to cut; the lake's commit protocol
//! carries it out; [`driver`] runs it all, lane by lane (`lane`, `supervisor`), alone or with others ([`lease`]), goes on
//! with other lanes when some are asked for (`lane_sets`), and in another generation when the pointer names one
//! (`follow`). Which shards a lane reads while a stream is split and merged is in `shards`, how it reads them in turn in
//! `reading`.
//! [`pipeline`] is what the rows are a function of, besides the log. For a rebuild, [`recorded`] cuts may say where
//! epochs end, [`inference`] what the widest schema of a history is, and [`sample`] how fast it goes. [`archive`]
//! keeps a stream's records as they are, and is read as that stream.
//! Absent on purpose: any state on this machine. Where a lane stands is in the lake.

pub mod archive;
pub mod dead_letter;
pub mod decode;
pub mod driver;
pub mod encode;
pub mod epoch;
mod follow;
pub mod inference;
mod lane;
mod lane_sets;
pub mod lease;
pub mod metrics;
pub mod pipeline;
pub mod policy;
mod reading;
pub mod recorded;
mod rows;
pub mod sample;
mod shards;
pub mod spill;
mod supervisor;
pub mod transform;
pub mod window;
