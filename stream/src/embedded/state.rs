//! What the log remembers of itself: a header, and one small state a shard, updated with every append.

use headwater_common::timestamp::Timestamp;
use heed::{RoTxn, RwTxn, WithoutTls};
use serde::{Deserialize, Serialize};

use super::{Records, ShardSummary};

/// The newest version of the log's format.
pub(super) const FORMAT: u32 = 1;

/// The key of the header in the `meta` database.
pub(super) const HEADER_KEY: &[u8] = b"header";

/// Written once, when the log is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) uuid: String,
    pub(super) shards: u32,
}

/// The state of one shard: five numbers, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardState {
    /// The next sequence number to give; begins at 1.
    pub(super) next: u64,
    /// The oldest sequence number that is there, or `next`.
    pub(super) oldest: u64,
    /// Key and payload bytes that are there.
    pub(super) bytes: u64,
    /// When the newest record arrived.
    pub(super) last_arrived_at: Timestamp,
}

impl ShardState {
    const EMPTY: Self = Self { next: 1, oldest: 1, bytes: 0, last_arrived_at: Timestamp::from_micros(0) };

    pub(super) fn load(meta: Records, transaction: &RoTxn<'_, WithoutTls>, shard: u32) -> heed::Result<Self> {
        let Some(stored) = meta.get(transaction, &key(shard))? else {
            return Ok(Self::EMPTY);
        };
        let number = |index: usize| {
            let bytes = stored.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_be_bytes).ok_or(heed::Error::Mdb(heed::MdbError::Corrupted))
        };
        let state = Self {
            next: number(0)?,
            oldest: number(1)?,
            bytes: number(2)?,
            last_arrived_at: Timestamp::from_micros(number(3)?.cast_signed()),
        };
        let sound = 1 <= state.oldest && state.oldest <= state.next;
        if sound { Ok(state) } else { Err(heed::Error::Mdb(heed::MdbError::Corrupted)) }
    }

    pub(super) fn store(&self, meta: Records, transaction: &mut RwTxn<'_>, shard: u32) -> heed::Result<()> {
        let mut stored = [0; 32];
        for (space, number) in stored.chunks_exact_mut(8).zip([
            self.next,
            self.oldest,
            self.bytes,
            self.last_arrived_at.micros().cast_unsigned(),
        ]) {
            space.copy_from_slice(&number.to_be_bytes());
        }
        meta.put(transaction, &key(shard), &stored)
    }

    /// Gives the next sequence number; the arrival time never goes back, whatever the clock does.
    pub(super) fn accept(&mut self, bytes: usize, now: Timestamp) -> (u64, Timestamp) {
        let sequence = self.next;
        self.next += 1;
        self.bytes += bytes as u64;
        self.last_arrived_at = self.last_arrived_at.max(now);
        (sequence, self.last_arrived_at)
    }

    pub(super) fn forget_oldest(&mut self, bytes: u64) {
        self.oldest += 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) fn summary(&self) -> ShardSummary {
        ShardSummary {
            records: self.next - self.oldest,
            bytes: self.bytes,
            oldest: self.oldest,
            newest: self.next - 1,
            newest_arrived_at: self.last_arrived_at,
        }
    }
}

fn key(shard: u32) -> [u8; 9] {
    let mut key = *b"shard\0\0\0\0";
    key[5..].copy_from_slice(&shard.to_be_bytes());
    key
}
