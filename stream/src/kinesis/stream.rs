//! The stream as its readers share it: how to call it, what is known of it, and the memory that answers may take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::{StreamDescriptionSummary, StreamStatus};
use aws_smithy_runtime_api::http::Response;
use headwater_common::outcome::{Again, Effect};
use headwater_common::position::ShardId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::limits::{GET_RECORDS_BYTES_MAX, RETENTION_MAX};
use super::metrics;
use super::pace::LATER;
use super::plan::Facts;
use super::service_clock::ServiceClock;
use super::summary::identity;
use super::target::Target;
use crate::aws::{self, Failure};
use crate::{Error, StreamIdentity};

/// Bytes of records that all shards together may have fetched, or be fetching, without their having been taken.
const ROOM_BYTES: usize = 64 * 1024 * 1024;

/// The unit of that budget: a permit counts 32 bits.
const ROOM_UNIT: usize = 1024;

/// How far apart refusals are told.
const WARN_APART: Duration = Duration::from_secs(60);

/// Of a call that is tried again for ever every so many tries are told: about one a minute.
const TOLD_EVERY: u32 = 8;

/// How long a stream that is being made is waited for, and how far apart it is looked at.
const ACTIVE_WAIT: Duration = Duration::from_secs(120);
const LOOK_APART: Duration = Duration::from_secs(1);

/// How far apart the retention is looked up: it may be changed while we read.
const DESCRIBE_APART: Duration = Duration::from_secs(60);

/// Tries of a call that a user waits for.
const TRIES_AT_OPEN: u32 = 8;

/// What the readers of a stream share.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) client: Client,
    pub(super) target: Target,
    pub(super) clock: Arc<ServiceClock>,
    /// The stream's ARN.
    pub(super) arn: String,
    /// The ARN of the consumer whose subscriptions are read, where they are.
    pub(super) consumer: Option<String>,
    /// Whether the user named the stream by its ARN.
    by_arn: bool,
    /// What tells this stream from another of its name.
    pub(super) identity: StreamIdentity,
    retention_seconds: AtomicU64,
    described_at: Mutex<Instant>,
    room: Arc<Semaphore>,
    warned_at: Mutex<Option<Instant>>,
}

impl Stream {
    /// Looks the stream up, and waits until it is there when it is being made.
    pub(super) async fn open(client: Client, name: &str, clock: Arc<ServiceClock>) -> Result<Self, Error> {
        let target = Target::new(name);
        let seed = u64::try_from(clock.now().micros()).unwrap_or(0);
        let deadline = Instant::now() + ACTIVE_WAIT;
        let summary = loop {
            let summary = describe(&client, &target, TRIES_AT_OPEN, seed).await?;
            match summary.stream_status() {
                StreamStatus::Creating if Instant::now() < deadline => tokio::time::sleep(LOOK_APART).await,
                StreamStatus::Creating => return Err(not_ready(&target, "it is still being made", Again::MayHelp)),
                StreamStatus::Deleting => {
                    return Err(not_ready(&target, "it is being deleted", Again::WillNotHelp));
                }
                _ => break summary,
            }
        };
        Ok(Self {
            client,
            clock,
            arn: summary.stream_arn().to_owned(),
            consumer: None,
            by_arn: name.starts_with("arn:"),
            identity: identity(&summary),
            retention_seconds: AtomicU64::new(retention(&summary).as_secs()),
            described_at: Mutex::new(Instant::now()),
            room: Arc::new(Semaphore::new(ROOM_BYTES / ROOM_UNIT)),
            warned_at: Mutex::new(None),
            target,
        })
    }

    /// Looks the stream up again when that was long ago: its retention may have changed, and it may be another.
    pub(super) async fn look_again(&self) -> Result<(), Error> {
        {
            let mut described_at = self.described_at.lock().unwrap_or_else(PoisonError::into_inner);
            if described_at.elapsed() < DESCRIBE_APART {
                return Ok(());
            }
            *described_at = Instant::now();
        }
        let seed = u64::try_from(self.clock.now().micros()).unwrap_or(0);
        let summary = describe(&self.client, &self.target, u32::MAX, seed).await?;
        if identity(&summary) != self.identity {
            return Err(Error::Replaced { url: self.target.url(), identity: self.identity.0.clone() });
        }
        self.retention_seconds.store(retention(&summary).as_secs(), Ordering::Relaxed);
        Ok(())
    }

    /// Returns what decisions need to know.
    pub(super) fn facts(&self) -> Facts {
        let retention = Duration::from_secs(self.retention_seconds.load(Ordering::Relaxed));
        Facts { now: self.clock.now(), retention }
    }

    /// Returns the ARN for calls that do without a name, where the user gave it: another account's stream needs it.
    pub(super) fn given_arn(&self) -> Option<String> {
        self.by_arn.then(|| self.arn.clone())
    }

