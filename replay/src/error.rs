//! What can go wrong with a replay, said so that a user knows what to do.

use headwater_lake::layout::{GenerationNumber, TableName};

use crate::coverage::Stretch;

/// An error of a replay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream.
    #[error("cannot read {url}")]
    Stream {
        /// The stream's URL.
        url: String,
        /// Why not.
        #[source]
        source: headwater_stream::Error,
    },
    /// The lake.
    #[error(transparent)]
    Lake(#[from] headwater_lake::Error),
    /// The consumer that does the work.
    #[error(transparent)]
    Consumer(#[from] headwater_consumer::driver::Error),
    /// Nobody has the events any more.
    #[error(
        "{url} no longer has all of the range, and no archive does; nothing was changed. Lost: {}. `--since oldest` \
        builds a table of what is left, which is another history than the live table's",
        list(.lost)
    )]
    Lost {
        /// The stream's URL.
        url: String,
        /// What is lost.
        lost: Vec<Stretch>,
    },
    /// The range ends beyond the stream.
    #[error("the range ends beyond what {url} ever held: {}", list(.beyond))]
    Beyond {
        /// The stream's URL.
        url: String,
        /// What was never written.
        beyond: Vec<Stretch>,
    },
    /// The recorded cuts are those of another pipeline or other lanes.
    #[error("the recorded cuts of {generation} cannot be followed: {reason}")]
    CutsOfAnother {
        /// The generation that recorded them.
        generation: GenerationNumber,
        /// What differs.
        reason: String,
    },
    /// The columns there are and the transform do not go together.
    #[error("the transform cannot be planned with the events' columns: {0}. `--infer` finds the columns anew")]
    Transform(String),
    /// There is nothing to be compared with.
    #[error("table {table} has no generation besides the live one; `headwater replay run --table {table}` makes one")]
    NothingToCompare {
        /// The table.
        table: TableName,
    },
    /// A rebuild that has no schema yet.
    #[error("{number} of table {table} was not begun; `headwater replay run` goes on with it")]
    NotBegun {
        /// The table.
        table: TableName,
        /// The generation.
        number: GenerationNumber,
    },
    /// Readers would lose a part of what they have.
    #[error(
        "{number} lacks what the live generation was built from: {}. `--shorter-history` makes it live nevertheless",
        list(.missing)
    )]
    ShorterHistory {
        /// The generation.
        number: GenerationNumber,
        /// What it lacks.
        missing: Vec<Stretch>,
    },
    /// There is nothing to go back to.
    #[error("{live} of table {table} is live, and no generation was before it, or those are retired")]
    NothingBefore {
        /// The table.
        table: TableName,
        /// The live generation.
        live: GenerationNumber,
    },
    /// Two generations were built from different streams.
    #[error("{one} and {other} were built from different streams: their rows have nothing to do with each other")]
    OtherStream {
        /// The one.
        one: GenerationNumber,
        /// The other.
        other: GenerationNumber,
    },
    /// A data file is not what it should be.
    #[error("cannot compare {key}")]
    File {
        /// The file.
        key: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn list(stretches: &[Stretch]) -> String {
    stretches.iter().map(Stretch::to_string).collect::<Vec<_>>().join("; ")
}
