//! The schema of a table: owned by the table, stored in its Delta log, only ever growing within a generation.
//!
//! Every column remembers the schema version it came with (`headwater.since` in its Delta metadata). So any earlier
//! version can be told from the newest one, and a redo encodes with the version its cut names. Where a transform makes
//! the table's columns of the event's, those are remembered beside them, in the property [`INPUT_COLUMNS`] and under
//! the same versions: one number says both what events are decoded to and what rows are made of that.

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
    /// The event's columns that a transform makes these of; `None` where there is no transform.
    pub input: Option<Vec<Column>>,
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

/// The table property that holds the event's columns, in the form of Delta's fields; only where there is a transform.
pub const INPUT_COLUMNS: &str = "headwater.input_columns";

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

    /// Returns the column as a field of the table's files.
    pub fn arrow_field(&self) -> Field {
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

    /// Returns the type that a declaration names; `None` when it names none that can be declared.
    pub fn declared(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_uppercase().as_str() {
            "BIGINT" => Self::Int64,
            "DOUBLE" => Self::Float64,
            "BOOLEAN" => Self::Boolean,
            "VARCHAR" | "STRING" => Self::Utf8,
            "TIMESTAMP" => Self::Timestamp,
            "DATE" => Self::Date,
            _ => return None,
        })
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
        let input = self.input.as_ref().map(|columns| columns_at(columns, version));
        Self { version: version.min(self.version), columns: columns_at(&self.columns, version), input }
    }

    /// Returns the schema as one that a table begins with: every column came with the first version.
    pub fn as_first(&self) -> Self {
        let input = self.input.as_deref().map(columns_as_first);
        Self { version: SchemaVersion::FIRST, columns: columns_as_first(&self.columns), input }
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
        Ok(Self { version, columns, input: None })
    }

    /// Returns the value of [`INPUT_COLUMNS`]; `None` where there is no transform.
    pub fn input_property(&self) -> Option<String> {
        let columns = self.input.as_ref()?;
        Some(Value::Array(columns.iter().map(column_to_delta).collect()).to_string())
    }

    /// Returns the schema with the event's columns that the table's property says.
    ///
    /// # Errors
    /// When the property is not one that this project wrote.
    pub fn with_input_property(self, stored: Option<&str>) -> Result<Self, ForeignSchema> {
        let Some(stored) = stored else {
            return Ok(self);
        };
        let foreign =
            |error: serde_json::Error| ForeignSchema { column: INPUT_COLUMNS.to_owned(), what: error.to_string() };
        let fields = serde_json::from_str(stored).map_err(foreign)?;
        let input = columns_from_delta(&fields, &[])?;
        // The event's columns may have grown without the table's.
        let version = newest(&input).map_or(self.version, |version| version.max(self.version));
        Ok(Self { version, input: Some(input), ..self })
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
            input: None,
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
    fn one_version_says_both_the_columns_of_the_event_and_those_of_the_table() {
        let v = SchemaVersion;
        let input = vec![Column::new("x", ColumnType::Int64, v(1)), Column::new("y", ColumnType::Utf8, v(4))];
        let schema = TableSchema { version: v(4), input: Some(input), ..example() };
        let stored = TableSchema::from_delta(&schema.to_delta(&[]), &[]).unwrap();
        assert_eq!(stored.version, v(3), "the table's own columns did not grow");
        let again = stored.with_input_property(schema.input_property().as_deref()).unwrap();
        assert_eq!(again, schema);
        assert_eq!(again.at(v(3)).input.unwrap().len(), 1);
        assert!(example().with_input_property(Some("no list")).is_err());
        assert_eq!(example().input_property(), None);
    }

    #[test]
    fn types_are_declared_by_their_names() {
        for kind in ["BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "TIMESTAMP", "DATE"] {
            assert_eq!(ColumnType::declared(&kind.to_lowercase()).unwrap().name(), kind);
        }
        assert_eq!(ColumnType::declared("STRING"), Some(ColumnType::Utf8));
        assert_eq!(ColumnType::declared("DECIMAL(10,2)"), None);
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
