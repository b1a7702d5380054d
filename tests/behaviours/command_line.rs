//! Configuration, signals, metrics and logs, through the process.

use std::io::Read;
use std::process::Stdio;

use harness::process::{Running, Workplace, finish};
use serde_json::Value;

use crate::{PROGRAM, metrics};

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() {
    let place = Workplace::new(PROGRAM);
    let shown = |words: &[&str], variable: Option<&str>| {
        let mut command = place.command(&[&["consume", "--print-config"][..], words].concat());
        if let Some(value) = variable {
            command.env("HEADWATER_FLUSH_ROWS", value);
        }
        let said = finish(&mut command);
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out.lines().find(|line| line.starts_with("flush_rows")).unwrap().to_owned()
    };
    assert_eq!(shown(&[], None), "flush_rows = \"1000000\"  # default");
    place.write("headwater.toml", "flush_rows = 5\n[consume]\nflush_rows = 7\nflush_on_window_close = true\n");
    assert_eq!(shown(&[], None), "flush_rows = \"7\"  # file headwater.toml");
    assert_eq!(shown(&[], Some("8")), "flush_rows = \"8\"  # environment HEADWATER_FLUSH_ROWS");
    assert_eq!(shown(&["--flush-rows", "9"], Some("8")), "flush_rows = \"9\"  # flag");
}

#[test]
fn a_verb_within_a_verb_has_a_section_within_a_section() {
    let place = Workplace::new(PROGRAM);
    place.write(
        "headwater.toml",
        "memory = \"1GiB\"\ntable = \"t\"\n[replay]\nmemory = \"2GiB\"\nlanes = 3\n[replay.run]\nmemory = \"3GiB\"\n",
    );
    let shown = |words: &[&str], key: &str| {
        let out = place.ok(&[words, &["--print-config"]].concat());
        assert!(out.starts_with(&format!("[{}]\n", words.join("."))), "{out}");
        out.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned()
    };
    assert_eq!(shown(&["replay", "run"], "memory"), "memory = \"3GiB\"  # file headwater.toml");
    assert_eq!(shown(&["replay", "run"], "lanes"), "lanes = \"3\"  # file headwater.toml");
    assert_eq!(shown(&["replay", "plan"], "lanes"), "lanes = \"3\"  # file headwater.toml");
    assert_eq!(shown(&["replay", "plan"], "table"), "table = \"t\"  # file headwater.toml");
    assert_eq!(shown(&["replay", "compare"], "table"), "table = \"t\"  # file headwater.toml");
    assert_eq!(shown(&["consume"], "memory"), "memory = \"1GiB\"  # file headwater.toml");
    let refused = |file: &str, hint: &str| {
        place.write("headwater.toml", file);
        let said = place.run(&["replay", "status"]);
        assert_eq!(said.code, Some(2), "{file}: {}", said.err);
        assert!(said.err.contains(hint), "{file}: {}", said.err);
    };
    refused("[replay.run]\nmemori = \"1GiB\"\n", "`replay.run.memori`; did you mean `memory`?");
    refused("[replay.status]\nmemory = \"1GiB\"\n", "`replay.status.memory`");
    refused("[replay.rum]\nlanes = 1\n", "`replay.rum`; did you mean `run`?");
    refused("[replay]\nspill_byte = 1\n", "did you mean `spill_bytes`?");
}

#[test]
fn settings_are_shown_without_the_work_they_are_for() {
    let place = Workplace::new(PROGRAM);
    let check = |words: &[&str], verb: &str| {
        let out = place.ok(words);
        assert!(out.starts_with(&format!("[{verb}]\n")), "{words:?}: {out}");
    };
    check(&["produce", "--print-config"], "produce");
    check(&["produce", "in.csv", "--print-config"], "produce");
    check(&["query", "--print-config"], "query");
    check(&["query", "SELECT 1", "--print-config"], "query");
    check(&["--print-config", "query"], "query");

    let refused = |words: &[&str], hint: &str| {
        let said = place.run(words);
        assert_eq!(said.code, Some(2), "{words:?}: {}", said.out);
        assert!(said.err.contains(hint), "{words:?}: {}", said.err);
    };
    refused(&["produce"], "<FILE>");
    refused(&["query"], "<SQL>");
    refused(&["query", "--print-config", "--output", "xml"], "--output");
}

