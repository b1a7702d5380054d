//! Bytes as a CSV or NDJSON file: reading ends, every row that is sent is JSON, and it does not matter where a read of
//! the input ended.
#![no_main]

use std::io::{Cursor, Read};

use headwater_common::event_time;
use headwater_producer::rows::{EVENT_ID_FIELD, Format, Found, ReadOptions, Reject, Row, Rows};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, from_str};

const TIME_FORMATS: [event_time::Format; 4] =
    [event_time::Format::Text, event_time::Format::EpochS, event_time::Format::EpochMs, event_time::Format::EpochUs];

fuzz_target!(|data: &[u8]| {
    // How to read, and how many bytes the first read gives: a pipe may end one anywhere.
    let &[how, first, ref bytes @ ..] = data else { return };
    let is_named = how & 0b1000 != 0;
    let options = ReadOptions {
        format: [None, Some(Format::Csv), Some(Format::Ndjson), None][usize::from((how >> 4) & 3)],
        delimiter: b",;\t|"[usize::from(how & 3)],
        quote: b'"',
        columns: is_named.then(|| vec!["a".to_owned(), "b".to_owned(), EVENT_ID_FIELD.to_owned()]),
        nulls: vec![String::new()],
        strings: how & 0b100 != 0,
        key: is_named.then(|| "a".to_owned()),
        time_field: is_named.then(|| "b".to_owned()),
        time_format: TIME_FORMATS[usize::from(how >> 6)],
    };
    let (head, tail) = bytes.split_at(usize::from(first).min(bytes.len()));
    let in_two_reads = Cursor::new(head.to_vec()).chain(Cursor::new(tail.to_vec()));
    let found = read_all(Box::new(in_two_reads), bytes.len(), &options);
    assert_eq!(found, read_all(Box::new(Cursor::new(bytes.to_vec())), bytes.len(), &options));
});

/// What became of a stretch of the input.
#[derive(Debug, PartialEq)]
enum Outcome {
    Sent { number: u64, body: Vec<u8>, key: Option<Vec<u8>> },
    Rejected(Reject),
}

/// Returns what became of all of the input; `None` when it cannot be read at all.
fn read_all(reader: Box<dyn Read + Send>, length: usize, options: &ReadOptions) -> Option<Vec<Outcome>> {
    let mut rows = Rows::open("input".to_owned(), reader, options, None).ok()?;
    let is_csv = rows.types().is_some();
    let mut row = Row::default();
    let mut outcomes = Vec::new();
    while let Some(found) = rows.read(&mut row).expect("memory can be read") {
        assert!(row.number <= length as u64, "what is found without taking a byte never ends");
        match found {
            Found::Row => {
                check_json(&row, is_csv);
                outcomes.push(Outcome::Sent { number: row.number, body: row.body.clone(), key: row.key.clone() });
            }
            Found::Reject(reject) => outcomes.push(Outcome::Rejected(reject)),
            Found::Quiet => panic!("memory is never quiet"),
        }
    }
    Some(outcomes)
}

fn check_json(row: &Row, is_csv: bool) {
    let json = format!("{{{}", std::str::from_utf8(&row.body).expect("a row is text"));
    // NDJSON is sent as it is, also what is JSON beyond serde_json's own limits: 1e999, or 200 brackets.
    let parsed = if is_csv {
        from_str::<Map<String, Value>>(&json).map(drop)
    } else {
        from_str::<IgnoredAny>(&json).map(drop)
    };
    assert!(parsed.is_ok(), "{parsed:?}: {json}");
}
