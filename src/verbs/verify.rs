//! `headwater verify`.

use anyhow::bail;
use headwater_lake::generation;
use headwater_lake::store::LakeStore;
use headwater_lake::verify::{self, Options, Report};
use serde_json::json;

use crate::cli::{ReportFormat, Verify};

/// Proves the account of one table, or of all.
pub(crate) async fn run(options: Verify) -> anyhow::Result<()> {
    let store = LakeStore::existing_on_disk(&options.lake)?;
    let tables = match options.table {
        Some(table) => vec![table],
        None => generation::tables(&store).await?,
    };
    if tables.is_empty() {
        bail!("there is no table in {}", options.lake.display());
    }
    let mut documents = Vec::new();
    let mut problems = 0;
    for table in tables {
        let open = match options.generation {
            Some(number) => generation::open(&store, &table, number).await?,
            None => generation::open_live(&store, &table).await?,
        };
        let how = Options { full: options.full, from_beginning: options.from_beginning };
        let report = verify::verify(&open, how).await?;
        problems += report.problems.len();
        match options.output {
            ReportFormat::Json => documents.push(json!({"table": table.as_str(), "report": report})),
            ReportFormat::Table => crate::write_out(&text(table.as_str(), &report, options.full))?,
        }
    }
    if options.output == ReportFormat::Json {
        crate::write_out(&serde_json::to_string_pretty(&json!({"tables": documents}))?)?;
    }
    if problems > 0 {
        bail!("{problems} problems; the lake is not what its cuts say");
    }
    Ok(())
}

fn text(table: &str, report: &Report, full: bool) -> String {
    let Report { lanes, epochs, files, rows, account, problems } = report;
    let how = if full { "rows read and compared" } else { "--full reads the rows too" };
    let mut lines = vec![format!(
        "{table}: {lanes} lanes, {epochs} epochs since the last verification, {files} files, {rows} rows ({how})\n\
         {table}: {} events read = {} kept + {} filtered + {} dead letters + {} duplicates",
        account.read, account.kept, account.filtered, account.dead_letters, account.duplicates
    )];
    lines.extend(problems.iter().map(|problem| format!("{table}: PROBLEM: {problem}")));
    if problems.is_empty() {
        lines.push(format!("{table}: all is accounted for"));
    }
    lines.join("\n")
}
