//! A stream that is split and merged, in its archive: the same shards, parents, ends and events, whatever the stream has
//! forgotten meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use harness::stream_world::{Make, World};
use headwater_common::position::{Position, ShardId};
use headwater_common::retry::Policy;
use headwater_consumer::archive::{ArchiveSource, Archiver, writer};
use headwater_consumer::driver::Progress;
use headwater_consumer::policy::Limits;
use headwater_lake::generation::OpenGeneration;
use headwater_lake::store::LakeStore;
use headwater_lake::verify::{self, Options};
use headwater_stream::joined::Joined;
use headwater_stream::memory::MemoryLog;
use headwater_stream::{Error, Source, StartAt};
use object_store::memory::InMemory;
use tokio::sync::watch;

const LANES: u32 = 2;
const MAKES: [Make; 2] = [MemoryLog::reshardable, MemoryLog::without_numbers];

/// The archive of a world's stream, in a lake of its own.
struct Archived {
    world: World,
    lake: LakeStore,
}

impl Archived {
    fn of(world: &World) -> Self {
        Self { world: world.clone(), lake: LakeStore::on_store(Arc::new(InMemory::new())) }
    }

    async fn open(&self) -> OpenGeneration {
        writer::open(&self.lake, &self.world.log, LANES).await.unwrap()
    }

    async fn catch_up(&self) {
        let archiver = Archiver {
            source: Arc::new(self.world.log.clone()),
            archive: Arc::new(self.open().await),
            limits: Limits { rows: 40, ..Limits::default() },
            until_caught_up: true,
            clock: Arc::clone(&self.world.clock),
            retry: Policy::STORE,
            seed: 1,
            progress: Arc::new(Progress::default()),
        };
        let (_keep, shutdown) = watch::channel(false);
        archiver.run(shutdown).await.unwrap();
    }

    async fn source(&self) -> Arc<dyn Source> {
        Arc::new(ArchiveSource::new(self.open().await).unwrap())
    }
}

/// Two splits and a merge, archived in between; then the stream forgets what is closed.
async fn archived_history(make: Make) -> (World, Archived, u64) {
    let world = World::new(make, 1);
    let archived = Archived::of(&world);
    let mut put = 0;
    for shards in [3, 5, 2] {
        world.put(put..put + 50).await;
        put += 50;
        archived.catch_up().await;
        world.log.update_shard_count(shards);
    }
    world.put(put..put + 50).await;
    put += 50;
    archived.catch_up().await;
    let open: Vec<_> = world.log.open_shards().into_iter().map(|(shard, _)| shard).collect();
    for shard in world.log.shards().await.unwrap() {
        if !open.contains(&shard.id) {
            world.log.forget(&shard.id);
        }
    }
    (world, archived, put)
}

#[tokio::test]
async fn v1_the_archive_of_a_resharded_stream_is_that_stream_with_all_its_shards() {
    for make in MAKES {
        let (mut world, archived, put) = archived_history(make).await;
        let archive = archived.source().await;
        let listed = archive.shards().await.unwrap();
        assert!(listed.len() > world.log.shards().await.unwrap().len(), "it knows those that the stream forgot");
        let places: BTreeMap<&ShardId, usize> =
            listed.iter().zip(0..).map(|(shard, place)| (&shard.id, place)).collect();
        for shard in &listed {
            let is_closed = listed.iter().any(|child| child.parents.contains(&shard.id));
            assert!(shard.parents.iter().all(|parent| places[parent] < places[&shard.id]), "parents come first");
            let end = archive.resolve(&shard.id, StartAt::Latest).await.unwrap();
            assert_eq!(end == Position::SHARD_END, is_closed, "{}", shard.id);
            if is_closed {
                let read = archive.read(&shard.id, end, 1000).await.unwrap();
                assert!(read.ended && read.events.is_empty());
            }
        }
        let open = archived.open().await;
        let report = verify::verify(&open, Options { full: true, from_beginning: true }).await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.account.read, put);
        // A table that begins with the archive, and goes on with the stream where that ends.
        world.source = archived.source().await;
        let mut start = world.clone();
        start.table = "of_archive".parse().unwrap();
        let began = start.create_from(archive.as_ref(), 3).await;
        assert!(began.description.start.len() == listed.len());
        start.catch_up().await;
        start.check(0..put).await;
        world.put(put..put + 30).await;
        start.source = Arc::new(world.log.clone());
        start.catch_up().await;
        start.check(0..put + 30).await;
    }
}

#[tokio::test]
async fn v1_an_archive_and_a_resharded_stream_are_one_log() {
    for make in MAKES {
        let (mut world, archived, put) = archived_history(make).await;
        // More than the archive has, in shards of which it has a part.
        world.put(put..put + 60).await;
        world.log.update_shard_count(3);
        world.put(put + 60..put + 90).await;
        let joined = Joined::new(archived.source().await, Arc::new(world.log.clone())).await.unwrap();
        let joined: Arc<dyn Source> = Arc::new(joined);
        world.create_from(joined.as_ref(), 2).await;
        world.source = joined;
        world.catch_up().await;
        world.check(0..put + 90).await;
    }
}

#[tokio::test]
async fn v1_a_shard_that_the_stream_forgot_before_it_was_archived_is_a_loss_and_no_end() {
    let world = World::new(MemoryLog::without_numbers, 1);
    let archived = Archived::of(&world);
    world.put(0..20).await;
    archived.catch_up().await;
    let joined = Joined::new(archived.source().await, Arc::new(world.log.clone())).await.unwrap();
    world.put(20..30).await;
    let shard = ShardId::from("0");
    world.log.split(&shard, 1 << 127);
    world.log.forget(&shard);
    let mut after = Position::START;
    let error = loop {
        match joined.read(&shard, after, 100).await {
            Ok(read) => after = read.events.last().expect("the archive has events up to its end").position,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::ShardGone { .. }), "{error}");
    assert_eq!(after, Position::of_record(20.into()));
}
