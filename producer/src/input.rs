//! Opens a file of rows: plain, gzip or zstd, told by its first bytes, never by its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

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
            Self::File(path) if is_pipe(path) => decompressed(Patient(File::open(path)?), Plain::OnAThread),
            Self::File(path) => decompressed(File::open(path)?, Plain::AsItIs),
            Self::Stdin => decompressed(Patient(io::stdin()), Plain::OnAThread),
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

/// How what is not packed is read.
enum Plain {
    AsItIs,
    OnAThread,
}

fn decompressed(raw: impl Read + Send + 'static, plain: Plain) -> io::Result<Box<dyn Read + Send>> {
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
    let head = Cursor::new(head);
    Ok(match (format.as_slice(), plain) {
        ([0x1f, 0x8b, ..], _) => Box::new(flate2::bufread::MultiGzDecoder::new(head.chain(raw))),
        ([0x28, 0xb5, 0x2f, 0xfd], _) => Box::new(zstd::Decoder::with_buffer(head.chain(raw))?),
        (_, Plain::AsItIs) => Box::new(head.chain(raw)),
        (_, Plain::OnAThread) => Box::new(head.chain(Pipe::read_from(raw))),
    })
}

/// A pipe that another program may have made non-blocking: it is waited for all the same.
struct Patient<R>(R);

/// How long apart a non-blocking pipe is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(space) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::park_timeout(ASK_AGAIN_AFTER),
                other => return other,
            }
        }
    }
}

/// How long a pipe may say nothing before that is told.
const QUIET_AFTER: Duration = Duration::from_millis(100);

/// Chunks of a pipe that may wait to be taken.
const PIPE_CHUNKS: usize = 4;

/// A pipe that can be waited for in vain: reading fails with `WouldBlock` while nothing comes, and can be tried again.
struct Pipe {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
}

impl Pipe {
    /// Reads on a thread that nobody waits for: it may be waiting for a pipe that says nothing more.
    fn read_from(mut raw: impl BufRead + Send + 'static) -> Self {
        let (sender, chunks) = mpsc::sync_channel(PIPE_CHUNKS);
        std::thread::spawn(move || {
            loop {
                let read = raw.fill_buf().map(<[u8]>::to_vec);
                let (ended, count) =
                    (!matches!(&read, Ok(chunk) if !chunk.is_empty()), read.as_ref().map_or(0, Vec::len));
                raw.consume(count);
                let interrupted = matches!(&read, Err(error) if error.kind() == io::ErrorKind::Interrupted);
                if !interrupted && (sender.send(read).is_err() || ended) {
                    return;
                }
            }
        });
        Self { chunks, chunk: Cursor::default() }
    }
}

impl Read for Pipe {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.chunk.read(space)?;
            if count > 0 {
                return Ok(count);
            }
            match self.chunks.recv_timeout(QUIET_AFTER) {
                Ok(Ok(chunk)) if chunk.is_empty() => return Ok(0),
                Ok(chunk) => self.chunk = Cursor::new(chunk?),
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
    }
}
