//! Makes a stream, for load tests and first steps. What runs for long is better made by whatever makes the rest of the
//! infrastructure.

use std::fmt;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::types::{StreamMode, StreamModeDetails};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::price::Billing;
use super::summary::{describe, patiently, until_active};
use super::target::Target;
use crate::{Error, aws};

/// How much a stream takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capacity {
    /// So many shards, which stay until somebody changes them.
    Shards(u32),
    /// As many as the service finds right.
    OnDemand,
}

/// Who made the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was made just now.
    New,
    /// It was there, and has what was asked for.
    Found,
}

impl Capacity {
    fn of(billing: Billing) -> Self {
        match billing {
            Billing::Provisioned { shards } => Self::Shards(shards),
            Billing::OnDemand => Self::OnDemand,
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shards(1) => f.write_str("1 shard"),
            Self::Shards(shards) => write!(f, "{shards} shards"),
            Self::OnDemand => f.write_str("on-demand capacity"),
        }
    }
}

/// Makes a stream, unless it is there, and waits until it takes records. `name` may be an ARN; the stream is made in
/// the account and region of the credentials.
///
/// # Errors
/// When it cannot be made, when it is there and has another capacity, or when it takes too long.
pub async fn create(client: &Client, name: &str, capacity: Capacity, seed: u64) -> Result<Created, Error> {
    let target = Target::new(name);
    let mut random = SmallRng::seed_from_u64(seed);
    let found = patiently(&mut random, async || describe(client, &target).await).await?;
    let created = match found {
        Some(_) => Created::Found,
        None => patiently(&mut random, async || ask_for(client, &target, capacity).await).await?,
    };
    let summary = until_active(client, &target, true, &mut random).await?;
    let actual = Capacity::of(summary.billing);
    if created == Created::Found && actual != capacity {
        let (actual, wanted) = (actual.to_string(), capacity.to_string());
        return Err(Error::OtherCapacity { url: target.url(), actual, wanted });
    }
    Ok(created)
}

/// Asks for a stream; somebody else may be faster.
async fn ask_for(client: &Client, target: &Target, capacity: Capacity) -> Result<Created, Error> {
    let mode = match capacity {
        Capacity::Shards(_) => StreamMode::Provisioned,
        Capacity::OnDemand => StreamMode::OnDemand,
    };
    let shards = match capacity {
        Capacity::Shards(shards) => Some(i32::try_from(shards).unwrap_or(i32::MAX)),
        Capacity::OnDemand => None,
    };
    let failed = |error| target.failed("CreateStream", error);
    let mode = StreamModeDetails::builder().stream_mode(mode).build();
    let mode = mode.map_err(|error| failed(SdkError::construction_failure(error)))?;
    match target.create(client).set_shard_count(shards).stream_mode_details(mode).send().await {
        Ok(_) => Ok(Created::New),
        Err(error) if aws::classify(&error).code == "ResourceInUseException" => Ok(Created::Found),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_there_must_be_the_one_asked_for() {
        let actual = Capacity::of(Billing::Provisioned { shards: 2 });
        assert_eq!((actual, actual.to_string().as_str()), (Capacity::Shards(2), "2 shards"));
        assert_eq!(Capacity::of(Billing::OnDemand).to_string(), "on-demand capacity");
        assert_eq!(Capacity::Shards(1).to_string(), "1 shard");
    }
}
