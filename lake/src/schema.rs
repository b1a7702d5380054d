//! The schema of a table: owned by the table, stored in its Delta log, only ever growing within a generation.
//!
//! Every column remembers the schema version it came with (`headwater.since` in its Delta metadata). So any earlier
//! version can be told from the newest one, and a redo encodes with the version its cut names.

use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Counts the schema changes of a generation's table: 1 when it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaVersion(pub u32);

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// 64-bit signed integer.
    Int64,
    /// 64-bit float.
    Float64,
    /// True or false.
    Boolean,
    /// UTF-8 text.
    Utf8,
    /// Bytes.
    Binary,
    /// Microseconds UTC.
    Timestamp,
    /// Days since the epoch.
    Date,
    /// An object's fields.
    Struct(Vec<Column>),
    /// Values of one type.
    List(Box<ColumnType>),
}

/// A column, or a field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name in the table.
    pub name: String,
    /// Its name in the event, where that is another one.
    pub source: Option<String>,
    /// Its type.
    pub kind: ColumnType,
    /// The schema version it came with.
    pub since: SchemaVersion,
}

/// The columns of a table's files, in order; the partition keys are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    /// The newest version.
    pub version: SchemaVersion,
    /// The columns, those that came first first.
    pub columns: Vec<Column>,
}

/// A schema that is not of this project.
#[derive(Debug, thiserror::Error)]
#[error("column {column} has {what}, which Headwater never writes")]
pub struct ForeignSchema {
    /// The column.
    pub column: String,
    /// What is foreign about it.
    pub what: String,
}

const SINCE: &str = "headwater.since";
const SOURCE: &str = "headwater.source";

impl SchemaVersion {
    /// The version a table begins with.
    pub const FIRST: Self = Self(1);

    /// Returns the version after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Column {
    /// Returns a column that keeps its event field's name.
    pub fn new(name: &str, kind: ColumnType, since: SchemaVersion) -> Self {
        Self { name: name.to_owned(), source: None, kind, since }
    }

    /// Returns the name of the event field.
    pub fn source(&self) -> &str {
        self.source.as_deref().unwrap_or(&self.name)
    }

    fn arrow_field(&self) -> Field {
        Field::new(&self.name, self.kind.arrow_type(), true)
    }
}

impl ColumnType {
    /// Returns the type in memory and in Parquet.
    pub fn arrow_type(&self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Utf8 => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
            Self::Struct(fields) => DataType::Struct(fields.iter().map(Column::arrow_field).collect()),
            Self::List(item) => DataType::List(Field::new("element", item.arrow_type(), true).into()),
        }
    }

    /// Returns the type's name for people.
    pub fn name(&self) -> String {
        match self {
            Self::Int64 => "BIGINT".into(),
            Self::Float64 => "DOUBLE".into(),
            Self::Boolean => "BOOLEAN".into(),
            Self::Utf8 => "VARCHAR".into(),
            Self::Binary => "VARBINARY".into(),
            Self::Timestamp => "TIMESTAMP".into(),
            Self::Date => "DATE".into(),
            Self::Struct(fields) => {
                let fields: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name, f.kind.name())).collect();
                format!("STRUCT({})", fields.join(", "))
            }
            Self::List(item) => format!("{}[]", item.name()),
        }
    }

    fn to_delta(&self) -> Value {
        match self {
            Self::Int64 => "long".into(),
            Self::Float64 => "double".into(),
            Self::Boolean => "boolean".into(),
            Self::Utf8 => "string".into(),
            Self::Binary => "binary".into(),
            Self::Timestamp => "timestamp".into(),
            Self::Date => "date".into(),
            Self::Struct(fields) => {
                json!({"type": "struct", "fields": fields.iter().map(column_to_delta).collect::<Vec<_>>()})
            }
            Self::List(item) => {
                json!({"type": "array", "elementType": item.to_delta(), "containsNull": true})
            }
        }
    }

    fn from_delta(column: &str, stored: &Value) -> Result<Self, ForeignSchema> {
        let foreign = |what: String| ForeignSchema { column: column.to_owned(), what };
        match (stored.as_str(), stored.get("type").and_then(Value::as_str)) {
            (Some("long"), _) => Ok(Self::Int64),
            (Some("double"), _) => Ok(Self::Float64),
            (Some("boolean"), _) => Ok(Self::Boolean),
            (Some("string"), _) => Ok(Self::Utf8),
            (Some("binary"), _) => Ok(Self::Binary),
            (Some("timestamp"), _) => Ok(Self::Timestamp),
            (Some("date"), _) => Ok(Self::Date),
            (None, Some("struct")) => Ok(Self::Struct(columns_from_delta(&stored["fields"], &[])?)),
            (None, Some("array")) => Ok(Self::List(Box::new(Self::from_delta(column, &stored["elementType"])?))),
            _ => Err(foreign(format!("the type {stored}"))),
        }
    }

    fn at(&self, version: SchemaVersion) -> Self {
        match self {
            Self::Struct(fields) => Self::Struct(columns_at(fields, version)),
            Self::List(item) => Self::List(Box::new(item.at(version))),
            other => other.clone(),
        }
    }

    fn as_first(&self) -> Self {
        match self {
            Self::Struct(fields) => Self::Struct(columns_as_first(fields)),
            Self::List(item) => Self::List(Box::new(item.as_first())),
            other => other.clone(),
        }
    }
}

