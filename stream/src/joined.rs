//! An archive and its stream, read as one log: the archive as far as it goes, then the stream from exactly there.
//!
//! Guarantees: every record once, in order, without a gap. Both have the same positions, so the hand-over is a
//! comparison, and a reader that stands anywhere may begin with this source or leave it for the stream alone. Where
//! records are missing between the two, reading up to there works and reading on is [`Error::Expired`], which names the
//! gap, or [`Error::ShardGone`] where the stream has forgotten the shard. A shard that the archive holds to its end
//! needs no stream. Relies on the two being of one stream, which their identities say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::position::{Position, ShardId};

use crate::{Error, Read, Shard, Source, StartAt, StreamIdentity};

/// An archive and its stream as one source.
#[derive(Debug)]
pub struct Joined {
    archive: Arc<dyn Source>,
    stream: Arc<dyn Source>,
    /// The last position that the archive had of each shard when it was looked at.
    handover: Mutex<BTreeMap<ShardId, Position>>,
}

/// Which of the two a read goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Archive,
    Stream,
}

/// What is held of a shard: the records in `(after, to]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    after: Position,
    to: Position,
}

/// Records are missing between the archive and the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap;

/// Decides where reading goes on: in the archive while it has the next record.
fn side(after: Position, handover: Position) -> Side {
    if after.unmarked() < handover.unmarked() { Side::Archive } else { Side::Stream }
}

/// Returns the position after which the stream is read: where the archive was complete for longer than the reader
/// knows, a stream that has lost the record itself can still tell that nothing came after it.
fn in_stream(after: Position, handover: Option<Position>) -> Position {
    handover.filter(|handover| handover.unmarked() == after.unmarked()).map_or(after, |handover| handover.max(after))
}

/// Returns the position before the oldest record of the two, when nothing is missing between them.
fn beginning(archive: Held, stream_begins: Position) -> Result<Position, Gap> {
    if archive.after == archive.to {
        // The archive has nothing of the shard.
        return Ok(stream_begins);
    }
    if archive.to < stream_begins { Err(Gap) } else { Ok(archive.after.min(stream_begins)) }
}

/// Returns the position before the first record of a time, from what each of the two says of that time.
fn beginning_at(
    archive: Held,
    archive_says: Position,
    stream_begins: Position,
    stream_says: Position,
) -> Result<Position, Gap> {
    if archive_says < archive.to {
        return Ok(archive_says.min(stream_says));
    }
    // All that the stream has is of that time or later, and so may be what is missing before it.
    if stream_says == stream_begins { beginning(archive, stream_begins).map(|_| stream_says) } else { Ok(stream_says) }
}

impl Joined {
    /// Joins an archive and its stream.
    ///
    /// # Errors
    /// When they are of different streams, or the archive cannot be read.
    pub async fn new(archive: Arc<dyn Source>, stream: Arc<dyn Source>) -> Result<Self, Error> {
        let (archived, actual) = (archive.identity(), stream.identity());
        if archived != actual {
            let (archive, stream) = (archive.url(), stream.url());
            return Err(Error::NotOneStream { archive, archived: archived.0, stream, actual: actual.0 });
        }
        let mut handover = BTreeMap::new();
        for shard in archive.shards().await? {
            let newest = archive.resolve(&shard.id, StartAt::Latest).await?;
            handover.insert(shard.id, newest);
        }
        Ok(Self { archive, stream, handover: Mutex::new(handover) })
    }

    fn handover(&self, shard: &ShardId) -> Option<Position> {
        self.handover.lock().unwrap_or_else(PoisonError::into_inner).get(shard).copied()
    }

