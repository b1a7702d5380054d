//! The writing side: batches in, PutRecords out, an answer to a batch once all of it is stored or rejected.
//!
//! One task owns the state ([`super::packing`]) and drives it; each call is a task of its own, at most
//! [`super::packing::CALLS_MAX`] at a time. What the service refuses for now is sent again; what it refuses for good
//! ends the sink, and every batch that is not answered then is in doubt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::operation::put_records::PutRecordsError;
use headwater_common::outcome::{Again, Classified};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::call;
use super::ledger::{Ledger, Reply};
use super::packing::{Answer, Call, Decision, Options, Packer};
use super::price::Billing;
use super::shard_map::{self, Freshness, ShardMap};
use super::summary::{patiently, until_active};
use super::tally::Counts;
use super::target::Target;
use crate::aws::{self, Failure};
use crate::{Accepted, Error, Put, Sink, StreamIdentity};

/// Batches that may wait for the sender.
const QUEUE_BATCHES: usize = 4;

/// How far apart the same trouble is told.
const WARN_APART: Duration = Duration::from_secs(60);

/// How records are made and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkOptions {
    /// The size of aggregates (KPL) in bytes, partition key included; without one every event is a record.
    pub aggregate_bytes: Option<usize>,
    /// Whether the order of each partition key is kept.
    pub is_ordered: bool,
    /// Whether each shard's pace is kept. Without it throttles are what slows the sender down.
    pub is_paced: bool,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self { aggregate_bytes: None, is_ordered: true, is_paced: true }
    }
}

struct Request {
    batch: Vec<Put>,
    reply: Reply,
}

/// Puts events into a Kinesis data stream. Batches put one after another keep the order of each partition key; several
/// may be put before the first is answered. Ends its sender when dropped; [`KinesisSink::close`] also waits for it.
///
/// Partition keys are text of 1 to 256 characters: an event with another one is rejected, and one that is larger than
/// the stream's records.
#[derive(Debug)]
pub struct KinesisSink {
    url: String,
    identity: StreamIdentity,
    billing: Billing,
    requests: mpsc::Sender<Request>,
    sender: Owned,
    counts: Arc<Mutex<Counts>>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl KinesisSink {
    /// Looks the stream up and starts the sender. `name` may be an ARN; `seed` is for the pauses between tries. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is no such stream, or the service does not tell.
    pub async fn start(client: Client, name: &str, options: SinkOptions, seed: u64) -> Result<Self, Error> {
        let target = Target::new(name);
        let mut random = SmallRng::seed_from_u64(seed);
        let summary = until_active(&client, &target, false, &mut random).await?;
        let map = patiently(&mut random, async || shard_map::look(&client, &target).await).await?;
        if summary.spreads_records && options.is_ordered {
            tracing::warn!(stream = %target.url(), "the stream spreads its records by itself: keys have no order");
        }
        let packing = Options {
            record_bytes_max: summary.record_bytes_max,
            is_ordered: options.is_ordered && !summary.spreads_records,
            aggregate_bytes: options.aggregate_bytes.map(|bytes| bytes.min(summary.record_bytes_max)),
            is_paced: options.is_paced,
        };
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (requests, queue) = mpsc::channel(QUEUE_BATCHES);
        let url = target.url();
        let sender = Sender {
            client,
            target,
            packer: Packer::new(packing, map, seed, Duration::ZERO),
            freshness: Freshness::new(Duration::ZERO),
            is_looking: false,
            ledger: Ledger::default(),
            tasks: JoinSet::new(),
            counts: Arc::clone(&counts),
            started: Instant::now(),
            warned_at: None,
        };
        let sender = Owned(tokio::spawn(sender.run(queue)));
        Ok(Self { url, identity: summary.identity, billing: summary.billing, requests, sender, counts })
    }

    /// Returns what tells this stream from others, also from one of the same name that was made anew.
    pub fn identity(&self) -> StreamIdentity {
        self.identity.clone()
    }

    /// Returns how the stream is billed.
    pub fn billing(&self) -> Billing {
        self.billing
    }

    /// Returns what was sent so far.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all that was put is settled, and ends the sender.
    ///
    /// # Errors
    /// When the sender panicked.
    pub async fn close(self) -> Result<Counts, Error> {
        let Self { requests, mut sender, counts, .. } = self;
        drop(requests);
        (&mut sender.0).await.map_err(|_| Error::WriterGone)?;
        let counts = *counts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(counts)
    }
}

#[async_trait]
impl Sink for KinesisSink {
    fn url(&self) -> String {
        self.url.clone()
    }

    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { batch, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::WriterGone)?
    }
}