impl TableSchema {
    /// Returns the schema as it was at an earlier version.
    pub fn at(&self, version: SchemaVersion) -> Self {
        Self { version: version.min(self.version), columns: columns_at(&self.columns, version) }
    }

    /// Returns the schema as one that a table begins with: every column came with the first version.
    pub fn as_first(&self) -> Self {
        Self { version: SchemaVersion::FIRST, columns: columns_as_first(&self.columns) }
    }

    /// Returns the schema of the table's files.
    pub fn arrow_schema(&self) -> Schema {
        Schema::new(self.columns.iter().map(Column::arrow_field).collect::<Fields>())
    }

    /// Returns the Delta form: these columns, then the partition keys with their Delta types.
    pub fn to_delta(&self, partition_columns: &[(String, &'static str)]) -> Value {
        let mut fields: Vec<_> = self.columns.iter().map(column_to_delta).collect();
        for (name, kind) in partition_columns {
            fields.push(json!({"name": name, "type": kind, "nullable": true, "metadata": {}}));
        }
        json!({"type": "struct", "fields": fields})
    }

    /// Reads the Delta form.
    ///
    /// # Errors
    /// When a column has a type that this project never writes.
    pub fn from_delta(stored: &Value, partition_columns: &[String]) -> Result<Self, ForeignSchema> {
        let columns = columns_from_delta(&stored["fields"], partition_columns)?;
        let version = newest(&columns).unwrap_or(SchemaVersion::FIRST);
        Ok(Self { version, columns })
    }
}

fn columns_at(columns: &[Column], version: SchemaVersion) -> Vec<Column> {
    let known = columns.iter().filter(|column| column.since <= version);
    known.map(|column| Column { kind: column.kind.at(version), ..column.clone() }).collect()
}

fn columns_as_first(columns: &[Column]) -> Vec<Column> {
    let first =
        |column: &Column| Column { kind: column.kind.as_first(), since: SchemaVersion::FIRST, ..column.clone() };
    columns.iter().map(first).collect()
}

fn newest(columns: &[Column]) -> Option<SchemaVersion> {
    let newest_in = |kind: &ColumnType| {
        let mut kind = kind;
        while let ColumnType::List(item) = kind {
            kind = item;
        }
        if let ColumnType::Struct(fields) = kind { newest(fields) } else { None }
    };
    columns.iter().flat_map(|column| [Some(column.since), newest_in(&column.kind)]).flatten().max()
}

fn column_to_delta(column: &Column) -> Value {
    let mut metadata = Map::new();
    metadata.insert(SINCE.into(), column.since.0.to_string().into());
    if let Some(source) = &column.source {
        metadata.insert(SOURCE.into(), source.clone().into());
    }
    json!({"name": column.name, "type": column.kind.to_delta(), "nullable": true, "metadata": metadata})
}

fn columns_from_delta(stored: &Value, left_out: &[String]) -> Result<Vec<Column>, ForeignSchema> {
    let fields = stored.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let name = field["name"].as_str().unwrap_or_default();
        if left_out.iter().any(|partition| partition == name) {
            continue;
        }
        let since = field["metadata"][SINCE].as_str().and_then(|text| text.parse().ok());
        let since = since
            .ok_or_else(|| ForeignSchema { column: name.to_owned(), what: format!("no `{SINCE}` in its metadata") })?;
        columns.push(Column {
            name: name.to_owned(),
            source: field["metadata"][SOURCE].as_str().map(str::to_owned),
            kind: ColumnType::from_delta(name, &field["type"])?,
            since: SchemaVersion(since),
        });
    }
    Ok(columns)
}

/// Returns a name that Delta, Parquet and Glue can hold, and that `taken` (asked in lower case) has not.
///
/// The one rule: control characters and ` ,;{}()=.` become `_`, an empty name becomes `_`, and a name that is taken,
/// case aside, gets `_2`, `_3` … at its end.
pub fn holdable_name(source: &str, taken: impl Fn(&str) -> bool) -> String {
    let replaced: String =
        source.chars().map(|c| if c.is_control() || " ,;{}()=.".contains(c) { '_' } else { c }).collect();
    let base = if replaced.is_empty() { "_".to_owned() } else { replaced };
    if !taken(&base.to_lowercase()) {
        return base;
    }
    let numbered = (2_u32..).map(|number| format!("{base}_{number}"));
    numbered.into_iter().find(|name| !taken(&name.to_lowercase())).expect("the numbers do not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TableSchema {
        let v = SchemaVersion;
        let inner = vec![Column::new("x", ColumnType::Int64, v(1)), Column::new("y", ColumnType::Date, v(3))];
        TableSchema {
            version: v(3),
            columns: vec![
                Column::new("a", ColumnType::Float64, v(1)),
                Column::new("s", ColumnType::List(Box::new(ColumnType::Struct(inner))), v(1)),
                Column { source: Some("b c".into()), ..Column::new("b_c", ColumnType::Timestamp, v(2)) },
            ],
        }
    }

    #[test]
    fn the_delta_form_gives_the_schema_back() {
        let partitions = [("year".to_owned(), "integer")];
        let stored = example().to_delta(&partitions);
        assert_eq!(TableSchema::from_delta(&stored, &["year".into()]).unwrap(), example());
    }

    #[test]
    fn s13_fm44_earlier_versions_can_be_told() {
        let first = example().at(SchemaVersion(1));
        assert_eq!(first.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", "s"]);
        assert_eq!(first.columns[1].kind.name(), "STRUCT(x BIGINT)[]");
        assert_eq!(example().at(SchemaVersion(2)).columns.len(), 3);
        assert_eq!(example().at(SchemaVersion(3)), example());
    }

    #[test]
    fn a_new_table_may_begin_with_the_final_schema_of_another() {
        let first = example().as_first();
        assert_eq!(first.version, SchemaVersion(1));
        assert_eq!(first.at(SchemaVersion(1)), first, "no column comes later, not even inside a list");
        assert_eq!(first.arrow_schema(), example().arrow_schema());
        let stored = first.to_delta(&[]);
        assert_eq!(TableSchema::from_delta(&stored, &[]).unwrap(), first);
    }

    #[test]
    fn names_that_cannot_be_held_are_mapped_by_one_rule() {
        let check = |source: &str, taken: &[&str], expect: &str| {
            assert_eq!(holdable_name(source, |name| taken.contains(&name)), expect);
        };
        check("Order Id", &[], "Order_Id");
        check("", &[], "_");
        check("ID", &["id"], "ID_2");
        check("id", &["id", "id_2"], "id_3");
        check("a.b", &["a_b"], "a_b_2");
    }
}
