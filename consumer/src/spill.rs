//! Rows beyond the budget, on disk by window, so that many windows make no small files.
//!
//! The file has no name: it is gone with the process, whatever ends it. Nothing in it is needed after a restart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;
use headwater_common::window::Start;

/// Rows of an epoch's output that did not fit into memory.
#[derive(Debug)]
pub struct Spill {
    file: File,
    bytes: u64,
    windows: BTreeMap<Start, Extents>,
}

/// The stretches of one window, in the order they came. A rebuild has very many: their rows are counted once.
#[derive(Debug, Default)]
struct Extents {
    rows: u64,
    all: Vec<Extent>,
}

/// Rows of one window, as an Arrow stream of their own: the schema may grow from one to the next.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    bytes: usize,
}

impl Spill {
    /// Makes an empty file without a name in a folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, bytes: 0, windows: BTreeMap::new() })
    }

    /// Returns the bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends rows of a window; they come after those that were appended before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn append(&mut self, window: Start, rows: &RecordBatch) -> io::Result<()> {
        let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref()).map_err(io_error)?;
        writer.write(rows).map_err(io_error)?;
        let bytes = writer.into_inner().map_err(io_error)?;
        self.file.write_all_at(&bytes, self.bytes)?;
        let extents = self.windows.entry(window).or_default();
        extents.rows += rows.num_rows() as u64;
        extents.all.push(Extent { offset: self.bytes, bytes: bytes.len() });
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Returns the windows that have rows here, and how many, in order.
    pub fn windows(&self) -> impl Iterator<Item = (Start, u64)> {
        self.windows.iter().map(|(window, extents)| (*window, extents.rows))
    }

    /// Returns a window's rows in the order they came, each batch with the schema it was appended with.
    pub fn batches(&self, window: Start) -> impl Iterator<Item = io::Result<RecordBatch>> {
        let extents = self.windows.get(&window).map(|extents| extents.all.as_slice()).unwrap_or_default();
        extents.iter().map(|extent| {
            let mut bytes = vec![0; extent.bytes];
            self.file.read_exact_at(&mut bytes, extent.offset)?;
            let mut reader = StreamReader::try_new(bytes.as_slice(), None).map_err(io_error)?;
            let rows = reader.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            rows.map_err(io_error)
        })
    }
}

fn io_error(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}
