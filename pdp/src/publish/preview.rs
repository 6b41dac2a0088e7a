//! A repository with all that contribute to it, for looking at it before it is in force.
//!
//! What is looked at has to be what a PDP would put together, or an answer about it is worth
//! nothing. Sources in folders and files of this host are there at once; of a commit, as they are
//! in that commit where they lie in the same clone. Nobody is asked over the network unless
//! the user wants that: a change that somebody proposes could name any server. What is not
//! there is named in [`Compiled::absent`](crate::compiled::Compiled::absent), and nothing
//! counts as proved of the rest.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    place::At,
    snapshot::Digest,
    spiffe_id::TrustDomain,
};
use smol_str::SmolStr;
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};

use super::{
    COMPOSE_WAIT, Fetch, SourceConfig,
    bundled::{Contribution, contributed},
    compose::unheard,
    git::{Past, Within},
    origin::Origin,
};
use crate::{
    author::{
        Contributor, Loaded, NOT_ASKED, Shared, Texts, codes, contributors, lint, trust_domain,
    },
    bundle::file,
};

/// How sources that are not in the repository are had.
#[derive(Debug)]
pub struct Elsewhere {
    state: PathBuf,
    checkouts: Vec<(SmolStr, PathBuf)>,
    /// The sources that the revisions which were put together list.
    listed: Mutex<BTreeSet<SmolStr>>,
    fetch: Option<Arc<dyn Fetch>>,
    /// What was fetched: two revisions that are compared see the same.
    known: Mutex<HashMap<Digest, Arc<OnceCell<Had>>>>,
    files: AtomicUsize,
}

/// What a source has, or what keeps it from being read.
type Had = Result<Texts, Diagnostic>;

/// A revision as it was put together.
#[derive(Debug, Default)]
pub struct Preview {
    /// The commit, where one was asked for.
    pub commit: Option<String>,
    /// It, compiled.
    pub loaded: Loaded,
}

