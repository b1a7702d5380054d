//! `headwater gc`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::timestamp::Timestamp;
use headwater_lake::archive::{self, ArchiveName, retention};
use headwater_lake::gc::{self, Kept, Outcome};
use headwater_lake::generation;
use headwater_lake::layout::{GenerationNumber, TableName};
use headwater_lake::store::LakeStore;
use headwater_lake::vacuum;
use serde::Serialize;
use serde_json::json;

use crate::cli::{Gc, ReportFormat};
use crate::config::BadSetting;

/// How old what goes must be, unless told otherwise.
const OLDER_THAN_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Says what may go, and removes it when told to.
pub(crate) async fn run(options: Gc) -> anyhow::Result<()> {
    let store = LakeStore::existing_on_disk(&options.lake)?;
    let now = SystemClock.now();
    let older_than = options.older_than.unwrap_or(OLDER_THAN_DEFAULT);
    if let Some(stream) = &options.archive {
        return of_archive(&options, &store, stream, older_than, now).await;
    }
    let tables = match &options.table {
        Some(table) => vec![table.clone()],
        None => generation::tables(&store).await?,
    };
    if tables.is_empty() {
        bail!("there is no table in {}", options.lake.display());
    }
    let mut reports = Vec::new();
    for table in tables {
        reports.push(of_table(&store, &table, older_than, now, options.apply).await?);
    }
    match options.output {
        ReportFormat::Json => {
            crate::write_out(&serde_json::to_string_pretty(&json!({"applied": options.apply, "tables": reports}))?)
        }
        ReportFormat::Table => {
            for report in &reports {
                crate::write_out(&report.text(options.apply))?;
            }
            if !options.apply && reports.iter().any(Report::has_work) {
                crate::say("nothing was removed; --apply does it");
            }
            Ok(())
        }
    }
}

/// What may go of a table, or went.
#[derive(Debug, Serialize)]
struct Report {
    table: String,
    live: String,
    /// Generations that a pointer retires first, then removes.
    retire: Vec<String>,
    /// Generations that are retired already and still have objects.
    remove: Vec<String>,
    /// The others, and why each is kept.
    kept: BTreeMap<String, &'static str>,
    /// Objects that commits took out of the live generation's tables.
    taken_out: u64,
    /// Temporary files that killed processes left.
    temporaries: u64,
    /// Objects and files that were removed.
    removed: u64,
}

impl Report {
    fn has_work(&self) -> bool {
        !self.retire.is_empty() || !self.remove.is_empty() || self.taken_out + self.temporaries > 0
    }

    fn text(&self, applied: bool) -> String {
        let table = &self.table;
        let word = if applied { "removed" } else { "would be removed" };
        let mut lines = vec![format!("{table}: {} is live", self.live)];
        lines.extend(self.kept.iter().map(|(generation, why)| format!("{table}: {generation} is kept: {why}")));
        lines.extend(self.retire.iter().map(|generation| format!("{table}: {generation} is old: retired and {word}")));
        lines.extend(self.remove.iter().map(|generation| format!("{table}: {generation} is retired: {word}")));
        if self.taken_out > 0 {
            lines.push(format!("{table}: {} files that commits took out: {word}", self.taken_out));
        }
        if self.temporaries > 0 {
            lines.push(format!("{table}: {} temporary files of processes that were killed: {word}", self.temporaries));
        }
        if applied {
            lines.push(format!("{table}: {} objects removed", self.removed));
        }
        lines.join("\n")
    }
}

async fn of_table(
    store: &LakeStore,
    table: &TableName,
    older_than: Duration,
    now: Timestamp,
    apply: bool,
) -> anyhow::Result<Report> {
    let live = generation::open_live(store, table).await?;
    let Some(facts) = gc::facts(store, table).await? else {
        bail!("table {table} has no pointer");
    };
    let plan = gc::plan(&facts, older_than, now);
    let names = |numbers: &mut dyn Iterator<Item = &GenerationNumber>| numbers.map(ToString::to_string).collect();
    let retired = plan.retire.iter().flat_map(|pointer| pointer.retired.difference(&facts.highest.retired));
    let why = |kept: &Kept| match kept {
        Kept::Live => "it is live",
        Kept::Young => "it was of use not long ago",
        Kept::Doubtful => "when it was last of use is not known",
    };
    let taken_out = vacuum::removable(&live, older_than, now).await?;
    let temporaries = store.temporaries(table, now.minus(older_than))?;
    let mut report = Report {
        table: table.to_string(),
        live: live.description.number.to_string(),
        retire: names(&mut retired.into_iter()),
        remove: names(&mut plan.remove.iter()),
        kept: plan.kept.iter().map(|(number, kept)| (number.to_string(), why(kept))).collect(),
        taken_out: taken_out.len() as u64,
        temporaries: temporaries.len() as u64,
        removed: 0,
    };
    report.kept.remove(&report.live);
    if apply {
        match gc::collect(store, table, older_than, now).await? {
            Outcome::Done(removed) => report.removed = removed.values().sum(),
            Outcome::Lost { winner } => bail!(
                "a cutover or another gc took pointer {} of table {table}; nothing was retired. Run this again",
                winner.number
            ),
        }
        report.removed += vacuum::remove(&live, &taken_out).await?;
        for path in temporaries {
            match std::fs::remove_file(&path) {
                Ok(()) => report.removed += 1,
                // It went with its generation, or another gc was faster.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
            }
        }
    }
    Ok(report)
}

async fn of_archive(
    options: &Gc,
    store: &LakeStore,
    stream: &str,
    older_than: Duration,
    now: Timestamp,
) -> anyhow::Result<()> {
    let name = stream.parse::<ArchiveName>().map_err(|error| BadSetting::Other(error.to_string()))?;
    let open = archive::open(store, &name).await?;
    if !options.apply {
        let (mut files, mut records) = (0_u64, 0);
        let plan = retention::plan(&open, now.minus(older_than)).await?;
        let see = |lane, epoch, file: headwater_lake::reading::LiveFile| {
            if plan.takes(lane, epoch) {
                files += 1;
                records += file.rows;
            }
        };
        retention::for_each_file(&open, see).await?;
        match options.output {
            ReportFormat::Json => {
                let document = json!({"applied": false, "archive": stream, "files": files, "records": records});
                crate::write_out(&serde_json::to_string_pretty(&document)?)?;
            }
            ReportFormat::Table => {
                crate::write_out(&format!("archive {stream}: {records} records in {files} files would be removed"))?;
                crate::say("nothing was removed; --apply does it. What is gone from stream and archive is gone");
            }
        }
        return Ok(());
    }
    let retention::Report { epochs, files, records, objects } = retention::apply(&open, older_than, now).await?;
    match options.output {
        ReportFormat::Json => crate::write_out(&serde_json::to_string_pretty(&json!({
            "applied": true, "archive": stream, "epochs": epochs, "files": files, "records": records, "objects": objects
        }))?),
        ReportFormat::Table => crate::write_out(&format!(
            "archive {stream}: {records} records in {files} files of {epochs} epochs taken out, {objects} objects removed"
        )),
    }
}
