//! Where a run begins in its inputs, by the progress that an earlier run noted.

use std::path::Path;

use crate::input::Input;
use crate::run::{Error, Options};
use crate::state::{FileState, State};

/// Returns what is acknowledged before the first row: nothing, or what a run noted that is resumed.
pub(crate) fn starting_state(options: &Options) -> Result<State, Error> {
    let mut files = Vec::new();
    for input in &options.inputs {
        let digest = match input.path() {
            Some(path) => {
                let digest = Input::digest(path);
                let digest = digest.map_err(|source| Error::File { action: "read", path: path.to_owned(), source })?;
                format!("{digest:016x}")
            }
            // What comes out of a pipe has no digest before it is gone.
            None => format!("stdin-{}", options.started_at.micros()),
        };
        files.push(FileState { path: input.name().into(), digest, rows: 0, types: None });
    }
    let reading = format!("{:?}", options.read);
    let fresh = State::new(options.stream.clone(), reading, files);
    if options.resume { resumed(options, fresh) } else { Ok(fresh) }
}

fn resumed(options: &Options, fresh: State) -> Result<State, Error> {
    if options.inputs.iter().any(|input| input.path().is_none()) {
        return Err(Error::CannotResume { reason: "a pipe cannot be read again".into() });
    }
    let path = &options.state_file;
    let failed = |source| Error::File { action: "read the progress in", path: path.clone(), source };
    let Some(stored) = State::load(path).map_err(failed)? else {
        tracing::warn!(path = %path.display(), "no earlier run is noted there; sending everything from the first row");
        return Ok(fresh);
    };
    match difference(&stored, &fresh, path) {
        None => Ok(stored),
        Some(reason) => Err(Error::CannotResume { reason }),
    }
}

/// Returns why a noted progress is not one of this run.
fn difference(stored: &State, fresh: &State, path: &Path) -> Option<String> {
    let names = |state: &State| state.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    if stored.stream != fresh.stream {
        return Some(format!("{} is of a run to another stream", path.display()));
    }
    if stored.reading != fresh.reading {
        return Some("the rows were read with other options then".to_owned());
    }
    if names(stored) != names(fresh) {
        return Some(format!("{} is of a run with other files", path.display()));
    }
    let changed = fresh.files.iter().zip(&stored.files).find(|(now, then)| now.digest != then.digest);
    changed.map(|(now, _)| format!("{} has changed since", now.path.display()))
}
