//! Compares a parsed event with the columns: does it fit, and which columns would it add?
//!
//! The rules, none of which coerces a value silently:
//! - an integer column takes whole numbers of at most 64 bits; `1.9` and `1e3` are conflicts, `2.0` is 2
//! - a float column takes numbers that a 64-bit float holds: integers exactly, fractions to the nearest
//! - a date takes strings `YYYY-MM-DD` only: a time of the day would be lost
//! - text takes strings only, booleans take booleans only, objects and arrays their own kind
//! - a column that is new in this epoch turns from integer to float as long as all its values stay exact
//! - a field that is null, or an empty object or array, makes no column: its type is not known yet

use std::collections::HashSet;

use headwater_common::event_time;
use headwater_lake::schema::{Column, ColumnType, SchemaVersion, holdable_name};

use super::misfit::{Misfit, Reason};
use super::scan::text_of;
use super::tape::{Kind, Node, Tape};

/// Columns and fields of a table at most; Glue's limit is 400,000 bytes of schema, Spark's planner slows down long
/// before. An event that would add more is a dead letter.
pub(crate) const COLUMNS_MAX: usize = 2_000;

/// The node of the event itself.
const EVENT: usize = 0;

/// A parsed event.
#[derive(Clone, Copy)]
pub(crate) struct Parsed<'a> {
    pub(crate) tape: &'a Tape,
    pub(crate) event: &'a [u8],
}

impl<'a> Parsed<'a> {
    pub(crate) fn node(&self, index: usize) -> Node {
        self.tape.node(index)
    }

    pub(crate) fn raw(&self, node: Node) -> &'a str {
        self.tape.raw(node, self.event)
    }

    /// Calls `each` with the key and the index of the value of every field, until it fails.
    pub(crate) fn fields<E>(
        &self,
        object: usize,
        mut each: impl FnMut(&'a [u8], usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = self.node(object).next as usize;
        let mut at = object + 1;
        while at < end {
            each(self.tape.raw_bytes(self.node(at), self.event), at + 1)?;
            at = self.tape.after(at + 1);
        }
        Ok(())
    }

    /// Calls `each` with the index of every element, until it fails.
    pub(crate) fn elements<E>(&self, array: usize, mut each: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        let end = self.node(array).next as usize;
        let mut at = array + 1;
        while at < end {
            each(at)?;
            at = self.tape.after(at);
        }
        Ok(())
    }
}

/// What an event that fits would change in the schema.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// Columns and fields it adds.
    pub(crate) added: usize,
    /// Columns that turn from integer to float.
    pub(crate) widened: usize,
    /// Paths that have a value without a type; this changes nothing yet.
    pub(crate) untyped: HashSet<String>,
}

impl Growth {
    pub(crate) fn is_none(&self) -> bool {
        self.added == 0 && self.widened == 0
    }
}

/// The rules for one table.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The top-level field that holds the event time; its column is a timestamp.
    pub(crate) time_field: Option<String>,
    /// How that field is written.
    pub(crate) time_format: event_time::Format,
    /// The version that new columns come with.
    pub(crate) next: SchemaVersion,
    /// Whether the schema may grow. A redo has the schema that its cut names.
    pub(crate) may_grow: bool,
}

impl Rules {
    /// Says whether an object fits a table's or a struct's columns.
    pub(crate) fn object_fits(
        &self,
        columns: &[Column],
        parsed: Parsed<'_>,
        object: usize,
        path: &str,
        growth: &mut Growth,
        inexact: &dyn Fn(&str) -> bool,
    ) -> Result<(), Misfit> {
        let mut hint = 0;
        parsed.fields(object, |name, value| match find(columns, name, &mut hint) {
            Some(index) => {
                let column = &columns[index];
                self.value_fits(column, parsed, value, path, growth, inexact)
            }
            None => self.new_field_fits(parsed, object, value, path, text_of(name), growth),
        })
    }

