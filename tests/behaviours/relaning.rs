//! Other lanes for a table that lives: the command, with events that come meanwhile, and processes that are killed.

use harness::process::{Running, Workplace};
use headwater_stream::embedded::{Log, Options};
use serde_json::{Value, json};

use crate::{PROGRAM, readers};

const PLACE: [&str; 6] = ["--from", "log:stream", "--lake", "lake", "--table", "t"];

fn consume<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let often = ["--time-field", "at", "--flush-rows", "400", "--flush-idle", "200ms"];
    [&["consume"][..], &PLACE, &often, more].concat()
}

fn consumer(place: &Workplace, more: &[&str]) -> Running {
    Running::start(place.command(&consume(more)))
}

fn csv(rows: std::ops::Range<u64>) -> String {
    let row = |n| format!("{n},2026-11-{:02}T{:02}:30:00Z\n", 1 + n % 4, n % 24);
    std::iter::once("n,at\n".to_owned()).chain(rows.map(row)).collect()
}

fn produce(place: &Workplace, rows: std::ops::Range<u64>, more: &[&str]) {
    let file = format!("{}.csv", rows.start);
    place.write(&file, csv(rows));
    place.ok(&[&["produce", file.as_str(), "--to", "log:stream"][..], more].concat());
}

/// The table, as `status` shows it; null while there is none.
fn table(place: &Workplace) -> Value {
    let said = place.run(&["status", "--from", "log:stream", "--lake", "lake", "--output", "json"]);
    serde_json::from_str::<Value>(&said.out).unwrap_or_default()["tables"][0].clone()
}

/// The number of the set of lanes that is worked on, and how many it has.
fn lanes(table: &Value) -> (u64, usize) {
    (table["lane_set"].as_u64().unwrap_or(0), table["lanes"].as_array().map_or(0, Vec::len))
}

fn rows(table: &Value) -> u64 {
    table["events"]["rows"].as_u64().unwrap_or(0)
}

fn wait_for(place: &Workplace, what: &str, is_so: impl Fn(&Value) -> bool) {
    const LOOKS: usize = 5_000;
    let mut last = Value::Null;
    for _ in 0..LOOKS {
        last = table(place);
        if is_so(&last) {
            return;
        }
    }
    panic!("{what}: it never came to that: {last}");
}

/// Every row is there once, for all who look.
fn check_rows(place: &Workplace, expected: u64) {
    let log = Log::open(&place.path("stream"), Options::default()).unwrap();
    let in_log: u64 = log.summary().unwrap().iter().map(|shard| shard.records).sum();
    drop(log);
    assert_eq!(in_log, expected, "the producer sent each row once");
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains(&format!("{in_log} events read")), "{report}");
    for reader in ["delta", "listing"] {
        let found = readers::ask(reader, &place.path("lake/t"), "count(*), count(DISTINCT n), sum(n)");
        assert_eq!(found, [expected, expected, (0..expected).sum::<u64>()], "{reader}");
    }
}

#[test]
fn n1_n3_lanes_are_changed_twice_while_events_come_and_go_and_consumers_are_killed() {
    const ROWS: u64 = 18_000;
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", csv(0..ROWS));
    let produce = ["produce", "in.csv", "--to", "log:stream", "--shards", "3"];
    // There is no stream to read from before there is one.
    place.ok(&[&produce[..], &["--limit", "100"]].concat());
    let producer = Running::start(place.command(&[&produce[..], &["--rate", "1500/s", "--resume"]].concat()));

    let mut two = consumer(&place, &["--lanes", "2"]);
    wait_for(&place, "two lanes", |table| lanes(table) == (1, 2) && rows(table) > 1_000);
    two.kill();
    // Three shards in five lanes; killed in every step of closing a lane.
    for step in ["action=PublishCut", "action=Commit(Events)", "action=Commit(DeadLetters)"] {
        let mut dying = consumer(&place, &["--lanes", "5", "--log=headwater_lake=debug"]);
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(step)) {
            seen.push(dying.line().unwrap_or_else(|| panic!("it ended before {step}: {seen:?}")));
        }
        dying.kill();
    }
    let mut five = consumer(&place, &["--lanes", "5"]);
    wait_for(&place, "five lanes", |table| lanes(table) == (2, 5) && rows(table) > 4_000);
    // Another consumer asks for three lanes, and this one goes along; then it is killed.
    let three = consumer(&place, &["--lanes", "3"]);
    wait_for(&place, "three lanes", |table| lanes(table) == (3, 3) && table["next_lanes"].is_null());
    let before = rows(&table(&place));
    five.kill();
    wait_for(&place, "more rows in three lanes", |table| rows(table) > before + 1_000 || rows(table) == ROWS);

    assert!(producer.wait().success());
    three.signal("TERM");
    assert!(three.wait().success());
    // Who does not say how many lanes there are takes those there are.
    place.ok(&consume(&["--until-caught-up"]));
    assert_eq!(lanes(&table(&place)), (3, 3));
    check_rows(&place, ROWS);
}

