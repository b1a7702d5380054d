//! The whole way of Kappa, through the command: plan, run, compare, cut over, roll back, collect garbage.

use std::time::Duration;

use harness::process::{Running, Workplace};
use headwater_stream::embedded::{Log, Options, Retention};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::{PROGRAM, readers};

const SEED: u64 = 20_261_121;
const PLACE: [&str; 6] = ["--from", "log:stream", "--lake", "lake", "--table", "t"];

fn replay<'a>(verb: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", verb][..], &PLACE, more].concat()
}

fn compare(place: &Workplace) -> Value {
    let out = place.ok(&["replay", "compare", "--lake", "lake", "--table", "t", "--output", "json"]);
    serde_json::from_str(&out).unwrap()
}

/// Returns the number of the generation that is live.
fn live(place: &Workplace) -> u64 {
    let status = place.ok(&replay("status", &["--output", "json"]));
    let status: Value = serde_json::from_str(&status).unwrap();
    status["live"].as_u64().unwrap()
}

const DAYS: &str = "year,month,day";
const HOURS: &str = "year,month,day,hour";

/// A stream that is written and a table that is written from it, by processes that are killed now and then.
struct Traffic<'a> {
    place: &'a Workplace,
    random: SmallRng,
    producer: Running,
    consumer: Running,
    kills: usize,
}

const ROWS: u64 = 24_000;

impl<'a> Traffic<'a> {
    fn begin(place: &'a Workplace) -> Self {
        let mut csv = String::from("n,at,amount\n");
        for n in 0..ROWS {
            csv.push_str(&format!("{n},2026-11-{:02}T{:02}:30:00Z,{}.5\n", 1 + n % 4, n % 24, n % 97));
        }
        place.write("in.csv", csv);
        // There is no stream to read from before there is one.
        place.ok(&["produce", "in.csv", "--to", "log:stream", "--shards", "2", "--limit", "100"]);
        let (producer, consumer) = (Self::producer(place), Self::consumer(place, DAYS));
        Self { place, random: SmallRng::seed_from_u64(SEED), producer, consumer, kills: 0 }
    }

    fn producer(place: &Workplace) -> Running {
        let words = ["produce", "in.csv", "--to", "log:stream", "--shards", "2", "--rate", "1500/s", "--resume"];
        Running::start(place.command(&words))
    }

    fn consumer(place: &Workplace, partition_by: &str) -> Running {
        let more = [
            "--time-field",
            "at",
            "--lanes",
            "2",
            "--flush-rows",
            "700",
            "--flush-idle",
            "200ms",
            "--partition-by",
            partition_by,
        ];
        Running::start(place.command(&[&["consume"][..], &PLACE, &more].concat()))
    }

    /// Kills both and starts them again, the consumer as an operator would: with the settings of what is live.
    fn kill(&mut self) {
        self.producer.kill();
        self.producer = Self::producer(self.place);
        self.consumer.kill();
        let partition_by = if live(self.place) == 2 { HOURS } else { DAYS };
        self.consumer = Self::consumer(self.place, partition_by);
        self.kills += 2;
    }

    /// Runs a command that is killed when it says that it does `step`; then runs it to its end.
    fn kill_at(&mut self, words: &[&str], step: &str) {
        let logged = [words, &["--log=headwater_lake=debug"]].concat();
        let mut tool = Running::start(self.place.command(&logged));
        let mut seen = Vec::new();
        while let Some(line) = tool.line() {
            let hit = line.contains(step);
            seen.push(line);
            if hit {
                tool.kill();
                self.kills += 1;
                break;
            }
        }
        assert!(seen.last().is_some_and(|line| line.contains(step)), "{words:?} never came to {step}: {seen:?}");
        // A consumer may have decided meanwhile that the tool is dead: then it has lost, and is run once more.
        for _ in 0..5 {
            let said = self.place.run(words);
            if said.code == Some(0) {
                return;
            }
            assert!(said.err.contains("another decision was faster"), "{}", said.err);
        }
        panic!("{words:?} loses every time");
    }
}