    fn new_field_fits(
        &self,
        parsed: Parsed<'_>,
        object: usize,
        value: usize,
        path: &str,
        name: &str,
        growth: &mut Growth,
    ) -> Result<(), Misfit> {
        if parsed.node(value).kind == Kind::Null {
            return Ok(());
        }
        let path = join(path, name);
        let Some(kind) = self.infer_field(parsed, object, name, value, &path, &mut growth.untyped)? else {
            return Ok(());
        };
        let column = Column::new(name, kind, self.next);
        growth.added += leaves(&column.kind);
        self.value_fits(&column, parsed, value, "", &mut Growth::default(), &|_| true)
    }

    fn value_fits(
        &self,
        column: &Column,
        parsed: Parsed<'_>,
        value: usize,
        path: &str,
        growth: &mut Growth,
        inexact: &dyn Fn(&str) -> bool,
    ) -> Result<(), Misfit> {
        let node = parsed.node(value);
        let conflict = || Misfit::conflict(&join(path, column.source()), &column.kind.name(), snippet(parsed, value));
        match (&column.kind, node.kind) {
            (_, Kind::Null) => Ok(()),
            (ColumnType::Int64, Kind::Integer) => parse_integer(parsed.raw(node)).map(drop).ok_or_else(conflict),
            (ColumnType::Int64, Kind::Float) => {
                let full_path = join(path, column.source());
                if self.may_grow && column.since == self.next && !inexact(&full_path) {
                    parse_float(parsed.raw(node)).ok_or_else(conflict)?;
                    growth.widened += 1;
                    return Ok(());
                }
                whole_float(parsed.raw(node)).map(drop).ok_or_else(conflict)
            }
            (ColumnType::Float64, Kind::Integer) => exact_float(parsed.raw(node)).map(drop).ok_or_else(conflict),
            (ColumnType::Float64, Kind::Float) => parse_float(parsed.raw(node)).map(drop).ok_or_else(conflict),
            (ColumnType::Boolean, Kind::True | Kind::False) | (ColumnType::Utf8, Kind::Text | Kind::EscapedText) => {
                Ok(())
            }
            (ColumnType::Timestamp, Kind::Text | Kind::Integer | Kind::Float)
                if node.kind == Kind::Text || self.time_format.is_epoch() =>
            {
                self.time_format.parse(parsed.raw(node)).map(drop).ok_or_else(conflict)
            }
            (ColumnType::Date, Kind::Text) if is_date(parsed.raw(node)) => Ok(()),
            (ColumnType::Struct(fields), Kind::Object) => {
                self.object_fits(fields, parsed, value, &join(path, column.source()), growth, inexact)
            }
            (ColumnType::List(item), Kind::Array) => {
                let element = Column::new(&element_name(column.source()), (**item).clone(), column.since);
                parsed.elements(value, |at| self.value_fits(&element, parsed, at, path, growth, inexact))
            }
            _ => Err(conflict()),
        }
    }

    /// Returns the type that a field of an object asks for. The event's own time field is a timestamp.
    fn infer_field(
        &self,
        parsed: Parsed<'_>,
        object: usize,
        name: &str,
        value: usize,
        path: &str,
        untyped: &mut HashSet<String>,
    ) -> Result<Option<ColumnType>, Misfit> {
        let is_time = object == EVENT && self.time_field.as_deref() == Some(name);
        if is_time && parsed.node(value).kind != Kind::Null {
            return Ok(Some(ColumnType::Timestamp));
        }
        self.infer(parsed, value, path, untyped)
    }

