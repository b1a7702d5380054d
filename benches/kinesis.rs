//! CPU seconds of `produce` and `consume` on Kinesis, plain and aggregated, beside the embedded log; the server runs in
//! this process and does not count. `benches/kinesis.sh` makes the release build that is measured, and runs this.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints what it measured, or fails")]

use std::path::Path;
use std::process::Command;

use harness::kinesis::Server;

const SHARDS: i32 = 4;

/// Runs the command and returns its CPU seconds, user and system.
fn cpu_seconds(headwater: &Path, place: &Path, server: &Server, words: &[&str]) -> f64 {
    let script = r#"TIMEFORMAT="cpu %U %S"; time "$@" --log off >/dev/null 2>err.txt || cat err.txt >&2"#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash"]).arg(headwater).args(words).current_dir(place).envs(server.environment());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let times = said.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(said.lines().count(), 1, "{said}");
    times.split(' ').map(|seconds| seconds.parse::<f64>().unwrap()).sum()
}

fn main() {
    #[expect(clippy::disallowed_methods, reason = "what is measured is chosen by hand")]
    let setting = |name: &str| std::env::var(name).ok();
    let headwater = setting("HEADWATER").expect("HEADWATER names the program that is measured");
    let headwater = Path::new(&headwater);
    let rows: u64 = setting("ROWS").map_or(1_000_000, |rows| rows.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let mut csv = String::from("id,user,page,amount,ok,country,agent,ms,ref,v\n");
    for n in 0..rows {
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let (user, page, amount, agent) = (mixed % 16_384, mixed % 1_048_576, mixed % 1_024, mixed % 9);
        csv += &format!(
            "{n},user-{user},/catalog/item/{page},{amount}.25,{},C{},agent/{agent},{},{mixed:016x},3\n",
            mixed.is_multiple_of(2),
            mixed % 40,
            mixed % 4_096
        );
    }
    std::fs::write(place.join("in.csv"), csv).unwrap();
    let server = Server::start_now();
    for stream in ["plain", "packed"] {
        server.wait(server.create_stream(stream, SHARDS));
    }
    let run = |words: &[&str]| cpu_seconds(headwater, place, &server, words);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let million = rows as f64 / 1e6;
    println!("{rows} rows of ten columns, {SHARDS} shards; CPU seconds a million events\n");
    println!("| stream | produce | consume | against the log |\n|---|---|---|---|");
    let shards = SHARDS.to_string();
    let produced = run(&["produce", "in.csv", "--to", "log:stream", "--shards", &shards]);
    let log = run(&["consume", "--from", "log:stream", "--lake", "lake", "--table", "log", "--until-caught-up"]);
    println!("| embedded log | {:.2} | {:.2} | 1.00 |", produced / million, log / million);
    for (stream, more) in [("plain", None), ("packed", Some("--aggregate"))] {
        let to = format!("kinesis://{stream}");
        let words = ["produce", "in.csv", "--to", &to, "--unpaced"];
        let before = server.calls().get("PutRecords").copied().unwrap_or(0);
        let produced = run(&words.into_iter().chain(more).collect::<Vec<_>>());
        let calls = server.calls().get("PutRecords").copied().unwrap_or(0) - before;
        let consumed = run(&["consume", "--from", &to, "--lake", "lake", "--table", stream, "--until-caught-up"]);
        println!(
            "| {stream}, {calls} PutRecords | {:.2} | {:.2} | {:.2} |",
            produced / million,
            consumed / million,
            consumed / log
        );
    }
}
