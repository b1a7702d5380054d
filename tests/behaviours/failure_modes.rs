//! What broke in other systems of this field, one test a failure; the number is that of the project's list.

use std::path::{Path, PathBuf};

use harness::process::{Running, Workplace, real_input};
use serde_json::{Value, json};

use crate::PROGRAM;

const CONSUME: [&str; 8] = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];

fn produce(place: &Workplace, name: &str, lines: impl Iterator<Item = String>, more: &[&str]) {
    let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
    place.write(name, text);
    place.ok(&[&["produce", name, "--to", "log:stream"][..], more].concat());
}

fn consume(place: &Workplace, more: &[&str]) {
    place.ok(&[&CONSUME[..], more].concat());
}

/// Returns the data files of a table, as paths below its generation.
fn data_files(place: &Workplace, table: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('_'));
            match path.is_dir() {
                true if !hidden => walk(&path, found),
                false if path.extension().is_some_and(|end| end == "parquet") => found.push(path),
                _ => {}
            }
        }
    }
    let root = place.path(&format!("lake/{table}/g00001"));
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect()
}

#[test]
fn fm02_what_was_read_and_not_committed_is_read_again() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", (0..500).map(|n| format!("{{\"n\":{n}}}")), &[]);
    // Nothing but its end makes this one cut.
    let words = ["--flush-idle", "1h", "--flush-age", "1h", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"];
    let follow = CONSUME[..7].to_vec();
    let mut consumer = Running::start(place.command(&[&follow[..], &words].concat()));
    let address = crate::metrics::address(&consumer);
    while !crate::metrics::get(&address, "/metrics").contains("headwater_stream_millis_behind_latest") {
        std::thread::yield_now();
    }
    consumer.kill();
    consume(&place, &[]);
    assert_eq!(place.value("SELECT count(DISTINCT n) FROM t", "lake"), 500);
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), 500);
}

#[test]
fn fm20_shards_and_new_fields_make_no_small_files() {
    let place = Workplace::new(PROGRAM);
    // Sixteen shards, two days, and a new field every hundred events.
    let line = |n: u64| format!("{{\"n\":{n},\"at\":\"2026-11-0{}\",\"field{}\":1}}", 1 + n % 2, n / 100);
    produce(&place, "in.ndjson", (0..1_000).map(line), &["--shards", "16"]);
    consume(&place, &["--time-field", "at"]);
    assert_eq!(data_files(&place, "t").len(), 2, "a file a day, not one a shard or a schema");
    assert_eq!(place.value("SELECT count(field9) FROM t", "lake"), 100);
}

#[test]
fn fm26_windows_that_make_room_for_others_lose_no_row() {
    let place = Workplace::new(PROGRAM);
    // Neighbours are never in one window, and there are far more of them than the memory holds.
    let filler = "x".repeat(500);
    let line = |n: u64| format!("{{\"n\":{n},\"at\":{},\"text\":\"{filler}\"}}", (n * 7 % 300) * 86_400);
    produce(&place, "in.ndjson", (0..30_000).map(line), &[]);
    let time = ["--time-field", "at", "--time-format", "epoch-s"];
    consume(&place, &[&time[..], &["--memory", "16MiB", "--spill-dir", "."]].concat());
    let row = &place.rows("SELECT count(*) AS n, count(DISTINCT n) AS d, count(DISTINCT at) AS w FROM t", "lake")[0];
    assert_eq!(*row, json!({"n": 30_000, "d": 30_000, "w": 300}));
    place.ok(&["verify", "--full", "--lake", "lake"]);
    let files = data_files(&place, "t");
    assert_eq!(files.len(), 300, "one epoch, a file a window");
    // The same rows that never left the memory are the same bytes.
    let words = ["consume", "--from", "log:stream", "--lake", "roomy", "--table", "t", "--until-caught-up"];
    place.ok(&[&words[..], &time, &["--memory", "1GiB"]].concat());
    for file in files {
        let bytes = |lake: &str| std::fs::read(place.path(lake).join("t/g00001").join(&file)).unwrap();
        assert!(bytes("lake") == bytes("roomy"), "{}", file.display());
    }
    let said = place.run(
        &[
            &words[..4],
            &["other", "--table", "t", "--until-caught-up"],
            &time,
            &["--memory", "8MiB", "--spill-dir", "no"],
        ]
        .concat(),
    );
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("cannot use the folder no"), "{}", said.err);
}

