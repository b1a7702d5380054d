//! One request for records, from its start to its meaning. It runs as a task of its own, so that nobody waits for it
//! who has other shards to read.

use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::{self, ShardIteratorType};
use aws_smithy_runtime_api::http::Response;
use aws_smithy_types::DateTime;
use bytes::Bytes;
use headwater_common::outcome::{Again, Effect};
use headwater_common::position::{ParseError, ShardId};
use headwater_common::timestamp::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::buffer::Record;
use super::cursor::{Answer, Ask};
use super::fan_out::Subscription;
use super::limits::{GET_RECORDS_BYTES_MAX, GET_RECORDS_MAX};
use super::plan::Begin;
use super::shards;
use super::stream::{Stream, count_throttle};
use crate::{Error, aws};

/// An answer with so many bytes may have been cut by its size, and is not taken for the newest there is. Some servers
/// say that nothing is behind an answer when there is.
const NEARLY_FULL: usize = GET_RECORDS_BYTES_MAX - 1024 * 1024;

/// How far in the service's future a time may lie without being a mistake.
const FUTURE_MAX: Duration = Duration::from_secs(10 * 60);

/// An answer with records, or with none.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) answer: Answer,
    /// Bytes of its records.
    pub(super) bytes: usize,
    /// When the request began.
    pub(super) asked: Instant,
    /// The subscription that goes on.
    pub(super) subscription: Option<Box<Subscription>>,
    /// The memory that the records are allowed to take.
    pub(super) room: OwnedSemaphorePermit,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The iterator, or the place of a subscription, is known no more: reading begins again behind the last record.
    Lost(Box<Error>),
    /// The subscription is over, as each one is after a while.
    Over,
    /// The time to begin with has not come yet.
    NotYet,
    /// It may work later.
    Later(Box<Error>),
    /// Somebody must do something.
    Fatal(Box<Error>),
}

/// What is asked of the service, as far as it decides what an error means.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) stream: &'a Stream,
    pub(super) shard: &'a ShardId,
    pub(super) operation: &'static str,
    pub(super) begin: Option<Begin>,
}

/// Asks for records by GetRecords.
pub(super) async fn poll(stream: &Stream, shard: &ShardId, ask: Ask) -> Result<Page, Trouble> {
    let mut room = stream.reserve(GET_RECORDS_BYTES_MAX).await;
    let iterator = match ask {
        Ask::Token(iterator) => iterator,
        Ask::Begin(begin) => iterator(stream, shard, begin).await?,
    };
    let (asked_at, asked) = (stream.clock.now(), Instant::now());
    let limit = i32::try_from(GET_RECORDS_MAX).expect("10,000 fits");
    let request = stream.client.get_records().shard_iterator(iterator).limit(limit);
    let output = match request.set_stream_arn(stream.given_arn()).send().await {
        Ok(output) => output,
        Err(error) => {
            let request = Request { stream, shard, operation: "GetRecords", begin: None };
            return Err(trouble(request, error).await);
        }
    };
    let closed = !output.child_shards().is_empty() && output.records.is_empty();
    let token = output.next_shard_iterator.filter(|_| !closed);
    let full = output.records.len() >= GET_RECORDS_MAX;
    let (records, bytes) = take_over(stream, "GetRecords", output.records)?;
    Stream::shrink(&mut room, bytes);
    let at_tip = output.millis_behind_latest == Some(0) && !full && bytes < NEARLY_FULL;
    let answer = Answer {
        records,
        token,
        behind: behind(output.millis_behind_latest.unwrap_or(0)),
        complete_until: at_tip.then_some(asked_at),
    };
    Ok(Page { answer, bytes, asked, subscription: None, room })
}

async fn iterator(stream: &Stream, shard: &ShardId, begin: Begin) -> Result<String, Trouble> {
    let request = stream.client.get_shard_iterator().shard_id(shard.as_str());
    let request = request.set_stream_arn(stream.given_arn()).set_stream_name(stream.given_name());
    let request = match begin {
        Begin::TrimHorizon => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
        Begin::AtSequence(sequence) => request
            .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
            .starting_sequence_number(sequence.to_string()),
        Begin::AtTime(time) => request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(date_time(time)),
    };
    let operation = "GetShardIterator";
    match request.send().await {
        Ok(output) => output.shard_iterator.ok_or_else(|| {
            Trouble::Later(unusable(stream, operation, Again::MayHelp, "the answer has no iterator".into()))
        }),
        Err(error) => Err(trouble(Request { stream, shard, operation, begin: Some(begin) }, error).await),
    }
}

