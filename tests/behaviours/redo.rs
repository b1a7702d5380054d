//! An epoch whose commit is missing is made good by its cut: the same bytes again, or what is there already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness::process::{Running, Workplace};
use headwater_lake::file::DIGEST_KEY;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::PROGRAM;

const ROWS: u64 = 300;
const CONSUME: [&str; 12] = [
    "consume",
    "--from",
    "log:stream",
    "--lake",
    "lake",
    "--table",
    "t",
    "--time-field",
    "at",
    "--until-caught-up",
    "--flush-rows",
    "100",
];

/// A lake of three epochs with three days each, and a dead letter.
fn three_epochs() -> Workplace {
    let place = Workplace::new(PROGRAM);
    let mut lines = String::from("{\"n\":\"no number\",\"at\":\"2026-11-01\",\"n\":1}\n");
    for n in 1..ROWS {
        lines.push_str(&format!("{{\"n\":{n},\"at\":\"2026-11-0{}\",\"text\":\"row {n}\"}}\n", 1 + n % 3));
    }
    place.write("in.ndjson", lines);
    place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
    place.ok(&CONSUME);
    place
}

/// Returns the data files of an epoch, with their bytes.
pub(crate) fn files_of_epoch(place: &Workplace, epoch: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let marker = format!("0of1-{epoch}-");
    let mut found = BTreeMap::new();
    for table in ["lake/t/g00001", "lake/t__dead_letters/g00001"] {
        for file in walk(&place.path(table)) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().contains(&marker)) {
                let bytes = std::fs::read(&file).unwrap();
                found.insert(file, bytes);
            }
        }
    }
    assert!(!found.is_empty(), "epoch {epoch} has files");
    found
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

/// Takes the newest commit out of both Delta logs, as if the writer had died before it.
pub(crate) fn undo_last_commit(place: &Workplace) {
    for table in ["t", "t__dead_letters"] {
        let log = place.path(&format!("lake/{table}/g00001/_delta_log"));
        let commits = walk(&log).into_iter().filter(|path| path.extension().is_some_and(|end| end == "json"));
        std::fs::remove_file(commits.max().unwrap()).unwrap();
    }
}

fn check_rows(place: &Workplace) {
    let row = &place.rows("SELECT count(*) AS n, count(DISTINCT n) AS d, sum(n) AS s FROM t", "lake")[0];
    let sum: u64 = (1..ROWS).sum();
    assert_eq!(*row, json!({"n": ROWS - 1, "d": ROWS - 1, "s": sum}));
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains("300 events read = 299 kept + 0 filtered + 1 dead letters"), "{report}");
}

#[test]
fn fm22_the_same_cut_gives_the_same_bytes_whenever_it_is_redone() {
    for epoch in [1, 3] {
        let place = three_epochs();
        let before = files_of_epoch(&place, epoch);
        for _ in epoch..=3 {
            undo_last_commit(&place);
        }
        before.keys().for_each(|file| std::fs::remove_file(file).unwrap());
        place.ok(&CONSUME);
        assert!(files_of_epoch(&place, epoch) == before, "epoch {epoch}: other names or other bytes");
        check_rows(&place);
    }
}

#[test]
fn files_of_another_version_are_adopted_by_their_rows() {
    let place = three_epochs();
    undo_last_commit(&place);
    let mut rewritten = BTreeMap::new();
    for (file, bytes) in files_of_epoch(&place, 3) {
        let other = encode_otherwise(bytes.clone(), |digest| digest);
        assert_ne!(other, bytes);
        std::fs::write(&file, &other).unwrap();
        rewritten.insert(file, other);
    }
    place.ok(&CONSUME);
    assert!(files_of_epoch(&place, 3) == rewritten, "they stay as they are");
    check_rows(&place);
}

