//! The writing side: group commit, and retention after it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headwater_common::clock::Clock;
use headwater_common::outcome::{Classified, Effect};
use headwater_common::position::Position;
use headwater_common::timestamp::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{Log, blocking, check_put, shard_id};
use crate::{Accepted, Error, Put, Sink, Source};

/// Batches that may wait for the writer.
const QUEUE_BATCHES: usize = 16;

/// Bytes that one transaction takes at most when several batches share it.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long apart retention is looked at.
const RETENTION_PERIOD: Duration = Duration::from_secs(10);

/// When the disk is asked to make a batch durable. Either way nothing is acknowledged before it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After every batch.
    EveryBatch,
    /// So long after the first batch that waits; batches that come meanwhile share the transaction.
    Every(Duration),
}

/// How long records stay. Without a bound they stay for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records older than this may go.
    pub age_max: Option<Duration>,
    /// The oldest records go when the payloads exceed this, counted evenly over the shards.
    pub bytes_max: Option<u64>,
}

impl Retention {
    fn is_unbounded(&self) -> bool {
        self.age_max.is_none() && self.bytes_max.is_none()
    }
}

type Reply = oneshot::Sender<Result<Accepted, Error>>;

struct Request {
    batch: Vec<Put>,
    reply: Reply,
}

/// Puts records into the embedded log, batches in the order they were put. After a batch that failed it takes nothing
/// more: what came behind would stand before it. Ends its writer when dropped; [`LogSink::close`] also waits for it.
#[derive(Debug)]
pub struct LogSink {
    url: String,
    requests: mpsc::Sender<Request>,
    writer: JoinHandle<()>,
}

impl LogSink {
    /// Starts the writer. Must be called inside a tokio runtime.
    pub fn start(log: Log, policy: SyncPolicy, retention: Retention, clock: Arc<dyn Clock>) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE_BATCHES);
        let url = log.url();
        let writer = Writer { log, policy, retention, clock, retention_at: Timestamp::from_micros(i64::MIN) };
        Self { url, requests, writer: tokio::spawn(writer.run(queue)) }
    }

    /// Waits until all that was accepted is durable, and ends the writer.
    ///
    /// # Errors
    /// When the writer panicked.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.requests);
        self.writer.await.map_err(|_| Error::WriterGone)
    }
}

#[async_trait]
impl Sink for LogSink {
    fn url(&self) -> String {
        self.url.clone()
    }

    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, Error> {
        // What nobody could accept fails alone, before anything waits behind it.
        batch.iter().try_for_each(check_put)?;
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { batch, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::WriterGone)?
    }
}

/// A batch failed.
struct Failed;

struct Writer {
    log: Log,
    policy: SyncPolicy,
    retention: Retention,
    clock: Arc<dyn Clock>,
    retention_at: Timestamp,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        // A log that is full may have room after this.
        self.retain().await;
        while let Some(first) = queue.recv().await {
            let group = self.gather(first, &mut queue).await;
            if self.write(group).await.is_err() {
                break;
            }
            self.retain().await;
        }
        queue.close();
        while let Some(Request { reply, .. }) = queue.recv().await {
            // A caller that has gone does not want the answer.
            let _ = reply.send(Err(Error::Stopped));
        }
    }

    async fn gather(&self, first: Request, queue: &mut mpsc::Receiver<Request>) -> Vec<Request> {
        let SyncPolicy::Every(period) = self.policy else {
            return vec![first];
        };
        let mut bytes = byte_len(&first);
        let mut group = vec![first];
        let deadline = tokio::time::Instant::now() + period;
        while bytes < GROUP_BYTES_MAX {
            // Ends at the deadline, or when every sender is gone.
            let Ok(Some(next)) = tokio::time::timeout_at(deadline, queue.recv()).await else {
                break;
            };
            bytes += byte_len(&next);
            group.push(next);
        }
        group
    }

    /// Writes batches in one transaction and answers them.
    async fn write(&self, group: Vec<Request>) -> Result<(), Failed> {
        let lengths: Vec<usize> = group.iter().map(|request| request.batch.len()).collect();
        let (batches, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|r| (r.batch, r.reply)).unzip();
        let appended = self.append(batches.into_iter().flatten().collect()).await;
        let mut replies = replies.into_iter();
        match appended {
            Ok(Accepted { mut positions, .. }) => {
                for (length, reply) in lengths.into_iter().zip(replies) {
                    let rest = positions.split_off(length);
                    let positions = std::mem::replace(&mut positions, rest);
                    let _ = reply.send(Ok(Accepted { positions, rejected: Vec::new() }));
                }
                Ok(())
            }
            Err(error) => {
                let did_not_happen = error.effect() == Effect::DidNotHappen;
                if let Some(first) = replies.next() {
                    let _ = first.send(Err(error));
                }
                for reply in replies {
                    let _ = reply.send(Err(if did_not_happen { Error::Stopped } else { Error::WriterGone }));
                }
                Err(Failed)
            }
        }
    }

    async fn append(&self, batch: Vec<Put>) -> Result<Accepted, Error> {
        let (log, now) = (self.log.clone(), self.clock.now());
        let places = blocking(move || log.append(&batch, now)).await?;
        let ids: Vec<_> = (0..self.log.shard_count()).map(shard_id).collect();
        let position =
            |(shard, sequence): (u32, u64)| (ids[shard as usize].clone(), Position::of_record(sequence.into()));
        Ok(Accepted { positions: places.into_iter().map(position).collect(), rejected: Vec::new() })
    }

    async fn retain(&mut self) {
        let now = self.clock.now();
        if now < self.retention_at {
            return;
        }
        self.retention_at = now.plus(RETENTION_PERIOD);
        self.log.clear_stale_readers();
        if self.retention.is_unbounded() {
            return;
        }
        let (log, retention) = (self.log.clone(), self.retention);
        match blocking(move || log.apply_retention(&retention, now)).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "retention applied"),
            // Nothing is lost by keeping records longer; the next look tries again.
            Err(error) => tracing::warn!(%error, "retention not applied"),
        }
    }
}

fn byte_len(request: &Request) -> usize {
    request.batch.iter().map(|put| put.payload.len() + put.partition_key.len()).sum()
}
