//! Events straight from their text to the columns, without a tape between.
//!
//! This is for events that simply fit: known fields, each once, of their columns' types. Whatever else there is, also
//! what is wrong, is [`Unusual`]: then nothing of the event stays in the columns, and the tape and its rules decide.
//! For what is not unusual both ways give the same row; `any_events_decode_the_same_directly` holds them together.

use headwater_common::event_time;
use headwater_common::timestamp::Timestamp;
use headwater_lake::schema::{Column, ColumnType};

use super::EVENT_ID_FIELD;
use super::builder::{ColumnBuilder, Values, offset};
use super::scan::{ParseError, Scanner, text_of, unescape};
use super::shape::{exact_float, find, parse_float};

/// The event is not one that simply fits.
#[derive(Debug)]
pub(crate) struct Unusual;

impl From<ParseError> for Unusual {
    fn from(_: ParseError) -> Self {
        Self
    }
}

/// Null fields of one object without a column that are kept in mind, to notice one that comes twice.
const UNKNOWN_NULLS_MAX: usize = 8;

/// What an event says besides its columns.
#[derive(Debug, Default)]
pub(crate) struct Said<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) time: Option<Timestamp>,
}

/// How top-level fields are read that mean something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meaning<'a> {
    pub(crate) id_field: &'a str,
    pub(crate) time_field: Option<&'a str>,
    pub(crate) time_format: event_time::Format,
}

/// Appends an event as row `row`. When it is unusual, what was begun is to be taken back.
pub(crate) fn append<'a>(
    event: &'a [u8],
    meaning: Meaning<'_>,
    columns: &[Column],
    builders: &mut [ColumnBuilder],
    row: usize,
) -> Result<Said<'a>, Unusual> {
    simdutf8::basic::from_utf8(event).map_err(|_| Unusual)?;
    let mut direct = Direct { scan: Scanner { event, at: 0 }, format: meaning.time_format };
    direct.scan.skip_space();
    if direct.scan.peek() != Some(b'{') {
        return Err(Unusual);
    }
    let said = direct.event(meaning, columns, builders, row)?;
    direct.scan.skip_space();
    if direct.scan.at == event.len() { Ok(said) } else { Err(Unusual) }
}

struct Direct<'a> {
    scan: Scanner<'a>,
    format: event_time::Format,
}

/// Where the fields of an object are.
struct Fields<'a> {
    /// The column whose field is expected next: events tend to have their fields in one order.
    next: usize,
    unknown_nulls: [&'a [u8]; UNKNOWN_NULLS_MAX],
    unknown_null_count: usize,
}

/// What comes next in an object.
enum Field<'a> {
    /// A column's field; its value is next.
    Known(usize),
    /// A field without a column; its value is next.
    Unknown(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn new() -> Self {
        Self { next: 0, unknown_nulls: [&[]; UNKNOWN_NULLS_MAX], unknown_null_count: 0 }
    }

    /// A null says nothing, but a name may come once only.
    fn null(&mut self, name: &'a [u8]) -> Result<(), Unusual> {
        let seen = &self.unknown_nulls[..self.unknown_null_count];
        if seen.len() == UNKNOWN_NULLS_MAX || seen.contains(&name) {
            return Err(Unusual);
        }
        self.unknown_nulls[self.unknown_null_count] = name;
        self.unknown_null_count += 1;
        Ok(())
    }
}

