//! Rows of one input as events: JSON with its id, its key and, where asked for, its time.

use std::collections::VecDeque;
use std::io;

use headwater_common::event_time;
use headwater_common::limits;
use headwater_common::timestamp::Timestamp;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::columns::{Candidate, CellType, write_cell, write_string};
use crate::csv::{CsvReader, Next, Place, Record};
use crate::lines::Window;

/// Rows that the types are told from.
const SAMPLE_ROWS: usize = 10_000;

/// Bytes of those rows at most, so that wide rows don't need more memory.
const SAMPLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The field that carries the event id.
pub const EVENT_ID_FIELD: &str = "_event_id";

/// How an input is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// How rows are read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The format; `None` looks at the first byte that is not white space: `{` means NDJSON.
    pub format: Option<Format>,
    /// The byte between fields.
    pub delimiter: u8,
    /// The byte around fields.
    pub quote: u8,
    /// The columns' names where the file has no header.
    pub columns: Option<Vec<String>>,
    /// Cells that are null.
    pub nulls: Vec<String>,
    /// Whether all cells stay strings.
    pub strings: bool,
    /// The column whose value is the partition key; the event id when `None`.
    pub key: Option<String>,
    /// The column with the event time.
    pub time_field: Option<String>,
    /// How that is written.
    pub time_format: event_time::Format,
}

/// One row, ready to be sent.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Its number in the file, from 1.
    pub number: u64,
    /// JSON, without its event id: the text after `{`, with the `}`.
    pub body: Vec<u8>,
    /// The event id that the row brings along.
    pub own_id: Option<String>,
    /// Whether that id is in the body.
    pub body_has_id: bool,
    /// The partition key; the event id when `None`.
    pub key: Option<String>,
    /// The event time, when one was asked for and could be read.
    pub time: Option<Timestamp>,
}

/// A row that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The line where it begins, from 1.
    pub line: u64,
    /// The byte of the decompressed input where it begins, from 0.
    pub byte: u64,
    /// What is wrong.
    pub reason: String,
    /// The row as it was, as far as it is text.
    pub raw: String,
}

/// What was read.
#[derive(Debug)]
pub enum Item {
    /// A row.
    Row(Row),
    /// A row that cannot be sent.
    Reject(Reject),
}

/// What stops the reading of an input.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read {name}")]
    Read {
        /// The input.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has no such column.
    #[error("{name} has no column `{column}`; it has: {existing}")]
    NoColumn {
        /// The input.
        name: String,
        /// The column asked for.
        column: String,
        /// Those there are.
        existing: String,
    },
    /// A name comes twice in the header.
    #[error("{name} has the column `{column}` twice; give other names with --columns")]
    ColumnTwice {
        /// The input.
        name: String,
        /// The name.
        column: String,
    },
}

/// Rows of one input, in order. Memory does not grow with the input.
pub struct Rows {
    name: String,
    kind: Kind,
    number: u64,
    misfits: u64,
}

enum Kind {
    Csv(Box<Csv>),
    Ndjson { window: Window, options: ReadOptions },
    Empty,
}

struct Csv {
    reader: CsvReader,
    options: ReadOptions,
    columns: Vec<String>,
    /// `"name":` of every column.
    labels: Vec<Vec<u8>>,
    types: Vec<CellType>,
    key: Option<usize>,
    time: Option<usize>,
    own_id: Option<usize>,
    sample: VecDeque<Sampled>,
    record: Record,
}

enum Sampled {
    Record(Record, Place),
    Reject(Reject),
}

impl Rows {
    /// Begins reading an input. `types` are those of an earlier run, or told from the first rows when `None`.
    ///
    /// # Errors
    /// When it cannot be read, or lacks a column that the options name.
    pub fn open(
        name: String,
        reader: Box<dyn io::Read + Send>,
        options: &ReadOptions,
        types: Option<Vec<CellType>>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Read { name: name.clone(), source };
        let mut window = Window::new(reader).map_err(failed)?;
        let format = match options.format {
            Some(format) => Some(format),
            None => sniff(&mut window).map_err(failed)?,
        };
        let kind = match format {
            None => Kind::Empty,
            Some(Format::Ndjson) => Kind::Ndjson { window, options: options.clone() },
            Some(Format::Csv) => match Csv::open(&name, window, options, types)? {
                Some(csv) => Kind::Csv(Box::new(csv)),
                None => Kind::Empty,
            },
        };
        Ok(Self { name, kind, number: 0, misfits: 0 })
    }

    /// Returns the types of a CSV's columns, to be kept for a resumed run.
    pub fn types(&self) -> Option<&[CellType]> {
        match &self.kind {
            Kind::Csv(csv) => Some(&csv.types),
            _ => None,
        }
    }

    /// Returns how many cells did not fit their column's type and were sent as strings.
    pub fn misfits(&self) -> u64 {
        self.misfits
    }

