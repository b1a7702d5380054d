//! A run: inputs to rows to batches to the sink. One thread reads ahead, bounded; one task sends, in order.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use headwater_common::timestamp::Timestamp;
use headwater_stream::{Put, Sink};
use tokio::sync::{mpsc, oneshot, watch};

use crate::input::Input;
use crate::metrics;
use crate::pace::{Pace, Pacer};
use crate::rows::{self, EVENT_ID_FIELD, Item, ReadOptions, Reject, Row, Rows};
use crate::state::{FileState, State};

/// Batches that may wait to be sent.
const QUEUE_BATCHES: usize = 2;

/// Rows of a batch at most; it bounds a transaction of the log.
const BATCH_ROWS_MAX: usize = 20_000;

/// Bytes that a row takes besides its body and key, at most for ids that are made here.
const ROW_OVERHEAD_BYTES: usize = 128;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// How their rows are read.
    pub read: ReadOptions,
    /// How fast rows go out.
    pub pace: Pace,
    /// Rows to send at most.
    pub limit: Option<u64>,
    /// Whether to begin anew after the last row.
    pub repeat: bool,
    /// Whether to go on where an earlier run stopped.
    pub resume: bool,
    /// Where to note how far the run is.
    pub state_file: PathBuf,
    /// Where bad rows go.
    pub reject_file: PathBuf,
    /// Bytes of a batch at most.
    pub batch_bytes_max: usize,
    /// Identity of the stream, so that a run is resumed with the stream it began with.
    pub stream: String,
    /// When the run began, for the ids of rows that come from standard input.
    pub started_at: Timestamp,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Rows sent and acknowledged.
    pub rows: u64,
    /// Their bytes, as sent.
    pub bytes: u64,
    /// Rows that went to the reject file.
    pub rejects: u64,
    /// Cells sent as strings because they did not fit their column's type.
    pub misfits: u64,
    /// Batches sent.
    pub batches: u64,
}

/// Counters for people who watch.
#[derive(Debug, Default)]
pub struct Progress {
    /// Rows acknowledged.
    pub rows: AtomicU64,
    /// Bytes acknowledged.
    pub bytes: AtomicU64,
    /// Rows rejected.
    pub rejects: AtomicU64,
}

/// What stops a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input.
    #[error(transparent)]
    Rows(#[from] rows::Error),
    /// A file beside the run.
    #[error("cannot {action} {path}", path = .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A run cannot be taken up again.
    #[error("cannot resume: {reason}. Run again without --resume to send everything")]
    CannotResume {
        /// Why not.
        reason: String,
    },
    /// The thread that reads the inputs panicked.
    #[error("reading the inputs ended without a result; this is a bug")]
    ReaderGone,
    /// The stream.
    #[error("cannot put events into {url}; {acknowledged} rows of this run are there, `--resume` goes on after them")]
    Put {
        /// The stream's URL.
        url: String,
        /// Rows that are safe.
        acknowledged: u64,
        /// Why not.
        #[source]
        source: headwater_stream::Error,
    },
}

/// Sends all rows, or as many as asked for, and returns what it did. `shutdown` ends the run after the batch at hand.
///
/// # Errors
/// Says what stopped it and how far it got.
pub async fn run(
    options: Options,
    sink: &dyn Sink,
    progress: &Progress,
    mut shutdown: watch::Receiver<bool>,
) -> Result<Report, Error> {
    let plan = Plan::make(&options)?;
    let mut state = plan.state.clone();
    // What an earlier run noted does not hold for this one.
    note(&options, &state)?;
    let (batches, mut queue) = mpsc::channel(QUEUE_BATCHES);
    let pacer = Pacer::new(options.pace);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = Reader::new(options.clone(), plan, &pacer, Arc::clone(&stop), batches);
    // A thread that is not waited for when the run ends early: it may be waiting for a pipe that says nothing.
    let (finish, reading) = oneshot::channel();
    std::thread::spawn(move || finish.send(reader.run()));
    let sent = send(&options, sink, progress, &mut state, pacer, &mut queue, &mut shutdown).await;
    stop.store(true, Ordering::Relaxed);
    drop(queue);
    let (mut report, ended) = sent?;
    report.rejects = progress.rejects.load(Ordering::Relaxed);
    if ended {
        let Finished { rejects, misfits } = reading.await.map_err(|_| Error::ReaderGone)??;
        report.rejects = rejects;
        report.misfits = misfits;
    }
    Ok(report)
}

