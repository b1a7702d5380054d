//! Looks into a lake that other processes write.

use std::path::Path;
use std::time::Duration;

use headwater_lake::generation;
use headwater_lake::layout::{Output, TableName};
use headwater_lake::reading;
use headwater_lake::store::LakeStore;

/// How often a table is looked into, and how often at most: a minute and a half.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOKS_MAX: usize = 360;

/// Returns the rows that a table's Delta log has; 0 while there is no table.
pub async fn rows(lake: &Path, table: &TableName) -> u64 {
    let Ok(store) = LakeStore::existing_on_disk(lake) else { return 0 };
    let Ok(open) = generation::open_live(&store, table).await else { return 0 };
    reading::totals(&open, Output::Events).await.map_or(0, |totals| totals.rows)
}

/// Waits until a table has so many rows.
pub async fn until_rows(lake: &Path, table: &str, wanted: u64) {
    let table = table.parse().expect("a table's name");
    let mut found = 0;
    for _ in 0..LOOKS_MAX {
        found = rows(lake, &table).await;
        if found >= wanted {
            return;
        }
        // Nobody tells us what other processes commit.
        tokio::time::sleep(LOOK_EVERY).await;
    }
    panic!("{found} rows of {wanted}, and no more come");
}
