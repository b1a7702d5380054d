//! SQL over the lake, read-only: DataFusion over what the Delta logs say is in the tables.
//!
//! `table` makes a table of a generation's files and leaves out those that a filter cannot match, by partition and
//! by statistics; [`engine`] runs a statement and says what it read; [`output`] writes the rows. [`expressions`] lends
//! the engine's expressions to the consumer, for the transform of a pipeline. Absent on purpose: writing anything (DDL,
//! COPY and DML are refused).

pub mod engine;
pub mod expressions;
pub mod output;
mod table;

pub use engine::{Answer, Engine, Error, Scanned};
