//! What stands where policies come from: a folder, or a bundle file with its
//! signatures.

use std::path::Path;

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{Release, Signature, Stamp},
};

use crate::{
    author::{self, Loaded, Texts},
    bundle::file::{self, BundleFile},
};

/// A state of the source, also a broken one.
pub(crate) enum Origin {
    /// A policy repository.
    Folder(Texts),
    /// A bundle file, or why it is none.
    File(Box<Result<BundleFile, Diagnostic>>),
}

/// What others have signed about a bundle; empty for a folder.
#[derive(Debug, Default)]
pub(crate) struct Vouched {
    pub(crate) content: Vec<Signature>,
    pub(crate) release: Option<Release>,
    pub(crate) stamp: Option<Stamp>,
}

impl Origin {
    /// Reads what is there now.
    pub(crate) fn read(path: &Path) -> Self {
        match path.is_file() {
            true => Self::File(Box::new(file::read(path))),
            false => Self::Folder(Texts::read(path)),
        }
    }

    /// Tells two states apart.
    pub(crate) fn fingerprint(&self) -> Digest {
        match self {
            Self::Folder(texts) => texts.fingerprint(),
            Self::File(read) => match &**read {
                Ok(file) => Digest::of(&file.encode()),
                Err(diagnostic) => Digest::of(diagnostic.to_string().as_bytes()),
            },
        }
    }

    /// Compiles it.
    pub(crate) fn compile(self) -> (Loaded, Vouched) {
        match self {
            Self::Folder(texts) => (texts.compile(), Vouched::default()),
            Self::File(read) => match *read {
                Ok(BundleFile { signed, .. }) => {
                    let vouched = Vouched {
                        content: signed.content_signatures,
                        release: signed.release,
                        stamp: signed.stamp,
                    };
                    (author::compile(signed.bundle), vouched)
                }
                Err(diagnostic) => {
                    let loaded = Loaded {
                        compiled: None,
                        diagnostics: vec![diagnostic],
                    };
                    (loaded, Vouched::default())
                }
            },
        }
    }
}
