//! Runs the lanes of a generation, alone or as one of many workers, and goes where the pointer points. What one lane
//! does is in `lane`, which lanes run when is in `supervisor`.
//!
//! Guarantees: nothing is read that is not buffered or committed; when the budget is full reading stops; a shutdown
//! cuts and commits what is buffered; a dead tool stops the stream for `seal_wait` at most. Relies on nothing local:
//! after a crash the lake says where to go on.
//!
//! ```text
//! run: open at the pointer -> lanes: recover -> read, cut, read, cut ...
//!        ^                             |            | each cut, each idle tick: another generation is live
//!        |                             | sealed     |
//!        |                             v            v
//!        +-----(another is live)---- wait ------> stop all lanes without a cut
//!        |                             | overdue: create the pointer, naming this generation; then recover
//!        +-----(other lanes are asked for: each lane is closed by a last cut)
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use headwater_common::clock::Clock;
use headwater_common::position::ShardId;
use headwater_common::retry::Policy;
use headwater_lake::commit::Standing;
use headwater_lake::cutover::{CaughtUp, Positions};
use headwater_lake::generation::{self, OpenGeneration};
use headwater_lake::lanes::Current;
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, PointerNumber};
use headwater_lake::pointer::{self, Pointer};
use headwater_stream::Source;
use headwater_stream::stretch::Bound;
use tokio::sync::watch;

use crate::follow::{Follower, is_true};
use crate::lane::LaneRunner;
use crate::lease::{self, Leases};
use crate::pipeline::{FormError, Pipeline};
use crate::policy::Limits;
use crate::reading::newest;
use crate::recorded::RecordedCuts;
use crate::supervisor::Supervisor;

/// How long a seal may block a lane before the consumer decides its pointer, unless told otherwise.
pub const SEAL_WAIT_DEFAULT: Duration = Duration::from_secs(60);

/// How long apart a worker whose lanes are closed looks whether those of the others are as well.
pub(crate) const LANES_POLL: Duration = Duration::from_secs(1);

/// What the consumer is run with.
#[derive(Clone)]
pub struct Consumer {
    /// Where the events come from.
    pub source: Arc<dyn Source>,
    /// Where the rows go.
    pub generation: Arc<OpenGeneration>,
    /// How events become rows.
    pub pipeline: Pipeline,
    /// When to cut.
    pub limits: Limits,
    /// Where rows go that are too many for the memory, in files without names.
    pub spill_folder: PathBuf,
    /// When to stop by itself.
    pub until: Until,
    /// Says where epochs end in place of the limits: the cuts of another generation.
    pub recorded: Option<Arc<RecordedCuts>>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How often and how long apart an unclear answer of the lake is looked into.
    pub retry: Policy,
    /// Seeds the jitter of the pauses; each lane makes its own of it.
    pub seed: u64,
    /// How long a seal may block a lane: then its tool counts as dead, and the consumer creates the pointer itself.
    pub seal_wait: Duration,
    /// What the consumer says of its work while it runs.
    pub progress: Arc<Progress>,
}

/// When a consumer stops by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Forever,
    /// When the positions are committed that were newest when it started, in the shards that there were then.
    CaughtUp,
    /// When these bounds are reached, which say what was newest when the run began: found once, so that all lanes stop at
    /// the same, whenever each of them starts.
    Newest(Arc<BTreeMap<ShardId, Bound>>),
    /// When these positions are committed, which are the last to be read. Other shards are not read at all. A mark
    /// before every event asks for what arrived before its time.
    Reached(Positions),
}

/// Counters for people who watch; the lake's own account is in the cuts.
#[derive(Debug, Default)]
pub struct Progress {
    /// Events read in this run.
    pub events_read: AtomicU64,
    /// Events committed in this run.
    pub events_committed: AtomicU64,
    /// Dead letters committed in this run.
    pub dead_letters: AtomicU64,
    /// Events of this run that the transform left out, committed.
    pub filtered: AtomicU64,
    /// Payload bytes committed in this run.
    pub bytes_committed: AtomicU64,
    /// Epochs committed in this run.
    pub epochs: AtomicU64,
    /// When the oldest event that is read and not committed was read, microseconds; 0 when there is none.
    pub oldest_unflushed_micros: AtomicU64,
    /// Events there were to read at the start, when that is known.
    pub events_to_read: AtomicU64,
}