    /// Returns the type that a value asks for; `None` while it says none. Records the paths that say none although
    /// something is there: when such a path gets a type later in the epoch, the events before must be read again.
    fn infer(
        &self,
        parsed: Parsed<'_>,
        value: usize,
        path: &str,
        untyped: &mut HashSet<String>,
    ) -> Result<Option<ColumnType>, Misfit> {
        let node = parsed.node(value);
        Ok(Some(match node.kind {
            Kind::Null => return Ok(None),
            Kind::True | Kind::False => ColumnType::Boolean,
            Kind::Text | Kind::EscapedText | Kind::Key => ColumnType::Utf8,
            Kind::Float => ColumnType::Float64,
            Kind::Integer if parse_integer(parsed.raw(node)).is_some() => ColumnType::Int64,
            Kind::Integer => {
                return Err(Misfit::conflict(path, "any column type", parsed.raw(node)));
            }
            Kind::Array => {
                let mut item = None;
                let inner = element_name(path);
                parsed.elements(value, |at| {
                    let found = self.infer(parsed, at, &inner, untyped)?;
                    item = unify(item.take(), found)
                        .ok_or_else(|| Misfit::conflict(path, "a list of one type", snippet(parsed, value)))?;
                    Ok::<_, Misfit>(())
                })?;
                match item {
                    Some(item) => ColumnType::List(Box::new(item)),
                    None => {
                        untyped.insert(path.to_owned());
                        return Ok(None);
                    }
                }
            }
            Kind::Object => {
                let mut columns: Vec<Column> = Vec::new();
                let mut names = HashSet::new();
                parsed.fields(value, |name, at| {
                    if columns.len() == COLUMNS_MAX {
                        return Err(too_many_columns());
                    }
                    let name = text_of(name);
                    if let Some(kind) = self.infer(parsed, at, &join(path, name), untyped)? {
                        let column = new_column(name, kind, self.next, |name| names.contains(name));
                        names.insert(column.name.to_lowercase());
                        columns.push(column);
                    }
                    Ok::<_, Misfit>(())
                })?;
                if columns.is_empty() {
                    untyped.insert(path.to_owned());
                    return Ok(None);
                }
                ColumnType::Struct(columns)
            }
        }))
    }

    /// Adds the columns that an event asks for; it has been found to fit.
    pub(crate) fn grow(
        &self,
        columns: &mut Vec<Column>,
        parsed: Parsed<'_>,
        object: usize,
        path: &str,
        taken: &dyn Fn(&str) -> bool,
        notes: &mut GrowthNotes,
    ) {
        let mut hint = 0;
        let grown = parsed.fields(object, |name, value| {
            match find(columns, name, &mut hint) {
                Some(index) => self.grow_value(&mut columns[index], parsed, value, path, notes)?,
                None => {
                    let name = text_of(name);
                    let path = join(path, name);
                    if let Some(kind) = self.infer_field(parsed, object, name, value, &path, &mut notes.untyped)? {
                        notes.typed.push(path);
                        add_column(columns, name, kind, self.next, taken);
                    }
                }
            }
            Ok::<_, Misfit>(())
        });
        debug_assert!(grown.is_ok(), "an event that fits can be inferred");
    }

    fn grow_value(
        &self,
        column: &mut Column,
        parsed: Parsed<'_>,
        value: usize,
        path: &str,
        notes: &mut GrowthNotes,
    ) -> Result<(), Misfit> {
        let own_path = join(path, column.source());
        match (&mut column.kind, parsed.node(value).kind) {
            (ColumnType::Struct(fields), Kind::Object) => {
                self.grow(fields, parsed, value, &own_path, &|_| false, notes);
            }
            (ColumnType::List(item), Kind::Array) => {
                let name = element_name(column.source.as_deref().unwrap_or(&column.name));
                let mut element = Column::new(&name, (**item).clone(), column.since);
                parsed.elements(value, |at| self.grow_value(&mut element, parsed, at, path, notes))?;
                **item = element.kind;
            }
            (ColumnType::Int64, Kind::Float) if column.since == self.next => column.kind = ColumnType::Float64,
            _ => {}
        }
        Ok(())
    }
}

/// What growing noticed.
#[derive(Debug, Default)]
pub(crate) struct GrowthNotes {
    /// Paths that had a value without a type.
    pub(crate) untyped: HashSet<String>,
    /// Paths that got a type.
    pub(crate) typed: Vec<String>,
}

/// Finds a field's column by its name in the event. Events tend to have their fields in one order, so the column
/// after the last hit is tried first.
pub(crate) fn find(columns: &[Column], name: &[u8], hint: &mut usize) -> Option<usize> {
    let is_it = |column: &Column| column.source().as_bytes() == name;
    let found = if columns.get(*hint).is_some_and(is_it) { Some(*hint) } else { columns.iter().position(is_it) };
    if let Some(index) = found {
        *hint = index + 1;
    }
    found
}

fn add_column(
    columns: &mut Vec<Column>,
    source: &str,
    kind: ColumnType,
    since: SchemaVersion,
    taken: &dyn Fn(&str) -> bool,
) {
    let taken = |name: &str| taken(name) || columns.iter().any(|column| column.name.to_lowercase() == name);
    let column = new_column(source, kind, since, taken);
    columns.push(column);
}

