//! The events whose rows the decoder still has: a row that fails in the transform is a dead letter with its bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use headwater_common::event::Event;

/// An event that was decoded and is not transformed yet.
#[derive(Debug)]
pub(crate) struct Undecided {
    /// Its number among the events of the epoch.
    pub(crate) ordinal: u64,
    pub(crate) shard: Arc<str>,
    pub(crate) event: Event,
}

/// Events in the order of their rows. At most one unfinished batch of the decoder and one read, which bounds them.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    events: VecDeque<Undecided>,
    bytes: usize,
    /// The shard that came last; neighbours are of one shard.
    shard: Option<Arc<str>>,
}

impl Waiting {
    pub(crate) fn push(&mut self, ordinal: u64, shard: &str, event: &Event) {
        let shard = match &self.shard {
            Some(known) if **known == *shard => Arc::clone(known),
            _ => Arc::clone(self.shard.insert(Arc::from(shard))),
        };
        self.bytes += bytes_of(event);
        self.events.push_back(Undecided { ordinal, shard, event: event.clone() });
    }

    /// Takes the events of the next `rows` rows.
    pub(crate) fn take(&mut self, rows: usize) -> Vec<Undecided> {
        debug_assert!(rows <= self.events.len(), "every row has its event at hand");
        let taken: Vec<_> = self.events.drain(..rows.min(self.events.len())).collect();
        self.bytes -= taken.iter().map(|undecided| bytes_of(&undecided.event)).sum::<usize>();
        taken
    }

    /// Returns the bytes that they keep in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn bytes_of(event: &Event) -> usize {
    event.payload.len() + event.partition_key.len() + size_of::<Undecided>()
}