/// Says what an error means for reading.
pub(super) async fn trouble<E>(request: Request<'_>, error: SdkError<E, Response>) -> Trouble
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Request { stream, shard, operation, begin } = request;
    let failure = aws::classify(&error);
    count_throttle(operation, &failure);
    let error = Box::new(stream.target.failed(operation, error));
    match (failure.code.as_str(), begin) {
        ("ExpiredIteratorException", _) | ("InvalidArgumentException", None) => Trouble::Lost(error),
        ("InvalidArgumentException", Some(Begin::AtSequence(sequence))) => {
            let (url, shard) = (stream.target.url(), shard.clone());
            Trouble::Fatal(Box::new(Error::ForeignPosition { url, shard, sequence, source: error }))
        }
        ("InvalidArgumentException", Some(Begin::AtTime(time))) if time.plus(FUTURE_MAX) > stream.clock.now() => {
            Trouble::NotYet
        }
        ("ResourceInUseException", _) => Trouble::Later(error),
        ("ResourceNotFoundException", _) => missing(request, error).await,
        _ if failure.again == Again::MayHelp => Trouble::Later(error),
        _ => Trouble::Fatal(error),
    }
}

/// Finds out what is missing: the stream, the shard, or nothing, and it was only not found.
async fn missing(request: Request<'_>, error: Box<Error>) -> Trouble {
    let Request { stream, shard, operation, .. } = request;
    match shards::list(stream).await {
        Ok(listed) if listed.iter().all(|listed| listed.id != *shard) => {
            Trouble::Fatal(Box::new(Error::NoSuchShard { url: stream.target.url(), shard: shard.clone() }))
        }
        // Then it is the consumer that was not found.
        Ok(_) if operation == super::fan_out::SUBSCRIBE => Trouble::Fatal(error),
        Ok(_) => Trouble::Later(error),
        Err(listing) if aws::classify(&listing).again == Again::MayHelp => Trouble::Later(error),
        Err(_) => Trouble::Fatal(error),
    }
}

/// Makes our records of the service's, and counts their bytes.
pub(super) fn take_over(
    stream: &Stream,
    operation: &'static str,
    given: Vec<types::Record>,
) -> Result<(Vec<Record>, usize), Trouble> {
    let mut bytes = 0;
    let mut records = Vec::with_capacity(given.len());
    for given in given {
        let record = record(given)
            .map_err(|error| Trouble::Fatal(unusable(stream, operation, Again::WillNotHelp, Box::new(error))))?;
        bytes += record.payload.len() + record.partition_key.len();
        records.push(record);
    }
    Ok((records, bytes))
}

fn record(given: types::Record) -> Result<Record, ParseError> {
    let arrived_at = given.approximate_arrival_timestamp.map(timestamp);
    Ok(Record {
        sequence: given.sequence_number.parse()?,
        arrived_at: arrived_at.unwrap_or_default(),
        partition_key: Bytes::from(given.partition_key.unwrap_or_default()),
        payload: Bytes::from(given.data.into_inner()),
    })
}

/// Returns how far an answer is behind.
pub(super) fn behind(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Returns a time as the service takes it: in milliseconds, rounded down.
pub(super) fn date_time(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.micros().div_euclid(1000))
}

fn timestamp(time: DateTime) -> Timestamp {
    Timestamp::from_micros(time.secs().saturating_mul(1_000_000).saturating_add(i64::from(time.subsec_nanos() / 1000)))
}

/// Returns the error of an answer that cannot be used.
fn unusable(
    stream: &Stream,
    operation: &'static str,
    again: Again,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> Box<Error> {
    let (url, effect) = (stream.target.url(), Effect::DidNotHappen);
    Box::new(Error::Service { url, operation, hint: None, effect, again, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_milliseconds_both_ways() {
        let time = Timestamp::from_micros(1_700_000_000_123_456);
        assert_eq!(timestamp(date_time(time)), Timestamp::from_micros(1_700_000_000_123_000));
        assert_eq!(timestamp(date_time(Timestamp::from_micros(-1))), Timestamp::from_micros(-1000));
    }

    #[test]
    fn a_record_keeps_its_number_its_key_and_its_bytes() {
        let number = "49543463076548007577105092703039560359975228518395019266";
        let given = types::Record::builder()
            .sequence_number(number)
            .partition_key("k")
            .approximate_arrival_timestamp(DateTime::from_millis(1500))
            .data(aws_sdk_kinesis::primitives::Blob::new(vec![0, 255]));
        let taken = record(given.build().unwrap()).unwrap();
        assert_eq!((taken.sequence.to_string().as_str(), taken.payload.as_ref()), (number, &[0, 255][..]));
        assert_eq!((taken.partition_key.as_ref(), taken.arrived_at.micros()), (&b"k"[..], 1_500_000));
    }
}
