//! Bundles as what a source has: in a file of this host, or fetched from elsewhere.
//!
//! As the repository, a bundle is taken as it is, with what others have signed about it; as
//! one source of several, its texts are put together with the others'.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use palisade_mesh::{
    diagnostic::Diagnostic,
    place::Place,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Attestation, Release, Signature, Stamp},
};
use tokio::task::spawn_blocking;

use super::{
    codes,
    fetch::{Fetch, Fetched},
    foreign, older,
    origin::{Given, unread},
    watched::Watched,
};
use crate::{
    author::{Texts, files},
    bundle::{
        self,
        codes::NOT_SIGNED,
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
    pub(crate) attestation: Option<Attestation>,
    /// What was found proved of it here, which nobody has signed yet.
    pub(crate) proved: Option<Attestation>,
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
            attestation: signed.attestation,
            proved: None,
        }
    }
}

/// What bundles of a source are taken for.
#[derive(Debug, Clone)]
pub(crate) enum Use {
    /// The repository.
    Whole,
    /// A source of several.
    Part(Contribution),
}

/// What is asked of the bundle of one source of several.
#[derive(Debug, Clone)]
pub(crate) struct Contribution {
    /// One of these keys must have signed content and number, where there are any.
    pub(crate) signers: Option<String>,
    /// The trust domain that it must be of.
    pub(crate) domain: Option<TrustDomain>,
    /// Folder in the state for what was taken.
    pub(crate) home: PathBuf,
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
        Use::Part(asked) => asked.part(file),
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
        beside: Vec::new(),
    };
    (digest, given)
}

/// What the bundle of one source of several contributes, where its bytes could be read from
/// `place`; what is wrong with it is among what was found.
pub(super) fn contributed(
    place: &str,
    read: Result<Bytes, Diagnostic>,
    asked: Contribution,
) -> Texts {
    let read = read.and_then(|bytes| BundleFile::parse_from(place, &bytes));
    given(read, &Use::Part(asked)).1.texts
}

impl Contribution {
    /// What a bundle contributes, and who signed it.
    fn part(&self, file: BundleFile) -> Result<(Texts, Option<String>), Diagnostic> {
        if let Some(own) = self.domain.as_ref().filter(|d| **d != file.domain) {
            return Err(foreign(&file.domain, own));
        }
        let signer = match &self.signers {
            Some(signers) => Some(self.check_signed(&file, signers)?),
            None => None,
        };
        if !file.bundle.contributions.is_empty() {
            return Err(nested());
        }
        let mut texts = Texts::of_bundle(file.bundle).map_err(bundle::broken)?;
        texts.files.retain(|f| files::is_contributed(&f.path));
        texts.demand_content();
        Ok((texts, signer))
    }

    /// Who signed it. Who may put bundles there, but not sign, cannot bring back an older one.
    fn check_signed(&self, file: &BundleFile, signers: &str) -> Result<String, Diagnostic> {
        let keys = Keys::parse("signers", signers)?;
        let signed = Trust::new(keys, 1).check_file(file, 0)?;
        let Some(release) = &file.signed.release else {
            return Err(unnumbered());
        };
        let (number, digest) = (release.sequence, file.digest.to_string());
        let name = self.home.join("taken");
        if let Some((taken, of)) = taken(&name)
            && (number < taken || (number == taken && digest != of))
        {
            return Err(older(number, taken));
        }
        let draft = name.with_extension("new");
        let kept = fs::create_dir_all(&self.home)
            .and_then(|()| fs::write(&draft, format!("{number} {digest}\n")))
            .and_then(|()| fs::rename(&draft, &name));
        kept.map_err(|error| {
            Diagnostic::error(
                codes::STATE_DIR,
                format!("state in `{}` cannot be used", name.display()),
            )
            .cause(error.to_string())
            .help("check that this user may write it, and that the disk has room")
        })?;
        Ok(signed.signers().join(", "))
    }
}

/// The highest number that was taken, and the digest under it.
fn taken(name: &Path) -> Option<(u64, String)> {
    let text = fs::read_to_string(name).ok()?;
    let (number, digest) = text.trim().split_once(' ')?;
    Some((number.parse().ok()?, digest.to_owned()))
}

fn unnumbered() -> Diagnostic {
    Diagnostic::error(NOT_SIGNED, "the bundle of a source has no number")
        .cause("without one, who may put bundles there could bring back an older one")
        .help("sign it under the next: palisade bundle sign FILE --key KEY --sequence N")
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
