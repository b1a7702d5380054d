//! Who still has which events of a range: the stream, an archive, or nobody.

use std::fmt;

use headwater_common::position::{Position, ShardId};
use headwater_stream::stretch::{Bound, Stretch as Reading};
use headwater_stream::{Error as StreamError, Source, StartAt};
use serde::Serialize;

use crate::error::Error;
use crate::range::{Positions, described};

/// Events of one shard, `(from, to]`, that somebody holds without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Who holds them, for people: the stream's URL, an archive's.
    pub name: String,
    /// The shard.
    pub shard: ShardId,
    /// The last position that is not held.
    pub from: Position,
    /// The last position that is held.
    pub to: Position,
}

/// Returns what a stream holds; one that has no number for its end holds whatever comes.
///
/// # Errors
/// When it does not answer.
pub async fn of(stream: &dyn Source) -> Result<Vec<Coverage>, StreamError> {
    let mut held = Vec::new();
    for shard in stream.shards().await? {
        let from = stream.resolve(&shard.id, StartAt::TrimHorizon).await?;
        let newest = stream.resolve(&shard.id, StartAt::Latest).await?;
        let to = if is_time(newest) { Position::SHARD_END } else { newest.unmarked() };
        held.push(Coverage { name: stream.url(), shard: shard.id, from, to });
    }
    Ok(held)
}

/// Looks where a stream really begins that cannot name the position before its oldest event: it has lost something
/// when that event is after one that a table has taken. `taken` are events that were there once, the earliest that are
/// known.
///
/// # Errors
/// When the stream does not answer.
pub async fn find_beginnings(stream: &dyn Source, held: &mut [Coverage], taken: &Positions) -> Result<(), StreamError> {
    for coverage in held {
        let Some(taken) = taken.get(&coverage.shard) else {
            continue;
        };
        if coverage.from != Position::START {
            continue;
        }
        let newest = stream.resolve(&coverage.shard, StartAt::Latest).await?;
        let mut reading = Reading::new(stream, coverage.shard.clone(), Position::START, Bound::from(newest));
        coverage.from = match reading.next(1).await?.first() {
            Some(oldest) if oldest.position <= *taken => continue,
            Some(oldest) => oldest.position,
            // Nothing is left.
            None => *taken,
        };
    }
    Ok(())
}

/// Returns true when a position is a time and no place: a mark before every event.
pub fn is_time(position: Position) -> bool {
    matches!(Bound::from(position), Bound::Before(_))
}

/// Refuses positions after the newest that anybody holds: they were never written, or are of a longer copy of the
/// stream. A shard that nobody holds has nothing to be compared with; whoever is to read it finds it gone.
///
/// # Errors
/// Names them.
pub fn check_ends<'a>(
    url: &str,
    held: &[Coverage],
    ends: impl Iterator<Item = (&'a ShardId, &'a Position)>,
) -> Result<(), Error> {
    let mut beyond = Vec::new();
    for (shard, end) in ends {
        let newest = held.iter().filter(|coverage| coverage.shard == *shard).map(|coverage| coverage.to).max();
        let Some(newest) = newest else {
            continue;
        };
        if end.unmarked() > newest.unmarked() {
            beyond.push(Stretch { shard: shard.clone(), from: newest, to: *end, held_by: None });
        }
    }
    if beyond.is_empty() { Ok(()) } else { Err(Error::Beyond { url: url.to_owned(), beyond }) }
}

/// Events of one shard, `(from, to]`, all held by the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// The shard.
    pub shard: ShardId,
    /// The last position that is not in it.
    pub from: Position,
    /// The last position that is in it.
    pub to: Position,
    /// Who holds them; `None` when they are lost.
    pub held_by: Option<String>,
}

impl Stretch {
    /// Returns how many events it has, where sequence numbers have no gaps.
    pub fn events(&self) -> u64 {
        events_between(self.from, self.to)
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} after {} up to {}", self.shard, described(self.from), described(self.to))
    }
}

/// Returns how many events there are in `(from, to]`, where sequence numbers have no gaps.
pub fn events_between(from: Position, to: Position) -> u64 {
    let number = |position: Position| position.sequence.as_u64().unwrap_or(0);
    number(to).saturating_sub(number(from))
}

