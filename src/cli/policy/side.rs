//! Where a revision under comparison comes from: a folder, a commit, a bundle, or the running
//! mesh.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    author, bundle::file, compiled::Compiled, decide::Snapshot, publish::load_commit,
};

use crate::{
    cli::{Context, target::running},
    run::policy,
};

/// A revision, and what it was called.
pub(super) struct Side {
    /// As it was asked for, with the commit where there is one.
    pub(super) name: String,
    pub(super) compiled: Compiled,
}

impl Side {
    /// Its engine.
    ///
    /// # Errors
    /// When it cannot be built; the compiler is to blame.
    pub(super) fn snapshot(self) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
        policy::snapshot(self.compiled, 0).map_err(|d| vec![d])
    }
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

/// Both revisions of a comparison, compiled at the same time.
///
/// # Errors
/// What is wrong with the older one, then what is wrong with the newer one.
pub(super) async fn both(
    base: &str,
    head: &str,
    context: &Context,
) -> Result<(Side, Side), Vec<Diagnostic>> {
    match tokio::join!(one(base, head, context), one(head, head, context)) {
        (Ok(base), Ok(head)) => Ok((base, head)),
        (Err(wrong), Ok(_)) | (Ok(_), Err(wrong)) => Err(wrong),
        (Err(mut of_base), Err(of_head)) => {
            of_base.extend(of_head);
            Err(of_base)
        }
    }
}

/// One revision, compiled. A commit is one of the repository that the folder `head` lies
/// in; of the working folder's, where `head` is no folder.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn one(
    name: &str,
    head: &str,
    context: &Context,
) -> Result<Side, Vec<Diagnostic>> {
    let near = match Source::of(head, Path::new(".")) {
        Source::Folder(dir) => dir,
        _ => PathBuf::from("."),
    };
    load(name, Source::of(name, &near), context).await
}

async fn load(name: &str, source: Source, context: &Context) -> Result<Side, Vec<Diagnostic>> {
    let mut name = name.to_owned();
    let loaded = match source {
        Source::Running => {
            let snapshot = running(context).await.map_err(|d| vec![d])?;
            return Ok(Side {
                name: format!("running, revision {}", snapshot.versions().sequence),
                compiled: snapshot.compiled().clone(),
            });
        }
        Source::Folder(dir) => blocking(move || Ok(author::load(&dir))).await?,
        Source::Bundle(path) => {
            blocking(move || Ok(author::compile(file::read(&path)?.signed.bundle))).await?
        }
        Source::Git { reference, dir } => {
            let loaded = load_commit(&dir, &reference).await;
            let (commit, loaded) = loaded.map_err(|d| vec![d])?;
            let short: String = commit.chars().take(12).collect();
            name = format!("git:{reference} {short}");
            loaded
        }
    };
    match loaded.compiled {
        Some(compiled) => Ok(Side { name, compiled }),
        None => Err(loaded
            .diagnostics
            .into_iter()
            .map(|d| told(d, &name))
            .collect()),
    }
}

/// Says which of the two revisions a diagnostic is about.
fn told(mut diagnostic: Diagnostic, name: &str) -> Diagnostic {
    diagnostic.message = format!("{name}: {}", diagnostic.message);
    diagnostic
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Diagnostic> + Send + 'static,
) -> Result<T, Vec<Diagnostic>> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|d| vec![d]),
        Err(error) => Err(vec![
            Diagnostic::error(9199, "bug: reading a revision did not end").cause(error.to_string()),
        ]),
    }
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
