//! A table is built again from the stream, beside the live one, and compared with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::process::{Running, Workplace, real_input};
use headwater_stream::embedded::{Log, Options, Retention};
use serde_json::{Value, json};

use crate::PROGRAM;

const PLACE: [&str; 6] = ["--from", "log:stream", "--lake", "lake", "--table", "t"];
const LAKE: [&str; 4] = ["--lake", "lake", "--table", "t"];

fn produce(place: &Workplace, name: &str, lines: impl Iterator<Item = String>, more: &[&str]) {
    let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
    place.write(name, text);
    place.ok(&[&["produce", name, "--to", "log:stream"][..], more].concat());
}

fn consume(place: &Workplace, more: &[&str]) {
    place.ok(&[&["consume"][..], &PLACE, &["--until-caught-up"], more].concat());
}

fn run_words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", "run"][..], &PLACE, more].concat()
}

fn compare_words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", "compare"][..], &LAKE, more].concat()
}

/// Compares g1 with the newest generation; says the exit code and the document.
fn compare(place: &Workplace) -> (i32, Value) {
    let said = place.run(&compare_words(&["--output", "json"]));
    let report = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}{}", said.out, said.err));
    (said.code.unwrap(), report)
}

fn status(place: &Workplace) -> Vec<Value> {
    let out = place.ok(&[&["replay", "status"][..], &PLACE, &["--output", "json"]].concat());
    let status: Value = serde_json::from_str(&out).unwrap();
    status["generations"].as_array().unwrap().clone()
}

/// Returns all files below a folder of the lake, with their bytes.
fn files(place: &Workplace, folder: &str, ending: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                walk(&path, found);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    let root = place.path(folder);
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.iter().map(|path| (path.strip_prefix(&root).unwrap().to_owned(), std::fs::read(path).unwrap())).collect()
}

/// Five days, a new field from the middle on, and values that do not fit their column after the first epoch.
fn line(n: u64) -> String {
    let amount = if n > 400 && n.is_multiple_of(50) { "\"broken\"".to_owned() } else { format!("{}.5", n % 97) };
    let later = if n > 500 { format!(",\"later\":{{\"k\":{n}}}") } else { String::new() };
    format!("{{\"n\":{n},\"at\":\"2026-11-0{}T0{}:00:00Z\",\"amount\":{amount}{later}}}", 1 + n % 5, n % 7)
}

/// A table of several epochs, from a stream with two shards.
fn live_table() -> Workplace {
    let place = Workplace::new(PROGRAM);
    produce(&place, "in.ndjson", (0..1_000).map(line), &["--shards", "2"]);
    consume(&place, &["--time-field", "at", "--flush-rows", "150", "--lanes", "2"]);
    place
}

