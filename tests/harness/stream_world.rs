//! A stream that is split and merged, and the consumer's own lanes on a lake in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::position::{Position, ShardId};
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_consumer::driver::{Consumer, Error, Progress, SEAL_WAIT_DEFAULT, Until};
use headwater_consumer::pipeline::Pipeline;
use headwater_consumer::policy::Limits;
use headwater_lake::commit::read_cut;
use headwater_lake::generation::{self, Generation, OpenGeneration, StreamFacts};
use headwater_lake::layout::{self, Epoch, Lane, Output, TableName};
use headwater_lake::store::LakeStore;
use headwater_lake::verify::{self, Options};
use headwater_replay::standing::{self, Counting};
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Put, Read, Shard, Sink, Source, StartAt, StreamIdentity};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tokio::sync::watch;

use crate::contract::START;

/// Keys that events have: few enough for each to have many events.
const KEYS: u64 = 23;

/// Pauses without which a test takes as long as a store with trouble.
const QUICK: Policy =
    Policy { tries_max: 20, pause_first: Duration::from_micros(1), pause_max: Duration::from_micros(1) };

/// A clock that begins with the suite's start and is in a hurry: what waits for seconds waits for moments.
pub struct HurriedClock {
    began: Timestamp,
    times: u32,
}

impl HurriedClock {
    /// Returns a clock that goes so many times as fast.
    pub fn new(times: u32) -> Self {
        Self { began: SystemClock.now(), times }
    }
}

impl Clock for HurriedClock {
    fn now(&self) -> Timestamp {
        START.plus(SystemClock.now().since(self.began) * self.times)
    }
}

/// A stream, a lake, and what the lanes between them are run with.
#[derive(Clone)]
pub struct World {
    /// The stream.
    pub log: MemoryLog,
    /// What the consumers read: the stream, or something in between.
    pub source: Arc<dyn Source>,
    /// The lake.
    pub lake: LakeStore,
    /// The only table.
    pub table: TableName,
    /// The clock of all.
    pub clock: Arc<dyn Clock>,
    /// When to cut.
    pub limits: Limits,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The event's number.
    pub n: u64,
    /// Its key.
    pub key: u64,
    /// Its shard.
    pub shard: String,
}

/// How a log is made.
pub type Make = fn(&str, u32, Arc<dyn Clock>) -> MemoryLog;

impl World {
    /// Returns an empty world with a clock in a hurry.
    pub fn new(make: Make, shards: u32) -> Self {
        Self::with_clock(make, shards, Arc::new(HurriedClock::new(50)))
    }

    /// Returns an empty world with that clock.
    pub fn with_clock(make: Make, shards: u32, clock: Arc<dyn Clock>) -> Self {
        let log = make("events", shards, Arc::clone(&clock));
        Self {
            source: Arc::new(log.clone()),
            log,
            lake: LakeStore::on_store(Arc::new(InMemory::new())),
            table: "t".parse().unwrap(),
            clock,
            limits: Limits { rows: 40, ..Limits::default() },
        }
    }

