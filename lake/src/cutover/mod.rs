//! Cutover and rollback: `machine` decides, `tool` acts. They are the same steps; only the roles are exchanged.
//!
//! `docs/kappa.md` has the protocol, and every state that a crash or a concurrent tool can leave.

mod machine;
mod tool;

pub use machine::{Action, End, Fact, Machine, Outcome, Positions, Progress};
pub use tool::{CaughtUp, Failure, Hands, Published, Settings, cut_over, published, read_progress};
