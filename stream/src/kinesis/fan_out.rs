//! Enhanced fan-out: the service pushes the records of a shard to a registered consumer, which has 2 MiB a second and
//! shard for itself.
//!
//! ```text
//! register --> ACTIVE   (once; the registration stays when we end, and is billed until it is deregistered)
//! subscribe --> event, event, ... --> over after five minutes, or lost --> subscribe again, at the number behind the
//!                                                                          last event, or behind the last record
//! ```
//!
//! The place of every reader is its own, so two processes that use one consumer lose nothing: each subscription ends
//! the other's, and both read on more slowly.

use std::time::Duration;

use aws_sdk_kinesis::operation::describe_stream_consumer::DescribeStreamConsumerError;
use aws_sdk_kinesis::operation::register_stream_consumer::RegisterStreamConsumerError;
use aws_sdk_kinesis::primitives::event_stream::EventReceiver;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    ConsumerStatus, ShardIteratorType, StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream,
};
use headwater_common::outcome::{Again, Effect};
use headwater_common::position::ShardId;
use headwater_common::timestamp::Timestamp;
use tokio::time::Instant;

use super::cursor::{Answer, Ask};
use super::fetch::{Page, Request, Trouble, behind, date_time, take_over, trouble};
use super::plan::Begin;
use super::stream::{Stream, persist};
use crate::Error;

/// The operation that begins a subscription.
pub(super) const SUBSCRIBE: &str = "SubscribeToShard";

/// How long a consumer that is being registered is waited for, and how far apart it is looked at.
const ACTIVE_WAIT: Duration = Duration::from_secs(120);
const LOOK_APART: Duration = Duration::from_millis(500);

/// Tries of a call that a user waits for.
const TRIES: u32 = 8;

/// How long an answer to a new subscription, or an event, may stay away. The service sends one every few seconds, also
/// when there is nothing to send.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long an event must be waited for to be fresh: one that came at once may have lain on its way for long.
const FRESH_WAIT: Duration = Duration::from_millis(100);

/// How long a fresh event may have been under way.
const TRANSIT_MAX: Duration = Duration::from_secs(2);

/// A subscription under way.
#[derive(Debug)]
pub(super) struct Subscription {
    events: EventReceiver<SubscribeToShardEventStream, SubscribeToShardEventStreamError>,
    freshness: Freshness,
}

/// How old the events of a subscription can be. They tell no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Freshness {
    /// When the subscription was asked for: all events are younger.
    since: Timestamp,
    /// Whether the last event was waited for.
    waited: bool,
}

/// Finds or registers the consumer of that name, waits until it may subscribe, and returns its ARN.
pub(super) async fn register(stream: &Stream, name: &str) -> Result<String, Error> {
    let deadline = Instant::now() + ACTIVE_WAIT;
    loop {
        match find(stream, name).await? {
            Some((arn, ConsumerStatus::Active)) => return Ok(arn),
            // It is made, or it is on its way out and will be made again.
            Some(_) => {}
            None => create(stream, name).await?,
        }
        if Instant::now() >= deadline {
            return Err(Error::Service {
                url: stream.target.url(),
                operation: "DescribeStreamConsumer",
                hint: None,
                effect: Effect::DidNotHappen,
                again: Again::MayHelp,
                source: format!("the consumer {name} did not become ACTIVE").into(),
            });
        }
        tokio::time::sleep(LOOK_APART).await;
    }
}

async fn find(stream: &Stream, name: &str) -> Result<Option<(String, ConsumerStatus)>, Error> {
    let operation = "DescribeStreamConsumer";
    let call = || stream.client.describe_stream_consumer().stream_arn(&stream.arn).consumer_name(name).send();
    match persist(&stream.target, operation, TRIES, 0, call).await {
        Ok(output) => Ok(output.consumer_description.map(|found| (found.consumer_arn, found.consumer_status))),
        Err(error)
            if error.as_service_error().is_some_and(DescribeStreamConsumerError::is_resource_not_found_exception) =>
        {
            Ok(None)
        }
        Err(error) => Err(stream.target.failed(operation, error)),
    }
}

