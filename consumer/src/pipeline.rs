//! The pipeline: what the rows are a function of, besides the log. Its canonical form is stored with the generation
//! and hashed; text, comments, flush limits and the version are no part of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_common::event_time;
use headwater_common::window::Partitioning;
use headwater_lake::generation::Generation;
use headwater_lake::schema::{ColumnType, TableSchema};
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::decode::{DecodeRules, EVENT_ID_FIELD, MissingTime};
use crate::transform::planner::Planner;
use crate::transform::{self, Declared, Transform};

/// How events become rows.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// How an event is decoded.
    pub rules: DecodeRules,
    /// How the table is partitioned.
    pub partition_by: Partitioning,
    /// Fields whose type is declared and not inferred.
    pub columns: Declared,
    /// What is made of decoded rows; `None` when they are the rows of the table.
    pub transform: Option<Arc<dyn Transform>>,
}

/// A stored pipeline that this version cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It has a setting that is unknown here, or a value that is none.
    #[error("the stored pipeline has a setting that this version does not know; upgrade headwater")]
    Unknown(#[from] serde_json::Error),
    /// A declared type that is none here.
    #[error("the stored pipeline declares {column} as {kind}, which this version does not know; upgrade headwater")]
    Type {
        /// The field.
        column: String,
        /// The type.
        kind: String,
    },
    /// Its transform is refused.
    #[error("the stored pipeline's transform cannot be run: {0}")]
    Transform(String),
    /// Read and written again it is another.
    #[error("the stored pipeline has the hash {stored}, this version would run {read}; upgrade headwater")]
    OtherHash {
        /// Hash in the generation.
        stored: String,
        /// Hash of what was read.
        read: String,
    },
}

/// The canonical form, as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    id_field: String,
    partition_by: Partitioning,
    time_field: Option<String>,
    #[serde(default)]
    time_format: event_time::Format,
    #[serde(default)]
    missing_time: MissingTimeForm,
    future_max_ms: Option<u64>,
    #[serde(default)]
    columns: BTreeMap<String, String>,
    transform: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum MissingTimeForm {
    #[default]
    Arrival,
    DeadLetter,
}

/// How far after its arrival an event may claim to have happened, unless told otherwise.
pub const FUTURE_MAX_DEFAULT: Duration = Duration::from_secs(24 * 3600);

const ARRIVAL: &str = "arrival";
const DEAD_LETTER: &str = "dead-letter";

impl Default for Pipeline {
    fn default() -> Self {
        Self {
            rules: DecodeRules {
                id_field: EVENT_ID_FIELD.to_owned(),
                time_field: None,
                time_format: event_time::Format::Text,
                missing_time: MissingTime::Arrival,
                future_max: FUTURE_MAX_DEFAULT,
            },
            partition_by: Partitioning::default(),
            columns: Declared::new(),
            transform: None,
        }
    }
}

impl Pipeline {
    /// Returns the canonical form. A setting that is added later is left out while it has its first default, so that
    /// old generations keep their hash.
    pub fn canonical(&self) -> BTreeMap<String, Value> {
        let DecodeRules { id_field, time_field, time_format, missing_time, future_max } = &self.rules;
        let mut form = BTreeMap::from([
            ("id_field".to_owned(), json!(id_field)),
            ("partition_by".to_owned(), json!(self.partition_by)),
        ]);
        // Without an event time the rules about it have no effect.
        if let Some(field) = time_field {
            let missing = if *missing_time == MissingTime::Arrival { ARRIVAL } else { DEAD_LETTER };
            form.insert("time_field".to_owned(), json!(field));
            form.insert("time_format".to_owned(), json!(time_format));
            form.insert("missing_time".to_owned(), json!(missing));
            form.insert("future_max_ms".to_owned(), json!(future_max.as_millis()));
        }
        if !self.columns.is_empty() {
            let columns: BTreeMap<_, _> = self.columns.iter().map(|(name, kind)| (name, kind.name())).collect();
            form.insert("columns".to_owned(), json!(columns));
        }
        if let Some(transform) = &self.transform {
            form.insert("transform".to_owned(), json!(transform.canonical()));
        }
        form
    }

