//! Distribution: how a good repository becomes a numbered revision and reaches
//! every proxy.
//!
//! ```text
//! sources ─► Source ─► State (watch) ─► Distribution ══ stream ══► Subscription ─► apply
//!              │ keeps the last good one                   keeps the last good one │
//!           state_dir                                                          state_dir
//! ```
//!
//! A revision may go to some proxies before others, and be tried beside what is in force
//! ([`rollout`]); which one a proxy has is still its PDP's word.
//!
//! Invariant: a bad revision never replaces a good one, and a sequence number
//! never goes backwards, also over restarts of either side; unless those who have numbered
//! both revisions said so.

use palisade_mesh::{diagnostic::Diagnostic, spiffe_id::TrustDomain};

mod assembly;
mod backoff;
mod beside;
mod bundled;
mod changes;
pub mod codes;
mod compose;
mod distribution;
mod endpoints;
mod fetch;
mod git;
mod keep;
mod listed;
mod origin;
mod parts;
mod preview;
mod proving;
mod recorder;
mod registry;
pub mod rollout;
mod slices;
mod source;
mod subscription;
mod watched;
mod word;

pub use beside::Beside;
pub use compose::{COMPOSE_WAIT, compose};
pub use distribution::{
    ANNOUNCEMENTS_MAX, Distribution, DistributionConfig, HELLO_TIMEOUT, IDLE_TIMEOUT,
};
pub use fetch::{Fetch, Fetched, Fetching};
pub use git::load_credited;
pub use keep::{History, LOG_MAX, REVISION_LEN_MAX};
pub use parts::{Fault, Standing};
pub use preview::{Elsewhere, Preview, Revision, linted, preview};
pub use proving::{Prove, Proved};
pub use recorder::Recorder;
pub use registry::{INSTANCES_MAX, Nacked, PROXIES_MAX, ProxyStatus};
pub use source::{
    Content, Difference, Observe, Order, Orders, Published, Rejected, Source, SourceConfig,
    SourceError, State, Underway,
};
pub use subscription::{
    Connect, Restored, Subscribed, Subscription, SubscriptionConfig, SubscriptionState, Tell,
};

pub use word::Freshness;

/// Attack T104.
fn older(got: u64, have: u64) -> Diagnostic {
    Diagnostic::error(
        codes::SEQUENCE,
        format!("policy revision {got} is not newer than {have}, which is or was in force"),
    )
    .cause("numbers only grow; a lower one is a rollback by somebody else, or a PDP that lost its state")
    .help("restore the PDP's state folder; to go back to old content, publish it under a new number")
}

/// Policy of another trust domain knows none of our workloads; its number would keep out ours.
fn foreign(domain: &TrustDomain, own: &TrustDomain) -> Diagnostic {
    Diagnostic::error(
        codes::FOREIGN_DOMAIN,
        format!("policy is for trust domain `{domain}`"),
    )
    .cause(format!("this is `{own}`"))
    .help("give it the policy of its own trust domain; see what is at the source's place")
}

#[cfg(test)]
pub(crate) mod tests;
