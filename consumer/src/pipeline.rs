//! The pipeline: what the rows are a function of, besides the log. Its canonical form is stored with the generation
//! and hashed; text, comments, flush limits and the version are no part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_common::event_time;
use headwater_common::window::Partitioning;
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

/// A canonical form of another version.
#[derive(Debug, thiserror::Error)]
#[error("the pipeline has `{key} = {value}`, which this version does not know; upgrade headwater")]
pub struct UnknownPipeline {
    key: String,
    value: String,
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

    /// Reads a canonical form, as a generation keeps it.
    ///
    /// # Errors
    /// When it has a setting or a value that this version does not know: rows would come out otherwise.
    pub fn from_canonical(form: &BTreeMap<String, Value>) -> Result<Self, UnknownPipeline> {
        let mut pipeline = Self::default();
        for (key, value) in form {
            let unknown = || UnknownPipeline { key: key.clone(), value: value.to_string() };
            let text = || value.as_str().ok_or_else(unknown);
            match key.as_str() {
                "id_field" => text()?.clone_into(&mut pipeline.rules.id_field),
                "partition_by" => pipeline.partition_by = text()?.parse().map_err(|_| unknown())?,
                "time_field" => pipeline.rules.time_field = Some(text()?.to_owned()),
                "time_format" => {
                    pipeline.rules.time_format = serde_json::from_value(value.clone()).map_err(|_| unknown())?;
                }
                "missing_time" => {
                    pipeline.rules.missing_time = match text()? {
                        "arrival" => MissingTime::Arrival,
                        "dead-letter" => MissingTime::DeadLetter,
                        _ => return Err(unknown()),
                    };
                }
                "future_max_ms" => {
                    let millis = value.as_u64().ok_or_else(unknown)?;
                    pipeline.rules.future_max = Duration::from_millis(millis);
                }
                _ => return Err(unknown()),
            }
        }
        Ok(pipeline)
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
    fn the_canonical_form_gives_the_pipeline_back() {
        let with_time = Pipeline {
            rules: DecodeRules {
                id_field: "id".into(),
                time_field: Some("t".into()),
                time_format: event_time::Format::EpochMs,
                missing_time: MissingTime::DeadLetter,
                future_max: Duration::from_millis(1_500),
            },
            partition_by: "year,month,day,hour".parse().unwrap(),
        };
        for pipeline in [Pipeline::default(), with_time] {
            assert_eq!(Pipeline::from_canonical(&pipeline.canonical()).unwrap(), pipeline);
        }
        for (key, value) in [("new_rule", json!(1)), ("partition_by", json!("week")), ("missing_time", json!("drop"))] {
            let form = BTreeMap::from([(key.to_owned(), value)]);
            assert!(Pipeline::from_canonical(&form).unwrap_err().to_string().contains(key));
        }
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
}
