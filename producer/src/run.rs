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
use crate::read_ahead::{Batch, Finished, Origins, Reader};
use crate::rejects::Rejects;
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
    /// Where bad rows go, and those that the stream does not take.
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
    /// Rows that cannot be events. They went to the reject file.
    pub bad: u64,
    /// Rows that the stream did not take, however often it was asked. They went to the reject file as well.
    pub refused: u64,
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
    /// Rows in the reject file.
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
    let rejects = Arc::new(Rejects::new(options.reject_file.clone()));
    let reader = Reader::new(options.clone(), state.clone(), &pacer, Arc::clone(&stop), Arc::clone(&rejects), batches);
    // A thread that is not waited for when the run ends early: it may be waiting for a pipe that says nothing.
    let (finish, reading) = oneshot::channel();
    std::thread::spawn(move || finish.send(reader.run()));
    let run = Run { options: &options, sink, progress, rejects: &rejects };
    let sent = run.send(&mut state, pacer, &mut queue, &mut shutdown).await;
    stop.store(true, Ordering::Relaxed);
    drop(queue);
    let (mut report, ended) = sent?;
    if ended {
        let Finished { bad, misfits } = reading.await.map_err(|_| Error::ReaderGone)??;
        report.bad = bad;
        report.misfits = misfits;
    }
    Ok(report)
}

/// What the sending side of a run works with.
struct Run<'a> {
    options: &'a Options,
    sink: &'a dyn Sink,
    progress: &'a Progress,
    rejects: &'a Rejects,
}

impl Run<'_> {
    /// Sends batches until there are no more (then the second value is true) or the run is to end: then what is on its
    /// way is waited for.
    async fn send(
        &self,
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
        // Every put hands over its batch the first time it is polled, and they are first polled in this order.
        let sent = paced.take_until(Box::pin(told)).map(|batch| put(self.sink, batch)).buffered(IN_FLIGHT_BATCHES);
        let mut report = Report::default();
        {
            let mut sent = std::pin::pin!(sent);
            while let Some(result) = sent.next().await {
                let failed = |source| Error::Put { url: self.sink.url(), acknowledged: report.rows, source };
                let sent = result.map_err(failed)?;
                self.acknowledged(sent, state, &mut report)?;
            }
        }
        Ok((report, ended))
    }

    /// Notes a batch that the stream has.
    fn acknowledged(&self, sent: Sent, state: &mut State, report: &mut Report) -> Result<(), Error> {
        let Sent { rows, bytes, state: after, bad, refused, origins } = sent;
        let mut bytes_refused = 0;
        for (row, reason) in &refused {
            let (input, reject) = origins.reject(*row, format!("the stream did not take it: {reason}"));
            self.rejects.write(&self.options.inputs[input].name(), &reject)?;
            bytes_refused += origins.bytes(*row) as u64;
        }
        // On disk before the row counts as done.
        self.rejects.flush()?;
        let (count, more_bad) = (refused.len() as u64, bad.saturating_sub(report.bad));
        let (rows, bytes) = (rows - count, bytes - bytes_refused);
        report.rows += rows;
        report.bytes += bytes;
        report.refused += count;
        report.bad = bad;
        report.batches += 1;
        let Progress { rows: rows_shown, bytes: bytes_shown, rejects: rejects_shown } = self.progress;
        rows_shown.store(report.rows, Ordering::Relaxed);
        bytes_shown.store(report.bytes, Ordering::Relaxed);
        rejects_shown.store(report.bad + report.refused, Ordering::Relaxed);
        ::metrics::counter!(metrics::EVENTS).increment(rows);
        ::metrics::counter!(metrics::BYTES).increment(bytes);
        ::metrics::counter!(metrics::REJECTED, "reason" => "unreadable").increment(more_bad);
        ::metrics::counter!(metrics::REJECTED, "reason" => "refused").increment(count);
        *state = after;
        note(self.options, state)
    }
}

/// A batch that is acknowledged.
struct Sent {
    rows: u64,
    bytes: u64,
    state: State,
    bad: u64,
    /// The rows that the stream did not take, by their places in the batch, with the reason.
    refused: Vec<(usize, String)>,
    origins: Origins,
}

/// What can be tried again is tried again by the adapter, which knows what it means.
async fn put(sink: &dyn Sink, batch: Batch) -> Result<Sent, headwater_stream::Error> {
    let Batch { puts, bytes, state, bad, origins, room, .. } = batch;
    let rows = puts.len() as u64;
    let refused = if rows > 0 { sink.put(puts).await?.rejected } else { Vec::new() };
    drop(room);
    Ok(Sent { rows, bytes: bytes as u64, state, bad, refused, origins })
}

fn note(options: &Options, state: &State) -> Result<(), Error> {
    let path = &options.state_file;
    state.store(path).map_err(|source| Error::File { action: "note the progress in", path: path.clone(), source })
}