#[test]
fn k1_production_and_consumption_go_on_through_all_of_it_and_kill_9() {
    println!("seed {SEED}");
    let place = Workplace::new(PROGRAM);
    let mut traffic = Traffic::begin(&place);
    wait_for_rows(&place, 2_000);
    traffic.kill();
    let hours = ["--time-field", "at", "--partition-by", HOURS];
    place.ok(&replay("plan", &hours));
    traffic.kill_at(&replay("run", &hours), "action=Commit(Events)");
    let report = compare(&place);
    assert_eq!(report["same_pipeline"], false);
    let differing = report["outputs"][0]["windows"].as_array().unwrap().iter().filter(|w| w["equal"] == false).count();
    assert_eq!(differing, 0, "another partitioning has the same rows: {report}");

    let steps = ["action=Seal(", "action=Assess", "action=Create(", "action=CatchUp", "action=ReadNext"];
    for (verb, expected) in [("cutover", 2), ("rollback", 1), ("cutover", 2)] {
        let step = match verb {
            // What is to be caught up depends on the moment.
            "cutover" => steps[traffic.random.random_range(0..3)],
            _ => steps[0],
        };
        traffic.kill_at(&replay(verb, &["--to", if expected == 2 { "g00002" } else { "g00001" }]), step);
        assert_eq!(live(&place), expected);
        traffic.kill();
    }
    println!("{} kills", traffic.kills);

    let Traffic { mut producer, consumer, .. } = traffic;
    producer.kill();
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--resume"]);
    consumer.signal("TERM");
    assert!(consumer.wait().success());
    let more = ["--time-field", "at", "--partition-by", HOURS, "--until-caught-up"];
    place.ok(&[&["consume"][..], &PLACE, &more].concat());

    let log = Log::open(&place.path("stream"), Options::default()).unwrap();
    let in_log: u64 = log.summary().unwrap().iter().map(|shard| shard.records).sum();
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains(&format!("{in_log} events read")), "{report}");
    for reader in ["delta", "listing"] {
        let found = readers::ask(reader, &place.path("lake/t"), "count(*), count(DISTINCT n), min(n), max(n)");
        assert_eq!(found, [in_log, ROWS, 0, ROWS - 1], "{reader}: what the producer's list has, once each");
    }
    // The generation that was left is whole as far as it goes.
    place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake", "--table", "t", "--generation", "g00001"]);
}

/// Waits until the table has so many rows.
fn wait_for_rows(place: &Workplace, rows: u64) {
    const LOOKS: usize = 5_000;
    for _ in 0..LOOKS {
        let said = place.run(&["status", "--from", "log:stream", "--lake", "lake", "--output", "json"]);
        let status = serde_json::from_str::<Value>(&said.out).unwrap_or_default();
        if status["tables"][0]["events"]["rows"].as_u64().is_some_and(|found| found >= rows) {
            return;
        }
    }
    panic!("the table never got {rows} rows");
}

fn declare(place: &Workplace, sql: &str) {
    place.write("headwater.toml", format!("[transform]\nsql = \"{sql}\"\n"));
}

#[test]
fn a_changed_transform_is_seen_whole_or_not_at_all() {
    let place = Workplace::new(PROGRAM);
    let lines: String = (0..500).map(|n| format!("{{\"n\":{n},\"net\":{}}}\n", n * 10)).collect();
    place.write("in.ndjson", lines);
    place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
    declare(&place, "SELECT n, net * 2 AS gross FROM events");
    let consume = [&["consume"][..], &PLACE, &["--until-caught-up"]].concat();
    place.ok(&consume);
    declare(&place, "SELECT n, net * 3 AS gross, net FROM events WHERE n >= 100");
    let refused = place.run(&consume);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("headwater replay run --table t"), "{}", refused.err);

    place.ok(&replay("run", &[]));
    let report = compare(&place);
    assert_eq!((&report["same_pipeline"], &report["outputs"][0]["rows"]), (&json!(false), &json!([500, 400])));
    let sum = || place.value("SELECT sum(gross) FROM t", "lake");
    let (old, new) = ((0..500).sum::<u64>() * 20, (100..500).sum::<u64>() * 30);
    assert_eq!(sum(), old);
    assert!(!place.run(&["query", "SELECT net FROM t", "--lake", "lake"]).err.is_empty(), "no column of the new one");
    let cutover = Running::start(place.command(&replay("cutover", &["--log=headwater_lake=debug"])));
    // Queries while it works see the one or the other.
    let mut seen = Vec::new();
    while seen.last() != Some(&Value::from(new)) {
        seen.push(sum());
        assert!(seen.len() < 1_000, "the new answer never came");
    }
    assert!(cutover.wait().success());
    seen.dedup();
    assert!(seen == [old, new] || seen == [new], "{seen:?}");
    assert_eq!(place.value("SELECT sum(net) FROM t", "lake"), (100..500).sum::<u64>() * 10);
    // The consumer goes on with the new pipeline, and the rebuild's rows are where it goes on from.
    place.write("more.ndjson", "{\"n\":1000,\"net\":1}\n");
    place.ok(&["produce", "more.ndjson", "--to", "log:stream"]);
    place.ok(&consume);
    assert_eq!(sum(), new + 3);
    place.ok(&replay("rollback", &[]));
    assert_eq!(sum(), old + 2, "brought up to date by its own pipeline");
    place.ok(&["verify", "--full", "--lake", "lake"]);
    let again = place.run(&replay("rollback", &["--to", "g00001"]));
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert!(again.err.contains("is live already"), "{}", again.err);
}

