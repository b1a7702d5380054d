//! Rows of a CSV: each column's type is told from the first rows, and its cells become JSON.

use std::collections::{HashSet, VecDeque};
use std::io;

use crate::columns::{Candidate, CellType, write_cell, write_string};
use crate::csv::{CsvReader, Next, Place, Record};
use crate::lines::Window;
use crate::rows::{EVENT_ID_FIELD, Error, Found, ReadOptions, Reject, Row, assign, unfit};

/// Rows that the types are told from.
const SAMPLE_ROWS: usize = 10_000;

/// Bytes of those rows at most, so that wide rows don't need more memory.
const SAMPLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Rows of a CSV, in order.
pub(crate) struct CsvRows {
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

impl CsvRows {
    /// Begins reading; `None` when there is not even a header.
    pub(crate) fn open(
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
        let mut seen = HashSet::new();
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
            write_string(column.as_bytes(), &mut label);
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
        csv.reader.say_when_quiet();
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
                        let cell = record.field(index);
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
            Next::Record if record.fields_are_text() => Ok(place),
            Next::Record => Err(reject("not UTF-8".to_owned(), &record.joined(self.options.delimiter))),
        }))
    }

    /// Returns the types of the columns.
    pub(crate) fn types(&self) -> &[CellType] {
        &self.types
    }

    /// Reads the next row; `None` at the end.
    pub(crate) fn read(&mut self, row: &mut Row, misfits: &mut u64) -> io::Result<Option<Found>> {
        let mut record = std::mem::take(&mut self.record);
        let found = match self.sample.pop_front() {
            Some(Sampled::Reject(reject)) => Ok(Some(Err(reject))),
            Some(Sampled::Record(sampled, place)) => {
                record = sampled;
                Ok(Some(Ok(place)))
            }
            None => self.read_record(&mut record),
        };
        let found = found.map(|found| {
            found.map(|found| match found {
                Err(reject) => Found::Reject(reject),
                Ok(place) => self.make_row(&record, place, row, misfits),
            })
        });
        self.record = record;
        found
    }

    fn make_row(&self, record: &Record, place: Place, row: &mut Row, misfits: &mut u64) -> Found {
        (row.line, row.byte) = (place.line, place.byte);
        row.body.clear();
        for (index, label) in self.labels.iter().enumerate() {
            if Some(index) == self.own_id {
                continue;
            }
            if !row.body.is_empty() {
                row.body.push(b',');
            }
            row.body.extend_from_slice(label);
            let cell = record.field(index);
            if self.is_null(cell) {
                row.body.extend_from_slice(b"null");
            } else if !write_cell(cell, self.types[index], &mut row.body) {
                *misfits += 1;
            }
        }
        row.body.push(b'}');
        row.body_has_id = false;
        let present = |index: Option<usize>| index.map(|index| record.field(index)).filter(|cell| !self.is_null(cell));
        assign(&mut row.key, present(self.key));
        assign(&mut row.own_id, present(self.own_id));
        let time = present(self.time).and_then(|cell| std::str::from_utf8(cell).ok());
        row.time = time.and_then(|text| self.options.time_format.parse(text));
        match unfit(row) {
            None => Found::Row,
            Some(reason) => {
                let raw = String::from_utf8_lossy(&row.body[..row.body.len().min(1024)]).into_owned();
                Found::Reject(Reject { line: place.line, byte: place.byte, reason, raw })
            }
        }
    }

    fn is_null(&self, cell: &[u8]) -> bool {
        self.options.nulls.iter().any(|null| null.as_bytes() == cell)
    }
}
