//! Where leases are kept. `tests/harness/lease_contract.rs` holds the suite that each adapter passes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::claim::Claim;
use super::error::Error;
use super::row::{LeaseKey, Row};

/// What came of a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was written.
    Done,
    /// Something else was there, and still is: nothing was written.
    Lost(Option<Row>),
}

/// A table of leases. Writes of one row are in one order, which every reader sees; rows have nothing to do with each
/// other. What may work later is tried again by the adapter for a bounded time; an answer that stayed away is looked up.
/// When that does not tell either the error's effect is unknown: the write may be there, or come true later, but never
/// after another write of the same row.
///
/// A call that is cancelled leaves a write unknown in the same way.
#[async_trait]
pub trait LeaseStore: Send + Sync + fmt::Debug {
    /// Returns the table's name, for messages.
    fn place(&self) -> String;

    /// Returns the keys that begin so, whoever wrote them, in no order.
    async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error>;

    /// Returns the rows of these keys as they are now, with every write that was answered before; in no order, and
    /// without those that are not there.
    async fn read(&self, keys: &[LeaseKey]) -> Result<Vec<Row>, Error>;

    /// Writes a row where there is none.
    async fn create(&self, row: &Row) -> Result<Outcome, Error>;

    /// Replaces a row that has exactly this claim. Columns of others stay.
    async fn update(&self, expected: &Claim, row: &Row) -> Result<Outcome, Error>;

    /// Removes a row that has exactly this claim.
    async fn delete(&self, key: &LeaseKey, expected: &Claim) -> Result<Outcome, Error>;
}

/// Leases in memory, for workers in one process. For tests.
#[derive(Debug, Default)]
pub struct MemoryLeases {
    rows: Mutex<BTreeMap<String, Row>>,
}

impl MemoryLeases {
    /// Returns an empty table.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<String, Row>) -> T) -> T {
        work(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn swap(&self, key: &LeaseKey, expected: Option<&Claim>, next: Option<&Row>) -> Outcome {
        self.with(|rows| {
            let key = key.to_string();
            let found = rows.get(&key);
            if found.map(|row| &row.claim) != expected {
                return Outcome::Lost(found.cloned());
            }
            match next {
                Some(row) => rows.insert(key, row.clone()),
                None => rows.remove(&key),
            };
            Outcome::Done
        })
    }
}

#[async_trait]
impl LeaseStore for MemoryLeases {
    fn place(&self) -> String {
        "leases in memory".into()
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        Ok(self.with(|rows| rows.keys().filter(|key| key.starts_with(prefix)).cloned().collect()))
    }

    async fn read(&self, keys: &[LeaseKey]) -> Result<Vec<Row>, Error> {
        Ok(self.with(|rows| keys.iter().filter_map(|key| rows.get(&key.to_string()).cloned()).collect()))
    }

    async fn create(&self, row: &Row) -> Result<Outcome, Error> {
        Ok(self.swap(&row.key, None, Some(row)))
    }

    async fn update(&self, expected: &Claim, row: &Row) -> Result<Outcome, Error> {
        Ok(self.swap(&row.key, Some(expected), Some(row)))
    }

    async fn delete(&self, key: &LeaseKey, expected: &Claim) -> Result<Outcome, Error> {
        Ok(self.swap(key, Some(expected), None))
    }
}
