//! Which row groups of a file may hold a record, by what the footer says of them.

use headwater_common::timestamp::Timestamp;
use headwater_lake::archive::{ARRIVED_AT, SEQUENCE, SHARD};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;

/// A file's footer.
#[derive(Debug)]
pub(super) struct Footer {
    /// Bytes of the file.
    pub(super) size: u64,
    /// What it says.
    pub(super) metadata: std::sync::Arc<ParquetMetaData>,
}

/// Returns the row groups that may hold records of a shard with this sequence number or a higher one, in order.
/// `sequence` has the width that the archive pads to.
pub(super) fn groups_with(footer: &ParquetMetaData, shard: &str, sequence: &str) -> Vec<usize> {
    let may_hold = |group: &RowGroupMetaData| {
        let shards = bounds(group, SHARD);
        let least = shards.0.is_none_or(|least| least <= shard.as_bytes());
        let most = shards.1.is_none_or(|most| most >= shard.as_bytes());
        least && most && bounds(group, SEQUENCE).1.is_none_or(|most| most >= sequence.as_bytes())
    };
    footer.row_groups().iter().enumerate().filter(|(_, group)| may_hold(group)).map(|(index, _)| index).collect()
}

/// Returns when the newest record of a file arrived.
pub(super) fn newest_arrival(footer: &ParquetMetaData) -> Option<Timestamp> {
    let newest_in = |group: &RowGroupMetaData| match statistics(group, ARRIVED_AT) {
        Some(Statistics::Int64(arrivals)) => arrivals.max_opt().copied(),
        _ => None,
    };
    footer.row_groups().iter().filter_map(newest_in).max().map(Timestamp::from_micros)
}

/// Returns the bytes of the file that a row group is in, `[start, end)`.
pub(super) fn byte_range(group: &RowGroupMetaData) -> std::ops::Range<u64> {
    let ranges = group.columns().iter().map(|column| {
        let (start, length) = column.byte_range();
        start..start + length
    });
    let whole = ranges.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end));
    whole.unwrap_or_default()
}

/// Returns the least and the highest value of a column in a group, or what is below and above all of them.
fn bounds<'a>(group: &'a RowGroupMetaData, name: &str) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    let statistics = statistics(group, name);
    (statistics.and_then(|s| s.min_bytes_opt()), statistics.and_then(|s| s.max_bytes_opt()))
}

fn statistics<'a>(group: &'a RowGroupMetaData, name: &str) -> Option<&'a Statistics> {
    group.columns().iter().find(|column| column.column_path().parts() == [name])?.statistics()
}

#[cfg(test)]
mod tests {
    use headwater_common::event::Event;
    use headwater_common::position::{Position, ShardId};

    use super::*;
    use crate::archive::{decode, encode};

    /// Three records of each of two shards, a row group a record: none fits beside another.
    fn records() -> Vec<(ShardId, Event)> {
        let event = |number: u64| Event {
            position: Position::of_record(number.into()),
            arrived_at: Timestamp::from_micros(1),
            partition_key: "k".into(),
            payload: vec![b'x'; encode::GROUP_BYTES - usize::try_from(number).unwrap()].into(),
        };
        let shards = ["a", "b"].map(ShardId::from);
        shards.into_iter().flat_map(|shard| (1..=3).map(move |number| (shard.clone(), event(number)))).collect()
    }

    #[test]
    fn only_the_groups_that_may_hold_a_record_are_read() {
        let records = records();
        let placed = || records.iter().map(|(shard, event)| (shard, event));
        let file = encode::encode(placed(), 20, encode::digest(placed(), 20)).unwrap();
        let check = |shard: &str, sequence: u64, expect: &[usize]| {
            let found = groups_with(&file.footer, shard, &format!("{sequence:020}"));
            assert_eq!(found, expect, "{shard} {sequence}");
        };
        check("a", 0, &[0, 1, 2]);
        check("a", 3, &[2]);
        check("b", 2, &[4, 5]);
        check("b", 4, &[]);
        check("c", 0, &[]);
        // And each of them comes back from its own bytes alone.
        let metadata = std::sync::Arc::new(file.footer.clone());
        for (index, (shard, event)) in records.iter().enumerate() {
            let range = byte_range(metadata.row_group(index));
            let part = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let part = decode::Part::new(range.start, file.bytes.slice(part), file.bytes.len() as u64);
            let found = decode::decode(&metadata, index, part).unwrap();
            assert!(found[shard] == [event.clone()], "group {index}");
        }
    }
}
