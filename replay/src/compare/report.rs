//! What a comparison found, as a document and for people.

use std::fmt::Write;

use headwater_common::window::Start;
use headwater_lake::layout::{GenerationNumber, Output};
use headwater_lake::schema::TableSchema;
use serde::{Serialize, Serializer};

use super::sums::{ColumnSums, Sums};
use crate::coverage::Stretch;
use crate::range::{Positions, described};

/// Windows that differ and are shown to people; the document has all of them.
const WINDOWS_SHOWN_MAX: usize = 20;

/// The comparison of two generations. In every pair the live one stands first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The table.
    pub table: String,
    /// The generations.
    pub generations: [GenerationNumber; 2],
    /// Whether one pipeline made both: then they must not differ.
    pub same_pipeline: bool,
    /// In what the pipelines differ.
    pub pipeline_changes: String,
    /// What the live generation holds and the other one was not built from: it begins later, or lacks a shard.
    pub missing: Vec<Stretch>,
    /// Whether the live generation is ahead; what it has taken since is not compared.
    pub is_behind: bool,
    /// After these positions.
    pub from: Positions,
    /// Up to these positions, which both have committed.
    pub to: Positions,
    /// The tables of the outputs.
    pub outputs: Vec<OutputReport>,
}

/// The comparison of one output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputReport {
    /// The output.
    pub output: Output,
    /// The partition keys whose windows are compared.
    pub windows_by: String,
    /// Rows in all.
    pub rows: [u64; 2],
    /// Columns, with what is in all windows.
    pub columns: Vec<ColumnReport>,
    /// Columns that one table lacks, or has with another type.
    pub schema: Vec<SchemaDifference>,
    /// The windows that have rows.
    pub windows: Vec<WindowReport>,
}

/// One window.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowReport {
    /// Its first moment.
    pub start: Start,
    /// Whether both have the same rows, in whatever order.
    pub equal: bool,
    /// Rows.
    pub rows: [u64; 2],
    /// Digests of the rows.
    pub digests: [Digest; 2],
    /// The columns that differ.
    pub columns: Vec<ColumnReport>,
}

/// One column of a window, or of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub name: String,
    /// Nulls.
    pub nulls: [u64; 2],
    /// Checksums of the values.
    pub checksums: [Digest; 2],
}

/// A column that is not the same in both tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaDifference {
    /// Its name.
    pub column: String,
    /// Its types; `None` where there is no such column.
    pub types: [Option<String>; 2],
}

/// A sum of hashes; `m1:` names the version of what is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub u128);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("m1:{:032x}", self.0))
    }
}

impl WindowReport {
    pub(crate) fn of(start: Start, sums: &[Sums; 2]) -> Self {
        let equal = sums[0].rows == sums[1].rows && sums[0].digest == sums[1].digest;
        let differing =
            |column: &ColumnReport| column.checksums[0] != column.checksums[1] || column.nulls[0] != column.nulls[1];
        Self {
            start,
            equal,
            rows: [sums[0].rows, sums[1].rows],
            digests: [Digest(sums[0].digest), Digest(sums[1].digest)],
            columns: if equal { Vec::new() } else { columns(sums).into_iter().filter(differing).collect() },
        }
    }
}

impl WindowReport {
    /// Says in what the window differs. Where it has more rows on one side, every column has other sums.
    fn difference(&self) -> String {
        let [one, other] = self.rows;
        if one != other {
            return format!("{one} and {other} rows");
        }
        let column = |ColumnReport { name, nulls, .. }: &ColumnReport| match nulls {
            [one, other] if one == other => name.clone(),
            [one, other] => format!("{name} ({one} and {other} nulls)"),
        };
        match self.columns.iter().map(column).collect::<Vec<_>>().join(", ") {
            columns if columns.is_empty() => format!("{one} rows, with the same values in other rows"),
            columns => format!("{one} rows, other values in {columns}"),
        }
    }
}

/// Returns the columns of both, by name.
pub(crate) fn columns(sums: &[Sums; 2]) -> Vec<ColumnReport> {
    let names: std::collections::BTreeSet<_> = sums.iter().flat_map(|sums| sums.columns.keys()).collect();
    let report = |name: &String| {
        let [one, other] = [sums[0].column(name), sums[1].column(name)];
        let nulls = |rows: u64, column: ColumnSums| rows - column.values;
        ColumnReport {
            name: name.clone(),
            nulls: [nulls(sums[0].rows, one), nulls(sums[1].rows, other)],
            checksums: [Digest(one.checksum), Digest(other.checksum)],
        }
    };
    names.into_iter().map(report).collect()
}