/// Divides `(from, to]` of a shard by who holds it. Coverages that come first are preferred. An end that is a time is
/// somewhere in what is held last.
pub fn divide(shard: &ShardId, from: Position, to: Position, coverages: &[Coverage]) -> Vec<Stretch> {
    let place = if is_time(to) { Position::SHARD_END } else { to.unmarked() };
    let mut stretches = divide_places(shard, from, place, coverages);
    if let Some(last) = stretches.last_mut() {
        last.to = to;
    }
    stretches
}

fn divide_places(shard: &ShardId, from: Position, to: Position, coverages: &[Coverage]) -> Vec<Stretch> {
    let mine: Vec<_> = coverages.iter().filter(|coverage| coverage.shard == *shard).collect();
    let mut stretches = Vec::new();
    let mut at = from;
    while at < to {
        let holder = mine.iter().position(|coverage| coverage.from <= at && at < coverage.to);
        let better = &mine[..holder.unwrap_or(mine.len())];
        let next_better = better.iter().map(|coverage| coverage.from).filter(|begin| *begin > at).min();
        let held_to = holder.map_or(to, |index| mine[index].to);
        let end = next_better.map_or(held_to, |begin| begin.min(held_to)).min(to);
        let held_by = holder.map(|index| mine[index].name.clone());
        stretches.push(Stretch { shard: shard.clone(), from: at, to: end, held_by });
        at = end;
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: (u64, u64), held: &[(&str, u64, u64)], expect: &[(u64, u64, Option<&str>)]) {
        let at = |number: u64| Position::of_record(number.into());
        let coverage = |(name, from, to): &(&str, u64, u64)| Coverage {
            name: (*name).to_owned(),
            shard: "0".into(),
            from: at(*from),
            to: at(*to),
        };
        let mut coverages: Vec<_> = held.iter().map(coverage).collect();
        coverages.push(Coverage { name: "of another shard".into(), shard: "1".into(), from: at(0), to: at(99) });
        let found = divide(&"0".into(), at(range.0), at(range.1), &coverages);
        let stretch = |(from, to, held_by): &(u64, u64, Option<&str>)| Stretch {
            shard: "0".into(),
            from: at(*from),
            to: at(*to),
            held_by: held_by.map(str::to_owned),
        };
        assert_eq!(found, expect.iter().map(stretch).collect::<Vec<_>>());
        assert_eq!(found.iter().map(Stretch::events).sum::<u64>(), range.1.saturating_sub(range.0));
    }

    #[test]
    fn fm11_what_nobody_has_is_lost_and_said() {
        let stream = ("stream", 50, 200);
        check((50, 200), &[stream], &[(50, 200, Some("stream"))]);
        check((0, 200), &[stream], &[(0, 50, None), (50, 200, Some("stream"))]);
        check((0, 40), &[stream], &[(0, 40, None)]);
        check((100, 100), &[stream], &[]);
        check((0, 10), &[], &[(0, 10, None)]);
        let archive = ("archive", 0, 100);
        check((0, 200), &[stream, archive], &[(0, 50, Some("archive")), (50, 200, Some("stream"))]);
        check((0, 200), &[archive, stream], &[(0, 100, Some("archive")), (100, 200, Some("stream"))]);
        let gap = ("archive", 10, 30);
        let (start, end) = (Position::START, "0:0@5".parse().unwrap());
        let held = |from, to| Coverage { name: "stream".into(), shard: "0".into(), from, to };
        let found = divide(&"0".into(), start, end, &[held(start, Position::SHARD_END)]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].to, found[0].held_by.as_deref()), (end, Some("stream")));
        let found = divide(&"0".into(), start, end, &[held(Position::of_record(9.into()), Position::SHARD_END)]);
        assert_eq!(found.iter().map(|stretch| stretch.held_by.is_some()).collect::<Vec<_>>(), [false, true]);
        check(
            (0, 60),
            &[stream, gap],
            &[(0, 10, None), (10, 30, Some("archive")), (30, 50, None), (50, 60, Some("stream"))],
        );
    }
}
