//! Performs the actions that [`Machine`] names, against the store and the Delta logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_common::clock::Clock;
use headwater_common::position::{Position, ShardId};
use headwater_common::retry::Policy;
use parquet::file::metadata::ParquetMetaData;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::machine::{Action, Fact, FileRef, Machine, Proposal, Table};
use super::progress::{positions_after, read_cut};
use super::seal::Standing;
use crate::cut::{self, Cut, OutputIntent};
use crate::error::Error;
use crate::file::{self, FileFacts};
use crate::generation::{OpenGeneration, PartitionKey};
use crate::layout::{self, Epoch, Lane, LaneSetNumber, Output, PointerNumber};
use crate::pointer;
use crate::schema::TableSchema;
use crate::store::Create;
use crate::table::{Base, CHECKPOINT_EVERY, Commit, DeltaLog, TableState};

/// How long log entries stay after a checkpoint made them superfluous (Delta's default, `delta.logRetentionDuration`).
const LOG_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// The rows of the epoch at hand, made by the layer above.
#[async_trait]
pub trait EpochRows: Send {
    /// Encodes the buffered rows for the schemas that the tables have now. Called for a new epoch and again when a
    /// schema has changed meanwhile; without any rows for a lane that is closed before its tables exist.
    async fn propose(&mut self, epoch: Epoch, tables: &Tables) -> Result<Prepared, Error>;

    /// Reads the rows of a published cut again, by its segments and with the schemas it names. Called when files of
    /// it are missing. Compares what comes out with the cut.
    async fn read_again(&mut self, cut: &Cut, tables: &Tables) -> Result<(), Error>;

    /// Returns the bytes of one file of the cut at hand. May be called again for the same file.
    async fn encode(&mut self, cut: &Cut, file: FileRef) -> Result<EncodedFile, Error>;

    /// Forgets the rows of the epoch at hand: it is committed, or another writer's.
    fn forget(&mut self);
}

/// A data file, ready to be put.
#[derive(Debug)]
pub struct EncodedFile {
    /// Its bytes.
    pub bytes: Bytes,
    /// Its footer.
    pub footer: ParquetMetaData,
}

/// An epoch to be written, and the schemas that it needs where they have to change.
#[derive(Debug)]
pub struct Prepared {
    /// The cut, which names the changed schemas.
    pub cut: Cut,
    /// The schemas to be committed first.
    pub schemas: BTreeMap<Output, (TableSchema, Vec<PartitionKey>)>,
}

/// The tables of all outputs as they are now; `None` for one that does not exist yet.
pub type Tables = BTreeMap<Output, Base>;

/// What a lane's writer is made with.
pub struct Settings {
    /// The generation it writes to.
    pub generation: Arc<OpenGeneration>,
    /// Its lane.
    pub lane: Lane,
    /// The clock; for the age of superfluous log entries.
    pub clock: Arc<dyn Clock>,
    /// How often and how long apart an unclear answer is looked into.
    pub retry: Policy,
    /// Seeds the jitter of the pauses.
    pub seed: u64,
    /// What the generation is written for.
    pub standing: Standing,
}

/// Where the writer is ready to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The last epoch that is committed in every output.
    pub after: Epoch,
    /// Set when reading must go on from other positions than the reader has: at the start, after a redo, and after
    /// another writer was faster.
    pub positions: Option<BTreeMap<ShardId, Position>>,
}

/// How far a writer got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// It is ready for the next epoch.
    Ready(Ready),
    /// The lane is sealed for this pointer, and the seal is in effect. What was buffered is forgotten.
    Blocked(PointerNumber),
    /// The lane is over: lanes of this set go on. What was buffered is forgotten.
    Closed(LaneSetNumber),
}

/// Writes the epochs of one lane.
pub struct LaneWriter {
    settings: Settings,
    machine: Machine<Base>,
    logs: BTreeMap<Output, DeltaLog>,
    schemas: BTreeMap<Output, (TableSchema, Vec<PartitionKey>)>,
    files: BTreeMap<FileRef, FileFacts>,
    resumed: Option<BTreeMap<ShardId, Position>>,
    /// Whether the epoch at hand is to close the lane.
    is_closing: bool,
    /// Unclear answers in a row.
    unclear: u32,
    random: SmallRng,
}

