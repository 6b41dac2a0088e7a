//! Where a question about policy is answered: a folder, the running mesh, or the
//! repository in the working folder, in this order. The answer says which it was.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{author, decide::Snapshot};

use super::Context;
use crate::{
    control::client::Mesh,
    run::{pdp, policy},
};

/// Name of the file that makes a folder a policy repository.
const REPOSITORY_FILE: &str = "palisade.yaml";

/// The engine of a repository on this machine.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn snapshot_of(dir: &Path) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
    let loaded = author::load(dir);
    let compiled = loaded.compiled.ok_or(loaded.diagnostics)?;
    policy::snapshot(compiled, 0).map_err(|d| vec![d])
}

/// The engine of the revision that is in force in the running mesh.
///
/// # Errors
/// When no mesh answers, or nothing is in force.
pub(super) async fn running(context: &Context) -> Result<Arc<Snapshot>, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let mut revision = Vec::new();
    mesh.bytes("pdp", pdp::REVISION_ROUTE, &(), |bytes| {
        revision.extend_from_slice(bytes);
        true
    })
    .await?;
    policy::of_wire(&revision)
}

/// Where to ask.
pub(super) enum Target {
    /// A policy repository on this machine.
    Folder(PathBuf),
    /// A running mesh.
    Mesh(Mesh),
}

impl Target {
    /// Chooses by what was given and what is there.
    ///
    /// # Errors
    /// When neither a folder was given, nor a mesh runs, nor the working folder is a
    /// repository.
    pub(super) async fn find(
        policies: Option<&Path>,
        context: &Context,
    ) -> Result<Self, Diagnostic> {
        if let Some(dir) = policies {
            return Ok(Self::Folder(dir.to_path_buf()));
        }
        match Mesh::find(context.mesh.as_deref()).await {
            Ok(mesh) => Ok(Self::Mesh(mesh)),
            Err(_) if context.mesh.is_none() && Path::new(REPOSITORY_FILE).is_file() => {
                Ok(Self::Folder(PathBuf::from(".")))
            }
            Err(none) => {
                Err(none.help("start a mesh: palisade demo; or name a repository: --policies DIR"))
            }
        }
    }

    /// How the answer names it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Folder(dir) => format!("repository {}", dir.display()),
            Self::Mesh(mesh) => {
                let name = mesh.processes().next().map_or("", |a| a.mesh.as_str());
                format!("running mesh {name}")
            }
        }
    }
}
