//! Events to columns, directed by the table's schema, which grows with them.
//!
//! Guarantees: an event is a row whole or not at all; a value is stored as it is or not at all; the rows are a
//! function of the events and of the schema that the decoder ends with. Where the last would not hold (a path had an
//! empty value before its type was known), [`Decoder::must_read_again`] says so.
//!
//! ```text
//! bytes --direct--> columns, 8,192 rows a batch            an event that simply fits
//!       --tape--> nodes --shape--> fits? grows? --> columns   every other one
//! ```

mod acceptance;
mod adapt;
mod builder;
mod direct;
mod meta;
mod misfit;
mod scan;
mod shape;
mod tape;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use headwater_common::event::Event;
use headwater_common::event_time;
use headwater_common::timestamp::Timestamp;
use headwater_lake::schema::{Column, ColumnType, SchemaVersion, TableSchema};

pub use self::acceptance::Acceptance;
use self::acceptance::Judge;
pub use self::adapt::adapt;
use self::builder::{ColumnBuilder, append_object};
use self::direct::Meaning;
use self::meta::MetaBuilder;
pub use self::meta::{META_COLUMNS, meta_columns};
pub use self::misfit::{Misfit, Reason};
use self::shape::{COLUMNS_MAX, Growth, GrowthNotes, Parsed, Rules, leaves, too_many_columns};
use self::tape::{Kind, Tape};

/// Rows of a full batch.
pub const BATCH_ROWS: usize = 8_192;

/// Bytes that the columns of [`META_COLUMNS`] take in a row, about; a number that is text has 20 digits in the log.
const META_ROW_BYTES: usize = 80;

/// Bytes of values after which a batch is finished although it has fewer rows.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The field that carries the event id when no other is named. It is never a column of its own.
pub const EVENT_ID_FIELD: &str = "_event_id";

/// What to do with an event that has no event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingTime {
    /// Its arrival counts as its time.
    #[default]
    Arrival,
    /// It is a dead letter.
    DeadLetter,
}

/// What rows are a function of, besides the events and the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeRules {
    /// The top-level field with the event id.
    pub id_field: String,
    /// The top-level field with the event time; without one the arrival counts.
    pub time_field: Option<String>,
    /// How that field is written.
    pub time_format: event_time::Format,
    /// What to do without an event time.
    pub missing_time: MissingTime,
    /// How far after its arrival an event may claim to have happened.
    pub future_max: Duration,
}

/// Some rows, in the order of their events.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The columns; of the schema that the decoder had when they were finished.
    pub rows: RecordBatch,
    /// The event time of each row.
    pub times: Vec<Timestamp>,
    /// Bytes that the columns take, about.
    pub bytes: usize,
}

/// Decodes the events of one epoch.
#[derive(Debug)]
pub struct Decoder {
    rules: Rules,
    id_field: String,
    missing_time: MissingTime,
    future_max: Duration,
    sequence_digits: usize,
    /// Names that no column may take, in lower case.
    taken: BTreeSet<String>,
    base: SchemaVersion,
    columns: Vec<Column>,
    grown: bool,
    has_conflict: bool,
    notes: GrowthNotes,
    inexact: HashSet<String>,
    builders: Vec<ColumnBuilder>,
    meta: MetaBuilder,
    /// Bytes of the events in the unfinished batch.
    payload_bytes: usize,
    /// Bytes that the fixed part of one row takes at most.
    row_bytes: usize,
    /// Whether a column has lists, whose elements are counted one by one.
    has_lists: bool,
    tape: Tape,
    finished: Vec<Decoded>,
    /// Says whether a later stage can do with the columns that events ask for.
    judge: Option<Judge>,
    /// Takes the tape's way for every event, to compare the two.
    #[cfg(test)]
    tape_only: bool,
}

/// Whether the decoder may add columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growing {
    /// New fields add columns.
    Allowed,
    /// The schema is the one that a cut named.
    Fixed,
}

