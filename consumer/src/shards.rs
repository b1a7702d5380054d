//! The shards of a lane: which there are, and which may be read now.
//!
//! Guarantees: a child is read after the ends of its parents, and the end of a parent in another lane counts once every
//! output there has committed it, whoever works on that lane; a shard that vanished before its end was read is an
//! error. A listing that fails for a while stops nothing that is known. Relies on the stream's listing, and on the lake
//! for where other lanes stand: the lanes of this process are asked in no other way.
//!
//! [`LaneShards::look`] asks and changes nothing, so it may be cancelled; [`LaneShards::see`] takes what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::hash;
use headwater_common::outcome::{Again, Classified};
use headwater_common::position::{Position, ShardId};
use headwater_common::timestamp::Timestamp;
use headwater_lake::commit::{committed_everywhere, positions_after};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{Epoch, Lane};
use headwater_stream::lineage::{self, Gone, Lineage};
use headwater_stream::stretch::Bound;
use headwater_stream::{Error as StreamError, Shard, Source};

use crate::driver::Error;

/// Where shards stand.
pub(crate) type Positions = BTreeMap<ShardId, Position>;

/// How often the shards are listed while none of the lane's ends: a shard that nobody waited for is read this late.
const LIST_EVERY: Duration = Duration::from_secs(10);

/// How long a listing may keep a lane from reading the shards that are known.
const LISTING_MAX: Duration = Duration::from_secs(5);

/// How often it is looked how far other lanes are, while one of the lane's shards waits for a parent there.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// What the shards of a lane are found out with.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The stream.
    pub(crate) source: Arc<dyn Source>,
    /// What the lane writes to.
    pub(crate) generation: Arc<OpenGeneration>,
    /// The lane.
    pub(crate) lane: Lane,
    /// The clock.
    pub(crate) clock: Arc<dyn Clock>,
}

/// The shards of a lane.
pub(crate) struct LaneShards {
    settings: Settings,
    /// Where reading began: what is not in it came later.
    began: Positions,
    /// Positions that are to be reached, in any lane.
    wanted: Positions,
    listed: Vec<Shard>,
    list_at: Timestamp,
    /// Where the shards of other lanes stood at the last look.
    elsewhere: Positions,
    ask_at: Timestamp,
    readable: Vec<ShardId>,
    /// Whether one of the lane's shards waits for one of another lane.
    waits_elsewhere: bool,
    /// Whether something happened after which others may be readable.
    is_stale: bool,
}

/// What a look found out.
pub(crate) struct Look {
    at: Timestamp,
    /// Set when the shards were to be listed: the listing, unless it failed for now.
    listing: Option<Option<Vec<Shard>>>,
    elsewhere: Option<Positions>,
}

impl LaneShards {
    /// Lists the shards; none may be read before the first look.
    pub(crate) async fn start(settings: Settings) -> Result<Self, Error> {
        let Settings { source, generation, lane, clock } = &settings;
        let listed = source.shards().await.map_err(|error| settings.stream_failed(error))?;
        let began = positions_after(generation, *lane, Epoch(0)).await.map_err(|error| settings.lake_failed(error))?;
        let now = clock.now();
        Ok(Self {
            began,
            wanted: Positions::new(),
            listed,
            list_at: now.plus(LIST_EVERY),
            elsewhere: Positions::new(),
            ask_at: now,
            readable: Vec::new(),
            waits_elsewhere: false,
            is_stale: true,
            settings,
        })
    }

    /// Says that these positions are to be reached, whichever lane that is for: a shard that vanished before its own
    /// was reached is an error then.
    pub(crate) fn want(&mut self, positions: &Positions) {
        self.wanted = positions.clone();
    }

    /// Returns all shards as they were listed last.
    pub(crate) fn listed(&self) -> &[Shard] {
        &self.listed
    }

    /// Returns the lane's shards as they were listed last.
    pub(crate) fn own(&self) -> Vec<ShardId> {
        let own = self.listed.iter().filter(|shard| self.lane_of(shard) == self.settings.lane);
        own.map(|shard| shard.id.clone()).collect()
    }

    /// Returns the lane's shards that may be read, in the order in which they are listed.
    pub(crate) fn readable(&self) -> &[ShardId] {
        &self.readable
    }

    /// Returns where each shard stands as far as is known here: the lane's own as given, the others as committed.
    pub(crate) fn known(&self, positions: &Positions) -> Positions {
        furthest(positions, &self.elsewhere)
    }

