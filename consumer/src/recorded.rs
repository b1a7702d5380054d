//! The cuts of another generation, in place of one's own limits: what they took together is taken together again.
//!
//! Relies on cuts never being deleted while their generation exists. Cuts that took nothing (seals, closing ones) are
//! passed over. A generation whose lanes were changed has no cuts that another one of one set of lanes could follow: that
//! is refused by who asks for such a rebuild.

use std::collections::BTreeMap;

use headwater_common::position::{Position, Segment, ShardId};
use headwater_lake::Error as LakeError;
use headwater_lake::commit::{committed_everywhere, furthest_after, read_cut};
use headwater_lake::cut::Cut;
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{self, Epoch, Lane};

/// The cuts of a generation up to the epochs that were committed when this was made.
#[derive(Debug, Clone)]
pub struct RecordedCuts {
    generation: OpenGeneration,
    until: BTreeMap<Lane, Epoch>,
}

/// What a lane takes next.
#[derive(Debug, Clone, PartialEq)]
pub enum NextCut {
    /// What this cut took.
    Here(Box<Cut>),
    /// All recorded cuts are done.
    NoMore,
    /// The lane stands in the midst of the cut of this epoch.
    Elsewhere(Epoch),
}

/// How far a lane has come with a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Before,
    Within,
    Behind,
}

impl RecordedCuts {
    /// Looks how far the lanes of a generation have come; later cuts are not taken.
    ///
    /// # Errors
    /// When the lake does not answer.
    pub async fn of(generation: OpenGeneration) -> Result<Self, LakeError> {
        let mut until = BTreeMap::new();
        for lane in generation.description.first_lanes() {
            until.insert(lane, committed_everywhere(&generation, lane).await?);
        }
        Ok(Self { generation, until })
    }

    /// Returns where the shards stand after the last of the cuts.
    ///
    /// # Errors
    /// When a cut is missing or the lake does not answer.
    pub async fn positions(&self) -> Result<BTreeMap<ShardId, Position>, LakeError> {
        furthest_after(&self.generation, self.until.iter().map(|(lane, epoch)| (*lane, *epoch))).await
    }

    /// Returns the cut that a lane takes next; `after` is a cut that it is done with, so that none is read twice.
    ///
    /// # Errors
    /// When a cut is missing or the lake does not answer.
    pub async fn next(
        &self,
        lane: Lane,
        after: Epoch,
        positions: &BTreeMap<ShardId, Position>,
    ) -> Result<NextCut, LakeError> {
        let until = self.until.get(&lane).copied().unwrap_or_default();
        let mut epoch = after.next();
        while epoch <= until {
            let cut = read_cut(&self.generation, lane, epoch).await?.ok_or_else(|| self.missing(lane, epoch))?;
            match standing(&cut.segments, positions) {
                Standing::Before => return Ok(NextCut::Here(Box::new(cut))),
                Standing::Within => return Ok(NextCut::Elsewhere(epoch)),
                Standing::Behind => epoch = epoch.next(),
            }
        }
        Ok(NextCut::NoMore)
    }

    /// Returns the first cut of another generation that is none of these: then it does not follow them.
    ///
    /// # Errors
    /// When the lake does not answer.
    pub async fn first_other(&self, follower: &OpenGeneration) -> Result<Option<(Lane, Epoch)>, LakeError> {
        for lane in follower.description.first_lanes() {
            let until = self.until.get(&lane).copied().unwrap_or_default();
            let (mut own, mut recorded) = (Epoch(1), Epoch(1));
            while let Some(cut) = read_cut(follower, lane, own).await? {
                // Seals take nothing, on either side.
                while !cut.segments.is_empty() {
                    let Some(other) = read_cut(&self.generation, lane, recorded).await?.filter(|_| recorded <= until)
                    else {
                        return Ok(Some((lane, own)));
                    };
                    recorded = recorded.next();
                    if other.segments.is_empty() {
                        continue;
                    }
                    if other.segments != cut.segments {
                        return Ok(Some((lane, own)));
                    }
                    break;
                }
                own = own.next();
            }
        }
        Ok(None)
    }

    fn missing(&self, lane: Lane, epoch: Epoch) -> LakeError {
        let key = layout::cut(&self.generation.table, self.generation.description.number, lane, epoch);
        let source = "it is missing: cuts are never deleted while their generation exists".into();
        LakeError::Damaged { key, source }
    }
}

/// Says where positions are, seen from a cut. A cut without segments is always behind.
fn standing(segments: &[Segment], positions: &BTreeMap<ShardId, Position>) -> Standing {
    let position = |shard: &ShardId| positions.get(shard).copied().unwrap_or(Position::START);
    if segments.iter().all(|segment| position(&segment.shard) >= segment.to) {
        return Standing::Behind;
    }
    let mut first_of: BTreeMap<&ShardId, Position> = BTreeMap::new();
    for segment in segments {
        first_of.entry(&segment.shard).or_insert(segment.from);
    }
    let begins_here = first_of.iter().all(|(shard, from)| position(shard) == *from);
    if begins_here { Standing::Before } else { Standing::Within }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_taken_whole_or_not_at_all() {
        let at = |number: u64| Position::of_record(number.into());
        let segment = |shard: &str, from, to| Segment { shard: shard.into(), from: at(from), to: at(to) };
        let segments = [segment("0", 10, 15), segment("1", 3, 4), segment("0", 15, 20)];
        let check = |zero: u64, one: u64, expect: Standing| {
            let positions = BTreeMap::from([("0".into(), at(zero)), ("1".into(), at(one))]);
            assert_eq!(standing(&segments, &positions), expect, "{zero} {one}");
        };
        check(10, 3, Standing::Before);
        check(20, 4, Standing::Behind);
        check(99, 99, Standing::Behind);
        check(15, 3, Standing::Within);
        check(10, 4, Standing::Within);
        check(9, 3, Standing::Within);
        assert_eq!(standing(&[], &BTreeMap::new()), Standing::Behind, "a seal takes nothing");
        let from_start = [segment("7", 0, 5)];
        assert_eq!(standing(&from_start, &BTreeMap::new()), Standing::Before, "a shard that nobody has read yet");
    }
}