impl Decoder {
    /// Returns a decoder for a table's schema; `None` while there is no table, or version 0 with the columns that were
    /// declared for it. `reserved` are column names that the partitioning has taken.
    pub fn new(
        rules: &DecodeRules,
        schema: Option<&TableSchema>,
        reserved: &[String],
        sequence_digits: usize,
        growing: Growing,
    ) -> Self {
        let base = schema.map_or(SchemaVersion(0), |schema| schema.version);
        let columns = schema.map_or_else(Vec::new, |schema| schema.columns[META_COLUMNS.len()..].to_vec());
        let meta_names = META_COLUMNS.iter().map(|(name, _)| (*name).to_owned());
        let rules_of_shape = Rules {
            time_field: rules.time_field.clone(),
            time_format: rules.time_format,
            next: base.next(),
            may_grow: growing == Growing::Allowed,
        };
        let mut decoder = Self {
            rules: rules_of_shape,
            id_field: rules.id_field.clone(),
            missing_time: rules.missing_time,
            future_max: rules.future_max,
            sequence_digits,
            taken: meta_names.chain(reserved.iter().map(|name| name.to_lowercase())).collect(),
            base,
            columns,
            grown: base == SchemaVersion(0) && growing == Growing::Allowed,
            has_conflict: false,
            notes: GrowthNotes::default(),
            inexact: HashSet::new(),
            builders: Vec::new(),
            meta: MetaBuilder::default(),
            payload_bytes: 0,
            row_bytes: 0,
            has_lists: false,
            tape: Tape::default(),
            finished: Vec::new(),
            judge: None,
            #[cfg(test)]
            tape_only: false,
        };
        decoder.begin_columns();
        decoder
    }

    /// Returns the decoder, which from now on refuses events whose columns are not accepted.
    #[must_use]
    pub fn accepting(self, acceptance: Arc<dyn Acceptance>) -> Self {
        Self { judge: Some(Judge::new(acceptance)), ..self }
    }

    /// Appends an event as a row and returns its event time.
    ///
    /// # Errors
    /// When it cannot be a row; nothing of it was appended.
    pub fn push(&mut self, shard: &str, event: &Event) -> Result<Timestamp, Misfit> {
        let result = self.push_row(shard, event);
        // What the columns are decides these; the columns may grow.
        let by_schema = |misfit: &Misfit| matches!(misfit.reason, Reason::SchemaConflict | Reason::Transform);
        self.has_conflict |= result.as_ref().is_err_and(by_schema);
        result
    }

    fn push_row(&mut self, shard: &str, event: &Event) -> Result<Timestamp, Misfit> {
        let time = match self.push_directly(shard, event) {
            Some(time) => time,
            None => self.push_by_tape(shard, event)?,
        };
        self.payload_bytes += event.payload.len();
        if self.meta.rows() == BATCH_ROWS || self.batch_bytes() > BATCH_BYTES_MAX {
            self.finish_batch();
        }
        Ok(time)
    }

    /// Appends an event that simply fits; `None` when it does not.
    fn push_directly(&mut self, shard: &str, event: &Event) -> Option<Timestamp> {
        #[cfg(test)]
        if self.tape_only {
            return None;
        }
        let row = self.meta.rows();
        let meaning = Meaning {
            id_field: &self.id_field,
            time_field: self.rules.time_field.as_deref(),
            time_format: self.rules.time_format,
        };
        let said = direct::append(&event.payload, meaning, &self.columns, &mut self.builders, row).ok();
        let time = said.as_ref().and_then(|said| self.event_time(said.time, event).ok());
        match said.zip(time) {
            Some((said, time)) => {
                self.meta.append(said.id, shard, event, time, self.sequence_digits);
                Some(time)
            }
            None => {
                self.builders.iter_mut().for_each(|builder| builder.truncate(row));
                None
            }
        }
    }

    fn push_by_tape(&mut self, shard: &str, event: &Event) -> Result<Timestamp, Misfit> {
        let parse = self.tape.parse(&event.payload);
        parse.map_err(|error| Misfit::unreadable(&event.payload, &error))?;
        let special = self.special_fields(event)?;
        let event_time = self.event_time(self.said_time(event, special.time_at)?, event)?;

        let parsed = Parsed { tape: &self.tape, event: &event.payload };
        let mut growth = Growth::default();
        let open_inexact = std::cell::OnceCell::new();
        let inexact =
            |path: &str| self.inexact.contains(path) || open_inexact.get_or_init(|| self.open_inexact()).contains(path);
        self.rules.object_fits(&self.columns, parsed, 0, "", &mut growth, &inexact)?;
        if !growth.is_none() {
            self.grow(growth.added, event)?;
        }
        self.notes.untyped.extend(growth.untyped);
        let parsed = Parsed { tape: &self.tape, event: &event.payload };
        let row = self.meta.rows();
        append_object(&mut self.builders, &self.columns, row, parsed, 0, self.rules.time_format);
        self.meta.append(special.id.as_deref(), shard, event, event_time, self.sequence_digits);
        Ok(event_time)
    }

