//! `headwater replay compare`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use headwater_lake::generation;
use headwater_lake::store::LakeStore;
use headwater_replay::compare;

use crate::cli::{ReplayCompare, ReportFormat};
use crate::progress::{self, Reading};

/// Compares two generations, and fails when one pipeline made both and they differ.
pub(crate) async fn run(options: ReplayCompare) -> anyhow::Result<()> {
    let store = LakeStore::existing_on_disk(&options.lake)?;
    let live = generation::open_live(&store, &options.table).await?;
    let number = match options.with {
        Some(number) => number,
        None => compare::newest_other(&live).await?,
    };
    let other = generation::open(&store, &options.table, number).await?;
    let rows = Arc::new(AtomicU64::new(0));
    let watched = Arc::clone(&rows);
    let shown = progress::show("rows compared", move || Reading { done: watched.load(Ordering::Relaxed), total: None });
    let report = compare::compare(&live, &other, &rows).await?;
    drop(shown);
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&report)?)?,
        ReportFormat::Table => crate::write_out(&report.text())?,
    }
    if report.same_pipeline && report.differs() {
        bail!("{number} does not hold the rows of the live generation, although one pipeline made both");
    }
    Ok(())
}