impl<'a> Direct<'a> {
    fn event(
        &mut self,
        meaning: Meaning<'_>,
        columns: &[Column],
        builders: &mut [ColumnBuilder],
        row: usize,
    ) -> Result<Said<'a>, Unusual> {
        let mut said = Said::default();
        let mut fields = Fields::new();
        let mut has_own_id = false;
        let mut more = self.enter()?;
        while more {
            match self.field(&mut fields, columns, builders)? {
                Field::Known(index) => {
                    let (column, builder) = (&columns[index], &mut builders[index]);
                    self.scan.skip_space();
                    let start = self.scan.at;
                    self.value(&column.kind, builder, row)?;
                    let source = column.source();
                    if source == meaning.id_field {
                        said.id = id_of(&self.scan.event[start..self.scan.at])?;
                    }
                    if Some(source) == meaning.time_field {
                        let Values::Timestamp(times) = &builder.values else { return Err(Unusual) };
                        let time = times.last().filter(|_| self.scan.event[start] != b'n');
                        said.time = time.map(|micros| Timestamp::from_micros(*micros));
                    }
                }
                Field::Unknown(name) if name == EVENT_ID_FIELD.as_bytes() => {
                    if std::mem::replace(&mut has_own_id, true) {
                        return Err(Unusual);
                    }
                    let start = self.scan.at;
                    self.scalar()?;
                    let id = id_of(&self.scan.event[start..self.scan.at])?;
                    if meaning.id_field == EVENT_ID_FIELD {
                        said.id = id;
                    }
                }
                Field::Unknown(name) => {
                    self.scan.literal(b"null")?;
                    fields.null(name)?;
                }
            }
            more = self.has_more(b'}')?;
        }
        Ok(said)
    }

    fn object(&mut self, columns: &[Column], builders: &mut [ColumnBuilder], row: usize) -> Result<(), Unusual> {
        let mut fields = Fields::new();
        let mut more = self.enter()?;
        while more {
            match self.field(&mut fields, columns, builders)? {
                Field::Known(index) => self.value(&columns[index].kind, &mut builders[index], row)?,
                Field::Unknown(name) => {
                    self.scan.literal(b"null")?;
                    fields.null(name)?;
                }
            }
            more = self.has_more(b'}')?;
        }
        Ok(())
    }

    /// Passes the brace and returns whether there is a field.
    fn enter(&mut self) -> Result<bool, Unusual> {
        self.scan.at += 1;
        self.scan.skip_space();
        match self.scan.peek() {
            Some(b'}') => {
                self.scan.at += 1;
                Ok(false)
            }
            Some(b'"') => Ok(true),
            _ => Err(Unusual),
        }
    }

    /// Passes what follows a value, and returns whether there is another one.
    #[inline]
    fn has_more(&mut self, end: u8) -> Result<bool, Unusual> {
        self.scan.skip_space();
        let more = match self.scan.peek() {
            Some(b',') => true,
            Some(byte) if byte == end => false,
            _ => return Err(Unusual),
        };
        self.scan.at += 1;
        Ok(more)
    }

    #[inline]
    fn field(
        &mut self,
        fields: &mut Fields<'_>,
        columns: &[Column],
        builders: &[ColumnBuilder],
    ) -> Result<Field<'a>, Unusual> {
        self.scan.skip_space();
        let rest = &self.scan.event[self.scan.at..];
        if let Some(length) = builders.get(fields.next).and_then(|builder| builder.label_at(rest)) {
            self.scan.at += length;
            fields.next += 1;
            return Ok(Field::Known(fields.next - 1));
        }
        if self.scan.peek() != Some(b'"') {
            return Err(Unusual);
        }
        let name = self.scan.string()?;
        if name.escaped {
            return Err(Unusual);
        }
        let event = self.scan.event;
        self.scan.skip_space();
        if self.scan.peek() != Some(b':') {
            return Err(Unusual);
        }
        self.scan.at += 1;
        self.scan.skip_space();
        let name = &event[name.start..name.end];
        Ok(find(columns, name, &mut fields.next).map_or(Field::Unknown(name), Field::Known))
    }

    fn scalar(&mut self) -> Result<(), Unusual> {
        match self.scan.peek() {
            Some(b'"') => self.scan.string().map(drop)?,
            Some(b'n') => self.scan.literal(b"null")?,
            _ => self.scan.number().map(drop)?,
        }
        Ok(())
    }

    #[inline]
    fn value(&mut self, kind: &ColumnType, builder: &mut ColumnBuilder, row: usize) -> Result<(), Unusual> {
        // A field that has a value already comes twice.
        if builder.len() > row {
            return Err(Unusual);
        }
        builder.fill(row);
        self.scan.skip_space();
        match (&mut builder.values, self.scan.peek()) {
            (_, Some(b'n')) => {
                self.scan.literal(b"null")?;
                builder.fill(row + 1);
                return Ok(());
            }
            (Values::Utf8 { offsets, text }, Some(b'"')) if *kind == ColumnType::Utf8 => {
                let quoted = self.scan.string()?;
                let raw = &self.scan.event[quoted.start..quoted.end];
                if quoted.escaped {
                    append_unescaped(raw, text);
                } else {
                    text.extend_from_slice(raw);
                }
                offsets.push(offset(text.len()));
            }
            (Values::Int64(values), Some(b'-' | b'0'..=b'9')) => {
                let number = self.scan.number()?;
                values.push(number.integer(self.scan.event).ok_or(Unusual)?);
            }
            (Values::Float64(values), Some(b'-' | b'0'..=b'9')) => {
                let number = self.scan.number()?;
                let literal = || text_of(&self.scan.event[number.start..number.end]);
                let exactly = || if number.is_integer { exact_float(literal()) } else { parse_float(literal()) };
                values.push(number.quick_float().or_else(exactly).ok_or(Unusual)?);
            }
            (Values::Boolean(values), Some(b't')) => {
                self.scan.literal(b"true")?;
                values.append(true);
            }
            (Values::Boolean(values), Some(b'f')) => {
                self.scan.literal(b"false")?;
                values.append(false);
            }
            (values, first) => self.long_value(kind, values, first, row)?,
        }
        builder.count_value();
        Ok(())
    }

    /// Reads a value that takes longer than a call.
    #[inline(never)]
    fn long_value(
        &mut self,
        kind: &ColumnType,
        values: &mut Values,
        first: Option<u8>,
        row: usize,
    ) -> Result<(), Unusual> {
        match (values, kind, first) {
            (Values::Timestamp(values), _, Some(first)) => {
                let literal = if first == b'"' {
                    let quoted = self.scan.string()?;
                    if quoted.escaped {
                        return Err(Unusual);
                    }
                    &self.scan.event[quoted.start..quoted.end]
                } else if self.format.is_epoch() {
                    let number = self.scan.number()?;
                    &self.scan.event[number.start..number.end]
                } else {
                    return Err(Unusual);
                };
                values.push(self.format.parse(text_of(literal)).ok_or(Unusual)?.micros());
            }
            (Values::Struct(builders), ColumnType::Struct(columns), Some(b'{')) => {
                self.object(columns, builders, row)?;
            }
            (Values::List { offsets, item }, ColumnType::List(item_kind), Some(b'[')) => {
                self.scan.at += 1;
                self.scan.skip_space();
                let is_empty = self.scan.peek() == Some(b']');
                self.scan.at += usize::from(is_empty);
                let mut more = !is_empty;
                while more {
                    let row = item.len();
                    self.value(item_kind, item, row)?;
                    more = self.has_more(b']')?;
                }
                offsets.push(offset(item.len()));
            }
            _ => return Err(Unusual),
        }
        Ok(())
    }
}

#[cold]
fn append_unescaped(raw: &[u8], text: &mut Vec<u8>) {
    let mut content = String::new();
    unescape(text_of(raw), &mut content);
    text.extend_from_slice(content.as_bytes());
}

/// Returns the event id that a value is.
fn id_of(value: &[u8]) -> Result<Option<&str>, Unusual> {
    match value {
        b"null" => Ok(None),
        [b'"', content @ .., b'"'] if !content.contains(&b'\\') => Ok(Some(text_of(content))),
        [b'-' | b'0'..=b'9', ..] if value[1..].iter().all(u8::is_ascii_digit) => Ok(Some(text_of(value))),
        _ => Err(Unusual),
    }
}
