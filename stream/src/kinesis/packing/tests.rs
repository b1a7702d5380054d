use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
// Not all of its prelude: that has a random generator of its own.
use proptest::prelude::{ProptestConfig, any, prop};
use proptest::proptest;
use rand::Rng;

use super::answers::{FAILED, REFUSED, THROTTLED};
use super::*;
use crate::kinesis::kpl;
use crate::kinesis::limits::{PUT_RECORDS_BYTES_MAX, PUT_RECORDS_MAX, RECORD_BYTES_DEFAULT};
use crate::kinesis::shard_map::OpenShard;

const PLAIN: Options =
    Options { record_bytes_max: RECORD_BYTES_DEFAULT, is_ordered: true, aggregate_bytes: None, is_paced: true };
const UNPACED: Options = Options { is_paced: false, ..PLAIN };
const AGGREGATED: Options = Options { aggregate_bytes: Some(51_200), ..UNPACED };

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Returns a map of so many equal shards, of the so-manieth generation.
fn map(shards: u32, generation: u32) -> ShardMap {
    let first = |index: u32| headwater_common::hash::first_of_slice(index, shards);
    let shard = |index: u32| OpenShard {
        id: format!("{generation}-{index}").as_str().into(),
        first: first(index),
        last: if index + 1 == shards { u128::MAX } else { first(index + 1) - 1 },
    };
    ShardMap::new((0..shards).map(shard).collect()).expect("there are shards")
}

fn packer(options: Options, shards: u32) -> Packer {
    Packer::new(options, map(shards, 0), 7, at(0))
}

fn put(key: &str, payload: impl Into<Vec<u8>>) -> Put {
    let payload: Vec<u8> = payload.into();
    Put { partition_key: key.to_owned().into(), payload: payload.into() }
}

fn sent(decision: Decision) -> Call {
    match decision {
        Decision::Send(call) => call,
        other => panic!("{other:?} instead of a call"),
    }
}

/// Returns the next call, and waits for its time.
fn next_call(packer: &mut Packer, now: &mut Duration) -> Call {
    loop {
        match packer.next(*now) {
            Decision::Send(call) => return call,
            Decision::WaitUntil(later) => *now = later,
            other => panic!("{other:?} instead of a call"),
        }
    }
}

fn stored(number: u64) -> Answer {
    Answer::Stored { shard: "0-0".into(), sequence: number.into() }
}

fn refused(code: &str) -> Answer {
    Answer::Refused { code: code.to_owned(), message: "not now".to_owned() }
}

/// Returns the events of a record, by key and payload.
fn events(record: Outgoing) -> Vec<(Bytes, Bytes)> {
    let (key, payload) = (record.partition_key, record.payload.into_bytes());
    match kpl::split(&payload) {
        Ok(users) => users.into_iter().map(|user| (user.partition_key, user.payload)).collect(),
        Err(_) => vec![(key, payload)],
    }
}

fn payloads(call: Call) -> Vec<String> {
    let all = call.records.into_iter().flat_map(events);
    all.map(|(_, payload)| String::from_utf8_lossy(&payload).into_owned()).collect()
}

#[test]
fn fm16_only_the_records_that_failed_are_sent_again() {
    let mut packer = packer(UNPACED, 1);
    packer.push(vec![put("a", "1"), put("b", "2"), put("c", "3")], 0);
    let call = sent(packer.next(at(0)));
    let id = call.id;
    assert_eq!(payloads(call), ["1", "2", "3"]);
    let settled = packer.answer(id, vec![stored(7), refused("InternalFailure"), stored(8)], at(1));
    assert_eq!(settled.iter().map(|settled| settled.ticket).collect::<Vec<_>>(), [0, 2]);
    let mut now = at(1);
    let call = next_call(&mut packer, &mut now);
    assert!(now > at(1), "it waits before it tries again");
    let id = call.id;
    assert_eq!(payloads(call), ["2"]);
    let settled = packer.answer(id, vec![stored(9)], now);
    assert_eq!(settled[0].outcome, Ok((ShardId::from("0-0"), Position::of_record(9.into()))));
    assert!(matches!(packer.next(now), Decision::Nothing));
}

