//! Which shard a hash key belongs to, as far as was last seen, and when to look again.
//!
//! The map foresees; the service decides. A record that goes elsewhere than foreseen is no fault: it says that the map
//! is old. Order of a key does not depend on the map, the pace of a shard and the contents of an aggregate do.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::Shard;
use headwater_common::hash;
use headwater_common::position::ShardId;

use super::target::Target;
use crate::Error;

/// How old the map becomes while records are sent.
const AGE_MAX: Duration = Duration::from_secs(60);

/// How far apart looks are at least. It doubles with every look that finds nothing new, up to [`AGE_MAX`]: a stream
/// that spreads its records by itself contradicts every map.
const APART: Duration = Duration::from_secs(1);

/// The most pages of a listing: 200,000 shards at the service's smallest page.
const PAGES_MAX: usize = 200;

/// A shard that takes records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenShard {
    /// Its name.
    pub id: ShardId,
    /// Its first hash key.
    pub first: u128,
    /// Its last hash key.
    pub last: u128,
}

/// The shards that take records, by their hash keys. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    shards: Vec<OpenShard>,
}

impl ShardMap {
    /// Returns the map of these shards; `None` when there are none.
    pub fn new(mut shards: Vec<OpenShard>) -> Option<Self> {
        shards.sort_by_key(|shard| shard.first);
        (!shards.is_empty()).then_some(Self { shards })
    }

    /// Returns the shards, in the order of their hash keys.
    pub fn shards(&self) -> &[OpenShard] {
        &self.shards
    }

    /// Returns the place in [`ShardMap::shards`] of the shard that a hash key belongs to. Where a listing in the middle
    /// of a change has a gap, that is the shard before it.
    pub fn index_of(&self, hash_key: u128) -> usize {
        self.shards.partition_point(|shard| shard.first <= hash_key).saturating_sub(1)
    }

    /// Returns the shard that a hash key belongs to.
    pub fn shard_of(&self, hash_key: u128) -> &OpenShard {
        &self.shards[self.index_of(hash_key)]
    }
}

/// Says when to look at the shards again. Times count from the start of the sender.
#[derive(Debug, Clone)]
pub struct Freshness {
    looked_at: Duration,
    apart: Duration,
    is_wanted: bool,
}

impl Freshness {
    /// Returns that of a map that was made now.
    pub fn new(now: Duration) -> Self {
        Self { looked_at: now, apart: APART, is_wanted: false }
    }

    /// Notes that something speaks against the map: a record went to another shard, a shard throttles again and again.
    pub fn doubt(&mut self) {
        self.is_wanted = true;
    }

    /// Returns true when it is time to look.
    pub fn is_due(&self, now: Duration) -> bool {
        let age = now.saturating_sub(self.looked_at);
        age >= AGE_MAX || self.is_wanted && age >= self.apart
    }

    /// Notes a look, and whether it found another map.
    pub fn looked(&mut self, now: Duration, is_new: bool) {
        self.looked_at = now;
        self.is_wanted = false;
        self.apart = if is_new { APART } else { (self.apart * 2).min(AGE_MAX) };
    }
}

/// Lists the shards that take records.
///
/// # Errors
/// When the service does not tell.
pub(crate) async fn look(client: &Client, target: &Target) -> Result<ShardMap, Error> {
    let mut open = Vec::new();
    let mut token = None;
    for _ in 0..PAGES_MAX {
        let answer = target.list_shards(client, token).send().await;
        let answer = answer.map_err(|error| target.failed("ListShards", error))?;
        token = answer.next_token().map(str::to_owned);
        open.extend(answer.shards.unwrap_or_default().into_iter().filter(is_open));
        if token.is_none() {
            break;
        }
    }
    map_of(&open).ok_or_else(|| Error::NoOpenShard { url: target.url() })
}

fn is_open(shard: &Shard) -> bool {
    shard.sequence_number_range().is_none_or(|range| range.ending_sequence_number().is_none())
}

/// Returns the map of open shards.
fn map_of(open: &[Shard]) -> Option<ShardMap> {
    let with_hash_keys: Vec<OpenShard> = open.iter().filter_map(open_shard).collect();
    if !with_hash_keys.is_empty() {
        return ShardMap::new(with_hash_keys);
    }
    // A stream that spreads its records by itself has no hash keys. Equal slices foresee nothing, but give each shard
    // its part of the pace.
    let count = u32::try_from(open.len()).ok()?;
    let slice = |(index, shard): (u32, &Shard)| OpenShard {
        id: shard.shard_id().into(),
        first: hash::first_of_slice(index, count),
        last: if index + 1 == count { u128::MAX } else { hash::first_of_slice(index + 1, count) - 1 },
    };
    ShardMap::new((0..).zip(open).map(slice).collect())
}

