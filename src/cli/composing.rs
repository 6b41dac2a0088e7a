//! How sources that live elsewhere come into a revision that is looked at.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    author::{Loaded, Shared, codes, lint},
    publish::{Elsewhere, Preview, Revision, linted, preview},
};
use ulid::Ulid;

use crate::net::bundles::Bundles;

/// Options of every command that reads a policy repository to say something about it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Composing {
    /// Fetch what sources elsewhere contribute (git, https, oci), as a PDP does.
    #[arg(long)]
    fetch: bool,
    /// Take a source of `palisade.yaml` from a folder of this host, for the newer of two revisions;
    /// may be given several times.
    #[arg(long = "checkout", value_name = "NAME=DIR", value_parser = checkout)]
    checkouts: Vec<(String, PathBuf)>,
    /// Folder that remembers between runs what was fetched, and the highest number of each
    /// source whose bundles are signed.
    #[arg(long, value_name = "DIR", requires = "fetch")]
    state: Option<PathBuf>,
}

fn checkout(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(dir)))
        }
        _ => Err("expected NAME=DIR".to_owned()),
    }
}

impl Composing {
    /// Ready to put revisions together; all that are of one answer see the same sources.
    pub(crate) fn begin(&self) -> Composer {
        let scratch = Scratch::new();
        let state = self.state.as_deref().or(scratch.dir());
        let state = state.map_or_else(std::env::temp_dir, Path::to_owned);
        let mut elsewhere = Elsewhere::new(state);
        for (name, dir) in &self.checkouts {
            elsewhere = elsewhere.checkout(name, dir);
        }
        if self.fetch {
            elsewhere = elsewhere.fetched(Arc::new(Bundles));
        }
        Composer {
            elsewhere,
            _scratch: scratch,
        }
    }

    /// The repository in `dir`, put together and compiled.
    ///
    /// # Errors
    /// When a source that is to be fetched cannot be had.
    pub(crate) async fn load(&self, dir: &Path) -> Result<Loaded, Diagnostic> {
        let composer = self.begin();
        let revision = Revision {
            dir,
            reference: None,
            older: false,
        };
        let made = composer.revision(revision, None).await?;
        composer.settled()?;
        Ok(made.loaded)
    }

    /// Lints the repository in `dir`, put together.
    ///
    /// # Errors
    /// When a source that is to be fetched cannot be had, or a fixed file cannot be written.
    pub(crate) async fn lint(
        &self,
        dir: &Path,
        options: lint::Options,
    ) -> Result<lint::Linted, Diagnostic> {
        linted(dir, &self.begin().elsewhere, options).await
    }

    /// Whether something is said of how a repository on this host is put together.
    pub(crate) fn is_given(&self) -> bool {
        self.fetch || !self.checkouts.is_empty()
    }

    /// To be asked where a running mesh answers unless `policies` names a repository.
    ///
    /// # Errors
    /// When it is said how a repository is put together and there is none.
    pub(crate) fn placed(&self, policies: Option<&Path>) -> Result<(), Diagnostic> {
        match policies.is_none() && self.is_given() {
            true => Err(unplaced()),
            false => Ok(()),
        }
    }
}

/// It is said how a repository is put together, and there is none.
pub(crate) fn unplaced() -> Diagnostic {
    Diagnostic::error(
        codes::SOURCE_OPTION,
        "`--fetch` and `--checkout` are about a repository, and none is named",
    )
    .cause("a running mesh has its sources")
    .help("name the repository: --policies DIR")
}

/// Puts revisions together.
pub(crate) struct Composer {
    elsewhere: Elsewhere,
    _scratch: Scratch,
}

impl Composer {
    /// A revision, put together and compiled.
    ///
    /// # Errors
    /// When the commit cannot be read, or a source that is to be fetched cannot be had.
    pub(crate) async fn revision(
        &self,
        revision: Revision<'_>,
        shared: Option<&Shared>,
    ) -> Result<Preview, Diagnostic> {
        preview(revision, &self.elsewhere, shared).await
    }

    /// To be asked after the last revision.
    ///
    /// # Errors
    /// When a check-out is of no source that one of them lists.
    pub(crate) fn settled(&self) -> Result<(), Diagnostic> {
        self.elsewhere.settled()
    }
}

/// A folder of our own that is gone with the value.
pub(crate) struct Scratch(Option<PathBuf>);

impl Scratch {
    pub(crate) fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("palisade-{}", Ulid::generate()));
        Self(fs::create_dir(&dir).is_ok().then_some(dir))
    }

    /// The folder, where one could be made.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            let _ = fs::remove_dir_all(dir);
        }
    }
}