#[test]
fn a_malformed_setting_is_named_never_replaced_by_the_default() {
    let check = |file: &str, hint: &str| {
        let place = Workplace::new(PROGRAM);
        place.write("headwater.toml", file);
        let said = place.run(&["consume"]);
        assert_eq!(said.code, Some(2), "{file}: {}", said.err);
        assert!(said.err.contains(hint), "{file}: {}", said.err);
    };
    check("[consume]\nflush_age = \"soon\"\n", "flush-age");
    check("[consume]\nflush_rows = -1\n", "flush-rows");
    check("[consume]\nflush_row = 5\n", "did you mean `flush_rows`?");
    check("[consum]\nflush_rows = 5\n", "did you mean `consume`?");
    check("flush_rows = \n", "headwater.toml");
    let place = Workplace::new(PROGRAM);
    let said = place.run(&["consume", "--config", "missing.toml"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("missing.toml"), "{}", said.err);
}

#[test]
fn the_file_serves_verbs_without_flags() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "a\n1\n");
    place.write(
        "headwater.toml",
        "lake = \"l\"\ntable = \"t\"\n[produce]\nto = \"log:s\"\n[consume]\nfrom = \"log:s\"\nuntil_caught_up = true\n[status]\nfrom = \"log:s\"\n",
    );
    place.ok(&["produce", "in.csv"]);
    place.ok(&["consume"]);
    assert!(place.ok(&["query", "SELECT a FROM t", "--output", "csv"]).contains("a\n1"));
    assert!(place.ok(&["verify"]).contains("all is accounted for"));
    assert!(place.ok(&["status"]).contains("1 rows in 1 files"));
}

#[test]
fn help_goes_to_standard_output_and_mistakes_to_standard_error() {
    let place = Workplace::new(PROGRAM);
    for verb in ["produce", "consume", "query", "status", "verify", "demo", "completions"] {
        let said = place.run(&[verb, "--help"]);
        assert_eq!(said.code, Some(0), "{verb}");
        assert!(said.out.contains("Usage: headwater") && said.err.is_empty(), "{verb}: {}", said.err);
    }
    for verb in ["plan", "run", "status", "compare"] {
        let said = place.run(&["replay", verb, "--help"]);
        assert_eq!(said.code, Some(0), "replay {verb}");
        let usage = format!("replay {verb} [OPTIONS]");
        assert!(said.out.contains(&usage) && said.err.is_empty(), "replay {verb}: {}{}", said.out, said.err);
    }
    let said = place.run(&["consum"]);
    assert_eq!(said.code, Some(2));
    assert!(said.out.is_empty() && said.err.contains("consume"), "{}", said.err);
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ok(&["completions", shell]).contains("headwater"), "{shell}");
    }
}

