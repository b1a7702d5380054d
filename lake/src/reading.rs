//! What a reader needs of a table: its schema, and its files, file after file.

use std::collections::HashMap;

use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::error::Error;
use crate::generation::{OpenGeneration, PartitionKey};
use crate::layout::{self, Output};
use crate::schema::TableSchema;
use crate::table::DeltaLog;

/// A table at its newest version.
#[derive(Debug, Clone)]
pub struct TableView {
    /// The Delta version.
    pub version: u64,
    /// The columns of its files.
    pub schema: TableSchema,
    /// Its partition keys.
    pub keys: Vec<PartitionKey>,
    /// Its files.
    pub files: Vec<LiveFile>,
}

/// A file that is in the table.
#[derive(Debug, Clone)]
pub struct LiveFile {
    /// Its key below the lake.
    pub key: object_store::path::Path,
    /// Its key below the generation's folder, as in the Delta log.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Milliseconds since the epoch.
    pub modified_millis: i64,
    /// Its rows.
    pub rows: u64,
    /// The values of the partition keys.
    pub partition: HashMap<String, String>,
    /// Delta's statistics.
    pub statistics: Value,
}

/// Reads a table with the list of its files; `None` when it does not exist yet.
///
/// # Errors
/// When the store does not answer or the table is damaged.
pub async fn view(generation: &OpenGeneration, output: Output) -> Result<Option<TableView>, Error> {
    let log = DeltaLog::new(generation, output)?;
    let Some((state, files)) = open(&log, generation, output).await? else {
        return Ok(None);
    };
    let files = files.try_collect().await?;
    Ok(Some(TableView { version: state.version, schema: state.schema.clone(), keys: state.keys.clone(), files }))
}

/// Reads a table and gives its files one after another, without keeping their list; `None` when it does not exist yet.
///
/// # Errors
/// As [`view`]; the stream ends with its first error.
pub async fn stream(generation: &OpenGeneration, output: Output) -> Result<Option<TableStream>, Error> {
    let log = DeltaLog::new(generation, output)?;
    open(&log, generation, output).await
}

/// Counts a table's files, rows, bytes and partitions without keeping the list.
///
/// # Errors
/// As [`view`].
pub async fn totals(generation: &OpenGeneration, output: Output) -> Result<Totals, Error> {
    let log = DeltaLog::new(generation, output)?;
    let mut totals = Totals::default();
    let Some((state, mut files)) = open(&log, generation, output).await? else {
        return Ok(totals);
    };
    let mut partitions = std::collections::BTreeSet::new();
    while let Some(file) = files.try_next().await? {
        totals.files += 1;
        totals.rows += file.rows;
        totals.bytes += file.size;
        totals.smallest_bytes = Some(totals.smallest_bytes.map_or(file.size, |smallest| smallest.min(file.size)));
        partitions.insert(file.path.rsplit_once('/').map(|(folder, _)| folder.to_owned()));
    }
    totals.version = Some(state.version);
    totals.partitions = partitions.len() as u64;
    Ok(totals)
}

/// A table in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// The Delta version; `None` when the table does not exist yet.
    pub version: Option<u64>,
    /// Files in it.
    pub files: u64,
    /// Rows in it.
    pub rows: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Partitions that have files.
    pub partitions: u64,
    /// Bytes of the smallest file; `None` without files.
    pub smallest_bytes: Option<u64>,
}

/// The files of a table, one after another.
pub type Files = BoxStream<'static, Result<LiveFile, Error>>;

/// A table at its newest version, and its files.
pub type TableStream = (std::sync::Arc<crate::table::TableState>, Files);

/// Opens a stream over the table's files, which is not kept in memory.
pub(crate) async fn open(
    log: &DeltaLog,
    generation: &OpenGeneration,
    output: Output,
) -> Result<Option<TableStream>, Error> {
    let Some(snapshot) = log.snapshot().await? else {
        return Ok(None);
    };
    let state = std::sync::Arc::new(log.state_of(&snapshot)?);
    let number = generation.description.number;
    let table = generation.table.clone();
    let log_store = log.log_store().clone();
    let (sender, receiver) = tokio::sync::mpsc::channel(1024);
    // The kernel's stream borrows the snapshot; a task of its own feeds a bounded channel.
    let feeding = tokio::spawn(async move {
        let mut views = snapshot.file_views(log_store.as_ref(), None);
        while let Some(file) = views.next().await {
            let file = file.map(|file| LiveFile {
                key: layout::data_object(&table, output, number, file.path().as_ref()),
                path: file.path().to_string(),
                size: u64::try_from(file.size()).unwrap_or(0),
                modified_millis: file.modification_time(),
                rows: file.num_records().unwrap_or(0) as u64,
                partition: partition_of(file.path().as_ref()),
                statistics: file.stats().and_then(|s| serde_json::from_str(&s).ok()).unwrap_or(Value::Null),
            });
            let file = file.map_err(|source| Error::Delta {
                action: "list the files of",
                output,
                generation: number,
                source: Box::new(source),
            });
            if sender.send(file).await.is_err() {
                return;
            }
        }
    });
    let stream = futures::stream::unfold((receiver, Some(feeding)), |(mut receiver, feeding)| async move {
        match receiver.recv().await {
            Some(file) => Some((file, (receiver, feeding))),
            None => {
                if let Some(task) = feeding
                    && let Err(error) = task.await
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
                None
            }
        }
    });
    Ok(Some((state, stream.boxed())))
}

/// Returns the Hive values in a key that this project wrote; they need no decoding.
fn partition_of(path: &str) -> HashMap<String, String> {
    let folders = path.split('/').filter_map(|part| part.split_once('='));
    folders.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