/// Returns the columns that one schema lacks, or has with another type.
pub(crate) fn schema_differences(one: Option<&TableSchema>, other: Option<&TableSchema>) -> Vec<SchemaDifference> {
    let kind = |schema: Option<&TableSchema>, name: &str| {
        let found = schema.into_iter().flat_map(|schema| &schema.columns).find(|column| column.name == name);
        found.map(|column| column.kind.name())
    };
    let names = [one, other].into_iter().flatten().flat_map(|schema| &schema.columns).map(|column| &column.name);
    let names: std::collections::BTreeSet<_> = names.collect();
    let differences = names.into_iter().map(|name| {
        let types = [kind(one, name), kind(other, name)];
        SchemaDifference { column: name.clone(), types }
    });
    differences.filter(|difference| difference.types[0] != difference.types[1]).collect()
}

impl Report {
    /// Returns true when some window has other rows in one generation than in the other, or one lacks a part of the
    /// history.
    pub fn differs(&self) -> bool {
        !self.missing.is_empty() || self.outputs.iter().any(|output| output.windows.iter().any(|window| !window.equal))
    }

    /// Returns the report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let [one, other] = self.generations;
        let mut put = |line: String| writeln!(text, "{line}").expect("writing to a string does not fail");
        put(format!("table {}: {one} (live) and {other}, between the same positions", self.table));
        if !self.same_pipeline {
            put(format!("built by different pipelines:\n{}", self.pipeline_changes));
        }
        for stretch in &self.missing {
            let (shard, from, to) = (&stretch.shard, described(stretch.from), described(stretch.to));
            put(format!("NOT IN {other}: shard {shard}, {} events after {from} up to {to}", stretch.events()));
        }
        if self.is_behind {
            put(format!("{one} has gone on since; what it took after {other} is not compared"));
        }
        for output in &self.outputs {
            put_output(output, &mut put);
        }
        put(match (self.differs(), self.same_pipeline) {
            (false, _) => "they hold the same rows in every window".to_owned(),
            (true, true) => "THEY DIFFER, although one pipeline made both".to_owned(),
            (true, false) => "they differ, as they may: the pipelines are different".to_owned(),
        });
        text.truncate(text.trim_end().len());
        text
    }
}

fn put_output(output: &OutputReport, put: &mut impl FnMut(String)) {
    let OutputReport { windows, windows_by, rows, .. } = output;
    let differing: Vec<_> = windows.iter().filter(|window| !window.equal).collect();
    put(format!(
        "{}: {} and {} rows in {} windows by {windows_by}; {} of them differ",
        output.output,
        rows[0],
        rows[1],
        windows.len(),
        differing.len()
    ));
    for SchemaDifference { column, types: [one, other] } in &output.schema {
        let show = |kind: &Option<String>| kind.clone().unwrap_or_else(|| "absent".to_owned());
        put(format!("  column {column}: {} and {}", show(one), show(other)));
    }
    for window in differing.iter().take(WINDOWS_SHOWN_MAX) {
        put(format!("  window {}: {}", window.start.0, window.difference()));
    }
    if differing.len() > WINDOWS_SHOWN_MAX {
        put(format!("  and {} windows more; --output json has them all", differing.len() - WINDOWS_SHOWN_MAX));
    }
}

#[cfg(test)]
mod tests {
    use headwater_lake::schema::{Column, ColumnType, SchemaVersion};

    use super::*;

    #[test]
    fn columns_that_are_not_the_same_are_named_with_their_types() {
        let schema = |columns: &[(&str, ColumnType)]| {
            let column = |(name, kind): &(&str, ColumnType)| Column::new(name, kind.clone(), SchemaVersion::FIRST);
            TableSchema { version: SchemaVersion::FIRST, columns: columns.iter().map(column).collect(), input: None }
        };
        let one = schema(&[("a", ColumnType::Int64), ("b", ColumnType::Utf8), ("c", ColumnType::Date)]);
        let other = schema(&[("b", ColumnType::Utf8), ("a", ColumnType::Float64)]);
        let found = schema_differences(Some(&one), Some(&other));
        let difference = |column: &str, one: &str, other: Option<&str>| SchemaDifference {
            column: column.to_owned(),
            types: [Some(one.to_owned()), other.map(str::to_owned)],
        };
        assert_eq!(found, [difference("a", "BIGINT", Some("DOUBLE")), difference("c", "DATE", None)]);
        assert!(schema_differences(Some(&one), Some(&one)).is_empty());
        assert!(schema_differences(None, None).is_empty());
    }
}