#[test]
fn the_same_pipeline_gives_the_same_rows_and_touches_nothing_that_is_live() {
    let place = live_table();
    let before = files(&place, "lake/t/g00001", "");
    let said = place.run(&run_words(&[]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("1000 events in"), "{}", said.err);
    assert!(said.err.contains("headwater replay compare --lake lake --table t --with g00002"), "{}", said.err);
    assert!(files(&place, "lake/t/g00001", "") == before, "the live generation is as it was");
    assert_eq!(files(&place, "lake/t/_pointer", "").len(), 1);
    assert_eq!(std::fs::read_link(place.path("lake/t/current")).unwrap().to_str(), Some("g00001"));

    let (code, report) = compare(&place);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["same_pipeline"], true);
    let events = &report["outputs"][0];
    let letters = (401..1_000).filter(|n| n % 50 == 0).count() as u64;
    assert_eq!(events["rows"], json!([1_000 - letters, 1_000 - letters]));
    assert_eq!(events["schema"], json!([]));
    let windows = events["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 5);
    assert!(windows.iter().all(|window| window["equal"] == true && window["digests"][0] == window["digests"][1]));
    let column = events["columns"].as_array().unwrap().iter().find(|column| column["name"] == "later").unwrap();
    assert_eq!(column["checksums"][0], column["checksums"][1]);
    assert!(column["nulls"][0].as_u64().unwrap() > 400, "{column}");
    assert_eq!(report["outputs"][1]["rows"], json!([letters, letters]));
    let said = place.run(&compare_words(&[]));
    assert!(said.out.contains("they hold the same rows in every window"), "{}", said.out);
    let proof = place.ok(&["verify", "--full", "--lake", "lake", "--table", "t", "--generation", "g00002"]);
    assert!(proof.contains("all is accounted for"), "{proof}");

    let generations = status(&place);
    assert_eq!(generations.len(), 2);
    assert_eq!((&generations[0]["live"], &generations[1]["live"]), (&json!(true), &json!(false)));
    assert_eq!(generations[1]["rebuild"]["of"], 1);
    assert_eq!(generations[1]["events"], 1_000);
    assert_eq!(generations[1]["behind_live"], 0);
}

#[test]
fn the_same_cuts_give_the_same_bytes() {
    let place = live_table();
    place.ok(&run_words(&["--same-cuts"]));
    for table in ["t", "t__dead_letters"] {
        let [live, rebuilt] = ["g00001", "g00002"].map(|g| files(&place, &format!("lake/{table}/{g}"), ".parquet"));
        assert!(!live.is_empty());
        assert!(live == rebuilt, "{table}: {:?} and {:?}", live.keys(), rebuilt.keys());
    }
    assert_eq!(compare(&place).0, 0);
    // More epochs, with a further column, follow in the same way.
    produce(&place, "more.ndjson", (1_000..1_300).map(|n| format!("{{\"n\":{n},\"new\":true}}")), &[]);
    consume(&place, &["--time-field", "at", "--flush-rows", "150", "--lanes", "2"]);
    place.ok(&run_words(&["--same-cuts"]));
    let [live, rebuilt] = ["g00001", "g00002"].map(|g| files(&place, &format!("lake/t/{g}"), ".parquet"));
    assert!(live == rebuilt, "{:?} and {:?}", live.keys(), rebuilt.keys());
    assert_eq!(status(&place).len(), 2, "it went on with g00002");
    let said = place.run(&run_words(&["--same-cuts", "--partition-by", "year"]));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("another pipeline"), "{}", said.err);
}

#[test]
fn cuts_are_followed_from_the_first_one_or_not_at_all() {
    let place = live_table();
    place.ok(&run_words(&["--same-cuts"]));
    place.ok(&[&["replay", "cutover"][..], &PLACE].concat());
    produce(&place, "more.ndjson", (1_000..1_200).map(line), &[]);
    consume(&place, &["--time-field", "at", "--flush-rows", "30", "--lanes", "2"]);
    place.ok(&[&["replay", "rollback"][..], &PLACE].concat());
    // The live one took in one epoch what g00002 took in several.
    let said = place.run(&run_words(&["--same-cuts"]));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("g00002 has another cut") && said.err.contains("--anew"), "{}", said.err);
    place.ok(&run_words(&["--same-cuts", "--anew"]));
    // A seal has taken a number, so the names differ; the bytes do not.
    let [live, rebuilt] = ["g00001", "g00003"].map(|generation| {
        let mut contents: Vec<_> = files(&place, &format!("lake/t/{generation}"), ".parquet").into_values().collect();
        contents.sort();
        contents
    });
    assert!(!live.is_empty() && live == rebuilt, "{} and {} files", live.len(), rebuilt.len());
}

