use arrow_array::StringArray;
use headwater_common::position::Position;

use super::*;

fn rules() -> DecodeRules {
    DecodeRules {
        id_field: EVENT_ID_FIELD.into(),
        time_field: None,
        time_format: event_time::Format::Text,
        missing_time: MissingTime::Arrival,
        future_max: Duration::from_secs(3600),
    }
}

fn event(number: u64, payload: &str) -> Event {
    Event {
        position: Position::of_record(number.into()),
        arrived_at: "2026-11-21T00:00:00Z".parse().unwrap(),
        partition_key: bytes::Bytes::new(),
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
    }
}

fn decode(rules: &DecodeRules, events: &[&str]) -> (Decoder, Vec<Result<Timestamp, Misfit>>) {
    let mut decoder = Decoder::new(rules, None, &[], 20, Growing::Allowed);
    let results = (1..).zip(events).map(|(number, payload)| decoder.push("0", &event(number, payload))).collect();
    (decoder, results)
}

/// Decodes events into one batch and returns it as JSON lines, without the meta columns, with what was refused.
fn check(events: &[&str], rows: &[&str], refused: &[&str]) {
    let (mut decoder, results) = decode(&rules(), events);
    let schema = Arc::new(decoder.schema().arrow_schema());
    let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
    for decoded in decoder.take(true) {
        let adapted = adapt(&decoded.rows, &schema);
        let data: Vec<usize> = (META_COLUMNS.len()..adapted.num_columns()).collect();
        writer.write(&adapted.project(&data).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), rows);
    let misfits: Vec<_> = results.into_iter().filter_map(Result::err).map(|misfit| misfit.message).collect();
    assert_eq!(misfits, refused);
}

