//! The decision APIs: what a proxy of the mesh would decide, for whoever asks.
//!
//! Three ways in, one way to an answer. A [`Desk`] holds the snapshot in force and does
//! what every API needs: lets the caller ask or not, has the engine decide, records the
//! answer. What comes in is put in canonical form and matched as a proxy does it, and
//! what a question does not say is unknown, never guessed.
//!
//! - [`native`]: gRPC of our own, single, batch and stream
//! - [`authzen`]: OpenID AuthZEN Authorization API 1.0, HTTP and JSON
//! - [`envoy`]: Envoy's external authorization, version 3
//!
//! A caller is proven before it gets here. Who may ask about whom is Cedar
//! ([`crate::links`]). No socket is opened here.

pub mod authzen;
mod caller;
mod codes;
mod counts;
mod desk;
pub mod envoy;
mod force;
mod inquiry;
mod judged;
mod ledger;
pub mod native;
mod stage;
#[cfg(test)]
mod tests;

use http::{HeaderMap, header::CONTENT_TYPE};

pub use caller::{Busy, Caller, Load, Loads, Proof, Seat};
pub use counts::{Counts, Tally};
pub use desk::{Desk, DeskConfig, Limits};
pub use stage::Underway;

/// Longest message of a caller, in bytes.
pub const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Most questions of one batch.
pub const BATCH_MAX: usize = 256;

/// Whether a request is for one of the gRPC services.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Which API a question came by, as records call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenID AuthZEN.
    Authzen,
    /// Envoy's external authorization.
    ExtAuthz,
    /// Our own gRPC.
    Grpc,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Authzen, Self::ExtAuthz, Self::Grpc];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authzen => "authzen",
            Self::ExtAuthz => "ext_authz",
            Self::Grpc => "grpc",
        }
    }
}
