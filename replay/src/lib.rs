//! Builds a table again from the log, beside the live one.
//!
//! In the order of the work: [`range`] says from where to where, [`coverage`] who still has those events, [`plan`] what
//! a rebuild would be, [`rebuild`] makes generation g+1 by the consumer's own pipeline, [`standing`] says where a
//! generation stands, [`status`] shows them all, and [`compare`] g against g+1. [`beginning`] decides the schema that
//! g+1 begins with.
//! Absent on purpose: any transformation (it is the consumer's), and the live pointer (no rebuild touches it).

pub mod beginning;
pub mod compare;
pub mod coverage;
mod error;
pub mod plan;
pub mod range;
pub mod rebuild;
pub mod standing;
pub mod status;

pub use error::Error;