    /// Reads a canonical form.
    ///
    /// # Errors
    /// When it has a setting that this version does not know.
    pub fn from_canonical(form: &BTreeMap<String, Value>) -> Result<Self, FormError> {
        let form: Form = serde_json::from_value(Value::Object(form.clone().into_iter().collect()))?;
        let Form { id_field, partition_by, time_field, time_format, missing_time, future_max_ms, .. } = form;
        let missing_time = match missing_time {
            MissingTimeForm::Arrival => MissingTime::Arrival,
            MissingTimeForm::DeadLetter => MissingTime::DeadLetter,
        };
        let future_max = future_max_ms.map_or(FUTURE_MAX_DEFAULT, Duration::from_millis);
        let rules = DecodeRules { id_field, time_field, time_format, missing_time, future_max };
        let mut columns = Declared::new();
        for (column, kind) in form.columns {
            let Some(known) = ColumnType::declared(&kind) else {
                return Err(FormError::Type { column, kind });
            };
            columns.insert(column, known);
        }
        let transform = form.transform.map(|sql| transform::read(&sql, &columns)).transpose();
        let transform = transform.map_err(FormError::Transform)?;
        Ok(Self { rules, partition_by, columns, transform })
    }

    /// Returns the pipeline that a generation was built with, and surely that one.
    ///
    /// # Errors
    /// When this version cannot run it.
    pub fn of(generation: &Generation) -> Result<Self, FormError> {
        let pipeline = Self::from_canonical(&generation.pipeline)?;
        let (stored, read) = (generation.pipeline_hash.clone(), pipeline.hash());
        if stored == read { Ok(pipeline) } else { Err(FormError::OtherHash { stored, read }) }
    }

    /// Returns the pipeline with a stored form's value wherever the user has set none: a generation keeps the defaults
    /// it was made with, whatever a later version's are. `is_set` is asked by the names of the settings.
    ///
    /// The time field, the declared columns and the transform have no default that could change. Not to have one is
    /// itself what the user says, so they are never taken over.
    #[must_use]
    pub fn keeping(mut self, stored: &BTreeMap<String, Value>, is_set: impl Fn(&str) -> bool) -> Self {
        let kept = |setting: &str, key: &str| if is_set(setting) { None } else { stored.get(key).cloned() };
        let rules = &mut self.rules;
        if let Some(Value::String(field)) = kept("id_field", "id_field") {
            rules.id_field = field;
        }
        if let Some(value) = kept("partition_by", "partition_by")
            && let Ok(partitioning) = serde_json::from_value(value)
        {
            self.partition_by = partitioning;
        }
        if let Some(value) = kept("time_format", "time_format")
            && let Ok(format) = serde_json::from_value(value)
        {
            rules.time_format = format;
        }
        match kept("missing_time", "missing_time").as_ref().and_then(Value::as_str) {
            Some(ARRIVAL) => rules.missing_time = MissingTime::Arrival,
            Some(DEAD_LETTER) => rules.missing_time = MissingTime::DeadLetter,
            _ => {}
        }
        if let Some(millis) = kept("max_future", "future_max_ms").as_ref().and_then(Value::as_u64) {
            rules.future_max = Duration::from_millis(millis);
        }
        self
    }

    /// Returns the schema that a new table begins with when its events have these columns: declared fields have their
    /// declared types, and with a transform the table has what that gives.
    ///
    /// # Errors
    /// Why the transform cannot be planned with these columns.
    pub fn first_schema(&self, events: &TableSchema) -> Result<TableSchema, String> {
        let mut events = events.as_first();
        transform::declare(&mut events, &self.columns);
        match &self.transform {
            None => Ok(events),
            Some(transform) => Ok(Planner::new(Arc::clone(transform), None, &[]).stage(&events)?.table().clone()),
        }
    }