#[test]
fn fm28_the_record_says_when_it_happened_and_the_arrival_is_kept() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", ["{\"n\":1,\"at\":\"2013-05-06T07:08:09Z\"}".to_owned()].into_iter(), &[]);
    consume(&place, &["--time-field", "at"]);
    assert!(data_files(&place, "t")[0].starts_with("year=2013/month=05/day=06"));
    let row = &place
        .rows("SELECT year, month, day, date_part('year', _arrived_at) >= 2026 AS arrived_now, at FROM t", "lake")[0];
    assert_eq!(*row, json!({"year": 2013, "month": 5, "day": 6, "arrived_now": true, "at": "2013-05-06T07:08:09Z"}));
}

#[test]
fn fm49_a_consumer_on_another_machine_goes_on_from_the_lake_alone() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "one.ndjson", (0..10).map(|n| format!("{{\"n\":{n}}}")), &[]);
    consume(&place, &[]);
    let elsewhere = Workplace::new(PROGRAM);
    for folder in ["stream", "lake"] {
        std::fs::rename(place.path(folder), elsewhere.path(folder)).unwrap();
    }
    produce(&elsewhere, "two.ndjson", (10..20).map(|n| format!("{{\"n\":{n}}}")), &[]);
    consume(&elsewhere, &[]);
    let row = &elsewhere.rows("SELECT count(*) AS n, sum(n) AS s FROM t", "lake")[0];
    assert_eq!(*row, json!({"n": 20, "s": 190}));
}

#[test]
fn fm52_many_small_batches_share_a_commit() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", (0..2_000).map(|n| format!("{{\"n\":{n}}}")), &["--batch-bytes", "4KiB"]);
    consume(&place, &[]);
    let log = std::fs::read_dir(place.path("lake/t/g00001/_delta_log")).unwrap();
    let commits = log.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "json"));
    assert_eq!(commits.count(), 2, "one for the schema, one for all events");
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), 2_000);
}

#[test]
fn s7_a_year_is_smaller_than_its_csv_and_its_files_are_not_tiny() {
    let Some(packed) = real_input("flights/flights.csv.gz") else { return };
    let mut csv = Vec::new();
    let mut unpacked = flate2::read::MultiGzDecoder::new(std::fs::File::open(&packed).unwrap());
    std::io::Read::read_to_end(&mut unpacked, &mut csv).unwrap();
    let place = Workplace::new(PROGRAM);
    place.ok(&["produce", packed.to_str().unwrap(), "--to", "log:stream", "--null", "NA"]);
    consume(&place, &["--time-field", "time_hour", "--partition-by", "year,month"]);
    let files = data_files(&place, "t");
    let root = place.path("lake/t/g00001");
    let bytes: u64 = files.iter().map(|file| std::fs::metadata(root.join(file)).unwrap().len()).sum();
    println!("{} files, {bytes} bytes, the CSV has {}", files.len(), csv.len());
    // Thirteen months; an epoch that ends in the midst of one gives it a second file.
    assert!(files.len() <= 26, "{} files", files.len());
    assert!(bytes < csv.len() as u64, "{bytes} bytes for {} of CSV", csv.len());
}