/// Sends batches until there are no more (then the second value is true) or the run is to end.
async fn send(
    options: &Options,
    sink: &dyn Sink,
    progress: &Progress,
    state: &mut State,
    mut pacer: Pacer,
    queue: &mut mpsc::Receiver<Batch>,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(Report, bool), Error> {
    let mut report = Report::default();
    loop {
        let batch = tokio::select! {
            biased;
            _ = shutdown.wait_for(|told| *told) => return Ok((report, false)),
            batch = queue.recv() => batch,
        };
        let Some(Batch { puts, bytes, state: after, last_time, rejects }) = batch else {
            return Ok((report, true));
        };
        let rows = puts.len();
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|told| *told) => return Ok((report, false)),
            () = pacer.wait(rows, bytes, last_time, after.pass) => {}
        }
        if rows > 0 {
            // What can be tried again is tried again by the adapter, which knows what it means.
            let acknowledged = report.rows;
            let failed = |source| Error::Put { url: sink.url(), acknowledged, source };
            sink.put(puts).await.map_err(failed)?;
        }
        report.rows += rows as u64;
        report.bytes += bytes as u64;
        report.batches += 1;
        progress.rows.store(report.rows, Ordering::Relaxed);
        progress.bytes.store(report.bytes, Ordering::Relaxed);
        progress.rejects.store(rejects, Ordering::Relaxed);
        ::metrics::counter!(metrics::EVENTS).increment(rows as u64);
        ::metrics::counter!(metrics::BYTES).increment(bytes as u64);
        *state = after;
        note(options, state)?;
    }
}

fn note(options: &Options, state: &State) -> Result<(), Error> {
    let path = &options.state_file;
    state.store(path).map_err(|source| Error::File { action: "note the progress in", path: path.clone(), source })
}

/// Rows that go out together, and where the run stands when they are acknowledged.
struct Batch {
    puts: Vec<Put>,
    bytes: usize,
    state: State,
    last_time: Option<Timestamp>,
    rejects: u64,
}

/// What is known before the first row.
struct Plan {
    state: State,
    /// Rows of each file to be skipped.
    skip: Vec<u64>,
    digests: Vec<String>,
}

impl Plan {
    fn make(options: &Options) -> Result<Self, Error> {
        let mut files = Vec::new();
        for input in &options.inputs {
            let digest = match input.path() {
                Some(path) => {
                    let digest = Input::digest(path);
                    let digest =
                        digest.map_err(|source| Error::File { action: "read", path: path.to_owned(), source })?;
                    format!("{digest:016x}")
                }
                // What comes out of a pipe has no digest before it is gone.
                None => format!("stdin-{}", options.started_at.micros()),
            };
            files.push(FileState { path: input.name().into(), digest, rows: 0, types: None });
        }
        let reading = format!("{:?}", options.read);
        let fresh = State::new(options.stream.clone(), reading, files);
        let state = if options.resume { Self::resumed(options, &fresh)? } else { fresh };
        let skip = state.files.iter().map(|file| file.rows).collect();
        let digests = state.files.iter().map(|file| file.digest.clone()).collect();
        Ok(Self { state, skip, digests })
    }

    fn resumed(options: &Options, fresh: &State) -> Result<State, Error> {
        if options.inputs.iter().any(|input| input.path().is_none()) {
            return Err(Error::CannotResume { reason: "a pipe cannot be read again".into() });
        }
        let path = &options.state_file;
        let stored = State::load(path).map_err(|source| Error::File {
            action: "read the progress in",
            path: path.clone(),
            source,
        })?;
        let Some(stored) = stored else {
            return Ok(fresh.clone());
        };
        let names = |state: &State| state.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        if stored.stream != fresh.stream {
            let reason = format!("{} is of a run to another stream", path.display());
            return Err(Error::CannotResume { reason });
        }
        if stored.reading != fresh.reading {
            let reason = "the rows were read with other options then".to_owned();
            return Err(Error::CannotResume { reason });
        }
        if names(&stored) != names(fresh) {
            let reason = format!("{} is of a run with other files", path.display());
            return Err(Error::CannotResume { reason });
        }
        for (now, then) in fresh.files.iter().zip(&stored.files) {
            if now.digest != then.digest {
                let reason = format!("{} has changed since", now.path.display());
                return Err(Error::CannotResume { reason });
            }
        }
        Ok(stored)
    }
}

struct Finished {
    rejects: u64,
    misfits: u64,
}

