//! The object store that a lake is on, and what its errors say about the thing that was asked for.

use std::path::{Path as DiskPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use headwater_common::outcome::Effect;
use headwater_common::timestamp::Timestamp;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use url::Url;

use crate::durable::{self, DurableDisk};
use crate::error::Error;
use crate::layout::{self, GenerationNumber, Output, TableName};

/// A lake's place.
#[derive(Debug, Clone)]
pub struct LakeStore {
    /// The store whose keys are those of the whole place (`/` on a disk).
    root: Arc<dyn ObjectStore>,
    /// The same store below the lake's folder.
    lake: Arc<dyn ObjectStore>,
    /// The lake's URL, with a slash at the end.
    url: Url,
    /// The lake's folder, on a local disk.
    disk: Option<PathBuf>,
}

/// What came of creating an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Create {
    /// This call created it.
    Created,
    /// There was one already.
    Exists,
    /// No answer came, or one that does not tell.
    Unknown,
}

impl LakeStore {
    /// Opens the lake in a folder of this machine; the folder is created.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn on_disk(folder: &DiskPath) -> Result<Self, Error> {
        let failed = |source| Error::Folder { path: folder.to_owned(), source };
        durable::create_folder(folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        let root: Arc<dyn ObjectStore> = Arc::new(DurableDisk::default());
        let url = Url::from_directory_path(&folder).expect("a canonical path is absolute");
        let prefix = Path::from_absolute_path(&folder).map_err(|source| Error::Path { source })?;
        let lake = Arc::new(PrefixStore::new(Arc::clone(&root), prefix));
        Ok(Self { root, lake, url, disk: Some(folder) })
    }

