//! A lease as it is stored: a key that says which lane of which table it is, the claim, and hints for people.
//!
//! The columns have the names of the Kinesis Client Library's lease tables, so that tools that show those show these.
//! `handOverTo`, `lake` and `renewedAt` are ours. Keys carry a version: what another version wrote about the same table
//! is refused, never passed over, because who overlooks a lease takes a lane that is another's.

use std::fmt;
use std::str::FromStr;

use headwater_common::timestamp::Timestamp;
use headwater_lake::layout::{Epoch, GenerationNumber, Lane, TableName};

use super::claim::Claim;
use super::error::Error;

/// The column names.
pub mod column {
    /// The partition key: see [`super::LeaseKey`].
    pub const KEY: &str = "leaseKey";
    /// The claim's owner; not there when nobody has the lane.
    pub const OWNER: &str = "leaseOwner";
    /// The claim's counter.
    pub const COUNTER: &str = "leaseCounter";
    /// Ours: the claim's wish; not there when nobody asks for the lane.
    pub const HAND_OVER_TO: &str = "handOverTo";
    /// The lane's last committed epoch as its owner told it, a number as text. Nothing goes on from it.
    pub const CHECKPOINT: &str = "checkpoint";
    /// Always 0: an epoch has no parts.
    pub const SUB_SEQUENCE: &str = "checkpointSubSequenceNumber";
    /// Changes of the owner since the checkpoint moved.
    pub const OWNER_SWITCHES: &str = "ownerSwitchesSinceCheckpoint";
    /// The library's set of parents. A lane has none, and an empty set cannot be stored: it is never there.
    pub const PARENTS: &str = "parentShardId";
    /// Ours: the lake that the table is in.
    pub const LAKE: &str = "lake";
    /// Ours: the owner's wall clock at its last sign of life. Nothing is decided by it.
    pub const RENEWED_AT: &str = "renewedAt";
}

/// The version of the keys.
const VERSION: &str = "v1";

/// Which lane a lease is of: `v1/<table>/<generation>/<lane>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The table.
    pub table: TableName,
    /// The generation of it.
    pub generation: GenerationNumber,
    /// The lane.
    pub lane: Lane,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which lane it is of.
    pub key: LeaseKey,
    /// Whom the lane belongs to.
    pub claim: Claim,
    /// The last committed epoch, a hint for people.
    pub checkpoint: Epoch,
    /// Changes of the owner since the checkpoint moved.
    pub owner_switches: u64,
    /// The lake that the table is in.
    pub lake: String,
    /// What the owner's clock showed at its last sign of life.
    pub renewed_at: Option<Timestamp>,
}

/// A key that this version did not write.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not the key of a lease")]
pub struct BadKey(String);

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}/{}/{}/{}", self.table, self.generation, self.lane)
    }
}

impl FromStr for LeaseKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let parts: Vec<&str> = text.split('/').collect();
        let key = match parts[..] {
            [VERSION, table, generation, lane] => table
                .parse()
                .ok()
                .zip(generation.parse().ok())
                .zip(lane.parse().ok())
                .map(|((table, generation), lane)| Self { table, generation, lane }),
            _ => None,
        };
        // Only what is written that way is ours: `0of04` would be another row of the same lane.
        key.filter(|key| key.to_string() == text).ok_or_else(|| BadKey(text.to_owned()))
    }
}

/// Checks that every lease of a table in a lease table is of this version, and that the lease table holds leases of
/// Headwater only. `place` is the lease table, for the message.
///
/// # Errors
/// Names the key that it refuses.
pub fn check_keys(place: &str, table: &TableName, keys: &[String]) -> Result<(), Error> {
    for key in keys {
        let mut parts = key.split('/');
        let version = parts.next().filter(|version| is_version(version));
        let Some((version, named)) = version.zip(parts.next()) else {
            return Err(Error::NotALease { place: place.to_owned(), key: key.clone() });
        };
        let is_readable = version == VERSION && key.parse::<LeaseKey>().is_ok();
        if named == table.as_str() && !is_readable {
            return Err(Error::OtherVersion { place: place.to_owned(), key: key.clone(), known: VERSION });
        }
    }
    Ok(())
}

fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        name.parse().unwrap()
    }

    #[test]
    fn a_key_names_version_table_generation_and_lane() {
        let lane = "3of4".parse().unwrap();
        let key = LeaseKey { table: table("orders"), generation: GenerationNumber(2), lane };
        assert_eq!(key.to_string(), "v1/orders/g00002/3of4");
        assert_eq!(key.to_string().parse::<LeaseKey>().unwrap(), key);
        for bad in ["", "v1", "v2/orders/g00002/3of4", "v1/orders/g2/3of4", "v1/orders/g00002/3of4/x", "shardId-000"] {
            assert!(bad.parse::<LeaseKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fm12_a_lease_of_another_version_is_refused_never_passed_over() {
        let check = |key: &str, hint: Option<&str>| {
            let refused = check_keys("dynamodb table t", &table("orders"), &[key.to_owned()]).err();
            let said = refused.map(|error| error.to_string());
            match hint {
                None => assert_eq!(said, None, "{key}"),
                Some(hint) => assert!(said.as_ref().is_some_and(|said| said.contains(hint)), "{key}: {said:?}"),
            }
        };
        check("v1/orders/g00001/0of4", None);
        check("v1/payments/g00001/0of4", None);
        // What another version says of another table is none of our business.
        check("v2/payments/whatever", None);
        check("v2/orders/g00001/0of4", Some("v2/orders/g00001/0of4"));
        check("v0/orders", Some("v0/orders"));
        check("v1/orders/g00001/lane-0", Some("v1/orders/g00001/lane-0"));
        // The table of another application of the Kinesis Client Library.
        check("shardId-000000000000", Some("shardId-000000000000"));
        check("v/orders/g00001/0of4", Some("v/orders"));
    }
}