    /// Takes the rows that make full batches; with `all`, also those that do not fill one yet.
    pub fn take(&mut self, all: bool) -> Vec<Decoded> {
        if all && self.meta.rows() > 0 {
            self.finish_batch();
        }
        std::mem::take(&mut self.finished)
    }

    /// Returns the schema with what the events added; its version is the next one when they added something.
    pub fn schema(&self) -> TableSchema {
        let version = if self.grown { self.rules.next } else { self.base };
        // Columns that were declared before there was a table came with its first version.
        let since_first = |column: &Column| Column { since: column.since.max(SchemaVersion::FIRST), ..column.clone() };
        let columns = meta_columns().chain(self.columns.iter().map(since_first)).collect();
        TableSchema { version, columns, input: None }
    }

    /// Returns the version of the table's schema that the decoder began with; `None` when there was no table.
    pub fn base_version(&self) -> Option<SchemaVersion> {
        (self.base != SchemaVersion(0)).then_some(self.base)
    }

    /// Returns true when the events made the schema grow, or there was none.
    pub fn has_grown(&self) -> bool {
        self.grown
    }

    /// Returns true when the final schema may give other rows than came out: events that came before a column's type
    /// was known had an empty value for it, or a conflict was judged (and worded) by a schema that grew. Then the epoch
    /// must be decoded again with the schema that its cut will name, as a redo would.
    pub fn must_read_again(&self) -> bool {
        let typed_later = self.notes.typed.iter().any(|path| self.notes.untyped.contains(path));
        self.rules.may_grow && (typed_later || (self.grown && self.has_conflict))
    }

    /// Bytes that unfinished rows take, about.
    pub fn batch_bytes(&self) -> usize {
        let lists = if self.has_lists { self.builders.iter().map(ColumnBuilder::list_bytes).sum() } else { 0 };
        self.payload_bytes + self.meta.rows() * self.row_bytes + lists
    }

