//! The index against a linear scan of the log, through crashes, damage and
//! late outcomes.

mod against_scan;
mod ended;
pub(crate) mod fake;
mod gone;
mod losses;
mod rolled;
mod store;
mod tidy;