    /// Returns the name for calls that need a name or an ARN, where the user gave no ARN.
    pub(super) fn given_name(&self) -> Option<String> {
        (!self.by_arn).then(|| self.target.stream_name().to_owned())
    }

    /// Waits for room for so many bytes.
    pub(super) async fn reserve(&self, bytes: usize) -> OwnedSemaphorePermit {
        let units = u32::try_from(units(bytes)).expect("the budget counts 32 bits");
        Arc::clone(&self.room).acquire_many_owned(units).await.expect("the budget is never closed")
    }

    /// Gives back what is reserved beyond so many bytes.
    pub(super) fn shrink(room: &mut OwnedSemaphorePermit, bytes: usize) {
        let beyond = room.num_permits().saturating_sub(units(bytes));
        drop(room.split(beyond));
    }

    /// Returns true when an answer of any size has room.
    pub(super) fn has_room(&self) -> bool {
        self.room.available_permits() >= units(GET_RECORDS_BYTES_MAX)
    }

    /// Tells the operator, not too often, that reading goes on later.
    pub(super) fn warn(&self, shard: &ShardId, error: &Error) {
        {
            let mut warned_at = self.warned_at.lock().unwrap_or_else(PoisonError::into_inner);
            if warned_at.is_some_and(|at| at.elapsed() < WARN_APART) {
                return;
            }
            *warned_at = Some(Instant::now());
        }
        let error = error as &(dyn std::error::Error + 'static);
        tracing::warn!(stream = %self.target.url(), %shard, error, "reading is tried again later");
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(ROOM_UNIT).min(ROOM_BYTES / ROOM_UNIT)
}

fn retention(summary: &StreamDescriptionSummary) -> Duration {
    let hours = u64::try_from(summary.retention_period_hours()).unwrap_or(0);
    Duration::from_secs(hours.saturating_mul(3600)).min(RETENTION_MAX)
}

fn not_ready(target: &Target, what: &str, again: Again) -> Error {
    Error::Service {
        url: target.url(),
        operation: DESCRIBE,
        hint: None,
        effect: Effect::DidNotHappen,
        again,
        source: what.into(),
    }
}

const DESCRIBE: &str = "DescribeStreamSummary";

async fn describe(
    client: &Client,
    target: &Target,
    tries_max: u32,
    seed: u64,
) -> Result<StreamDescriptionSummary, Error> {
    let answer = persist(target, DESCRIBE, tries_max, seed, || target.describe(client).send()).await;
    let answer = answer.map_err(|error| {
        if aws::classify(&error).code != "ResourceNotFoundException" {
            return target.failed(DESCRIBE, error);
        }
        let region = client.config().region().map_or("the configured region", |region| region.as_ref());
        let name = target.stream_name();
        let hint = format!(
            "there is no stream {name} in {region}. Set AWS_REGION or AWS_PROFILE when it is elsewhere, or make it: \
             headwater produce FILE --to {url} --create --shards 1",
            url = target.url()
        );
        aws::service_error(&target.url(), DESCRIBE, Some(hint), error)
    })?;
    let summary = answer.stream_description_summary;
    summary.ok_or_else(|| not_ready(target, "the answer has no description", Again::WillNotHelp))
}

/// Calls until there is an answer, or an error that trying again does not help, or the tries are used up.
pub(super) async fn persist<T, E, F>(
    target: &Target,
    operation: &'static str,
    tries_max: u32,
    seed: u64,
    call: impl Fn() -> F + Send,
) -> Result<T, SdkError<E, Response>>
where
    F: Future<Output = Result<T, SdkError<E, Response>>> + Send,
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    T: Send,
{
    let mut random = SmallRng::seed_from_u64(seed);
    let mut tries: u32 = 1;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let failure = aws::classify(&error);
        count_throttle(operation, &failure);
        tries = tries.saturating_add(1);
        let pause = LATER.pause_before(tries, random.random());
        let Some(pause) = pause.filter(|_| tries <= tries_max && failure.again == Again::MayHelp) else {
            return Err(error);
        };
        if tries.is_multiple_of(TOLD_EVERY) {
            let error = &error as &(dyn std::error::Error + 'static);
            tracing::warn!(stream = %target.url(), operation, error, "the call is tried again");
        }
        tokio::time::sleep(pause).await;
    }
}

/// Counts a refusal that only says "too much".
pub(super) fn count_throttle(operation: &'static str, failure: &Failure) {
    const THROTTLED: [&str; 7] = [
        "KMSThrottlingException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ResourceInUseException",
        "Throttling",
        "ThrottlingException",
    ];
    if THROTTLED.contains(&failure.code.as_str()) {
        ::metrics::counter!(metrics::READ_THROTTLES, "operation" => operation).increment(1);
    }
}
