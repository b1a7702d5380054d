//! Vocabulary that two or more crates speak: what an event is, where it stands in the stream, which window it is in.
//!
//! Nothing here waits or touches the world. The clock is a trait; its only adapter that reads a wall clock is
//! [`clock::SystemClock`]. Absent on purpose: anything about storage formats (the `lake` crate) or transports (`stream`).

pub mod accounts;
pub mod clock;
pub mod event;
pub mod event_time;
pub mod hash;
pub mod json;
pub mod limits;
pub mod outcome;
pub mod position;
pub mod quantity;
pub mod retry;
pub mod timestamp;
pub mod window;
