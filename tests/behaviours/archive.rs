//! The archive as a user meets it: kept beside a table or alone, killed, read again in place of the log.

use std::path::PathBuf;
use std::time::Duration;

use harness::process::{Running, Workplace};
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::event::Event;
use headwater_common::position::Position;
use headwater_consumer::archive::ArchiveSource;
use headwater_lake::archive::{self, retention};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::store::LakeStore;
use headwater_lake::verify::{self, Options as VerifyOptions};
use headwater_stream::Source;
use headwater_stream::embedded::{Log, Options, Retention};
use serde_json::json;

use crate::{PROGRAM, readers};

const CONSUME: [&str; 8] = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];
const ARCHIVE: [&str; 7] = ["consume", "--from", "log:stream", "--lake", "lake", "--archive-only", "--until-caught-up"];

fn produce(place: &Workplace, name: &str, numbers: std::ops::Range<u64>) {
    let line = |n: u64| format!("{{\"n\":{n},\"at\":\"2026-11-0{}\",\"text\":\"text of {n}\"}}\n", 1 + n % 5);
    place.write(name, numbers.map(line).collect::<String>());
    place.ok(&["produce", name, "--to", "log:stream", "--shards", "3"]);
}

/// Returns the name of the lake's only archive.
fn name_of_archive(place: &Workplace) -> String {
    let mut names = std::fs::read_dir(place.path("lake/__archive")).unwrap();
    let name = names.next().unwrap().unwrap().file_name().into_string().unwrap();
    assert!(names.next().is_none(), "one stream, one archive");
    name
}

fn folder_of_archive(place: &Workplace) -> PathBuf {
    place.path("lake/__archive").join(name_of_archive(place))
}

fn log(place: &Workplace) -> Log {
    Log::open(&place.path("stream"), Options::default()).unwrap()
}

async fn open_archive(place: &Workplace) -> OpenGeneration {
    let store = LakeStore::existing_on_disk(&place.path("lake")).unwrap();
    archive::open(&store, &name_of_archive(place).parse().unwrap()).await.unwrap()
}

/// Reads all that a source has, shard after shard.
async fn read_all(source: &dyn Source) -> Vec<Event> {
    let mut all = Vec::new();
    for shard in source.shards().await.unwrap() {
        let mut after = Position::START;
        loop {
            let events = source.read(&shard.id, after, 10_000).await.unwrap().events;
            let Some(last) = events.last() else { break };
            after = last.position;
            all.extend(events);
        }
    }
    all
}

/// What the archive holds is what the log holds: bytes, keys, times and positions, each record once.
async fn check_archive(place: &Workplace, records: u64) {
    let open = open_archive(place).await;
    let report = verify::verify(&open, VerifyOptions { full: true, from_beginning: true }).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.account.read, report.account.kept, report.rows), (records, records, records));
    let archive = ArchiveSource::new(open).unwrap();
    let log = log(place);
    assert_eq!(archive.identity(), log.identity());
    let found = read_all(&archive).await;
    assert_eq!(found.len() as u64, records);
    assert!(found == read_all(&log).await, "the archive holds other records than the log");
}

#[tokio::test]
async fn v2_every_record_is_archived_once_under_kill_9() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", 0..4_000);
    let words = [&ARCHIVE[..], &["--flush-rows", "150", "--log=headwater_lake=debug"]].concat();
    let steps = ["action=ChangeSchema", "action=PublishCut", "action=Put(", "action=Commit(", "action=Release"];
    // The schema changes once only.
    let of_round = |round: usize| &steps[usize::from(round > 0)..];
    let mut kills = 0;
    for round in 0..3 {
        for step in of_round(round) {
            let mut archiver = Running::start(place.command(&words));
            // The first epochs are let through, so that each round is killed somewhere else.
            let mut left = round;
            while let Some(line) = archiver.line() {
                if line.contains(*step) {
                    if left == 0 {
                        archiver.kill();
                        kills += 1;
                        break;
                    }
                    left -= 1;
                }
            }
        }
    }
    assert!(kills >= 10, "{kills} kills");
    place.ok(&words);
    check_archive(&place, 4_000).await;
}

#[tokio::test]
async fn a_table_and_an_archive_are_written_by_one_command() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "one.ndjson", 0..1_000);
    let words = [&CONSUME[..], &["--archive", "--lanes", "2", "--flush-rows", "300"]].concat();
    let said = place.run(&words);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let url = format!("archive:lake/{}", name_of_archive(&place));
    assert!(said.err.contains("archived 1000 records") && said.err.contains(&url), "{}", said.err);
    check_archive(&place, 1_000).await;
    produce(&place, "two.ndjson", 1_000..1_500);
    place.ok(&words);
    check_archive(&place, 1_500).await;
    assert_eq!(place.value("SELECT count(DISTINCT n) FROM t", "lake"), 1_500);
    place.ok(&["verify", "--full", "--lake", "lake"]);
    // Readers that nobody here wrote: the table of the archive is a table like any other.
    for reader in ["delta", "listing", "arrow"] {
        let question = "count(*), count(DISTINCT (shard, sequence)), sum(octet_length(payload))::BIGINT";
        let found = readers::ask(reader, &folder_of_archive(&place), question);
        let bytes: usize = read_all(&log(&place)).await.iter().map(|event| event.payload.len()).sum();
        assert_eq!(found, [1_500, 1_500, bytes as u64], "{reader}");
    }
}

