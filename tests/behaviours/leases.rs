//! Workers that share the lanes of a table: what leases promise, and what many processes make of one stream.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use harness::faulty_http::FaultyHttp;
use harness::lease_contract::{self, row};
use harness::moto::{self, Moto};
use harness::process::{Running, Workplace};
use headwater_consumer::lease::LeaseStore;
use headwater_consumer::lease::dynamo::{DynamoLeases, Opening};
use headwater_consumer::lease::row::Row;
use headwater_consumer::lease::store::{MemoryLeases, Outcome};
use headwater_lake::generation;
use headwater_lake::layout::Output;
use headwater_lake::reading;
use headwater_lake::store::LakeStore;
use serde_json::Value;

use crate::PROGRAM;

const SEED: u64 = 20_261_121;
const LANES: usize = 6;
const ROWS: u64 = 30_000;
/// Rows that are in the stream before the workers begin: a worker refuses a log that is not there.
const FIRST_ROWS: &str = "2000";

/// How often something is looked at that is waited for, and how often at most: a minute.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_MAX: usize = 600;

const CONSUME: [&str; 17] = [
    "consume",
    "--from",
    "log:stream",
    "--lake",
    "lake",
    "--table",
    "t",
    "--lanes",
    "6",
    "--lease-duration",
    "3s",
    "--flush-rows",
    "500",
    "--flush-age",
    "500ms",
    "--flush-idle",
    "100ms",
];

fn opening(table: &str, create: bool) -> Opening {
    Opening { table: table.to_owned(), create, duration: Duration::from_secs(3), seed: SEED }
}

fn moto() -> &'static Moto {
    moto::shared(env!("CARGO_TARGET_TMPDIR"))
}

#[tokio::test]
async fn every_lease_table_keeps_its_promises() {
    lease_contract::suite(async |_| Arc::new(MemoryLeases::new()) as Arc<dyn LeaseStore>).await;
    lease_contract::suite(async |name| {
        let opening = opening(&format!("contract-{name}"), true);
        let leases = DynamoLeases::open_with(moto().dynamodb(), opening).await.unwrap();
        Arc::new(leases) as Arc<dyn LeaseStore>
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_gets_lost_is_looked_up() {
    let http = FaultyHttp::new(SEED, 0.0);
    let client = moto().dynamodb_through(http.clone());
    let leases = DynamoLeases::open_with(client, opening("faults", true)).await.unwrap();
    let mut at = row(0, "one");
    leases.create(&at).await.unwrap();
    http.change_share(0.3);
    let mut went = 0;
    while went < 200 {
        let next = Row { claim: at.claim.renewed(), ..at.clone() };
        match leases.update(&at.claim, &next).await {
            Ok(Outcome::Done) => {
                (at, went) = (next, went + 1);
            }
            // Nobody else writes.
            Ok(Outcome::Lost(found)) => panic!("{found:?} instead of {at:?}"),
            Err(_) => loop {
                if let Ok(found) = leases.read(std::slice::from_ref(&at.key)).await {
                    let [found]: [Row; 1] = found.try_into().expect("the row is there");
                    assert!(found == at || found == next, "{found:?}");
                    at = found;
                    break;
                }
            },
        }
    }
    http.assert_all_happened(&["UpdateItem"]);
}

#[tokio::test]
async fn a_lease_table_is_made_only_when_that_is_asked_for() {
    let client = moto().dynamodb();
    let refused = DynamoLeases::open_with(client.clone(), opening("not-made", false)).await.unwrap_err();
    assert!(refused.to_string().contains("--create-lease-table"), "{refused}");
    for _ in 0..2 {
        DynamoLeases::open_with(client.clone(), opening("made", true)).await.unwrap();
    }
    let table = client.describe_table().table_name("made").send().await.unwrap().table.unwrap();
    let billing = table.billing_mode_summary().and_then(|billing| billing.billing_mode()).unwrap().as_str().to_owned();
    assert_eq!(billing, "PAY_PER_REQUEST");
}

#[test]
fn fm12_leases_of_another_version_are_refused() {
    let place = workplace();
    place.write("in.csv", "n\n1\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (table, strange) in [("another-version", "v2/t/g00001/0of6"), ("another-application", "shardId-000000000000")] {
        runtime.block_on(async {
            DynamoLeases::open_with(moto().dynamodb(), opening(table, true)).await.unwrap();
            let item = moto().dynamodb().put_item().table_name(table);
            item.item("leaseKey", AttributeValue::S(strange.into())).send().await.unwrap();
        });
        let said = place.run(&[&CONSUME[..], &["--lease-table", table]].concat());
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(strange), "it names the row: {}", said.err);
        let rows = runtime.block_on(rows_of(&place.path("lake")));
        assert_eq!(rows, 0, "nothing was read: another version may have the lanes");
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let place = workplace();
    let check = |words: &[&str], code: i32, hint: &str| {
        let said = place.run(&[&["consume", "--from", "log:stream"][..], words].concat());
        assert_eq!(said.code, Some(code), "{words:?}: {}", said.err);
        assert!(said.err.contains(hint), "{words:?}: {}", said.err);
    };
    check(&["--lease-table", "x", "--archive"], 2, "--archive-only");
    check(&["--create-lease-table"], 2, "--lease-table");
    check(&["--lease-table", "x", "--lease-duration", "100ms"], 2, "--lease-duration");
    check(&["--lease-table", "x", "--worker-id", "two words"], 2, "--worker-id");
    check(&["--lease-table", "x", "--max-leases", "0"], 2, "--max-leases");
    place.write("in.csv", "n\n1\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream"]);
    check(&["--lease-table", "no-such-table"], 1, "--create-lease-table");
}

#[test]
fn workers_that_catch_up_end_by_themselves() {
    let place = workplace();
    let rows: String = (0..1_000).map(|n| format!("{n}\n")).collect();
    place.write("in.csv", format!("n\n{rows}"));
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--shards", "12"]);
    let words = ["--lease-table", "catching-up", "--create-lease-table", "--until-caught-up"];
    place.ok(&[&CONSUME[..], &words].concat());
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), 1_000);
    // What was released can be taken at once, and there is nothing more to read.
    place.ok(&[&CONSUME[..], &words].concat());
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains("1000 events read"), "{report}");
}