impl LaneWriter {
    /// Returns a writer that begins by finding out where the lane stands.
    ///
    /// # Errors
    /// When the tables' folders cannot be made.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let log = |output| Ok((output, DeltaLog::new(&settings.generation, output)?));
        let outputs = settings.generation.table.outputs();
        let logs = outputs.iter().copied().map(log).collect::<Result<_, Error>>()?;
        let random = SmallRng::seed_from_u64(settings.seed);
        Ok(Self {
            random,
            machine: Machine::new(settings.standing).writing(outputs),
            settings,
            logs,
            schemas: BTreeMap::new(),
            files: BTreeMap::new(),
            resumed: None,
            is_closing: false,
            unclear: 0,
        })
    }

    /// Returns the tables as last read; complete once [`LaneWriter::recover`] has returned.
    pub fn tables(&self) -> Tables {
        let base = |output| (output, self.machine.table(output).and_then(|table| table.snapshot.clone()));
        self.logs.keys().copied().map(base).collect()
    }

    /// Returns the bytes of the files that were put for the last epoch.
    pub fn encoded_bytes(&self) -> u64 {
        self.files.values().map(|facts| facts.size).sum()
    }

    /// Finds out where the lane stands and finishes the epochs that writers left unfinished, up to a seal in effect.
    /// Called at first, and again when the lane was blocked and there is news.
    ///
    /// # Errors
    /// When the lake cannot be trusted or does not answer.
    pub async fn recover(&mut self, rows: &mut dyn EpochRows) -> Result<Reached, Error> {
        if matches!(self.machine.next(), Action::Blocked(_)) {
            self.machine.look_again();
        }
        self.run(rows).await
    }

    /// Writes one epoch: schema, cut, files, commits. When another writer owns the epoch, the rows are forgotten and
    /// the answer says from where to read again, or that the lane is sealed.
    ///
    /// # Errors
    /// When the lake cannot be trusted or does not answer. Nothing is lost: the next start goes on from the lake.
    pub async fn write(&mut self, rows: &mut dyn EpochRows) -> Result<Reached, Error> {
        let Action::Idle(after) = self.machine.next() else { unreachable!("it is written to only when it is ready") };
        self.offer(rows, after.next()).await?;
        self.run(rows).await
    }

    /// Closes the lane by a last cut, which takes nothing: what was buffered is written before. When another writer
    /// takes the epoch the answer says so, and it is to be tried again.
    ///
    /// # Errors
    /// As [`LaneWriter::write`].
    pub async fn close(&mut self, rows: &mut dyn EpochRows) -> Result<Reached, Error> {
        self.is_closing = true;
        let reached = self.write(rows).await;
        self.is_closing = false;
        reached
    }

    async fn offer(&mut self, rows: &mut dyn EpochRows, epoch: Epoch) -> Result<(), Error> {
        let prepared =
            if self.is_closing { self.closing(rows, epoch).await } else { rows.propose(epoch, &self.tables()).await };
        let Prepared { cut, schemas } = prepared?;
        debug_assert!(cut.account.balances(), "A1: read = kept + filtered + dead letters + duplicates");
        self.machine.propose(Proposal { cut, schema_changes: schemas.keys().copied().collect() });
        self.schemas = schemas;
        self.files.clear();
        Ok(())
    }

    /// Prepares the cut that closes the lane. Where a table does not exist yet, it begins with the schema that the rows
    /// would give it: then the lane has an end like every other.
    async fn closing(&mut self, rows: &mut dyn EpochRows, epoch: Epoch) -> Result<Prepared, Error> {
        let tables = self.tables();
        let (mut versions, mut schemas) = (BTreeMap::new(), BTreeMap::new());
        if tables.values().any(Option::is_none) {
            let prepared = rows.propose(epoch, &tables).await?;
            debug_assert!(prepared.cut.segments.is_empty(), "N3: a closing cut takes nothing");
            versions.extend(prepared.cut.outputs.iter().map(|(output, intent)| (*output, intent.schema)));
            schemas = prepared.schemas;
        }
        for (output, base) in tables {
            versions.extend(base.map(|base| (output, base.schema.version)));
        }
        let description = &self.settings.generation.description;
        let place = (description.number, self.settings.lane, epoch);
        let positions = self.positions_after(Epoch(epoch.0 - 1)).await?;
        Ok(Prepared { cut: Cut::closing(place, description.pipeline_hash.clone(), &versions, positions), schemas })
    }

    async fn run(&mut self, rows: &mut dyn EpochRows) -> Result<Reached, Error> {
        loop {
            let action = self.machine.next();
            tracing::debug!(lane = %self.settings.lane, ?action, "protocol");
            let fact = match action {
                Action::Idle(after) => {
                    return Ok(Reached::Ready(Ready { after, positions: self.resumed.take() }));
                }
                Action::Blocked(seal) => {
                    rows.forget();
                    return Ok(Reached::Blocked(seal));
                }
                Action::Closed(next) => {
                    rows.forget();
                    return Ok(Reached::Closed(next));
                }
                Action::ReadPointer => Fact::Pointer(self.highest_pointer().await?),
                Action::EncodeAgain => {
                    let epoch = self.committed_everywhere().next();
                    self.offer(rows, epoch).await?;
                    continue;
                }
                Action::Resume(after) => {
                    rows.forget();
                    self.resumed = Some(self.positions_after(after).await?);
                    Fact::Resumed
                }
                Action::ReadTable(output) => Fact::Table(self.read_table(output).await?),
                Action::ReadCut(epoch) => {
                    let cut = self.read_cut(epoch).await?;
                    if self.machine.is_finding_cut() && cut.as_ref().is_some_and(|cut| self.is_behind(cut)) {
                        // Its schema is there by now, unless the table is not the one it was.
                        self.unclear().await?;
                        self.machine.read_tables_again();
                        continue;
                    }
                    Fact::Cut(cut.map(Box::new))
                }
                Action::ChangeSchema(output) => self.change_schema(output).await?,
                Action::PublishCut => {
                    let cut = self.cut()?;
                    let key = self.cut_key(cut.epoch);
                    match self.settings.generation.store.create(&key, cut.to_bytes().into()).await? {
                        Create::Created => Fact::Created,
                        Create::Exists => Fact::Exists,
                        Create::Unknown => self.unclear().await?,
                    }
                }
                Action::Inspect(file) => self.inspect(file).await?,
                Action::MakeFiles(files) => {
                    let cut = self.cut()?.clone();
                    tracing::info!(epoch = cut.epoch.0, files = files.len(), "reading an epoch again");
                    rows.read_again(&cut, &self.tables()).await?;
                    Fact::Made
                }
                Action::Put(file) => self.put(rows, file).await?,
                Action::Commit(output) => self.commit(output).await?,
                Action::Release => {
                    rows.forget();
                    Fact::Released
                }
            };
            // Reading back is no progress: only something that was done is.
            if matches!(fact, Fact::Created | Fact::Committed(_) | Fact::Resumed | Fact::Released) {
                self.unclear = 0;
            }
            let lane = self.settings.lane;
            self.machine.apply(fact).map_err(|violation| Error::Violated { lane, violation })?;
        }
    }

    async fn read_table(&self, output: Output) -> Result<Table<Base>, Error> {
        self.logs[&output].reload(self.settings.lane, self.machine.table(output)).await
    }

    async fn read_cut(&self, epoch: Epoch) -> Result<Option<Cut>, Error> {
        read_cut(&self.settings.generation, self.settings.lane, epoch).await
    }

    async fn highest_pointer(&self) -> Result<pointer::Pointer, Error> {
        let OpenGeneration { store, table, .. } = self.settings.generation.as_ref();
        let none = || Error::Damaged { key: layout::pointers(table), source: "there are seals and no pointer".into() };
        pointer::highest(store, table).await?.ok_or_else(none)
    }

    async fn positions_after(&self, epoch: Epoch) -> Result<BTreeMap<ShardId, Position>, Error> {
        positions_after(&self.settings.generation, self.settings.lane, epoch).await
    }

    async fn change_schema(&mut self, output: Output) -> Result<Fact<Base>, Error> {
        let (schema, keys) = self.schemas.get(&output).expect("the proposal came with the schemas it needs");
        let log = &self.logs[&output];
        let commit = match self.base(output) {
            None => log.create(schema, keys).await?,
            Some(base) => log.change_schema(&base, schema).await?,
        };
        self.fact_of(output, commit).await
    }

    async fn inspect(&mut self, file: FileRef) -> Result<Fact<Base>, Error> {
        let facts = file::inspect(&self.settings.generation.store, &self.data_key(file)?).await?;
        let Some(facts) = facts else {
            return Ok(Fact::File(None));
        };
        let digest = facts.digest.ok_or_else(|| Error::Damaged {
            key: self.data_key(file).unwrap_or_default(),
            source: "its footer has no row digest: no writer of this lake made it".into(),
        })?;
        self.files.insert(file, facts);
        Ok(Fact::File(Some(digest)))
    }

    async fn put(&mut self, rows: &mut dyn EpochRows, file: FileRef) -> Result<Fact<Base>, Error> {
        let key = self.data_key(file)?;
        let EncodedFile { bytes, footer } = rows.encode(self.cut()?, file).await?;
        let size = bytes.len() as u64;
        let facts = FileFacts::of(&footer, size, self.settings.clock.now().micros() / 1000);
        debug_assert_eq!(facts.digest, Some(self.intent(file)?.digest), "C2: a file holds the rows of its cut");
        Ok(match self.settings.generation.store.create(&key, bytes).await? {
            Create::Created => {
                metrics::counter!(crate::metrics::FILES).increment(1);
                metrics::counter!(crate::metrics::FILE_BYTES).increment(size);
                self.files.insert(file, facts);
                Fact::Created
            }
            Create::Exists => Fact::Exists,
            Create::Unknown => self.unclear().await?,
        })
    }

    /// Returns true when a cut is of a schema that came after the tables were read. A seal has no rows to be encoded.
    fn is_behind(&self, cut: &Cut) -> bool {
        let lacks = |(output, intent): (&Output, &OutputIntent)| {
            self.base(*output).is_none_or(|base| base.schema.version < intent.schema)
        };
        cut.seal.is_none() && cut.outputs.iter().any(lacks)
    }

    async fn commit(&mut self, output: Output) -> Result<Fact<Base>, Error> {
        let cut = self.cut()?.clone();
        let base = self.base(output).ok_or_else(|| Error::ForeignChange {
            output,
            generation: self.settings.generation.description.number,
            what: format!("does not exist although epoch {} was cut for it", cut.epoch),
        })?;
        let intents = cut.output(output).files.iter().enumerate();
        let add = |(index, intent)| {
            let facts = self.files.get(&FileRef { output, index }).expect("C3: every file is there before the commit");
            facts.add(intent, &base.keys)
        };
        let adds = intents.map(add).collect();
        let commit = self.logs[&output].append(&base, adds, self.settings.lane, cut.epoch).await?;
        if let Commit::Committed(state) = &commit {
            self.checkpoint_at_times(output, state).await;
        }
        self.fact_of(output, commit).await
    }

    /// A checkpoint keeps reading short. The table is right without it: a failure is tried again 100 commits later.
    async fn checkpoint_at_times(&self, output: Output, state: &TableState) {
        if !state.version.is_multiple_of(CHECKPOINT_EVERY) || state.version == 0 {
            return;
        }
        let before = self.settings.clock.now().minus(LOG_RETENTION).micros() / 1000;
        if let Err(error) = self.logs[&output].checkpoint(before).await {
            tracing::warn!(%output, version = state.version, error = ?error, "no checkpoint written");
        }
    }

    async fn fact_of(&mut self, output: Output, commit: Commit) -> Result<Fact<Base>, Error> {
        Ok(match commit {
            Commit::Committed(state) => {
                tracing::debug!(%output, version = state.version, "committed");
                Fact::Committed(Some(state))
            }
            Commit::Conflict => Fact::Conflict,
            Commit::Unknown => self.unclear().await?,
        })
    }

    /// Pauses before an unclear answer is read back, mostly longer each time, and gives up in the end.
    async fn unclear(&mut self) -> Result<Fact<Base>, Error> {
        self.unclear += 1;
        let Some(pause) = self.settings.retry.pause_before(self.unclear + 1, self.random.random()) else {
            let epoch = self.machine.cut().map_or(Epoch(0), |cut| cut.epoch);
            return Err(Error::TriesUsedUp { lane: self.settings.lane, epoch, tries: self.unclear });
        };
        tokio::time::sleep(pause).await;
        Ok(Fact::Unknown)
    }

    fn committed_everywhere(&self) -> Epoch {
        let committed = |output| self.machine.table(output).map(|table| table.committed);
        self.logs.keys().copied().filter_map(committed).min().unwrap_or_default()
    }

    fn base(&self, output: Output) -> Base {
        self.machine.table(output).and_then(|table| table.snapshot.clone())
    }

    fn cut(&self) -> Result<&Cut, Error> {
        Ok(self.machine.cut().expect("the machine names actions on a cut only while it has one"))
    }

    fn intent(&self, file: FileRef) -> Result<&cut::FileIntent, Error> {
        Ok(&self.cut()?.output(file.output).files[file.index])
    }

    fn data_key(&self, file: FileRef) -> Result<object_store::path::Path, Error> {
        let generation = &self.settings.generation;
        let number = generation.description.number;
        Ok(layout::data_object(&generation.table, file.output, number, &self.intent(file)?.key))
    }

    fn cut_key(&self, epoch: Epoch) -> object_store::path::Path {
        let generation = &self.settings.generation;
        layout::cut(&generation.table, generation.description.number, self.settings.lane, epoch)
    }
}