    /// Opens the lake that is in a folder of this machine.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn existing_on_disk(folder: &DiskPath) -> Result<Self, Error> {
        if !folder.is_dir() {
            return Err(Error::NoLake { path: folder.to_owned() });
        }
        Self::on_disk(folder)
    }

    /// Returns a lake on any store, with its keys at the top. For tests.
    pub fn on_store(store: Arc<dyn ObjectStore>) -> Self {
        let url = Url::parse("memory:///").expect("a constant URL");
        Self { root: Arc::clone(&store), lake: store, url, disk: None }
    }

    /// Returns the lake's URL, for messages.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the lake's place as a user writes it: a path, or a URL.
    pub fn place(&self) -> String {
        self.disk.as_ref().map_or_else(|| self.url.to_string(), |folder| folder.display().to_string())
    }

    /// Returns the store below the lake's folder.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.lake
    }

    /// Returns the store that a table's URL is resolved in.
    pub(crate) fn root(&self) -> &Arc<dyn ObjectStore> {
        &self.root
    }

    /// Returns the URL of a folder of the lake.
    pub(crate) fn url_of(&self, folder: &Path) -> Url {
        self.url.join(folder.as_ref()).expect("keys of the lake are plain path segments")
    }

    /// Makes sure that a folder exists, where the store has folders.
    pub(crate) fn ensure_folder(&self, folder: &Path) -> Result<(), Error> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let path = disk.join(folder.as_ref());
        durable::create_folder(&path).map_err(|source| Error::Folder { path, source })
    }

    /// Creates an object unless there is one.
    ///
    /// # Errors
    /// When it was certainly not created, and trying again will not help.
    pub async fn create(&self, key: &Path, bytes: Bytes) -> Result<Create, Error> {
        match self.lake.put_opts(key, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(Create::Created),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Create::Exists),
            Err(source) if effect_of(&source) == Effect::Unknown => {
                tracing::warn!(%key, error = %source, "no clear answer to a create, reading back");
                Ok(Create::Unknown)
            }
            Err(source) => Err(Error::Store { action: "create", key: key.clone(), source }),
        }
    }

    /// Returns an object's bytes; `None` when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn read(&self, key: &Path) -> Result<Option<Bytes>, Error> {
        let failed = |source| Error::Store { action: "read", key: key.clone(), source };
        match self.lake.get(key).await {
            Ok(found) => found.bytes().await.map(Some).map_err(failed),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Returns an object's size and age; `None` when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn head(&self, key: &Path) -> Result<Option<ObjectMeta>, Error> {
        match self.lake.head(key).await {
            Ok(found) => Ok(Some(found)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { action: "look at", key: key.clone(), source }),
        }
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn overwrite(&self, key: &Path, bytes: Bytes) -> Result<(), Error> {
        let result = self.lake.put(key, bytes.into()).await;
        result.map(drop).map_err(|source| Error::Store { action: "write", key: key.clone(), source })
    }

    /// Returns the names directly below a folder, files and folders, sorted.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn names_in(&self, folder: Option<&Path>) -> Result<Vec<String>, Error> {
        let key = || folder.cloned().unwrap_or_default();
        let listed = self.lake.list_with_delimiter(folder).await;
        let listed = listed.map_err(|source| Error::Store { action: "list", key: key(), source })?;
        let files = listed.objects.iter().map(|object| &object.location);
        let paths = files.chain(&listed.common_prefixes);
        let mut names: Vec<_> = paths.filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Returns when the newest object below a folder was written; `None` when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn newest_in(&self, folder: &Path) -> Result<Option<Timestamp>, Error> {
        let failed = |source| Error::Store { action: "list", key: folder.clone(), source };
        let mut newest = None;
        let mut objects = self.lake.list(Some(folder));
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            newest = newest.max(Some(Timestamp::from_micros(object.last_modified.timestamp_micros())));
        }
        Ok(newest)
    }

    /// Removes everything below the folder of one output's generation, and returns how many objects that were. There is
    /// no way to name another folder. May be called again for what an interrupted call left.
    ///
    /// # Errors
    /// When the store refuses or does not answer; part of it may be gone.
    pub async fn remove_generation(
        &self,
        table: &TableName,
        output: Output,
        generation: GenerationNumber,
    ) -> Result<u64, Error> {
        let folder = layout::generation(table, output, generation);
        let failed = |source| Error::Store { action: "remove", key: folder.clone(), source };
        let keys = self.lake.list(Some(&folder)).map_ok(|object| object.location).boxed();
        let mut removed = 0;
        let mut removals = self.lake.delete_stream(keys);
        while let Some(result) = removals.next().await {
            match result {
                Ok(_) => removed += 1,
                // Another gc was faster.
                Err(StoreError::NotFound { .. }) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        if let Some(disk) = &self.disk {
            let path = disk.join(folder.as_ref());
            durable::remove_folder(&path).map_err(|source| Error::Folder { path, source })?;
        }
        Ok(removed)
    }

    /// Returns the temporary files of a table that were last written before `bound`: processes that were killed left them.
    /// Only local disks have such; no reader sees them.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn temporaries(&self, table: &TableName, bound: Timestamp) -> Result<Vec<PathBuf>, Error> {
        let Some(disk) = &self.disk else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for output in table.outputs().iter().copied() {
            let path = disk.join(output.folder(table));
            let below = durable::temporaries(&path, bound);
            found.extend(below.map_err(|source| Error::Folder { path, source })?);
        }
        Ok(found)
    }

    /// Points `current` of every output to a generation, for readers that only list. Only local disks have links.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn link_current(&self, table: &TableName, generation: GenerationNumber) -> Result<(), Error> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        for output in table.outputs().iter().copied() {
            self.ensure_folder(&layout::generation(table, output, generation))?;
            let link = disk.join(output.folder(table)).join("current");
            durable::swap_link(&link, &generation.to_string())
                .map_err(|source| Error::Folder { path: link, source })?;
        }
        Ok(())
    }
}

/// Returns what a store's error says about the write that was asked for.
pub fn effect_of(error: &StoreError) -> Effect {
    match error {
        StoreError::AlreadyExists { .. }
        | StoreError::Precondition { .. }
        | StoreError::NotFound { .. }
        | StoreError::NotModified { .. }
        | StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::InvalidPath { .. }
        | StoreError::PermissionDenied { .. }
        | StoreError::Unauthenticated { .. }
        | StoreError::UnknownConfigurationKey { .. } => Effect::DidNotHappen,
        StoreError::Generic { source, .. } if is_refusal(source.as_ref()) => Effect::DidNotHappen,
        _ => Effect::Unknown,
    }
}

/// A full disk and the like: trying again does not help.
fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{InvalidFilename, NotADirectory, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(StorageFull | QuotaExceeded | ReadOnlyFilesystem | InvalidFilename | NotADirectory))
}
