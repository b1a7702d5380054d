//! Exactly once under `kill -9`: producer and consumer as processes, killed at points drawn by a seed.

use harness::process::{Running, Workplace};
use headwater_stream::embedded::{Log, Options};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{PROGRAM, readers};

const SEED: u64 = 20_261_121;
const ROWS: u64 = 12_000;
const PRODUCER_KILLS: usize = 5;
const KILLS_MIN: usize = 25;
const KILLS_MAX: usize = 120;

/// The steps of the protocol in which the consumer is killed: it says what it does before it does it.
const STEPS: [&str; 5] = [
    "action=PublishCut",
    "action=Put(FileRef { output: Events, index: 0 })",
    "action=Put(FileRef { output: Events, index: 2 })",
    "action=Commit(Events)",
    "action=Commit(DeadLetters)",
];

/// What a redo found: how far the killed writer had come.
#[derive(Debug, Default)]
struct Redos {
    /// The cut, and no file.
    cut_only: usize,
    /// Some of the files.
    some_files: usize,
    /// All files, and no commit.
    all_files: usize,
    /// One output's commit.
    one_commit: usize,
}

impl Redos {
    fn count(&self) -> usize {
        self.cut_only + self.some_files + self.all_files + self.one_commit
    }

    fn has_each(&self) -> bool {
        [self.cut_only, self.some_files, self.all_files, self.one_commit].iter().all(|count| *count > 0)
    }
}

#[test]
fn p1_nothing_is_lost_and_nothing_comes_twice_under_kill_9() {
    println!("seed {SEED}");
    let mut random = SmallRng::seed_from_u64(SEED);
    let place = Workplace::new(PROGRAM);
    let mut csv = String::from("n,at,name,amount\n");
    for n in 0..ROWS {
        // Five days; a value that does not fit its column now and then becomes a dead letter.
        let amount = if n > 10_000 && n % 500 == 0 { "broken".to_owned() } else { format!("{}.5", n % 97) };
        csv.push_str(&format!("{n},2026-11-{:02}T12:00:00Z,name {},{amount}\n", 1 + n % 5, n % 13));
    }
    place.write("in.csv", csv);
    let mut kills = kill_producers(&place, &mut random);
    let redos = kill_consumers(&place, &mut random, &mut kills);
    println!("{kills} kills, {redos:?}");
    assert!(kills >= KILLS_MIN, "{kills} kills");
    assert!(redos.count() >= 5 && redos.has_each(), "{redos:?}");
    place.ok(&CONSUME);

    let log = Log::open(&place.path("stream"), Options::default()).unwrap();
    let in_log: u64 = log.summary().unwrap().iter().map(|shard| shard.records).sum();
    assert!(in_log >= ROWS, "the log has {in_log} of {ROWS} rows");
    let report = place.ok(&["verify", "--full", "--from-beginning", "--lake", "lake"]);
    assert!(report.contains(&format!("{in_log} events read")), "{report}");
    // A reader that nobody here wrote, by the Delta log and by listing.
    for reader in ["delta", "listing"] {
        let found = readers::ask(reader, &place.path("lake/t"), "count(*), count(DISTINCT n), sum(n)");
        let letters =
            readers::ask(reader, &place.path("lake/t__dead_letters"), "count(*), count(DISTINCT \"eventId\"), 0");
        assert_eq!(found[0] + letters[0], in_log, "{reader}");
        let broken: Vec<u64> = (10_001..ROWS).filter(|n| n % 500 == 0).collect();
        assert_eq!(found[1], ROWS - broken.len() as u64, "{reader}: every row is there");
        if in_log == ROWS {
            assert_eq!(found[2], (0..ROWS).sum::<u64>() - broken.iter().sum::<u64>(), "{reader}");
        }
    }
}

const PRODUCE: [&str; 8] = ["produce", "in.csv", "--to", "log:stream", "--shards", "2", "--batch-bytes", "4KiB"];

const CONSUME: [&str; 13] = [
    "consume",
    "--from",
    "log:stream",
    "--lake",
    "lake",
    "--table",
    "t",
    "--time-field",
    "at",
    "--until-caught-up",
    "--flush-rows",
    "150",
    "--log=headwater_lake=debug,headwater_consumer=info",
];

/// Kills producers while they send, and lets the last one end.
fn kill_producers(place: &Workplace, random: &mut SmallRng) -> usize {
    let mut kills = 0;
    let mut reached = 0;
    while kills < PRODUCER_KILLS {
        let target = reached + random.random_range(500..1_500);
        let mut producer = Running::start(place.command(&[&PRODUCE[..], &["--resume"]].concat()));
        // The log of the running process tells when it is time.
        while reached < target {
            if let Ok(log) = Log::open(&place.path("stream"), Options::default()) {
                reached = log.summary().unwrap().iter().map(|shard| shard.records).sum();
            }
            std::thread::yield_now();
        }
        producer.kill();
        kills += 1;
    }
    place.ok(&[&PRODUCE[..], &["--resume"]].concat());
    kills
}

/// Kills consumers in every step of the protocol, until each kind of redo was seen.
fn kill_consumers(place: &Workplace, random: &mut SmallRng, kills: &mut usize) -> Redos {
    let mut redos = Redos::default();
    while *kills < KILLS_MAX && (*kills < KILLS_MIN || !redos.has_each()) {
        // The schema changes once only, at the very beginning.
        let step =
            if *kills == PRODUCER_KILLS { "action=ChangeSchema" } else { STEPS[random.random_range(0..STEPS.len())] };
        let mut consumer = Running::start(place.command(&CONSUME));
        let mut seen = Vec::new();
        let mut left = random.random_range(0..2);
        let mut resumed = false;
        while let Some(line) = consumer.line() {
            resumed |= line.contains("action=Idle");
            let hit = resumed && line.contains(step);
            seen.push(line);
            if hit && left == 0 {
                break;
            }
            left -= i32::from(hit);
        }
        let killed = seen.last().is_some_and(|line| line.contains(step));
        note_redo(&seen, &mut redos);
        if killed {
            consumer.kill();
        } else {
            assert!(consumer.wait().success(), "{:?}", seen.last());
            // It has come to the end of the stream.
            produce_more(place);
            continue;
        }
        *kills += 1;
    }
    redos
}

/// Sends the same rows again, so that there is something to consume; they carry the same event ids.
fn produce_more(place: &Workplace) {
    std::fs::remove_file(place.path("more.json")).ok();
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--progress-file", "more.json"]);
}

/// Tells from what a restarted writer did how far the one before had come.
fn note_redo(lines: &[String], redos: &mut Redos) {
    let before_idle: Vec<_> = lines.iter().take_while(|line| !line.contains("action=Idle")).collect();
    let count = |what: &str| before_idle.iter().filter(|line| line.contains(what)).count();
    let (inspected, made, commits) = (count("action=Inspect"), count("action=MakeFiles"), count("action=Commit"));
    let put = count("action=Put");
    if count("action=Release") == 0 {
        return;
    }
    match (inspected, made, put, commits) {
        (_, _, _, 1) => redos.one_commit += 1,
        (inspected, 1, put, 2) if put == inspected => redos.cut_only += 1,
        (_, 1, _, 2) => redos.some_files += 1,
        (_, 0, 0, 2) => redos.all_files += 1,
        other => panic!("a redo of no known kind: {other:?}"),
    }
}
