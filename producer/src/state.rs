//! Where a run stands, so that it can be taken up again after a kill. Written after a batch is acknowledged, so what
//! is in doubt is sent twice, with the same event ids, and nothing is left out.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::columns::CellType;

const VERSION: u32 = 1;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// Identity of the stream that the rows went to.
    pub stream: String,
    /// How the rows were read: other options give other rows.
    pub reading: String,
    /// The inputs, in the order they were named.
    pub files: Vec<FileState>,
    /// Passes over the inputs that are done.
    pub pass: u32,
    /// Rows of all passes that are acknowledged, those included that the stream did not take; bad ones do not count.
    pub sent: u64,
}

/// Where a run stands in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    /// The file.
    pub path: PathBuf,
    /// Digest of its bytes, 16 hexadecimal digits.
    pub digest: String,
    /// Rows of this pass that are acknowledged; rejected ones between them count.
    pub rows: u64,
    /// The types of its columns, if it is a CSV.
    pub types: Option<Vec<CellType>>,
}

impl State {
    /// Returns the state of a run that begins.
    pub fn new(stream: String, reading: String, files: Vec<FileState>) -> Self {
        Self { version: VERSION, stream, reading, files, pass: 0, sent: 0 }
    }

    /// Reads a stored state; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is of another version.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let state: Self = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        if state.version == VERSION { Ok(Some(state)) } else { Err(io::Error::other("it has another version")) }
    }

    /// Stores the state; a kill leaves the old one or the new one.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        std::fs::write(&temporary, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(&temporary, path)
    }
}
