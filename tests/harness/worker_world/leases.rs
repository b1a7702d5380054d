//! The table of leases: one row a lane, conditional writes.

use std::collections::BTreeMap;

use headwater_consumer::lease::machine::{Answer, Kind, Write};
use headwater_consumer::lease::{Claim, WorkerId};
use headwater_lake::layout::Lane;

#[derive(Default)]
pub(super) struct Leases {
    rows: BTreeMap<Lane, Claim>,
    /// Writes that were no signs of life.
    pub(super) moves: u64,
}

impl Leases {
    pub(super) fn rows(&self) -> &BTreeMap<Lane, Claim> {
        &self.rows
    }

    pub(super) fn owner(&self, lane: Lane) -> Option<&WorkerId> {
        self.rows.get(&lane)?.owner.as_ref()
    }

    pub(super) fn write(&mut self, write: &Write) -> Answer {
        let found = self.rows.get(&write.lane);
        if found != write.expected.as_ref() {
            return Answer::Lost(found.cloned());
        }
        match &write.next {
            Some(claim) => _ = self.rows.insert(write.lane, claim.clone()),
            None => _ = self.rows.remove(&write.lane),
        }
        self.moves += u64::from(write.kind != Kind::Renew);
        Answer::Done
    }

    /// Returns how many lanes each worker has once all wishes are fulfilled.
    pub(super) fn counts(&self) -> BTreeMap<WorkerId, usize> {
        let mut counts: BTreeMap<WorkerId, usize> = BTreeMap::new();
        for worker in self.rows.values().filter_map(Claim::owner_to_be) {
            *counts.entry(worker.clone()).or_default() += 1;
        }
        counts
    }
}
