//! Pipelines as data: what `headwater.toml` declares is what comes out, and nothing else is taken for the same.

use harness::process::{Said, Workplace};
use headwater_stream::embedded::{Log, Options};
use serde_json::{Value, json};

use crate::PROGRAM;
use crate::redo::{files_of_epoch, undo_last_commit};

const CONSUME: [&str; 8] = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];

/// Puts payloads into the log as they are.
fn put(place: &Workplace, payloads: &[&'static str]) {
    let log = Log::open_or_create(&place.path("stream"), Options::default(), None).unwrap();
    let put = |payload: &&'static str| headwater_stream::Put {
        partition_key: "k".into(),
        payload: bytes::Bytes::from_static(payload.as_bytes()),
    };
    let puts: Vec<_> = payloads.iter().map(put).collect();
    log.append(&puts, "2026-11-21T00:00:00Z".parse().unwrap()).unwrap();
}

fn declare(place: &Workplace, sql: &str) {
    place.write("headwater.toml", format!("[transform]\nsql = \"\"\"{sql}\"\"\"\n"));
}

fn refused(said: &Said, code: i32, hints: &[&str]) {
    assert_eq!(said.code, Some(code), "{}", said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
    for hint in hints {
        assert!(said.err.contains(hint), "{hint}: {}", said.err);
    }
}

#[test]
fn t1_a_row_that_fails_is_a_dead_letter_alone_with_its_bytes() {
    let place = Workplace::new(PROGRAM);
    declare(&place, "SELECT n, 100 / d AS share FROM events WHERE kind = 'keep'");
    let payloads = [
        r#"{"n":1,"d":2,"kind":"keep"}"#,
        r#"{"n":2,"d":0,"kind":"keep"}"#,
        r#"{"n":3,"d":0,"kind":"drop"}"#,
        "no json",
        r#"{"n":4,"d":4,"kind":"keep","more":true}"#,
        r#"{"n":5,"kind":"keep"}"#,
    ];
    put(&place, &payloads);
    place.ok(&CONSUME);
    let rows = place.rows("SELECT n, share, _sequence IS NOT NULL AS has_place FROM t ORDER BY n", "lake");
    let row = |n: u64, share: Value| json!({"n": n, "share": share, "has_place": true});
    assert_eq!(rows, [row(1, json!(50)), row(4, json!(25)), row(5, Value::Null)]);
    let letters = place.rows(
        "SELECT reason, encode(\"rawData\", 'hex') AS raw, \"errorMessage\" AS message FROM t__dead_letters \
         ORDER BY \"sequenceNumber\"",
        "lake",
    );
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert_eq!((&letters[0]["reason"], &letters[1]["reason"]), (&json!("transform"), &json!("parse")));
    assert_eq!((&letters[0]["raw"], &letters[1]["raw"]), (&json!(hex(payloads[1])), &json!(hex(payloads[3]))));
    let message = letters[0]["message"].as_str().unwrap();
    assert!(message.contains("column share: `100 / d`") && !message.contains(" row"), "{message}");
    let report = place.ok(&["verify", "--full", "--lake", "lake"]);
    assert!(report.contains("6 events read = 3 kept + 1 filtered + 2 dead letters + 0 duplicates"), "{report}");
    // Columns that only the SQL reads are none of the table's.
    refused(&place.run(&["query", "SELECT kind FROM t", "--lake", "lake"]), 1, &["kind"]);
}

#[test]
fn another_transform_is_another_pipeline_and_a_comment_is_none() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "a,b\n1,2\n3,4\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream"]);
    declare(&place, "SELECT a FROM events WHERE a > 1");
    place.ok(&CONSUME);
    assert_eq!(place.value("SELECT sum(a) FROM t", "lake"), 3);
    declare(&place, "\n  select a -- only this one\n  from events\n  where a > 1\n");
    place.ok(&[&CONSUME[..], &["--flush-rows", "7"]].concat());
    declare(&place, "SELECT a FROM events WHERE a > 2");
    let difference = [
        "- transform: \"SELECT a FROM events WHERE a > 1\"\n+ transform: \"SELECT a FROM events WHERE a > 2\"\n",
        "headwater replay run --table t --lake ",
    ];
    refused(&place.run(&CONSUME), 1, &difference);
    // Without the section there is no transform; the table has one.
    place.write("headwater.toml", "");
    refused(&place.run(&CONSUME), 1, &["- transform: "]);
    place.write("headwater.toml", "[columns]\na = \"DOUBLE\"\n");
    refused(&place.run(&CONSUME), 1, &["+ columns: {\"a\":\"DOUBLE\"}\n- transform: "]);
    assert_eq!(place.value("SELECT sum(a) FROM t", "lake"), 3, "nothing has changed");
}

