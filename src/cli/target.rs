//! Where a question about policy is answered: a folder, the running mesh, or the
//! repository in the working folder, in this order. The answer says which it was.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{compiled::Compiled, decide::Snapshot};

use super::{Composing, Context, composing};
use crate::{
    control::client::Mesh,
    render,
    run::{pdp, policy},
};

/// Name of the file that makes a folder a policy repository.
const REPOSITORY_FILE: &str = "palisade.yaml";

/// The engine of a repository on this machine.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) async fn snapshot_of(
    dir: &Path,
    composing: &Composing,
) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
    let loaded = composing.load(dir).await.map_err(|d| vec![d])?;
    let compiled = loaded.compiled.ok_or(loaded.diagnostics)?;
    tell_absent(&compiled);
    policy::snapshot(compiled, 0).map_err(|d| vec![d])
}

/// Says on standard error which sources are not in a revision.
pub(super) fn tell_absent(compiled: &Compiled) {
    for absent in &compiled.absent {
        render::note(&render::snippet::render(&absent.told()));
    }
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
    /// A policy repository on this machine, and how it is put together.
    Folder(PathBuf, Composing),
    /// A running mesh.
    Mesh(Mesh),
}

impl Target {
    /// Chooses by what was given and what is there.
    ///
    /// # Errors
    /// When it is said how a repository is put together and there is none; when neither a folder was given, nor a mesh runs, nor the working folder is a
    /// repository.
    pub(super) async fn find(
        (policies, composing): (Option<&Path>, &Composing),
        context: &Context,
    ) -> Result<Self, Diagnostic> {
        if let Some(dir) = policies {
            return Ok(Self::Folder(dir.to_path_buf(), composing.clone()));
        }
        if composing.is_given() {
            if context.mesh.is_none() && Path::new(REPOSITORY_FILE).is_file() {
                return Ok(Self::Folder(PathBuf::from("."), composing.clone()));
            }
            return Err(composing::unplaced());
        }
        match Mesh::find(context.mesh.as_deref()).await {
            Ok(mesh) => Ok(Self::Mesh(mesh)),
            Err(_) if context.mesh.is_none() && Path::new(REPOSITORY_FILE).is_file() => {
                Ok(Self::Folder(PathBuf::from("."), composing.clone()))
            }
            Err(none) => {
                Err(none.help("start a mesh: palisade demo; or name a repository: --policies DIR"))
            }
        }
    }

    /// How the answer names it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Folder(dir, _) => format!("repository {}", dir.display()),
            Self::Mesh(mesh) => {
                let name = mesh.processes().next().map_or("", |a| a.mesh.as_str());
                format!("running mesh {name}")
            }
        }
    }
}
