//! Which lanes a consumer works on: those of the highest set that may begin.
//!
//! A set ends when other lanes are asked for: each of its lanes is closed by a last cut (`lane/closing.rs`), then those
//! of the next set begin where these have ended. Nobody leads: who finds all lanes of a set closed opens the next one.

use headwater_lake::lanes::{self, Current};

use crate::driver::{Consumer, Error};

impl Consumer {
    /// Opens the lanes that are worked on. With a next set there is nothing to be done in them but to close them.
    pub(crate) async fn open_lanes(&self) -> Result<Current, Error> {
        let current = lanes::open(&self.generation).await.map_err(|error| self.lake_error(error))?;
        let table = &self.generation.table;
        if let Some(next) = current.next {
            tracing::info!(%table, lanes = current.set.count, next = next.count, "closing the lanes for others");
        } else {
            tracing::debug!(%table, set = %current.set.number, lanes = current.set.count, "working on these lanes");
        }
        Ok(current)
    }
}
