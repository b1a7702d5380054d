//! Rows of one input as events: JSON with its id, its key and, where asked for, its time.

use std::io;

use headwater_common::event_time;
use headwater_common::limits;
use headwater_common::timestamp::Timestamp;

use crate::columns::CellType;
use crate::csv_rows::CsvRows;
use crate::lines::Window;
use crate::ndjson_rows::NdjsonRows;

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

/// One row, ready to be sent. Its space is used again for the next.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Its number in the file, from 1.
    pub number: u64,
    /// The line where it begins, from 1.
    pub line: u64,
    /// The byte of the decompressed input where it begins, from 0.
    pub byte: u64,
    /// JSON, without its event id: the text after `{`, with the `}`.
    pub body: Vec<u8>,
    /// The event id that the row brings along.
    pub own_id: Option<Vec<u8>>,
    /// Whether that id is in the body.
    pub body_has_id: bool,
    /// The partition key; the event id when `None`.
    pub key: Option<Vec<u8>>,
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
pub enum Found {
    /// A row, in the caller's space.
    Row,
    /// A row that cannot be sent.
    Reject(Reject),
    /// Nothing for now: a pipe is quiet. Asking again waits again.
    Quiet,
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
    Csv(Box<CsvRows>),
    Ndjson(NdjsonRows),
    Empty,
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
            Some(Format::Ndjson) => Kind::Ndjson(NdjsonRows::new(window, options.clone())),
            Some(Format::Csv) => match CsvRows::open(&name, window, options, types)? {
                Some(csv) => Kind::Csv(Box::new(csv)),
                None => Kind::Empty,
            },
        };
        Ok(Self { name, kind, number: 0, misfits: 0 })
    }

    /// Returns the types of a CSV's columns, to be kept for a resumed run.
    pub fn types(&self) -> Option<&[CellType]> {
        match &self.kind {
            Kind::Csv(csv) => Some(csv.types()),
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
    pub fn read(&mut self, row: &mut Row) -> Result<Option<Found>, Error> {
        let read = match &mut self.kind {
            Kind::Empty => Ok(None),
            Kind::Csv(csv) => csv.read(row, &mut self.misfits),
            Kind::Ndjson(ndjson) => ndjson.read(row),
        };
        let found = match read {
            Err(quiet) if quiet.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Found::Quiet)),
            other => other.map_err(|source| Error::Read { name: self.name.clone(), source })?,
        };
        self.number += u64::from(found.is_some());
        row.number = self.number;
        Ok(found)
    }
}

/// White space at the beginning of an input that is looked through for its first byte.
const BLANK_BYTES_MAX: usize = 1024 * 1024;

/// Looks at the first byte that is not white space.
fn sniff(window: &mut Window) -> io::Result<Option<Format>> {
    loop {
        let first = window.bytes().iter().find(|byte| !byte.is_ascii_whitespace());
        match first {
            Some(b'{') => return Ok(Some(Format::Ndjson)),
            Some(_) => return Ok(Some(Format::Csv)),
            // Tabs and blanks may be cells, so they are looked at and left where they are.
            None if window.bytes().len() > BLANK_BYTES_MAX => return Ok(Some(Format::Csv)),
            None => {
                if !window.more()? {
                    return Ok(None);
                }
            }
        }
    }
}

/// Fills a slot with a value, in the space of the one before.
pub(crate) fn assign(slot: &mut Option<Vec<u8>>, value: Option<&[u8]>) {
    match (slot.as_mut(), value) {
        (Some(space), Some(value)) => {
            space.clear();
            space.extend_from_slice(value);
        }
        (_, value) => *slot = value.map(<[u8]>::to_vec),
    }
}

/// Returns why a row cannot be an event.
pub(crate) fn unfit(row: &Row) -> Option<String> {
    // The id and its label are added later.
    const ROOM_FOR_ID: usize = 1024;
    if row.body.len() + ROOM_FOR_ID > limits::EVENT_BYTES_MAX {
        return Some(format!("the row is over {} bytes", limits::EVENT_BYTES_MAX - ROOM_FOR_ID));
    }
    // The id is the key where none is named.
    let is_long =
        |text: &Option<Vec<u8>>| text.as_ref().is_some_and(|text| text.len() > limits::PARTITION_KEY_BYTES_MAX);
    (is_long(&row.key) || is_long(&row.own_id))
        .then(|| format!("the key or the id is over {} bytes", limits::PARTITION_KEY_BYTES_MAX))
}