    /// Puts events with these numbers, each behind the one before it of the same key.
    pub async fn put(&self, numbers: Range<u64>) {
        let put = |n: u64| Put {
            partition_key: format!("key {}", n % KEYS).into(),
            payload: format!(r#"{{"n":{n},"k":{}}}"#, n % KEYS).into(),
        };
        self.log.put(numbers.map(put).collect()).await.unwrap();
    }

    /// Makes the table's first generation.
    pub async fn create(&self, lanes: u32, at: StartAt) -> OpenGeneration {
        self.create_at(&self.log, lanes, at).await
    }

    /// Makes the table's first generation, which begins with the oldest event of another source of the stream.
    pub async fn create_from(&self, source: &dyn Source, lanes: u32) -> OpenGeneration {
        self.create_at(source, lanes, StartAt::TrimHorizon).await
    }

    async fn create_at(&self, source: &dyn Source, lanes: u32, at: StartAt) -> OpenGeneration {
        let mut start = BTreeMap::new();
        for shard in source.shards().await.unwrap() {
            let position = source.resolve(&shard.id, at).await.unwrap();
            start.insert(shard.id, position);
        }
        let facts = StreamFacts {
            identity: source.identity().0,
            sequence_digits: source.sequence_digits(),
            gap_free: source.is_gap_free(),
            start,
        };
        let pipeline = Pipeline::default();
        let wanted =
            Generation::first(pipeline.canonical(), pipeline.hash(), pipeline.partition_by.clone(), lanes, facts);
        generation::open_or_create(&self.lake, &self.table, wanted).await.unwrap()
    }

    /// Returns the live generation.
    pub async fn open(&self) -> OpenGeneration {
        generation::open_live(&self.lake, &self.table).await.unwrap()
    }

    /// Returns a consumer of the live generation, as a fresh process would have it.
    pub async fn consumer(&self, until: Until) -> Consumer {
        let open = self.open().await;
        Consumer {
            source: Arc::clone(&self.source),
            pipeline: Pipeline::of(&open.description).unwrap(),
            generation: Arc::new(open),
            limits: self.limits,
            spill_folder: std::env::temp_dir(),
            until,
            recorded: None,
            clock: Arc::clone(&self.clock),
            retry: QUICK,
            seed: 1,
            seal_wait: SEAL_WAIT_DEFAULT,
            progress: Arc::new(Progress::default()),
        }
    }

    /// Consumes up to an end, as a fresh process would.
    ///
    /// # Errors
    /// That of the consumer.
    pub async fn consume(&self, until: Until) -> Result<(), Error> {
        let (_keep, shutdown) = watch::channel(false);
        self.consumer(until).await.run(shutdown).await
    }

    /// Consumes all there is.
    pub async fn catch_up(&self) {
        self.consume(Until::CaughtUp).await.unwrap();
    }

    /// Returns where each shard stands with what is committed.
    pub async fn positions(&self) -> BTreeMap<ShardId, Position> {
        standing::positions(&self.open().await, Counting::Committed).await.unwrap()
    }

    /// Returns the rows in the order in which epochs were committed, each epoch's as its files have them.
    pub async fn rows(&self) -> Vec<Row> {
        let open = self.open().await;
        let mut rows = Vec::new();
        for (lane, epoch) in self.commits(Output::Events).await {
            let cut = read_cut(&open, lane, epoch).await.unwrap().unwrap();
            for file in &cut.output(Output::Events).files {
                let number = open.description.number;
                let key = layout::data_object(&open.table, Output::Events, number, &file.key);
                let bytes = self.lake.read(&key).await.unwrap().unwrap();
                for batch in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                    let batch = batch.unwrap();
                    let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>();
                    let (n, key) = (number("n"), number("k"));
                    let shards = batch.column_by_name("_shard").unwrap().as_string::<i32>();
                    rows.extend((0..batch.num_rows()).map(|row| Row {
                        n: u64::try_from(n.value(row)).unwrap(),
                        key: u64::try_from(key.value(row)).unwrap(),
                        shard: shards.value(row).to_owned(),
                    }));
                }
            }
        }
        rows
    }

    /// Returns the epochs that an output has, in the order of their commits.
    pub async fn commits(&self, output: Output) -> Vec<(Lane, Epoch)> {
        let open = self.open().await;
        let mut commits = Vec::new();
        for version in 0.. {
            let key = layout::delta_commit(&open.table, output, open.description.number, version);
            let Some(commit) = self.lake.read(&key).await.unwrap() else { break };
            for line in commit.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let action: Value = serde_json::from_slice(line).unwrap();
                if let Some(lane) = action["txn"]["appId"].as_str() {
                    commits.push((lane.parse().unwrap(), Epoch(action["txn"]["version"].as_u64().unwrap())));
                }
            }
        }
        commits
    }

    /// Takes the newest commit of every output out of the lake, and the files of its epoch: as if the writer had died
    /// after it had published the cut.
    pub async fn undo_last_commit(&self) {
        let open = self.open().await;
        for output in Output::ALL {
            let (lane, epoch) = self.commits(output).await.pop().unwrap();
            let cut = read_cut(&open, lane, epoch).await.unwrap().unwrap();
            let number = open.description.number;
            for file in &cut.output(output).files {
                let key = layout::data_object(&open.table, output, number, &file.key);
                self.lake.objects().delete(&key).await.unwrap();
            }
            let mut last = 0;
            while self.lake.read(&layout::delta_commit(&open.table, output, number, last + 1)).await.unwrap().is_some()
            {
                last += 1;
            }
            self.lake.objects().delete(&layout::delta_commit(&open.table, output, number, last)).await.unwrap();
        }
    }

    /// Checks that the table has each of the numbers once, the events of each key in the order in which they were put,
    /// and that everything is accounted for.
    pub async fn check(&self, numbers: Range<u64>) {
        let rows = self.rows().await;
        let mut seen: Vec<_> = rows.iter().map(|row| row.n).collect();
        seen.sort_unstable();
        assert_eq!(seen, numbers.clone().collect::<Vec<_>>(), "each event is there once");
        for key in 0..KEYS {
            let of_key: Vec<_> = rows.iter().filter(|row| row.key == key).collect();
            assert!(of_key.is_sorted_by_key(|row| row.n), "key {key}: {of_key:?}");
        }
        let report = verify::verify(&self.open().await, Options { full: true, from_beginning: true }).await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.account.read, numbers.end - numbers.start);
    }
}

