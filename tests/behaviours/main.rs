//! What a user notices, one file a behaviour.

mod contract;
mod main_job;

const PROGRAM: &str = env!("CARGO_BIN_EXE_headwater-under-test");
