//! One output's Delta table: read once, then followed commit by commit. The writer keeps no list of its files.
//!
//! Every commit is one conditional create of `_delta_log/<version>.json` at the version after the base. There is no
//! retry in here: what an answer means is decided by [`crate::commit::Machine`].

use std::collections::HashMap;
use std::sync::Arc;

use deltalake_core::DeltaTableError;
use deltalake_core::kernel::transaction::{CommitData, TransactionError};
use deltalake_core::kernel::{
    Action, Add, Metadata, MetadataExt as _, Protocol, Remove, Snapshot, StructType, Transaction, new_metadata,
};
use deltalake_core::logstore::{CommitOrBytes, LogStoreRef, StorageConfig, default_logstore, get_actions};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use headwater_common::outcome::Effect;
use headwater_common::window::Partitioning;
use object_store::ObjectStore;
use object_store::path::Path;
use serde_json::Value;

use crate::commit::Table;
use crate::error::Error;
use crate::generation::{OpenGeneration, PartitionKey};
use crate::layout::{self, Epoch, GenerationNumber, Lane, Output};
use crate::reading::LiveFile;
use crate::schema::{INPUT_COLUMNS, TableSchema};
use crate::store::{LakeStore, effect_of};
use deltalake_core::table::state::DeltaTableState;
use futures::TryStreamExt;

/// Commits between two checkpoints of the Delta log.
pub const CHECKPOINT_EVERY: u64 = 100;

/// Commits that are followed one by one; farther behind, the table is read anew.
const FOLLOW_MAX: u64 = 200;

/// The base of a commit: the table at one version. `None` while the table does not exist.
pub type Base = Option<Arc<TableState>>;

/// A table at one version.
#[derive(Debug)]
pub struct TableState {
    /// The Delta version.
    pub version: u64,
    /// The columns.
    pub schema: TableSchema,
    /// The partition keys under their column names.
    pub keys: Vec<PartitionKey>,
    metadata: Metadata,
}

/// What came of a commit.
#[derive(Debug)]
pub enum Commit {
    /// It is in the log; this is the table now.
    Committed(Arc<TableState>),
    /// It is not: the version is taken.
    Conflict,
    /// No clear answer.
    Unknown,
}

/// The handle of one output's Delta table.
#[derive(Debug, Clone)]
pub struct DeltaLog {
    log_store: LogStoreRef,
    partition_by: Partitioning,
    output: Output,
    generation: GenerationNumber,
}

impl DeltaLog {
    /// Returns the handle; nothing is read yet.
    ///
    /// # Errors
    /// When the table's folder cannot be made.
    pub fn new(generation: &OpenGeneration, output: Output) -> Result<Self, Error> {
        let number = generation.description.number;
        let folder = layout::generation(&generation.table, output, number);
        generation.store.ensure_folder(&folder)?;
        let partition_by = generation.description.partition_by.clone();
        let log_store = log_store(&generation.store, &folder).map_err(|source| Error::Delta {
            action: "open",
            output,
            generation: number,
            source: Box::new(source),
        })?;
        Ok(Self { log_store, partition_by, output, generation: number })
    }

    /// Returns the Delta log store, for readers.
    pub(crate) fn log_store(&self) -> &LogStoreRef {
        &self.log_store
    }

    /// Reads the table and the lane's last committed epoch in it.
    ///
    /// # Errors
    /// When the store does not answer, or another program gave the table features that this protocol excludes.
    pub async fn load(&self, lane: Lane) -> Result<Table<Base>, Error> {
        let Some(snapshot) = self.snapshot().await? else {
            return Ok(Table { committed: Epoch(0), snapshot: None });
        };
        let committed = self.transaction_version(&snapshot, lane).await?;
        let state = self.state_of(&snapshot)?;
        Ok(Table { committed, snapshot: Some(Arc::new(state)) })
    }

