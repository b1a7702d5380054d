use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::{Shard, StreamIdentity};

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// Events with their numbers, each of which arrived as many microseconds after the epoch.
fn read(numbers: &[u64], ended: bool, complete_until: Option<i64>) -> Read {
    let event = |number: &u64| Event {
        position: Position::of_record((*number).into()),
        arrived_at: time(i64::try_from(*number).unwrap()),
        partition_key: "k".into(),
        payload: "{}".into(),
    };
    let events = numbers.iter().map(event).collect();
    Read { events, behind_latest: Duration::ZERO, ended, complete_until: complete_until.map(time) }
}

/// A stream that answers as it is told.
#[derive(Debug)]
struct Scripted {
    reads: Mutex<VecDeque<Read>>,
    newest: Position,
}

#[async_trait]
impl Source for Scripted {
    fn url(&self) -> String {
        "scripted".to_owned()
    }

    fn identity(&self) -> StreamIdentity {
        StreamIdentity(self.url())
    }

    fn sequence_digits(&self) -> usize {
        20
    }

    fn is_gap_free(&self) -> bool {
        false
    }

    async fn shards(&self) -> Result<Vec<Shard>, Error> {
        Ok(Vec::new())
    }

    async fn resolve(&self, _: &ShardId, _: StartAt) -> Result<Position, Error> {
        Ok(self.newest)
    }

    async fn read(&self, _: &ShardId, _: Position, _: usize) -> Result<Read, Error> {
        Ok(self.reads.lock().unwrap().pop_front().expect("no more reads were expected"))
    }
}

async fn numbers_of(mut stretch: Stretch<'_>) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    loop {
        let events = stretch.next(100).await?;
        if events.is_empty() {
            return Ok(numbers);
        }
        numbers.extend(events.iter().map(|event| event.position.sequence.as_u64().unwrap()));
    }
}

fn scripted(newest: &str, reads: impl IntoIterator<Item = Read>) -> Scripted {
    Scripted { reads: Mutex::new(reads.into_iter().collect()), newest: at(newest) }
}

fn segment(from: &str, to: &str) -> Segment {
    Segment { shard: "0".into(), from: at(from), to: at(to) }
}

#[test]
fn a_position_says_which_bound_it_is() {
    let check = |text: &str, expect: Bound| assert_eq!(Bound::from(at(text)), expect, "{text}");
    check("7:1", Bound::At(at("7:1")));
    check("7:1@5", Bound::At(at("7:1")));
    check("0:0", Bound::At(Position::START));
    check("0:0@5", Bound::Before(time(5)));
    check("SHARD_END", Bound::End);
}

#[test]
fn a_bound_is_reached_by_an_event_by_the_time_or_by_the_end() {
    let check = |bound: &str, position: &str, expect: bool| {
        assert_eq!(Bound::from(at(bound)).is_reached_at(at(position)), expect, "{bound} at {position}");
    };
    check("0:0", "0:0", true);
    check("7:0", "7:0@3", true);
    check("7:0@9", "7:0", true);
    check("7:0", "6:9@9", false);
    check("0:0@5", "0:0", false);
    check("0:0@5", "7:0", false);
    check("0:0@5", "7:0@5", true);
    check("0:0@5", "SHARD_END", true);
    check("SHARD_END", "7:0@9", false);
    check("SHARD_END", "SHARD_END", true);
}

#[test]
fn what_lies_beyond_a_bound_is_not_taken() {
    let check = |bound: &str, mut given: Read, expect: Read, is_reached: bool| {
        assert_eq!(Bound::from(at(bound)).limit(&mut given), is_reached, "{bound}");
        assert_eq!(given, expect, "{bound}");
    };
    check("7:0", read(&[6, 7, 8], true, Some(9)), read(&[6, 7], false, None), true);
    check("7:0", read(&[6, 7], false, Some(9)), read(&[6, 7], false, Some(9)), true);
    check("7:0", read(&[8], false, None), read(&[], false, None), true);
    check("7:0", read(&[], false, Some(9)), read(&[], false, Some(9)), false);
    check("7:0", read(&[5], true, None), read(&[5], true, None), true);
    check("0:0@7", read(&[6, 7], true, None), read(&[6], false, None), true);
    check("0:0@7", read(&[6], false, Some(6)), read(&[6], false, Some(6)), false);
    check("0:0@7", read(&[6], false, Some(7)), read(&[6], false, Some(7)), true);
    check("SHARD_END", read(&[6], false, Some(7)), read(&[6], false, Some(7)), false);
    check("SHARD_END", read(&[], true, None), read(&[], true, None), true);
}

#[tokio::test]
async fn an_empty_read_is_not_the_end_of_a_stretch() {
    let nothing = || read(&[], false, None);
    let source =
        scripted("0:0@9", [nothing(), read(&[1], false, None), nothing(), nothing(), read(&[3, 4], false, None)]);
    let found = numbers_of(Stretch::of_segment(&source, &segment("0:0", "3:0"))).await;
    assert_eq!(found.unwrap(), [1, 3]);
    let source = scripted("0:0@9", [nothing(), read(&[1], false, Some(5)), read(&[2], false, Some(9))]);
    let found = numbers_of(Stretch::new(&source, "0".into(), Position::START, Bound::Before(time(9)))).await;
    assert_eq!(found.unwrap(), [1, 2]);
    let source = scripted("0:0@9", [nothing(), nothing(), nothing()]);
    let stretch = Stretch::new(&source, "0".into(), Position::START, Bound::End).giving_up_after(2);
    assert_eq!(numbers_of(stretch).await.unwrap(), [0_u64; 0]);
}

#[tokio::test]
async fn an_event_that_was_there_and_is_not_is_an_error() {
    let check = async |newest: &str, reads: Vec<Read>| {
        let source = scripted(newest, reads);
        let error = numbers_of(Stretch::of_segment(&source, &segment("1:0", "3:0"))).await.unwrap_err();
        assert!(matches!(error, Error::Ahead { .. }), "{error}");
        assert!(source.reads.lock().unwrap().is_empty(), "{newest}");
    };
    // The numbers say so, or the stream: by a later event, by the end, or by being complete again and again.
    check("2:0", vec![read(&[2], false, None), read(&[], false, None)]).await;
    check("0:0@9", vec![read(&[2, 4], false, None)]).await;
    check("0:0@9", vec![read(&[2], true, None)]).await;
    check("0:0@9", vec![read(&[], false, Some(9)); 5]).await;
}

#[tokio::test]
async fn segments_without_events_are_not_read() {
    let source = scripted("0:0@9", []);
    for (from, to) in [("1:0", "1:0@5"), ("1:0@5", "1:0@6"), ("1:0@5", "SHARD_END"), ("0:0", "0:0@5")] {
        let found = numbers_of(Stretch::of_segment(&source, &segment(from, to))).await;
        assert_eq!(found.unwrap(), [0_u64; 0], "{from} {to}");
    }
}
