//! What the tests share: the simulated worlds, the contract suite of streams, a stream that is archived or resharded,
//! servers of AWS's interfaces and a line to them that fails as it is told, and the command as a process.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics has failed, and says so")]

pub mod archive;
pub mod contract;
pub mod cutover_world;
pub mod faulty_http;
pub mod faulty_store;
pub mod kinesis;
pub mod lake;
pub mod lease_contract;
pub mod moto;
mod parts;
pub mod process;
pub mod python;
pub mod simulation;
pub mod stream_world;
pub mod worker_world;
