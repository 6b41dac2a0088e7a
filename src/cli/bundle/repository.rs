//! What a bundle is built of: a folder, or a reference of a git repository, with all sources
//! that it lists.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    place::{At, Place},
};
use palisade_pdp::{
    author::{self, Loaded},
    publish::{SourceConfig, compose, load_credited},
};

use super::super::block_on;
use crate::{cli::composing::Scratch, net::bundles::Bundles};

/// A place from which no bundle is built.
const PLACE: u16 = 1308;
/// A file of signers cannot be read.
const SIGNERS: u16 = 3209;

/// The repository of a bundle.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Repository {
    /// The policy repository: a folder, or `git+https://…#REF`.
    #[arg(default_value = ".", value_name = "DIR")]
    of: String,
    /// Who may have signed the commit of a git reference: an allowed-signers file of ssh-keygen.
    #[arg(long, value_name = "FILE")]
    require_signed: Option<PathBuf>,
    /// Folder that remembers between builds what was fetched, and the highest number of each
    /// source whose bundles are signed.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Repository {
    /// The repository with who changed what, as far as git knows, and with what every source
    /// contributes. A folder without sources elsewhere is read without asking anybody.
    ///
    /// # Errors
    /// When there is nothing to load.
    pub(super) fn load(&self) -> Result<Loaded, Diagnostic> {
        let place = At::parse(&self.of).map_err(|error| {
            Diagnostic::error(PLACE, format!("no bundle can be built of `{}`", self.of))
                .cause(error.to_string())
                .help("name a folder, or git+https://…#REF")
        })?;
        let scratch = Scratch::new();
        match &place {
            At::Folder(_) if self.require_signed.is_some() => {
                let wrong = format!("`{}` is a folder, which nobody signs", self.of);
                return Err(Diagnostic::error(PLACE, wrong)
                    .cause("`--require-signed` is about the commit of a git reference")
                    .help("name the commit: git+https://…#REF, or leave --require-signed out"));
            }
            At::Folder(dir) => {
                let loaded = credited(dir, scratch.dir());
                let is_elsewhere = |d: &Diagnostic| d.code.0 == author::codes::SOURCE_ELSEWHERE;
                if !loaded.diagnostics.iter().any(is_elsewhere) {
                    return Ok(loaded);
                }
            }
            At::Git(_) => {}
            At::File(_) | At::Https(_) | At::Oci(_) => {
                let wrong = format!("no bundle can be built of `{}`", self.of);
                return Err(Diagnostic::error(PLACE, wrong)
                    .cause("it is one already")
                    .help("sign it as it is, or name the repository that it was built of"));
            }
        }
        let state = self.state.as_deref().or(scratch.dir()).ok_or_else(|| {
            Diagnostic::error(PLACE, "there is no folder for what is fetched")
                .cause("the temporary folder cannot be written")
                .help("name one: --state DIR")
        })?;
        let mut config = SourceConfig::new(absolute(Place::new(place)), state);
        config.fetch = Some(Arc::new(Bundles));
        config.signers = self.require_signed.as_deref().map(read).transpose()?;
        Ok(block_on(compose(config, Clock::system())))
    }
}

/// Sources in folders start at the repository, wherever it is named from.
fn absolute(mut place: Place) -> Place {
    if let Ok(here) = std::env::current_dir() {
        place.resolve(&here);
    }
    place
}

fn credited(dir: &Path, home: Option<&Path>) -> Loaded {
    match home {
        Some(home) => block_on(load_credited(dir, home)),
        None => author::load(dir),
    }
}

fn read(file: &Path) -> Result<String, Diagnostic> {
    fs::read_to_string(file).map_err(|error| {
        let wrong = format!("signers in `{}` cannot be read", file.display());
        Diagnostic::error(SIGNERS, wrong)
            .cause(error.to_string())
            .help("name a file of lines such as `alice@acme.test ssh-ed25519 AAAAC3…`")
    })
}