#[test]
fn flights_and_orders_are_built_again_row_for_row_and_byte_for_byte() {
    let flights = real_input("flights/flights.csv.gz");
    let orders = real_input("orders/ecommerce.ndjson.gz");
    let inputs = [
        (flights, &["--null", "NA", "--time-field", "time_hour"][..], "time_hour", "100000"),
        (orders, &["--key", "order_id"][..], "order_date", "1000"),
    ];
    for (input, options, time_field, epoch) in inputs {
        let Some(input) = input else { continue };
        let place = Workplace::new(PROGRAM);
        place.ok(&[&["produce", input.to_str().unwrap(), "--to", "log:stream"][..], options].concat());
        consume(&place, &["--time-field", time_field, "--flush-rows", epoch]);
        place.ok(&run_words(&["--same-cuts"]));
        let (code, report) = compare(&place);
        assert_eq!(code, 0, "{time_field}: {report}");
        let [live, rebuilt] = ["g00001", "g00002"].map(|g| files(&place, &format!("lake/t/{g}"), ".parquet"));
        assert!(live == rebuilt, "{time_field}");

        let place = Workplace::new(PROGRAM);
        place.ok(&[&["produce", input.to_str().unwrap(), "--to", "log:stream"][..], options].concat());
        consume(&place, &["--time-field", time_field]);
        place.ok(&run_words(&["--flush-rows", epoch]));
        let (code, report) = compare(&place);
        assert_eq!(code, 0, "{time_field}: {report}");
        assert!(report["outputs"][0]["rows"][0].as_u64().unwrap() > 4_000);
    }
}

#[test]
fn a_column_that_turned_out_to_have_fractions_is_widened_by_a_rebuild() {
    let place = Workplace::new(PROGRAM);
    let value = |n: u64| if n == 250 { "0.5".to_owned() } else { n.to_string() };
    produce(&place, "in.ndjson", (0..300).map(|n| format!("{{\"n\":{n},\"v\":{}}}", value(n))), &[]);
    consume(&place, &["--flush-rows", "100"]);
    assert_eq!(place.value("SELECT count(*) FROM t__dead_letters", "lake"), 1);
    place.ok(&run_words(&["--infer", "--flush-rows", "100"]));
    let (code, report) = compare(&place);
    assert_eq!(code, 1, "one pipeline, and they differ");
    assert_eq!(report["outputs"][0]["schema"], json!([{"column": "v", "types": ["BIGINT", "DOUBLE"]}]));
    assert_eq!(report["outputs"][0]["rows"], json!([299, 300]));
    assert_eq!(report["outputs"][1]["rows"], json!([1, 0]));
    let said = place.run(&compare_words(&[]));
    assert!(said.out.contains("column v: BIGINT and DOUBLE"), "{}", said.out);
    assert!(said.out.contains(": 299 and 300 rows"), "{}", said.out);
}

#[test]
fn another_partitioning_is_compared_by_the_larger_windows() {
    let place = live_table();
    place.ok(&run_words(&["--partition-by", "year,month,day,hour"]));
    let rebuilt = files(&place, "lake/t/g00002", ".parquet");
    assert!(rebuilt.keys().all(|path| path.starts_with("year=2026/month=11") && path.components().count() == 5));
    let (code, report) = compare(&place);
    assert_eq!(code, 0, "information only");
    assert_eq!(report["same_pipeline"], false);
    assert!(report["pipeline_changes"].as_str().unwrap().contains("year,month,day,hour"), "{report}");
    assert_eq!(report["outputs"][0]["windows_by"], "year,month,day");
    assert!(report["outputs"][0]["windows"].as_array().unwrap().iter().all(|window| window["equal"] == true));
}