/// A stream that is watched: what is read, and whether parents come before children.
pub struct Watched {
    log: MemoryLog,
    generation: OpenGeneration,
    reads: Mutex<Vec<ShardId>>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Watched {
    /// Watches what is read of a log for a generation.
    pub fn new(log: MemoryLog, generation: OpenGeneration) -> Self {
        Self { log, generation, reads: Mutex::new(Vec::new()) }
    }

    /// Returns the shards of all reads since the last call.
    pub fn take_reads(&self) -> Vec<ShardId> {
        std::mem::take(&mut *self.reads.lock().unwrap())
    }

    fn lane_of(&self, shard: &Shard) -> u32 {
        headwater_common::hash::slice_of(shard.first_hash_key, self.generation.description.lanes)
    }

    /// The end of a parent in another lane must be committed before its child is read.
    async fn check_parents(&self, shard: &ShardId) {
        let listed = self.log.shards().await.unwrap();
        let child = listed.iter().find(|known| known.id == *shard).unwrap();
        let elsewhere = |parent: &&Shard| self.lane_of(parent) != self.lane_of(child);
        let parents = listed.iter().filter(|known| child.parents.contains(&known.id)).filter(elsewhere);
        let parents: Vec<_> = parents.collect();
        if parents.is_empty() {
            return;
        }
        let positions = standing::positions(&self.generation, Counting::Committed).await.unwrap();
        for parent in parents {
            let position = positions.get(&parent.id);
            assert_eq!(position, Some(&Position::SHARD_END), "{shard} is read before the end of {}", parent.id);
        }
    }
}

#[async_trait]
impl Source for Watched {
    fn url(&self) -> String {
        Source::url(&self.log)
    }

    fn identity(&self) -> StreamIdentity {
        self.log.identity()
    }

    fn sequence_digits(&self) -> usize {
        self.log.sequence_digits()
    }

    fn is_gap_free(&self) -> bool {
        self.log.is_gap_free()
    }

    async fn shards(&self) -> Result<Vec<Shard>, headwater_stream::Error> {
        self.log.shards().await
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, headwater_stream::Error> {
        self.log.resolve(shard, at).await
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, headwater_stream::Error> {
        self.check_parents(shard).await;
        self.reads.lock().unwrap().push(shard.clone());
        self.log.read(shard, after, bytes_max).await
    }
}

/// A stream that does not answer a number of reads: they give nothing, as those of a throttled stream do.
#[derive(Debug)]
pub struct Throttled {
    log: MemoryLog,
    empty_reads: AtomicU32,
}

impl Throttled {
    /// Does not answer the first so many reads.
    pub fn new(log: MemoryLog, empty_reads: u32) -> Self {
        Self { log, empty_reads: AtomicU32::new(empty_reads) }
    }
}

#[async_trait]
impl Source for Throttled {
    fn url(&self) -> String {
        Source::url(&self.log)
    }

    fn identity(&self) -> StreamIdentity {
        self.log.identity()
    }

    fn sequence_digits(&self) -> usize {
        self.log.sequence_digits()
    }

    fn is_gap_free(&self) -> bool {
        self.log.is_gap_free()
    }

    async fn shards(&self) -> Result<Vec<Shard>, headwater_stream::Error> {
        self.log.shards().await
    }

    async fn resolve(&self, shard: &ShardId, at: StartAt) -> Result<Position, headwater_stream::Error> {
        self.log.resolve(shard, at).await
    }

    async fn read(&self, shard: &ShardId, after: Position, bytes_max: usize) -> Result<Read, headwater_stream::Error> {
        let left = self.empty_reads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() {
            return Ok(Read { events: Vec::new(), behind_latest: Duration::ZERO, ended: false, complete_until: None });
        }
        self.log.read(shard, after, bytes_max).await
    }
}
