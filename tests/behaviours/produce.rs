//! What goes into the stream, and when.

use std::io::Write;
use std::process::Stdio;

use harness::process::Workplace;
use headwater_stream::embedded::{Log, Options};
use serde_json::{Value, json};

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
