//! What is queued and what is sent: an item is one event, a line the events of one key in their order, a unit the
//! events that go out as one Kinesis record.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::kinesis::kpl::Aggregate;
use crate::kinesis::shard_map::ShardMap;

/// The partition key of an aggregate, the KPL's own. Its shard is chosen by the explicit hash key.
const AGGREGATE_KEY: &[u8] = b"a";

/// One event that waits to be sent, or for its answer.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its number among all that were put.
    pub(super) ticket: u64,
    /// Where its partition key falls.
    pub(super) hash_key: u128,
    pub(super) partition_key: Bytes,
    pub(super) payload: Bytes,
    /// How often the service refused it.
    pub(super) refusals: u32,
    /// How often a call failed that it was in.
    pub(super) failed_calls: u32,
}

impl Item {
    /// Returns what it takes as a record of its own.
    pub(super) fn bytes(&self) -> usize {
        self.partition_key.len() + self.payload.len()
    }
}

/// The events of one key that wait, in order. Most keys have one, and need no more space than that.
#[derive(Debug, Default)]
pub(super) struct Line {
    first: Option<Item>,
    rest: VecDeque<Item>,
    bytes: usize,
    /// Whether an event of the key is on its way: those that wait must wait on.
    pub(super) is_held: bool,
}

impl Line {
    /// Returns the event whose turn is next.
    pub(super) fn front(&self) -> Option<&Item> {
        self.first.as_ref()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the bytes of all that waits.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push_back(&mut self, item: Item) {
        self.bytes += item.bytes();
        match &self.first {
            None => self.first = Some(item),
            Some(_) => self.rest.push_back(item),
        }
    }

    pub(super) fn push_front(&mut self, item: Item) {
        self.bytes += item.bytes();
        if let Some(second) = self.first.replace(item) {
            self.rest.push_front(second);
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<Item> {
        let item = self.first.take()?;
        self.first = self.rest.pop_front();
        self.bytes -= item.bytes();
        Some(item)
    }
}

/// The shard that an aggregate was made for, by its hash keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u128,
    pub(super) last: u128,
}

/// Events that are sent as one record: one as it is, or several as an aggregate.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) first: Item,
    pub(super) rest: Vec<Item>,
    /// What the record takes, its partition key included.
    pub(super) bytes: usize,
    /// For an aggregate, its shard.
    pub(super) range: Option<Range>,
    /// The aggregate, as long as it was not sent.
    pub(super) made: Option<Box<Aggregate>>,
}

impl Unit {
    /// Returns the record that holds one event as it is.
    pub(super) fn plain(item: Item) -> Self {
        Self { bytes: item.bytes(), first: item, rest: Vec::new(), range: None, made: None }
    }

    /// Returns its events, in order.
    pub(super) fn items(&self) -> impl DoubleEndedIterator<Item = &Item> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Returns its events, to note something of each.
    pub(super) fn items_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        std::iter::once(&mut self.first).chain(&mut self.rest)
    }

    /// Takes it apart into its events, in order.
    pub(super) fn into_items(self) -> impl DoubleEndedIterator<Item = Item> {
        std::iter::once(self.first).chain(self.rest)
    }

    /// Returns the hash key that chooses its shard.
    pub(super) fn hash_key(&self) -> u128 {
        self.range.map_or(self.first.hash_key, |range| range.first)
    }

    /// Returns true when it can be sent as it is under this map: an aggregate only to the very shard it was made for.
    pub(super) fn suits(&self, map: &ShardMap) -> bool {
        self.range.is_none_or(|range| {
            let shard = map.shard_of(range.first);
            (shard.first, shard.last) == (range.first, range.last)
        })
    }

    /// Returns the record. Every time the same bytes.
    pub(super) fn record(&mut self) -> Outgoing {
        let Some(range) = self.range else {
            let Item { partition_key, payload, .. } = &self.first;
            let payload = Payload::Plain(payload.clone());
            return Outgoing { partition_key: partition_key.clone(), explicit_hash_key: None, payload };
        };
        let aggregate = self.made.take().unwrap_or_else(|| {
            let mut again = Box::new(Aggregate::new());
            self.items().for_each(|item| push(&mut again, range, item));
            again
        });
        Outgoing {
            partition_key: Bytes::from_static(AGGREGATE_KEY),
            explicit_hash_key: Some(range.first),
            payload: Payload::Aggregate(aggregate),
        }
    }
}

/// Adds an event to an aggregate for a shard. Each of its records names the hash key that the aggregate goes to:
/// readers that drop what does not hash into the shard they found it in (the KCL does) keep all of it, also when the
/// shard was split meanwhile.
pub(super) fn push(aggregate: &mut Aggregate, range: Range, item: &Item) {
    let pushed = aggregate.push(item.partition_key.clone(), Some(range.first), item.payload.clone());
    pushed.expect("partition keys were checked when they were queued");
}

/// Returns what the record takes once an event is added to an aggregate, its partition key included.
pub(super) fn bytes_with(aggregate: &Aggregate, range: Range, item: &Item) -> usize {
    AGGREGATE_KEY.len() + aggregate.encoded_len_with(&item.partition_key, Some(range.first), &item.payload)
}

/// Returns what the record of an aggregate takes, its partition key included.
pub(super) fn bytes_of(aggregate: &Aggregate) -> usize {
    AGGREGATE_KEY.len() + aggregate.encoded_len()
}

/// A record on its way to the service.
#[derive(Debug)]
pub struct Outgoing {
    /// Its partition key; UTF-8.
    pub partition_key: Bytes,
    /// The hash key that chooses its shard, when the partition key does not.
    pub explicit_hash_key: Option<u128>,
    /// Its bytes.
    pub payload: Payload,
}

/// The bytes of a record.
#[derive(Debug)]
pub enum Payload {
    /// One event as it is.
    Plain(Bytes),
    /// Several events; their bytes are made where there is time for it.
    Aggregate(Box<Aggregate>),
}

impl Payload {
    /// Returns the bytes.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Aggregate(aggregate) => aggregate.finish(),
        }
    }
}