    /// Reads the next row; `None` at the end.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub fn read(&mut self) -> Result<Option<Item>, Error> {
        let read = match &mut self.kind {
            Kind::Empty => Ok(None),
            Kind::Csv(csv) => csv.next(&mut self.misfits),
            Kind::Ndjson { window, options } => next_line(window, options),
        };
        let item = read.map_err(|source| Error::Read { name: self.name.clone(), source })?;
        Ok(item.map(|item| {
            self.number += 1;
            match item {
                Item::Row(row) => Item::Row(Row { number: self.number, ..row }),
                reject => reject,
            }
        }))
    }
}

/// Looks at the first byte that is not white space.
fn sniff(window: &mut Window) -> io::Result<Option<Format>> {
    loop {
        let first = window.bytes().iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            Some(b'{') => return Ok(Some(Format::Ndjson)),
            Some(_) => return Ok(Some(Format::Csv)),
            None => {
                let all = window.bytes().len();
                window.consume(all);
                if !window.more()? {
                    return Ok(None);
                }
            }
        }
    }
}

impl Csv {
    fn open(
        name: &str,
        window: Window,
        options: &ReadOptions,
        types: Option<Vec<CellType>>,
    ) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Read { name: name.to_owned(), source };
        let mut reader = CsvReader::behind(window, options.delimiter, options.quote);
        let mut record = Record::default();
        let columns = match &options.columns {
            Some(columns) => columns.clone(),
            None => match reader.next(&mut record).map_err(failed)? {
                Next::Record => (0..record.len())
                    .map(|index| String::from_utf8_lossy(record.field(index)).trim().to_owned())
                    .collect(),
                Next::End => return Ok(None),
                Next::Bad { reason, .. } => {
                    let source = io::Error::new(io::ErrorKind::InvalidData, format!("the header is bad: {reason}"));
                    return Err(failed(source));
                }
            },
        };
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = columns.iter().find(|column| !seen.insert(column.as_str())) {
            return Err(Error::ColumnTwice { name: name.to_owned(), column: twice.clone() });
        }
        let find = |wanted: &Option<String>| {
            let Some(wanted) = wanted else {
                return Ok(None);
            };
            let index = columns.iter().position(|column| column == wanted);
            index.map(Some).ok_or_else(|| Error::NoColumn {
                name: name.to_owned(),
                column: wanted.clone(),
                existing: columns.join(", "),
            })
        };
        let (key, time) = (find(&options.key)?, find(&options.time_field)?);
        let own_id = columns.iter().position(|column| column == EVENT_ID_FIELD);
        let label = |column: &String| {
            let mut label = Vec::new();
            write_string(column, &mut label);
            label.push(b':');
            label
        };
        let mut csv = Self {
            reader,
            options: options.clone(),
            labels: columns.iter().map(label).collect(),
            types: Vec::new(),
            key,
            time,
            own_id,
            sample: VecDeque::new(),
            record,
            columns,
        };
        csv.types = match types {
            Some(types) if types.len() == csv.columns.len() => types,
            _ if options.strings => vec![CellType::String; csv.columns.len()],
            _ => csv.tell_types().map_err(failed)?,
        };
        Ok(Some(csv))
    }

    fn tell_types(&mut self) -> io::Result<Vec<CellType>> {
        let mut candidates = vec![Candidate::default(); self.columns.len()];
        let mut bytes = 0;
        while self.sample.len() < SAMPLE_ROWS && bytes < SAMPLE_BYTES_MAX {
            let mut record = Record::default();
            match self.read_record(&mut record)? {
                None => break,
                Some(Err(reject)) => {
                    bytes += reject.raw.len();
                    self.sample.push_back(Sampled::Reject(reject));
                }
                Some(Ok(place)) => {
                    bytes += record.text().len() + record.len() * 8;
                    for (index, candidate) in candidates.iter_mut().enumerate() {
                        let cell = std::str::from_utf8(record.field(index)).expect("the record was checked");
                        if !self.is_null(cell) {
                            candidate.see(cell);
                        }
                    }
                    record.shrink();
                    self.sample.push_back(Sampled::Record(record, place));
                }
            }
        }
        Ok(candidates.into_iter().map(Candidate::decide).collect())
    }

    /// Reads a record that has the right number of fields and is UTF-8, or says why it is not.
    fn read_record(&mut self, record: &mut Record) -> io::Result<Option<Result<Place, Reject>>> {
        self.reader.skip_empty_lines()?;
        let place = self.reader.place();
        let reject = |reason: String, raw: &[u8]| Reject {
            line: place.line,
            byte: place.byte,
            reason,
            raw: String::from_utf8_lossy(raw).into_owned(),
        };
        Ok(Some(match self.reader.next(record)? {
            Next::End => return Ok(None),
            Next::Bad { reason, raw } => Err(reject(reason.to_owned(), &raw)),
            Next::Record if record.len() != self.columns.len() => {
                let reason = format!("{} fields instead of {}", record.len(), self.columns.len());
                Err(reject(reason, &record.joined(self.options.delimiter)))
            }
            Next::Record => match std::str::from_utf8(record.text()) {
                Ok(_) if record.fields_are_text() => Ok(place),
                _ => Err(reject("not UTF-8".to_owned(), &record.joined(self.options.delimiter))),
            },
        }))
    }

    fn next(&mut self, misfits: &mut u64) -> io::Result<Option<Item>> {
        let mut record = std::mem::take(&mut self.record);
        let found = match self.sample.pop_front() {
            Some(Sampled::Reject(reject)) => Some(Err(reject)),
            Some(Sampled::Record(sampled, place)) => {
                record = sampled;
                Some(Ok(place))
            }
            None => self.read_record(&mut record)?,
        };
        let item = found.map(|found| match found {
            Err(reject) => Item::Reject(reject),
            Ok(place) => self.item(&record, place, misfits),
        });
        self.record = record;
        Ok(item)
    }

    fn item(&self, record: &Record, place: Place, misfits: &mut u64) -> Item {
        let mut body = Vec::with_capacity(record.text().len() + self.labels.len() * 16);
        for (index, label) in self.labels.iter().enumerate() {
            if Some(index) == self.own_id {
                continue;
            }
            if !body.is_empty() {
                body.push(b',');
            }
            body.extend_from_slice(label);
            let cell = self.cell(record, index);
            if self.is_null(cell) {
                body.extend_from_slice(b"null");
            } else if !write_cell(cell, self.types[index], &mut body) {
                *misfits += 1;
            }
        }
        body.push(b'}');
        let present = |index: Option<usize>| {
            index.map(|index| self.cell(record, index)).filter(|cell| !self.is_null(cell)).map(str::to_owned)
        };
        let (key, own_id) = (present(self.key), present(self.own_id));
        if let Some(reason) = unfit(&body, key.as_deref(), own_id.as_deref()) {
            let raw = String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned();
            return Item::Reject(Reject { line: place.line, byte: place.byte, reason, raw });
        }
        let time = present(self.time).and_then(|cell| self.options.time_format.parse(&cell));
        Item::Row(Row { number: 0, own_id, body_has_id: false, key, time, body })
    }

    fn cell<'a>(&self, record: &'a Record, index: usize) -> &'a str {
        std::str::from_utf8(record.field(index)).expect("the record was checked")
    }

    fn is_null(&self, cell: &str) -> bool {
        self.options.nulls.iter().any(|null| null == cell)
    }
}

