//! Builds a table again from the log, beside the live one.
//!
//! In the order of the work: [`range`] says from where to where, [`coverage`] who still has those events, [`plan`] what
//! a rebuild would be, [`rebuild`] makes generation g+1 by the consumer's own pipeline, [`standing`] says where a
//! generation stands, [`status`] shows them all, and [`compare`] g against g+1. [`beginning`] decides the schema that
//! g+1 begins with.
//! [`cutover`] makes another generation live, by the lake's protocol.
//! Absent on purpose: any transformation (it is the consumer's), and the protocol itself (it is the lake's).

pub mod beginning;
pub mod compare;
pub mod coverage;
pub mod cutover;
mod error;
pub mod plan;
pub mod range;
pub mod rebuild;
pub mod standing;
pub mod status;

pub use error::Error;