#[test]
fn fm48_the_first_signal_commits_what_is_buffered() {
    for signal in ["TERM", "INT"] {
        let place = Workplace::new(PROGRAM);
        place.write("in.csv", "a\n1\n2\n3\n");
        place.ok(&["produce", "in.csv", "--to", "log:stream"]);
        // With these limits nothing but the end of the run makes a cut.
        let words = [
            "consume",
            "--from",
            "log:stream",
            "--lake",
            "lake",
            "--table",
            "t",
            "--flush-idle",
            "1h",
            "--flush-age",
            "1h",
            "--metrics-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ];
        let consumer = Running::start(place.command(&words));
        let address = metrics::address(&consumer);
        // Three events are read and wait.
        while !metrics::get(&address, "/metrics").contains("headwater_stream_millis_behind_latest") {
            std::thread::yield_now();
        }
        assert!(metrics::get(&address, "/healthz").starts_with("HTTP/1.1 200"));
        assert!(metrics::get(&address, "/readyz").starts_with("HTTP/1.1 200"));
        consumer.signal(signal);
        assert_eq!(consumer.wait().code(), Some(0), "{signal}");
        assert_eq!(place.value("SELECT sum(a) FROM t", "lake"), 6, "{signal}");
    }
}

#[test]
fn fm47_the_counters_agree_with_the_lake() {
    let place = Workplace::new(PROGRAM);
    place.write("in.ndjson", "{\"a\":1}\n{\"a\":2}\n{\"a\":\"x\"}\n");
    place.ok(&["produce", "in.ndjson", "--to", "log:stream"]);
    let words = [
        "consume",
        "--from",
        "log:stream",
        "--lake",
        "lake",
        "--table",
        "t",
        "--flush-idle",
        "10ms",
        "--metrics-listen",
        "127.0.0.1:0",
    ];
    let consumer = Running::start(place.command(&words));
    let address = loop {
        let line = consumer.line().expect("it says where the metrics are");
        if let Some((_, address)) = line.split_once("address=") {
            break address.trim().to_owned();
        }
    };
    let metrics = loop {
        let text = metrics::get(&address, "/metrics");
        if text.contains("headwater_consumer_events_total 3") {
            break text;
        }
        std::thread::yield_now();
    };
    assert!(metrics.contains("headwater_consumer_dead_letters_total{reason=\"schema_conflict\"} 1"), "{metrics}");
    assert!(metrics.contains("headwater_lake_files_total 2"), "{metrics}");
}

#[test]
fn who_reads_us_may_stop() {
    let place = Workplace::new(PROGRAM);
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("'{PROGRAM}' completions bash | head -c 10; exit ${{PIPESTATUS:-0}}")])
        .current_dir(place.path("."))
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn who_reads_rows_may_stop() {
    let place = Workplace::new(PROGRAM);
    // Far more than a pipe holds: the command still writes when its reader is gone.
    let sql = "SELECT value FROM generate_series(1, 200000)";
    for output in ["table", "csv", "json"] {
        let words = ["query", sql, "--lake", ".", "--output", output];
        let mut child = place.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdout.take().unwrap();
        pipe.read_exact(&mut [0]).unwrap();
        drop(pipe);
        let said = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(0), "{output}: {err}");
        assert!(err.is_empty(), "{output}: {err}");
    }
}

#[test]
fn status_tells_how_full_the_disks_are() {
    let place = Workplace::new(PROGRAM);
    place.write("in.csv", "a\n1\n");
    place.ok(&["produce", "in.csv", "--to", "log:stream"]);
    place.ok(&["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"]);
    let out = place.ok(&["status", "--from", "log:stream", "--lake", "lake", "--output", "json"]);
    let status: Value = serde_json::from_str(&out).unwrap();
    for holder in ["stream", "lake"] {
        let disk = &status[holder]["disk"];
        let [used, size] = ["used_bytes", "disk_bytes"].map(|key| disk[key].as_u64().unwrap());
        assert!(0 < size && used <= size, "{holder}: {disk}");
        // What the disk of this machine is like decides.
        assert_eq!(disk["warning"].is_string(), used * 5 >= size * 4, "{holder}: {disk}");
    }
}

#[test]
fn a_demo_shows_the_whole_way() {
    let place = Workplace::new(PROGRAM);
    let said = place.run(&["demo", "d"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("| 5573  |") && said.out.contains("all is accounted for"), "{}", said.out);
    assert!(said.err.contains("scanned 1 of 14 files"), "{}", said.err);
}

#[test]
fn a_producer_keeps_its_pace_and_goes_on_where_it_was() {
    let place = Workplace::new(PROGRAM);
    let rows: String = (0..100).map(|n| format!("{n}\n")).collect();
    place.write("in.csv", format!("a\n{rows}"));
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--rate", "2000/s", "--limit", "60"]);
    place.ok(&["produce", "in.csv", "--to", "log:stream", "--resume"]);
    place.ok(&["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"]);
    assert_eq!(place.value("SELECT count(DISTINCT _event_id) FROM t", "lake"), 100);
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), 100);
    assert_eq!(place.value("SELECT sum(a) FROM t", "lake"), 4950);
}