    fn special_fields(&mut self, event: &Event) -> Result<Special, Misfit> {
        let mut id_at = None;
        let mut time_at = None;
        let mut reserved_at = None;
        let parsed = Parsed { tape: &self.tape, event: &event.payload };
        let found = parsed.fields(0, |name, at| {
            if name == self.id_field.as_bytes() {
                id_at = Some(at);
            }
            if name == EVENT_ID_FIELD.as_bytes() {
                reserved_at = Some(at);
            }
            if self.rules.time_field.as_deref().map(str::as_bytes) == Some(name) {
                time_at = Some(at);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        match found {
            Ok(()) => {}
            Err(never) => match never {},
        }
        let scalar = |at: usize| {
            let node = parsed.node(at);
            match node.kind {
                Kind::Null => Ok(None),
                Kind::Text | Kind::EscapedText => Ok(Some(parsed.tape.text(node, &event.payload).into_owned())),
                Kind::Integer => Ok(Some(parsed.raw(node).to_owned())),
                _ => Err(Misfit::conflict(&self.id_field, "an event id", "what is no string and no integer")),
            }
        };
        let id = id_at.map(scalar).transpose()?.flatten();
        if let Some(at) = reserved_at {
            if Some(at) != id_at {
                scalar(at)?;
            }
            self.tape.take_out(at);
        }
        Ok(Special { id, time_at })
    }

    /// Returns the time that the time field says.
    fn said_time(&self, event: &Event, time_at: Option<usize>) -> Result<Option<Timestamp>, Misfit> {
        let node = time_at.map(|at| self.tape.node(at)).filter(|node| node.kind != Kind::Null);
        let (Some(field), Some(node)) = (&self.rules.time_field, node) else {
            return Ok(None);
        };
        let readable = matches!(node.kind, Kind::Text | Kind::Integer | Kind::Float);
        let fits_format = self.rules.time_format.is_epoch() || node.kind == Kind::Text;
        let literal = if readable && fits_format { self.tape.raw(node, &event.payload) } else { "" };
        let time = self.rules.time_format.parse(literal).ok_or_else(|| Misfit {
            reason: Reason::NoTimestamp,
            message: format!("field {field}: the event time cannot be read as {:?}", self.rules.time_format),
        })?;
        Ok(Some(time))
    }

    /// Returns the event time, given what the time field says.
    fn event_time(&self, said: Option<Timestamp>, event: &Event) -> Result<Timestamp, Misfit> {
        let Some(field) = &self.rules.time_field else {
            return Ok(event.arrived_at);
        };
        let Some(time) = said else {
            return match self.missing_time {
                MissingTime::Arrival => Ok(event.arrived_at),
                MissingTime::DeadLetter => Err(Misfit {
                    reason: Reason::NoTimestamp,
                    message: format!("field {field}: there is no event time"),
                }),
            };
        };
        if time > event.arrived_at.plus(self.future_max) {
            return Err(Misfit {
                reason: Reason::FutureTimestamp,
                message: format!("field {field}: {time} is too far after the arrival at {}", event.arrived_at),
            });
        }
        Ok(time)
    }

    /// Adds the columns that the event on the tape asks for, unless its parts then disagree with each other. The batch
    /// so far keeps the columns it has.
    fn grow(&mut self, added: usize, event: &Event) -> Result<(), Misfit> {
        let columns: usize = self.columns.iter().map(|column| leaves(&column.kind)).sum();
        let too_many = !self.rules.may_grow || columns + added > COLUMNS_MAX;
        if too_many && self.judge.is_none() {
            return Err(too_many_columns());
        }
        let parsed = Parsed { tape: &self.tape, event: &event.payload };
        let taken = |name: &str| self.taken.contains(name);
        let mut grown = self.columns.clone();
        let mut notes = GrowthNotes::default();
        self.rules.grow(&mut grown, parsed, 0, "", &taken, &mut notes);
        // Two elements of a list may ask for different types of one new field.
        let fixed = Rules { may_grow: false, ..self.rules.clone() };
        let mut more = Growth::default();
        fixed.object_fits(&grown, parsed, 0, "", &mut more, &|_| true)?;
        debug_assert!(more.is_none(), "what was asked for was added");
        // Judged also where the schema is fixed: a refusal must not depend on which of the two it was.
        if let Some(judge) = &mut self.judge {
            judge.accept(&grown)?;
        }
        if too_many {
            return Err(too_many_columns());
        }
        if self.meta.rows() > 0 {
            self.finish_batch();
        }
        self.columns = grown;
        self.notes.typed.extend(notes.typed);
        self.notes.untyped.extend(notes.untyped);
        self.grown = true;
        self.begin_columns();
        Ok(())
    }

    fn open_inexact(&self) -> HashSet<String> {
        let mut paths = HashSet::new();
        for (builder, column) in self.builders.iter().zip(&self.columns) {
            builder.inexact_paths(&column.kind, column.source(), &mut paths);
        }
        paths
    }

    /// Makes the builders those of the columns.
    fn begin_columns(&mut self) {
        self.builders = self.columns.iter().map(ColumnBuilder::of).collect();
        let fixed: usize = self.columns.iter().map(|column| leaves(&column.kind)).sum();
        self.row_bytes = META_ROW_BYTES + fixed * size_of::<i64>();
        self.has_lists = self.columns.iter().any(|column| has_list(&column.kind));
    }

    fn finish_batch(&mut self) {
        if self.grown {
            self.inexact.extend(self.open_inexact());
        }
        let rows = self.meta.rows();
        let (mut arrays, times) = self.meta.finish();
        let data = self.builders.iter_mut().zip(&self.columns).map(|(b, column)| b.finish(&column.kind, rows));
        arrays.extend(data);
        let schema = Arc::new(self.schema().arrow_schema());
        let rows = RecordBatch::try_new(schema, arrays).expect("columns are made by the schema, all of one length");
        let bytes = rows.get_array_memory_size() + times.len() * 8;
        self.finished.push(Decoded { rows, times, bytes });
        self.payload_bytes = 0;
    }
}

fn has_list(kind: &ColumnType) -> bool {
    match kind {
        ColumnType::List(_) => true,
        ColumnType::Struct(fields) => fields.iter().any(|field| has_list(&field.kind)),
        _ => false,
    }
}

struct Special {
    id: Option<String>,
    time_at: Option<usize>,
}

#[cfg(test)]
mod tests;