#[test]
fn fm16_a_record_that_is_always_refused_is_rejected_with_the_last_reason() {
    let mut packer = packer(UNPACED, 1);
    packer.push(vec![put("a", "1"), put("a", "2")], 0);
    let mut now = at(0);
    for tries in 1..=REFUSED.tries_max {
        let call = next_call(&mut packer, &mut now);
        assert_eq!(payloads(Call { id: 0, records: call.records }), ["1"], "the second of the key waits");
        let code = if tries == REFUSED.tries_max { "InternalFailure" } else { THROTTLED };
        let settled = packer.answer(call.id, vec![refused(code)], now);
        assert_eq!(settled.len(), usize::from(tries == REFUSED.tries_max));
        if let Some(settled) = settled.first() {
            let reason = settled.outcome.clone().unwrap_err();
            assert_eq!(reason, "refused 12 times, at last with InternalFailure: not now");
        }
    }
    assert!(now <= at(30_000), "half a minute at the most: {now:?}");
    assert_eq!(payloads(sent(packer.next(now))), ["2"]);
    assert_eq!(packer.counts().throttles, 11);
}

#[test]
fn fm17_an_event_waits_for_the_one_before_it_of_its_key() {
    let mut packer = packer(UNPACED, 1);
    packer.push(vec![put("a", "a1"), put("b", "b1"), put("a", "a2"), put("b", "b2"), put("a", "a3")], 0);
    let first = sent(packer.next(at(0)));
    let id = first.id;
    assert_eq!(payloads(first), ["a1", "b1"]);
    assert!(matches!(packer.next(at(0)), Decision::WaitForAnswer));
    packer.answer(id, vec![refused(THROTTLED), stored(1)], at(1));
    // b goes on; a's second waits until its first is there.
    let second = sent(packer.next(at(1)));
    let id = second.id;
    assert_eq!(payloads(second), ["b2"]);
    packer.answer(id, vec![stored(2)], at(2));
    let mut now = at(2);
    let third = next_call(&mut packer, &mut now);
    let id = third.id;
    assert_eq!(payloads(third), ["a1"]);
    packer.answer(id, vec![stored(3)], now);
    assert_eq!(payloads(sent(packer.next(now))), ["a2"]);
}

#[test]
fn fm17_aggregates_on_their_way_have_no_key_in_common() {
    let mut packer = packer(Options { aggregate_bytes: Some(4_000), ..AGGREGATED }, 2);
    packer.push((0..200).map(|n| put(&format!("key {}", n % 10), format!("{n:0>100}"))).collect(), 0);
    let call = sent(packer.next(at(0)));
    let (mut keys, mut count) = (BTreeSet::new(), 0);
    for record in call.records {
        let events = events(record);
        count += events.len();
        let of_record: BTreeSet<Bytes> = events.into_iter().map(|(key, _)| key).collect();
        assert!(keys.is_disjoint(&of_record), "{of_record:?}");
        keys.extend(of_record);
    }
    assert!(count < 200 && keys.len() == 10, "{count} events of {} keys", keys.len());
    assert!(matches!(packer.next(at(0)), Decision::WaitForAnswer));
}

#[test]
fn without_order_events_of_a_key_go_together() {
    let mut packer = packer(Options { is_ordered: false, ..UNPACED }, 1);
    packer.push((0..1200).map(|n| put("a", n.to_string())).collect(), 0);
    let sizes: Vec<usize> = (0..3).map(|_| sent(packer.next(at(0))).records.len()).collect();
    assert_eq!(sizes, [PUT_RECORDS_MAX, PUT_RECORDS_MAX, 200]);
}

#[test]
fn fm18_what_no_answer_came_for_is_sent_again_with_the_same_bytes() {
    for options in [UNPACED, AGGREGATED] {
        let mut packer = packer(options, 1);
        packer.push(vec![put("a", "1"), put("b", "2"), put("a", "3")], 0);
        let bytes = |call: Call| call.records.into_iter().map(|r| r.payload.into_bytes()).collect::<Vec<_>>();
        let call = sent(packer.next(at(0)));
        let (id, first) = (call.id, bytes(call));
        packer.push(vec![put("b", "4")], 3);
        packer.call_failed(id, "", at(1)).unwrap();
        let mut now = at(1);
        assert_eq!(bytes(next_call(&mut packer, &mut now)), first);
        assert!(now > at(1), "it waits before it tries again");
    }
}

