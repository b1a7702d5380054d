//! A local disk as an object store whose every write is durable and whose creates are conditional.
//!
//! object_store's local store never syncs. This one writes a temporary file beside the target, syncs it, links (or
//! renames) it into place and syncs the folder; folders it creates are synced in their parents. A create fails when
//! the target exists, also when another process links it at the same moment: `link(2)` decides.
//!
//! Temporary names end in `#` and digits: the inner store leaves those out of its listings, and no reader's pattern
//! matches them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path as DiskPath, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::BoxStream;
use headwater_common::timestamp::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

const STORE: &str = "local disk";

/// The file system of this machine, rooted at `/`.
#[derive(Debug, Clone)]
pub struct DurableDisk {
    inner: Arc<LocalFileSystem>,
}

impl Default for DurableDisk {
    fn default() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()) }
    }
}

impl fmt::Display for DurableDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

#[async_trait]
impl ObjectStore for DurableDisk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotSupported { source: "a local disk has no conditional overwrite".into() });
            }
        };
        let target = self.inner.path_to_filesystem(location)?;
        let location = location.clone();
        blocking(move || write_durably(&location, &target, &payload, create)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { inner, target }))
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

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    target: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.inner.put_part(payload)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        let target = self.target.clone();
        blocking(move || {
            File::open(&target)
                .and_then(|file| file.sync_all())
                .and_then(|()| sync_folder_of(&target))
                .map_err(|source| Error::Generic { store: STORE, source: Box::new(source) })
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

fn write_durably(location: &Path, target: &DiskPath, payload: &PutPayload, create: bool) -> Result<PutResult> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::AlreadyExists { path: location.to_string(), source: Box::new(source) }
        }
        std::io::ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: location.to_string(), source: Box::new(source) }
        }
        _ => Error::Generic { store: STORE, source: Box::new(source) },
    };
    create_folder(folder_of(target)).map_err(failed)?;
    let (file, temporary) = new_file_beside(target).map_err(failed)?;
    let result = write_and_place(file, &temporary, target, payload, create);
    if result.is_err() || create {
        // After a link the temporary name is the second one; after a failure the file is of no use. When even this
        // fails the name stays behind, which no reader sees.
        let _ = std::fs::remove_file(&temporary);
    }
    result.map_err(failed)?;
    Ok(PutResult { e_tag: None, version: None })
}

fn write_and_place(
    mut file: File,
    temporary: &DiskPath,
    target: &DiskPath,
    payload: &PutPayload,
    create: bool,
) -> std::io::Result<()> {
    for bytes in payload {
        file.write_all(bytes)?;
    }
    file.sync_all()?;
    if create {
        std::fs::hard_link(temporary, target)?;
    } else {
        std::fs::rename(temporary, target)?;
    }
    sync_folder_of(target)
}

/// Names beside a target that are tried; those that exist are another process's, or left by a killed one, and may be
/// second names of what was published: they are never opened.
const NAMES_MAX: u32 = 10_000;

fn new_file_beside(target: &DiskPath) -> std::io::Result<(File, PathBuf)> {
    try_names(target, |name| OpenOptions::new().write(true).create_new(true).open(name))
}

/// Returns the temporary files below a folder that were last written before `bound`: who made them is dead. Links are
/// not followed.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn temporaries(folder: &DiskPath, bound: Timestamp) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Another process removed it meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && is_temporary(&entry.file_name().to_string_lossy()) {
                let written = entry.metadata().and_then(|metadata| metadata.modified());
                // One that cannot be asked has been placed or removed just now.
                if written.is_ok_and(|written| time_of(written) < bound) {
                    found.push(entry.path());
                }
            }
        }
    }
    Ok(found)
}

fn time_of(written: SystemTime) -> Timestamp {
    let since_epoch = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// Temporary names end in `#` and digits, as [`try_names`] makes them.
fn is_temporary(name: &str) -> bool {
    let digits = name.rsplit_once('#').map_or("", |(_, digits)| digits);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Calls `make` with names beside the target until one does not exist yet.
fn try_names<T>(target: &DiskPath, make: impl Fn(&DiskPath) -> std::io::Result<T>) -> std::io::Result<(T, PathBuf)> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..NAMES_MAX {
        let mut name = target.as_os_str().to_owned();
        name.push(format!("#{}{:010}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let name = PathBuf::from(name);
        match make(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(made) => return Ok((made, name)),
        }
    }
    Err(std::io::Error::other("too many temporary files lie about"))
}

fn folder_of(target: &DiskPath) -> &DiskPath {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(DiskPath::new("."))
}

/// Creates a folder and those above it, each durable in its parent.
///
/// # Errors
/// When one of them cannot be created.
pub(crate) fn create_folder(folder: &DiskPath) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    create_folder(folder_of(folder))?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder_of(folder)
}

/// Removes a folder with what is left in it; links in it are removed, not followed. It may be gone already.
///
/// # Errors
/// When something in it cannot be removed.
pub(crate) fn remove_folder(folder: &DiskPath) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(folder),
    }
}

fn sync_folder_of(target: &DiskPath) -> std::io::Result<()> {
    File::open(folder_of(target))?.sync_all()
}

/// Makes `link` point to `target` (a name in the same folder), replacing another link in one step.
///
/// # Errors
/// When the folder cannot be written.
pub fn swap_link(link: &DiskPath, target: &str) -> std::io::Result<()> {
    if std::fs::read_link(link).is_ok_and(|current| current == DiskPath::new(target)) {
        return Ok(());
    }
    let ((), temporary) = try_names(link, |name| std::os::unix::fs::symlink(target, name))?;
    std::fs::rename(&temporary, link)?;
    sync_folder_of(link)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(source) => Err(Error::JoinError { source }),
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    async fn put(disk: &DurableDisk, path: &Path, bytes: &'static str, mode: PutMode) -> Result<PutResult> {
        disk.put_opts(path, bytes.into(), mode.into()).await
    }

    #[tokio::test]
    async fn create_is_conditional_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DurableDisk::default();
        let path = Path::from_absolute_path(folder.path().join("a/b/c.json")).unwrap();
        put(&disk, &path, "one", PutMode::Create).await.unwrap();
        let second = put(&disk, &path, "two", PutMode::Create).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(disk.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        put(&disk, &path, "three", PutMode::Overwrite).await.unwrap();
        assert_eq!(disk.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        let names: Vec<_> = std::fs::read_dir(folder.path().join("a/b")).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_creators_one_wins() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DurableDisk::default();
        let path = Path::from_absolute_path(folder.path().join("x/y")).unwrap();
        let tries = (0..16).map(|_| {
            let (disk, path) = (disk.clone(), path.clone());
            tokio::spawn(async move { put(&disk, &path, "x", PutMode::Create).await.is_ok() })
        });
        let mut wins = 0;
        for attempt in tries.collect::<Vec<_>>() {
            wins += usize::from(attempt.await.unwrap());
        }
        assert_eq!(wins, 1);
    }
}
