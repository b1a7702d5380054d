//! Which shards of a stream may be read now, while it is split and merged: parents before children. Pure.
//!
//! Guarantees: every listed shard is readable, waits, or is ended, and never two of these; a shard of which nothing was
//! read is readable only when all its parents are read to their end, whichever lane they are in; a shard whose rest
//! nobody can read any more is said to be gone, never passed over. Relies on the stream naming the parents of what it
//! lists, and on the positions of other readers being those that they have committed.
//!
//! ```text
//!            both ends committed
//!   a --+                             a shard that came after reading began is read from its first event,
//!       +--> c --> (d, e)             whatever the start says of others
//!   b --+
//! ```

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::position::{Position, ShardId};

use crate::Shard;

/// The shards of a stream, by what a reader may do with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// May be read now; in the order in which they are listed.
    pub readable: Vec<ShardId>,
    /// Must not be read yet.
    pub waiting: Vec<Waiting>,
    /// Are read to their end.
    pub ended: Vec<ShardId>,
    /// Are not listed any more, although they were not read to their end.
    pub gone: Vec<Gone>,
}

/// A shard that is not read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The shard.
    pub shard: ShardId,
    /// The parents whose end it waits for; at least one.
    pub parents: Vec<ShardId>,
}

/// A shard whose rest nobody can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The shard.
    pub shard: ShardId,
    /// How far it was read; [`Position::START`] when it was not.
    pub after: Position,
}

/// What a shard that was not begun finds at one of its parents.
enum Parent {
    /// It is read to its end, or was over before reading began.
    Done,
    /// It is not read to its end.
    Awaited,
    /// It never will be.
    Gone(Position),
}

/// Says of each shard whether it may be read. `start` is where reading began in the shards that there were then,
/// `positions` how far each shard is read now: what is not in it was never begun, and is read from its first event.
pub fn look(listed: &[Shard], start: &BTreeMap<ShardId, Position>, positions: &BTreeMap<ShardId, Position>) -> Lineage {
    let names: BTreeSet<&ShardId> = listed.iter().map(|shard| &shard.id).collect();
    let mut gone: BTreeMap<ShardId, Position> = positions
        .iter()
        .filter(|(shard, position)| !names.contains(shard) && is_underway(**position))
        .map(|(shard, position)| (shard.clone(), *position))
        .collect();
    let mut lineage = Lineage::default();
    for shard in listed {
        let position = positions.get(&shard.id).copied().unwrap_or(Position::START);
        if position == Position::SHARD_END {
            lineage.ended.push(shard.id.clone());
            continue;
        }
        // Where an event was taken, the parents were done before it.
        if is_underway(position) {
            lineage.readable.push(shard.id.clone());
            continue;
        }
        let mut parents = Vec::new();
        for parent in &shard.parents {
            let known = positions.get(parent).copied();
            match parent_of(known, names.contains(parent), start.contains_key(&shard.id)) {
                Parent::Done => continue,
                Parent::Awaited => {}
                Parent::Gone(after) => _ = gone.insert(parent.clone(), after),
            }
            parents.push(parent.clone());
        }
        match parents.is_empty() {
            true => lineage.readable.push(shard.id.clone()),
            false => lineage.waiting.push(Waiting { shard: shard.id.clone(), parents }),
        }
    }
    lineage.gone = gone.into_iter().map(|(shard, after)| Gone { shard, after }).collect();
    lineage
}

/// Returns true when events of a shard were read, and not all of them.
pub fn is_underway(position: Position) -> bool {
    position != Position::SHARD_END && position.unmarked() != Position::START
}