#[test]
fn fm35_fm37_a_rebuild_that_was_killed_goes_on_by_its_own_cuts_and_leaves_no_orphan() {
    let place = live_table();
    let words = ["--flush-rows", "150", "--log=headwater_lake=debug,headwater_consumer=info"];
    for (step, times) in [
        ("action=ChangeSchema", 0),
        ("action=PublishCut", 1),
        ("action=Put", 3),
        ("action=Commit(Events)", 0),
        ("action=Commit(DeadLetters)", 1),
    ] {
        let mut rebuild = Running::start(place.command(&run_words(&words)));
        let mut left = times;
        while let Some(line) = rebuild.line() {
            if line.contains(step) {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
        }
        rebuild.kill();
    }
    place.ok(&run_words(&words));
    let (code, report) = compare(&place);
    assert_eq!(code, 0, "{report}");
    let generations = status(&place);
    assert_eq!(generations.len(), 2, "every run went on with g00002");
    let on_disk = files(&place, "lake/t/g00002", ".parquet").len() as u64;
    assert_eq!(generations[1]["files"], on_disk, "every file is in the table");
    place.ok(&["verify", "--full", "--lake", "lake", "--table", "t", "--generation", "g00002"]);
}

#[test]
fn fm31_two_rebuilds_at_once_write_every_row_once() {
    let place = live_table();
    // The first one leaves a generation that both go on with.
    place.ok(&run_words(&["--until", "0=100:0,1=100:0"]));
    let words = ["--flush-rows", "50"];
    let start = || Running::start(place.command(&run_words(&words)));
    let (one, other) = (start(), start());
    assert!(one.wait().success() && other.wait().success());
    let (code, report) = compare(&place);
    assert_eq!(code, 0, "{report}");
    assert_eq!(status(&place).len(), 2);
    place.ok(&["verify", "--full", "--lake", "lake", "--table", "t", "--generation", "g00002"]);
}

#[test]
fn what_the_live_table_took_meanwhile_is_left_out_of_the_comparison() {
    let place = live_table();
    place.ok(&run_words(&[]));
    produce(&place, "more.ndjson", (1_000..1_400).map(line), &[]);
    consume(&place, &["--time-field", "at", "--lanes", "2"]);
    let (code, report) = compare(&place);
    assert_eq!(code, 0, "{report}");
    let letters = (401..1_000).filter(|n| n % 50 == 0).count() as u64;
    assert_eq!(report["outputs"][0]["rows"], json!([1_000 - letters, 1_000 - letters]));
    assert_eq!(status(&place)[1]["behind_live"], 400);
    // The same command brings it up to date.
    place.ok(&run_words(&[]));
    assert_eq!(status(&place)[1]["behind_live"], 0);
    assert_eq!(compare(&place).0, 0);
}

#[test]
fn fm10_where_a_rebuild_begins_is_resolved_once() {
    let place = live_table();
    place.ok(&run_words(&["--since", "now"]));
    produce(&place, "more.ndjson", (1_000..1_040).map(line), &[]);
    place.ok(&run_words(&["--since", "now"]));
    let generations = status(&place);
    assert_eq!(generations.len(), 2, "it went on from where `now` was then");
    assert_eq!(generations[1]["events"], 40);
    // Asked for in other words it is another rebuild.
    place.ok(&run_words(&["--since", "generation"]));
    place.ok(&run_words(&["--since", "generation", "--anew"]));
    assert_eq!(status(&place).len(), 4);
}

/// Deletes the oldest events of the stream.
fn forget_some(place: &Workplace) {
    let log = Log::open(&place.path("stream"), Options::default()).unwrap();
    let bytes: u64 = log.summary().unwrap().iter().map(|shard| shard.bytes).sum();
    let retention = Retention { age_max: None, bytes_max: Some(bytes / 2) };
    assert!(log.apply_retention(&retention, "2026-11-21T00:00:00Z".parse().unwrap()).unwrap() > 0);
}

#[test]
fn fm11_a_range_that_retention_has_eaten_is_a_loud_error() {
    let place = live_table();
    forget_some(&place);
    let plan = [&["replay", "plan"][..], &PLACE].concat();
    let said = place.run(&[&plan[..], &["--output", "json"]].concat());
    assert_eq!(said.code, Some(1), "{}", said.err);
    let document: Value = serde_json::from_str(&said.out).unwrap();
    let lost = document["lost_events"].as_u64().unwrap();
    assert!(lost > 100 && lost < 1_000 && document["events"] == 1_000, "{document}");
    assert!(document["stretches"].as_array().unwrap().iter().any(|stretch| stretch["held_by"].is_null()));
    let said = place.run(&plan);
    assert!(said.out.contains("LOST") && said.err.contains("--since oldest"), "{}{}", said.out, said.err);
    let said = place.run(&run_words(&[]));
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("shard 0 after 0:0 up to") && said.err.contains("--since oldest"), "{}", said.err);
    // A time that is before the oldest event may be one that retention has passed.
    let said = place.run(&run_words(&["--since", "2000-01-01T00:00:00Z"]));
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert_eq!(status(&place).len(), 1, "nothing was made");
    place.ok(&run_words(&["--since", "oldest"]));
    let (code, report) = compare(&place);
    assert!(report["outputs"][0]["windows"].as_array().unwrap().iter().all(|window| window["equal"] == true));
    assert_eq!(code, 1, "what is left is the same, and it is not all: {report}");
    let said = place.run(&compare_words(&[]));
    assert!(said.out.contains("NOT IN g00002: shard 0"), "{}", said.out);
    assert_eq!(status(&place)[1]["events"], 1_000 - lost);
    // Readers do not lose a part of what they have without being asked.
    let cutover = [&["replay", "cutover"][..], &PLACE].concat();
    let said = place.run(&cutover);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("--shorter-history") && said.err.contains("shard 0"), "{}", said.err);
    place.ok(&[&cutover[..], &["--shorter-history"]].concat());
    assert_eq!(place.value("SELECT count(*) FROM t", "lake").as_u64().unwrap() + letters(&place), 1_000 - lost);
}