#[test]
fn fm01_fm13_workers_share_the_lanes_and_die_and_join_and_leave() {
    let place = workplace();
    let rows: String = (0..ROWS).map(|n| format!("{n}\n")).collect();
    place.write("in.csv", format!("n\n{rows}"));
    let produce = ["produce", "in.csv", "--to", "log:stream", "--shards", "12"];
    place.ok(&[&produce[..], &["--limit", FIRST_ROWS]].concat());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let start = |name: &str| {
        let words = ["--lease-table", "sharing", "--create-lease-table", "--worker-id", name];
        Running::start(place.command(&[&CONSUME[..], &words].concat()))
    };
    let until_owned = |expected: &[(&str, usize)]| {
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        runtime.block_on(async {
            until(async || {
                let found = owners("sharing").await;
                (found == expected).then_some(()).ok_or(format!("{found:?} instead of {expected:?}"))
            })
            .await;
        });
    };
    let mut one = start("one");
    let (two, three) = (start("two"), start("three"));
    until_owned(&[("one", 2), ("two", 2), ("three", 2)]);
    let shown = place.ok(&["status", "--from", "log:stream", "--lake", "lake", "--lease-table", "sharing"]);
    assert_eq!(shown.lines().filter(|line| line.contains("worker ")).count(), LANES, "{shown}");
    let producer = Running::start(place.command(&[&produce[..], &["--resume", "--rate", "2000/s"]].concat()));
    one.kill();
    until_owned(&[("two", 3), ("three", 3)]);
    let four = start("four");
    until_owned(&[("two", 2), ("three", 2), ("four", 2)]);
    two.signal("TERM");
    two.succeed();
    until_owned(&[("three", 3), ("four", 3)]);
    producer.succeed();
    let lake = place.path("lake");
    runtime.block_on(until(async || {
        let found = rows_of(&lake).await;
        (found >= ROWS).then_some(()).ok_or(format!("{found} of {ROWS} rows"))
    }));
    for worker in [three, four] {
        worker.signal("TERM");
        worker.succeed();
    }
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), ROWS, "nothing comes twice on a hand-over");
    assert_eq!(place.value("SELECT count(DISTINCT n) FROM t", "lake"), ROWS);
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains(&format!("{ROWS} events read")), "{report}");
    let words = ["status", "--from", "log:stream", "--lake", "lake", "--lease-table", "sharing", "--output", "json"];
    let status: Value = serde_json::from_str(&place.ok(&words)).unwrap();
    for lane in status["tables"][0]["lanes"].as_array().unwrap() {
        assert!(lane["lease"]["owner"].is_null(), "it was released: {lane}");
        assert_eq!(lane["lease"]["checkpoint"], lane["epoch"], "{lane}");
        assert_eq!(lane["events_behind"], 0, "{lane}");
    }
}

