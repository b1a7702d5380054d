//! The main job: CSV to stream to lake to SQL, on real and on bad input.

use harness::process::{Workplace, real_input};
use serde_json::{Value, json};

use crate::PROGRAM;

fn consume(place: &Workplace, table: &str, more: &[&str]) {
    let words = ["consume", "--from", "log:stream", "--lake", "lake", "--table", table, "--until-caught-up"];
    place.ok(&[&words[..], more].concat());
}

fn produce(place: &Workplace, file: &str, more: &[&str]) {
    place.ok(&[&["produce", file, "--to", "log:stream"][..], more].concat());
}

#[test]
fn flights_come_out_as_they_went_in() {
    let Some(csv) = real_input("flights/flights.csv.gz") else {
        return;
    };
    let place = Workplace::new(PROGRAM);
    produce(&place, csv.to_str().unwrap(), &["--null", "NA", "--time-field", "time_hour"]);
    consume(&place, "flights", &["--time-field", "time_hour"]);
    let row = &place.rows(
        "SELECT count(*) AS n, sum(dep_delay) AS delay, sum(year) AS years, sum(distance) AS distance, \
         count(air_time) AS flown, sum(air_time) AS air, min(event_year) AS first, max(event_year) AS last, \
         count(DISTINCT carrier) AS carriers FROM flights",
        "lake",
    )[0];
    assert_eq!(
        *row,
        json!({"n": 336_776, "delay": 4_152_200, "years": 677_930_088_u64, "distance": 350_217_607,
               "flown": 327_346, "air": 49_326_610, "first": 2013, "last": 2014, "carriers": 16})
    );
    assert_eq!(place.value("SELECT count(*) FROM flights__dead_letters", "lake"), 0);
    let report = place.ok(&["verify", "--full", "--lake", "lake"]);
    assert!(report.contains("336776 events read = 336776 kept"), "{report}");
}

#[test]
fn orders_keep_their_objects_and_lists() {
    let Some(ndjson) = real_input("orders/ecommerce.ndjson.gz") else {
        return;
    };
    let place = Workplace::new(PROGRAM);
    produce(&place, ndjson.to_str().unwrap(), &["--key", "order_id"]);
    consume(&place, "orders", &["--time-field", "order_date"]);
    assert_eq!(place.value("SELECT count(*) FROM orders", "lake"), 4_675);
    assert_eq!(place.value("SELECT count(*) FROM orders__dead_letters", "lake"), 0);
    assert_eq!(place.value("SELECT count(*) FROM (SELECT unnest(products) FROM orders)", "lake"), 10_087);
    place.ok(&["verify", "--full", "--lake", "lake"]);
}

#[test]
fn csv_spectrum_parses_as_its_json_says() {
    let Some(folder) = real_input("csv-spectrum") else {
        return;
    };
    let mut names: Vec<_> = std::fs::read_dir(folder.join("csvs")).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 12);
    for csv in names {
        let place = Workplace::new(PROGRAM);
        let stem = csv.file_stem().unwrap().to_str().unwrap();
        produce(&place, csv.to_str().unwrap(), &["--strings"]);
        consume(&place, "t", &[]);
        let json = std::fs::read(folder.join(format!("json/{stem}.json"))).unwrap();
        // A file with one record says so without a list around it.
        let mut expected = match serde_json::from_slice(&json).unwrap() {
            Value::Array(rows) => rows,
            row => vec![row],
        };
        if stem == "location_coordinates" {
            // Here the collection's JSON has another number than its CSV.
            assert_eq!(expected[0]["Contact Phone Number"], "1234567890");
            expected[0]["Contact Phone Number"] = json!("2095257564");
        }
        // A blank in a column's name becomes an underscore in the table.
        let columns = expected[0].as_object().unwrap().keys();
        let columns: Vec<_> = columns.map(|name| format!("\"{}\" AS \"{name}\"", name.replace(' ', "_"))).collect();
        let sql = format!("SELECT {} FROM t ORDER BY _sequence", columns.join(", "));
        assert_eq!(place.rows(&sql, "lake"), expected, "{stem}");
    }
}

