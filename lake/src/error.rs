//! What can go wrong with a lake, said so that a user knows what to do.

use std::path::PathBuf;

use object_store::path::Path;

use crate::archive::ArchiveName;
use crate::commit::Violation;
use crate::layout::{Epoch, GenerationNumber, Lane, LaneSetNumber, Output, PointerNumber, TableName};

/// An error of a lake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder does not exist.
    #[error("there is no lake at {path}; write one with `headwater consume --lake {path}`", path = .path.display())]
    NoLake {
        /// The folder.
        path: PathBuf,
    },
    /// The lake has no such table.
    #[error("there is no table {table} in {lake}; it has: {existing}")]
    NoTable {
        /// The table asked for.
        table: TableName,
        /// The lake.
        lake: String,
        /// The tables there are.
        existing: String,
    },
    /// The table has no such generation.
    #[error("table {table} has no generation {number}; it has: {existing}")]
    NoGeneration {
        /// The table.
        table: TableName,
        /// The generation asked for.
        number: GenerationNumber,
        /// Those there are.
        existing: String,
    },
    /// The lake has no such archive.
    #[error("there is no archive {archive} in {lake}; it has: {existing}. `headwater consume --archive` writes one")]
    NoArchive {
        /// The archive asked for.
        archive: ArchiveName,
        /// The lake.
        lake: String,
        /// The archives there are.
        existing: String,
    },
    /// A folder cannot be made or changed.
    #[error("cannot use the folder {path}", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The lake's path has characters that no object key can hold.
    #[error("the lake's path cannot be an object key")]
    Path {
        /// What is wrong with it.
        #[source]
        source: object_store::path::Error,
    },
    /// The object store refused or did not answer.
    #[error("cannot {action} {key}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The object.
        key: Path,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// An object of the lake is not what it should be.
    #[error("{key} is damaged")]
    Damaged {
        /// The object.
        key: Path,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The Delta log refused or is damaged.
    #[error("cannot {action} the {output} table of generation {generation}")]
    Delta {
        /// What was tried.
        action: &'static str,
        /// The output.
        output: Output,
        /// The generation.
        generation: GenerationNumber,
        /// Why not.
        #[source]
        source: Box<deltalake_core::DeltaTableError>,
    },
    /// The Delta table was changed by another program in a way that this protocol does not allow.
    #[error("the {output} table of generation {generation} {what}: another program changed it")]
    ForeignChange {
        /// The output.
        output: Output,
        /// The generation.
        generation: GenerationNumber,
        /// What is not allowed.
        what: String,
    },
    /// A generation was made by another pipeline.
    #[error(
        "table {table} was built by another pipeline:\n{difference}\nto rebuild the table with the new pipeline: \
         headwater replay run --table {table} --lake {lake}\nto keep both: give another --table"
    )]
    OtherPipeline {
        /// The table.
        table: TableName,
        /// The lake's place.
        lake: String,
        /// The settings that differ, line by line.
        difference: String,
    },
    /// Decoded events cannot be made rows of.
    #[error("lane {lane} cannot make rows: {what}")]
    Rows {
        /// The lane.
        lane: Lane,
        /// Why not.
        what: String,
    },
    /// A generation was made from another stream.
    #[error(
        "table {table} was built from the stream {expected}, not from {actual}: another log, or this one was deleted \
         and begun anew. Give another --table"
    )]
    OtherStream {
        /// The table.
        table: TableName,
        /// Identity in the generation.
        expected: String,
        /// Identity of the stream at hand.
        actual: String,
    },
    /// A file was written by a newer version.
    #[error("{key} has format {found}, this version reads {known}; upgrade headwater")]
    UnknownFormat {
        /// The object.
        key: Path,
        /// Its format.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// The lake is in a state that no writer leaves behind.
    #[error("lane {lane} stops")]
    Violated {
        /// The lane.
        lane: Lane,
        /// What must not be.
        #[source]
        violation: Violation,
    },
    /// No clear answer came, however often it was asked.
    #[error("gave up on epoch {epoch} of lane {lane} after {tries} tries without a clear answer from the store")]
    TriesUsedUp {
        /// The lane.
        lane: Lane,
        /// The epoch.
        epoch: Epoch,
        /// How often.
        tries: u32,
    },
    /// Others commit to a table all the time.
    #[error("gave up on {table} after {tries} tries: other writers committed first, or the store gave no clear answer")]
    AlwaysOvertaken {
        /// The table.
        table: TableName,
        /// How often.
        tries: u32,
    },
    /// The files of an epoch could not be made.
    #[error("cannot make the files of epoch {epoch} of lane {lane}")]
    MakeFiles {
        /// The lane.
        lane: Lane,
        /// The epoch.
        epoch: Epoch,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A generation that never had an event cannot be sealed.
    #[error("generation {generation} of table {table} has no epoch yet: there is nothing to cut over from")]
    NothingToSeal {
        /// The table.
        table: TableName,
        /// The generation.
        generation: GenerationNumber,
    },
    /// Lanes were looked at that may not begin yet.
    #[error(
        "set {set} of the lanes of table {table}, generation {generation}, is not closed: the next one cannot begin"
    )]
    LanesNotClosed {
        /// The table.
        table: TableName,
        /// The generation.
        generation: GenerationNumber,
        /// The set that is not closed.
        set: LaneSetNumber,
    },
    /// The generation's outputs could not be brought up to date.
    #[error("cannot {action} generation {generation}")]
    BringUpToDate {
        /// What was tried.
        action: &'static str,
        /// The generation.
        generation: GenerationNumber,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The steps of a cutover came to no end.
    #[error("gave up on pointer {number} of table {table} after {tries} tries without getting on")]
    CutoverTriesUsedUp {
        /// The table.
        table: TableName,
        /// The pointer.
        number: PointerNumber,
        /// How often.
        tries: u32,
    },
    /// Parquet refused.
    #[error("cannot {action} {key}")]
    Parquet {
        /// What was tried.
        action: &'static str,
        /// The file.
        key: String,
        /// Why not.
        #[source]
        source: parquet::errors::ParquetError,
    },
}
