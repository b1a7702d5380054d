//! Bytes as a CSV or NDJSON file: reading ends, and every row that is sent is JSON.
#![no_main]

use std::io::{Cursor, Read};

use headwater_common::event_time;
use headwater_producer::rows::{EVENT_ID_FIELD, Format, Found, ReadOptions, Row, Rows};
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
    let reader = Cursor::new(head.to_vec()).chain(Cursor::new(tail.to_vec()));
    let Ok(mut rows) = Rows::open("input".to_owned(), Box::new(reader), &options, None) else { return };
    let is_csv = rows.types().is_some();
    let mut row = Row::default();
    while let Some(found) = rows.read(&mut row).expect("memory can be read") {
        assert!(row.number <= bytes.len() as u64, "what is found without taking a byte never ends");
        assert!(!matches!(found, Found::Quiet), "memory is never quiet");
        if matches!(found, Found::Row) {
            let json = format!("{{{}", std::str::from_utf8(&row.body).expect("a row is text"));
            // NDJSON is sent as it is, also what is JSON beyond serde_json's own limits: 1e999, or 200 brackets.
            let parsed = if is_csv {
                from_str::<Map<String, Value>>(&json).map(drop)
            } else {
                from_str::<IgnoredAny>(&json).map(drop)
            };
            assert!(parsed.is_ok(), "{parsed:?}: {json}");
        }
    }
});