fn letters(place: &Workplace) -> u64 {
    place.value("SELECT count(*) FROM t__dead_letters", "lake").as_u64().unwrap()
}

#[test]
fn ends_where_no_event_is_neither_lose_one_nor_wait_for_ever() {
    let place = live_table();
    let beyond = place.run(&run_words(&["--since", "0=100000:0,1=0:0"]));
    assert_eq!(beyond.code, Some(1), "{}", beyond.err);
    assert!(beyond.err.contains("beyond"), "{}", beyond.err);
    let nobody = place.run(&run_words(&["--since", "7=0:0"]));
    assert_eq!(nobody.code, Some(1), "{}", nobody.err);
    assert!(nobody.err.contains('7') && status(&place).len() == 1, "{}", nobody.err);
    // Between two records.
    place.ok(&run_words(&["--until", "0=50:7,1=50:0"]));
    assert_eq!(status(&place)[1]["events"], 100);
}

#[test]
fn a_cutover_refuses_what_was_not_begun_and_a_stream_that_is_behind() {
    let place = live_table();
    place.ok(&run_words(&[]));
    // A copy of the log that is older than the table.
    std::fs::create_dir(place.path("old")).unwrap();
    std::fs::copy(place.path("stream/data.mdb"), place.path("old/data.mdb")).unwrap();
    produce(&place, "more.ndjson", (1_000..1_100).map(line), &[]);
    consume(&place, &["--time-field", "at", "--lanes", "2"]);
    let cutover = ["replay", "cutover", "--lake", "lake", "--table", "t", "--from"];
    let said = place.run(&[&cutover[..], &["log:old"]].concat());
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("beyond"), "{}", said.err);
    // A rebuild that was killed before it had a schema.
    let folder = place.path("lake/t/g00003");
    std::fs::create_dir(&folder).unwrap();
    for name in ["_generation.json", "_rebuild.json"] {
        let text = std::fs::read_to_string(place.path("lake/t/g00002").join(name)).unwrap();
        std::fs::write(folder.join(name), text.replace("\"number\": 2", "\"number\": 3")).unwrap();
    }
    let said = place.run(&[&cutover[..], &["log:stream"]].concat());
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("g00003 of table t was not begun"), "{}", said.err);
    place.ok(&[&cutover[..], &["log:stream", "--to", "g00002"]].concat());
}