#[test]
fn fm18_calls_that_always_fail_end_the_run_and_reject_nothing() {
    let mut packer = packer(UNPACED, 1);
    packer.push(vec![put("a", "1")], 0);
    let mut now = at(0);
    let mut failures = 1;
    loop {
        let call = next_call(&mut packer, &mut now);
        if packer.call_failed(call.id, "", now).is_err() {
            break;
        }
        failures += 1;
    }
    assert_eq!(failures, FAILED.tries_max);
    assert!(now <= at(150_000), "{now:?}");
}

#[test]
fn fm19_what_waits_and_what_is_on_its_way_is_bounded() {
    let mut packer = packer(UNPACED, 1);
    let mut pushed = 0;
    while packer.has_room() {
        packer.push(vec![put(&format!("key {pushed}"), vec![b'x'; 100_000])], pushed);
        pushed += 1;
    }
    assert!(pushed * 100_000 < 9_000_000, "{pushed} events of 100 kB");
    // A service that never answers gets no more than so much.
    let mut bytes = 0;
    while let Decision::Send(call) = packer.next(at(0)) {
        bytes += call.records.into_iter().map(|record| record.payload.into_bytes().len()).sum::<usize>();
    }
    assert!(bytes <= IN_FLIGHT_BYTES_MAX && !packer.has_room());
    let mut small = Packer::new(UNPACED, map(1, 0), 7, at(0));
    let mut pushed = 0;
    while small.has_room() {
        small.push((0..1000).map(|n| put(&format!("{pushed} {n}"), "x")).collect(), pushed);
        pushed += 1000;
    }
    assert_eq!(pushed, 50_000);
    let calls = std::iter::from_fn(|| match small.next(at(0)) {
        Decision::Send(call) => Some(call.records.len()),
        _ => None,
    });
    assert_eq!(calls.collect::<Vec<_>>(), [PUT_RECORDS_MAX; CALLS_MAX]);
}

