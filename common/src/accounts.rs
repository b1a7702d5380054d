//! The account of an epoch: every event that was read is kept, filtered, a dead letter, or a duplicate.

use serde::{Deserialize, Serialize};

/// What became of the events of a stretch of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Events read from the stream.
    pub read: u64,
    /// Events that became one row or more of the events table.
    pub kept: u64,
    /// Events that the transform left out.
    pub filtered: u64,
    /// Events that cannot be a row, kept in the dead-letter table.
    pub dead_letters: u64,
    /// Events whose id had been committed already.
    pub duplicates: u64,
}

impl Account {
    /// Returns true when nothing vanished: read = kept + filtered + dead letters + duplicates.
    pub fn balances(&self) -> bool {
        self.read == self.kept + self.filtered + self.dead_letters + self.duplicates
    }

    /// Adds another account to this one.
    pub fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.kept += other.kept;
        self.filtered += other.filtered;
        self.dead_letters += other.dead_letters;
        self.duplicates += other.duplicates;
    }
}
