//! Rows of an NDJSON file: one JSON object a line, sent as it is.

use std::borrow::Cow;
use std::io;

use headwater_common::limits;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::csv::Place;
use crate::lines::Window;
use crate::rows::{EVENT_ID_FIELD, Found, ReadOptions, Reject, Row, assign, unfit};

/// Rows of an NDJSON file, in order.
pub(crate) struct NdjsonRows {
    window: Window,
    options: ReadOptions,
}

impl NdjsonRows {
    /// Begins reading.
    pub(crate) fn new(mut window: Window, options: ReadOptions) -> Self {
        window.say_when_quiet();
        Self { window, options }
    }

    /// Reads the next row; `None` at the end.
    pub(crate) fn read(&mut self, row: &mut Row) -> io::Result<Option<Found>> {
        let Self { window, options } = self;
        loop {
            let place = Place { line: window.line + 1, byte: window.offset };
            let reject = |reason: String, raw: &[u8]| {
                let raw = String::from_utf8_lossy(&raw[..raw.len().min(64 * 1024)]).into_owned();
                Ok(Some(Found::Reject(Reject { line: place.line, byte: place.byte, reason, raw })))
            };
            let (content, whole) = match window.line(limits::EVENT_BYTES_MAX)? {
                None => return Ok(None),
                Some(Ok(lengths)) => lengths,
                Some(Err(limit)) => {
                    let raw = window.bytes()[..1024.min(window.bytes().len())].to_vec();
                    window.skip_line()?;
                    return reject(format!("the line is over {limit} bytes"), &raw);
                }
            };
            let line = window.bytes()[..content].trim_ascii();
            let taken = take(line, options, row);
            (row.line, row.byte) = (place.line, place.byte);
            let rejected = taken.map(|reason| reject(reason, line));
            let is_empty = line.is_empty();
            window.consume(whole);
            match rejected {
                Some(rejected) => return rejected,
                None if is_empty => {}
                None => return Ok(Some(Found::Row)),
            }
        }
    }
}

/// Makes a row of a line that is not empty; returns why not when it cannot be one.
fn take(line: &[u8], options: &ReadOptions, row: &mut Row) -> Option<String> {
    if line.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return Some("not UTF-8".to_owned());
    };
    let mut wanted =
        Wanted { key: options.key.as_deref(), time: options.time_field.as_deref(), found: Fields::default() };
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = (&mut parser).deserialize_map(&mut wanted).and_then(|()| parser.end());
    if let Err(error) = parsed {
        return Some(format!("not a JSON object: {error}"));
    }
    let Fields { key, time, own_id, has_id } = wanted.found;
    if own_id.is_none() && has_id {
        return Some(format!("its {EVENT_ID_FIELD} is null"));
    }
    row.body.clear();
    row.body.reserve_exact(line.len());
    row.body.extend_from_slice(line[1..].trim_ascii_start());
    row.body_has_id = own_id.is_some();
    assign(&mut row.key, key.as_deref().map(str::as_bytes));
    assign(&mut row.own_id, own_id.as_deref().map(str::as_bytes));
    row.time = time.and_then(|text| options.time_format.parse(&text));
    unfit(row)
}

/// Picks a few fields out of an object without building the rest.
struct Wanted<'a> {
    key: Option<&'a str>,
    time: Option<&'a str>,
    found: Fields,
}

#[derive(Default)]
struct Fields {
    key: Option<String>,
    time: Option<String>,
    own_id: Option<String>,
    has_id: bool,
}

impl<'de> Visitor<'de> for &mut Wanted<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let (is_key, is_time) = (self.key == Some(&name), self.time == Some(&name));
            let is_id = name == EVENT_ID_FIELD;
            if !(is_key || is_time || is_id) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let text = match map.next_value::<Value>()? {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            };
            if is_key {
                self.found.key.clone_from(&text);
            }
            if is_time {
                self.found.time.clone_from(&text);
            }
            if is_id {
                self.found.has_id = true;
                self.found.own_id = text;
            }
        }
        Ok(())
    }
}