#[test]
fn a_fraction_in_an_integer_column_is_a_conflict_never_truncated() {
    // The column is not new any more in the second decoder, so it cannot widen.
    let (mut decoder, _) = decode(&rules(), &[r#"{"a":1}"#]);
    decoder.take(true);
    let mut decoder = Decoder::new(&rules(), Some(&decoder.schema()), &[], 20, Growing::Allowed);
    let error = decoder.push("0", &event(2, r#"{"a":1.9}"#)).unwrap_err();
    assert_eq!(error.message, "field a: 1.9 does not fit BIGINT");
    assert_eq!(error.reason, Reason::SchemaConflict);
    decoder.push("0", &event(3, r#"{"a":2.0}"#)).unwrap();
}

#[test]
fn a_broken_aggregate_is_told_from_what_is_no_json() {
    let mut decoder = Decoder::new(&rules(), None, &[], 20, Growing::Allowed);
    let mut check = |payload: &'static [u8], expect: Reason| {
        let broken = Event { payload: bytes::Bytes::from_static(payload), ..event(1, "") };
        assert_eq!(decoder.push("0", &broken).unwrap_err().reason, expect, "{payload:?}");
    };
    check(b"\xF3\x89\x9A\xC2", Reason::Aggregation);
    check(b"\xF3\x89\x9A\xC2\x0A\x01k, and a digest of other bytes", Reason::Aggregation);
    check(b"\xF3\x89\x9A", Reason::Parse);
    check(b"not JSON", Reason::Parse);
}

/// The schema of a table that does not exist yet, with declared columns.
fn declared(columns: &[(&str, ColumnType)]) -> TableSchema {
    let columns = columns.iter().map(|(name, kind)| Column::new(name, kind.clone(), SchemaVersion(0)));
    TableSchema { version: SchemaVersion(0), columns: meta_columns().chain(columns).collect(), input: None }
}

#[test]
fn a_declared_type_stays_whatever_comes_first() {
    let schema = declared(&[("a", ColumnType::Int64), ("b", ColumnType::Float64), ("d", ColumnType::Date)]);
    let mut decoder = Decoder::new(&rules(), Some(&schema), &[], 20, Growing::Allowed);
    assert!(decoder.has_grown() && decoder.base_version().is_none(), "there is no table yet");
    decoder.push("0", &event(1, r#"{"a":1,"b":1,"d":"2026-11-21"}"#)).unwrap();
    let refused = |decoder: &mut Decoder, payload: &str| decoder.push("0", &event(2, payload)).unwrap_err().message;
    assert_eq!(refused(&mut decoder, r#"{"a":1.5}"#), "field a: 1.5 does not fit BIGINT");
    let with_time = r#"{"d":"2026-11-21T10:00:00Z"}"#;
    assert_eq!(refused(&mut decoder, with_time), "field d: a string does not fit DATE");
    let grown = decoder.schema();
    assert_eq!(grown.version, SchemaVersion::FIRST);
    assert!(grown.columns.iter().all(|column| column.since == SchemaVersion::FIRST), "{grown:?}");
}

/// Accepts no text column.
#[derive(Debug)]
struct NoText;

impl Acceptance for NoText {
    fn accept(&self, columns: &[Column]) -> Result<(), String> {
        if columns.iter().any(|column| column.kind == ColumnType::Utf8) { Err("text".into()) } else { Ok(()) }
    }
}

#[test]
fn columns_that_are_not_accepted_cost_the_event_and_no_other() {
    let refused = |decoder: &mut Decoder| decoder.push("0", &event(2, r#"{"b":"x"}"#)).unwrap_err();
    let mut decoder = Decoder::new(&rules(), None, &[], 20, Growing::Allowed).accepting(Arc::new(NoText));
    decoder.push("0", &event(1, r#"{"a":1}"#)).unwrap();
    let misfit = refused(&mut decoder);
    assert_eq!(misfit.reason, Reason::Transform);
    decoder.push("0", &event(3, r#"{"b":2}"#)).unwrap();
    // With the final schema the refusal is worded the same, unless the field means something now.
    let schema = decoder.schema();
    let mut fixed = Decoder::new(&rules(), Some(&schema), &[], 20, Growing::Fixed).accepting(Arc::new(NoText));
    assert_eq!(fixed.push("0", &event(4, r#"{"c":"x"}"#)).unwrap_err(), misfit);
    assert_eq!(refused(&mut fixed).reason, Reason::SchemaConflict);
    assert!(decoder.must_read_again(), "a refusal was judged by a schema that grew");
}

#[test]
fn a_number_in_a_string_is_no_number() {
    check(&[r#"{"a":7}"#, r#"{"a":"7"}"#], &[r#"{"a":7}"#], &["field a: a string does not fit BIGINT"]);
    check(&[r#"{"a":"7"}"#, r#"{"a":7}"#], &[r#"{"a":"7"}"#], &["field a: 7 does not fit VARCHAR"]);
    check(&[r#"{"a":true}"#, r#"{"a":"true"}"#], &[r#"{"a":true}"#], &["field a: a string does not fit BOOLEAN"]);
}

#[test]
fn epoch_numbers_in_a_text_timestamp_are_refused() {
    let rules = DecodeRules { time_field: Some("t".into()), ..rules() };
    let (_, results) = decode(&rules, &[r#"{"t":"2020-01-01"}"#, r#"{"t":1577836800000}"#, r#"{"a":1}"#]);
    assert_eq!(results[0].as_ref().unwrap().to_string(), "2020-01-01T00:00:00Z");
    assert_eq!(results[1].as_ref().unwrap_err().reason, Reason::NoTimestamp);
    assert_eq!(results[2].as_ref().unwrap().to_string(), "2026-11-21T00:00:00Z", "arrival counts");
}

#[test]
fn only_the_events_own_time_field_is_its_time() {
    let rules = DecodeRules { time_field: Some("t".into()), ..rules() };
    let (decoder, results) = decode(&rules, &[r#"{"":{"t":"no time"},"a":{"t":5}}"#, r#"{"t":"2026-11-20"}"#]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let kinds: Vec<_> = decoder.schema().columns[META_COLUMNS.len()..].iter().map(|c| c.kind.name()).collect();
    assert_eq!(kinds.iter().filter(|kind| kind.contains("TIMESTAMP")).count(), 1, "{kinds:?}");
}

#[test]
fn fm24_elements_of_lists_count_as_memory() {
    let wide: Vec<_> = (0..40).map(|n| format!("\"f{n}\":1")).collect();
    let event_text = format!("{{\"p\":[{}{{{}}}]}}", "{},".repeat(10_000), wide.join(","));
    let (decoder, results) = decode(&rules(), &[&event_text]);
    assert!(results[0].is_ok());
    assert!(decoder.batch_bytes() > 10_000 * 40 * 8, "{} bytes", decoder.batch_bytes());
}

#[test]
fn fm27_a_clock_that_is_far_ahead_moves_nothing() {
    let rules = DecodeRules { time_field: Some("t".into()), ..rules() };
    let (_, results) = decode(&rules, &[r#"{"t":"2026-11-21T00:59:59Z"}"#, r#"{"t":"2226-01-01"}"#]);
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().reason, Reason::FutureTimestamp);
}

#[test]
fn duplicate_fields_and_two_objects_are_refused_and_the_next_event_is_whole() {
    check(
        &[r#"{"a":1,"a":2}"#, r#"{"a":3}{"a":4}"#, r#"{"a":"#, "", r#"{"a":5}"#],
        &[r#"{"a":5}"#],
        &[
            "a field comes twice at byte 12",
            "trailing data after the object at byte 7",
            "the object is truncated at byte 5",
            "an event must be a JSON object; it is empty at byte 0",
        ],
    );
}

#[test]
fn unknown_fields_add_columns() {
    check(
        &[r#"{"a":1}"#, r#"{"b":"x","a":2}"#, r#"{"c":{"d":[1,2]}}"#],
        &[r#"{"a":1}"#, r#"{"a":2,"b":"x"}"#, r#"{"c":{"d":[1,2]}}"#],
        &[],
    );
}

#[test]
fn integers_widen_while_the_column_is_new_and_stay_exact() {
    check(&[r#"{"a":1}"#, r#"{"a":2.5}"#, r#"{"a":3}"#], &[r#"{"a":1.0}"#, r#"{"a":2.5}"#, r#"{"a":3.0}"#], &[]);
    check(
        &[r#"{"a":9007199254740993}"#, r#"{"a":2.5}"#],
        &[r#"{"a":9007199254740993}"#],
        &["field a: 2.5 does not fit BIGINT"],
    );
    check(
        &[r#"{"a":0.5}"#, r#"{"a":9007199254740993}"#],
        &[r#"{"a":0.5}"#],
        &["field a: 9007199254740993 does not fit DOUBLE"],
    );
    check(&[r#"{"a":18446744073709551615}"#], &[], &["field a: 18446744073709551615 does not fit any column type"]);
}

#[test]
fn an_event_that_does_not_fit_adds_no_column() {
    let (decoder, results) = decode(&rules(), &[r#"{"a":1}"#, r#"{"b":2,"a":"x"}"#]);
    assert!(results[1].is_err());
    assert_eq!(decoder.schema().columns.len(), META_COLUMNS.len() + 1);
}

#[test]
fn nested_values_keep_their_shape() {
    check(
        &[
            r#"{"p":[{"x":1},{"y":"b","x":2.5}],"s":{"t":null}}"#,
            r#"{"p":[],"s":{"t":true}}"#,
            r#"{"p":null}"#,
            r#"{"p":[{"x":"no"}]}"#,
        ],
        &[r#"{"p":[{"x":1.0},{"x":2.5,"y":"b"}]}"#, r#"{"p":[],"s":{"t":true}}"#, r#"{}"#],
        &["field p[].x: a string does not fit DOUBLE"],
    );
}

#[test]
fn an_empty_value_before_its_type_is_known_asks_for_another_reading() {
    let (decoder, _) = decode(&rules(), &[r#"{"a":[]}"#, r#"{"a":[1]}"#]);
    assert!(decoder.must_read_again());
    let (decoder, _) = decode(&rules(), &[r#"{"a":null}"#, r#"{"a":[1]}"#]);
    assert!(!decoder.must_read_again());
}

#[test]
fn the_final_schema_gives_the_same_rows() {
    let events = [
        r#"{"a":1,"s":{"x":1}}"#,
        r#"{"a":2.5,"b":[{"c":1}]}"#,
        r#"{"a":"no"}"#,
        r#"{"s":{"x":3,"y":"z"},"b":[{"c":2,"d":true}]}"#,
    ];
    let rows = |decoder: &mut Decoder| {
        let schema = Arc::new(decoder.schema().arrow_schema());
        let mut hasher = headwater_lake::digest::RowHasher::new(&schema);
        decoder.take(true).iter().for_each(|decoded| hasher.update(&adapt(&decoded.rows, &schema)));
        hasher.finish()
    };
    let (mut first, results) = decode(&rules(), &events);
    let mut second = Decoder::new(&rules(), Some(&first.schema()), &[], 20, Growing::Fixed);
    let again: Vec<_> = (1..).zip(&events).map(|(number, payload)| second.push("0", &event(number, payload))).collect();
    assert_eq!(again, results);
    assert_eq!(rows(&mut first), rows(&mut second));
}

#[test]
fn names_that_are_taken_are_mapped() {
    let (decoder, _) = decode(&rules(), &[r#"{"_shard":1,"A b":2,"a_b":3,"_event_id":"id"}"#]);
    let names: Vec<_> = decoder.schema().columns[5..].iter().map(|column| column.name.clone()).collect();
    assert_eq!(names, ["_shard_2", "A_b", "a_b_2"]);
}

#[test]
fn event_ids_come_from_the_event_or_from_the_position() {
    let (mut decoder, _) = decode(&rules(), &[r#"{"_event_id":"x\n1"}"#, r#"{"_event_id":7}"#, r#"{"a":1}"#]);
    let ids: Vec<String> = decoder
        .take(true)
        .iter()
        .flat_map(|decoded| {
            let ids = decoded.rows.column(0).as_any().downcast_ref::<StringArray>().unwrap();
            ids.iter().map(|id| id.unwrap().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(ids, ["x\n1", "7", "0:3:0"]);
}

#[test]
fn parts_of_an_event_that_disagree_are_a_conflict() {
    check(
        &[
            r#"{"p":[{"x":1}]}"#,
            r#"{"p":[{"k":1},{"k":"s"}]}"#,
            r#"{"p":[{"k":1},{"k":[]}]}"#,
            r#"{"p":[{"k":true},{"k":5}]}"#,
            r#"{"a":[9007199254740993,2.5]}"#,
            r#"{"p":[{"x":2}]}"#,
        ],
        &[r#"{"p":[{"x":1}]}"#, r#"{"p":[{"x":2}]}"#],
        &[
            "field p[].k: a string does not fit BIGINT",
            "field p[].k: an array does not fit BIGINT",
            "field p[].k: 5 does not fit BOOLEAN",
            "field a[]: 9007199254740993 does not fit DOUBLE",
        ],
    );
}

proptest::proptest! {
    /// No byte sequence makes the decoder panic, and what it takes comes out the same with the final schema.
    #[test]
    fn any_events_decode_the_same_again(events in proptest::collection::vec(json(), 1..12)) {
        let payloads: Vec<&str> = events.iter().map(String::as_str).collect();
        let (mut first, results) = decode(&rules(), &payloads);
        let schema = first.schema();
        let fixed = |schema: &TableSchema| Decoder::new(&rules(), Some(schema), &[], 20, Growing::Fixed);
        let run = |decoder: &mut Decoder| -> Vec<_> {
            (1..).zip(&payloads).map(|(number, payload)| decoder.push("0", &event(number, payload))).collect()
        };
        let rows = |decoder: &mut Decoder| {
            let arrow = Arc::new(schema.arrow_schema());
            let mut hasher = headwater_lake::digest::RowHasher::new(&arrow);
            decoder.take(true).iter().for_each(|decoded| hasher.update(&adapt(&decoded.rows, &arrow)));
            hasher.finish()
        };
        let mut second = fixed(&schema);
        let again = run(&mut second);
        if !first.must_read_again() {
            proptest::prop_assert_eq!(&again, &results);
            proptest::prop_assert_eq!(rows(&mut first), rows(&mut second));
        }
        let mut third = fixed(&schema);
        proptest::prop_assert_eq!(run(&mut third), again);
    }

    /// The direct way and the tape's give the same rows, ids, times and misfits.
    #[test]
    fn any_events_decode_the_same_directly(
        events in proptest::collection::vec(written(), 1..16),
        id_field in proptest::sample::select(vec![EVENT_ID_FIELD, "a"]),
        time_field in proptest::sample::select(vec![None, Some("t")]),
        time_format in proptest::sample::select(vec![event_time::Format::Text, event_time::Format::EpochMs]),
        missing_time in proptest::sample::select(vec![MissingTime::Arrival, MissingTime::DeadLetter]),
    ) {
        let time_field = time_field.map(Into::into);
        let rules = DecodeRules { id_field: id_field.into(), time_field, time_format, missing_time, ..rules() };
        let run = |schema: Option<&TableSchema>, growing, tape_only| {
            let mut decoder = Decoder::new(&rules, schema, &[], 20, growing);
            decoder.tape_only = tape_only;
            let pushed = (1..).zip(&events).map(|(number, payload)| decoder.push("0", &event(number, payload)));
            let results: Vec<_> = pushed.collect();
            let schema = decoder.schema();
            let arrow = Arc::new(schema.arrow_schema());
            let rows: Vec<_> = decoder.take(true).iter().map(|decoded| adapt(&decoded.rows, &arrow)).collect();
            (results, rows, decoder.must_read_again(), schema)
        };
        let by_tape = run(None, Growing::Allowed, true);
        proptest::prop_assert_eq!(&run(None, Growing::Allowed, false), &by_tape);
        let schema = Some(&by_tape.3);
        proptest::prop_assert_eq!(run(schema, Growing::Fixed, false), run(schema, Growing::Fixed, true));
    }

    #[test]
    fn any_bytes_are_a_row_or_a_misfit(payload in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
        let mut decoder = Decoder::new(&rules(), None, &[], 20, Growing::Allowed);
        let event = Event { payload: payload.into(), ..event(1, "") };
        let _ = decoder.push("0", &event);
    }
}

/// An event as somebody might write it: spaces, escapes, fields in any order and sometimes twice.
fn written() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let value = prop_oneof![
        6 => json(),
        6 => proptest::sample::select(vec![
            "null", "true", "false", "0", "-0", "-0.0", "7", "-12", "1.5", "2.0", "1e3", "1E400", "0.1", "123456789012345678",
            "9223372036854775807", "9007199254740993", "12345678901234567890.5", "\"x\"", "\"\"", "\"a\\\"b\\u00e4\"",
            "\"2026-11-20\"", "\"2026-11-20T10:00:00Z\"", "\"2226-01-01\"", "[]", "[1,2]", "[1,null]", "[\"y\"]",
            "{\"x\":1}", "{\"x\":null,\"x\":null}", "{\"y\":[{\"z\":true}]}", "01", "+1", "tru", "\"\\x\"",
        ]).prop_map(str::to_owned),
    ];
    let name = proptest::sample::select(vec!["a", "b", "t", "_event_id", "c\\n", "d", "\\u0061"]);
    let space = proptest::sample::select(vec!["", "", "", " ", "\t", "\n "]);
    let field = (name, space.clone(), value, space).prop_map(|(n, s, v, e)| format!("\"{n}\":{s}{v}{e}"));
    (proptest::collection::vec(field, 0..5), proptest::sample::select(vec!["", "", "", " ", "x", "{}"]))
        .prop_map(|(fields, rest)| format!("{{{}}}{rest}", fields.join(",")))
}

/// Small objects with few names, so that they often meet and often disagree.
fn json() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        (-3_i64..3).prop_map(|n| n.to_string()),
        Just("9007199254740993".to_owned()),
        Just("1.5".to_owned()),
        Just("2.0".to_owned()),
        Just("1e400".to_owned()),
        Just("\"x\"".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            object(inner),
        ]
    });
    object(value)
}

fn object(
    value: impl proptest::strategy::Strategy<Value = String>,
) -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let names = proptest::sample::subsequence(vec!["a", "b", "b.a", ""], 0..4);
    (names, proptest::collection::vec(value, 4)).prop_map(|(names, values)| {
        let fields: Vec<_> = names.iter().zip(values).map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}