    /// Looks how far the archive goes now; `None` when it does not know the shard.
    async fn look_again(&self, shard: &ShardId) -> Result<Option<Position>, Error> {
        let newest = match self.archive.resolve(shard, StartAt::Latest).await {
            Ok(newest) => newest,
            Err(Error::NoSuchShard { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        self.handover.lock().unwrap_or_else(PoisonError::into_inner).insert(shard.clone(), newest);
        Ok(Some(newest))
    }

    async fn read_archive(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let oldest = match self.archive.read(shard, after, bytes_max).await {
            Err(Error::Expired { oldest, .. }) => oldest,
            // Until when an archive is complete says nothing of the stream behind it.
            archived => return archived.map(|read| Read { complete_until: None, ..read }),
        };
        // The archive begins later, or has a retention of its own; the stream may reach back farther.
        match self.stream.read(shard, after, bytes_max).await {
            Err(Error::Expired { oldest: in_stream, .. }) => {
                Err(Error::Expired { shard: shard.clone(), after, oldest: oldest.min(in_stream) })
            }
            Err(Error::NoSuchShard { .. }) => Err(Error::Expired { shard: shard.clone(), after, oldest }),
            Ok(read) if after == Position::START => self.older(shard, read, bytes_max).await,
            read => read,
        }
    }

    /// Returns the oldest records there are. Asked for them, a stream without numbers gives what it has, however much
    /// came before: that is `read`.
    async fn older(&self, shard: &ShardId, read: Read, bytes_max: usize) -> Result<Read, Error> {
        let begin = self.archive.resolve(shard, StartAt::TrimHorizon).await?;
        let is_older = match read.events.first() {
            Some(event) => event.position <= begin,
            // It may have nothing, or not have answered.
            None => !read.ended && read.complete_until.is_none(),
        };
        if is_older { Ok(read) } else { self.archive.read(shard, begin, bytes_max).await }
    }

    async fn read_stream(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let known = in_stream(after, self.handover(shard));
        let lost = match self.stream.read(shard, known, bytes_max).await {
            Err(error @ (Error::Expired { .. } | Error::NoSuchShard { .. })) => error,
            read => return read,
        };
        // Retention was faster than this reader; the archive's writer may have been faster than retention.
        let handover = self.look_again(shard).await?;
        if handover.is_some_and(|handover| side(after, handover) == Side::Archive) {
            return self.archive.read(shard, after, bytes_max).await;
        }
        match (lost, handover) {
            (Error::NoSuchShard { url, shard }, Some(_)) => Err(Error::ShardGone { url, shard, after }),
            (Error::Expired { .. }, _) if in_stream(after, handover) > known => {
                self.stream.read(shard, in_stream(after, handover), bytes_max).await
            }
            (lost, _) => Err(lost),
        }
    }

    /// Reads from the first record of a time: the stream has it while the time is inside its retention.
    async fn read_time(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        let lost = match self.stream.read(shard, after, bytes_max).await {
            Err(error @ (Error::Expired { .. } | Error::NoSuchShard { .. })) => error,
            read => return read,
        };
        let Some(to) = self.look_again(shard).await?.filter(|to| to.unmarked() > Position::START) else {
            return Err(lost);
        };
        let read = self.archive.read(shard, after, bytes_max).await?;
        // All that the archive has arrived before.
        if read.events.is_empty() && !read.ended { self.read_stream(shard, to, bytes_max).await } else { Ok(read) }
    }

    fn gap(shard: &ShardId, archive: Held, stream_begins: Position) -> Error {
        let mut oldest = stream_begins;
        // The stream says what comes before its oldest record; where numbers have no gap that is the next one.
        if let Some(number) = stream_begins.sequence.as_u64() {
            oldest = Position::of_record((number + 1).into());
        }
        Error::Expired { shard: shard.clone(), after: archive.to, oldest }
    }
}

#[async_trait]
impl Source for Joined {
    fn url(&self) -> String {
        format!("{} then {}", self.archive.url(), self.stream.url())
    }

    fn identity(&self) -> StreamIdentity {
        self.stream.identity()
    }

    fn sequence_digits(&self) -> usize {
        self.stream.sequence_digits()
    }

    fn is_gap_free(&self) -> bool {
        self.stream.is_gap_free()
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        let current = self.stream.shards().await?;
        // Those that the stream has forgotten are older than all it has. Of one that was empty nobody knows the end.
        let mut shards = Vec::new();
        for shard in self.archive.shards().await? {
            if current.iter().any(|known| known.id == shard.id) {
                continue;
            }
            let is_held = |to: Position| to.unmarked() > Position::START;
            if self.handover(&shard.id).is_some_and(is_held) || self.look_again(&shard.id).await?.is_some_and(is_held) {
                shards.push(shard);
            }
        }
        shards.extend(current);
        Ok(shards)
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, Error> {
        let stream_says = match self.stream.resolve(shard, at).await {
            Err(Error::NoSuchShard { .. }) => return self.archive.resolve(shard, at).await,
            says => says?,
        };
        let to = self.look_again(shard).await?;
        if at == StartAt::Latest {
            return Ok(if to == Some(Position::SHARD_END) { Position::SHARD_END } else { stream_says });
        }
        let Some(to) = to else {
            return Ok(stream_says);
        };
        let after = self.archive.resolve(shard, StartAt::TrimHorizon).await?;
        let held = Held { after: after.unmarked(), to: to.unmarked() };
        let stream_begins = self.stream.resolve(shard, StartAt::TrimHorizon).await?;
        let found = match at {
            StartAt::At(_) => {
                let archive_says = self.archive.resolve(shard, at).await?;
                beginning_at(held, archive_says, stream_begins, stream_says)
            }
            _ => beginning(held, stream_begins),
        };
        found.map_err(|Gap| Self::gap(shard, held, stream_begins))
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, Error> {
        if after == Position::SHARD_END {
            return Ok(Read { events: Vec::new(), behind_latest: Duration::ZERO, ended: true, complete_until: None });
        }
        if after.unmarked() == Position::START && after.complete_until().is_some() {
            return self.read_time(shard, after, bytes_max).await;
        }
        match self.handover(shard).map(|handover| side(after, handover)) {
            Some(Side::Archive) => self.read_archive(shard, after, bytes_max).await,
            Some(Side::Stream) | None => self.read_stream(shard, after, bytes_max).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater_common::timestamp::Timestamp;

    use super::*;

    fn at(number: u64) -> Position {
        Position::of_record(number.into())
    }

    fn held(after: u64, to: u64) -> Held {
        Held { after: at(after), to: at(to) }
    }

    #[test]
    fn the_hand_over_is_the_last_position_of_the_archive() {
        assert_eq!(side(at(0), at(5)), Side::Archive);
        assert_eq!(side(at(4), at(5)), Side::Archive);
        assert_eq!(side(at(5), at(5)), Side::Stream);
        assert_eq!(side(at(9), at(5)), Side::Stream);
        let later = Timestamp::from_micros(5);
        assert_eq!(side(at(5), at(5).marked(later)), Side::Stream);
        assert_eq!(side(at(4).marked(later), at(5)), Side::Archive);
        assert_eq!(side(at(5), Position::SHARD_END), Side::Archive);
        assert_eq!(in_stream(at(5), Some(at(5).marked(later))), at(5).marked(later));
        assert_eq!(in_stream(at(6), Some(at(5).marked(later))), at(6));
        assert_eq!(in_stream(at(6), None), at(6));
    }

    #[test]
    fn the_two_begin_where_the_older_one_begins() {
        let check = |archive: Held, stream_begins: u64, expect: Result<u64, Gap>| {
            assert_eq!(beginning(archive, at(stream_begins)), expect.map(at), "{archive:?} {stream_begins}");
        };
        check(held(0, 5), 3, Ok(0));
        check(held(0, 5), 5, Ok(0));
        check(held(0, 5), 6, Err(Gap));
        check(held(4, 5), 2, Ok(2));
        check(held(3, 3), 8, Ok(8));
    }

    #[test]
    fn a_time_is_looked_for_where_its_records_are() {
        let check = |archive: Held, says: (u64, u64), stream_begins: u64, expect: Result<u64, Gap>| {
            let found = beginning_at(archive, at(says.0), at(stream_begins), at(says.1));
            assert_eq!(found, expect.map(at), "{archive:?} {says:?} {stream_begins}");
        };
        // In the archive, in both, in the stream alone.
        check(held(0, 5), (2, 4), 4, Ok(2));
        check(held(0, 5), (3, 3), 1, Ok(3));
        check(held(0, 5), (5, 7), 4, Ok(7));
        // Later than a gap is no matter; in it, or directly after it, is.
        check(held(0, 5), (5, 9), 8, Ok(9));
        check(held(0, 5), (5, 8), 8, Err(Gap));
    }
}
