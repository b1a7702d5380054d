//! The objects of an archive, read when they are needed; what was used last is kept, up to a bound.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headwater_common::event::Event;
use headwater_lake::Error as LakeError;
use headwater_lake::commit::read_cut;
use headwater_lake::cut::Cut;
use headwater_lake::file::read_footer;
use headwater_lake::generation::OpenGeneration;
use headwater_lake::layout::{self, Epoch, Lane, Output};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::cache::Cache;
use super::decode::{self, GroupRecords, Part};
use super::file::{self, Footer};

/// Segments and files of the cuts that are kept.
const CUTS_KEPT_PARTS: usize = 50_000;

/// Bytes of the decoded row groups that are kept; the last one is kept whatever it has.
const GROUPS_KEPT_BYTES: usize = 16 * 1024 * 1024;

/// Footers that are kept.
const FOOTERS_KEPT: usize = 8;

/// An archive's cuts, footers and row groups. None of them ever changes.
pub(super) struct Shelf {
    /// The archive.
    pub(super) archive: OpenGeneration,
    kept: Mutex<Kept>,
}

struct Kept {
    cuts: Cache<(Lane, Epoch), Cut>,
    footers: Cache<Path, Footer>,
    groups: Cache<(Path, usize), GroupRecords>,
}

/// Returns the error of an object that is not what it should be.
pub(super) fn damaged(key: Path, what: String) -> LakeError {
    LakeError::Damaged { key, source: what.into() }
}

impl Shelf {
    /// Returns the objects of an archive; nothing is read yet.
    pub(super) fn new(archive: OpenGeneration) -> Self {
        let kept = Kept {
            cuts: Cache::new(CUTS_KEPT_PARTS),
            footers: Cache::new(FOOTERS_KEPT),
            groups: Cache::new(GROUPS_KEPT_BYTES),
        };
        Self { archive, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the key of a cut.
    pub(super) fn cut_key(&self, lane: Lane, epoch: Epoch) -> Path {
        layout::cut(&self.archive.table, self.archive.description.number, lane, epoch)
    }

    /// Returns the key of a file that a cut names.
    pub(super) fn data_key(&self, path: &str) -> Path {
        layout::data_object(&self.archive.table, Output::Events, self.archive.description.number, path)
    }

    /// Returns a cut that is there.
    pub(super) async fn cut(&self, lane: Lane, epoch: Epoch) -> Result<Arc<Cut>, LakeError> {
        let kept = self.kept().cuts.get(&(lane, epoch));
        if let Some(cut) = kept {
            return Ok(cut);
        }
        let found = read_cut(&self.archive, lane, epoch).await?;
        let missing = || damaged(self.cut_key(lane, epoch), "it is missing".into());
        let cut = Arc::new(found.ok_or_else(missing)?);
        let parts = 1 + cut.segments.len() + cut.output(Output::Events).files.len();
        self.kept().cuts.put((lane, epoch), Arc::clone(&cut), parts);
        Ok(cut)
    }

    /// Returns a file's footer; `None` when there is no such file.
    pub(super) async fn footer(&self, key: &Path) -> Result<Option<Arc<Footer>>, LakeError> {
        let kept = self.kept().footers.get(key);
        if kept.is_some() {
            return Ok(kept);
        }
        let Some(object) = self.archive.store.head(key).await? else {
            return Ok(None);
        };
        let read = read_footer(&self.archive.store, key, object.size).await;
        let metadata = match read {
            Err(LakeError::Store { source: object_store::Error::NotFound { .. }, .. }) => return Ok(None),
            read => Arc::new(read?),
        };
        let footer = Arc::new(Footer { size: object.size, metadata });
        self.kept().footers.put(key.clone(), Arc::clone(&footer), 1);
        Ok(Some(footer))
    }

    /// Returns the records of a row group; `None` when there is no such file.
    pub(super) async fn group(
        &self,
        key: &Path,
        footer: &Footer,
        group: usize,
    ) -> Result<Option<Arc<GroupRecords>>, LakeError> {
        let place = (key.clone(), group);
        let kept = self.kept().groups.get(&place);
        if kept.is_some() {
            return Ok(kept);
        }
        let range = file::byte_range(footer.metadata.row_group(group));
        let bytes = match self.archive.store.objects().get_range(key, range.clone()).await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(LakeError::Store { action: "read", key: key.clone(), source }),
        };
        let (part, metadata) = (Part::new(range.start, bytes, footer.size), Arc::clone(&footer.metadata));
        let decoding = tokio::task::spawn_blocking(move || decode::decode(&metadata, group, part));
        let decoded = decoding.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let records = decoded.map_err(|source| LakeError::Damaged { key: key.clone(), source: Box::new(source) })?;
        let events = records.values().flatten();
        let bytes_of = |event: &Event| event.payload.len() + event.partition_key.len() + size_of::<Event>();
        let weight: usize = events.map(bytes_of).sum();
        let records = Arc::new(records);
        self.kept().groups.put(place, Arc::clone(&records), weight);
        Ok(Some(records))
    }
}
