//! The commit protocol: `machine` decides, `writer` acts.

mod machine;
mod writer;

pub use machine::{Action, Fact, FileRef, Machine, Proposal, Table, Violation};
pub use writer::{
    EncodedFile, EpochRows, LaneWriter, Prepared, Ready, Settings, Tables, lanes_with_cuts, positions_after, read_cut,
};