/// What a task of the sender brings back.
enum Done {
    Call { id: u64, answer: Result<Vec<Answer>, Box<SdkError<PutRecordsError>>> },
    Look(Result<ShardMap, Error>),
}

struct Sender {
    client: Client,
    target: Target,
    packer: Packer,
    freshness: Freshness,
    is_looking: bool,
    ledger: Ledger,
    /// Calls on their way, and a look at the shards.
    tasks: JoinSet<Done>,
    counts: Arc<Mutex<Counts>>,
    started: Instant,
    warned_at: Option<Duration>,
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let ended = self.work(&mut queue).await;
        self.publish();
        if let Err(error) = ended {
            self.ledger.fail(error);
        }
        queue.close();
        while let Some(Request { reply, .. }) = queue.recv().await {
            // A caller that has gone does not want the answer.
            let _ = reply.send(Err(Error::Stopped));
        }
    }

    /// Sends until nobody can put any more and all is settled.
    async fn work(&mut self, queue: &mut mpsc::Receiver<Request>) -> Result<(), Error> {
        let mut is_open = true;
        loop {
            let timer = match self.packer.next(self.started.elapsed()) {
                Decision::Send(call) => {
                    self.send(call);
                    continue;
                }
                Decision::Nothing if !is_open => return Ok(()),
                Decision::WaitUntil(at) => Some(self.started + at),
                Decision::WaitForAnswer | Decision::Nothing => None,
            };
            self.publish();
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => self.take(done)?,
                request = queue.recv(), if is_open && self.packer.has_room() => match request {
                    Some(request) => self.accept(request),
                    None => is_open = false,
                },
                () = until(timer), if timer.is_some() => {}
                else => return Err(Error::WriterGone),
            }
        }
    }

    fn accept(&mut self, Request { batch, reply }: Request) {
        if batch.is_empty() {
            let _ = reply.send(Ok(Accepted { positions: Vec::new(), rejected: Vec::new() }));
            return;
        }
        let first = self.ledger.open(batch.len(), reply);
        let rejected = self.packer.push(batch, first);
        self.ledger.settle(rejected);
    }

    fn send(&mut self, Call { id, records }: Call) {
        let (client, target) = (self.client.clone(), self.target.clone());
        self.tasks.spawn(async move {
            let answer = call::put(&client, &target, records).await;
            Done::Call { id, answer: answer.map_err(Box::new) }
        });
        if self.freshness.is_due(self.started.elapsed()) && !self.is_looking {
            self.is_looking = true;
            let (client, target) = (self.client.clone(), self.target.clone());
            self.tasks.spawn(async move { Done::Look(shard_map::look(&client, &target).await) });
        }
    }

    fn take(&mut self, done: Result<Done, JoinError>) -> Result<(), Error> {
        let now = self.started.elapsed();
        match done.map_err(|_| Error::WriterGone)? {
            Done::Look(found) => self.looked(found, now),
            Done::Call { id, answer: Ok(answers) } => {
                let settled = self.packer.answer(id, answers, now);
                self.ledger.settle(settled);
            }
            Done::Call { id, answer: Err(error) } => self.failed(id, *error, now)?,
        }
        if self.packer.doubts_map() {
            self.freshness.doubt();
        }
        Ok(())
    }

    fn looked(&mut self, found: Result<ShardMap, Error>, now: Duration) {
        self.is_looking = false;
        let is_new = match found {
            Ok(map) => {
                let shards = map.shards().len();
                let is_new = self.packer.follow(map, now);
                if is_new {
                    tracing::info!(stream = %self.target.url(), shards, "the stream's shards have changed");
                }
                is_new
            }
            // The old map still serves: the service knows where a record goes.
            Err(error) => {
                self.warn(now, "the stream's shards cannot be listed", &error);
                false
            }
        };
        self.freshness.looked(now, is_new);
    }

    /// Takes the failure of a call: what was in it goes again, unless that cannot help.
    fn failed(&mut self, id: u64, error: SdkError<PutRecordsError>, now: Duration) -> Result<(), Error> {
        let Failure { code, .. } = aws::classify(&error);
        let error = self.target.failed("PutRecords", error);
        if error.again() == Again::WillNotHelp || self.packer.call_failed(id, &code, now).is_err() {
            return Err(error);
        }
        self.warn(now, "a call failed, and its records are sent again", &error);
        Ok(())
    }

    /// Tells the operator, not too often.
    fn warn(&mut self, now: Duration, what: &str, error: &Error) {
        if self.warned_at.is_some_and(|at| now.saturating_sub(at) < WARN_APART) {
            return;
        }
        self.warned_at = Some(now);
        let error = error as &(dyn std::error::Error + 'static);
        tracing::warn!(stream = %self.target.url(), error, "{what}");
    }

    fn publish(&self) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.packer.counts();
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
