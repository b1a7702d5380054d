//! Opens a file of rows: plain, gzip or zstd, told by its first bytes, never by its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Where rows come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input, written `-`.
    Stdin,
}

impl Input {
    /// Returns the input that the user named.
    pub fn named(name: &str) -> Self {
        if name == "-" { Self::Stdin } else { Self::File(name.into()) }
    }

    /// Returns the name for messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// Returns the path of a file that can be read twice; a pipe, named or not, can not.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path.as_path()).filter(|path| !is_pipe(path)),
            Self::Stdin => None,
        }
    }

    /// Opens the input for reading its rows.
    ///
    /// # Errors
    /// When it cannot be opened or its beginning cannot be read.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::File(path) => decompressed(File::open(path)?),
            Self::Stdin => decompressed(io::stdin()),
        }
    }

    /// Returns the digest of a file's bytes; reads it once.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn digest(path: &Path) -> io::Result<u64> {
        let mut file = File::open(path)?;
        let mut hasher = Xxh3::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(hasher.digest()),
                count => hasher.update(&chunk[..count]),
            }
        }
    }
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

fn decompressed(raw: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut raw = BufReader::with_capacity(CHUNK_BYTES, raw);
    // A pipe may give less than four bytes at first.
    let mut head = Vec::with_capacity(4);
    while head.len() < 4 {
        let available = raw.fill_buf()?;
        if available.is_empty() {
            break;
        }
        let count = available.len().min(4 - head.len());
        head.extend_from_slice(&available[..count]);
        raw.consume(count);
    }
    let format = head.clone();
    let whole = Cursor::new(head).chain(raw);
    Ok(match format.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(whole)?),
        _ => Box::new(whole),
    })
}
