//! A stream's archive: its records written as they were, and read again as the stream they came from.
//!
//! ```text
//! stream -> Archiver -> records -> encode -> commit protocol      <lake>/__archive/<stream>/
//!                                                                        |
//! whoever reads a stream  <-  ArchiveSource  <-  find, file, decode  <---+
//! ```
//!
//! [`writer`] runs the lanes, `records` gathers an epoch and `encode` writes its files; [`source`] is the adapter that
//! passes the contract of every stream: `find` says which cut holds a position, `file` which part of a file, `shelf`
//! fetches them, `decode` makes records. The format is in `docs/formats/archive.md`. Absent on purpose: decoding what is
//! in a record.

mod cache;
mod decode;
mod encode;
mod file;
mod find;
mod records;
mod shelf;
pub mod source;
pub mod writer;

pub use source::ArchiveSource;
pub use writer::Archiver;