/// Says how a parent stands to a child that was not begun. A shard comes into being when its parents are closed, so
/// the parents of a child that was there at the start held nothing new from then on; those of a later child were open
/// at the start, or came later themselves: they are read first, or there is a gap.
fn parent_of(known: Option<Position>, is_listed: bool, child_was_there_at_start: bool) -> Parent {
    let position = known.unwrap_or(Position::START);
    match position == Position::SHARD_END {
        true => Parent::Done,
        false if is_listed => Parent::Awaited,
        false if child_was_there_at_start && !is_underway(position) => Parent::Done,
        false => Parent::Gone(position),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str]) -> Shard {
        Shard { id: id.into(), first_hash_key: 0, parents: parents.iter().map(|parent| (*parent).into()).collect() }
    }

    fn positions(pairs: &[(&str, &str)]) -> BTreeMap<ShardId, Position> {
        pairs.iter().map(|(shard, position)| ((*shard).into(), position.parse().unwrap())).collect()
    }

    /// Says for each shard `r`eadable, `e`nded, `w`aiting with its parents, `g`one with its position; in that order.
    fn check(listed: &[Shard], start: &[(&str, &str)], now: &[(&str, &str)], expect: &str) {
        let found = look(listed, &positions(start), &positions(now));
        let mut said: Vec<String> = found.readable.iter().map(|shard| format!("r {shard}")).collect();
        said.extend(found.ended.iter().map(|shard| format!("e {shard}")));
        let names = |shards: &[ShardId]| shards.iter().map(ShardId::to_string).collect::<Vec<_>>().join("+");
        said.extend(found.waiting.iter().map(|waiting| format!("w {} {}", waiting.shard, names(&waiting.parents))));
        said.extend(found.gone.iter().map(|gone| format!("g {} {}", gone.shard, gone.after)));
        assert_eq!(said.join(", "), expect, "{start:?} {now:?}");
    }

    #[test]
    fn fm05_fm09_children_wait_for_the_end_of_their_parents() {
        let split = [shard("a", &[]), shard("b", &["a"]), shard("c", &["a"])];
        check(&split, &[("a", "0:0")], &[("a", "0:0")], "r a, w b a, w c a");
        check(&split, &[("a", "0:0")], &[("a", "9:0")], "r a, w b a, w c a");
        check(&split, &[("a", "0:0")], &[("a", "SHARD_END")], "r b, r c, e a");
        check(&split, &[("a", "0:0")], &[("a", "SHARD_END"), ("b", "9:0"), ("c", "SHARD_END")], "r b, e a, e c");
        let merged = [shard("a", &[]), shard("b", &[]), shard("c", &["a", "b"])];
        check(&merged, &[], &[("a", "SHARD_END")], "r b, e a, w c b");
        check(&merged, &[], &[], "r a, r b, w c a+b");
        check(&merged, &[], &[("a", "SHARD_END"), ("b", "SHARD_END")], "r c, e a, e b");
    }

    #[test]
    fn a_mark_before_every_event_is_no_beginning() {
        let split = [shard("a", &[]), shard("b", &["a"])];
        let start = [("a", "0:0@5"), ("b", "0:0@5")];
        check(&split, &start, &start, "r a, w b a");
        check(&split, &start, &[("a", "SHARD_END"), ("b", "0:0@5")], "r b, e a");
        // Who reads a shard has seen its parents done, or was told to begin there.
        check(&split, &[("b", "7:0")], &[("b", "7:0")], "r a, r b");
    }

    #[test]
    fn parents_that_were_over_before_the_start_are_not_waited_for() {
        let left = [shard("b", &["a"])];
        check(&left, &[("b", "0:0")], &[("b", "0:0")], "r b");
        check(&left, &[("b", "0:0@5")], &[("b", "0:0@5")], "r b");
        // The stream forgot it between the start and the first read.
        check(&left, &[("a", "0:0"), ("b", "0:0")], &[("a", "0:0"), ("b", "0:0")], "r b");
    }

    #[test]
    fn fm11_a_shard_that_vanished_before_its_end_was_read_is_gone() {
        let left = [shard("b", &["a"])];
        check(&left, &[("a", "0:0")], &[("a", "9:0")], "w b a, g a 9:0");
        check(&left, &[("a", "0:0")], &[("a", "0:0")], "w b a, g a 0:0");
        check(&left, &[("a", "0:0@5")], &[("a", "0:0@6")], "w b a, g a 0:0@6");
        check(&left, &[("a", "0:0")], &[("a", "SHARD_END")], "r b");
        // A whole life between two looks: the child of an ended shard came and went.
        let grandchild = [shard("d", &["b"])];
        check(&grandchild, &[("a", "0:0")], &[("a", "SHARD_END")], "w d b, g b 0:0");
        // Without children it is gone as well.
        check(&[], &[("a", "0:0")], &[("a", "9:0")], "g a 9:0");
        check(&[], &[("a", "0:0")], &[("a", "SHARD_END")], "");
    }
}
