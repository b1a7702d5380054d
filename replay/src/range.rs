//! From where to where: as the user says it, and as positions.
//!
//! A range of times is half-open, `[since, until)`, by arrival. A range of positions is `(since, until]`, as in cuts. A
//! stream that has no numbers for a time or for its end is bounded by marks, which readers resolve as they read; of a
//! shard that is closed the end is known all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_stream::stretch::{Bound, Stretch};
use headwater_stream::{Error as StreamError, Shard, Source, StartAt};

/// Positions of shards.
pub type Positions = BTreeMap<ShardId, Position>;

/// Where a replay begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Since {
    /// Where the live generation began.
    #[default]
    Generation,
    /// With the oldest event that is left.
    Oldest,
    /// After the newest event.
    Now,
    /// With the first event that arrived at that time or later.
    At(Timestamp),
    /// After these positions; other shards are left out.
    Positions(Positions),
}

/// Where a replay ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Until {
    /// With the newest event when it began.
    #[default]
    Now,
    /// With the last event that arrived before that time.
    At(Timestamp),
    /// With these positions; other shards are left out.
    Positions(Positions),
}

/// The text is not a place in a stream.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is none of {choices}, 2026-11-21T00:00:00Z, or positions such as 0=1234:0,1=99:0")]
pub struct ParseError {
    text: String,
    choices: &'static str,
}

impl FromStr for Since {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "generation" => Self::Generation,
            "oldest" | "trim-horizon" | "TRIM_HORIZON" => Self::Oldest,
            "now" | "latest" | "LATEST" => Self::Now,
            _ => match place(text, "generation, oldest, now")? {
                Place::At(time) => Self::At(time),
                Place::Positions(positions) => Self::Positions(positions),
            },
        })
    }
}

impl FromStr for Until {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "now" | "latest" | "LATEST" => Self::Now,
            _ => match place(text, "now")? {
                Place::At(time) => Self::At(time),
                Place::Positions(positions) => Self::Positions(positions),
            },
        })
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation => f.write_str("generation"),
            Self::Oldest => f.write_str("oldest"),
            Self::Now => f.write_str("now"),
            Self::At(time) => write!(f, "{time}"),
            Self::Positions(positions) => f.write_str(&text_of(positions)),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::At(time) => write!(f, "{time}"),
            Self::Positions(positions) => f.write_str(&text_of(positions)),
        }
    }
}

enum Place {
    At(Timestamp),
    Positions(Positions),
}

fn place(text: &str, choices: &'static str) -> Result<Place, ParseError> {
    let error = || ParseError { text: text.to_owned(), choices };
    if let Ok(time) = text.strip_prefix("at:").unwrap_or(text).parse() {
        return Ok(Place::At(time));
    }
    let mut positions = Positions::new();
    for part in text.split(',') {
        let (shard, position) = part.split_once('=').ok_or_else(error)?;
        if shard.is_empty() || positions.insert(shard.into(), position.parse().map_err(|_| error())?).is_some() {
            return Err(error());
        }
    }
    Ok(Place::Positions(positions))
}

fn text_of(positions: &Positions) -> String {
    let parts: Vec<_> = positions.iter().map(|(shard, position)| format!("{shard}={position}")).collect();
    parts.join(",")
}

impl Since {
    /// Returns the shards that are named.
    pub fn shards(&self) -> impl Iterator<Item = &ShardId> {
        let given = if let Self::Positions(given) = self { Some(given) } else { None };
        given.into_iter().flat_map(Positions::keys)
    }

    /// Returns the positions after which each shard is read. `began` is where the live generation did.
    ///
    /// A time before the oldest event that is left gives the generation's own beginning where retention has deleted
    /// something: whether those events arrived after that time can't be told, so they count as asked for.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn resolve(&self, source: &dyn Source, began: &Positions) -> Result<Positions, StreamError> {
        let mut positions = Positions::new();
        for shard in source.shards().await? {
            let at_first = began.get(&shard.id).copied().unwrap_or(Position::START);
            let position = match self {
                Self::Generation => at_first,
                Self::Oldest => source.resolve(&shard.id, StartAt::TrimHorizon).await?,
                Self::Now => source.resolve(&shard.id, StartAt::Latest).await?,
                Self::At(time) => {
                    let found = source.resolve(&shard.id, StartAt::At(*time)).await?;
                    let oldest = source.resolve(&shard.id, StartAt::TrimHorizon).await?;
                    if found <= oldest { at_first.min(found) } else { found }
                }
                Self::Positions(given) => match given.get(&shard.id) {
                    Some(position) => *position,
                    None => continue,
                },
            };
            positions.insert(shard.id, position);
        }
        Ok(positions)
    }
}

