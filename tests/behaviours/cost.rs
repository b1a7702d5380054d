//! What is called for a million events is what `docs/aws/cost.md` says, or less: its table is read here.

use std::path::Path;

use harness::kinesis::Server;
use harness::process::Workplace;
use headwater_stream::kinesis::limits::PAYLOAD_UNIT_BYTES;

use crate::PROGRAM;

const EVENTS: u64 = 50_000;
/// Plain events go as fast as shards take records, 1,000 a second each.
const SHARDS: i32 = 8;
const MILLION: u64 = 1_000_000;

/// Returns what the document allows for a million events.
fn stated(case: &str, call: &str) -> u64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/aws/cost.md");
    let text = std::fs::read_to_string(path).unwrap();
    let begin = format!("| {case} | {call} | ");
    let line = text.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no row `{begin}`"));
    let digits: String = line[begin.len()..].chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Asserts that so much for [`EVENTS`] is no more than the document says for a million.
fn check(case: &str, call: &str, count: u64) {
    let (scaled, most) = (count * (MILLION / EVENTS), stated(case, call));
    println!("{case}: {scaled} {call} for a million events, {most} at most");
    assert!(count > 0 && scaled <= most, "{case}: {scaled} {call}, not {most} or less");
}

struct World {
    server: Server,
    place: Workplace,
}

impl World {
    fn new() -> Self {
        let server = Server::start_now();
        let place = Workplace::new(PROGRAM).with_environment(server.environment());
        let text = |n: u64| format!("{{\"n\":{n},\"text\":\"{:040x}\"}}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        place.write("in.ndjson", (0..EVENTS).map(text).collect::<String>());
        server.wait(server.create_stream("orders", SHARDS));
        Self { server, place }
    }

    fn calls(&self, operation: &str) -> u64 {
        self.server.calls().get(operation).copied().unwrap_or_default()
    }

    fn produce(&self, case: &str, more: &[&str]) -> u64 {
        self.place.ok(&[&["produce", "in.ndjson", "--to", "kinesis://orders"][..], more].concat());
        let puts = self.calls("PutRecords");
        check(case, "`PutRecords`", puts);
        let records = self.server.wait(self.server.read_all("orders"));
        let units = records.iter().map(|record| record.payload.len().div_ceil(PAYLOAD_UNIT_BYTES).max(1) as u64);
        check(case, "payload units", units.sum());
        puts
    }

    fn consume(&self, case: &str, operation: &str, more: &[&str]) {
        self.server.forget_calls();
        let words = ["consume", "--from", "kinesis://orders", "--lake", "lake", "--table", "t", "--until-caught-up"];
        self.place.ok(&[&words[..], more].concat());
        check(case, &format!("`{operation}`"), self.calls(operation));
        assert_eq!(self.place.value("SELECT count(*) FROM t", "lake"), EVENTS);
    }
}

#[test]
fn aggregation_takes_a_tenth_of_the_calls_and_both_are_as_the_document_says() {
    let (plain, aggregated) = (World::new(), World::new());
    let plain_puts = plain.produce("produce, plain", &[]);
    let aggregated_puts = aggregated.produce("produce, aggregated", &["--aggregate"]);
    assert!(plain_puts >= 10 * aggregated_puts, "{plain_puts} and {aggregated_puts}");
    plain.consume("consume, plain", "GetRecords", &[]);
    aggregated.consume("consume, aggregated", "GetRecords", &[]);
}

#[test]
fn fan_out_subscribes_no_more_often_than_the_document_says() {
    let world = World::new();
    world.produce("produce, aggregated", &["--aggregate"]);
    world.consume("consume with fan-out", "SubscribeToShard", &["--fan-out", "reader"]);
    assert_eq!(world.calls("GetRecords"), 0, "a subscriber does not poll");
}
