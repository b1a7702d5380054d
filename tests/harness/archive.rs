//! A log in memory and its archive in a lake in memory: every batch that is put is archived at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::clock::Clock;
use headwater_common::retry::Policy;
use headwater_common::timestamp::Timestamp;
use headwater_consumer::archive::{ArchiveSource, Archiver, writer};
use headwater_consumer::driver::{Error, Progress};
use headwater_consumer::policy::Limits;
use headwater_lake::archive::retention::{self, Report};
use headwater_lake::generation::OpenGeneration;
use headwater_lake::store::LakeStore;
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Accepted, Put, Sink, Source, StartAt};
use object_store::memory::InMemory;
use tokio::sync::watch;

/// What the log forgets once it is archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgetting {
    /// Nothing.
    Nothing,
    /// All there is.
    Everything,
}

/// A log and its archive.
#[derive(Debug)]
pub struct Archived {
    log: MemoryLog,
    store: LakeStore,
    clock: ClockHandle,
    forgetting: Forgetting,
}

struct ClockHandle(Arc<dyn Clock>);

impl std::fmt::Debug for ClockHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

impl Archived {
    /// Makes the archive of a log.
    pub async fn new(log: MemoryLog, clock: Arc<dyn Clock>, forgetting: Forgetting) -> Self {
        let store = LakeStore::on_store(Arc::new(InMemory::new()));
        let archived = Self { log, store, clock: ClockHandle(clock), forgetting };
        archived.archive().await;
        archived
    }

    /// Returns the archive as it is in the lake.
    pub async fn archive(&self) -> OpenGeneration {
        writer::open(&self.store, &self.log, 1).await.unwrap()
    }

    /// Returns the archive as a stream.
    pub async fn source(&self) -> ArchiveSource {
        ArchiveSource::new(self.archive().await).unwrap()
    }

    /// Archives all that the log has, in epochs of so many records.
    ///
    /// # Errors
    /// When the log has forgotten what is not archived yet.
    pub async fn catch_up(&self, records_an_epoch: u64) -> Result<(), Error> {
        let archiver = Archiver {
            source: Arc::new(self.log.clone()),
            archive: Arc::new(self.archive().await),
            limits: Limits { rows: records_an_epoch, ..Limits::default() },
            until_caught_up: true,
            clock: Arc::clone(&self.clock.0),
            retry: Policy::STORE,
            seed: 1,
            progress: Arc::new(Progress::default()),
        };
        let (_keep, shutdown) = watch::channel(false);
        archiver.run(shutdown).await
    }

    /// Applies the archive's retention.
    pub async fn retain(&self, older_than: Duration, now: Timestamp) -> Report {
        retention::apply(&self.archive().await, older_than, now).await.unwrap()
    }

    async fn forget(&self) {
        for (index, shard) in (0..).zip(self.log.shards().await.unwrap()) {
            let oldest = self.log.resolve(&shard.id, StartAt::TrimHorizon).await.unwrap();
            let newest = self.log.resolve(&shard.id, StartAt::Latest).await.unwrap();
            let count = newest.sequence.as_u64().unwrap() - oldest.sequence.as_u64().unwrap();
            self.log.trim(index, usize::try_from(count).unwrap());
        }
    }
}

#[async_trait]
impl Sink for Archived {
    fn url(&self) -> String {
        Source::url(&self.log)
    }

    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, headwater_stream::Error> {
        let accepted = self.log.put(batch).await?;
        self.catch_up(1_000_000).await.unwrap();
        if self.forgetting == Forgetting::Everything {
            self.forget().await;
        }
        Ok(accepted)
    }
}
