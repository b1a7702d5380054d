//! Opens the LMDB environment of a log: once a process, on a local disk only, checked before it is trusted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use headwater_common::limits;
use heed::{Env, EnvOpenOptions, MdbError, WithoutTls};

use super::state::{FORMAT, HEADER_KEY, Header};
use super::{Log, Raw, Records};
use crate::Error;

/// Processes and reading threads that may have a transaction open at once.
const READERS_MAX: u32 = 512;

/// The databases besides one a shard.
const OTHER_DATABASES: u32 = 1;

/// How a log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Address space that is reserved, the size the log can grow to; a multiple of 4096 bytes.
    pub map_bytes: usize,
}

impl Default for Options {
    /// 1 TiB of address space, which costs nothing until it is used.
    fn default() -> Self {
        Self { map_bytes: 1 << 40 }
    }
}

/// Environments that are open in this process: LMDB must not open a file twice.
static OPEN: Mutex<BTreeMap<PathBuf, Log>> = Mutex::new(BTreeMap::new());

impl Log {
    /// Opens the log in `path`, which must exist.
    ///
    /// # Errors
    /// When there is none, or it cannot be trusted.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        if !path.join("data.mdb").is_file() {
            return Err(Error::NotFound { path: path.to_owned() });
        }
        open_once(path, options, None)
    }

    /// Opens the log in `path`, and creates it with `shards` shards (one, when `None`) where there is none.
    ///
    /// # Errors
    /// When there is one with another number of shards, or it cannot be created or trusted.
    pub fn open_or_create(path: &Path, options: Options, shards: Option<u32>) -> Result<Self, Error> {
        std::fs::create_dir_all(path).map_err(|source| io(path, "create the folder", source))?;
        let log = open_once(path, options, Some(shards.unwrap_or(1)))?;
        match shards {
            Some(wanted) if wanted != log.header.shards => {
                Err(Error::OtherShardCount { path: log.path, actual: log.header.shards, wanted })
            }
            _ => Ok(log),
        }
    }
}

fn open_once(path: &Path, options: Options, create_shards: Option<u32>) -> Result<Log, Error> {
    let path = path.canonicalize().map_err(|source| io(path, "open", source))?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(log) = open.get(&path) {
        return Ok(log.clone());
    }
    refuse_network_file_system(&path)?;
    let log = open_environment(&path, options, create_shards)?;
    open.insert(path, log.clone());
    Ok(log)
}

fn open_environment(path: &Path, options: Options, create_shards: Option<u32>) -> Result<Log, Error> {
    let engine = |action| move |error| classify(path, options.map_bytes, action, error);
    let map_bytes = options.map_bytes.next_multiple_of(4096);
    let mut open_options = EnvOpenOptions::new().read_txn_without_tls();
    open_options.map_size(map_bytes).max_dbs(limits::SHARDS_MAX + OTHER_DATABASES).max_readers(READERS_MAX);
    // SAFETY: the file is only ever opened through LMDB with its lock file, once in this process (see OPEN), and
    // network file systems were refused. Another program that overwrites it in place is out of anyone's hands.
    #[expect(unsafe_code, reason = "a memory map is unsafe by nature; see the SAFETY comment")]
    let env = unsafe { open_options.open(path) }.map_err(engine("open"))?;
    env.clear_stale_readers().map_err(engine("clear stale readers of"))?;
    refuse_truncated(path, &env)?;

    let header = match (read_header(&env).map_err(engine("read"))?, create_shards) {
        (Some(stored), _) => parse_header(path, &stored)?,
        (None, Some(shards)) => create(&env, shards).map_err(engine("create"))?,
        (None, None) => {
            return Err(Error::NotFound { path: path.to_owned() });
        }
    };
    let (meta, shards) = open_databases(&env, &header).map_err(engine("open"))?;
    Ok(Log { path: path.to_owned(), env, meta, shards, header })
}

/// A map beyond the end of its file would kill the process at the first access.
fn refuse_truncated(path: &Path, env: &Env<WithoutTls>) -> Result<(), Error> {
    let used = (env.info().last_page_number as u64 + 1) * u64::from(env.stat().page_size);
    let file = path.join("data.mdb");
    let actual = file.metadata().map_err(|source| io(&file, "look at", source))?.len();
    if actual < used {
        let what = format!("data.mdb has {actual} bytes, its header speaks of {used}");
        return Err(Error::Corrupt { path: path.to_owned(), what });
    }
    Ok(())
}

