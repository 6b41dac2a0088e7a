//! Where a revision under comparison comes from: a folder, a commit, a bundle, or the running
//! mesh.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    author::{self, Loaded, Shared},
    bundle::file,
    compiled::Absent,
    decide::Snapshot,
    publish::{Preview, Revision},
};

use crate::{
    cli::{Composing, Context, composing::Composer, target::running},
    run::policy,
};

/// A revision, and what it was called.
pub(super) struct Side {
    /// As it was asked for, with the commit where there is one.
    pub(super) name: String,
    /// Its engine.
    pub(super) snapshot: Arc<Snapshot>,
}

impl Side {
    /// The sources that are not in it.
    pub(super) fn absent(&self) -> &[Absent] {
        &self.snapshot.compiled().absent
    }
}

/// What is not in some of these revisions, and that as diagnostics.
pub(super) fn absent<'s>(
    sides: impl IntoIterator<Item = &'s Side>,
) -> (Vec<Absent>, Vec<Diagnostic>) {
    let mut all: Vec<Absent> = Vec::new();
    for absent in sides.into_iter().flat_map(Side::absent) {
        if !all.contains(absent) {
            all.push(absent.clone());
        }
    }
    let told = all.iter().map(Absent::told).collect();
    (all, told)
}

/// Where a revision is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Bundle(PathBuf),
    Folder(PathBuf),
    /// A commit of the repository that a folder lies in.
    Git {
        reference: String,
        dir: PathBuf,
    },
    Running,
}

impl Source {
    /// Understands what was asked for; a commit is one of the repository that `near` lies in.
    fn of(name: &str, near: &Path) -> Self {
        if let Some(reference) = name.strip_prefix("git:") {
            return Self::Git {
                reference: reference.to_owned(),
                dir: near.to_path_buf(),
            };
        }
        match Path::new(name) {
            _ if name == "running" => Self::Running,
            path if path.is_file() => Self::Bundle(path.to_path_buf()),
            path => Self::Folder(path.to_path_buf()),
        }
    }
}

/// Both revisions of a comparison, compiled at the same time: what both have is worked out once.
///
/// # Errors
/// What is wrong with the older one, then what is wrong with the newer one.
pub(super) async fn both(
    (base, head): (&str, &str),
    composing: &Composing,
    context: &Context,
) -> Result<(Side, Side), Vec<Diagnostic>> {
    let shared = Shared::default();
    let composer = composing.begin();
    let of = |name, older| load((name, older), head, context, (&composer, Some(&shared)));
    match tokio::join!(of(base, true), of(head, false)) {
        (Ok(base), Ok(head)) => {
            composer.settled().map_err(|d| vec![d])?;
            Ok((base, head))
        }
        (Err(wrong), Ok(_)) | (Ok(_), Err(wrong)) => Err(wrong),
        (Err(mut of_base), Err(of_head)) => {
            of_base.extend(of_head);
            Err(of_base)
        }
    }
}

/// One revision, compiled. A commit is one of the repository that the working folder lies in.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn one(
    name: &str,
    composing: &Composing,
    context: &Context,
) -> Result<Side, Vec<Diagnostic>> {
    let shared = Shared::default();
    let composer = composing.begin();
    let side = load((name, false), name, context, (&composer, Some(&shared))).await?;
    composer.settled().map_err(|d| vec![d])?;
    Ok(side)
}

async fn load(
    (name, older): (&str, bool),
    head: &str,
    context: &Context,
    (composer, shared): (&Composer, Option<&Shared>),
) -> Result<Side, Vec<Diagnostic>> {
    let near = match Source::of(head, Path::new(".")) {
        Source::Folder(dir) => dir,
        _ => PathBuf::from("."),
    };
    match Source::of(name, &near) {
        Source::Running => {
            let snapshot = running(context).await.map_err(|d| vec![d])?;
            Ok(Side {
                name: format!("running, revision {}", snapshot.versions().sequence),
                snapshot,
            })
        }
        Source::Folder(dir) => {
            let made = composer
                .revision(
                    Revision {
                        dir: &dir,
                        reference: None,
                        older,
                    },
                    shared,
                )
                .await;
            let loaded = made.map_err(|d| vec![told(d, name)])?.loaded;
            built(name.to_owned(), || Ok(loaded)).await
        }
        Source::Bundle(path) => {
            let shared = shared.cloned().unwrap_or_default();
            let load = move || {
                let bundle = file::read(&path)?.signed.bundle;
                Ok(author::compile_with(bundle, &shared))
            };
            built(name.to_owned(), load).await
        }
        Source::Git { reference, dir } => {
            let made = composer
                .revision(
                    Revision {
                        dir: &dir,
                        reference: Some(&reference),
                        older,
                    },
                    shared,
                )
                .await;
            let Preview { commit, loaded } = made.map_err(|d| vec![d])?;
            let short: String = commit.iter().flat_map(|c| c.chars().take(12)).collect();
            built(format!("git:{reference} {short}"), || Ok(loaded)).await
        }
    }
}

/// What was loaded, with its engine.
async fn built(
    name: String,
    load: impl FnOnce() -> Result<Loaded, Diagnostic> + Send + 'static,
) -> Result<Side, Vec<Diagnostic>> {
    let work = move || {
        let loaded = load().map_err(|d| vec![d])?;
        let Some(compiled) = loaded.compiled else {
            let found = loaded.diagnostics.into_iter();
            return Err(found.map(|d| told(d, &name)).collect());
        };
        let snapshot = policy::snapshot(compiled, 0).map_err(|d| vec![d])?;
        Ok(Side { name, snapshot })
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(side) => side,
        Err(error) => Err(vec![
            Diagnostic::error(9199, "bug: reading a revision did not end").cause(error.to_string()),
        ]),
    }
}

/// Says which of the two revisions a diagnostic is about.
fn told(mut diagnostic: Diagnostic, name: &str) -> Diagnostic {
    diagnostic.message = format!("{name}: {}", diagnostic.message);
    diagnostic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_a_revision_is() {
        let near = Path::new("here");
        for (name, expected) in [
            (
                "git:main",
                Source::Git {
                    reference: "main".into(),
                    dir: "here".into(),
                },
            ),
            ("running", Source::Running),
            ("policies", Source::Folder("policies".into())),
            ("Cargo.toml", Source::Bundle("Cargo.toml".into())),
        ] {
            assert_eq!(Source::of(name, near), expected, "{name}");
        }
    }
}