    /// Returns true when a shard of another lane came from this one.
    pub(crate) fn is_awaited_elsewhere(&self, shard: &ShardId) -> bool {
        let mut children = self.listed.iter().filter(|child| child.parents.contains(shard));
        children.any(|child| self.lane_of(child) != self.settings.lane)
    }

    /// Says that a shard ended, or that the positions are others than before: the next look is due.
    pub(crate) fn must_look(&mut self) {
        self.is_stale = true;
    }

    /// Returns true when it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        let now = self.settings.clock.now();
        self.must_list(now) || (self.waits_elsewhere && is_time(self.ask_at, now, ASK_EVERY))
    }

    fn must_list(&self, now: Timestamp) -> bool {
        self.is_stale || is_time(self.list_at, now, LIST_EVERY)
    }

    /// Finds out what is due: the shards there are, and how far other lanes are. `positions` are the lane's own, with
    /// what is buffered.
    ///
    /// # Errors
    /// When a shard is gone, or the stream or the lake fails in a way that will not pass.
    pub(crate) async fn look(&self, positions: &Positions) -> Result<Look, Error> {
        let now = self.settings.clock.now();
        let listing = if self.must_list(now) { Some(self.list().await?) } else { None };
        let listed = listing.as_ref().and_then(Option::as_ref).unwrap_or(&self.listed);
        let known = self.known(positions);
        let lineage = lineage::look(listed, &self.began, &known);
        let is_lost = !self.gone(listed, &lineage, &known).is_empty();
        let asked = if is_lost { self.others() } else { self.awaited_lanes(listed, &lineage) };
        let mut look = Look { at: now, listing, elsewhere: None };
        let may_ask = is_time(self.ask_at, now, ASK_EVERY);
        if !asked.is_empty() && may_ask {
            let mut elsewhere = self.elsewhere.clone();
            for lane in &asked {
                elsewhere = furthest(&elsewhere, &self.committed(*lane).await?);
            }
            look.elsewhere = Some(elsewhere);
        }
        // Before it is said that a shard is gone, every lane was asked for its end.
        if is_lost && (asked.is_empty() || look.elsewhere.is_some()) {
            let listed = look.listing.as_ref().and_then(Option::as_ref).unwrap_or(&self.listed);
            let known = furthest(positions, look.elsewhere.as_ref().unwrap_or(&self.elsewhere));
            let lineage = lineage::look(listed, &self.began, &known);
            self.check_gone(self.gone(listed, &lineage, &known), positions)?;
        }
        Ok(look)
    }

    /// Takes what a look found. Returns true when other shards may be read than before.
    pub(crate) fn see(&mut self, look: Look, positions: &Positions) -> bool {
        let Look { at, listing, elsewhere } = look;
        self.is_stale = false;
        if let Some(listing) = listing {
            self.list_at = at.plus(LIST_EVERY);
            self.listed = listing.unwrap_or_else(|| std::mem::take(&mut self.listed));
        }
        if let Some(elsewhere) = elsewhere {
            self.ask_at = at.plus(ASK_EVERY);
            self.elsewhere = elsewhere;
        }
        let lineage = lineage::look(&self.listed, &self.began, &self.known(positions));
        let own: BTreeSet<_> = self.own().into_iter().collect();
        let readable: Vec<_> = lineage.readable.iter().filter(|shard| own.contains(*shard)).cloned().collect();
        let waiting = lineage.waiting.iter().filter(|waiting| own.contains(&waiting.shard)).count();
        self.waits_elsewhere = !self.awaited_lanes(&self.listed, &lineage).is_empty();
        let has_changed = readable != self.readable;
        if has_changed && !self.readable.is_empty() {
            let lane = self.settings.lane;
            tracing::info!(%lane, shards = readable.len(), waiting, "the lane has other shards now");
        }
        self.readable = readable;
        has_changed
    }

    async fn list(&self) -> Result<Option<Vec<Shard>>, Error> {
        let listing = tokio::time::timeout(LISTING_MAX, self.settings.source.shards()).await;
        let Ok(listing) = listing else {
            let lane = self.settings.lane;
            tracing::warn!(%lane, "the shards were not listed in time; going on with those known");
            return Ok(None);
        };
        match listing {
            Ok(listed) => Ok(Some(listed)),
            Err(error) if error.again() == Again::MayHelp => {
                let lane = self.settings.lane;
                tracing::warn!(%lane, error = ?error, "the shards cannot be listed now; going on with those known");
                Ok(None)
            }
            Err(error) => Err(self.settings.stream_failed(error)),
        }
    }

    /// Returns where a lane's shards stand with what all its outputs have committed.
    async fn committed(&self, lane: Lane) -> Result<Positions, Error> {
        let generation = &self.settings.generation;
        let failed = |error| self.settings.lake_failed(error);
        let epoch = committed_everywhere(generation, lane).await.map_err(failed)?;
        positions_after(generation, lane, epoch).await.map_err(failed)
    }

    fn lane_of(&self, shard: &Shard) -> Lane {
        let lane = self.settings.lane;
        Lane { index: hash::slice_of(shard.first_hash_key, lane.count), ..lane }
    }

    fn others(&self) -> BTreeSet<Lane> {
        let lane = self.settings.lane;
        (0..lane.count).map(|index| Lane { index, ..lane }).filter(|other| *other != lane).collect()
    }

    /// Returns the other lanes that this one waits for.
    fn awaited_lanes(&self, listed: &[Shard], lineage: &Lineage) -> BTreeSet<Lane> {
        let lanes: BTreeMap<_, _> = listed.iter().map(|shard| (&shard.id, self.lane_of(shard))).collect();
        let own = |shard: &ShardId| lanes.get(shard) == Some(&self.settings.lane);
        let awaited = lineage.waiting.iter().filter(|waiting| own(&waiting.shard));
        let parents = awaited.flat_map(|waiting| &waiting.parents).filter_map(|parent| lanes.get(parent).copied());
        parents.filter(|lane| *lane != self.settings.lane).collect()
    }

    /// Returns the shards that cannot be read to where they should be.
    fn gone(&self, listed: &[Shard], lineage: &Lineage, known: &Positions) -> Vec<Gone> {
        let names: BTreeSet<_> = listed.iter().map(|shard| &shard.id).collect();
        let mut gone = lineage.gone.clone();
        for (shard, wanted) in &self.wanted {
            let after = position_of(known, shard);
            // Where nothing was ever taken there is nothing to be missed.
            let is_missed = wanted.unmarked() != Position::START && !Bound::from(*wanted).is_reached_at(after);
            if is_missed && !names.contains(shard) && gone.iter().all(|gone| gone.shard != *shard) {
                gone.push(Gone { shard: shard.clone(), after });
            }
        }
        gone
    }

    /// A shard that another lane was reading is that lane's loss to tell.
    fn check_gone(&self, gone: Vec<Gone>, positions: &Positions) -> Result<(), Error> {
        match gone.into_iter().find(|gone| position_of(positions, &gone.shard) >= gone.after) {
            None => Ok(()),
            Some(Gone { shard, after }) => {
                let url = self.settings.source.url();
                Err(self.settings.stream_failed(StreamError::ShardGone { url, shard, after }))
            }
        }
    }
}