fn read_header(env: &Env<WithoutTls>) -> heed::Result<Option<Vec<u8>>> {
    let transaction = env.read_txn()?;
    let Some(meta) = env.open_database::<Raw, Raw>(&transaction, Some("meta"))? else {
        return Ok(None);
    };
    let stored = meta.get(&transaction, HEADER_KEY)?.map(<[u8]>::to_vec);
    transaction.commit()?;
    Ok(stored)
}

fn parse_header(path: &Path, stored: &[u8]) -> Result<Header, Error> {
    let damaged = || Error::Corrupt { path: path.to_owned(), what: "its header cannot be read".into() };
    let header: Header = serde_json::from_slice(stored).map_err(|_| damaged())?;
    if header.format != FORMAT {
        return Err(Error::UnknownFormat { path: path.to_owned(), found: header.format, known: FORMAT });
    }
    if header.shards == 0 || header.shards > limits::SHARDS_MAX {
        return Err(damaged());
    }
    Ok(header)
}

/// Writes the header unless another process was first.
fn create(env: &Env<WithoutTls>, shards: u32) -> heed::Result<Header> {
    let mut transaction = env.write_txn()?;
    let meta: Records = env.create_database(&mut transaction, Some("meta"))?;
    if let Some(stored) = meta.get(&transaction, HEADER_KEY)? {
        return serde_json::from_slice(stored).map_err(|_| heed::Error::Mdb(MdbError::Corrupted));
    }
    // The identity must differ from that of every log there ever was, also one in the same folder.
    let header = Header { format: FORMAT, uuid: uuid::Uuid::new_v4().to_string(), shards };
    let stored = serde_json::to_vec(&header).expect("a header is plain JSON");
    meta.put(&mut transaction, HEADER_KEY, &stored)?;
    for shard in 0..shards {
        let _: Records = env.create_database(&mut transaction, Some(&database_name(shard)))?;
    }
    transaction.commit()?;
    Ok(header)
}

fn open_databases(env: &Env<WithoutTls>, header: &Header) -> heed::Result<(Records, Vec<Records>)> {
    let transaction = env.read_txn()?;
    let open = |name: &str| {
        let database: Option<Records> = env.open_database(&transaction, Some(name))?;
        database.ok_or(heed::Error::Mdb(MdbError::Corrupted))
    };
    let meta = open("meta")?;
    let shards = (0..header.shards).map(|shard| open(&database_name(shard))).collect::<heed::Result<_>>()?;
    transaction.commit()?;
    Ok((meta, shards))
}

fn database_name(shard: u32) -> String {
    format!("shard-{shard:05}")
}

/// Magic numbers of file systems that are not of this machine (`statfs(2)`).
const NETWORK_FILE_SYSTEMS: [(i64, &str); 6] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
];

fn refuse_network_file_system(path: &Path) -> Result<(), Error> {
    let statistics = rustix::fs::statfs(path).map_err(|errno| io(path, "look at", errno.into()))?;
    // The field's type differs between platforms.
    #[allow(clippy::unnecessary_cast, reason = "f_type is i64 here and u32 elsewhere")]
    let magic = statistics.f_type as i64;
    match NETWORK_FILE_SYSTEMS.iter().find(|(known, _)| *known == magic) {
        Some((_, kind)) => Err(Error::NetworkFileSystem { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Says what an engine error means for the user.
pub(super) fn classify(path: &Path, map_bytes: usize, action: &'static str, error: heed::Error) -> Error {
    let path = path.to_owned();
    let corrupt = |what: &str| Error::Corrupt { path: path.clone(), what: what.to_owned() };
    match error {
        heed::Error::Mdb(MdbError::MapFull) => Error::MapFull { path, bytes: map_bytes },
        heed::Error::Mdb(MdbError::Corrupted | MdbError::PageNotFound) => corrupt("a page is not what it should be"),
        heed::Error::Mdb(MdbError::Invalid) => corrupt("data.mdb is not an LMDB file"),
        heed::Error::Mdb(MdbError::VersionMismatch) => corrupt("data.mdb has another LMDB version"),
        heed::Error::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => Error::DiskFull { path },
        // LMDB says so of a write that was cut short, which is what a full disk does.
        heed::Error::Io(source) if source.raw_os_error() == Some(5) && is_full(&path) => Error::DiskFull { path },
        heed::Error::Io(source) => Error::Io { action, path, source },
        source => Error::Engine { action, path, source },
    }
}

fn is_full(path: &Path) -> bool {
    const ROOM_BYTES: u64 = 64 * 1024 * 1024;
    rustix::fs::statvfs(path).is_ok_and(|disk| disk.f_bavail * disk.f_frsize < ROOM_BYTES)
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}
