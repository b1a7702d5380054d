//! A stream is split and merged under load while consumers come, leave and die: the lake is what was sent, each key in
//! its order.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use harness::kinesis::Server;
use harness::process::{Running, Workplace};
use harness::{lake, moto, python};
use headwater_stream::kinesis::kpl;

use crate::PROGRAM;

const EVENTS: u64 = 200_000;
/// So many a second at most, so that the stream is under load while it changes. Its shards take less: 1,000 each.
const RATE: &str = "20000/s";
const KEYS: u64 = 997;

const PRODUCE: [&str; 10] =
    ["produce", "in.csv", "--to", "kinesis://orders", "--key", "key", "--time-field", "at", "--rate", RATE];

const CONSUME: [&str; 19] = [
    "consume",
    "--from",
    "kinesis://orders",
    "--lake",
    "lake",
    "--table",
    "t",
    "--time-field",
    "at",
    "--lanes",
    "4",
    "--lease-duration",
    "2s",
    "--flush-rows",
    "10000",
    "--flush-age",
    "1s",
    "--flush-idle",
    "300ms",
];

/// Reads a table by the order of its commits: what a reader of the Delta log sees, as it comes to be. A key's rows are
/// in order when each is in a later commit than the ones before it, or behind them in the same file.
const SCRIPT: &str = r#"
import duckdb, glob, json, os, sys
folder = sys.argv[1]
commits = []
for log in glob.glob(f"{folder}/_delta_log/*.json"):
    version = int(os.path.basename(log).split(".")[0])
    for line in open(log):
        action = json.loads(line)
        if "add" in action:
            commits.append((f"{folder}/{action['add']['path']}", version))
duckdb.execute("CREATE TABLE commits (file VARCHAR, version BIGINT)")
duckdb.executemany("INSERT INTO commits VALUES (?, ?)", commits)
answer = duckdb.sql(f"""
    WITH place AS (
        SELECT n, key, _event_id, _shard, _sequence, _sub_sequence, version, file_row_number AS line
        FROM read_parquet('{folder}/*=*/**/*.parquet', filename = true, file_row_number = true, union_by_name = true)
        JOIN commits ON filename = file),
    earlier AS (
        SELECT *,
            max(n) OVER (PARTITION BY key ORDER BY version, line ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS top,
            lag((_sequence, _sub_sequence)) OVER (PARTITION BY _shard ORDER BY version, line) AS before
        FROM place)
    SELECT count(*), count(DISTINCT n), count(DISTINCT _event_id), count(DISTINCT (_shard, _sequence, _sub_sequence)),
        count(*) FILTER (top > n), count(*) FILTER (before >= (_sequence, _sub_sequence)), count(DISTINCT _shard)
    FROM earlier""")
print(json.dumps(answer.fetchall()[0]))
"#;

/// What a table holds.
#[derive(Debug)]
struct Found {
    rows: u64,
    numbers: u64,
    event_ids: u64,
    positions: u64,
    /// Rows of a key that stand behind a later one of it.
    out_of_order: u64,
    /// Rows of a shard that do not stand behind all before them in it.
    against_positions: u64,
    shards: u64,
}

