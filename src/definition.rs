//! What `headwater.toml` says of a pipeline and no flag can: the types of fields, and the transform.
//!
//! ```toml
//! [columns]
//! amount = "DOUBLE"
//!
//! [transform]
//! sql = "SELECT *, amount * 1.19 AS gross FROM events WHERE amount > 0"
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use headwater_consumer::decode::META_COLUMNS;
use headwater_consumer::transform::{self, Declared, Transform};
use headwater_lake::schema::ColumnType;
use toml::Value;

/// The section that declares types.
pub(crate) const COLUMNS: &str = "columns";
/// The section with the SQL.
pub(crate) const TRANSFORM: &str = "transform";
/// The one key of that section.
pub(crate) const SQL: &str = "sql";

/// The part of a pipeline that stands in the file.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    /// Fields with their types.
    pub columns: Declared,
    /// The transform.
    pub transform: Option<Arc<dyn Transform>>,
}

impl Definition {
    /// Reads the sections, whose keys are known to be there.
    ///
    /// # Errors
    /// What is wrong, naming the key.
    pub(crate) fn read(content: &BTreeMap<String, Value>) -> Result<Self, String> {
        let mut columns = Declared::new();
        for (name, value) in section(content, COLUMNS) {
            columns.insert(name.clone(), column(name, value)?);
        }
        let transform = match section(content, TRANSFORM).find(|(key, _)| *key == SQL) {
            None => None,
            Some((_, Value::String(sql))) => {
                let read = transform::read(sql, &columns);
                Some(read.map_err(|reason| format!("`{TRANSFORM}.{SQL}`: {reason}"))?)
            }
            Some(_) => return Err(format!("`{TRANSFORM}.{SQL}` is no text")),
        };
        Ok(Self { columns, transform })
    }

    /// Returns the sections as they count, for people.
    pub(crate) fn listing(&self, file: &str) -> String {
        let mut text = String::new();
        let mut put = |line: String| writeln!(text, "{line}").expect("writing to a string does not fail");
        if !self.columns.is_empty() {
            put(format!("[{COLUMNS}]"));
        }
        for (name, kind) in &self.columns {
            put(format!("{name:?} = {:?}  # file {file}", kind.name()));
        }
        if let Some(transform) = &self.transform {
            put(format!("[{TRANSFORM}]\n{SQL} = {:?}  # file {file}", transform.canonical()));
        }
        text
    }
}

fn section<'a>(content: &'a BTreeMap<String, Value>, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    content.get(name).and_then(Value::as_table).into_iter().flatten()
}

fn column(name: &str, value: &Value) -> Result<ColumnType, String> {
    let key = format!("`{COLUMNS}.{name}`");
    if META_COLUMNS.iter().any(|(meta, _)| meta.eq_ignore_ascii_case(name)) {
        return Err(format!("{key}: Headwater fills this column itself"));
    }
    let kind = value.as_str().and_then(ColumnType::declared);
    kind.ok_or_else(|| {
        format!("{key}: {value} is no type; use one of BIGINT, DOUBLE, BOOLEAN, VARCHAR (or STRING), TIMESTAMP, DATE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Definition, String> {
        Definition::read(&toml::from_str(text).unwrap())
    }

    #[test]
    fn types_are_declared_by_name() {
        let definition = read("[columns]\nb = \"double\"\na = \"STRING\"\n").unwrap();
        let expected = Declared::from([("a".into(), ColumnType::Utf8), ("b".into(), ColumnType::Float64)]);
        assert_eq!(definition.columns, expected);
        assert!(definition.listing("f.toml").starts_with("[columns]\n\"a\" = \"VARCHAR\"  # file f.toml\n"));
        for (text, hint) in [
            ("[columns]\na = \"DECIMAL(10,2)\"\n", "`columns.a`: \"DECIMAL(10,2)\" is no type"),
            ("[columns]\na = 7\n", "`columns.a`: 7 is no type"),
            ("[columns]\n_shard = \"BIGINT\"\n", "`columns._shard`"),
            ("[transform]\nsql = 7\n", "`transform.sql` is no text"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.starts_with(hint), "{text}: {refused}");
        }
        // Without these sections there is nothing to say.
        let nothing = read("[consume]\nflush_rows = 7\n").unwrap();
        assert!(nothing.columns.is_empty() && nothing.transform.is_none());
    }
}