#[test]
fn fm14_workers_without_a_lane_wait_for_one() {
    let place = workplace();
    place.write("in.csv", "n\n1\n2\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--limit", "1"]);
    let start = |name: &str| {
        let words = ["--lease-table", "idle", "--create-lease-table", "--worker-id", name, "--lanes", "1"];
        let consume: Vec<_> = CONSUME.into_iter().filter(|word| !["--lanes", "6"].contains(word)).collect();
        Running::start(place.command(&[&consume[..], &words].concat()))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let until_owner = |name: &str| {
        let expected = BTreeMap::from([(name.to_owned(), 1)]);
        runtime.block_on(until(async || {
            let found = owners("idle").await;
            (found == expected).then_some(()).ok_or(format!("{found:?} instead of {expected:?}"))
        }));
    };
    let mut busy = start("busy");
    until_owner("busy");
    let idle = start("idle");
    idle.line_with("sharing the lanes");
    busy.kill();
    until_owner("idle");
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--resume"]);
    let lake = place.path("lake");
    runtime.block_on(until(async || {
        let found = rows_of(&lake).await;
        (found == 2).then_some(()).ok_or(format!("{found} rows"))
    }));
    idle.signal("TERM");
    idle.succeed();
}

#[test]
fn n4_workers_go_over_to_other_lanes_together_and_wait_for_no_dead_one() {
    const ROWS: u64 = 8_000;
    let place = workplace();
    let rows: String = (0..ROWS).map(|n| format!("{n}\n")).collect();
    place.write("in.csv", format!("n\n{rows}"));
    let produce = ["produce", "in.csv", "--to", "log:stream", "--shards", "12"];
    place.ok(&[&produce[..], &["--limit", FIRST_ROWS]].concat());
    let start = |name: &str, lanes: &str| {
        let words = ["--lease-table", "relaning", "--create-lease-table", "--worker-id", name, "--lanes", lanes];
        let consume: Vec<_> = CONSUME.into_iter().filter(|word| !["--lanes", "6"].contains(word)).collect();
        Running::start(place.command(&[&consume[..], &words].concat()))
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let until_owned = |expected: &[(&str, usize)]| {
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        runtime.block_on(until(async || {
            let found = owners("relaning").await;
            (found == expected).then_some(()).ok_or(format!("{found:?} instead of {expected:?}"))
        }));
    };
    let mut one = start("one", "6");
    let two = start("two", "6");
    until_owned(&[("one", 3), ("two", 3)]);
    let producer = Running::start(place.command(&[&produce[..], &["--resume", "--rate", "1000/s"]].concat()));
    // The lanes of the dead one are closed by who takes them over; the leases of all that are closed are removed.
    one.kill();
    let three = start("three", "4");
    until_owned(&[("two", 2), ("three", 2)]);
    let keys = runtime.block_on(async {
        let leases = DynamoLeases::open_with(moto().dynamodb(), opening("relaning", false)).await.unwrap();
        leases.keys("").await.unwrap()
    });
    assert!(keys.iter().all(|key| key.ends_with("of4s2")), "{keys:?}");
    producer.succeed();
    let lake = place.path("lake");
    runtime.block_on(until(async || {
        let found = rows_of(&lake).await;
        (found >= ROWS).then_some(()).ok_or(format!("{found} of {ROWS} rows"))
    }));
    for worker in [two, three] {
        worker.signal("TERM");
        worker.succeed();
    }
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), ROWS);
    assert_eq!(place.value("SELECT count(DISTINCT n) FROM t", "lake"), ROWS);
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains(&format!("{ROWS} events read")), "{report}");
}

fn workplace() -> Workplace {
    Workplace::new(PROGRAM).with_environment(moto().environment())
}

/// Waits until a look says so; what it says otherwise is the failure.
pub(crate) async fn until(look: impl AsyncFn() -> Result<(), String>) {
    let mut last = String::new();
    for _ in 0..LOOKS_MAX {
        match look().await {
            Ok(()) => return,
            Err(found) => last = found,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    panic!("waited in vain: {last}");
}

/// Returns how many lanes each worker has; nothing while there is no lease table.
async fn owners(table: &str) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    let Ok(leases) = DynamoLeases::open_with(moto().dynamodb(), opening(table, false)).await else {
        return owners;
    };
    let keys: Vec<_> = leases.keys("").await.unwrap().iter().map(|key| key.parse().unwrap()).collect();
    for row in leases.read(&keys).await.unwrap() {
        let owner = row.claim.owner.map_or("nobody".to_owned(), |owner| owner.to_string());
        *owners.entry(owner).or_default() += 1;
    }
    owners
}

/// Returns the rows of the table; 0 while there is none.
async fn rows_of(lake: &Path) -> u64 {
    let Ok(store) = LakeStore::existing_on_disk(lake) else { return 0 };
    let Ok(open) = generation::open_live(&store, &"t".parse().unwrap()).await else { return 0 };
    reading::totals(&open, Output::Events).await.map_or(0, |totals| totals.rows)
}