fn look(table: &Path) -> Found {
    let python = python::with_packages(env!("CARGO_TARGET_TMPDIR"), "readers", &python::READERS);
    let output = Command::new(python).args(["-c", SCRIPT]).arg(table.join("g00001")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: [u64; 7] = serde_json::from_slice(&output.stdout).unwrap();
    let [rows, numbers, event_ids, positions, out_of_order, against_positions, shards] = answer;
    Found { rows, numbers, event_ids, positions, out_of_order, against_positions, shards }
}

struct World {
    server: Server,
    place: Workplace,
    lease_table: String,
}

impl World {
    fn new(name: &str, events: u64) -> Self {
        let server = Server::start_now();
        let moto = moto::shared(env!("CARGO_TARGET_TMPDIR"));
        let place = Workplace::new(PROGRAM).with_environment(server.environment()).with_environment(moto.environment());
        let rows = (0..events).map(|n| format!("{n},key {},2026-11-21\n", n % KEYS));
        place.write("in.csv", std::iter::once("n,key,at\n".to_owned()).chain(rows).collect::<String>());
        server.wait(server.create_stream("orders", 2));
        Self { server, place, lease_table: format!("leases-{name}") }
    }

    fn consumer(&self, worker: &str) -> Running {
        let words = ["--lease-table", &self.lease_table, "--create-lease-table", "--worker-id", worker];
        Running::start(self.place.command(&[&CONSUME[..], &words].concat()))
    }

    /// Waits until so many records are in the stream, and splits or merges until so many shards are open.
    fn reshard_at(&self, records: u64, shards: usize) {
        self.server.wait(async {
            self.server.until_records(records).await;
            self.server.reshard("orders", shards).await;
        });
    }

    /// Waits until the table has so many rows.
    fn until_rows(&self, rows: u64) {
        self.server.wait(lake::until_rows(&self.place.path("lake"), "t", rows));
    }

    /// Returns how many events the stream holds, those in aggregates one by one.
    fn events_in_stream(&self) -> u64 {
        let records = self.server.wait(self.server.read_all("orders"));
        let events = |payload: Vec<u8>| kpl::split(&Bytes::from(payload)).map_or(1, |events| events.len() as u64);
        records.into_iter().map(|record| events(record.payload)).sum()
    }

    fn check(&self, events: u64) -> Found {
        let in_stream = self.events_in_stream();
        let found = look(&self.place.path("lake/t"));
        println!("{in_stream} events in the stream, {found:?}");
        assert_eq!((found.numbers, found.event_ids), (events, events), "nothing is lost");
        assert_eq!((found.rows, found.positions), (in_stream, in_stream), "each event of the stream is there once");
        assert_eq!(found.against_positions, 0, "the rows of a shard are in its order");
        let report = self.place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
        assert!(report.contains(&format!("{in_stream} events read")), "{report}");
        found
    }
}

#[test]
fn fm01_fm05_fm06_fm07_fm09_a_stream_that_is_split_and_merged_under_load_is_in_the_lake_once_and_in_order() {
    let world = World::new("plain", EVENTS);
    let mut killed = world.consumer("one");
    let leaving = world.consumer("two");
    let producer = Running::start(world.place.command(&PRODUCE));
    world.reshard_at(EVENTS / 50, 4);
    let joined = world.consumer("three");
    world.reshard_at(EVENTS / 10, 8);
    leaving.signal("TERM");
    world.server.wait(world.server.until_records(EVENTS * 3 / 5));
    killed.kill();
    let last = world.consumer("four");
    assert!(world.server.records() < EVENTS, "the stream is still under load");
    world.reshard_at(EVENTS * 9 / 10, 3);
    leaving.succeed();
    producer.succeed();
    world.until_rows(EVENTS);
    for consumer in [joined, last] {
        consumer.signal("TERM");
        consumer.succeed();
    }
    let found = world.check(EVENTS);
    assert_eq!(found.out_of_order, 0, "each key is in the order it was sent in");
    // Two, four, eight, and those that were merged.
    assert!(found.shards > 8, "{} shards had events", found.shards);
}

#[test]
fn fm15_aggregates_are_in_the_lake_once_while_the_stream_is_split_and_merged() {
    let events = EVENTS / 4;
    let world = World::new("aggregated", events);
    let (one, mut killed) = (world.consumer("one"), world.consumer("two"));
    let producer = Running::start(world.place.command(&[&PRODUCE[..], &["--aggregate"]].concat()));
    world.reshard_at(1, 4);
    killed.kill();
    let two = world.consumer("three");
    world.reshard_at(20, 3);
    producer.succeed();
    world.until_rows(events);
    for consumer in [one, two] {
        consumer.signal("TERM");
        consumer.succeed();
    }
    world.check(events);
}
