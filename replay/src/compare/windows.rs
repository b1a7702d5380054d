//! The files of two tables by window, where the windows are the coarser ones of the two.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt;
use headwater_common::timestamp::CalendarHour;
use headwater_common::window::{Key, Partitioning, Start};
use headwater_lake::generation::{OpenGeneration, PartitionKey};
use headwater_lake::layout::Output;
use headwater_lake::reading;
use headwater_lake::schema::TableSchema;
use object_store::path::Path;

use crate::error::Error;

/// A table, and which files each window has. A file is some hundred bytes here, whatever is in it.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// The columns; `None` when the table does not exist yet.
    pub(crate) schema: Option<TableSchema>,
    /// The files' keys below the lake.
    pub(crate) by_window: BTreeMap<Start, Vec<Path>>,
}

/// Returns the partitioning with the larger windows: what is in one of its windows is in one of the other's.
pub(crate) fn coarser<'a>(one: &'a Partitioning, other: &'a Partitioning) -> &'a Partitioning {
    if other.unit() > one.unit() { other } else { one }
}

/// Lists the files of an output by the windows of a partitioning, which is not finer than the table's own.
pub(crate) async fn files(generation: &OpenGeneration, output: Output, windows: &Partitioning) -> Result<Files, Error> {
    let Some((state, mut files)) = reading::stream(generation, output).await? else {
        return Ok(Files::default());
    };
    let mut by_window: BTreeMap<Start, Vec<Path>> = BTreeMap::new();
    while let Some(file) = files.try_next().await? {
        let own = window_of(&state.keys, &file.partition).ok_or_else(|| Error::File {
            key: file.key.to_string(),
            source: "its folders do not say its window".into(),
        })?;
        by_window.entry(windows.window_of(own.0)).or_default().push(file.key);
    }
    Ok(Files { schema: Some(state.schema.clone()), by_window })
}

/// Returns the window that a file's folders name.
fn window_of(keys: &[PartitionKey], partition: &HashMap<String, String>) -> Option<Start> {
    let mut hour = CalendarHour { year: 1, month: 1, day: 1, hour: 0 };
    for key in keys {
        let value = partition.get(&key.column)?;
        match key.kind {
            Key::Year => hour.year = value.parse().ok()?,
            Key::Month => hour.month = value.parse().ok()?,
            Key::Day => hour.day = value.parse().ok()?,
            Key::Hour => hour.hour = value.parse().ok()?,
            Key::Date => return Some(Start(format!("{value}T00:00:00Z").parse().ok()?)),
        }
    }
    hour.start().map(Start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_say_the_window() {
        let check = |partitioning: &str, folders: &[(&str, &str)], expect: Option<&str>| {
            let keys = PartitionKey::of(&partitioning.parse().unwrap(), |name| name == "year");
            let partition = folders.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let expect = expect.map(|time| Start(time.parse().unwrap()));
            assert_eq!(window_of(&keys, &partition), expect, "{partitioning} {folders:?}");
        };
        check("year", &[("event_year", "2026")], Some("2026-01-01T00:00:00Z"));
        let day = [("event_year", "2026"), ("month", "02"), ("day", "03")];
        check("year,month,day", &day, Some("2026-02-03T00:00:00Z"));
        check("year,month,day,hour", &[&day[..], &[("hour", "04")]].concat(), Some("2026-02-03T04:00:00Z"));
        check("date", &[("date", "2026-02-03")], Some("2026-02-03T00:00:00Z"));
        check("year,month,day", &day[..2], None);
        check("year", &[("event_year", "x")], None);
    }

    #[test]
    fn hours_are_seen_as_days_where_the_other_table_has_days() {
        let (hour, day): (Partitioning, _) = ("year,month,day,hour".parse().unwrap(), Partitioning::default());
        assert_eq!(coarser(&hour, &day), &day);
        assert_eq!(coarser(&day, &hour), &day);
    }
}
