//! Control links: how the roles of the mesh reach each other.
//!
//! Every link between roles is gRPC over mTLS with SVIDs, or a unix socket on
//! one host. Traffic sockets belong to the proxy crate, not here.

mod arrival;
#[cfg(feature = "agent")]
pub mod authority;
#[cfg(feature = "full")]
pub mod bundles;
pub mod crowd;
pub mod directory;
#[cfg(feature = "full")]
pub mod door;
#[cfg(feature = "full")]
pub mod front;
pub mod heads;
pub mod identity;
pub mod inherited;
pub mod kill;
pub mod parent;
#[cfg(feature = "full")]
pub mod registry;
#[cfg(feature = "full")]
pub mod storage;
#[cfg(feature = "full")]
pub mod syslog;
mod ties;
pub mod tls;
pub mod uds;
#[cfg(feature = "full")]
pub mod web;