fn open_shard(shard: &Shard) -> Option<OpenShard> {
    let range = shard.hash_key_range()?;
    Some(OpenShard {
        id: shard.shard_id().into(),
        first: range.starting_hash_key().parse().ok()?,
        last: range.ending_hash_key().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::types::{HashKeyRange, SequenceNumberRange};

    use super::*;

    fn shard(id: &str, first: u128, last: u128) -> OpenShard {
        OpenShard { id: id.into(), first, last }
    }

    #[test]
    fn a_hash_key_belongs_to_the_shard_whose_range_has_it() {
        let middle = 1 << 127;
        let map = ShardMap::new(vec![shard("b", middle, u128::MAX), shard("a", 0, middle - 1)]).unwrap();
        let check = |hash_key: u128, id: &str| assert_eq!(map.shard_of(hash_key).id.as_str(), id, "{hash_key}");
        check(0, "a");
        check(middle - 1, "a");
        check(middle, "b");
        check(u128::MAX, "b");
        assert_eq!(ShardMap::new(Vec::new()), None);
    }

    #[test]
    fn a_gap_in_a_listing_is_no_end_of_the_world() {
        let map = ShardMap::new(vec![shard("a", 10, 19), shard("c", 30, 39)]).unwrap();
        for (hash_key, id) in [(0, "a"), (25, "a"), (30, "c"), (99, "c")] {
            assert_eq!(map.shard_of(hash_key).id.as_str(), id, "{hash_key}");
        }
    }

    fn listed(id: &str, hash_keys: Option<(&str, &str)>, ending: Option<&str>) -> Shard {
        let range = |(first, last): (&str, &str)| {
            HashKeyRange::builder().starting_hash_key(first).ending_hash_key(last).build().expect("a range")
        };
        let numbers = SequenceNumberRange::builder()
            .starting_sequence_number("1")
            .set_ending_sequence_number(ending.map(str::to_owned))
            .build()
            .expect("a range");
        Shard::builder()
            .shard_id(id)
            .set_hash_key_range(hash_keys.map(range))
            .sequence_number_range(numbers)
            .build()
            .expect("a shard")
    }

    #[test]
    fn closed_shards_are_left_out() {
        assert!(is_open(&listed("s", Some(("0", "9")), None)));
        assert!(!is_open(&listed("s", Some(("0", "9")), Some("2"))));
    }

    #[test]
    fn shards_without_hash_keys_get_equal_slices() {
        let max = u128::MAX.to_string();
        let map = map_of(&[listed("a", Some(("0", "9")), None), listed("b", Some(("10", &max)), None)]);
        assert_eq!(map.unwrap().shards(), [shard("a", 0, 9), shard("b", 10, u128::MAX)]);
        let map = map_of(&[listed("a", None, None), listed("b", None, None)]);
        assert_eq!(map.unwrap().shards(), [shard("a", 0, (1 << 127) - 1), shard("b", 1 << 127, u128::MAX)]);
        assert_eq!(map_of(&[]), None);
    }

    #[test]
    fn the_map_is_looked_at_once_a_minute_and_soon_when_it_is_in_doubt() {
        let second = Duration::from_secs;
        let mut freshness = Freshness::new(second(100));
        assert!(!freshness.is_due(second(159)) && freshness.is_due(second(160)));
        freshness.doubt();
        assert!(!freshness.is_due(second(100)) && freshness.is_due(second(101)));
        freshness.looked(second(101), true);
        freshness.doubt();
        assert!(freshness.is_due(second(102)));
        // Doubts that come to nothing are followed less and less.
        freshness.looked(second(102), false);
        freshness.doubt();
        assert!(!freshness.is_due(second(103)) && freshness.is_due(second(104)));
        freshness.looked(second(104), false);
        freshness.doubt();
        assert!(!freshness.is_due(second(107)) && freshness.is_due(second(108)));
        freshness.looked(second(108), true);
        freshness.doubt();
        assert!(freshness.is_due(second(109)));
    }
}
