//! Deletes objects that a committed Remove names, and nothing that is merely unreferenced: that may be on its way.
//!
//! A file that a cut names stays, although it is out of the table: the generation promises it to readers that list.

use std::time::Duration;

use headwater_common::timestamp::Timestamp;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt};

use crate::error::Error;
use crate::generation::OpenGeneration;
use crate::layout;
use crate::table::DeltaLog;

/// Returns the objects of a generation that were taken out of its tables at least `older_than` ago and that no reader
/// is promised. When that was is not known of some: those stay.
///
/// # Errors
/// When the store does not answer or a table is damaged.
pub async fn removable(generation: &OpenGeneration, older_than: Duration, now: Timestamp) -> Result<Vec<Path>, Error> {
    let OpenGeneration { store, table, description } = generation;
    let mut keys = Vec::new();
    for output in table.outputs().iter().copied() {
        for (path, removed_at) in DeltaLog::new(generation, output)?.removed().await? {
            let removed_at = removed_at.map(|millis| Timestamp::from_micros(millis.saturating_mul(1_000)));
            let is_old = removed_at.is_some_and(|at| at <= now && now.since(at) >= older_than);
            if !is_old || is_promised(&path) {
                continue;
            }
            let key = layout::data_object(table, output, description.number, &path);
            if store.head(&key).await?.is_some() {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

/// What listings find is what cuts name; folders that begin with `_` are passed over. A path that leaves its table is
/// nobody's business here.
fn is_promised(path: &str) -> bool {
    let parts = || path.split('/');
    !parts().any(|part| part.starts_with('_')) || parts().any(|part| part == "..") || path.contains("://")
}

/// Deletes what [`removable`] returned, and returns how many objects there were. May be interrupted and run again.
///
/// # Errors
/// When the store refuses or does not answer.
pub async fn remove(generation: &OpenGeneration, keys: &[Path]) -> Result<u64, Error> {
    let mut removed = 0;
    for key in keys {
        match generation.store.objects().delete(key).await {
            Ok(()) => removed += 1,
            // Another gc was faster.
            Err(StoreError::NotFound { .. }) => {}
            Err(source) => return Err(Error::Store { action: "delete", key: key.clone(), source }),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_listing_finds_may_go() {
        for (path, promised) in [
            ("year=2026/month=11/day=21/0of1-00000000000000000001-0.parquet", true),
            ("_compacted/year=2026/x.parquet", false),
            ("_compacted/../../other/x.parquet", true),
            ("s3://elsewhere/_compacted/x.parquet", true),
        ] {
            assert_eq!(is_promised(path), promised, "{path}");
        }
    }
}