/// Reads rows and makes batches, on a thread of its own.
struct Reader {
    options: Options,
    state: State,
    skip: Vec<u64>,
    digests: Vec<String>,
    rows_max: usize,
    bytes_max: usize,
    span_max: Option<std::time::Duration>,
    stop: Arc<AtomicBool>,
    batches: mpsc::Sender<Batch>,
    /// Keys and payloads of the batch, one after another: one allocation a batch, not three a row.
    arena: Vec<u8>,
    /// Where each row's key and payload begin and end in there.
    spans: Vec<Span>,
    first_time: Option<Timestamp>,
    last_time: Option<Timestamp>,
    rows_left: Option<u64>,
    rejects: RejectFile,
    misfits: u64,
    /// Rows handed to the sender, or about to be.
    sent: u64,
}

/// Where a row's key begins, where its payload begins, and where that ends.
struct Span {
    start: usize,
    payload: usize,
    end: usize,
}

/// Nobody wants more rows.
struct Enough;

impl Reader {
    fn new(options: Options, plan: Plan, pacer: &Pacer, stop: Arc<AtomicBool>, batches: mpsc::Sender<Batch>) -> Self {
        let (rows_max, bytes_max) = pacer.batch_max();
        Self {
            rows_max: rows_max.min(BATCH_ROWS_MAX),
            bytes_max: bytes_max.min(options.batch_bytes_max),
            span_max: pacer.batch_span(),
            rows_left: options.limit,
            rejects: RejectFile::new(options.reject_file.clone()),
            state: plan.state,
            skip: plan.skip,
            digests: plan.digests,
            options,
            stop,
            batches,
            arena: Vec::new(),
            spans: Vec::new(),
            first_time: None,
            last_time: None,
            misfits: 0,
            sent: 0,
        }
    }

    fn run(mut self) -> Result<Finished, Error> {
        let mut resumed = self.skip.iter().any(|rows| *rows > 0);
        loop {
            let merged = self.options.inputs.len() > 1 && matches!(self.options.pace, Pace::EventTime { .. });
            let sent_before = self.sent;
            let passed = if merged { self.merge()? } else { self.one_after_the_other()? };
            let pipes = self.options.inputs.iter().any(|input| input.path().is_none());
            // A pass that gave no row, unless all of it was skipped, would give none again.
            let fruitless = self.sent == sent_before && !resumed;
            resumed = false;
            if passed.is_err() || !self.options.repeat || pipes || fruitless {
                break;
            }
            // The event times of the next pass begin anew.
            if self.flush()?.is_err() {
                break;
            }
            self.state.pass += 1;
            self.state.files.iter_mut().for_each(|file| file.rows = 0);
            self.skip.iter_mut().for_each(|rows| *rows = 0);
        }
        // When nobody wants the last rows, the run was ended from outside.
        let _ = self.flush()?;
        Ok(Finished { rejects: self.rejects.count, misfits: self.misfits })
    }

    fn one_after_the_other(&mut self) -> Result<Result<(), Enough>, Error> {
        for index in 0..self.options.inputs.len() {
            let mut rows = self.open(index)?;
            while let Some(item) = rows.read()? {
                if self.take(index, item)?.is_err() {
                    self.misfits += rows.misfits();
                    return Ok(Err(Enough));
                }
            }
            self.misfits += rows.misfits();
        }
        Ok(Ok(()))
    }

    /// Takes the row with the earliest event time of all files, again and again. A row without one goes at once.
    fn merge(&mut self) -> Result<Result<(), Enough>, Error> {
        let mut sources = Vec::new();
        for index in 0..self.options.inputs.len() {
            let mut rows = self.open(index)?;
            let head = rows.read()?;
            sources.push((rows, head));
        }
        let time_of = |item: &Item| match item {
            Item::Row(row) => row.time,
            Item::Reject(_) => None,
        };
        loop {
            let heads = sources.iter().enumerate().filter_map(|(i, (_, head))| Some((time_of(head.as_ref()?), i)));
            let Some((_, index)) = heads.min() else { break };
            let (rows, head) = &mut sources[index];
            let next = rows.read()?;
            let item = std::mem::replace(head, next).expect("the earliest is there");
            if self.take(index, item)?.is_err() {
                return Ok(Err(Enough));
            }
        }
        self.misfits += sources.iter().map(|(rows, _)| rows.misfits()).sum::<u64>();
        Ok(Ok(()))
    }

