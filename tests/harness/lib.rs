//! What the tests share: the simulated world, the contract suite of streams, and the command as a process.

pub mod contract;
pub mod process;
pub mod simulation;
