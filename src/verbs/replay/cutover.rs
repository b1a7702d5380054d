//! `headwater replay cutover` and `headwater replay rollback`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use headwater_consumer::driver::Progress;
use headwater_consumer::policy::Limits;
use headwater_lake::cutover::Outcome;
use headwater_lake::generation;
use headwater_lake::store::LakeStore;
use headwater_replay::cutover::{Cutover, Direction};

use crate::cli::ReplayCutover;
use crate::progress::{self, Reading};
use crate::signals;
use crate::verbs::source;

/// Makes another generation live.
pub(crate) async fn run(options: ReplayCutover, direction: Direction) -> anyhow::Result<()> {
    let shutdown = signals::shutdown()?;
    let store = LakeStore::existing_on_disk(&options.place.lake)?;
    // Says which tables there are, when this one is not.
    let live = generation::open_live(&store, &options.place.table).await?.description.number;
    let source = source::open_with_archive(&options.place.from, options.place.log_map_size, &store).await?.joined;
    let progress = Arc::new(Progress::default());
    let limits = Limits {
        file_bytes: options.flush_bytes,
        memory: options.memory,
        spill: options.spill_bytes,
        ..super::NOBODY_WAITS
    };
    let means = super::means(limits, options.spill_dir.clone(), &progress);
    let table = options.place.table.clone();
    let cutover = Cutover { store, table, source, means, allows_shorter_history: options.shorter_history };
    let target = match options.to {
        Some(target) => target,
        None => cutover.default_target(direction).await?,
    };
    // Says which generations there are, when this one is not.
    generation::open(&cutover.store, &cutover.table, target).await?;
    let watched = Arc::clone(&progress);
    let shown = progress::show("events read to catch up", move || Reading {
        done: watched.events_read.load(Ordering::Relaxed),
        total: Some(watched.events_to_read.load(Ordering::Relaxed)).filter(|total| *total > 0),
    });
    let outcome = cutover.run(target, &shutdown).await;
    drop(shown);
    let outcome = outcome.with_context(|| {
        format!(
            "making {target} live did not come to its end (`headwater replay status` says which generation is live). \
             Consumers that stand before a seal go on by themselves after their --seal-wait; the same command tries again"
        )
    })?;
    let (lake, table) = (options.place.lake.display(), &options.place.table);
    match outcome {
        Outcome::Moved(pointer) => {
            crate::say(&format!(
                "{target} of table {table} is live, by pointer {}. Running consumers move over by themselves; one that \
                 is started needs the settings of {target}.\n{live} stays as it is: `headwater replay rollback --lake \
                 {lake} --table {table}` goes back to it, `headwater gc --lake {lake}` removes it when it is old",
                pointer.number
            ));
            Ok(())
        }
        Outcome::AlreadyLive(pointer) => {
            crate::say(&format!("{target} of table {table} is live already, by pointer {}", pointer.number));
            Ok(())
        }
        Outcome::Lost { winner } => bail!(
            "another decision was faster: pointer {} names {}. Nothing else was changed; if {target} is still wanted, \
             run this again",
            winner.number,
            winner.generation
        ),
        Outcome::Retired(_) => bail!("{target} of table {table} is retired: its files are gone, or going"),
    }
}