async fn create(stream: &Stream, name: &str) -> Result<(), Error> {
    let operation = "RegisterStreamConsumer";
    let call = || stream.client.register_stream_consumer().stream_arn(&stream.arn).consumer_name(name).send();
    match persist(&stream.target, operation, TRIES, 0, call).await {
        Ok(_) => {
            tracing::info!(stream = %stream.target.url(), consumer = name, "consumer registered");
            Ok(())
        }
        // Another worker was faster.
        Err(error)
            if error.as_service_error().is_some_and(RegisterStreamConsumerError::is_resource_in_use_exception) =>
        {
            Ok(())
        }
        Err(error) => Err(stream.target.failed(operation, error)),
    }
}

/// Subscribes to a shard.
pub(super) async fn subscribe(
    stream: &Stream,
    consumer: &str,
    shard: &ShardId,
    ask: &Ask,
) -> Result<Box<Subscription>, Trouble> {
    let begin = match ask {
        Ask::Begin(begin) => Some(*begin),
        Ask::Token(_) => None,
    };
    let freshness = Freshness { since: stream.clock.now(), waited: false };
    let call = stream.client.subscribe_to_shard().consumer_arn(consumer).shard_id(shard.as_str());
    let call = call.starting_position(starting_position(ask)).send();
    match tokio::time::timeout(SILENCE_MAX, call).await {
        Ok(Ok(output)) => Ok(Box::new(Subscription { events: output.event_stream, freshness })),
        Ok(Err(error)) => Err(trouble(Request { stream, shard, operation: SUBSCRIBE, begin }, error).await),
        Err(_) => Err(Trouble::Later(broken(stream, "the subscription fell silent".into()))),
    }
}

fn starting_position(ask: &Ask) -> StartingPosition {
    let builder = StartingPosition::builder();
    let builder = match ask {
        Ask::Begin(Begin::TrimHorizon) => builder.r#type(ShardIteratorType::TrimHorizon),
        Ask::Begin(Begin::AtSequence(sequence)) => {
            builder.r#type(ShardIteratorType::AtSequenceNumber).sequence_number(sequence.to_string())
        }
        Ask::Begin(Begin::AtTime(time)) => builder.r#type(ShardIteratorType::AtTimestamp).timestamp(date_time(*time)),
        // The last record again, or the next: what was read is left out either way.
        Ask::Token(number) => builder.r#type(ShardIteratorType::AtSequenceNumber).sequence_number(number),
    };
    builder.build().expect("it has a type")
}

/// Waits for the next event of a subscription.
pub(super) async fn receive(stream: &Stream, mut subscription: Box<Subscription>) -> Result<Page, Trouble> {
    let (asked_at, asked) = (stream.clock.now(), Instant::now());
    let event = loop {
        match tokio::time::timeout(SILENCE_MAX, subscription.events.recv()).await {
            Ok(Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)))) => break event,
            // Something that a later version of the service sends.
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Err(Trouble::Over),
            Ok(Err(error)) => return Err(Trouble::Later(broken(stream, Box::new(error)))),
            Err(_) => return Err(Trouble::Later(broken(stream, "the subscription fell silent".into()))),
        }
    };
    let fresh_since = subscription.freshness.came(asked_at, asked.elapsed());
    // An event with records may be one of many, whatever it says of what is behind it.
    let at_tip = event.millis_behind_latest == 0 && event.records.is_empty();
    let complete_until = at_tip.then_some(fresh_since);
    let token = way_on(&event);
    let millis_behind = event.millis_behind_latest;
    let (records, bytes) = take_over(stream, SUBSCRIBE, event.records)?;
    // What is pushed is here before there is room for it: one event a shard, until the reader takes some.
    let room = stream.reserve(bytes).await;
    let subscription = token.is_some().then_some(subscription);
    let answer = Answer { records, token, behind: behind(millis_behind), complete_until };
    Ok(Page { answer, bytes, asked, subscription, room })
}