impl Elsewhere {
    /// Nothing is fetched. `state` is a folder for what has to be kept meanwhile; it is made
    /// where it is needed.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            checkouts: Vec::new(),
            listed: Mutex::default(),
            fetch: None,
            known: Mutex::default(),
            files: AtomicUsize::new(0),
        }
    }

    /// Takes the source `name` from the folder `dir` as it is now, wherever the repository says
    /// it is. Of the older one of two revisions it stays what the repository says: the folder may
    /// have what the change brings, and then nothing would be new.
    #[must_use]
    pub fn checkout(mut self, name: &str, dir: impl Into<PathBuf>) -> Self {
        self.checkouts.push((name.into(), dir.into()));
        self
    }

    /// The folder that the source `name` is taken from.
    fn folder(&self, name: &str) -> Option<&Path> {
        let mut all = self.checkouts.iter();
        all.find(|(of, _)| of == name).map(|(_, dir)| dir.as_path())
    }

    /// Notes which sources a revision lists.
    fn lists(&self, contributors: &[Contributor]) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.extend(contributors.iter().map(|c| c.name.clone()));
    }

    /// To be asked when all revisions are put together: whether each folder was taken for a
    /// source that there is.
    ///
    /// # Errors
    /// `PLS1309` when no revision lists a source of a name, or it was given two folders.
    pub fn settled(&self) -> Result<(), Diagnostic> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, (name, _)) in self.checkouts.iter().enumerate() {
            if self
                .checkouts
                .iter()
                .skip(i + 1)
                .any(|(other, _)| other == name)
            {
                return Err(Diagnostic::error(
                    codes::SOURCE_OPTION,
                    format!("source `{name}` has two folders"),
                )
                .cause("`--checkout` names it twice")
                .help("name each source once"));
            }
            if !listed.contains(name) {
                return Err(unlisted(name, &listed));
            }
        }
        Ok(())
    }

    /// Fetches the others as a PDP does, with `fetch` for bundles. One that cannot be had is
    /// then an error.
    #[must_use]
    pub fn fetched(mut self, fetch: Arc<dyn Fetch>) -> Self {
        self.fetch = Some(fetch);
        self
    }

    /// What a source has that is not on this host; nothing where nobody is asked.
    async fn asked(&self, contributor: &Contributor, domain: Option<TrustDomain>) -> Option<Had> {
        let fetch = self.fetch.clone()?;
        let (name, signers) = (&contributor.name, contributor.signers());
        let signed = signers.as_deref().unwrap_or_default();
        let of = domain.as_ref().map_or("", |domain| domain.as_str());
        let key = Digest::of(format!("{}\n{of}\n{signed}", contributor.place).as_bytes());
        let cell = {
            // Nothing that is done under the lock can leave the map half changed.
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(key).or_default())
        };
        let home = self.state.join("sources").join("previewed");
        let home = home.join(format!("{name}-{}", key.short()));
        let ask = async || {
            let mut config = SourceConfig::new(contributor.place.clone(), &self.state);
            config.fetch = Some(fetch);
            config.domain = domain;
            let signers = signers.as_deref();
            let origin = Origin::new(name.clone(), &contributor.place, signers, home, &config);
            let place = contributor.place.to_string();
            let given = timeout(COMPOSE_WAIT, origin?.given()).await;
            given.unwrap_or_else(|_| Err(unheard(&place)))
        };
        Some(cell.get_or_init(ask).await.clone())
    }

    /// What the bundle in a file contributes. Each has a memory of its own for numbers: of two
    /// revisions that are compared, one is older.
    fn bundle(
        &self,
        contributor: &Contributor,
        domain: Option<TrustDomain>,
        read: Result<Bytes, Diagnostic>,
    ) -> Texts {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let home = self
            .state
            .join(format!("file-{}-{number}", std::process::id()));
        let asked = Contribution {
            signers: contributor.signers(),
            domain,
            home: home.clone(),
        };
        let texts = contributed(&contributor.place.to_string(), read, asked);
        let _ = fs::remove_dir_all(home);
        texts
    }
}

fn unlisted(name: &str, listed: &BTreeSet<SmolStr>) -> Diagnostic {
    let names: Vec<&str> = listed.iter().map(SmolStr::as_str).collect();
    let told = Diagnostic::error(
        codes::SOURCE_OPTION,
        format!("there is no source `{name}` to check out"),
    )
    .help("name a source of `palisade.yaml`: --checkout NAME=DIR");
    let told = match names.as_slice() {
        [] => told.cause("no revision that is looked at lists any"),
        some => told.cause(format!("what is looked at lists {}", some.join(", "))),
    };
    match did_you_mean(name, names) {
        Some(near) => told.label(format!("did you mean `{near}`?")),
        None => told,
    }
}

/// A revision that is to be put together.
#[derive(Debug, Clone, Copy)]
pub struct Revision<'r> {
    /// The folder of the repository.
    pub dir: &'r Path,
    /// The commit of the clone around it; none for the folder as it is now.
    pub reference: Option<&'r str>,
    /// Whether another one is compared with it. Check-outs are then not for this one.
    pub older: bool,
}

/// The repository of `revision` with what every source contributes that can be had. Git is run as
/// the user runs it: a partial clone fetches what it lacks. What other compilations that were
/// given `shared` have worked out is not worked out again.
///
/// # Errors
/// When git is not there, the folder is in no clone, the clone lacks the commit, or a source that
/// is to be fetched cannot be had.
pub async fn preview(
    revision: Revision<'_>,
    elsewhere: &Elsewhere,
    shared: Option<&Shared>,
) -> Result<Preview, Diagnostic> {
    let (texts, past) = gathered(revision, elsewhere).await?;
    let shared = shared.cloned();
    let loaded = blocking(move || texts.compile_with(shared)).await;
    Ok(Preview {
        commit: past.map(|past| past.commit().to_owned()),
        loaded: loaded.unwrap_or_default(),
    })
}

