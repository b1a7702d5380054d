use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use headwater_common::timestamp::Timestamp;

use super::planner::Planner;
use super::*;
use crate::decode::{Acceptance, Decoded};

fn planner(sql: &str, base: Option<TableSchema>) -> Planner {
    Planner::new(read(sql, &Declared::new()).expect("the SQL is a transform"), base, &["year".to_owned()])
}

/// The columns of events, all of one version.
fn input(version: u32, columns: &[(&str, ColumnType)]) -> TableSchema {
    let version = SchemaVersion(version);
    let columns = columns.iter().map(|(name, kind)| Column::new(name, kind.clone(), version));
    TableSchema { version, columns: meta_columns().chain(columns).collect(), input: None }
}

fn names_and_types(table: &TableSchema) -> Vec<String> {
    own_columns(table).iter().map(|c| format!("{} {} {}", c.name, c.kind.name(), c.since.0)).collect()
}

/// Rows with a column `a`; a row's second is its number.
fn rows(values: &[Option<i64>]) -> Decoded {
    let count = values.len();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"; count]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0; count]));
    let arrived: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0; count]).with_timezone("UTC"));
    let a: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    let columns = vec![Arc::clone(&text), Arc::clone(&text), text, numbers, arrived, a];
    let schema = Arc::new(input(1, &[("a", ColumnType::Int64)]).arrow_schema());
    let times = (0..count)
        .map(|row| Timestamp::from_micros(i64::try_from(row).expect("tests have few rows") * 1_000_000))
        .collect();
    Decoded { rows: RecordBatch::try_new(schema, columns).expect("columns are of one length"), times, bytes: 0 }
}

#[test]
fn t1_a_row_that_fails_is_left_out_alone_however_rows_are_batched() {
    let sql = "SELECT 100 / a AS share FROM events WHERE a IS NOT NULL AND a < 50";
    let planner = planner(sql, None);
    let values: Vec<Option<i64>> = (0..100).map(|n| if n % 7 == 0 { None } else { Some(n % 10) }).collect();
    let mut found = Vec::new();
    for size in [1, 3, 100] {
        let mut stage = planner.stage(&input(1, &[("a", ColumnType::Int64)])).unwrap();
        let (mut shares, mut times, mut failed, mut filtered) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let all = rows(&values);
        for first in (0..values.len()).step_by(size) {
            let count = size.min(values.len() - first);
            let batch = Decoded {
                rows: all.rows.slice(first, count),
                times: all.times[first..first + count].to_vec(),
                bytes: 0,
            };
            let transformed = stage.apply(&batch);
            shares.extend(transformed.rows.rows.column(5).as_primitive::<Int64Type>().iter());
            times.extend(transformed.rows.times);
            failed.extend(transformed.failed.into_iter().map(|(at, misfit)| (first + at, misfit.message)));
            filtered += transformed.filtered;
        }
        failed.sort();
        found.push((shares, times, failed, filtered));
    }
    let (shares, times, failed, filtered) = &found[0];
    assert!(found.iter().all(|one| one == &found[0]));
    let expected = |n: &usize| values[*n].is_some_and(|value| value == 0);
    assert_eq!(failed.iter().map(|(at, _)| *at).collect::<Vec<_>>(), (0..100).filter(expected).collect::<Vec<_>>());
    assert!(failed[0].1.starts_with("column share: `100 / a`: "), "{}", failed[0].1);
    assert_eq!(*filtered, 15);
    assert_eq!(shares.len() + failed.len() + 15, 100);
    assert_eq!(times.len(), shares.len());
    assert_eq!(shares[0], Some(100), "the row with 1 is the first");
    assert_eq!(times[0].micros(), 1_000_000, "a row keeps its own time");
}

#[test]
fn the_table_has_what_the_sql_gives_and_grows_with_the_events() {
    let first = planner("SELECT * EXCEPT (b), upper(c) AS loud FROM events", None);
    let one = first.stage(&input(1, &[("a", ColumnType::Int64), ("b", ColumnType::Utf8)])).unwrap();
    // `loud` is made of a field that no event has had: its type is known, its values are null.
    assert_eq!(names_and_types(one.table()), ["a BIGINT 1", "loud VARCHAR 1"]);
    let base = one.table().clone();
    let mut columns = own_columns(&input(1, &[("a", ColumnType::Int64), ("b", ColumnType::Utf8)])).to_vec();
    columns.push(Column::new("year", ColumnType::Int64, SchemaVersion(2)));
    let grown = TableSchema {
        version: SchemaVersion(2),
        columns: meta_columns().chain(columns.clone()).collect(),
        input: None,
    };
    let second = planner("SELECT * EXCEPT (b), upper(c) AS loud FROM events", Some(base.clone()));
    let table = second.stage(&grown).unwrap().table().clone();
    assert_eq!(names_and_types(&table), ["a BIGINT 1", "loud VARCHAR 1", "year_2 BIGINT 2"]);
    assert_eq!(table.input.as_ref().unwrap().len(), 3);
    assert_eq!(names_and_types(&table.at(SchemaVersion(1))), names_and_types(&base));
    // The same version again: a redo finds the same columns.
    let again = planner("SELECT * EXCEPT (b), upper(c) AS loud FROM events", Some(table.clone()));
    assert_eq!(again.stage(&input_of(&table)).unwrap().table(), &table);
}

#[test]
fn an_output_keeps_its_type_and_a_field_that_would_change_it_is_refused() {
    let known = input(1, &[("a", ColumnType::Int64)]);
    let base = planner("SELECT a AS x FROM events", None).stage(&known).unwrap();
    assert_eq!(names_and_types(base.table()), ["x BIGINT 1"]);
    let later = planner("SELECT a AS x FROM events", Some(base.table().clone()));
    let field = |kind| [Column::new("a", kind, SchemaVersion(2))];
    let refused = later.accept(&field(ColumnType::Utf8)).unwrap_err();
    assert_eq!(refused, "column x: it is BIGINT and would become VARCHAR");
    later.accept(&field(ColumnType::Float64)).unwrap();
    // Floats that are whole go into the column, others do not.
    let mut stage = later.stage(&input(2, &[("a", ColumnType::Float64)])).unwrap();
    let decoded = rows(&[Some(0), Some(0)]);
    let mut columns = decoded.rows.columns().to_vec();
    columns[5] = Arc::new(Float64Array::from(vec![2.0, 2.5]));
    let schema = Arc::new(input(2, &[("a", ColumnType::Float64)]).arrow_schema());
    let batch = Decoded { rows: RecordBatch::try_new(schema, columns).unwrap(), ..decoded };
    let transformed = stage.apply(&batch);
    assert_eq!(transformed.rows.rows.column(5).as_primitive::<Int64Type>().values().to_vec(), [2]);
    assert_eq!(transformed.failed.len(), 1);
    assert_eq!(transformed.failed[0].1.message, "column x: a value does not fit BIGINT");
}

#[test]
fn a_transform_is_refused_when_it_is_read() {
    let check = |sql: &str, reason: &str| {
        let refused = read(sql, &Declared::new()).unwrap_err();
        assert!(refused.contains(reason), "{sql}: {refused}");
    };
    check("SELECT now() AS t FROM events", "`now` is not immutable");
    check("SELECT a AS _event_id FROM events", "is a column that Headwater fills");
    let declared = Declared::from([("flag".to_owned(), ColumnType::Boolean)]);
    assert!(read("SELECT flag FROM events WHERE flag", &declared).is_ok());
    let refused = read("SELECT flag AND 1 AS x FROM events", &declared).unwrap_err();
    assert!(!refused.contains('\n'), "{refused}");
}
