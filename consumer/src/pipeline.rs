//! The pipeline: what the rows are a function of, besides the log. Its canonical form is stored with the generation
//! and hashed; text, comments, flush limits and the version are no part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::event_time;
use headwater_common::window::Partitioning;
use headwater_lake::generation::Generation;
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::decode::{DecodeRules, EVENT_ID_FIELD, MissingTime};

/// How events become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// How an event is decoded.
    pub rules: DecodeRules,
    /// How the table is partitioned.
    pub partition_by: Partitioning,
}

/// A stored pipeline that this version cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It has a setting that is unknown here, or a value that is none.
    #[error("the stored pipeline has a setting that this version does not know; upgrade headwater")]
    Unknown(#[from] serde_json::Error),
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
            let missing = if *missing_time == MissingTime::Arrival { "arrival" } else { "dead-letter" };
            form.insert("time_field".to_owned(), json!(field));
            form.insert("time_format".to_owned(), json!(time_format));
            form.insert("missing_time".to_owned(), json!(missing));
            form.insert("future_max_ms".to_owned(), json!(future_max.as_millis()));
        }
        form
    }

    /// Reads a canonical form.
    ///
    /// # Errors
    /// When it has a setting that this version does not know.
    pub fn from_canonical(form: &BTreeMap<String, Value>) -> Result<Self, FormError> {
        let form = Value::Object(form.clone().into_iter().collect());
        let Form { id_field, partition_by, time_field, time_format, missing_time, future_max_ms } =
            serde_json::from_value(form)?;
        let missing_time = match missing_time {
            MissingTimeForm::Arrival => MissingTime::Arrival,
            MissingTimeForm::DeadLetter => MissingTime::DeadLetter,
        };
        let future_max = future_max_ms.map_or(FUTURE_MAX_DEFAULT, Duration::from_millis);
        let rules = DecodeRules { id_field, time_field, time_format, missing_time, future_max };
        Ok(Self { rules, partition_by })
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
    fn what_changes_rows_changes_the_hash() {
        let base = Pipeline::default();
        let mut with_time = base.clone();
        with_time.rules.time_field = Some("t".into());
        let mut other_format = with_time.clone();
        other_format.rules.time_format = event_time::Format::EpochMs;
        let mut by_year = base.clone();
        by_year.partition_by = "year".parse().unwrap();
        let hashes: std::collections::BTreeSet<_> =
            [&base, &with_time, &other_format, &by_year].map(Pipeline::hash).into();
        assert_eq!(hashes.len(), 4);
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
                let pipeline = Pipeline { rules, partition_by };
                pipelines.push(pipeline);
            }
        }
        for pipeline in pipelines {
            let read = Pipeline::from_canonical(&pipeline.canonical()).unwrap();
            assert_eq!(read, pipeline);
            assert_eq!(read.hash(), pipeline.hash());
        }
    }

    #[test]
    fn a_pipeline_of_a_newer_version_is_refused() {
        let mut form = Pipeline::default().canonical();
        form.insert("transform".to_owned(), json!("SELECT 1"));
        assert!(matches!(Pipeline::from_canonical(&form), Err(FormError::Unknown(_))));
        let mut form = Pipeline::default().canonical();
        form.insert("missing_time".to_owned(), json!("guess"));
        assert!(matches!(Pipeline::from_canonical(&form), Err(FormError::Unknown(_))));
    }
}