/// What goes wrong while consuming.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream.
    #[error("cannot read {url}")]
    Stream {
        /// The stream's URL.
        url: String,
        /// Why not.
        #[source]
        source: headwater_stream::Error,
    },
    /// The lake.
    #[error("cannot write table {table}")]
    Lake {
        /// The table.
        table: String,
        /// Why not.
        #[source]
        source: headwater_lake::Error,
    },
    /// The live generation was built by a pipeline that this version cannot run.
    #[error("cannot go on with {generation} of table {table}, which is live now")]
    Pipeline {
        /// The table.
        table: String,
        /// The generation.
        generation: GenerationNumber,
        /// Why not.
        #[source]
        source: FormError,
    },
    /// The leases.
    #[error("cannot share the lanes of table {table}")]
    Lease {
        /// The table.
        table: String,
        /// Why not.
        #[source]
        source: lease::Error,
    },
    /// A shard is to be read in a run that ends before the end of its parent.
    #[error(
        "shard {shard} is asked for, and it follows the end of shard {parent}, which is not: name `{parent}=SHARD_END` \
         as well"
    )]
    ParentLeftOut {
        /// The shard.
        shard: ShardId,
        /// The parent.
        parent: ShardId,
    },
    /// The lane is not where a recorded cut begins.
    #[error(
        "lane {lane} stands in the midst of recorded cut {epoch}: its epochs so far were not those of the recorded cuts"
    )]
    BetweenCuts {
        /// The lane.
        lane: Lane,
        /// The recorded cut's epoch.
        epoch: Epoch,
    },
}

/// How the lanes of a consumer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// In order: there is an end, or they were told to stop.
    Done,
    /// Another writer was faster, and lanes are shared: the lane may be another worker's.
    Fenced,
    /// Another generation is live.
    Moved,
    /// A candidate met a seal that it may not pass.
    Overtaken,
    /// The lane is closed: those of the next set go on.
    Closed,
}

