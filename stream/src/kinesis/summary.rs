//! What a stream is: asked for when a sink starts and when a stream is made.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{RecordDistributionStrategy, StreamDescriptionSummary, StreamMode, StreamStatus};
use headwater_common::outcome::{Again, Classified};
use headwater_common::retry::Policy;
use rand::Rng;
use rand::rngs::SmallRng;

use super::limits::{RECORD_BYTES_DEFAULT, RECORD_BYTES_MAX};
use super::price::Billing;
use super::target::Target;
use crate::{Error, StreamIdentity, aws};

/// How often a question that nobody answers is asked before the run gives up: half a minute at the most.
const ASKED: Policy =
    Policy { tries_max: 10, pause_first: Duration::from_millis(100), pause_max: Duration::from_secs(5) };

/// How long a stream that is being made is waited for. Ten seconds are usual.
const ACTIVE_MAX: Duration = Duration::from_secs(300);

/// How far apart it is looked at: first, and at most. All of an account may look twenty times a second
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_DescribeStreamSummary.html>).
const LOOKS_APART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a stream is.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    /// What tells it from one of the same name that was made earlier.
    pub(crate) identity: StreamIdentity,
    pub(crate) status: StreamStatus,
    /// The largest record in bytes, its partition key included.
    pub(crate) record_bytes_max: usize,
    pub(crate) billing: Billing,
    /// Whether it spreads its records over the shards by itself, whatever their keys.
    pub(crate) spreads_records: bool,
}

impl Summary {
    fn of(summary: &StreamDescriptionSummary) -> Self {
        let is_on_demand =
            summary.stream_mode_details().is_some_and(|details| *details.stream_mode() == StreamMode::OnDemand);
        let shards = u32::try_from(summary.open_shard_count()).unwrap_or(0);
        let record_kib = summary.max_record_size_in_kib().and_then(|kib| usize::try_from(kib).ok());
        Self {
            identity: identity(summary),
            status: summary.stream_status().clone(),
            record_bytes_max: record_kib.map_or(RECORD_BYTES_DEFAULT, |kib| kib * 1024).min(RECORD_BYTES_MAX),
            billing: if is_on_demand { Billing::OnDemand } else { Billing::Provisioned { shards } },
            spreads_records: summary.record_distribution_strategy() == Some(&RecordDistributionStrategy::Auto),
        }
    }
}

/// Returns what tells a stream from one of the same name that was made earlier; both sides of the adapter say the same.
pub(crate) fn identity(summary: &StreamDescriptionSummary) -> StreamIdentity {
    let created_at = summary.stream_creation_timestamp().to_millis().unwrap_or_default();
    StreamIdentity(format!("{}@{created_at}", summary.stream_arn()))
}

/// Describes a stream; `None` when there is none.
///
/// # Errors
/// When the service does not tell.
pub(crate) async fn describe(client: &Client, target: &Target) -> Result<Option<Summary>, Error> {
    match target.describe(client).send().await {
        Ok(answer) => Ok(answer.stream_description_summary().map(Summary::of)),
        Err(error) if aws::classify(&error).code == "ResourceNotFoundException" => Ok(None),
        Err(error) => Err(target.failed("DescribeStreamSummary", error)),
    }
}

/// Waits until a stream takes records, and describes it. One that was made just now may not be known everywhere yet.
///
/// # Errors
/// When there is none, when it is being deleted, or when it takes too long.
pub(crate) async fn until_active(
    client: &Client,
    target: &Target,
    is_new: bool,
    random: &mut SmallRng,
) -> Result<Summary, Error> {
    let began = tokio::time::Instant::now();
    let (mut apart, apart_max) = LOOKS_APART;
    loop {
        let found = patiently(random, async || describe(client, target).await).await?;
        let waited = began.elapsed();
        match found {
            Some(summary) if matches!(summary.status, StreamStatus::Active | StreamStatus::Updating) => {
                return Ok(summary);
            }
            Some(summary) if summary.status == StreamStatus::Deleting || waited > ACTIVE_MAX => {
                let status = summary.status.as_str().to_owned();
                return Err(Error::NotActive { url: target.url(), status, seconds: waited.as_secs() });
            }
            None if !is_new || waited > ACTIVE_MAX => return Err(Error::NoSuchStream { url: target.url() }),
            _ => tokio::time::sleep(apart).await,
        }
        apart = (apart * 2).min(apart_max);
    }
}

/// Asks again what may be answered later, for a while.
pub(crate) async fn patiently<T>(
    random: &mut SmallRng,
    mut ask: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let mut tries = 1;
    loop {
        let error = match ask().await {
            Err(error) if error.again() == Again::MayHelp => error,
            said => return said,
        };
        tries += 1;
        let Some(pause) = ASKED.pause_before(tries, random.random()) else { return Err(error) };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::primitives::DateTime;
    use aws_sdk_kinesis::types::StreamModeDetails;

    use super::*;

    fn described(mode: Option<StreamMode>, record_kib: Option<i32>) -> Summary {
        let mode = mode.map(|mode| StreamModeDetails::builder().stream_mode(mode).build().expect("a mode"));
        let summary = StreamDescriptionSummary::builder()
            .stream_name("orders")
            .stream_arn("arn:aws:kinesis:us-east-1:123456789012:stream/orders")
            .stream_status(StreamStatus::Active)
            .stream_creation_timestamp(DateTime::from_millis(1_700_000_000_123))
            .retention_period_hours(24)
            .set_enhanced_monitoring(Some(Vec::new()))
            .open_shard_count(3)
            .set_stream_mode_details(mode)
            .set_max_record_size_in_kib(record_kib);
        Summary::of(&summary.build().expect("a summary"))
    }

    #[test]
    fn a_stream_is_told_from_its_namesake_by_when_it_was_made() {
        let summary = described(None, None);
        assert_eq!(summary.identity.0, "arn:aws:kinesis:us-east-1:123456789012:stream/orders@1700000000123");
        assert_eq!(summary.record_bytes_max, 1 << 20);
        assert_eq!(summary.billing, Billing::Provisioned { shards: 3 });
    }

    #[test]
    fn large_records_and_on_demand_are_what_the_stream_says() {
        assert_eq!(described(None, Some(10_240)).record_bytes_max, 10 << 20);
        assert_eq!(described(Some(StreamMode::OnDemand), None).billing, Billing::OnDemand);
        assert_eq!(described(Some(StreamMode::Provisioned), None).billing, Billing::Provisioned { shards: 3 });
    }
}