#[test]
fn n4_a_consumer_that_runs_goes_over_to_the_lanes_that_another_asks_for() {
    let place = Workplace::new(PROGRAM);
    produce(&place, 0..2_000, &["--shards", "4"]);
    let running = consumer(&place, &[]);
    wait_for(&place, "one lane", |table| lanes(table) == (1, 1) && rows(table) == 2_000);
    place.ok(&consume(&["--lanes", "4", "--until-caught-up"]));
    assert_eq!(lanes(&table(&place)), (2, 4));
    // Only the first one is there now.
    produce(&place, 2_000..4_000, &["--shards", "4"]);
    wait_for(&place, "four lanes", |table| rows(table) == 4_000);
    running.signal("TERM");
    assert!(running.wait().success());
    let names = ["0of4s2", "1of4s2", "2of4s2", "3of4s2"].map(|lane| place.path("lake/t/g00001/_cuts").join(lane));
    assert!(names.iter().all(|folder| folder.is_dir()), "every lane has taken something");
    check_rows(&place, 4_000);
    // Where they begin follows from where the lane before them has ended.
    let begins = place.path("lake/t/g00001/_lanes/00000002.begins.json");
    std::fs::write(begins, r#"{"version":1,"set":2,"positions":{}}"#).unwrap();
    let said = place.run(&["verify", "--from-beginning", "--lake", "lake"]);
    assert_eq!(said.code, Some(1));
    assert!((said.out + &said.err).contains("set 2 of the lanes begins elsewhere"), "verify notices");
}

#[test]
fn n5_a_table_whose_lanes_were_changed_is_rebuilt_and_cut_over_and_rolled_back() {
    let place = Workplace::new(PROGRAM);
    produce(&place, 0..2_000, &["--shards", "4"]);
    place.ok(&consume(&["--lanes", "2", "--until-caught-up"]));
    produce(&place, 2_000..3_000, &["--shards", "4"]);
    place.ok(&consume(&["--lanes", "3", "--until-caught-up"]));

    let replay = |verb: &str, more: &[&str]| place.run(&[&["replay", verb][..], &PLACE, more].concat());
    let refused = replay("run", &["--same-cuts"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert!(refused.err.contains("its lanes were changed") && refused.err.contains("leave out"), "{}", refused.err);
    let done = |verb: &str| {
        let said = replay(verb, &[]);
        assert_eq!(said.code, Some(0), "{verb}: {}{}", said.out, said.err);
        said.out
    };
    done("run");
    let status: Value = serde_json::from_str(&replay("status", &["--output", "json"]).out).unwrap();
    let counts: Vec<_> = status["generations"].as_array().unwrap().iter().map(|one| &one["lanes"]).collect();
    assert_eq!(counts, [&json!(3), &json!(3)], "as many as the live one has");
    assert_eq!(place.run(&["replay", "compare", "--lake", "lake", "--table", "t"]).code, Some(0));

    // There with a consumer that wants others, and back to the generation of three sets.
    done("cutover");
    produce(&place, 3_000..4_000, &["--shards", "4"]);
    place.ok(&consume(&["--lanes", "1", "--until-caught-up"]));
    assert_eq!(lanes(&table(&place)), (2, 1), "the other generation has sets of its own");
    done("rollback");
    assert_eq!(lanes(&table(&place)), (2, 3));
    check_rows(&place, 4_000);
    produce(&place, 4_000..5_000, &["--shards", "4"]);
    place.ok(&consume(&["--until-caught-up"]));
    check_rows(&place, 5_000);
    place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake", "--table", "t", "--generation", "g00002"]);
}

#[test]
fn n5_lanes_that_a_dead_cutover_has_sealed_are_changed_when_the_seal_is_broken() {
    let place = Workplace::new(PROGRAM);
    produce(&place, 0..1_000, &["--shards", "4"]);
    place.ok(&consume(&["--lanes", "2", "--until-caught-up"]));
    place.ok(&[&["replay", "run"][..], &PLACE].concat());
    let cutover = [&["replay", "cutover"][..], &PLACE].concat();
    let mut dying = Running::start(place.command(&[&cutover[..], &["--log=headwater_lake=debug"]].concat()));
    while let Some(line) = dying.line() {
        if line.contains("action=Assess") {
            break;
        }
    }
    dying.kill();
    let decided = place.path("lake/t/_pointer/00000002.json").exists();
    produce(&place, 1_000..2_000, &["--shards", "4"]);
    place.ok(&consume(&["--lanes", "5", "--until-caught-up", "--seal-wait", "0s"]));
    assert_eq!(lanes(&table(&place)), (2, 5));
    check_rows(&place, 2_000);
    // The next tool seals the lanes that are worked on, and no others.
    if !decided {
        place.ok(&cutover);
        check_rows(&place, 2_000);
    }
}

#[test]
fn n3_a_table_that_has_no_row_yet_is_given_other_lanes() {
    let place = Workplace::new(PROGRAM);
    produce(&place, 0..10, &["--shards", "2"]);
    place.ok(&consume(&["--start", "latest", "--lanes", "2", "--until-caught-up"]));
    place.ok(&consume(&["--lanes", "3", "--until-caught-up"]));
    assert_eq!(lanes(&table(&place)), (2, 3));
    produce(&place, 10..500, &["--shards", "2"]);
    place.ok(&consume(&["--until-caught-up"]));
    let row = &place.rows("SELECT count(*) AS n, min(n) AS low, max(n) AS high FROM t", "lake")[0];
    assert_eq!(*row, json!({"n": 490, "low": 10, "high": 499}));
    place.ok(&["verify", "--full", "--lake", "lake"]);
}
