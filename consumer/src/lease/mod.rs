//! Leases: how many workers share the lanes of a generation.
//!
//! In the order of the data: `claim` says whom a lane belongs to, [`machine`] decides what to take, to ask for and to
//! hand over, [`row`] is a lease as it is stored, [`store`] where, with an adapter in memory and one for DynamoDB
//! (`dynamo`), and `keeper` acts for one worker. The consumer's `supervisor` runs the lanes that it names.
//!
//! A lease is a hint that keeps two workers from doing the same work. Nothing of the lake's correctness rests on it, and
//! no position comes from it: the cut is the fence, and positions come from cuts.

use std::sync::Arc;
use std::time::Duration;

mod claim;
#[cfg(feature = "aws")]
pub mod dynamo;
mod error;
pub(crate) mod keeper;
pub mod machine;
pub mod row;
pub mod store;

pub use claim::{BadWorkerId, Claim, WorkerId};
pub use error::Error;
pub use machine::Timing;
pub use store::LeaseStore;

/// How long a lease lasts without a sign of life, unless told otherwise.
pub const DURATION_DEFAULT: Duration = Duration::from_secs(30);

/// The shortest lease: a renewal, which comes three times in it, must have time for an answer that is late.
pub const DURATION_MIN: Duration = Duration::from_secs(1);

/// What a worker shares lanes with.
#[derive(Debug, Clone)]
pub struct Leases {
    /// Where the leases are.
    pub store: Arc<dyn LeaseStore>,
    /// The worker's name.
    pub worker: WorkerId,
    /// How many lanes it takes at most.
    pub max_leases: usize,
    /// How long a lease lasts, and a hand-over may take.
    pub timing: Timing,
}
