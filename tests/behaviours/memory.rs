//! Memory is a budget: it does not grow with the input, the columns or the windows.

use harness::process::Workplace;
use serde_json::{Value, json};

use crate::PROGRAM;

/// Peak anonymous memory of `consume` with the default budget, and of `produce`.
const CONSUME_MAX_KIB: u64 = 256 * 1024;
const PRODUCE_MAX_KIB: u64 = 64 * 1024;

/// Runs a command and returns the most anonymous memory it had, looked at every 100 ms; mapped files do not count.
fn peak_anonymous_kib(place: &Workplace, words: &[&str]) -> u64 {
    let mut child = place.command(words).stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(kib.unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success(), "{words:?}");
            return peak;
        }
        #[expect(clippy::disallowed_methods, reason = "a sampling period, not a wait for something")]
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn check(rows: u64, line: impl Fn(u64) -> String, consume: &[&str]) -> Workplace {
    let place = Workplace::new(PROGRAM);
    let mut csv = std::io::BufWriter::new(std::fs::File::create(place.path("in.ndjson")).unwrap());
    for n in 0..rows {
        use std::io::Write;
        writeln!(csv, "{}", line(n)).unwrap();
    }
    drop(csv);
    let produced = peak_anonymous_kib(&place, &["produce", "in.ndjson", "--to", "log:stream"]);
    let words = ["consume", "--from", "log:stream", "--lake", "lake", "--table", "t", "--until-caught-up"];
    let consumed = peak_anonymous_kib(&place, &[&words[..], consume].concat());
    println!("{rows} rows: produce {produced} KiB, consume {consumed} KiB");
    assert!(produced <= PRODUCE_MAX_KIB, "produce had {produced} KiB");
    assert!(consumed <= CONSUME_MAX_KIB, "consume had {consumed} KiB");
    assert_eq!(place.value("SELECT count(*) FROM t", "lake"), rows);
    place
}

/// Rebuilds the table with the default budget, and returns the generation's status.
fn rebuild(place: &Workplace) -> Value {
    let of_table = ["--from", "log:stream", "--lake", "lake", "--table", "t"];
    let rebuilt = peak_anonymous_kib(place, &[&["replay", "run"][..], &of_table].concat());
    println!("replay {rebuilt} KiB");
    assert!(rebuilt <= CONSUME_MAX_KIB, "replay had {rebuilt} KiB");
    place.ok(&["replay", "compare", "--lake", "lake", "--table", "t"]);
    let status = place.ok(&[&["replay", "status"][..], &of_table, &["--output", "json"]].concat());
    let status: Value = serde_json::from_str(&status).unwrap();
    status["generations"][1].clone()
}

#[test]
fn fm24_a_million_events_fit_the_budget() {
    check(
        1_000_000,
        |n| {
            let x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            format!(
                r#"{{"id":{n},"user":"user-{}","page":"/catalog/item/{}","amount":{}.25,"ok":{},"country":"C{}","agent":"agent/{}","ms":{},"ref":"{x:016x}","v":3}}"#,
                x >> 50,
                x >> 44,
                x >> 54,
                x & 1 == 0,
                x % 40,
                x % 9,
                x >> 52
            )
        },
        &[],
    );
}

#[test]
fn fm25_two_thousand_windows_fit_the_budget_also_when_they_are_rebuilt() {
    let place = check(
        200_000,
        |n| {
            let day = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 2_000;
            format!(r#"{{"at":{},"n":{n},"text":"some text to carry along {day}"}}"#, 1_500_000_000 + day * 86_400)
        },
        &["--time-field", "at", "--time-format", "epoch-s", "--flush-rows", "50000"],
    );
    let rebuilt = rebuild(&place);
    // The live table has a file a window and epoch; the rebuild has one a window.
    assert_eq!((&rebuilt["partitions"], &rebuilt["files"]), (&json!(2_000), &json!(2_000)), "{rebuilt}");
}
