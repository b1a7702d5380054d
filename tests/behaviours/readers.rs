//! Readers that no one here wrote: pyarrow, DuckDB and delta-rs's Python package, from the Python package index.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::process::{Workplace, real_input};
use serde_json::{Value, json};

use crate::PROGRAM;

/// Reads a table and prints what was asked for, as JSON. `listing` reads `current/` as a folder of Parquet files with
/// DuckDB, `arrow` with pyarrow, `delta` what the Delta log says with delta-rs.
const SCRIPT: &str = r#"
import json, sys, os
import duckdb
how, table, question = sys.argv[1:4]
link = os.path.join(table, "current")
if how == "listing":
    # The golden rule of listing readers: folders that begin with `_` are not theirs.
    source = f"read_parquet('{link}/*=*/**/*.parquet', hive_partitioning = true, union_by_name = true)"
elif how == "arrow":
    import pyarrow.dataset
    rows = pyarrow.dataset.dataset(os.path.realpath(link), format="parquet", partitioning="hive").to_table()
    source = "rows"
else:
    import deltalake
    rows = deltalake.DeltaTable(os.path.realpath(link)).to_pyarrow_table()
    source = "rows"
answer = duckdb.sql(f"SELECT {question} FROM {source}")
print(json.dumps({"types": [str(t) for t in answer.types], "rows": answer.fetchall()}, default=str))
"#;

/// Asks a reader for one row of whole numbers.
pub(crate) fn ask(how: &str, table: &Path, question: &str) -> Vec<u64> {
    let answer = answer(how, table, question);
    let row = answer["rows"][0].as_array().expect("a row");
    row.iter().map(|value| value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))).collect()
}

fn answer(how: &str, table: &Path, question: &str) -> Value {
    let output = Command::new(python()).args(["-c", SCRIPT, how]).arg(table).arg(question).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{how} cannot read {}: {err}", table.display());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
}

/// Returns the Python of the readers.
fn python() -> PathBuf {
    harness::python::with_packages(env!("CARGO_TARGET_TMPDIR"), "readers", &harness::python::READERS)
}

#[test]
fn fm45_every_reader_gets_the_same_rows_sums_and_types() {
    let Some(csv) = real_input("flights/flights.csv.gz") else { return };
    let place = Workplace::new(PROGRAM);
    place.ok(&["produce", csv.to_str().unwrap(), "--to", "log:stream", "--null", "NA"]);
    place.ok(&[
        "consume",
        "--from",
        "log:stream",
        "--lake",
        "lake",
        "--table",
        "flights",
        "--time-field",
        "time_hour",
        "--until-caught-up",
    ]);
    let csv_answer = csv_says(&csv);
    let question = "count(*), sum(dep_delay)::BIGINT, sum(arr_time)::BIGINT, sum(distance)::BIGINT, \
                    count(tailnum), count(DISTINCT tailnum), min(dest), max(dest), \
                    epoch(min(time_hour))::BIGINT, epoch(max(time_hour))::BIGINT";
    for how in ["listing", "arrow", "delta"] {
        let found = answer(how, &place.path("lake/flights"), question);
        assert_eq!(found["rows"], csv_answer["rows"], "{how}");
        let types = answer(
            how,
            &place.path("lake/flights"),
            "typeof(any_value(year)), typeof(any_value(carrier)), typeof(any_value(time_hour))",
        );
        assert_eq!(types["rows"], json!([["BIGINT", "VARCHAR", "TIMESTAMP WITH TIME ZONE"]]), "{how}");
    }
}

/// What DuckDB reads in the CSV itself.
fn csv_says(csv: &Path) -> Value {
    const CSV_SCRIPT: &str = r#"
import duckdb, json, sys
print(json.dumps({"rows": duckdb.sql(f"""
    SELECT count(*), sum(dep_delay)::BIGINT, sum(arr_time)::BIGINT, sum(distance)::BIGINT,
           count(tailnum), count(DISTINCT tailnum), min(dest), max(dest),
           epoch(min(time_hour))::BIGINT, epoch(max(time_hour))::BIGINT
    FROM read_csv('{sys.argv[1]}', nullstr = 'NA')""").fetchall()}))
"#;
    let output = Command::new(python()).args(["-c", CSV_SCRIPT]).arg(csv).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
