//! The local socket: how the command line asks a running mesh.
//!
//! HTTP and JSON over a unix socket, one per process, in a folder that only its
//! user may enter. The peer's uid is the authentication. Nobody has to name an
//! address: the folder tells what runs.

use std::{
    env,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub mod api;
pub mod client;
pub(crate) mod clocks;
pub mod server;
pub mod status;

/// What a process tells about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Name of the mesh, as `--mesh` takes it.
    pub mesh: String,
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Roles it runs: `ca`, `agent`, `pdp`, `audit`, `proxy`.
    pub roles: Vec<String>,
    /// Whether it is a demo.
    pub demo: bool,
    /// Start, microseconds since the Unix epoch.
    pub started_us: i64,
}

/// The folder of the sockets: `$XDG_RUNTIME_DIR/palisade`, else one in the
/// temporary folder that carries the user's id.
pub fn folder() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_dir() => Path::new(&dir).join("palisade"),
        _ => env::temp_dir().join(format!("palisade-{}", nix::unistd::getuid())),
    }
}

/// The socket of one process.
pub fn socket(mesh: &str, process: &str) -> PathBuf {
    folder().join(format!("{mesh}.{process}.sock"))
}