impl Consumer {
    /// Consumes until the end that was asked for, or until `shutdown` turns true: then what is buffered is cut and
    /// committed. Follows the pointer: when it names another generation, goes on there, with that one's own pipeline
    /// and positions. When other lanes are asked for, closes those there are and goes on with the next set.
    ///
    /// # Errors
    /// The first error of a lane; the other lanes are shut down in order before it is returned.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        self.follow_pointer(None, shutdown).await
    }

    /// Consumes as one of many workers: those lanes that the leases give to this one. Where an end was asked for it ends
    /// once every lane has come to it here, or is another worker's. Its leases are released once the lanes have
    /// committed, also at the shutdown.
    ///
    /// # Errors
    /// As [`Consumer::run`]; also when the leases cannot be used.
    pub async fn share(self, leases: Leases, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        self.follow_pointer(Some(leases), shutdown).await
    }

    async fn follow_pointer(mut self, leases: Option<Leases>, shutdown: watch::Receiver<bool>) -> Result<(), Error> {
        let mut was_closed = false;
        if self.until == Until::CaughtUp {
            self.until = Until::Newest(Arc::new(self.newest().await?));
        }
        loop {
            let highest = self.highest_pointer().await?;
            if highest.generation != self.generation.description.number {
                self = self.moved_to(highest.generation).await?;
            }
            let now = self.clock.now();
            let current = self.open_lanes().await?;
            if was_closed && current.next.is_some() && leases.is_some() {
                // Other workers are closing theirs.
                let mut told = shutdown.clone();
                let waited = tokio::time::timeout(LANES_POLL, is_true(&mut told)).await;
                if waited.is_ok() {
                    return Ok(());
                }
            }
            let follower = Follower::new(Arc::clone(&self.generation), highest.number, current.set.number, now);
            let follower = Some(Arc::new(follower));
            let ended = self.run_lanes(Standing::Live, current, follower, leases.as_ref(), &shutdown).await?;
            was_closed = ended == Ended::Closed;
            if !matches!(ended, Ended::Moved | Ended::Closed) || *shutdown.borrow() {
                return Ok(());
            }
        }
    }

    /// Consumes into a generation that is not live, for the pointer after `after`, until the end that was asked for.
    /// `None` when `shutdown` turned true before.
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub async fn catch_up(
        &self,
        after: PointerNumber,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<Option<CaughtUp>, Error> {
        let mut ended = Ended::Closed;
        // What is left of a change of lanes is carried out on the way.
        while ended == Ended::Closed {
            let current = self.open_lanes().await?;
            ended = self.run_lanes(Standing::Candidate { after }, current, None, None, shutdown).await?;
        }
        Ok(match ended {
            Ended::Overtaken | Ended::Moved => Some(CaughtUp::Overtaken),
            Ended::Done | Ended::Fenced | Ended::Closed if *shutdown.borrow() => None,
            Ended::Done | Ended::Fenced | Ended::Closed => Some(CaughtUp::Reached),
        })
    }

    /// Commits what is published in the generation, up to its seals, and reads nothing new.
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub async fn finish(&self) -> Result<(), Error> {
        for lane in self.open_lanes().await?.set.lanes() {
            let mut runner = LaneRunner::start(self.clone(), lane, Standing::Live, None).await?;
            runner.recover_writer().await?;
        }
        Ok(())
    }

    async fn run_lanes(
        &self,
        standing: Standing,
        current: Current,
        follower: Option<Arc<Follower>>,
        leases: Option<&Leases>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<Ended, Error> {
        let lanes = current.set.lanes().collect();
        let supervisor = Supervisor::new(self, standing, follower, shutdown).closing(current.next.is_some());
        match leases {
            None => supervisor.run_all(lanes).await,
            Some(leases) => supervisor.run_shared(lanes, leases).await,
        }
    }

    /// Finds what is newest in every shard that there is now.
    async fn newest(&self) -> Result<BTreeMap<ShardId, Bound>, Error> {
        let failed = |source| Error::Stream { url: self.source.url(), source };
        let listed = self.source.shards().await.map_err(failed)?;
        let all: Vec<_> = listed.iter().map(|shard| shard.id.clone()).collect();
        newest(self.source.as_ref(), &listed, &all).await.map_err(failed)
    }

    /// Returns the consumer of another generation of the same table.
    async fn moved_to(&self, number: GenerationNumber) -> Result<Self, Error> {
        let OpenGeneration { store, table, description } = self.generation.as_ref();
        let open = generation::open(store, table, number).await.map_err(|error| self.lake_error(error))?;
        if open.description.stream != description.stream {
            let (expected, actual) = (open.description.stream, description.stream.clone());
            return Err(self.lake_error(headwater_lake::Error::OtherStream { table: table.clone(), expected, actual }));
        }
        let pipeline = Pipeline::of(&open.description).map_err(|source| Error::Pipeline {
            table: table.to_string(),
            generation: number,
            source,
        })?;
        pointer::link_current(store, table).await.map_err(|error| self.lake_error(error))?;
        tracing::info!(%table, from = %description.number, to = %number, "the pointer moved; going on there");
        Ok(Self { generation: Arc::new(open), pipeline, ..self.clone() })
    }

    pub(crate) async fn highest_pointer(&self) -> Result<Pointer, Error> {
        let OpenGeneration { store, table, .. } = self.generation.as_ref();
        let highest = pointer::highest(store, table).await.map_err(|error| self.lake_error(error))?;
        highest.ok_or_else(|| {
            let key = headwater_lake::layout::pointers(table);
            self.lake_error(headwater_lake::Error::Damaged { key, source: "the table has no pointer".into() })
        })
    }

    pub(crate) fn lease_error(&self, source: lease::Error) -> Error {
        Error::Lease { table: self.generation.table.to_string(), source }
    }

    pub(crate) fn lake_error(&self, source: headwater_lake::Error) -> Error {
        Error::Lake { table: self.generation.table.to_string(), source }
    }
}