/// Lints the repository in the folder `dir`, with what every source contributes that can be had.
///
/// # Errors
/// When a source that is to be fetched cannot be had, a check-out is of no source, or a fixed file
/// cannot be written.
pub async fn linted(
    dir: &Path,
    elsewhere: &Elsewhere,
    options: lint::Options,
) -> Result<lint::Linted, Diagnostic> {
    let revision = Revision {
        dir,
        reference: None,
        older: false,
    };
    let (texts, _) = gathered(revision, elsewhere).await?;
    elsewhere.settled()?;
    let dir = dir.to_owned();
    let linted = blocking(move || lint::whole(texts, &dir, &options)).await;
    linted.unwrap_or_else(|| Ok(lint::Linted::default()))
}

/// The texts of a revision, and its commit where one was asked for.
async fn gathered(
    revision: Revision<'_>,
    elsewhere: &Elsewhere,
) -> Result<(Texts, Option<Past>), Diagnostic> {
    let Revision { dir, reference, .. } = revision;
    let past = match reference {
        Some(reference) => Some(Past::at(dir, reference).await?),
        None => None,
    };
    let (mut texts, base) = match &past {
        Some(past) => (past.repository().await?, past.dir().to_owned()),
        None => {
            let dir = dir.to_owned();
            let own = blocking(move || (Texts::read(&dir), dir)).await;
            own.unwrap_or_default()
        }
    };
    let contributors = contributors(texts.settings(), &base);
    let domain = trust_domain(texts.settings());
    elsewhere.lists(&contributors);
    for contributor in contributors {
        let checked_out = elsewhere
            .folder(&contributor.name)
            .filter(|_| !revision.older);
        let had = match checked_out {
            Some(folder) => Ok(present(folder).await),
            None => had(&contributor, domain.clone(), past.as_ref(), elsewhere).await?,
        };
        match had {
            Ok(other) => texts.add(&contributor, &other),
            Err(why) => texts.lacks(&contributor, &why),
        }
    }
    Ok((texts, past))
}

/// What one source contributes, or why that is not known.
async fn had(
    contributor: &Contributor,
    domain: Option<TrustDomain>,
    past: Option<&Past>,
    elsewhere: &Elsewhere,
) -> Result<Result<Texts, String>, Diagnostic> {
    let within = |path: &Path| past.map_or(Within::Outside, |past| past.within(path));
    match &contributor.place.at {
        At::Folder(folder) => {
            let read = match (past, within(folder)) {
                (_, Within::Unknown(why)) => Some(Err(why)),
                (Some(past), Within::At(inside)) => past.folder(&inside).await?,
                _ => None,
            };
            match read {
                Some(read) => Ok(read.map(|mut texts| {
                    texts.demand_content();
                    texts
                })),
                None => Ok(Ok(present(folder).await)),
            }
        }
        At::File(path) => {
            let read = match (past, within(path)) {
                (_, Within::Unknown(why)) => return Ok(Err(why)),
                (Some(past), Within::At(inside)) => past.file(&inside).await,
                _ => {
                    let path = path.clone();
                    let read = blocking(move || file::bytes(&path)).await;
                    read.unwrap_or_else(|| Ok(Bytes::new()))
                }
            };
            Ok(Ok(elsewhere.bundle(contributor, domain, read)))
        }
        At::Git(_) | At::Https(_) | At::Oci(_) => {
            match elsewhere.asked(contributor, domain).await {
                Some(had) => had.map(Ok),
                None => Ok(Err(NOT_ASKED.to_owned())),
            }
        }
    }
}

/// What a folder of this host contributes as it is now.
async fn present(folder: &Path) -> Texts {
    let folder = folder.to_owned();
    let read = blocking(move || Texts::contributed(&folder)).await;
    let mut texts = read.unwrap_or_default();
    texts.demand_content();
    texts
}

/// What `work` gives on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    spawn_blocking(work).await.ok()
}
