//! Where a question about policy is answered: a folder, the running mesh, or the
//! repository in the working folder, in this order. The answer says which it was.

use std::path::{Path, PathBuf};

use palisade_mesh::diagnostic::Diagnostic;

use super::Context;
use crate::control::client::Mesh;

/// Name of the file that makes a folder a policy repository.
const REPOSITORY_FILE: &str = "palisade.yaml";

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