    fn open(&mut self, index: usize) -> Result<Rows, Error> {
        let input = &self.options.inputs[index];
        let name = input.name();
        let reader = input.open().map_err(|source| rows::Error::Read { name: name.clone(), source })?;
        let types = self.state.files[index].types.clone();
        let rows = Rows::open(name, reader, &self.options.read, types)?;
        self.state.files[index].types = rows.types().map(<[_]>::to_vec);
        Ok(rows)
    }

    fn take(&mut self, index: usize, item: Item) -> Result<Result<(), Enough>, Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Err(Enough));
        }
        if self.skip[index] > 0 {
            self.skip[index] -= 1;
            return Ok(Ok(()));
        }
        if self.rows_left == Some(0) {
            return Ok(Err(Enough));
        }
        let row = match item {
            Item::Reject(reject) => {
                self.state.files[index].rows += 1;
                self.rejects.write(&self.options.inputs[index].name(), &reject)?;
                return Ok(Ok(()));
            }
            Item::Row(row) => row,
        };
        if let Some(left) = &mut self.rows_left {
            *left -= 1;
        }
        let time = row.time;
        // The id and its label take less than this.
        let bytes = row.body.len() + row.key.as_ref().map_or(0, String::len) + ROW_OVERHEAD_BYTES;
        let too_far =
            self.span_max.zip(self.first_time).zip(time).is_some_and(|((span, first), t)| t.since(first) > span);
        let full = self.spans.len() >= self.rows_max || self.arena.len() + bytes > self.bytes_max || too_far;
        if full && !self.spans.is_empty() && self.flush()?.is_err() {
            return Ok(Err(Enough));
        }
        self.append(index, row);
        self.state.files[index].rows += 1;
        self.first_time = self.first_time.or(time);
        self.last_time = time.or(self.last_time);
        self.sent += 1;
        // Not one row more is read than is wanted: the next may never come.
        Ok(if self.rows_left == Some(0) { Err(Enough) } else { Ok(()) })
    }

    /// Adds a row's key and payload to the batch.
    fn append(&mut self, index: usize, row: Row) {
        let Row { number, body, own_id, body_has_id, key, .. } = row;
        let id = own_id.unwrap_or_else(|| format!("{}-{number}-{}", self.digests[index], self.state.pass));
        let arena = &mut self.arena;
        let start = arena.len();
        arena.extend_from_slice(key.as_ref().unwrap_or(&id).as_bytes());
        let payload = arena.len();
        arena.push(b'{');
        if !body_has_id {
            crate::columns::write_string(EVENT_ID_FIELD, arena);
            arena.push(b':');
            crate::columns::write_string(&id, arena);
            if body != b"}" {
                arena.push(b',');
            }
        }
        arena.extend_from_slice(&body);
        self.spans.push(Span { start, payload, end: arena.len() });
    }

    /// Hands the rows at hand to the sender. What was rejected before them is on disk before they count as done.
    fn flush(&mut self) -> Result<Result<(), Enough>, Error> {
        self.rejects.flush()?;
        let bytes = self.arena.len();
        let arena = Bytes::from(std::mem::take(&mut self.arena));
        let put = |Span { start, payload, end }: Span| Put {
            partition_key: arena.slice(start..payload),
            payload: arena.slice(payload..end),
        };
        let batch = Batch {
            puts: std::mem::take(&mut self.spans).into_iter().map(put).collect(),
            bytes,
            state: self.state.clone(),
            last_time: self.last_time,
            rejects: self.rejects.count,
        };
        self.first_time = None;
        Ok(self.batches.blocking_send(batch).map_err(|_| Enough))
    }
}

/// Bad rows, a JSON object a line. Created when there is one.
struct RejectFile {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    count: u64,
}

impl RejectFile {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, count: 0 }
    }

    fn write(&mut self, input: &str, reject: &Reject) -> Result<(), Error> {
        let failed = |source| Error::File { action: "write", path: self.path.clone(), source };
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = File::options().create(true).append(true).open(&self.path).map_err(failed)?;
                self.file.insert(BufWriter::new(file))
            }
        };
        let Reject { line, byte, reason, raw } = reject;
        let entry = serde_json::json!({"file": input, "line": line, "byte": byte, "reason": reason, "raw": raw});
        writeln!(file, "{entry}").map_err(failed)?;
        self.count += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        file.flush().map_err(|source| Error::File { action: "write", path: self.path.clone(), source })
    }
}