#[test]
fn bad_rows_go_to_the_reject_file_and_the_run_goes_on() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", b"a,b\n1,x\n2\n3,\"never closed\n4,\xff\n5,y\n");
    let said = place.run(&["produce", "in.csv", "--to", "log:stream"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("sent 2 rows") && said.err.contains("3 bad rows"), "{}", said.err);
    let rejects = std::fs::read_to_string(place.path("headwater-rejects.ndjson")).unwrap();
    let found: Vec<(u64, u64, String)> = rejects
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|r| (r["line"].as_u64().unwrap(), r["byte"].as_u64().unwrap(), r["reason"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [(3, 8, "1 fields instead of 2"), (4, 10, "a quote is never closed"), (5, 26, "not UTF-8")];
    assert_eq!(found, expected.map(|(line, byte, reason)| (line, byte, reason.to_owned())));
}

#[test]
fn s4_fm03_fm04_events_that_cannot_be_rows_are_kept_with_their_bytes() {
    let place = Workplace::new(PROGRAM);
    let log = headwater_stream::embedded::Log::open_or_create(
        &place.path("stream"),
        headwater_stream::embedded::Options::default(),
        None,
    )
    .unwrap();
    let payloads: [&[u8]; 6] =
        [b"{\"a\":1}", b"not json", b"{\"a\":\"x\"}", b"\xff\xfe", b"{\"a\":2}{\"a\":3}", b"{\"a\":4}"];
    let puts = payloads.map(|payload| headwater_stream::Put {
        partition_key: "k".into(),
        payload: bytes::Bytes::from_static(payload),
    });
    log.append(&puts, "2026-11-21T00:00:00Z".parse().unwrap()).unwrap();
    consume(&place, "t", &[]);
    assert_eq!(place.value("SELECT sum(a) FROM t", "lake"), 5);
    let letters = place.rows(
        "SELECT reason, encode(\"rawData\", 'hex') AS raw, \"sequenceNumber\" AS n FROM t__dead_letters ORDER BY n",
        "lake",
    );
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected: Vec<Value> = [(1, "parse"), (2, "schema_conflict"), (3, "parse"), (4, "parse")]
        .map(|(index, reason): (usize, &str)| {
            json!({"reason": reason, "raw": hex(payloads[index]), "n": format!("{:020}", index + 1)})
        })
        .to_vec();
    assert_eq!(letters, expected);
    let report = place.ok(&["verify", "--full", "--lake", "lake"]);
    assert!(report.contains("6 events read = 2 kept + 0 filtered + 4 dead letters"), "{report}");
}

#[test]
fn a_second_run_finds_nothing_to_do_and_new_events_are_added() {
    let place = Workplace::new(PROGRAM);
    place.write("one.csv", "a\n1\n2\n");
    place.write("two.csv", "a,b\n3,x\n");
    produce(&place, "one.csv", &[]);
    consume(&place, "t", &[]);
    consume(&place, "t", &[]);
    produce(&place, "two.csv", &[]);
    consume(&place, "t", &[]);
    let rows = place.rows("SELECT a, b FROM t ORDER BY a", "lake");
    assert_eq!(rows, [json!({"a": 1, "b": null}), json!({"a": 2, "b": null}), json!({"a": 3, "b": "x"})]);
    let status: Value =
        serde_json::from_str(&place.ok(&["status", "--from", "log:stream", "--lake", "lake", "--output", "json"]))
            .unwrap();
    assert_eq!(status["tables"][0]["lanes"][0]["epoch"], 2);
    assert_eq!(status["tables"][0]["lanes"][0]["events_behind"], 0);
    assert_eq!(std::fs::read_link(place.path("lake/t/current")).unwrap().to_str(), Some("g00001"));
}

#[test]
fn what_does_not_belong_together_is_refused_with_the_way_out() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "a,t\n1,2026-01-01\n");
    let check = |words: &[&str], code: i32, hint: &str| {
        let said = place.run(words);
        assert_eq!(said.code, Some(code), "{words:?}: {}", said.err);
        assert!(said.err.contains(hint), "{words:?}: {}", said.err);
        assert!(!said.err.contains("panicked"), "{}", said.err);
    };
    check(&["produce", "missing.csv", "--to", "log:stream"], 1, "missing.csv");
    check(&["produce", "in.csv", "--to", "log:stream", "--key", "nope"], 1, "it has: a, t");
    check(&["consume", "--from", "log:nothing"], 1, "headwater produce FILE --to log:nothing");
    check(&["query", "SELECT 1", "--lake", "nothing"], 1, "headwater consume --lake");
    check(&["produce", "in.csv", "--to", "firehose://x"], 2, "log:PATH");
    check(&["produce", "in.csv", "--ratee", "5/s"], 2, "--rate");
    check(&["consume", "--flush-age", "soon"], 2, "--flush-age");
    produce(&place, "in.csv", &[]);
    consume(&place, "t", &[]);
    let again = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];
    check(&[&again[..], &["--time-field", "t"]].concat(), 1, "+ time_field: \"t\"");
    place.ok(&["produce", "in.csv", "--to", "log:other"]);
    let other = ["consume", "--from", "log:other", "--lake", "lake", "--table", "t", "--until-caught-up"];
    check(&other, 1, "another log");
    for sql in ["DROP TABLE t", "COPY t TO 'x.csv'", "INSERT INTO t SELECT * FROM t", "SET a = 1"] {
        check(&["query", sql, "--lake", "lake"], 1, "not supported");
    }
    check(&["query", "SELECT nope FROM t", "--lake", "lake"], 1, "nope");
    std::fs::write(place.path("stream/data.mdb"), [9; 10_000]).unwrap();
    check(&["consume", "--from", "log:stream"], 1, "Restore it from a backup");
}