#[tokio::test]
async fn fm11_what_the_log_has_forgotten_comes_from_the_archive() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", 0..2_000);
    place.ok(&[&CONSUME[..], &["--time-field", "at", "--archive"]].concat());
    let everything = Retention { age_max: Some(Duration::ZERO), bytes_max: None };
    let later = SystemClock.now().plus(Duration::from_secs(3_600));
    assert_eq!(log(&place).apply_retention(&everything, later).unwrap(), 2_000);

    let from = format!("archive:lake/{}", name_of_archive(&place));
    let words = ["consume", "--from", &from, "--lake", "again", "--table", "t", "--time-field", "at"];
    place.ok(&[&words[..], &["--until-caught-up", "--flush-rows", "700"]].concat());
    let sql = "SELECT * FROM t ORDER BY _shard, _sequence";
    let rows = place.rows(sql, "again");
    assert_eq!(rows.len(), 2_000);
    assert_eq!(rows, place.rows(sql, "lake"), "rows, ids, positions and arrival times");
    place.ok(&["verify", "--full", "--lake", "again"]);

    // It is the same stream: the table goes on with the log where the archive ended.
    produce(&place, "more.ndjson", 2_000..2_100);
    place.ok(&[
        "consume",
        "--from",
        "log:stream",
        "--lake",
        "again",
        "--table",
        "t",
        "--time-field",
        "at",
        "--until-caught-up",
    ]);
    let row = &place.rows("SELECT count(*) AS n, count(DISTINCT n) AS d FROM t", "again")[0];
    assert_eq!(*row, json!({"n": 2_100, "d": 2_100}));
}

#[tokio::test]
async fn v3_retention_takes_whole_epochs_from_the_front_and_their_files() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "old.ndjson", 0..500);
    let words = [&ARCHIVE[..], &["--flush-rows", "100"]].concat();
    place.ok(&words);
    let between = SystemClock.now();
    produce(&place, "new.ndjson", 500..800);
    place.ok(&words);
    let open = open_archive(&place).await;
    let now = between.plus(Duration::from_secs(3_600));
    let report = retention::apply(&open, Duration::from_secs(3_600), now).await.unwrap();
    assert_eq!((report.epochs, report.records, report.objects), (5, 500, report.files));
    assert_eq!(retention::apply(&open, Duration::from_secs(3_600), now).await.unwrap(), retention::Report::default());

    let archive = ArchiveSource::new(open.clone()).unwrap();
    let mut left = 0;
    for shard in archive.shards().await.unwrap() {
        let error = archive.read(&shard.id, Position::START, 1_000).await.unwrap_err();
        assert!(error.to_string().contains("are gone"), "{error}");
        let mut after = archive.resolve(&shard.id, headwater_stream::StartAt::TrimHorizon).await.unwrap();
        while let Some(last) = archive.read(&shard.id, after, 1).await.unwrap().events.last() {
            (after, left) = (last.position, left + 1);
        }
    }
    assert_eq!(left, 300);
    let report = verify::verify(&open, VerifyOptions { full: true, from_beginning: true }).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    // And the archiver goes on as if nothing had been.
    produce(&place, "newer.ndjson", 800..900);
    place.ok(&words);
    let found = readers::ask("delta", &folder_of_archive(&place), "count(*), count(DISTINCT (shard, sequence))");
    assert_eq!(found, [400, 400]);
}

#[test]
fn what_is_no_archive_is_refused_with_the_way_out() {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", 0..3);
    place.ok(&ARCHIVE);
    let from = format!("archive:lake/{}", name_of_archive(&place));
    let check = |words: &[&str], code: i32, hint: &str| {
        let said = place.run(words);
        assert_eq!(said.code, Some(code), "{words:?}: {}", said.err);
        assert!(said.err.contains(hint) && !said.err.contains("panicked"), "{words:?}: {}", said.err);
    };
    check(&["consume", "--from", "archive:lake/other"], 1, &name_of_archive(&place));
    check(&["consume", "--from", "archive:nothing/other"], 1, "there is no lake");
    check(&["consume", "--from", "archive:lake/a b"], 2, "not the name of an archive");
    check(&["consume", "--from", "archive:lake"], 2, "archive:LAKE/STREAM");
    check(&["consume", "--from", &from, "--archive"], 2, "not archived once more");
    check(&["produce", "in.ndjson", "--to", &from], 2, "consume --archive");
}
