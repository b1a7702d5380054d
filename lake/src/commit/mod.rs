//! The commit protocol: `machine` decides, `writer` acts. `seal` says what stops a lane.

mod machine;
mod seal;
mod writer;

pub use machine::{Action, Fact, FileRef, Machine, Proposal, Table, Violation};
pub use seal::{SealState, Standing, Unblock, seal_state, unblock};
pub use writer::{
    EncodedFile, EpochRows, LaneWriter, Prepared, Reached, Ready, Settings, Tables, lanes_with_cuts, positions_after,
    read_cut,
};