impl Until {
    /// Returns the shards that are named.
    pub fn shards(&self) -> impl Iterator<Item = &ShardId> {
        let given = if let Self::Positions(given) = self { Some(given) } else { None };
        given.into_iter().flat_map(Positions::keys)
    }

    /// Returns the last positions to be read. Where the range ends inside a shard that was closed later, nothing of its
    /// children is in it.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn resolve(&self, source: &dyn Source) -> Result<Positions, StreamError> {
        let listed = source.shards().await?;
        let mut positions = Positions::new();
        // Shards that are closed, and were open at the end of the range; and what came of them.
        let mut left_open = BTreeSet::new();
        for shard in &listed {
            if shard.parents.iter().any(|parent| left_open.contains(parent)) {
                left_open.insert(shard.id.clone());
                positions.insert(shard.id.clone(), Position::START);
                continue;
            }
            let position = match self {
                Self::Now => source.resolve(&shard.id, StartAt::Latest).await?,
                Self::At(time) => source.resolve(&shard.id, StartAt::At(*time)).await?,
                Self::Positions(given) => {
                    positions.extend(given.get(&shard.id).map(|position| (shard.id.clone(), *position)));
                    continue;
                }
            };
            let is_closed = listed.iter().any(|child| child.parents.contains(&shard.id));
            let is_time = matches!(Bound::from(position), Bound::Before(_));
            let goes_on = match self {
                Self::At(_) if is_closed && is_time => has_events(source, shard, position).await?,
                _ => false,
            };
            let end = if is_closed && is_time && !goes_on { Position::SHARD_END } else { position };
            if is_closed && end != Position::SHARD_END {
                left_open.insert(shard.id.clone());
            }
            positions.insert(shard.id.clone(), end);
        }
        Ok(positions)
    }
}

/// Returns true when a closed shard has events after a position.
async fn has_events(source: &dyn Source, shard: &Shard, after: Position) -> Result<bool, StreamError> {
    let mut rest = Stretch::new(source, shard.id.clone(), after, Bound::End);
    Ok(!rest.next(1).await?.is_empty())
}

/// Returns a position for people: until when a shard was quiet as a time, its end as such.
pub fn described(position: Position) -> String {
    match position.complete_until() {
        _ if position == Position::SHARD_END => "its end".to_owned(),
        Some(time) if position.unmarked() == Position::START => format!("what arrived before {time}"),
        Some(time) => format!("{} (quiet until {time})", position.unmarked()),
        None => position.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_stream_is_named_in_four_ways() {
        let since = |text: &str| text.parse::<Since>().map_err(|error| error.to_string());
        assert_eq!(since("generation").unwrap(), Since::Generation);
        assert_eq!(since("TRIM_HORIZON").unwrap(), Since::Oldest);
        let time = "2026-11-21T00:00:00Z".parse().unwrap();
        assert_eq!(since("at:2026-11-21T00:00:00Z").unwrap(), Since::At(time));
        assert_eq!(since("2026-11-21T00:00:00Z").unwrap(), Since::At(time));
        let positions = since("1=99:0,0=1234:5").unwrap();
        assert_eq!(positions.to_string(), "0=1234:5,1=99:0");
        assert_eq!(since(&positions.to_string()).unwrap(), positions);
        for text in ["", "yesterday", "0=", "0=1", "=1:0", "0=1:0,0=2:0", "0=1:0,"] {
            assert!(since(text).is_err(), "{text}");
        }
        assert!("generation".parse::<Until>().is_err(), "an end is another thing");
        assert_eq!("latest".parse::<Until>().unwrap(), Until::Now);
    }

    #[test]
    fn marks_and_ends_are_said_in_words() {
        let said = |text: &str| described(text.parse().unwrap());
        assert_eq!(said("7:1"), "7:1");
        assert_eq!(said("SHARD_END"), "its end");
        assert_eq!(said("0:0@1763737200000000"), "what arrived before 2025-11-21T15:00:00Z");
        assert_eq!(said("7:1@1763737200000000"), "7:1 (quiet until 2025-11-21T15:00:00Z)");
    }
}