#[test]
fn s12_partitions_follow_the_data_and_a_missed_day_is_filled_in() {
    let place = Workplace::new(PROGRAM);
    let days = |days: &'static [&'static str]| days.iter().map(|day| format!("{{\"day_is\":\"{day}\"}}"));
    produce(&place, "one.ndjson", days(&["2024-02-29", "2026-11-20"]), &[]);
    consume(&place, &["--time-field", "day_is"]);
    // A day that was missed comes later, and so does more of one that was there.
    produce(&place, "two.ndjson", days(&["2025-07-01", "2024-02-29"]), &[]);
    consume(&place, &["--time-field", "day_is"]);
    let rows = place.rows("SELECT year, month, day, count(*) AS n FROM t GROUP BY 1, 2, 3 ORDER BY 1, 2, 3", "lake");
    assert_eq!(
        rows,
        [
            json!({"year": 2024, "month": 2, "day": 29, "n": 2}),
            json!({"year": 2025, "month": 7, "day": 1, "n": 1}),
            json!({"year": 2026, "month": 11, "day": 20, "n": 1}),
        ]
    );
}

#[test]
fn a_bit_that_flips_in_the_log_is_named_and_nothing_wrong_is_committed() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", (0..200).map(|n| format!("{{\"n\":{n},\"mark\":\"mark of {n}.\"}}")), &[]);
    let data = place.path("stream/data.mdb");
    let mut bytes = std::fs::read(&data).unwrap();
    let at = bytes.windows(12).position(|window| window == b"mark of 150.").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let said = place.run(&CONSUME);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("sequence 151") && said.err.contains("checksum"), "{}", said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

#[test]
fn a_folder_that_cannot_be_written_is_said_at_once() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", ["{\"n\":1}".to_owned()].into_iter(), &[]);
    let check = |words: &[&str]| {
        let said = place.run(words);
        assert_eq!(said.code, Some(1), "{words:?}: {}", said.err);
        assert!(said.err.contains("in.ndjson") && !said.err.contains("panicked"), "{}", said.err);
    };
    check(&["consume", "--from", "log:stream", "--lake", "in.ndjson/lake", "--until-caught-up"]);
    check(&["produce", "in.ndjson", "--to", "log:in.ndjson/stream"]);
}

#[test]
fn a_full_disk_is_said_and_what_was_there_stays_right() {
    let place = Workplace::new(PROGRAM);
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = |words: &[&str]| std::process::Command::new(words[0]).args(&words[1..]).arg(&disk).output();
    let mounted = mount(&["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs"]);
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: no file system can be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| fill_disk(&place));
    mount(&["umount", "-l"]).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn fill_disk(place: &Workplace) {
    let line = |n: u64| format!("{{\"n\":{n},\"text\":\"{:064x}\"}}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let text: String = (0..20_000).flat_map(|n| [line(n), "\n".to_owned()]).collect();
    place.write("in.ndjson", text);
    // The log: what was acknowledged before the disk was full is there, and the rest can follow elsewhere.
    let said = place.run(&["produce", "in.ndjson", "--to", "log:disk/stream", "--batch-bytes", "64KiB"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("no space left on the disk"), "{}", said.err);
    let status = place.ok(&["status", "--from", "log:disk/stream", "--output", "json", "--lake", "disk"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let records = status["stream"]["shards"][0]["records"].as_u64().unwrap();
    assert!(records > 0 && records < 20_000, "{records}");
    std::fs::remove_dir_all(place.path("disk/stream")).unwrap();
    // The lake: an epoch that does not fit is not committed, and follows when there is room.
    place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
    let filler = place.path("disk/filler");
    std::fs::write(&filler, vec![0; 2_700_000]).unwrap();
    let words = ["consume", "--from", "log:stream", "--lake", "disk/lake", "--table", "t", "--until-caught-up"];
    let words = [&words[..], &["--flush-rows", "1000"]].concat();
    let said = place.run(&words);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("No space"), "{}", said.err);
    let before = place.value("SELECT count(*) FROM t", "disk/lake").as_u64().unwrap();
    assert!(before < 20_000 && before.is_multiple_of(1_000), "{before}");
    std::fs::remove_file(filler).unwrap();
    place.ok(&words);
    assert_eq!(place.value("SELECT count(DISTINCT n) FROM t", "disk/lake"), Value::from(20_000));
    assert_eq!(place.value("SELECT count(*) FROM t", "disk/lake"), Value::from(20_000));
    place.ok(&["verify", "--full", "--lake", "disk/lake"]);
}