    /// Reads the last committed epoch of each of these lanes in the table's newest snapshot; 0 while there is none.
    ///
    /// # Errors
    /// As [`DeltaLog::load`].
    pub async fn committed(&self, lanes: &[Lane]) -> Result<Vec<(Lane, Epoch)>, Error> {
        let snapshot = self.snapshot().await?;
        let mut committed = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let epoch = match &snapshot {
                Some(snapshot) => self.transaction_version(snapshot, *lane).await?,
                None => Epoch(0),
            };
            committed.push((*lane, epoch));
        }
        Ok(committed)
    }

    /// Reads the table's newest snapshot; `None` when the table does not exist yet.
    ///
    /// # Errors
    /// When the store does not answer, or the table has features that this protocol excludes.
    pub async fn snapshot(&self) -> Result<Option<Arc<Snapshot>>, Error> {
        match Snapshot::try_new(self.log_store.as_ref(), None).await {
            Ok(snapshot) => {
                self.check_protocol(snapshot.protocol())?;
                Ok(Some(Arc::new(snapshot)))
            }
            Err(DeltaTableError::NotATable(_)) => Ok(None),
            Err(source) => Err(self.failed("read", source)),
        }
    }

    async fn transaction_version(&self, snapshot: &Snapshot, lane: Lane) -> Result<Epoch, Error> {
        let read = async {
            let kernel = snapshot.scan_builder().build()?.snapshot().clone();
            let engine = self.log_store.engine(None);
            let application = lane.to_string();
            let version = blocking(move || kernel.get_app_id_version(&application, engine.as_ref())).await?;
            version.map_err(DeltaTableError::from)
        };
        let version = read.await.map_err(|source| self.failed("read the transactions of", source))?;
        Ok(Epoch(version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0)))
    }

    /// Reads what was committed since `known`.
    ///
    /// # Errors
    /// As [`DeltaLog::load`].
    pub async fn reload(&self, lane: Lane, known: Option<&Table<Base>>) -> Result<Table<Base>, Error> {
        let Some(Table { committed, snapshot: Some(base) }) = known else {
            return self.load(lane).await;
        };
        let (mut committed, mut version, mut metadata) = (*committed, base.version, base.metadata.clone());
        while version - base.version < FOLLOW_MAX {
            let entry = self.log_store.read_commit_entry(version + 1).await;
            let Some(bytes) = entry.map_err(|source| self.failed("read", source))? else {
                let state = self.state(version, metadata)?;
                return Ok(Table { committed, snapshot: Some(Arc::new(state)) });
            };
            version += 1;
            for action in get_actions(version, &bytes).map_err(|source| self.failed("read", source))? {
                match action {
                    Action::Txn(txn) if txn.app_id == lane.to_string() => {
                        committed = Epoch(u64::try_from(txn.version).unwrap_or(0));
                    }
                    Action::Metadata(changed) => metadata = changed,
                    Action::Protocol(protocol) => self.check_protocol(&protocol)?,
                    _ => {}
                }
            }
        }
        self.load(lane).await
    }

    /// Creates the table: version 0 with its protocol and schema, reader version 1 and writer version 2.
    ///
    /// # Errors
    /// When it was certainly not created, and trying again will not help.
    pub async fn create(&self, schema: &TableSchema, keys: &[PartitionKey]) -> Result<Commit, Error> {
        let prepare = || {
            let protocol: Protocol = serde_json::from_value(serde_json::json!({
                "minReaderVersion": 1, "minWriterVersion": 2
            }))?;
            let columns: Vec<_> = keys.iter().map(|key| key.column.clone()).collect();
            let mut configuration = vec![("delta.checkpointInterval", CHECKPOINT_EVERY.to_string())];
            configuration.extend(schema.input_property().map(|columns| (INPUT_COLUMNS, columns)));
            let metadata = new_metadata(&struct_type(schema, keys)?, columns, configuration)?;
            let operation = DeltaOperation::Create {
                mode: SaveMode::ErrorIfExists,
                location: self.log_store.root_url().clone(),
                protocol: protocol.clone(),
                metadata: metadata.clone(),
            };
            let actions = vec![Action::Protocol(protocol), Action::Metadata(metadata.clone())];
            Ok::<_, DeltaTableError>((actions, operation, metadata))
        };
        let (actions, operation, metadata) = prepare().map_err(|source| self.failed("create", source))?;
        self.write(0, actions, operation, Vec::new(), metadata).await
    }

    /// Makes sure that the table is there and has at least this version of its schema: creates it, or commits what it
    /// lacks. For a generation that begins with the schema of another one.
    ///
    /// # Errors
    /// As [`DeltaLog::create`], and when no clear answer came.
    pub async fn ensure(&self, schema: &TableSchema, keys: &[PartitionKey]) -> Result<(), Error> {
        const TRIES: u32 = 5;
        for _ in 0..TRIES {
            let commit = match self.snapshot().await? {
                None => self.create(schema, keys).await?,
                Some(snapshot) => {
                    let state = self.state_of(&snapshot)?;
                    if state.schema.version >= schema.version {
                        return Ok(());
                    }
                    self.change_schema(&state, schema).await?
                }
            };
            if matches!(commit, Commit::Committed(_)) {
                return Ok(());
            }
        }
        Err(self.foreign(format!("never got version {} of its schema", schema.version.0)))
    }

    /// Reads the table at its newest version; `None` when it does not exist yet.
    ///
    /// # Errors
    /// As [`DeltaLog::load`].
    pub async fn newest(&self) -> Result<Base, Error> {
        match self.snapshot().await? {
            Some(snapshot) => Ok(Some(Arc::new(self.state_of(&snapshot)?))),
            None => Ok(None),
        }
    }

    /// Commits a schema that has grown.
    ///
    /// # Errors
    /// As [`DeltaLog::create`].
    pub async fn change_schema(&self, base: &TableState, schema: &TableSchema) -> Result<Commit, Error> {
        let metadata = struct_type(schema, &base.keys)
            .and_then(|fields| {
                let metadata = base.metadata.clone().with_schema(&fields)?;
                Ok(match schema.input_property() {
                    Some(columns) => metadata.add_config_key(INPUT_COLUMNS.to_owned(), columns)?,
                    None => metadata,
                })
            })
            .map_err(|source| self.failed("change the schema of", source))?;
        let operation = DeltaOperation::AddColumn { fields: Vec::new() };
        let actions = vec![Action::Metadata(metadata.clone())];
        self.write(base.version + 1, actions, operation, Vec::new(), metadata).await
    }

    /// Commits an epoch: its files and the lane's transaction, in one.
    ///
    /// # Errors
    /// As [`DeltaLog::create`].
    pub async fn append(&self, base: &TableState, adds: Vec<Add>, lane: Lane, epoch: Epoch) -> Result<Commit, Error> {
        let version = i64::try_from(epoch.0).expect("epochs are counted from 1");
        let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        let actions = adds.into_iter().map(Action::Add).collect();
        let transactions = vec![Transaction::new(lane.to_string(), version)];
        self.write(base.version + 1, actions, operation, transactions, base.metadata.clone()).await
    }

    /// Commits that files are no longer in the table. Their objects stay where they are.
    ///
    /// # Errors
    /// As [`DeltaLog::create`].
    pub async fn remove(&self, base: &TableState, files: &[LiveFile], now_millis: i64) -> Result<Commit, Error> {
        let remove = |file: &LiveFile| Remove {
            path: file.path.clone(),
            data_change: true,
            deletion_timestamp: Some(now_millis),
            ..Remove::default()
        };
        let actions = files.iter().map(|file| Action::Remove(remove(file))).collect();
        let operation = DeltaOperation::Delete { predicate: None };
        self.write(base.version + 1, actions, operation, Vec::new(), base.metadata.clone()).await
    }

    /// Returns the files that commits have taken out of the table, each with when that was (milliseconds since the
    /// epoch) where the commit says so.
    ///
    /// # Errors
    /// As [`DeltaLog::load`].
    pub async fn removed(&self) -> Result<Vec<(String, Option<i64>)>, Error> {
        let state = match DeltaTableState::try_new(self.log_store.as_ref(), None).await {
            Ok(state) => state,
            Err(DeltaTableError::NotATable(_)) => return Ok(Vec::new()),
            Err(source) => return Err(self.failed("read", source)),
        };
        let tombstones = state.all_tombstones(self.log_store.as_ref());
        let removed = tombstones.map_ok(|removed| (removed.path().into_owned(), removed.deletion_timestamp()));
        removed.try_collect().await.map_err(|source| self.failed("list what was removed from", source))
    }

    async fn write(
        &self,
        version: u64,
        actions: Vec<Action>,
        operation: DeltaOperation,
        transactions: Vec<Transaction>,
        metadata: Metadata,
    ) -> Result<Commit, Error> {
        let data = CommitData::new(actions, operation, HashMap::new(), transactions);
        let bytes = data.get_bytes().map_err(|error| self.failed("encode a commit to", error.into()))?;
        let entry = CommitOrBytes::LogBytes(bytes);
        match self.log_store.write_commit_entry(version, entry, uuid::Uuid::nil()).await {
            Ok(()) => Ok(Commit::Committed(Arc::new(self.state(version, metadata)?))),
            Err(TransactionError::VersionAlreadyExists(_)) => Ok(Commit::Conflict),
            Err(TransactionError::ObjectStore { source }) if effect_of(&source) == Effect::Unknown => {
                tracing::warn!(error = %source, "no clear answer to a commit, reading back");
                Ok(Commit::Unknown)
            }
            Err(source) => Err(self.failed("commit to", source.into())),
        }
    }

    /// Writes a Delta checkpoint of the newest version and removes log entries that it makes superfluous.
    ///
    /// # Errors
    /// When it could not be written; the table is right without it.
    pub async fn checkpoint(&self, logs_before_millis: i64) -> Result<(), Error> {
        let Some(snapshot) = self.snapshot().await? else {
            return Ok(());
        };
        let write = async {
            let kernel = snapshot.scan_builder().build()?.snapshot().clone();
            let engine = self.log_store.engine(None);
            blocking(move || kernel.checkpoint(engine.as_ref(), None).map(drop)).await??;
            deltalake_core::checkpoints::cleanup_expired_logs_for(
                snapshot.version(),
                self.log_store.as_ref(),
                logs_before_millis,
                None,
            )
            .await
        };
        write.await.map(drop).map_err(|source| self.failed("checkpoint", source))
    }

    fn check_protocol(&self, protocol: &Protocol) -> Result<(), Error> {
        let (reader, writer) = (protocol.min_reader_version(), protocol.min_writer_version());
        if reader > 1 || writer > 2 {
            return Err(self.foreign(format!("needs Delta reader version {reader} and writer version {writer}")));
        }
        Ok(())
    }

    /// Returns the table as a snapshot shows it.
    pub(crate) fn state_of(&self, snapshot: &Snapshot) -> Result<TableState, Error> {
        self.state(snapshot.version(), snapshot.metadata().clone())
    }

    fn state(&self, version: u64, metadata: Metadata) -> Result<TableState, Error> {
        const EXPIRES: &str = "delta.setTransactionRetentionDuration";
        if metadata.configuration().contains_key(EXPIRES) {
            return Err(self.foreign(format!("has {EXPIRES} set, which would forget committed epochs")));
        }
        let columns = metadata.partition_columns();
        let keys = PartitionKey::named(&self.partition_by, columns)
            .ok_or_else(|| self.foreign(format!("is partitioned by {columns:?}, not by {}", self.partition_by)))?;
        let fields = metadata.parse_schema().map_err(|source| self.failed("read the schema of", source.into()))?;
        let stored: Value = serde_json::to_value(&fields).expect("a schema is plain JSON");
        let input = metadata.configuration().get(INPUT_COLUMNS).map(String::as_str);
        let schema = TableSchema::from_delta(&stored, columns)
            .and_then(|schema| schema.with_input_property(input))
            .map_err(|error| self.foreign(error.to_string()))?;
        Ok(TableState { version, schema, keys, metadata })
    }

    fn failed(&self, action: &'static str, source: DeltaTableError) -> Error {
        Error::Delta { action, output: self.output, generation: self.generation, source: Box::new(source) }
    }

    fn foreign(&self, what: String) -> Error {
        Error::ForeignChange { output: self.output, generation: self.generation, what }
    }
}

fn log_store(store: &LakeStore, folder: &Path) -> Result<LogStoreRef, DeltaTableError> {
    let url = store.url_of(folder);
    let configuration = StorageConfig::default();
    let below: Arc<dyn ObjectStore> = Arc::new(configuration.decorate_store(Arc::clone(store.root()), &url)?);
    Ok(default_logstore(below, Arc::clone(store.root()), &url, &configuration))
}

fn struct_type(schema: &TableSchema, keys: &[PartitionKey]) -> Result<StructType, DeltaTableError> {
    let partitions: Vec<_> = keys.iter().map(|key| (key.column.clone(), key.delta_type())).collect();
    Ok(serde_json::from_value(schema.to_delta(&partitions))?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DeltaTableError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| DeltaTableError::Generic(error.to_string()))
}