#[test]
fn a_plan_says_what_would_be_and_changes_nothing() {
    let place = live_table();
    let before = files(&place, "lake", "");
    let plan = [&["replay", "plan"][..], &PLACE].concat();
    let document: Value = serde_json::from_str(&place.ok(&[&plan[..], &["--output", "json"]].concat())).unwrap();
    assert_eq!((&document["events"], &document["lost_events"]), (&json!(1_000), &json!(0)));
    assert_eq!(document["resumes"], Value::Null);
    let estimate = &document["estimate"];
    assert!(estimate["bytes"].as_u64().unwrap() > 30_000, "{estimate}");
    assert!(estimate["lane_events_per_second"].as_u64().unwrap() > 0 && estimate["seconds"].is_u64(), "{estimate}");
    let text = place.ok(&[&plan[..], &["--until", "0=100:0", "--partition-by", "year"]].concat());
    assert!(text.contains("100 events  after 0:0 up to 100:0") && text.contains("another pipeline"), "{text}");
    assert!(files(&place, "lake", "") == before, "nothing was changed");
    let said = place.run(&[&plan[..], &["--until", "0=99999:0"]].concat());
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("beyond"), "{}", said.err);
    let said = place.run(&[&plan[..], &["--since", "yesterday"]].concat());
    assert_eq!(said.code, Some(2), "{}", said.out);
    // Half of it is built: the rest is what is left to do.
    place.ok(&run_words(&["--until", "0=100:0,1=100:0"]));
    let document: Value = serde_json::from_str(&place.ok(&[&plan[..], &["--output", "json"]].concat())).unwrap();
    assert_eq!((&document["events"], &document["resumes"]), (&json!(800), &json!(2)));
}

#[test]
fn fm51_an_epoch_of_a_long_history_is_bounded() {
    let place = Workplace::new(PROGRAM);
    let filler = "x".repeat(300);
    let line = |n: u64| format!("{{\"n\":{n},\"at\":{},\"text\":\"{filler}\"}}", (n * 7 % 50) * 86_400);
    produce(&place, "in.ndjson", (0..60_000).map(line), &[]);
    consume(&place, &["--time-field", "at", "--time-format", "epoch-s"]);
    place.ok(&run_words(&["--memory", "16MiB", "--spill-bytes", "4MiB", "--spill-dir", "."]));
    let cuts = files(&place, "lake/t/g00002/_cuts/0of1", ".json");
    assert!(cuts.len() >= 3, "{} epochs", cuts.len());
    for bytes in cuts.values() {
        let cut: Value = serde_json::from_slice(bytes).unwrap();
        assert!(cut["bytes"].as_u64().unwrap() < 12 << 20, "{}", cut["bytes"]);
    }
    assert_eq!(compare(&place).0, 0);
    // With room on the disk the same history is one epoch, and a file a window.
    place.ok(&run_words(&["--anew", "--memory", "16MiB", "--spill-dir", "."]));
    assert_eq!(files(&place, "lake/t/g00003", ".parquet").len(), 50);
}

#[test]
fn what_cannot_be_compared_or_rebuilt_is_said() {
    let place = live_table();
    let check = |words: &[&str], code: i32, hint: &str| {
        let said = place.run(words);
        assert_eq!(said.code, Some(code), "{words:?}: {}", said.err);
        assert!(said.err.contains(hint) && !said.err.contains("panicked"), "{words:?}: {}", said.err);
    };
    check(&compare_words(&[]), 1, "headwater replay run --table t");
    check(&compare_words(&["--with", "g00009"]), 1, "table t has no generation g00009; it has: g00001");
    check(&compare_words(&["--with", "9"]), 2, "a generation such as g00003");
    check(&run_words(&["--infer", "--same-cuts"]), 2, "--same-cuts");
    check(&run_words(&["--same-cuts", "--lanes", "3"]), 1, "lanes");
    place.ok(&["produce", "in.ndjson", "--to", "log:other"]);
    check(&["replay", "run", "--from", "log:other", "--lake", "lake", "--table", "t"], 1, "another log");
    check(&["replay", "status", "--lake", "lake", "--table", "nope"], 1, "it has: t");
}