/// Returns why a row cannot be an event.
fn unfit(body: &[u8], key: Option<&str>, id: Option<&str>) -> Option<String> {
    // The id and its label are added later.
    const ROOM_FOR_ID: usize = 1024;
    if body.len() + ROOM_FOR_ID > limits::EVENT_BYTES_MAX {
        return Some(format!("the row is over {} bytes", limits::EVENT_BYTES_MAX - ROOM_FOR_ID));
    }
    // The id is the key where none is named.
    let is_long = |text: Option<&str>| text.is_some_and(|text| text.len() > limits::PARTITION_KEY_BYTES_MAX);
    (is_long(key) || is_long(id))
        .then(|| format!("the key or the id is over {} bytes", limits::PARTITION_KEY_BYTES_MAX))
}

fn next_line(window: &mut Window, options: &ReadOptions) -> io::Result<Option<Item>> {
    loop {
        let place = Place { line: window.line + 1, byte: window.offset };
        let reject = |reason: String, raw: &[u8]| {
            let raw = String::from_utf8_lossy(&raw[..raw.len().min(64 * 1024)]).into_owned();
            Ok(Some(Item::Reject(Reject { line: place.line, byte: place.byte, reason, raw })))
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
        let line = window.bytes()[..content].trim_ascii().to_vec();
        window.consume(whole);
        if line.is_empty() {
            continue;
        }
        let Ok(text) = std::str::from_utf8(&line) else {
            return reject("not UTF-8".to_owned(), &line);
        };
        let mut wanted =
            Wanted { key: options.key.as_deref(), time: options.time_field.as_deref(), found: Found::default() };
        let mut parser = serde_json::Deserializer::from_str(text);
        let parsed = (&mut parser).deserialize_map(&mut wanted).and_then(|()| parser.end());
        if let Err(error) = parsed {
            return reject(format!("not a JSON object: {error}"), &line);
        }
        let Found { key, time, own_id, has_id } = wanted.found;
        if own_id.is_none() && has_id {
            return reject(format!("its {EVENT_ID_FIELD} is null"), &line);
        }
        if let Some(reason) = unfit(&line, key.as_deref(), own_id.as_deref()) {
            return reject(reason, &line[..line.len().min(1024)]);
        }
        let body = line[1..].trim_ascii_start().to_vec();
        let time = time.and_then(|text| options.time_format.parse(&text));
        let body_has_id = own_id.is_some();
        return Ok(Some(Item::Row(Row { number: 0, body, own_id, body_has_id, key, time })));
    }
}

/// Picks a few fields out of an object without building the rest.
struct Wanted<'a> {
    key: Option<&'a str>,
    time: Option<&'a str>,
    found: Found,
}

#[derive(Default)]
struct Found {
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
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
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
