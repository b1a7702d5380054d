//! Compares two generations of a table, window by window, between the same positions.
//!
//! The live consumer may be ahead: rows of events that one of the two has not taken yet are left out on both sides.
//! One window is read at a time, one file of it at a time on each side; what is kept are sums.

mod bounds;
mod report;
mod sums;
mod windows;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_common::position::Position;
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{GenerationNumber, Output};
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use self::bounds::{Bounds, PlaceColumns};
pub use self::report::{ColumnReport, Digest, OutputReport, Report, SchemaDifference, WindowReport};
pub use self::sums::{ColumnSums, Sums, UnknownType};
use crate::coverage::Stretch;
use crate::error::Error;
use crate::range::Positions;
use crate::standing::{self, Counting};

/// The column of dead letters that says which pipeline made them.
const PIPELINE_COLUMN: &str = "pipeline";

/// Compares the live generation with another one. Adds the rows that were read to `rows_read`.
///
/// # Errors
/// When the lake does not answer, a file is damaged, or the two are of different streams. What differs is in the
/// report.
pub async fn compare(
    live: &OpenGeneration,
    other: &OpenGeneration,
    rows_read: &Arc<AtomicU64>,
) -> Result<Report, Error> {
    let [one, two] = [&live.description, &other.description];
    if one.stream != two.stream {
        return Err(Error::OtherStream { one: one.number, other: two.number });
    }
    // Before the tables are read: whatever is committed up to here is in them.
    let reached =
        [standing::positions(live, Counting::Committed).await?, standing::positions(other, Counting::Committed).await?];
    let from = both(&one.start, &two.start, Position::max);
    let to = both(&reached[0], &reached[1], Position::min);
    let missing = missing(&one.start, &two.start, &reached[0]);
    let digits = one.sequence_digits.max(two.sequence_digits);
    let comparison = Comparison {
        generations: [live, other],
        bounds: Arc::new(Bounds::new(&from, &to, digits)),
        rows_read: Arc::clone(rows_read),
    };
    let mut outputs = Vec::new();
    for output in Output::ALL {
        outputs.push(comparison.output(output).await?);
    }
    Ok(Report {
        table: live.table.to_string(),
        generations: [one.number, two.number],
        same_pipeline: one.pipeline_hash == two.pipeline_hash,
        pipeline_changes: one.difference(&two.pipeline),
        missing,
        is_behind: reached[0]
            .iter()
            .any(|(shard, live)| to.get(shard).is_some_and(|to| to.unmarked() < live.unmarked())),
        from,
        to,
        outputs,
    })
}

/// Returns the generation that the live one is compared with unless told otherwise: the newest one.
///
/// # Errors
/// When there is none besides the live one, or the lake does not answer.
pub async fn newest_other(live: &OpenGeneration) -> Result<GenerationNumber, Error> {
    let numbers = standing::usable(&live.store, &live.table).await?;
    let newest = numbers.into_iter().rev().find(|number| *number != live.description.number);
    newest.ok_or_else(|| Error::NothingToCompare { table: live.table.clone() })
}

/// Returns what the live generation holds before the other one begins: of a shard that begins later there, or is not
/// there at all. A shard that came after both began is read from its beginning by both.
pub(crate) fn missing(live: &Positions, other: &Positions, live_reached: &Positions) -> Vec<Stretch> {
    let mut missing = Vec::new();
    for (shard, reached) in live_reached {
        if reached.unmarked() == Position::START {
            // It holds nothing.
            continue;
        }
        let began = live.get(shard).copied();
        let begins = other.get(shard).copied().unwrap_or(if began.is_some() { *reached } else { Position::START });
        let (began, begins) = (began.unwrap_or(Position::START), begins.min(*reached));
        if began < begins {
            missing.push(Stretch { shard: shard.clone(), from: began, to: begins, held_by: None });
        }
    }
    missing
}

/// Returns the shards that both have, each with the one or the other position.
fn both(one: &Positions, other: &Positions, choose: impl Fn(Position, Position) -> Position) -> Positions {
    let in_both = one.iter().filter_map(|(shard, position)| Some((shard, *position, *other.get(shard)?)));
    in_both.map(|(shard, one, other)| (shard.clone(), choose(one, other))).collect()
}

