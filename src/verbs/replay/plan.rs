//! `headwater replay plan`.

use std::sync::Arc;

use anyhow::bail;
use headwater_common::clock::SystemClock;
use headwater_replay::plan::{self, Means};

use crate::cli::{ReplayPlan, ReportFormat};

/// Says what a run would be, and fails when part of the range is lost.
pub(crate) async fn run(options: ReplayPlan) -> anyhow::Result<()> {
    let request = super::request(&options.place, &options.what).await?;
    let means = Means {
        sample_bytes: options.sample.0,
        lanes_at_once_max: std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        spill_folder: std::env::temp_dir(),
        clock: Arc::new(SystemClock),
    };
    let plan = plan::plan(&request, means).await?;
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&plan)?)?,
        ReportFormat::Table => crate::write_out(&plan.text())?,
    }
    if plan.is_lost {
        bail!(
            "{} no longer has all of the range, and no archive does. A run refuses it; `--since oldest` builds a table \
             of what is left, which is another history than the live table's",
            plan.stream
        );
    }
    Ok(())
}
