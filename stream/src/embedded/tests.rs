use super::*;

fn put(key: &str, payload: &str) -> Put {
    Put { partition_key: Bytes::copy_from_slice(key.as_bytes()), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn log(shards: u32) -> (tempfile::TempDir, Log) {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open_or_create(&folder.path().join("log"), Options::default(), Some(shards)).unwrap();
    (folder, log)
}

#[test]
fn numbers_have_no_gap_and_time_does_not_go_back() {
    let (_folder, log) = log(1);
    log.append(&[put("a", "1"), put("b", "2")], at(100)).unwrap();
    log.append(&[put("c", "3")], at(50)).unwrap();
    let read = log.read_blocking(0, Position::START, 1 << 20).unwrap();
    let seen: Vec<_> =
        read.events.iter().map(|e| (e.position.sequence.as_u64().unwrap(), e.arrived_at.micros())).collect();
    assert_eq!(seen, [(1, 100), (2, 100), (3, 100)]);
}

#[test]
fn fm11_a_position_that_retention_passed_is_an_error() {
    let (_folder, log) = log(1);
    for n in 0..10 {
        log.append(&[put("k", "0123456789")], at(n * 1_000_000)).unwrap();
    }
    let age = Retention { age_max: Some(Duration::from_secs(4)), bytes_max: None };
    assert_eq!(log.apply_retention(&age, at(9_000_000)).unwrap(), 5);
    assert!(matches!(log.read_blocking(0, Position::START, 100), Err(Error::Expired { .. })));
    let after = Position::of_record(5.into());
    assert_eq!(log.read_blocking(0, after, 1 << 20).unwrap().events.len(), 5);
    assert!(matches!(log.read_blocking(0, Position::of_record(11.into()), 9), Err(Error::Ahead { .. })));

    let size = Retention { age_max: None, bytes_max: Some(22) };
    assert_eq!(log.apply_retention(&size, at(9_000_000)).unwrap(), 3);
    assert_eq!(log.summary().unwrap()[0].records, 2);
}

#[test]
fn a_full_map_is_a_clear_error_and_nothing_of_the_batch_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open_or_create(folder.path(), Options { map_bytes: 1 << 20 }, None).unwrap();
    let batch: Vec<_> = (0..50).map(|n| put(&n.to_string(), &"x".repeat(1000))).collect();
    let mut accepted = 0;
    let error = loop {
        match log.append(&batch, at(1)) {
            Ok(places) => accepted += places.len() as u64,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::MapFull { .. }), "{error}");
    assert!(accepted > 0);
    assert_eq!(log.summary().unwrap()[0].newest, accepted);
    let mut after = Position::START;
    let mut read = 0;
    loop {
        let events = log.read_blocking(0, after, 1 << 20).unwrap().events;
        let Some(last) = events.last() else { break };
        after = last.position;
        read += events.len() as u64;
    }
    assert_eq!(read, accepted);
}

#[test]
fn a_record_that_is_too_large_is_refused_whole() {
    let (_folder, log) = log(1);
    let large = "x".repeat(limits::EVENT_BYTES_MAX + 1);
    assert!(matches!(log.append(&[put("a", "1"), put("b", &large)], at(1)), Err(Error::TooLarge { .. })));
    assert_eq!(log.summary().unwrap()[0].records, 0);
}

#[test]
fn a_time_is_found_by_its_first_record() {
    let (_folder, log) = log(1);
    for n in 1..=20 {
        log.append(&[put("k", "v")], at(n / 2 * 10)).unwrap();
    }
    for (time, after) in [(0, 0), (10, 1), (11, 3), (20, 3), (100, 19), (101, 20)] {
        let found = log.resolve_blocking(0, StartAt::At(at(time))).unwrap();
        assert_eq!(found, Position::of_record(after.into()), "at {time}");
    }
}

#[test]
fn a_log_is_no_other_log() {
    let (_one, first) = log(1);
    let (_two, second) = log(1);
    assert_ne!(first.identity(), second.identity());
    let again = Log::open_or_create(first.path(), Options::default(), Some(3));
    assert!(matches!(again, Err(Error::OtherShardCount { actual: 1, wanted: 3, .. })));
}

#[test]
fn what_is_not_a_log_is_said_to_be_damaged() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Log::open(folder.path(), Options::default()), Err(Error::NotFound { .. })));
    std::fs::write(folder.path().join("data.mdb"), vec![7; 8192]).unwrap();
    assert!(matches!(Log::open(folder.path(), Options::default()), Err(Error::Corrupt { .. })));
}
