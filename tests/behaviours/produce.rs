//! What goes into the stream, and when.

use std::io::Write;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use harness::process::Workplace;
use headwater_common::event_time;
use headwater_common::timestamp::Timestamp;
use headwater_producer::input::Input;
use headwater_producer::pace::Pace;
use headwater_producer::rows::ReadOptions;
use headwater_stream::embedded::{Log, Options};
use headwater_stream::{Accepted, Error, Put, Sink};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::PROGRAM;

fn records(place: &Workplace) -> u64 {
    let log = Log::open(&place.path("stream"), Options::default());
    log.map_or(0, |log| log.summary().unwrap().iter().map(|shard| shard.records).sum())
}

fn numbers(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[test]
fn rows_of_a_pipe_go_out_when_it_is_quiet() {
    let place = Workplace::new(PROGRAM);
    let mut command = place.command(&["produce", "-", "--to", "log:stream", "--log", "off"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(b"{\"n\":1}\n{\"n\":2}\n{\"n\"").unwrap();
    // The pipe stays open, and a batch is far from full.
    while records(&place) < 2 {
        std::thread::yield_now();
    }
    pipe.write_all(b":3}\n").unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success());
    place.ok(&["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"]);
    let row = &place.rows("SELECT count(*) AS n, sum(n) AS s FROM t", "lake")[0];
    assert_eq!(*row, json!({"n": 3, "s": 6}));
}

#[test]
fn nothing_stands_in_the_log_behind_a_batch_that_failed() {
    let filler = "x".repeat(300);
    let text: String = (0..40_000).map(|n| format!("{{\"n\":{n},\"text\":\"{filler}\"}}\n")).collect();
    for more in [&[][..], &["--sync-every", "20ms"]] {
        let place = Workplace::new(PROGRAM);
        place.write("in.ndjson", &text);
        let words = ["produce", "in.ndjson", "--to", "log:stream", "--batch-bytes", "256KiB"];
        let said = place.run(&[&words[..], &["--log-map-size", "8MiB"], more].concat());
        assert_eq!(said.code, Some(1), "{}", said.err);
        let acknowledged = records(&place);
        assert!(
            acknowledged > 0 && said.err.contains(&format!("{acknowledged} rows of this run are there")),
            "{}",
            said.err
        );
        place.ok(&[&words[..], &["--resume"], more].concat());
        assert_eq!(records(&place), 40_000);
        place.ok(&["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"]);
        let in_order = "SELECT count(*) AS n, count(DISTINCT n) AS d, \
                        bool_and(n = CAST(_sequence AS BIGINT) - 1) AS in_order FROM t";
        assert_eq!(place.rows(in_order, "lake")[0], json!({"n": 40_000, "d": 40_000, "in_order": true}));
    }
}

#[test]
fn a_limit_counts_the_rows_of_the_run_that_is_resumed() {
    let place = Workplace::new(PROGRAM);
    place.write("in.ndjson", numbers(0..100));
    let words = ["produce", "in.ndjson", "--to", "log:stream"];
    place.ok(&[&words[..], &["--limit", "30"]].concat());
    place.ok(&[&words[..], &["--limit", "50", "--resume"]].concat());
    assert_eq!(records(&place), 50);
    place.ok(&[&words[..], &["--resume"]].concat());
    assert_eq!(records(&place), 100);
}

#[test]
fn passes_repeat_the_rows_with_other_ids_and_bad_rows_are_said_once() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "a,b\n1,x\nbad\n2,y\n");
    let said = place.run(&["produce", "in.csv", "--to", "log:stream", "--loop", "--limit", "7"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("sent 7 rows") && said.err.contains("1 bad rows"), "{}", said.err);
    let rejects = std::fs::read_to_string(place.path("headwater-rejects.ndjson")).unwrap();
    assert_eq!(rejects.lines().count(), 1);
    place.ok(&["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"]);
    assert_eq!(place.value("SELECT count(DISTINCT _event_id) FROM t", "lake"), Value::from(7));
}

#[test]
fn a_line_that_is_too_long_is_one_bad_row_also_when_the_pipe_pauses_in_it() {
    let place = Workplace::new(PROGRAM);
    let mut command = place.command(&["produce", "-", "--to", "log:stream", "--log", "off"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(b"{\"n\":1}\n").unwrap();
    while records(&place) < 1 {
        std::thread::yield_now();
    }
    pipe.write_all(&vec![b'x'; 11 << 20]).unwrap();
    pipe.flush().unwrap();
    // Longer than the reader waits before it says that the pipe is quiet.
    let reading = std::sync::mpsc::channel::<()>().1;
    let _ = reading.recv_timeout(std::time::Duration::from_millis(400));
    pipe.write_all(b"{\"forged\":1}\n{\"n\":2}\n").unwrap();
    drop(pipe);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(records(&place), 2);
    let rejects = std::fs::read_to_string(place.path("headwater-rejects.ndjson")).unwrap();
    assert_eq!(rejects.lines().count(), 1);
}

/// A stream that notes what it is given, as it is given, and answers as it is told.
#[derive(Debug)]
struct Fake {
    /// The number of the first row of each batch.
    firsts: Mutex<Vec<u64>>,
    bytes: AtomicUsize,
    answers: Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// Each batch after another while.
    Late,
    /// Without rows whose number ends with 3.
    NotThrees,
    Never,
}

impl Fake {
    fn new(answers: Answers) -> Self {
        Self { firsts: Mutex::default(), bytes: AtomicUsize::new(0), answers }
    }
}

fn number(put: &Put) -> u64 {
    serde_json::from_slice::<Value>(&put.payload).unwrap()["n"].as_u64().unwrap()
}

#[async_trait]
impl Sink for Fake {
    fn url(&self) -> String {
        "fake:stream".to_owned()
    }

    async fn put(&self, batch: Vec<Put>) -> Result<Accepted, Error> {
        let first = number(&batch[0]);
        self.firsts.lock().unwrap().push(first);
        self.bytes.fetch_add(batch.iter().map(|put| put.payload.len()).sum(), Ordering::SeqCst);
        if self.answers == Answers::Never {
            std::future::pending::<()>().await;
        }
        for _ in 0..first % 5 {
            tokio::task::yield_now().await;
        }
        let refused = |put: &Put| self.answers == Answers::NotThrees && number(put) % 10 == 3;
        let rejected = (0..).zip(&batch).filter(|(_, put)| refused(put)).map(|(row, _)| (row, "no threes".to_owned()));
        Ok(Accepted { positions: Vec::new(), rejected: rejected.collect() })
    }
}

fn run_options(place: &Workplace, batch_bytes_max: usize) -> headwater_producer::Options {
    headwater_producer::Options {
        inputs: vec![Input::File(place.path("in.ndjson"))],
        read: ReadOptions {
            format: None,
            delimiter: b',',
            quote: b'"',
            columns: None,
            nulls: Vec::new(),
            strings: false,
            key: None,
            time_field: None,
            time_format: event_time::Format::Text,
        },
        pace: Pace::Unlimited,
        limit: None,
        repeat: false,
        resume: false,
        state_file: place.path("progress.json"),
        reject_file: place.path("rejects.ndjson"),
        batch_bytes_max,
        stream: "fake".to_owned(),
        started_at: Timestamp::from_micros(0),
    }
}

async fn run(options: headwater_producer::Options, sink: &Fake) -> headwater_producer::Report {
    let (_keep, shutdown) = watch::channel(false);
    headwater_producer::run(options, sink, &headwater_producer::Progress::default(), shutdown).await.unwrap()
}

#[tokio::test]
async fn batches_are_put_in_the_order_of_their_rows_also_when_several_are_on_their_way() {
    let place = Workplace::new(PROGRAM);
    place.write("in.ndjson", numbers(0..20_000));
    let sink = Fake::new(Answers::Late);
    let report = run(run_options(&place, 1000), &sink).await;
    assert_eq!(report.rows, 20_000);
    let firsts = sink.firsts.lock().unwrap().clone();
    assert!(firsts.len() > 1000 && firsts.is_sorted(), "{firsts:?}");
}

#[tokio::test]
async fn rows_that_a_stream_refuses_are_in_the_reject_file_before_they_count_as_done() {
    let place = Workplace::new(PROGRAM);
    let bad = "no json\n";
    place.write("in.ndjson", format!("{}{bad}{}", numbers(0..500), numbers(500..1000)));
    let sink = Fake::new(Answers::NotThrees);
    let report = run(run_options(&place, 5000), &sink).await;
    assert_eq!((report.rows, report.refused, report.bad), (900, 100, 1));
    let rejects = std::fs::read_to_string(place.path("rejects.ndjson")).unwrap();
    let mut lines = Vec::new();
    for reject in rejects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let line = reject["line"].as_u64().unwrap();
        if reject["raw"] == "no json" {
            assert_eq!(line, 501);
            continue;
        }
        let row: Value = serde_json::from_str(reject["raw"].as_str().unwrap()).unwrap();
        let n = row["n"].as_u64().unwrap();
        assert_eq!(line, if n < 500 { n + 1 } else { n + 2 }, "row {n} stands there");
        assert_eq!(reject["reason"], "the stream did not take it: no threes");
        lines.push(line);
    }
    assert_eq!(lines.len(), 100);
    let resumed = headwater_producer::Options { resume: true, ..run_options(&place, 5000) };
    let report = run(resumed, &sink).await;
    assert_eq!((report.rows, report.refused), (0, 0), "all rows are done with");
}

#[tokio::test]
async fn fm19_a_stream_that_never_answers_is_given_so_much_and_no_more() {
    let place = Workplace::new(PROGRAM);
    let filler = "x".repeat(1000);
    let row = |n: u64| format!("{{\"n\":{n},\"text\":\"{filler}\"}}\n");
    place.write("in.ndjson", (0..40_000).map(row).collect::<String>());
    let sink = Fake::new(Answers::Never);
    // Far longer than it takes to read all of the file.
    let running = run(run_options(&place, 1 << 20), &sink);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(2), running).await;
    assert!(ended.is_err(), "it waits for the stream");
    let bytes = sink.bytes.load(Ordering::SeqCst);
    assert!((1 << 20..=8 << 20).contains(&bytes), "{bytes} bytes were handed over");
}