impl Settings {
    fn stream_failed(&self, source: StreamError) -> Error {
        Error::Stream { url: self.source.url(), source }
    }

    fn lake_failed(&self, source: headwater_lake::Error) -> Error {
        Error::Lake { table: self.generation.table.to_string(), source }
    }
}

/// Returns where a shard stands; one that nobody has read stands before its first event.
pub(crate) fn position_of(positions: &Positions, shard: &ShardId) -> Position {
    positions.get(shard).copied().unwrap_or(Position::START)
}

/// Returns of each shard the farther of two positions.
fn furthest(one: &Positions, other: &Positions) -> Positions {
    let mut furthest = one.clone();
    for (shard, position) in other {
        let known = furthest.entry(shard.clone()).or_insert(*position);
        *known = (*known).max(*position);
    }
    furthest
}

/// Returns true when it is time for what is done `every` so often. A clock that went back puts it off no longer than
/// that.
fn is_time(next: Timestamp, now: Timestamp, every: Duration) -> bool {
    now >= next || next.since(now) > every
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_does_not_put_off_a_look_for_long() {
        let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
        assert!(!is_time(at(110), at(100), LIST_EVERY));
        assert!(is_time(at(110), at(110), LIST_EVERY));
        assert!(is_time(at(110), at(50), LIST_EVERY));
    }

    #[test]
    fn of_two_positions_the_farther_one_counts() {
        let positions = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(shard, text)| (ShardId::from(*shard), text.parse().unwrap())).collect::<Positions>()
        };
        let one = positions(&[("a", "7:0"), ("b", "SHARD_END")]);
        let other = positions(&[("a", "7:0@5"), ("b", "9:0"), ("c", "1:0")]);
        assert_eq!(furthest(&one, &other), positions(&[("a", "7:0@5"), ("b", "SHARD_END"), ("c", "1:0")]));
    }
}