fn new_column(source: &str, kind: ColumnType, since: SchemaVersion, taken: impl Fn(&str) -> bool) -> Column {
    let name = holdable_name(source, taken);
    let source = (name != source).then(|| source.to_owned());
    Column { name, source, kind, since }
}

fn unify(one: Option<ColumnType>, other: Option<ColumnType>) -> Option<Option<ColumnType>> {
    use ColumnType::{Float64, Int64, List, Struct};
    Some(match (one, other) {
        (None, kind) | (kind, None) => kind,
        (Some(one), Some(other)) if one == other => Some(one),
        (Some(Int64), Some(Float64)) | (Some(Float64), Some(Int64)) => Some(Float64),
        (Some(List(one)), Some(List(other))) => Some(List(Box::new(unify(Some(*one), Some(*other))??))),
        (Some(Struct(mut columns)), Some(Struct(others))) => {
            let mut hint = 0;
            for other in others {
                match find(&columns, other.source().as_bytes(), &mut hint).map(|index| &mut columns[index]) {
                    Some(column) => column.kind = unify(Some(column.kind.clone()), Some(other.kind))??,
                    None => add_column(&mut columns, other.source(), other.kind.clone(), other.since, &|_| false),
                }
            }
            Some(Struct(columns))
        }
        _ => return None,
    })
}

/// Counts the columns that hold values.
pub(crate) fn leaves(kind: &ColumnType) -> usize {
    match kind {
        ColumnType::Struct(fields) => fields.iter().map(|field| leaves(&field.kind)).sum(),
        ColumnType::List(item) => leaves(item),
        _ => 1,
    }
}

/// Says that an event asks for more columns than there may be.
pub(crate) fn too_many_columns() -> Misfit {
    let message = format!("the event would give the table more than {COLUMNS_MAX} columns");
    Misfit { reason: Reason::SchemaConflict, message }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn element_name(list: &str) -> String {
    format!("{list}[]")
}

fn snippet<'a>(parsed: Parsed<'a>, value: usize) -> &'a str {
    match parsed.node(value).kind {
        Kind::Object => "an object",
        Kind::Array => "an array",
        Kind::True => "true",
        Kind::False => "false",
        Kind::Null => "null",
        Kind::Text | Kind::EscapedText | Kind::Key => "a string",
        Kind::Integer | Kind::Float => parsed.raw(parsed.node(value)),
    }
}

/// Says whether a text is a day and nothing more.
fn is_date(text: &str) -> bool {
    text.len() == "2026-11-21".len() && event_time::Format::Text.parse(text).is_some()
}

/// Reads an integer literal of at most 64 bits.
pub(crate) fn parse_integer(literal: &str) -> Option<i64> {
    literal.parse().ok()
}

/// Reads a literal as the nearest float, when that is a finite one.
pub(crate) fn parse_float(literal: &str) -> Option<f64> {
    literal.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// Reads a literal such as `2.0` as the integer that it is. Decided on the digits: a float would round.
pub(crate) fn whole_float(literal: &str) -> Option<i64> {
    let (whole, fraction) = literal.split_once('.')?;
    fraction.bytes().all(|digit| digit == b'0').then(|| parse_integer(whole)).flatten()
}

/// Reads an integer literal as the float that equals it.
pub(crate) fn exact_float(literal: &str) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the loss is what is looked for")]
    parse_integer(literal)
        .map(|integer| (integer, integer as f64))
        .and_then(|(integer, float)| (float as i128 == i128::from(integer)).then_some(float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_changed_silently() {
        assert_eq!(parse_integer("9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_integer("9223372036854775808"), None);
        assert_eq!(whole_float("2.0"), Some(2));
        assert_eq!(whole_float("1e3"), None);
        assert_eq!(whole_float("1.9"), None);
        assert_eq!(whole_float("1.00000000000000000001"), None);
        assert_eq!(whole_float("1e300"), None);
        assert_eq!(exact_float("9007199254740992"), Some(9_007_199_254_740_992.0));
        assert_eq!(exact_float("9007199254740993"), None);
        assert_eq!(parse_float("1e400"), None);
    }
}
