//! The reject file: rows that are not in the stream, a JSON object a line. The reader writes those that cannot be an
//! event, the sender those that the stream did not take. Created when there is one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::rows::Reject;
use crate::run::Error;

/// A reject file, for both.
pub(crate) struct Rejects {
    path: PathBuf,
    file: Mutex<Option<BufWriter<File>>>,
}

impl Rejects {
    /// Returns a file that does not exist yet, or is added to.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: Mutex::new(None) }
    }

    /// Adds a row of an input. It is on disk with the next [`Rejects::flush`].
    pub(crate) fn write(&self, input: &str, reject: &Reject) -> Result<(), Error> {
        let failed = |source| Error::File { action: "write", path: self.path.clone(), source };
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            let file = File::options().create(true).append(true).open(&self.path).map_err(failed)?;
            *slot = Some(BufWriter::new(file));
        }
        let file = slot.as_mut().expect("it is open");
        let Reject { line, byte, reason, raw } = reject;
        let entry = serde_json::json!({"file": input, "line": line, "byte": byte, "reason": reason, "raw": raw});
        writeln!(file, "{entry}").map_err(failed)
    }

    /// Hands all that was added to the system.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut *slot else {
            return Ok(());
        };
        file.flush().map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }
}