#[test]
fn settings_that_are_not_made_are_those_of_the_table() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "a,at\n1,2026-01-01\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream"]);
    let with = |more: &[&str]| place.run(&[&CONSUME[..], more].concat());
    assert_eq!(with(&["--time-field", "at", "--partition-by", "date", "--max-future", "2d"]).code, Some(0));
    assert_eq!(with(&["--time-field", "at"]).code, Some(0), "the rest is as the table was made");
    refused(
        &with(&["--time-field", "at", "--partition-by", "year"]),
        1,
        &["- partition_by: \"date\"\n+ partition_by: \"year\""],
    );
    refused(&with(&[]), 1, &["- time_field: \"at\""]);
}

#[test]
fn a_transform_that_cannot_be_is_refused_when_the_file_is_read() {
    let place = Workplace::new(PROGRAM);
    let check = |file: &str, hint: &str| {
        place.write("headwater.toml", file);
        for verb in ["consume", "status"] {
            refused(&place.run(&[verb]), 2, &["headwater.toml", hint]);
        }
    };
    check("[transform]\nsql = \"SELECT now() AS t FROM events\"\n", "`now` is not immutable");
    check("[transform]\nsql = \"SELECT count(*) AS n FROM events\"\n", "`count` is an aggregate");
    check("[transform]\nsql = \"SELECT a FROM events LIMIT 1\"\n", "LIMIT is not allowed");
    check("[transform]\nsqll = \"SELECT a FROM events\"\n", "did you mean `sql`?");
    check("[columns]\na = \"NUMBER\"\n", "`columns.a`");
    place.write("headwater.toml", "[columns]\na = \"bigint\"\n[transform]\nsql = \"select a from events\"\n");
    let shown = place.ok(&["consume", "--print-config"]);
    assert!(shown.contains("[columns]\n\"a\" = \"BIGINT\"  # file headwater.toml\n"), "{shown}");
    assert!(shown.ends_with("[transform]\nsql = \"SELECT a FROM events\"  # file headwater.toml\n"), "{shown}");
}