/// Returns the number to go on with; `None` at the shard's end. Some servers name the children before the end.
fn way_on(event: &SubscribeToShardEvent) -> Option<String> {
    let closed = !event.child_shards().is_empty() && event.records.is_empty();
    Some(event.continuation_sequence_number.clone()).filter(|number| !number.is_empty() && !closed)
}

impl Freshness {
    /// Returns a time that the event is younger than which came now, after having been waited for since `asked_at`. One
    /// that was waited for, like the one before it, has not been under way for long.
    fn came(&mut self, asked_at: Timestamp, waited: Duration) -> Timestamp {
        let waited = waited >= FRESH_WAIT;
        let is_fresh = std::mem::replace(&mut self.waited, waited) && waited;
        if is_fresh { self.since.max(asked_at.minus(TRANSIT_MAX)) } else { self.since }
    }
}

fn broken(stream: &Stream, source: Box<dyn std::error::Error + Send + Sync>) -> Box<Error> {
    let (url, effect) = (stream.target.url(), Effect::Unknown);
    Box::new(Error::Service { url, operation: SUBSCRIBE, hint: None, effect, again: Again::MayHelp, source })
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::primitives::Blob;
    use aws_sdk_kinesis::types::{ChildShard, Record};

    use super::*;

    #[test]
    fn fm05_a_subscription_ends_with_the_shard_and_not_before_its_last_records() {
        let child = ChildShard::builder().shard_id("child").parent_shards("parent").build();
        let child = child.expect("a child");
        let record = Record::builder().sequence_number("7").data(Blob::new([1_u8])).build().expect("a record");
        let check = |records: &[Record], children: &[ChildShard], number: &str, expect: Option<&str>| {
            let event = SubscribeToShardEvent::builder()
                .set_records(Some(records.to_vec()))
                .set_child_shards(Some(children.to_vec()))
                .continuation_sequence_number(number)
                .millis_behind_latest(0);
            let event = event.build().expect("an event");
            assert_eq!(way_on(&event).as_deref(), expect, "{number} {}", children.len());
        };
        check(&[], &[], "8", Some("8"));
        check(std::slice::from_ref(&record), &[], "8", Some("8"));
        check(std::slice::from_ref(&record), std::slice::from_ref(&child), "8", Some("8"));
        check(&[], std::slice::from_ref(&child), "8", None);
        check(&[record], &[child], "", None);
    }

    #[test]
    fn an_event_that_may_have_waited_for_us_is_as_old_as_its_subscription() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let mut freshness = Freshness { since: at(100), waited: false };
        let mut check = |asked: i64, waited_millis: u64, expect: i64| {
            let since = freshness.came(at(asked), Duration::from_millis(waited_millis));
            assert_eq!(since, at(expect), "asked at {asked}, waited {waited_millis} ms");
        };
        check(101, 5000, 100);
        check(106, 5000, 104);
        check(111, 0, 100);
        check(111, 5000, 100);
        check(116, 5000, 114);
        check(101, 5000, 100);
    }

    #[test]
    fn a_subscription_begins_by_the_same_rules_as_an_iterator() {
        let check = |ask: Ask, kind: ShardIteratorType, number: Option<&str>, millis: Option<i64>| {
            let position = starting_position(&ask);
            assert_eq!((position.r#type(), position.sequence_number()), (&kind, number));
            assert_eq!(position.timestamp().map(|time| time.to_millis().expect("in range")), millis);
        };
        check(Ask::Begin(Begin::TrimHorizon), ShardIteratorType::TrimHorizon, None, None);
        let at = Ask::Begin(Begin::AtSequence(7.into()));
        check(at, ShardIteratorType::AtSequenceNumber, Some("7"), None);
        let time = Ask::Begin(Begin::AtTime(Timestamp::from_micros(5_000_000)));
        check(time, ShardIteratorType::AtTimestamp, None, Some(5000));
        check(Ask::Token("8".to_owned()), ShardIteratorType::AtSequenceNumber, Some("8"), None);
    }
}
