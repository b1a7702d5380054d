//! A run: inputs to rows to batches to the sink. One thread reads ahead, bounded; one task sends, in order.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use headwater_common::timestamp::Timestamp;
use headwater_stream::Sink;
use tokio::sync::{mpsc, oneshot, watch};

use crate::input::Input;
use crate::metrics;
use crate::pace::{Pace, Pacer};
use crate::read_ahead::{Batch, Finished, Reader};
use crate::resume;
use crate::rows::{self, ReadOptions};
use crate::state::State;

/// Batches that may wait to be sent.
const QUEUE_BATCHES: usize = 2;

/// Batches that are sent before the first of them is acknowledged. Sinks take batches in the order they were put.
const IN_FLIGHT_BATCHES: usize = 4;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// How their rows are read.
    pub read: ReadOptions,
    /// How fast rows go out.
    pub pace: Pace,
    /// Rows to send at most, those of the run that is resumed included.
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
    let mut state = resume::starting_state(&options)?;
    // What an earlier run noted does not hold for this one.
    note(&options, &state)?;
    let (batches, mut queue) = mpsc::channel(QUEUE_BATCHES);
    let pacer = Pacer::new(options.pace);
    let stop = Arc::new(AtomicBool::new(false));
    let reader = Reader::new(options.clone(), state.clone(), &pacer, Arc::clone(&stop), batches);
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

/// Sends batches until there are no more (then the second value is true) or the run is to end: then what is on its
/// way is waited for.
async fn send(
    options: &Options,
    sink: &dyn Sink,
    progress: &Progress,
    state: &mut State,
    pacer: Pacer,
    queue: &mut mpsc::Receiver<Batch>,
    shutdown: &mut watch::Receiver<bool>,
) -> Result<(Report, bool), Error> {
    let mut ended = false;
    let paced = futures::stream::unfold((queue, pacer, &mut ended), |(queue, mut pacer, ended)| async {
        let Some(batch) = queue.recv().await else {
            *ended = true;
            return None;
        };
        pacer.wait(batch.puts.len(), batch.bytes, batch.last_time, batch.state.pass).await;
        Some((batch, (queue, pacer, ended)))
    });
    let told = async {
        // Without anybody who could tell, the run ends by itself only.
        if shutdown.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let acknowledged = paced.take_until(Box::pin(told)).map(|batch| put(sink, batch)).buffered(IN_FLIGHT_BATCHES);
    let mut report = Report::default();
    {
        let mut acknowledged = std::pin::pin!(acknowledged);
        while let Some(result) = acknowledged.next().await {
            let failed = |source| Error::Put { url: sink.url(), acknowledged: report.rows, source };
            let Sent { rows, bytes, state: after, rejects } = result.map_err(failed)?;
            report.rows += rows;
            report.bytes += bytes;
            report.batches += 1;
            progress.rows.store(report.rows, Ordering::Relaxed);
            progress.bytes.store(report.bytes, Ordering::Relaxed);
            progress.rejects.store(rejects, Ordering::Relaxed);
            ::metrics::counter!(metrics::EVENTS).increment(rows);
            ::metrics::counter!(metrics::BYTES).increment(bytes);
            *state = after;
            note(options, state)?;
        }
    }
    Ok((report, ended))
}

/// A batch that is acknowledged.
struct Sent {
    rows: u64,
    bytes: u64,
    state: State,
    rejects: u64,
}

/// What can be tried again is tried again by the adapter, which knows what it means.
async fn put(sink: &dyn Sink, batch: Batch) -> Result<Sent, headwater_stream::Error> {
    let Batch { puts, bytes, state, rejects, room, .. } = batch;
    let rows = puts.len() as u64;
    if rows > 0 {
        sink.put(puts).await?;
    }
    drop(room);
    Ok(Sent { rows, bytes: bytes as u64, state, rejects })
}

fn note(options: &Options, state: &State) -> Result<(), Error> {
    let path = &options.state_file;
    state.store(path).map_err(|source| Error::File { action: "note the progress in", path: path.clone(), source })
}
