//! What a user notices, one file a behaviour.

mod command_line;
mod contract;
mod crash;
mod main_job;
mod memory;
mod readers;

const PROGRAM: &str = env!("CARGO_BIN_EXE_headwater-under-test");
