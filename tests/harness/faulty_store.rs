//! An object store that fails as it is told: requests are refused, get lost on their way, or happen without an answer.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What becomes of a request to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happens, and the answer comes.
    Done,
    /// It happens; the answer gets lost.
    AnswerLost,
    /// It gets lost, and so there is no answer.
    RequestLost,
    /// It is refused for good.
    Refused,
}

type Plan = Box<dyn FnMut(&Path) -> Fate + Send>;

/// A store in memory whose writes have the fate that a plan gives them.
pub struct FaultyStore {
    inner: InMemory,
    plan: Mutex<Plan>,
    writes: AtomicU64,
}

impl FaultyStore {
    /// Returns an empty store. `plan` is asked for every write.
    pub fn new(plan: impl FnMut(&Path) -> Fate + Send + 'static) -> Self {
        Self { inner: InMemory::new(), plan: Mutex::new(Box::new(plan)), writes: AtomicU64::new(0) }
    }

    /// From now on another plan is asked.
    pub fn change_plan(&self, plan: impl FnMut(&Path) -> Fate + Send + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    /// Returns how many writes were asked for.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn fate(&self, path: &Path) -> Fate {
        self.writes.fetch_add(1, Ordering::Relaxed);
        (self.plan.lock().unwrap())(path)
    }
}

/// Returns a plan that has the faults happen in a seeded share of the writes.
pub fn sometimes(seed: u64, share: f64, faults: &'static [Fate]) -> impl FnMut(&Path) -> Fate + Send + 'static {
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    move |_| if random.random_bool(share) { *faults.choose(&mut random).unwrap() } else { Fate::Done }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

fn no_answer() -> Error {
    Error::Generic { store: "faulty", source: "the request timed out".into() }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.fate(location) {
            Fate::Done => self.inner.put_opts(location, payload, options).await,
            Fate::AnswerLost => {
                // Also when it was there already, nobody hears of it.
                let _ = self.inner.put_opts(location, payload, options).await;
                Err(no_answer())
            }
            Fate::RequestLost => Err(no_answer()),
            Fate::Refused => {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                Err(Error::Generic { store: "faulty", source: Box::new(source) })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
