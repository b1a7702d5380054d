//! What puts cost, by list prices. Not a quote: prices differ by region and contract, and change. The page below is
//! where they stand.
//!
//! Region [`REGION`], <https://aws.amazon.com/kinesis/data-streams/pricing/>, as of [`AS_OF`].

use super::tally::Way;

/// The region of the prices.
pub const REGION: &str = "us-east-1";

/// When the prices were noted.
pub const AS_OF: &str = "2026";

/// US dollars for a million PUT payload units of a provisioned stream.
pub const USD_PER_MILLION_PAYLOAD_UNITS: f64 = 0.014;

/// US dollars for a shard of a provisioned stream and hour.
pub const USD_PER_SHARD_HOUR: f64 = 0.015;

/// US dollars for a GB (2^30 bytes) put into an on-demand stream.
pub const USD_PER_ON_DEMAND_GB: f64 = 0.08;

/// US dollars for an on-demand stream and hour.
pub const USD_PER_ON_DEMAND_STREAM_HOUR: f64 = 0.04;

/// How a stream is billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// By shards and by payload units.
    Provisioned {
        /// Shards that take records.
        shards: u32,
    },
    /// By bytes.
    OnDemand,
}

/// Returns the US dollars that the records cost.
#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
pub fn of_puts(billing: Billing, way: &Way) -> f64 {
    match billing {
        Billing::Provisioned { .. } => way.payload_units as f64 / 1e6 * USD_PER_MILLION_PAYLOAD_UNITS,
        Billing::OnDemand => way.on_demand_bytes as f64 / f64::from(1 << 30) * USD_PER_ON_DEMAND_GB,
    }
}

/// Returns the US dollars that the stream costs an hour, whatever is put.
pub fn of_an_hour(billing: Billing) -> f64 {
    match billing {
        Billing::Provisioned { shards } => f64::from(shards) * USD_PER_SHARD_HOUR,
        Billing::OnDemand => USD_PER_ON_DEMAND_STREAM_HOUR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_cost_by_units_or_by_bytes() {
        let way = Way { payload_units: 2_000_000, on_demand_bytes: 1 << 31, ..Way::default() };
        let check = |billing, puts: f64, hour: f64| {
            assert!((of_puts(billing, &way) - puts).abs() < 1e-9, "{billing:?}");
            assert!((of_an_hour(billing) - hour).abs() < 1e-9, "{billing:?}");
        };
        check(Billing::Provisioned { shards: 4 }, 0.028, 0.06);
        check(Billing::OnDemand, 0.16, 0.04);
    }
}
