//! Section `audit.api`: where others ask the audit service.

use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;

/// Section `audit.api`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadersSection {
    /// Where it is served: TLS, to callers with an SVID or a bearer token.
    pub listen: SocketAddr,
    /// Cedar file of who may read what.
    pub policy: PathBuf,
    /// File of hashed bearer tokens for callers without an SVID. Default: none, there are
    /// no such callers.
    pub tokens: Option<PathBuf>,
    /// Requests of one caller in flight, tails and exports among them. Default: 16.
    #[serde(default = "default_in_flight")]
    pub in_flight: usize,
    /// Requests of one caller in a second. Default: 50.
    #[serde(default = "default_requests_per_s")]
    pub requests_per_s: u32,
    /// Tails of all callers at a time. Default: 32.
    #[serde(default = "default_tails")]
    pub tails: usize,
    /// Most records of one export. Default: 1,000,000.
    #[serde(default = "default_export_rows")]
    pub export_rows: u64,
}

fn default_in_flight() -> usize {
    16
}

fn default_requests_per_s() -> u32 {
    50
}

fn default_tails() -> usize {
    32
}

fn default_export_rows() -> u64 {
    1_000_000
}