    /// Returns the hash of the canonical form, 32 hexadecimal digits.
    pub fn hash(&self) -> String {
        let canonical = serde_json::to_vec(&self.canonical()).expect("the form has string keys only");
        format!("{:032x}", xxh3_128(&canonical))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_the_default_pipeline_never_changes() {
        assert_eq!(
            serde_json::to_string(&Pipeline::default().canonical()).unwrap(),
            r#"{"id_field":"_event_id","partition_by":"year,month,day"}"#
        );
    }

    #[test]
    fn settings_that_nobody_made_are_those_of_the_generation() {
        let mut made = Pipeline::default();
        made.rules.time_field = Some("t".into());
        made.rules.time_format = event_time::Format::EpochMs;
        made.rules.missing_time = MissingTime::DeadLetter;
        made.rules.future_max = Duration::from_secs(7);
        made.rules.id_field = "id".into();
        made.partition_by = "date".parse().unwrap();
        let mut now = Pipeline::default();
        now.rules.time_field = Some("t".into());
        let kept = now.clone().keeping(&made.canonical(), |setting| setting == "time_field");
        assert_eq!(kept.canonical(), made.canonical());
        let changed = now.keeping(&made.canonical(), |setting| ["time_field", "partition_by"].contains(&setting));
        assert_eq!(changed.partition_by, Partitioning::default(), "what is set is compared, not replaced");
        // What is not said is not taken over where saying nothing means something.
        assert_eq!(Pipeline::default().keeping(&made.canonical(), |_| false).rules.time_field, None);
    }

    #[test]
    #[cfg(feature = "sql")]
    fn a_transform_counts_by_what_it_says() {
        let with = |sql: &str| {
            let transform = Some(crate::transform::read(sql, &Declared::new()).unwrap());
            Pipeline { transform, ..Pipeline::default() }
        };
        let plain = with("SELECT a, b FROM events WHERE a > 1");
        assert_eq!(
            serde_json::to_string(&plain.canonical()).unwrap(),
            "{\"id_field\":\"_event_id\",\"partition_by\":\"year,month,day\",\
             \"transform\":\"SELECT a, b FROM events WHERE a > 1\"}"
        );
        assert_eq!(with("select a,b from events -- comment\n where a>1").hash(), plain.hash());
        assert_ne!(with("SELECT a, b FROM events WHERE a > 2").hash(), plain.hash());
        assert_ne!(Pipeline::default().hash(), plain.hash());
    }

    #[test]
    fn what_changes_rows_changes_the_hash() {
        let base = Pipeline::default();
        let mut with_time = base.clone();
        with_time.rules.time_field = Some("t".into());
        let mut other_format = with_time.clone();
        other_format.rules.time_format = event_time::Format::EpochMs;
        let mut by_year = base.clone();
        by_year.partition_by = "year".parse().unwrap();
        let mut declared = base.clone();
        declared.columns.insert("a".into(), headwater_lake::schema::ColumnType::Int64);
        let hashes: std::collections::BTreeSet<_> =
            [&base, &with_time, &other_format, &by_year, &declared].map(Pipeline::hash).into();
        assert_eq!(hashes.len(), 5);
    }

    #[test]
    fn a_stored_pipeline_is_the_same_when_it_is_read() {
        let formats = [
            event_time::Format::Text,
            event_time::Format::EpochS,
            event_time::Format::EpochMs,
            event_time::Format::EpochUs,
        ];
        let mut pipelines = vec![Pipeline::default()];
        for (index, time_format) in formats.into_iter().enumerate() {
            for missing_time in [MissingTime::Arrival, MissingTime::DeadLetter] {
                let rules = DecodeRules {
                    id_field: "id".into(),
                    time_field: Some("at".into()),
                    time_format,
                    missing_time,
                    future_max: Duration::from_millis(1_500),
                };
                let partition_by = ["year", "date", "year,month", "year,month,day,hour"][index].parse().unwrap();
                let pipeline = Pipeline { rules, partition_by, ..Pipeline::default() };
                pipelines.push(pipeline);
            }
        }
        let columns = Declared::from([("a".to_owned(), ColumnType::Float64)]);
        #[cfg(feature = "sql")]
        let transform = Some(transform::read("SELECT *, a + 1 AS b FROM events", &columns).unwrap());
        #[cfg(not(feature = "sql"))]
        let transform = None;
        pipelines.push(Pipeline { columns, transform, ..Pipeline::default() });
        for pipeline in pipelines {
            let read = Pipeline::from_canonical(&pipeline.canonical()).unwrap();
            assert_eq!(read.canonical(), pipeline.canonical());
            assert_eq!(read.hash(), pipeline.hash());
        }
    }

    #[test]
    fn a_pipeline_of_a_newer_version_is_refused() {
        let mut form = Pipeline::default().canonical();
        form.insert("watermark".to_owned(), json!("1h"));
        assert!(matches!(Pipeline::from_canonical(&form), Err(FormError::Unknown(_))));
        let mut form = Pipeline::default().canonical();
        form.insert("missing_time".to_owned(), json!("guess"));
        assert!(matches!(Pipeline::from_canonical(&form), Err(FormError::Unknown(_))));
    }
}