struct Comparison<'a> {
    generations: [&'a OpenGeneration; 2],
    bounds: Arc<Bounds>,
    rows_read: Arc<AtomicU64>,
}

impl Comparison<'_> {
    async fn output(&self, output: Output) -> Result<OutputReport, Error> {
        let [one, other] = self.generations;
        let by = windows::coarser(&one.description.partition_by, &other.description.partition_by);
        let files = [windows::files(one, output, by).await?, windows::files(other, output, by).await?];
        let starts: BTreeSet<_> = files.iter().flat_map(|files| files.by_window.keys().copied()).collect();
        let mut total = [Sums::default(), Sums::default()];
        let mut reports = Vec::with_capacity(starts.len());
        for start in starts {
            let keys = |index: usize| files[index].by_window.get(&start).map(Vec::as_slice).unwrap_or_default();
            let (left, right) = tokio::try_join!(self.sums(one, output, keys(0)), self.sums(other, output, keys(1)))?;
            let sums = [left, right];
            for (total, sums) in total.iter_mut().zip(&sums) {
                total.merge(sums);
            }
            // A window in which one of them is ahead only has nothing to be compared.
            if sums.iter().any(|sums| sums.rows > 0) {
                reports.push(WindowReport::of(start, &sums));
            }
        }
        Ok(OutputReport {
            output,
            windows_by: by.to_string(),
            rows: [total[0].rows, total[1].rows],
            columns: report::columns(&total),
            schema: report::schema_differences(files[0].schema.as_ref(), files[1].schema.as_ref()),
            windows: reports,
        })
    }

    /// Returns the sums over the rows of some files.
    async fn sums(&self, generation: &OpenGeneration, output: Output, keys: &[Path]) -> Result<Sums, Error> {
        let mut sums = Sums::default();
        for key in keys {
            let failed =
                |source: Box<dyn std::error::Error + Send + Sync>| Error::File { key: key.to_string(), source };
            let bytes = generation.store.read(key).await?;
            let bytes = bytes.ok_or_else(|| failed("it is in the table, but the file is gone".into()))?;
            let bounds = Arc::clone(&self.bounds);
            let summing = tokio::task::spawn_blocking(move || {
                let mut sums = Sums::default();
                for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
                    let rows = bounds.rows(&batch?, PlaceColumns::of(output))?;
                    sums.add(&rows, left_out(output))?;
                }
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(sums)
            });
            let of_file = summing.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            let of_file = of_file.map_err(failed)?;
            self.rows_read.fetch_add(of_file.rows, Ordering::Relaxed);
            sums.merge(&of_file);
        }
        Ok(sums)
    }
}

/// Returns the columns that say which pipeline made a row.
fn left_out(output: Output) -> &'static [&'static str] {
    match output {
        Output::Events => &[],
        Output::DeadLetters => &[PIPELINE_COLUMN],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g3_what_the_other_generation_begins_after_is_missing_there() {
        let positions = |text: &str| match text.parse::<crate::range::Since>() {
            Ok(crate::range::Since::Positions(positions)) => positions,
            _ => Positions::new(),
        };
        let check = |live: &str, other: &str, reached: &str, expect: &[&str]| {
            let found = missing(&positions(live), &positions(other), &positions(reached));
            let found: Vec<_> = found.iter().map(Stretch::to_string).collect();
            assert_eq!(found, expect, "{live} {other} {reached}");
        };
        check("0=0:0", "0=0:0", "0=9:0", &[]);
        check("0=0:0", "0=5:0", "0=9:0", &["shard 0 after 0:0 up to 5:0"]);
        check("0=0:0", "1=0:0", "0=9:0", &["shard 0 after 0:0 up to 9:0"]);
        // One that came later, one of which nothing was read, one that ended before the other began.
        check("0=0:0", "0=0:0", "0=SHARD_END,1=9:0", &[]);
        check("0=0:0@5", "0=0:0@7", "0=0:0@9", &[]);
        check("0=0:0", "0=SHARD_END", "0=SHARD_END", &["shard 0 after 0:0 up to its end"]);
    }
}
