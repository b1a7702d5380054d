//! Into a Kinesis data stream.

use anyhow::Context;
use headwater_common::clock::{Clock, SystemClock};
use headwater_common::quantity::Bytes;
use headwater_stream::aws;
use headwater_stream::kinesis::create::{self, Capacity, Created};
use headwater_stream::kinesis::price::{self, Billing};
use headwater_stream::kinesis::tally::{AGGREGATE_BYTES, Counts, Way};
use headwater_stream::kinesis::{self, KinesisSink, SinkOptions};
use tokio::sync::watch;

use super::{send, tell};
use crate::cli::{Produce, ShardCount};
use crate::config::BadSetting;

/// The smallest aggregate that is asked for in earnest.
const AGGREGATE_BYTES_MIN: usize = 1024;

/// Sends the rows to the stream of a name or an ARN.
pub(super) async fn run(name: &str, options: Produce, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    let capacity = capacity(&options)?;
    let sink_options = sink_options(&options)?;
    let client = kinesis::client(&aws::load().await);
    let seed = SystemClock.now().micros().unsigned_abs();
    let (to, reject_file) = (options.to.clone(), options.reject_file.clone());
    if let Some(capacity) = capacity {
        match create::create(&client, name, capacity, seed).await? {
            Created::New => crate::say(&format!("made {to} with {capacity}")),
            Created::Found => crate::say(&format!("{to} is there, with {capacity}")),
        }
    }
    let sink = KinesisSink::start(client, name, sink_options, seed).await?;
    let (stream, billing) = (sink.identity(), sink.billing());
    let sent = send(options, stream, &sink, shutdown).await;
    let counts = sink.close().await.context("end the stream's sender")?;
    tell(&sent?, &to, &reject_file);
    tell_cost(&counts, billing);
    Ok(())
}

/// Returns what the stream is to be made with, when it is to be made, and refuses what is for a log.
fn capacity(options: &Produce) -> Result<Option<Capacity>, BadSetting> {
    let of_log = [
        ("--sync-every", options.sync_every.is_some()),
        ("--retention", options.retention.is_some()),
        ("--retention-bytes", options.retention_bytes.is_some()),
    ];
    if let Some((flag, _)) = of_log.into_iter().find(|(_, is_given)| *is_given) {
        return Err(BadSetting::Other(format!("{flag} is for a log; {} is a Kinesis data stream", options.to)));
    }
    match (options.create, options.shards) {
        (false, None) => Ok(None),
        (true, Some(ShardCount::Number(shards))) => Ok(Some(Capacity::Shards(shards))),
        (true, Some(ShardCount::OnDemand)) => Ok(Some(Capacity::OnDemand)),
        (true, None) => Err(BadSetting::Other("--create needs --shards N or --shards on-demand".into())),
        (false, Some(_)) => {
            Err(BadSetting::Other("--shards says how a Kinesis data stream is made; add --create".into()))
        }
    }
}

fn sink_options(options: &Produce) -> Result<SinkOptions, BadSetting> {
    let aggregate_bytes = match options.aggregate_bytes.map(Bytes::as_usize) {
        Some(_) if !options.aggregate => {
            return Err(BadSetting::Other("--aggregate-bytes needs --aggregate".into()));
        }
        Some(bytes) if bytes < AGGREGATE_BYTES_MIN => {
            return Err(BadSetting::Other("--aggregate-bytes is 1KiB at least".into()));
        }
        Some(bytes) => Some(bytes),
        None => options.aggregate.then_some(AGGREGATE_BYTES),
    };
    Ok(SinkOptions { aggregate_bytes, is_ordered: !options.unordered, is_paced: !options.unpaced })
}

/// Says what the run called, and what that costs, both ways.
fn tell_cost(counts: &Counts, billing: Billing) {
    let Counts { sent, other, is_aggregated, throttles, sent_again, .. } = counts;
    crate::say(&format!("{}; {throttles} records throttled, {sent_again} sent again", amount(sent, billing)));
    let (this, that) =
        if *is_aggregated { ("aggregated", "as one record each") } else { ("as one record each", "with --aggregate") };
    let (paid, not_paid) = (price::of_puts(billing, sent), price::of_puts(billing, other));
    let other = amount(other, billing);
    crate::say(&format!("estimated price, {this}: {paid:.6} USD; {that}: {not_paid:.6} USD ({other})"));
    let (region, as_of, hour) = (price::REGION, price::AS_OF, price::of_an_hour(billing));
    crate::say(&format!(
        "by list prices of {region}, {as_of}, not a quote; the stream itself costs {hour:.3} USD an hour"
    ));
}

/// Returns what is billed, in words.
fn amount(way: &Way, billing: Billing) -> String {
    let Way { calls, records, payload_units, on_demand_bytes, .. } = way;
    match billing {
        Billing::Provisioned { .. } => format!("{calls} calls, {records} records, {payload_units} payload units"),
        Billing::OnDemand => format!("{calls} calls, {records} records, {} as billed", Bytes(*on_demand_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(words: &[&str]) -> Produce {
        let words = [&["headwater", "produce", "in.csv", "--to", "kinesis://s"][..], words].concat();
        match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Produce(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_makes_no_sense_for_kinesis_is_refused() {
        let check = |words: &[&str], part: &str| {
            let options = options(words);
            let refused = capacity(&options).err().or_else(|| sink_options(&options).err());
            assert!(refused.is_some_and(|error| error.to_string().contains(part)), "{words:?}");
        };
        check(&["--retention", "1d"], "--retention is for a log");
        check(&["--sync-every", "5ms"], "--sync-every is for a log");
        check(&["--shards", "2"], "add --create");
        check(&["--create"], "--shards N or --shards on-demand");
        check(&["--aggregate-bytes", "20KiB"], "needs --aggregate");
        check(&["--aggregate", "--aggregate-bytes", "1023B"], "1KiB at least");
    }

    #[test]
    fn the_stream_and_its_records_are_made_as_asked_for() {
        let made = |words: &[&str]| capacity(&options(words)).unwrap();
        assert_eq!(made(&[]), None);
        assert_eq!(made(&["--create", "--shards", "3"]), Some(Capacity::Shards(3)));
        assert_eq!(made(&["--create", "--shards", "on-demand"]), Some(Capacity::OnDemand));
        let records = |words: &[&str]| sink_options(&options(words)).unwrap();
        assert_eq!(records(&[]), SinkOptions::default());
        assert_eq!(records(&["--aggregate"]).aggregate_bytes, Some(51_200));
        let all = records(&["--aggregate", "--aggregate-bytes", "20KiB", "--unordered", "--unpaced"]);
        assert_eq!(all, SinkOptions { aggregate_bytes: Some(20_480), is_ordered: false, is_paced: false });
    }
}