#[test]
fn what_the_file_says_of_the_table_counts_for_its_rebuilds() {
    let place = Workplace::new(PROGRAM);
    place.write("in.ndjson", "{\"n\":1,\"at\":\"2026-11-01T10:00:00Z\"}\n{\"n\":2,\"at\":\"2026-11-01T11:00:00Z\"}\n");
    place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
    let table = "[consume]\nfrom = \"log:stream\"\nlake = \"l\"\ntable = \"t\"\ntime_field = \"at\"\n";
    place.write("headwater.toml", table);
    place.ok(&["consume", "--until-caught-up"]);
    place.write("headwater.toml", format!("{table}partition_by = \"year,month,day,hour\"\n"));
    assert!(place.run(&["consume", "--until-caught-up"]).err.contains("+ partition_by: \"year,month,day,hour\""));
    let plan = place.ok(&["replay", "plan"]);
    assert!(plan.contains("+ partition_by: \"year,month,day,hour\""), "{plan}");
    let shown = place.ok(&["replay", "run", "--print-config"]);
    assert!(shown.contains("partition_by = \"year,month,day,hour\"  # file headwater.toml"), "{shown}");
    place.ok(&["replay", "run"]);
    place.ok(&["replay", "cutover"]);
    place.ok(&["consume", "--until-caught-up"]);
    assert!(place.path("l/t/current/year=2026/month=11/day=01/hour=10").is_dir());
    // What the consumer has of its own counts before what stands at the top.
    place.write("headwater.toml", format!("lake = \"elsewhere\"\n{table}"));
    let shown = place.ok(&["replay", "run", "--print-config"]);
    assert!(shown.contains("lake = \"l\"  # file"), "{shown}");
    // What stands under `[replay]` comes before.
    place.write("headwater.toml", format!("{table}[replay.run]\npartition_by = \"date\"\n"));
    let shown = place.ok(&["replay", "run", "--print-config"]);
    assert!(shown.contains("partition_by = \"date\"  # file"), "{shown}");
    let said = place.run(&["replay", "run", "--until", "yesterday"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    place.write("headwater.toml", format!("{table}[replay.rum]\nanew = true\n"));
    let said = place.run(&["replay", "status"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("replay.rum") && said.err.contains("did you mean `run`?"), "{}", said.err);
}

#[test]
fn a_declared_type_is_what_the_rebuild_begins_with() {
    let place = Workplace::new(PROGRAM);
    let lines: String =
        (0..300).map(|n| format!("{{\"n\":{n},\"x\":{}}}\n", if n > 200 { "1.5" } else { "1" })).collect();
    place.write("in.ndjson", lines);
    place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
    place.ok(&[&["consume"][..], &PLACE, &["--until-caught-up", "--flush-rows", "100"]].concat());
    assert_eq!(place.value("SELECT count(*) FROM t__dead_letters", "lake"), 99);
    place.write("headwater.toml", "[columns]\nx = \"DOUBLE\"\n");
    place.ok(&replay("run", &[]));
    place.ok(&replay("cutover", &[]));
    assert_eq!(place.value("SELECT count(*) FROM t__dead_letters", "lake"), 0);
    assert_eq!(place.value("SELECT sum(x) FROM t", "lake"), 201.0 + 99.0 * 1.5);
    place.ok(&["verify", "--full", "--lake", "lake"]);
}

#[test]
fn fm11_a_rebuild_reads_what_only_the_archive_has() {
    let place = Workplace::new(PROGRAM);
    let lines = |range: std::ops::Range<u64>| range.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>();
    place.write("in.ndjson", lines(0..1_000));
    place.ok(&["produce", "in.ndjson", "--to", "log:stream", "--shards", "2"]);
    let consume = [&["consume"][..], &PLACE, &["--until-caught-up", "--archive"]].concat();
    place.ok(&consume);
    // The log forgets all that is archived.
    let log = Log::open(&place.path("stream"), Options::default()).unwrap();
    let retention = Retention { age_max: Some(Duration::ZERO), bytes_max: None };
    log.apply_retention(&retention, headwater_common::timestamp::Timestamp::LATEST).unwrap();
    drop(log);
    place.write("more.ndjson", lines(1_000..1_200));
    place.ok(&["produce", "more.ndjson", "--to", "log:stream"]);

    let plan = place.ok(&replay("plan", &["--output", "json"]));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((&plan["events"], &plan["lost_events"]), (&json!(1_200), &json!(0)), "{plan}");
    let text = place.ok(&replay("plan", &[]));
    assert!(text.contains("archive:"), "{text}");
    place.ok(&replay("run", &[]));
    place.ok(&[&["consume"][..], &PLACE, &["--until-caught-up"]].concat());
    let report = compare(&place);
    assert_eq!(report["outputs"][0]["rows"], json!([1_200, 1_200]), "{report}");
    place.ok(&replay("cutover", &[]));
    assert_eq!(place.value("SELECT sum(n) FROM t", "lake"), (0..1_200).sum::<u64>());
    place.ok(&["verify", "--full", "--lake", "lake"]);
    // The archive outlives every generation, and loses only what its own retention takes.
    let archive = std::fs::read_dir(place.path("lake/__archive")).unwrap().next().unwrap().unwrap();
    let name = archive.file_name().into_string().unwrap();
    place.ok(&["gc", "--lake", "lake", "--older-than", "0s", "--apply"]);
    assert!(!place.path("lake/t/g00001").exists());
    let gc = ["gc", "--lake", "lake", "--archive", &name];
    assert_eq!(place.run(&gc).code, Some(2), "an archive's retention is never a default");
    let said = place.ok(&[&gc[..], &["--older-than", "0s"]].concat());
    assert!(said.contains("1000 records"), "{said}");
    place.ok(&[&gc[..], &["--older-than", "0s", "--apply"]].concat());
    assert_eq!(place.run(&replay("plan", &[])).code, Some(1), "now they are lost, and a plan says so");
}

#[test]
fn fm36_fm37_what_killed_processes_leave_is_no_row_and_goes_with_gc() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "n\n1\n2\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream"]);
    place.ok(&[&["consume"][..], &PLACE, &["--until-caught-up"]].concat());
    place.ok(&replay("run", &[]));
    place.ok(&replay("cutover", &[]));
    // Half an upload, beside a file that is whole.
    let folder = std::fs::read_dir(place.path("lake/t/g00002")).unwrap().map(|entry| entry.unwrap().path());
    let folder = folder.into_iter().find(|path| path.to_string_lossy().contains("year=")).unwrap();
    let half = folder.join("0of1-00000000000000000099-0.parquet#12345");
    std::fs::write(&half, "PAR1").unwrap();
    for reader in ["delta", "listing"] {
        assert_eq!(readers::ask(reader, &place.path("lake/t"), "count(*), sum(n)"), [2, 3], "{reader}");
    }
    place.ok(&["verify", "--full", "--lake", "lake"]);

    let young = place.ok(&["gc", "--lake", "lake"]);
    assert!(young.contains("g00001 is kept: it was of use not long ago"), "{young}");
    let old = ["gc", "--lake", "lake", "--older-than", "0s"];
    let dry = place.run(&old);
    assert!(dry.out.contains("g00001 is old: retired and would be removed"), "{}", dry.out);
    assert!(dry.out.contains("1 temporary files") && dry.err.contains("nothing was removed"), "{}{}", dry.out, dry.err);
    assert!(half.exists() && place.path("lake/t/g00001").exists());
    place.ok(&[&old[..], &["--apply"]].concat());
    assert!(!half.exists() && !place.path("lake/t/g00001").exists());
    assert!(!place.path("lake/t__dead_letters/g00001").exists());
    let said = place.run(&replay("rollback", &[]));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("no generation was before it, or those are retired"), "{}", said.err);
    assert_eq!(place.run(&replay("rollback", &["--to", "g00001"])).code, Some(1));
    assert_eq!(place.value("SELECT sum(n) FROM t", "lake"), 3);
    place.ok(&["verify", "--full", "--lake", "lake"]);
}
