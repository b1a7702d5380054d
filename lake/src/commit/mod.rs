//! The commit protocol: `machine` decides, `writer` acts. `seal` says what stops a lane, `progress` how far it is.

mod machine;
mod progress;
mod seal;
mod writer;

pub use machine::{Action, Fact, FileRef, Machine, Proposal, Table, Violation};
pub(crate) use progress::missing_cut;
pub use progress::{
    committed_everywhere, committed_everywhere_of, furthest_after, lanes_with_cuts, positions_after, read_cut,
};
pub use seal::{SealState, Standing, Unblock, seal_state, unblock};
pub use writer::{EncodedFile, EpochRows, LaneWriter, Prepared, Reached, Ready, Settings, Tables};
