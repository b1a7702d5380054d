//! What can be asked of workers that share a table's lanes.

use std::time::Duration;

use clap::Args;
use headwater_common::quantity::parse_duration;
use headwater_consumer::lease::WorkerId;

/// Options of a worker that shares lanes.
#[derive(Debug, Args)]
pub struct Sharing {
    /// Shares the lanes with other workers, by leases in this DynamoDB table [default: reads all lanes alone]
    #[arg(long, value_name = "NAME")]
    pub lease_table: Option<String>,
    /// Makes the lease table where there is none; it is paid by the request
    #[arg(long)]
    pub create_lease_table: bool,
    /// The name of this worker; no two have the same [default: host, process and a random number]
    #[arg(long, value_name = "NAME")]
    pub worker_id: Option<WorkerId>,
    /// Takes so many lanes at most [default: its share, and in need all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_leases: Option<u32>,
    /// A worker that gives no sign of life for so long loses its lanes; all workers say the same
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub lease_duration: Duration,
    /// A worker that is asked for a lane commits and hands it over within this time, or loses it
    /// [default: the lease duration]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub hand_over_deadline: Option<Duration>,
}
