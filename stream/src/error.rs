//! What can go wrong with a stream, said so that a user knows what to do.

use std::path::PathBuf;

use headwater_common::outcome::{Again, Classified, Effect};
use headwater_common::position::{Position, Sequence, ShardId};

/// An error of a stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no stream at that place.
    #[error("there is no log at {path}; write one with `headwater produce FILE --to log:{path}`", path = .path.display())]
    NotFound {
        /// The folder that was looked into.
        path: PathBuf,
    },
    /// The URL names no stream that this build can open.
    #[error("`{url}` is not a stream: {reason}")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting contradicts the log that is there.
    #[error("the log at {path} has {actual} shards, not {wanted}; leave --shards out, or begin another log",
        path = .path.display())]
    OtherShardCount {
        /// The log's folder.
        path: PathBuf,
        /// Shards in the log.
        actual: u32,
        /// Shards asked for.
        wanted: u32,
    },
    /// A network file system cannot hold a memory-mapped log.
    #[error("{path} is on a network file system ({kind}), where a memory-mapped log is not safe; use a local disk",
        path = .path.display())]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
        /// The kind of file system.
        kind: &'static str,
    },
    /// The disk is full. Nothing of the batch was written.
    #[error("no space left on the disk of {path}; nothing of this batch was written: free space or shorten the \
        retention, and run again", path = .path.display())]
    DiskFull {
        /// The log's folder.
        path: PathBuf,
    },
    /// The map is full. Nothing of the batch was written.
    #[error("the log at {path} has reached its size of {bytes} bytes; nothing of this batch was written: raise \
        --log-map-size or shorten the retention, and run again", path = .path.display())]
    MapFull {
        /// The log's folder.
        path: PathBuf,
        /// The size of the map.
        bytes: usize,
    },
    /// Retention has passed the position.
    #[error(
        "shard {shard}: the events after position {after} are gone, the oldest left is {oldest}: retention \
        passed this reader. Rebuild from an archive, or begin a new table"
    )]
    Expired {
        /// The shard.
        shard: ShardId,
        /// The position that was to be read after.
        after: Position,
        /// The oldest position that is left.
        oldest: Position,
    },
    /// The position lies beyond everything the stream ever held.
    #[error(
        "shard {shard}: position {after} was never written, the newest is {newest}: this is another log, or an \
        older copy of it"
    )]
    Ahead {
        /// The shard.
        shard: ShardId,
        /// The position that was to be read after.
        after: Position,
        /// The newest position there is.
        newest: Position,
    },
    /// The position is not one of this stream.
    #[error(
        "shard {shard} of {url} never gave the number {sequence}: this is another stream, of the same name perhaps. \
        Begin a new table for it"
    )]
    ForeignPosition {
        /// The stream.
        url: String,
        /// The shard.
        shard: ShardId,
        /// The number that was to be read after.
        sequence: Sequence,
        /// What the service said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// While it was read the stream was deleted, and another of its name was made.
    #[error("{url} is no longer the stream {identity}: it was deleted and made anew. Begin a new table for it")]
    Replaced {
        /// The stream.
        url: String,
        /// What told it from others.
        identity: String,
    },
    /// The stream has no such shard.
    #[error("there is no shard {shard} in {url}")]
    NoSuchShard {
        /// The stream.
        url: String,
        /// The shard asked for.
        shard: ShardId,
    },
    /// A record is larger than the stream takes.
    #[error("a record of {bytes} bytes is over the limit of {bytes_max} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// What is stored is not what was written.
    #[error("the log at {path} is damaged: {what}. Restore it from a backup; events before the damage can still be \
        read", path = .path.display())]
    Corrupt {
        /// The log's folder.
        path: PathBuf,
        /// What was found, and where.
        what: String,
    },
    /// The log was made by a newer version.
    #[error("the log at {path} has format {found}, this version reads {known}; upgrade headwater",
        path = .path.display())]
    UnknownFormat {
        /// The log's folder.
        path: PathBuf,
        /// Format of the log.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// The folder or a file in it cannot be used.
    #[error("cannot {action} {path}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The storage engine refused.
    #[error("cannot {action} the log at {path}", path = .path.display())]
    Engine {
        /// What was tried.
        action: &'static str,
        /// The log's folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: heed::Error,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive {url}")]
    Archive {
        /// The archive's URL.
        url: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An archive and a stream do not belong together.
    #[error("{archive} is the archive of {archived}, not of {stream}, which is {actual}")]
    NotOneStream {
        /// The archive's URL.
        archive: String,
        /// The stream it was made from.
        archived: String,
        /// The stream's URL.
        stream: String,
        /// What tells it from every other.
        actual: String,
    },
    /// A service in the network refused, or did not answer.
    #[error("{url}: {operation} failed{}", .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Service {
        /// The stream's URL.
        url: String,
        /// The operation, as the service names it.
        operation: &'static str,
        /// What the user can do, where that is known.
        hint: Option<String>,
        /// Whether the operation took effect.
        effect: Effect,
        /// Whether it may work later.
        again: Again,
        /// What the service said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A shard that was not read to its end is no longer listed.
    #[error(
        "shard {shard} of {url} is gone, and was read up to {after} only: retention passed this reader. Rebuild \
        from an archive, or begin a new table"
    )]
    ShardGone {
        /// The stream.
        url: String,
        /// The shard.
        shard: ShardId,
        /// How far it was read.
        after: Position,
    },
    /// There is no stream of that name.
    #[error(
        "there is no stream {url} in this account and region. Set AWS_REGION or AWS_PROFILE when it is elsewhere, or \
        make it with `headwater produce FILE --to {url} --create --shards N`"
    )]
    NoSuchStream {
        /// The stream's URL.
        url: String,
    },
    /// A stream has no shard that takes records.
    #[error("{url} has no open shard")]
    NoOpenShard {
        /// The stream's URL.
        url: String,
    },
    /// A stream that was to be made is there, and is another.
    #[error("{url} is there and has {actual}, not {wanted}; leave --create out to use it as it is, or name another")]
    OtherCapacity {
        /// The stream's URL.
        url: String,
        /// What it has.
        actual: String,
        /// What was asked for.
        wanted: String,
    },
    /// A stream did not come about in time.
    #[error("{url} is {status}, after {seconds} s; look at it, and run again once it is ACTIVE")]
    NotActive {
        /// The stream's URL.
        url: String,
        /// Its status, as the service names it.
        status: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// An earlier batch failed.
    #[error("the stream takes no more batches after one that failed: they would stand before it")]
    Stopped,
    /// The writer ended before it answered.
    #[error("the stream's writer stopped before it answered; whether the batch was written is unknown")]
    WriterGone,
}

impl Classified for Error {
    fn effect(&self) -> Effect {
        match self {
            // An engine error can come out of the commit itself, after the data was handed to the disk.
            Self::Engine { .. } | Self::WriterGone => Effect::Unknown,
            Self::Service { effect, .. } => *effect,
            _ => Effect::DidNotHappen,
        }
    }

    fn again(&self) -> Again {
        match self {
            Self::Service { again, .. } => *again,
            _ => Again::WillNotHelp,
        }
    }
}