#[test]
fn other_rows_under_the_key_of_a_cut_are_a_loud_error() {
    let place = three_epochs();
    undo_last_commit(&place);
    let (file, bytes) = files_of_epoch(&place, 3).pop_first().unwrap();
    let other = encode_otherwise(bytes, |digest| digest.replace(['0', '1', '2', '3'], "4"));
    std::fs::write(&file, other).unwrap();
    let said = place.run(&CONSUME);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains(file.file_name().unwrap().to_str().unwrap()), "{}", said.err);
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), 199, "what was committed before is as it was");
}

/// Writes a data file's rows the way another version might: without compression or dictionaries, in other pages.
fn encode_otherwise(bytes: Vec<u8>, change_digest: impl Fn(String) -> String) -> Vec<u8> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    let metadata = builder.metadata().file_metadata().key_value_metadata().unwrap();
    let digest = metadata.iter().find(|entry| entry.key == DIGEST_KEY).unwrap().value.clone().unwrap();
    let digest = KeyValue::new(DIGEST_KEY.to_owned(), change_digest(digest));
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_data_page_row_count_limit(7)
        .set_created_by("headwater of another version".to_owned())
        .set_key_value_metadata(Some(vec![digest]))
        .build();
    let schema = Arc::clone(builder.schema());
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    for batch in builder.build().unwrap() {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn a_delta_log_from_a_backup_is_brought_up_to_date_by_the_cuts() {
    let place = three_epochs();
    let files = files_of_epoch(&place, 2);
    undo_last_commit(&place);
    undo_last_commit(&place);
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), 99);
    // The log's own events of the lost commits may be gone: the files are there, so it isn't read.
    place.ok(&CONSUME);
    assert!(files_of_epoch(&place, 2) == files, "no file is made again");
    check_rows(&place);
}

#[test]
fn two_consumers_on_one_lane_write_every_event_once() {
    let place = Workplace::new(PROGRAM);
    let rows = 5_000_u64;
    let csv: String = std::iter::once("n\n".to_owned()).chain((0..rows).map(|n| format!("{n}\n"))).collect();
    place.write("in.csv", csv);
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--shards", "2"]);
    let words = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];
    let start = || Running::start(place.command(&[&words[..], &["--flush-rows", "100"]].concat()));
    // Where both cut alike, their cuts are the same bytes and either may carry the epoch out.
    let (one, other) = (start(), start());
    assert!(one.wait().success() && other.wait().success());
    let row = &place.rows("SELECT count(*) AS n, count(DISTINCT n) AS d, sum(n) AS s FROM t", "lake")[0];
    assert_eq!(*row, json!({"n": rows, "d": rows, "s": (0..rows).sum::<u64>()}));
    place.ok(&["verify", "--full", "--lake", "lake"]);
}

#[test]
fn many_lanes_share_the_shards_and_each_goes_on_where_it_was() {
    let place = Workplace::new(PROGRAM);
    let csv = |from: u64| std::iter::once("n\n".to_owned()).chain((from..from + 3_000).map(|n| format!("{n}\n")));
    place.write("one.csv", csv(0).collect::<String>());
    place.write("two.csv", csv(3_000).collect::<String>());
    let words = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];
    for file in ["one.csv", "two.csv"] {
        place.ok(&["produce", file, "--to", "log:stream", "--shards", "8"]);
        place.ok(&[&words[..], &["--lanes", "3", "--flush-rows", "500"]].concat());
    }
    let row = &place.rows("SELECT count(*) AS n, count(DISTINCT n) AS d, sum(n) AS s FROM t", "lake")[0];
    assert_eq!(*row, json!({"n": 6_000, "d": 6_000, "s": (0..6_000_u64).sum::<u64>()}));
    let report = place.ok(&["verify", "--full", "--lake", "lake"]);
    assert!(report.contains("6000 events read"), "{report}");
    let status: serde_json::Value =
        serde_json::from_str(&place.ok(&["status", "--from", "log:stream", "--lake", "lake", "--output", "json"]))
            .unwrap();
    assert_eq!(status["tables"][0]["lanes"].as_array().unwrap().len(), 3);
}