#[test]
fn a_large_record_goes_alone_and_is_not_overtaken_for_ever() {
    let mut packer = packer(Options { record_bytes_max: 10 << 20, ..UNPACED }, 2);
    let shard_of = |key: &str| map(2, 0).index_of(hash::of_partition_key(key.as_bytes()));
    let keys = |shard: usize| (0..).map(|n| format!("key {n}")).filter(move |key| shard_of(key) == shard);
    packer.push(keys(0).take(600).map(|key| put(&key, vec![0_u8; 60_000])).collect(), 0);
    // Much is on its way already.
    let mut calls: VecDeque<(u64, usize)> = VecDeque::new();
    for _ in 0..2 {
        let call = sent(packer.next(at(0)));
        calls.push_back((call.id, call.records.len()));
    }
    let large = keys(1).next().expect("there are keys for every shard");
    packer.push(vec![put(&large, vec![0_u8; (10 << 20) - large.len()])], 600);
    for step in 0..20 {
        match packer.next(at(step)) {
            Decision::Send(call) => {
                if call.records.iter().any(|record| record.partition_key == large.as_bytes()) {
                    assert_eq!(call.records.len(), 1, "it goes alone");
                    return;
                }
                calls.push_back((call.id, call.records.len()));
            }
            Decision::WaitForAnswer => {
                let (id, records) = calls.pop_front().expect("a call is on its way");
                packer.answer(id, vec![stored(step); records], at(step));
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the large record is never sent");
}

#[test]
fn keys_and_records_that_no_stream_takes_are_rejected_at_once() {
    let mut packer = packer(UNPACED, 1);
    let batch = vec![
        put("", "1"),
        Put { partition_key: Bytes::from_static(b"\xff"), payload: "2".into() },
        put(&"ü".repeat(257), "3"),
        put("k", vec![0_u8; RECORD_BYTES_DEFAULT]),
        put(&"ü".repeat(256), "5"),
        put("k", vec![0_u8; RECORD_BYTES_DEFAULT - 1]),
    ];
    let reasons: Vec<(u64, String)> =
        packer.push(batch, 10).into_iter().map(|s| (s.ticket, s.outcome.unwrap_err())).collect();
    let expected = ["empty", "not UTF-8", "257 characters", "1048577 bytes"];
    assert_eq!(reasons.len(), expected.len());
    for ((ticket, reason), (expected_ticket, part)) in reasons.iter().zip((10..).zip(expected)) {
        assert!(*ticket == expected_ticket && reason.contains(part), "{ticket}: {reason}");
    }
    assert_eq!(sent(packer.next(at(0))).records.len(), 2);
}

#[test]
fn aggregates_are_full_and_one_event_goes_as_it_is() {
    let mut packer = packer(AGGREGATED, 1);
    packer.push((0..10_000).map(|n| put(&format!("91b7584a2265b1f5-{n}-0"), vec![b'x'; 150])).collect(), 0);
    let call = sent(packer.next(at(0)));
    let sizes: Vec<usize> = call.records.into_iter().map(|r| 1 + r.payload.into_bytes().len()).collect();
    let (last, full) = sizes.split_last().unwrap();
    assert!(full.iter().all(|size| (51_000..=51_200).contains(size)), "{full:?}");
    assert!(*last <= 51_200 && full.len() < 40, "{last} and {} full ones", full.len());
    packer.push(vec![put("key", "alone")], 10_000);
    let call = sent(packer.next(at(0)));
    assert_eq!(call.records.len(), 1);
    assert_eq!(call.records[0].partition_key, "key");
    assert!(call.records[0].explicit_hash_key.is_none());
}

#[test]
fn an_aggregate_goes_to_the_begin_of_its_shard_and_so_does_every_event_in_it() {
    let mut packer = packer(AGGREGATED, 3);
    packer.push((0..600).map(|n| put(&n.to_string(), "x")).collect(), 0);
    let call = sent(packer.next(at(0)));
    let firsts: Vec<u128> = map(3, 0).shards().iter().map(|shard| shard.first).collect();
    let hash_keys: Vec<Option<u128>> = call.records.iter().map(|record| record.explicit_hash_key).collect();
    assert_eq!(hash_keys, firsts.into_iter().map(Some).collect::<Vec<_>>());
    for record in call.records {
        let shard = map(3, 0).index_of(record.explicit_hash_key.unwrap());
        for (key, _) in events(record) {
            assert_eq!(map(3, 0).index_of(hash::of_partition_key(&key)), shard);
        }
    }
}

#[test]
fn an_aggregate_whose_shard_is_gone_is_made_anew() {
    let mut packer = packer(AGGREGATED, 1);
    packer.push((0..100).map(|n| put(&n.to_string(), n.to_string())).collect(), 0);
    let call = sent(packer.next(at(0)));
    assert_eq!(call.records.len(), 1);
    packer.answer(call.id, vec![refused(THROTTLED)], at(1));
    assert!(packer.follow(map(2, 1), at(2)));
    assert!(!packer.follow(map(2, 1), at(3)));
    let mut now = at(3);
    let call = next_call(&mut packer, &mut now);
    assert_eq!(call.records.len(), 2);
    let mut all: Vec<u32> = payloads(call).iter().map(|payload| payload.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_record_elsewhere_than_foreseen_puts_the_map_in_doubt() {
    let mut packer = packer(UNPACED, 1);
    for (shard, is_doubt) in [("0-0", false), ("0-9", true), ("0-0", false)] {
        packer.push(vec![put("a", "1")], 0);
        let call = sent(packer.next(at(0)));
        packer.answer(call.id, vec![Answer::Stored { shard: shard.into(), sequence: 1.into() }], at(0));
        assert_eq!(packer.doubts_map(), is_doubt, "{shard}");
    }
    // What was sent by the map before says nothing of this one.
    packer.push(vec![put("a", "1")], 0);
    let call = sent(packer.next(at(0)));
    packer.follow(map(2, 1), at(0));
    packer.answer(call.id, vec![stored(1)], at(0));
    assert!(!packer.doubts_map());
}

#[test]
fn a_full_shard_does_not_hold_up_another() {
    let mut packer = packer(PLAIN, 2);
    packer.push((0..5800).map(|n| put(&n.to_string(), "x")).collect(), 0);
    let mut sent_to = [0, 0];
    let mut now = 0;
    let mut sent_at = BTreeMap::new();
    while sent_to.iter().sum::<usize>() < 5800 {
        match packer.next(at(now)) {
            Decision::Send(call) => {
                for record in &call.records {
                    sent_to[map(2, 0).index_of(hash::of_partition_key(&record.partition_key))] += 1;
                }
                *sent_at.entry(now).or_insert(0) += call.records.len();
                let records = call.records.len();
                packer.answer(call.id, vec![stored(1); records], at(now));
            }
            Decision::WaitUntil(later) => now = u64::try_from(later.as_millis()).unwrap().max(now + 1),
            other => panic!("{other:?}"),
        }
    }
    assert!(sent_to.iter().all(|count| *count > 2700), "{sent_to:?}");
    assert!((2100..=2200).contains(&now), "5,800 records at 1,000 a second and shard take two seconds more: {now}");
    assert!(sent_at.len() < 20, "in few calls: {sent_at:?}");
}

/// A service that stores, refuses and loses answers as it is told, in any order.
struct Service {
    random: SmallRng,
    /// What is stored, in the order of its storing: key and payload.
    log: Vec<(Bytes, Bytes)>,
    /// Calls that it has not looked at.
    calls: Vec<Call>,
    /// Payloads of calls whose answer was lost.
    in_doubt: BTreeSet<Bytes>,
    refusals: HashMap<Bytes, u32>,
}

impl Service {
    fn new(seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self { random, log: Vec::new(), calls: Vec::new(), in_doubt: BTreeSet::new(), refusals: HashMap::new() }
    }

    fn take(&mut self, call: Call) {
        assert!((1..=PUT_RECORDS_MAX).contains(&call.records.len()));
        self.calls.push(call);
        assert!(self.calls.len() <= CALLS_MAX);
    }

    /// Looks at a call; returns its number and the answer, unless that is lost.
    fn work(&mut self, map: &ShardMap) -> Option<(u64, Option<Vec<Answer>>)> {
        if self.calls.is_empty() {
            return None;
        }
        let chosen = self.random.random_range(0..self.calls.len());
        let Call { id, mut records } = self.calls.swap_remove(chosen);
        let is_lost = self.random.random_bool(0.1);
        let arrives = !is_lost || self.random.random_bool(0.5);
        let mut bytes = 0;
        let mut answers: Vec<Option<Answer>> = records.iter().map(|_| None).collect();
        // The records of a call are stored in any order.
        let mut order: Vec<usize> = (0..records.len()).collect();
        for left in (1..order.len()).rev() {
            order.swap(left, self.random.random_range(0..=left));
        }
        let mut places: Vec<Option<Outgoing>> = records.drain(..).map(Some).collect();
        for place in order {
            let Some(record) = places[place].take() else { continue };
            let hash_key = record.explicit_hash_key.unwrap_or_else(|| hash::of_partition_key(&record.partition_key));
            let key_bytes = record.partition_key.len();
            let events = events(record);
            bytes += key_bytes + events.iter().map(|(_, payload)| payload.len()).sum::<usize>();
            let refused = self.random.random_bool(0.2);
            answers[place] = Some(if refused || !arrives {
                events.iter().for_each(|(_, payload)| *self.refusals.entry(payload.clone()).or_default() += 1);
                let code = if self.random.random_bool(0.5) { THROTTLED } else { "InternalFailure" };
                Answer::Refused { code: code.to_owned(), message: String::new() }
            } else {
                let sequence = self.log.len() as u64;
                self.log.extend(events.iter().cloned());
                Answer::Stored { shard: map.shard_of(hash_key).id.clone(), sequence: sequence.into() }
            });
            if is_lost {
                self.in_doubt.extend(events.into_iter().map(|(_, payload)| payload));
            }
        }
        assert!(bytes <= PUT_RECORDS_BYTES_MAX);
        Some((id, (!is_lost).then(|| answers.into_iter().flatten().collect())))
    }
}

/// Sends events of a few keys through such a service, and returns what it has and what became of each event.
fn any_weather(seed: u64, options: Options, events: u64, keys: u64) -> (Service, HashMap<u64, bool>) {
    let mut service = Service::new(seed);
    let (mut shards, mut generation) = (2, 0);
    let mut actual = map(shards, generation);
    let mut packer = Packer::new(options, actual.clone(), seed, at(0));
    let mut settled = HashMap::new();
    let (mut pushed, mut now) = (0, Duration::ZERO);
    let mut note = |outcomes: Vec<Settled>| {
        for Settled { ticket, outcome } in outcomes {
            assert_eq!(settled.insert(ticket, outcome.is_ok()), None, "event {ticket} is settled once");
        }
    };
    loop {
        now += Duration::from_millis(service.random.random_range(0..20));
        if pushed < events && packer.has_room() && service.random.random_bool(0.3) {
            let batch = service.random.random_range(1..=40).min(events - pushed);
            let puts = (pushed..pushed + batch).map(|n| {
                let length = usize::try_from(n % 97).expect("small") * 11;
                put(&format!("key {}", (n * 7919) % keys), format!("{n:06}{}", "x".repeat(length)))
            });
            note(packer.push(puts.collect(), pushed));
            pushed += batch;
        }
        if service.random.random_bool(0.01) {
            shards = service.random.random_range(1..6);
            generation += 1;
            actual = map(shards, generation);
        }
        if packer.doubts_map() || service.random.random_bool(0.01) {
            packer.follow(actual.clone(), now);
        }
        let idle = match packer.next(now) {
            Decision::Send(call) => {
                service.take(call);
                continue;
            }
            Decision::WaitUntil(time) => Some(time),
            Decision::WaitForAnswer => {
                assert!(!service.calls.is_empty(), "seed {seed}: an answer to what?");
                None
            }
            Decision::Nothing if pushed == events => break,
            Decision::Nothing => None,
        };
        match service.work(&actual) {
            Some((id, Some(answers))) => note(packer.answer(id, answers, now)),
            Some((id, None)) => packer.call_failed(id, "", now).expect("not that often"),
            None => now = idle.unwrap_or(now).max(now),
        }
    }
    assert!(service.calls.is_empty());
    (service, settled)
}

fn check_any_weather(seed: u64, options: Options, keys: u64) {
    const EVENTS: u64 = 400;
    let (service, settled) = any_weather(seed, options, EVENTS, keys);
    let number = |payload: &Bytes| -> u64 { String::from_utf8_lossy(&payload[..6]).parse().expect("its number") };
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    let mut of_key: HashMap<Bytes, Vec<u64>> = HashMap::new();
    for (key, payload) in &service.log {
        *times.entry(number(payload)).or_default() += 1;
        of_key.entry(key.clone()).or_default().push(number(payload));
    }
    assert_eq!(settled.len() as u64, EVENTS, "seed {seed}: every event is settled");
    let in_doubt: BTreeSet<u64> = service.in_doubt.iter().map(number).collect();
    let refusals: BTreeMap<u64, u32> =
        service.refusals.iter().map(|(payload, count)| (number(payload), *count)).collect();
    for (ticket, is_stored) in settled {
        let count = times.get(&ticket).copied().unwrap_or(0);
        assert!(!is_stored || count > 0, "seed {seed}: event {ticket} is said to be there");
        assert!(count <= 1 || in_doubt.contains(&ticket), "seed {seed}: event {ticket} is there {count} times");
        assert!(is_stored || refusals[&ticket] >= REFUSED.tries_max, "seed {seed}: event {ticket} is given up early");
    }
    if options.is_ordered {
        for (key, numbers) in of_key {
            // An aggregate whose answer was lost is there twice as a whole.
            let mut seen = BTreeSet::new();
            let firsts: Vec<u64> = numbers.iter().copied().filter(|number| seen.insert(*number)).collect();
            seen.clear();
            let mut lasts: Vec<u64> = numbers.iter().rev().copied().filter(|number| seen.insert(*number)).collect();
            lasts.reverse();
            assert!(firsts.is_sorted() && lasts.is_sorted(), "seed {seed}: {key:?} is out of order: {numbers:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fm17_in_any_weather_nothing_is_lost_or_doubled_and_keys_keep_their_order(
        seed in any::<u64>(),
        keys in prop::sample::select(vec![1_u64, 3, 20, 400]),
        is_ordered in any::<bool>(),
        aggregate_bytes in prop::sample::select(vec![None, Some(900), Some(5_000), Some(51_200)]),
        is_paced in any::<bool>(),
    ) {
        let options = Options { record_bytes_max: RECORD_BYTES_DEFAULT, is_ordered, aggregate_bytes, is_paced };
        check_any_weather(seed, options, keys);
    }
}
