//! The trust domain's authority, and the agent that hands out its identities.
//!
//! Two halves that build apart. `server` owns the keys: a root and an
//! intermediate in a journalled state machine, the registrations that say which
//! workload is who, and issuance. `agent` runs beside the workloads: it attests
//! who calls, asks the server for certificates, rotates them, and serves the
//! SPIFFE Workload API on a unix socket. An agent without a server compiles
//! neither rcgen nor SQL.
//!
//! Reading order:
//! - [`selector`], [`registration`], [`trust`]: which process is who, and whom to trust
//! - [`request`]: what an agent asks for, and how it proves the key is its own
//! - [`server`] over `authority`, `journal`, `keystore`, `store` and [`issue`]: the authority
//! - [`agent`]: attestation, rotation, Workload API
//! - [`join`]: how another host becomes a node: tokens, proofs, refusals
//! - [`socket`]: unix sockets, bound and accepted with care

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "server")]
pub mod authority;
#[cfg(any(feature = "agent", feature = "server"))]
mod budget;
mod context;
#[cfg(feature = "server")]
pub mod issue;
pub mod join;
#[cfg(feature = "server")]
mod journal;
#[cfg(feature = "server")]
mod keystore;
#[cfg(any(feature = "agent", feature = "server"))]
mod random;
#[cfg(any(feature = "agent", feature = "server"))]
mod recorder;
pub mod registration;
#[cfg(any(feature = "agent", feature = "server"))]
mod renewal;
pub mod request;
pub mod selector;
#[cfg(feature = "server")]
pub mod server;
pub mod socket;
#[cfg(feature = "server")]
mod store;
#[cfg(test)]
mod testing;
pub mod trust;

#[cfg(feature = "agent")]
pub use agent::{Agent, AgentConfig};

#[cfg(feature = "server")]
pub use server::{Ca, CaConfig, CaError};

/// Certificates replaced in a second after a forced rotation, by default. Here, because
/// every build reads configuration files.
pub const REISSUE_RATE: u32 = 100;
