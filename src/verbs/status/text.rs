//! The answer of `status` for people.

use std::fmt::Write;

use headwater_common::position::Position;
use headwater_common::quantity::Bytes;
use headwater_replay::range::described;
use serde_json::{Map, Value};

/// Shards of a lane that are shown to people although nothing is read of them now.
const SHARDS_SHOWN_MAX: usize = 20;

/// Writes the document as lines.
pub(super) fn text(document: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a string does not fail");
    if let Some(stream) = document["stream"].as_object() {
        line(format!("stream {}", stream["url"].as_str().unwrap_or_default()));
        stream["shards"].as_array().into_iter().flatten().for_each(|shard| line(shard_line(shard)));
        let warnings = [stream.get("warning"), stream.get("disk").map(|disk| &disk["warning"])];
        for warning in warnings.into_iter().flatten().filter_map(Value::as_str) {
            line(format!("  WARNING: {warning}"));
        }
    }
    if let Some(warning) = document["lake"]["disk"]["warning"].as_str() {
        line(format!("WARNING: {warning}"));
    }
    for table in document["tables"].as_array().into_iter().flatten() {
        let (events, letters) = (&table["events"], &table["dead_letters"]);
        line(format!("table {}, generation {}", table["table"].as_str().unwrap_or_default(), table["generation"]));
        line(format!(
            "  {} rows in {} files, {}, {} partitions; {} dead letters",
            number(&events["rows"]),
            number(&events["files"]),
            Bytes(number(&events["bytes"])),
            number(&events["partitions"]),
            number(&letters["rows"])
        ));
        for lane in table["lanes"].as_array().into_iter().flatten() {
            line(lane_line(lane));
            unusual_positions(lane).into_iter().for_each(&mut line);
        }
        if let Some(next) = table["next_lanes"].as_u64() {
            line(format!("  these lanes are being closed; {next} others follow"));
        }
        line(format!("  last commit {}", table["last_commit"].as_str().unwrap_or("never")));
    }
    out
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn shard_line(shard: &Value) -> String {
    let name = shard["shard"].as_str().unwrap_or_default();
    if shard["records"].is_u64() {
        return format!(
            "  shard {name:<4} {:>12} records  {:>10}  sequences {} to {}",
            number(&shard["records"]),
            Bytes(number(&shard["bytes"])).to_string(),
            number(&shard["oldest"]),
            number(&shard["newest"])
        );
    }
    let parents: Vec<_> = shard["parents"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let from = if parents.is_empty() { String::new() } else { format!(", from {}", parents.join(" and ")) };
    let first = shard["first_hash_key"].as_str().unwrap_or_default();
    match shard["last_hash_key"].as_str() {
        Some(last) => format!("  shard {name}  hash keys {first} to {last}{from}"),
        None => format!("  shard {name}  closed, hash keys from {first}{from}"),
    }
}

fn lane_line(lane: &Value) -> String {
    let mut text = format!("  lane {}: epoch {}", lane["lane"].as_str().unwrap_or_default(), lane["epoch"]);
    let mut add = |part: String| write!(text, ", {part}").expect("writing to a string does not fail");
    if let Some(events) = lane["events_behind"].as_u64() {
        add(format!("{events} events behind"));
    }
    if let Some(millis) = lane["millis_behind"].as_object() {
        let slowest = millis.values().filter_map(Value::as_u64).max();
        add(slowest.map_or("lag unknown".into(), |millis| format!("{millis} ms behind")));
    }
    match lane.get("lease") {
        None => {}
        Some(lease) if lease["owner"].is_null() => add("nobody has it".into()),
        Some(lease) => {
            let text = |key: &str| lease[key].as_str().unwrap_or("unknown");
            add(format!("worker {}, last seen {}", text("owner"), text("last_seen")));
            if let Some(next) = lease["hand_over_to"].as_str() {
                add(format!("asked for by {next}"));
            }
        }
    }
    for (shard, problem) in lane["problems"].as_object().unwrap_or(&Map::new()) {
        let problem = problem.as_str().unwrap_or_default();
        write!(text, "\n    WARNING: shard {shard}: {problem}").expect("writing to a string does not fail");
    }
    text
}

/// Returns the shards of a lane that are read to their end, or were quiet, for people.
fn unusual_positions(lane: &Value) -> Vec<String> {
    let positions = lane["positions"].as_object().into_iter().flatten();
    let parsed = positions.filter_map(|(shard, text)| Some((shard, text.as_str()?.parse::<Position>().ok()?)));
    let unusual: Vec<_> = parsed.filter(|(_, position)| !position.is_plain()).collect();
    let shown = unusual.iter().take(SHARDS_SHOWN_MAX);
    let mut lines: Vec<_> =
        shown.map(|(shard, position)| format!("    shard {shard} read up to {}", described(*position))).collect();
    if let Some(more) = unusual.len().checked_sub(SHARDS_SHOWN_MAX).filter(|more| *more > 0) {
        lines.push(format!("    and {more} shards more, all in `--output json`"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shards_that_ended_or_were_quiet_are_said_in_words() {
        let lane = json!({"positions": {"a": "7:1", "b": "SHARD_END", "c": "9:0@1763737200000000"}});
        let expected =
            ["    shard b read up to its end", "    shard c read up to 9:0 (quiet until 2025-11-21T15:00:00Z)"];
        assert_eq!(unusual_positions(&lane), expected);
    }

    #[test]
    fn a_lane_tells_its_worker_and_its_lag() {
        let check =
            |lane: Value, expected: &str| assert_eq!(lane_line(&lane), format!("  lane 0of2: epoch 7{expected}"));
        check(json!({"lane": "0of2", "epoch": 7, "events_behind": null}), "");
        check(json!({"lane": "0of2", "epoch": 7, "events_behind": 3}), ", 3 events behind");
        let lease = json!({"owner": "one", "counter": 9, "hand_over_to": "two", "last_seen": "2026-11-21T00:00:00Z"});
        let lane = json!({"lane": "0of2", "epoch": 7, "millis_behind": {"a": 5, "b": 1200, "c": null}, "lease": lease});
        check(lane, ", 1200 ms behind, worker one, last seen 2026-11-21T00:00:00Z, asked for by two");
        check(json!({"lane": "0of2", "epoch": 7, "lease": {"owner": null}}), ", nobody has it");
        check(json!({"lane": "0of2", "epoch": 7, "problems": {"a": "gone"}}), "\n    WARNING: shard a: gone");
    }

    #[test]
    fn a_shard_tells_its_records_or_its_hash_keys() {
        let log = json!({"shard": "0", "records": 3, "bytes": 2048, "oldest": 1, "newest": 3});
        assert_eq!(shard_line(&log), "  shard 0               3 records        2KiB  sequences 1 to 3");
        let open = json!({"shard": "s-1", "parents": ["s-0"], "first_hash_key": "0", "last_hash_key": "99"});
        assert_eq!(shard_line(&open), "  shard s-1  hash keys 0 to 99, from s-0");
        let closed = json!({"shard": "s-0", "parents": [], "first_hash_key": "0", "last_hash_key": null});
        assert_eq!(shard_line(&closed), "  shard s-0  closed, hash keys from 0");
    }
}
