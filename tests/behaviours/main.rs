//! What a user notices, one file a behaviour.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that panics has failed, and says so")]

mod archive;
mod command_line;
mod contract;
mod cost;
mod crash;
mod cutover;
mod failure_modes;
mod faulty_store;
mod golden;
mod iam;
mod joined;
mod kappa;
mod kinesis_faults;
mod kinesis_produce;
mod kinesis_reshard;
mod kinesis_source;
mod kpl;
mod lease_outage;
mod leases;
mod lineage;
mod main_job;
mod memory;
mod metrics;
mod produce;
mod readers;
mod redo;
mod relaning;
mod replay;
mod reshard;
mod reshard_archive;
mod reshard_random;
mod reshard_replay;
mod servers;
mod transform;

const PROGRAM: &str = env!("CARGO_BIN_EXE_headwater-under-test");
