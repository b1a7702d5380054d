//! `headwater query`.

use std::io::BufWriter;

use headwater_common::clock::{Clock, SystemClock};
use headwater_common::quantity::Bytes;
use headwater_lake::store::LakeStore;
use headwater_query::engine::{Engine, scanned};
use headwater_query::output::{self, Format};

use crate::cli::{Query, RowFormat};

/// Runs a SQL statement; rows go to standard output, what it read to standard error.
pub(crate) async fn run(options: Query) -> anyhow::Result<()> {
    let format = match options.output {
        RowFormat::Table => Format::Table,
        RowFormat::Csv => Format::Csv,
        RowFormat::Json => Format::Json,
    };
    let store = LakeStore::existing_on_disk(&options.lake)?;
    let began = SystemClock.now();
    let engine = Engine::open(&store).await?;
    let (answer, names) = engine.query(&options.sql).await?;
    let plan = answer.plan();
    let mut out = BufWriter::new(std::io::stdout());
    let rows = output::write(answer.rows, format, &mut out).await?;
    let (read, total) = (scanned(&plan), engine.totals(&names));
    let seconds = SystemClock.now().since(began).as_secs_f64();
    crate::say(&format!(
        "{rows} rows; scanned {} of {} files, {} of {}, in {seconds:.2} s",
        read.files,
        total.files,
        Bytes(read.bytes),
        Bytes(total.bytes)
    ));
    Ok(())
}
