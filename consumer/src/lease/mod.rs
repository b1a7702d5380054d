//! Leases: how many workers share the lanes of a generation.
//!
//! In the order of the data: `claim` says whom a lane belongs to, [`machine`] decides what to take, to ask for and to
//! hand over, [`row`] is a lease as it is stored, [`store`] where, with an adapter in memory and one for DynamoDB
//! (`dynamo`), and `keeper` acts for one worker. The supervisor of the consumer runs the lanes it names.
//!
//! A lease is a hint that keeps two workers from doing the same work. Nothing of the lake's correctness rests on it, and
//! no position comes from it: the cut is the fence, and positions come from cuts.

mod claim;
pub mod machine;

pub use claim::{BadWorkerId, Claim, WorkerId};