#[test]
fn declared_types_are_kept_and_new_fields_reach_the_table_by_the_star() {
    let place = Workplace::new(PROGRAM);
    place.write(
        "headwater.toml",
        "[columns]\namount = \"DOUBLE\"\nday = \"DATE\"\n[transform]\nsql = \"SELECT *, amount * 2 AS twice, \
         upper(later) AS loud FROM events\"\n",
    );
    put(&place, &[r#"{"amount":1,"day":"2026-11-21"}"#, r#"{"amount":"x"}"#, r#"{"amount":2.5}"#]);
    place.ok(&CONSUME);
    put(&place, &[r#"{"amount":4,"later":"a"}"#, r#"{"amount":5,"more":{"x":1}}"#]);
    place.ok(&CONSUME);
    let rows = place.rows("SELECT amount, day, twice, loud, later, more FROM t ORDER BY amount", "lake");
    let row = |amount: f64, day: Option<&str>, later: Option<&str>, more: Value| {
        let loud = later.map(str::to_uppercase);
        json!({"amount": amount, "day": day, "twice": amount * 2.0, "loud": loud, "later": later, "more": more})
    };
    let expected = [
        row(1.0, Some("2026-11-21"), None, Value::Null),
        row(2.5, None, None, Value::Null),
        row(4.0, None, Some("a"), Value::Null),
        row(5.0, None, None, json!({"x": 1})),
    ];
    assert_eq!(rows, expected);
    assert_eq!(place.value("SELECT reason FROM t__dead_letters", "lake"), "schema_conflict");
    place.ok(&["verify", "--full", "--lake", "lake"]);
}

#[test]
fn a_field_that_the_transform_cannot_do_with_costs_its_event_only() {
    let place = Workplace::new(PROGRAM);
    declare(&place, "SELECT n, flag AND n > 1 AS flagged FROM events");
    put(&place, &[r#"{"n":1}"#, r#"{"n":2,"flag":7}"#, r#"{"n":3,"flag":true}"#]);
    place.ok(&CONSUME);
    assert_eq!(place.value("SELECT sum(n) FROM t", "lake"), 4);
    let letters = place.rows("SELECT reason FROM t__dead_letters", "lake");
    // By the schema that the epoch ended with, the field is no boolean.
    assert_eq!(letters, [json!({"reason": "schema_conflict"})]);
    put(&place, &[r#"{"n":5,"flag":false}"#]);
    place.ok(&CONSUME);
    assert_eq!(place.value("SELECT sum(n) FROM t WHERE NOT flagged", "lake"), 1 + 5);
    place.ok(&["verify", "--full", "--lake", "lake"]);
}

#[test]
fn fm22_a_transformed_epoch_is_made_again_with_the_same_bytes() {
    let sql = "SELECT *, 1000 / (n % 10) AS share FROM events WHERE n % 7 <> 0";
    let consume = [&CONSUME[..], &["--time-field", "at", "--flush-rows", "100"]].concat();
    for epoch in [1, 3] {
        let place = Workplace::new(PROGRAM);
        declare(&place, sql);
        let mut lines = String::new();
        for n in 1..=300 {
            // A field that comes in the middle of the first epoch.
            let text = if n > 50 { format!(",\"text\":\"row {n}\"") } else { String::new() };
            lines.push_str(&format!("{{\"n\":{n},\"at\":\"2026-11-0{}\"{text}}}\n", 1 + n % 3));
        }
        place.write("in.ndjson", lines);
        place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
        place.ok(&consume);
        let before = files_of_epoch(&place, epoch);
        for _ in epoch..=3 {
            undo_last_commit(&place);
        }
        before.keys().for_each(|file| std::fs::remove_file(file).unwrap());
        place.ok(&consume);
        assert!(files_of_epoch(&place, epoch) == before, "epoch {epoch}: other names or other bytes");
        let kept: Vec<u64> = (1..=300).filter(|n| n % 7 != 0 && n % 10 != 0).collect();
        let filtered = (1..=300).filter(|n| n % 7 == 0).count();
        let failed = 300 - kept.len() - filtered;
        let row = &place.rows("SELECT count(*) AS n, sum(n) AS s, sum(share) AS shares FROM t", "lake")[0];
        let shares: u64 = kept.iter().map(|n| 1000 / (n % 10)).sum();
        assert_eq!(*row, json!({"n": kept.len(), "s": kept.iter().sum::<u64>(), "shares": shares}));
        let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
        let account = format!("300 events read = {} kept + {filtered} filtered + {failed} dead letters", kept.len());
        assert!(report.contains(&account), "{account}: {report}");
    }
}

#[test]
fn t1_what_a_row_gets_has_nothing_to_do_with_its_neighbours() {
    let place = Workplace::new(PROGRAM);
    declare(&place, "SELECT i, CAST(ys AS DOUBLE[2]) AS x, 10 / d AS q FROM events");
    let payloads =
        [r#"{"i":1,"ys":[1.0,2.5],"d":1}"#, r#"{"i":2,"ys":[7.5,8.5],"d":0}"#, r#"{"i":3,"ys":[3.5,4.5],"d":1}"#];
    put(&place, &payloads);
    place.ok(&CONSUME);
    let rows = place.rows("SELECT i, x FROM t ORDER BY i", "lake");
    assert_eq!(rows, [json!({"i": 1, "x": [1.0, 2.5]}), json!({"i": 3, "x": [3.5, 4.5]})]);

    let place = Workplace::new(PROGRAM);
    declare(&place, "SELECT a, coalesce(xs, make_array(1)) AS ys FROM events");
    put(&place, &[r#"{"a":1}"#]);
    place.ok(&CONSUME);
    put(&place, &[r#"{"xs":[1.0],"a":2}"#, r#"{"xs":[0.5],"a":3}"#, r#"{"xs":[7.0],"a":4}"#]);
    place.ok(&CONSUME);
    let rows = place.rows("SELECT a, ys FROM t ORDER BY a", "lake");
    let expected = [json!({"a": 1, "ys": [1]}), json!({"a": 2, "ys": [1]}), json!({"a": 4, "ys": [7]})];
    assert_eq!(rows, expected, "only 0.5 does not fit");
    place.ok(&["verify", "--full", "--lake", "lake"]);
}

#[test]
fn a_field_is_known_to_the_sql_by_its_own_name() {
    let place = Workplace::new(PROGRAM);
    declare(&place, "SELECT *, \"order id\" + 1 AS next FROM events WHERE status = 'ok'");
    put(&place, &[r#"{"Status":"other","n":1}"#, r#"{"status":"ok","n":2,"order id":7}"#, r#"{"status":"bad","n":3}"#]);
    place.ok(&CONSUME);
    assert_eq!(place.rows("SELECT n, next FROM t", "lake"), [json!({"n": 2, "next": 8})]);
    let report = place.ok(&["verify", "--full", "--lake", "lake"]);
    assert!(report.contains("3 events read = 1 kept + 2 filtered"), "{report}");
}

#[test]
fn what_no_column_can_hold_is_refused_before_there_is_a_table() {
    let place = Workplace::new(PROGRAM);
    put(&place, &[r#"{"a":1,"b":1}"#]);
    declare(&place, "SELECT a, CAST(n AS DECIMAL(10,2)) AS d FROM events");
    refused(&place.run(&CONSUME), 2, &["a column cannot hold Decimal128(10, 2)"]);
    declare(&place, "SELECT named_struct('id', a, 'ID', b) AS s FROM events");
    place.ok(&CONSUME);
    assert_eq!(place.value("SELECT reason FROM t__dead_letters", "lake"), "transform");
    place.ok(&["verify", "--full", "--lake", "lake"]);
}
