//! Bundles as what a source has: in a file of this host, or fetched from elsewhere.
//!
//! As the repository, a bundle is taken as it is, with what others have signed about it; as
//! one source of several, its texts are put together with the others'.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::Place,
    snapshot::Digest,
    wire::policy::{Release, Signature, Stamp},
};
use tokio::task::spawn_blocking;

use super::{
    codes,
    fetch::{Fetch, Fetched},
    origin::{Given, complete, unread},
    watched::Watched,
};
use crate::{
    author::{Texts, files},
    bundle::{
        self,
        file::{self, BundleFile},
        trust::{Keys, Trust},
    },
};

/// What others have signed about content; empty where it came without signatures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vouched {
    pub(crate) content: Vec<Signature>,
    pub(crate) release: Option<Release>,
    pub(crate) stamp: Option<Stamp>,
}

impl Vouched {
    /// What came with `texts`.
    pub(crate) fn of(texts: &Texts) -> Self {
        let Some(signed) = texts.signed.as_deref().cloned() else {
            return Self::default();
        };
        Self {
            content: signed.content_signatures,
            release: signed.release,
            stamp: signed.stamp,
        }
    }
}

/// What bundles of a source are taken for.
#[derive(Debug, Clone)]
pub(crate) enum Use {
    /// The repository.
    Whole,
    /// A source of several, signed by one of these keys where there are any.
    Part { signers: Option<String> },
}

/// What was seen of a source that has bundles.
#[derive(Debug)]
struct Seen {
    used: Use,
    digest: Option<Digest>,
    revision: Option<String>,
}

/// The state that a source is in, and its content where that is new.
type Said = (Option<String>, Result<Option<Given>, Diagnostic>);

impl Seen {
    fn nothing(used: Use) -> Self {
        Self {
            used,
            digest: None,
            revision: None,
        }
    }

    /// Takes note of what is there now, also of what is no bundle.
    fn take(&mut self, (digest, given): (Digest, Given)) -> Said {
        let is_new = self.digest.replace(digest) != Some(digest);
        self.revision = Some(given.revision.clone());
        (self.revision.clone(), Ok(is_new.then_some(given)))
    }
}

/// What a bundle is to the PDP, also one that is broken; told apart by the digest.
fn given(read: Result<BundleFile, Diagnostic>, used: &Use) -> (Digest, Given) {
    let revision = read.as_ref().map(|file| file.digest.short()).ok();
    let used = read.and_then(|file| match used {
        Use::Whole => Ok((Texts::whole(file.signed), None)),
        Use::Part { signers } => part(file, signers.as_deref()),
    });
    let (texts, signer) = used.unwrap_or_else(|diagnostic| {
        let found = vec![diagnostic];
        (Texts::of(String::new(), Vec::new(), found), None)
    });
    let digest = texts.fingerprint();
    let given = Given {
        revision: revision.unwrap_or_else(|| digest.short()),
        texts,
        rewritten: None,
        signer,
    };
    (digest, given)
}

fn part(file: BundleFile, signers: Option<&str>) -> Result<(Texts, Option<String>), Diagnostic> {
    let mut signer = None;
    if let Some(text) = signers {
        let keys = Keys::parse("signers", text)?;
        let signed = Trust::new(keys, 1).check_file(&file, 0)?;
        signer = Some(signed.signers().join(", "));
    }
    if !file.bundle.contributions.is_empty() {
        return Err(nested());
    }
    let mut texts = Texts::of_bundle(file.bundle).map_err(bundle::broken)?;
    texts.files.retain(|f| files::is_contributed(&f.path));
    complete(&mut texts, true);
    Ok((texts, signer))
}

/// A bundle file of this host.
#[derive(Debug)]
pub(crate) struct LocalBundle {
    path: PathBuf,
    pub(crate) watched: Watched,
    seen: Seen,
}

impl LocalBundle {
    /// Follows the file at `path`, which may be there later.
    pub(crate) fn new(path: &Path, used: Use, debounce: Duration) -> Self {
        Self {
            path: path.to_owned(),
            watched: Watched::file(path, debounce),
            seen: Seen::nothing(used),
        }
    }

    pub(crate) async fn ask(&mut self) -> Said {
        let (path, used) = (self.path.clone(), self.seen.used.clone());
        match spawn_blocking(move || given(file::read(&path), &used)).await {
            Ok(read) => self.seen.take(read),
            Err(error) => {
                let place = self.path.display().to_string();
                (None, Err(unread(&place, &error)))
            }
        }
    }
}

/// A bundle that is fetched from elsewhere.
#[derive(Debug)]
pub(crate) struct RemoteBundle {
    place: Place,
    fetch: Arc<dyn Fetch>,
    /// What the other side calls what was fetched last.
    tag: Option<String>,
    seen: Seen,
}

impl RemoteBundle {
    pub(crate) fn new(place: &Place, used: Use, fetch: Arc<dyn Fetch>) -> Self {
        Self {
            place: place.clone(),
            fetch,
            tag: None,
            seen: Seen::nothing(used),
        }
    }

    pub(crate) async fn ask(&mut self) -> Said {
        let (tag, bytes) = match self.fetch.fetch(&self.place, self.tag.as_deref()).await {
            Ok(Fetched::Same) => return (self.seen.revision.clone(), Ok(None)),
            Ok(Fetched::New { tag, bytes }) => (tag, bytes),
            Err(diagnostic) => return (None, Err(diagnostic)),
        };
        let (place, used) = (self.place.to_string(), self.seen.used.clone());
        let read = spawn_blocking(move || given(BundleFile::parse_from(&place, &bytes), &used));
        match read.await {
            Ok(read) => {
                self.tag = tag;
                self.seen.take(read)
            }
            Err(error) => (None, Err(unread(&self.place.to_string(), &error))),
        }
    }
}

fn nested() -> Diagnostic {
    Diagnostic::error(
        codes::NESTED_SOURCE,
        "the bundle of a source is put together from several sources",
    )
    .cause("a source has one owner, who speaks for its namespaces")
    .help("list each of its sources in the repository's own `palisade.yaml`")
}
