//! The shards of a stream, parents before children.
//!
//! A shard is listed as long as it has records, closed or not. Its parents are named also when they are not listed any
//! more: whoever reads knows how far it read them.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::operation::list_shards::ListShardsError;
use aws_sdk_kinesis::types;
use aws_smithy_runtime_api::http::Response;
use headwater_common::hash;
use headwater_common::position::ShardId;

use super::limits::LIST_SHARDS_MAX;
use super::stream::Stream;
use crate::Shard;

/// How often a listing is begun anew because its token expired between two pages.
const BEGINNINGS_MAX: u32 = 3;

/// Lists the shards, trying once.
pub(super) async fn list(stream: &Stream) -> Result<Vec<Shard>, SdkError<ListShardsError, Response>> {
    let (mut listed, mut token, mut beginnings) = (Vec::new(), None, 1);
    loop {
        let page_max = i32::try_from(LIST_SHARDS_MAX).expect("10,000 fits");
        let request = stream.target.list_shards(&stream.client, token.take()).max_results(page_max);
        match request.send().await {
            Ok(page) => {
                listed.extend(page.shards().iter().map(shard));
                token = page.next_token().map(str::to_owned);
                if token.is_none() {
                    return Ok(arrange(listed));
                }
            }
            Err(error) => {
                let expired = error.as_service_error().is_some_and(ListShardsError::is_expired_next_token_exception);
                if !expired || beginnings == BEGINNINGS_MAX {
                    return Err(error);
                }
                beginnings += 1;
                listed.clear();
            }
        }
    }
}

/// Returns a shard as the contract has it. Where the stream spreads its records by itself a shard has no hash keys, and
/// its name decides the lane.
fn shard(given: &types::Shard) -> Shard {
    let first = given.hash_key_range().and_then(|range| range.starting_hash_key().parse().ok());
    let parents = [given.parent_shard_id(), given.adjacent_parent_shard_id()];
    Shard {
        id: ShardId::from(given.shard_id()),
        first_hash_key: first.unwrap_or_else(|| hash::of_partition_key(given.shard_id().as_bytes())),
        parents: parents.into_iter().flatten().map(ShardId::from).collect(),
    }
}

/// Puts parents before children, in the order of the names where that leaves a choice, and each shard once.
fn arrange(listed: Vec<Shard>) -> Vec<Shard> {
    let mut left: BTreeMap<ShardId, Shard> = BTreeMap::new();
    for shard in listed {
        left.entry(shard.id.clone()).or_insert(shard);
    }
    let mut arranged = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waits = |shard: &Shard| shard.parents.iter().any(|parent| left.contains_key(parent));
        let mut next: BTreeSet<ShardId> =
            left.values().filter(|shard| !waits(shard)).map(|shard| shard.id.clone()).collect();
        if next.is_empty() {
            // No stream is its own ancestor; a listing that says so must not stop us.
            next = left.keys().cloned().collect();
        }
        arranged.extend(next.iter().filter_map(|id| left.remove(id)));
    }
    arranged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str, parents: &[&str]) -> Shard {
        Shard {
            id: id.into(),
            first_hash_key: 0,
            parents: parents.iter().map(|parent| ShardId::from(*parent)).collect(),
        }
    }

    #[test]
    fn fm09_parents_come_before_children_and_each_shard_once() {
        let check = |listed: Vec<Shard>, expect: &[&str]| {
            let names: Vec<_> = arrange(listed).iter().map(|shard| shard.id.to_string()).collect();
            assert_eq!(names, expect);
        };
        check(vec![named("b", &[]), named("a", &[]), named("b", &[])], &["a", "b"]);
        let family = vec![
            named("a", &["c", "d"]),
            named("b", &["d"]),
            named("c", &["e"]),
            named("d", &["e"]),
            named("e", &["gone"]),
        ];
        check(family, &["e", "c", "d", "a", "b"]);
        check(vec![named("a", &["b"]), named("b", &["a"])], &["a", "b"]);
    }

    #[test]
    fn a_shard_keeps_the_names_of_parents_that_are_not_listed() {
        let range = types::HashKeyRange::builder()
            .starting_hash_key("170141183460469231731687303715884105728")
            .ending_hash_key("340282366920938463463374607431768211455")
            .build()
            .unwrap();
        let given = types::Shard::builder().shard_id("c").parent_shard_id("a").adjacent_parent_shard_id("b");
        let numbers = types::SequenceNumberRange::builder().starting_sequence_number("1").build().unwrap();
        let given = given.hash_key_range(range).sequence_number_range(numbers).build().unwrap();
        let expect = Shard { id: "c".into(), first_hash_key: 1 << 127, parents: vec!["a".into(), "b".into()] };
        assert_eq!(arrange(vec![shard(&given)]), [expect]);
    }
}
