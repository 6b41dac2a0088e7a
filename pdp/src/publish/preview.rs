//! A repository with all that contribute to it, for looking at it before it is in force.
//!
//! What is looked at has to be what a PDP would put together, or an answer about it is worth
//! nothing. Sources in folders and files of this host are there at once; of a commit, as they are
//! in that commit where they lie in the same clone. Nobody is asked over the network unless
//! the user wants that: a change that somebody proposes could name any server. What is not
//! there is named in [`Compiled::absent`](crate::compiled::Compiled::absent), and nothing
//! counts as proved of the rest.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use palisade_mesh::{diagnostic::Diagnostic, place::At, snapshot::Digest};
use smol_str::SmolStr;
use tokio::{sync::OnceCell, task::spawn_blocking, time::timeout};

use super::{
    COMPOSE_WAIT, Fetch, SourceConfig,
    bundled::{Contribution, contributed},
    compose::unheard,
    git::Past,
    origin::Origin,
};
use crate::{
    author::{Contributor, Loaded, NOT_ASKED, Shared, Texts, contributors},
    bundle::file,
};

/// How sources that are not in the repository are had.
#[derive(Debug)]
pub struct Elsewhere {
    state: PathBuf,
    checkouts: BTreeMap<SmolStr, PathBuf>,
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
            checkouts: BTreeMap::new(),
            fetch: None,
            known: Mutex::default(),
            files: AtomicUsize::new(0),
        }
    }

    /// Takes the source `name` from the folder `dir` as it is now, for every revision, wherever
    /// the repository says it is.
    #[must_use]
    pub fn checkout(mut self, name: &str, dir: impl Into<PathBuf>) -> Self {
        self.checkouts.insert(name.into(), dir.into());
        self
    }

    /// Fetches the others as a PDP does, with `fetch` for bundles. One that cannot be had is
    /// then an error.
    #[must_use]
    pub fn fetched(mut self, fetch: Arc<dyn Fetch>) -> Self {
        self.fetch = Some(fetch);
        self
    }

    /// What a source has that is not on this host; nothing where nobody is asked.
    async fn asked(&self, contributor: &Contributor) -> Option<Had> {
        let fetch = self.fetch.clone()?;
        let (name, signers) = (&contributor.name, contributor.signers());
        let signed = signers.as_deref().unwrap_or_default();
        let key = Digest::of(format!("{}\n{signed}", contributor.place).as_bytes());
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
    fn bundle(&self, contributor: &Contributor, read: Result<Bytes, Diagnostic>) -> Texts {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let home = self
            .state
            .join(format!("file-{}-{number}", std::process::id()));
        let asked = Contribution {
            signers: contributor.signers(),
            domain: None,
            home: home.clone(),
        };
        let texts = contributed(&contributor.place.to_string(), read, asked);
        let _ = fs::remove_dir_all(home);
        texts
    }
}

/// The repository in the folder `dir` with what every source contributes that can be had, or
/// the same as it is in the commit that `reference` names in the clone around it. Git is run as
/// the user runs it: a partial clone fetches what it lacks. What other compilations that were
/// given `shared` have worked out is not worked out again.
///
/// # Errors
/// When git is not there, `dir` is in no clone, the clone lacks the commit, or a source that is
/// to be fetched cannot be had.
pub async fn preview(
    dir: &Path,
    reference: Option<&str>,
    elsewhere: &Elsewhere,
    shared: Option<&Shared>,
) -> Result<Preview, Diagnostic> {
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
    for contributor in contributors(texts.settings(), &base) {
        match had(&contributor, past.as_ref(), elsewhere).await? {
            Ok(other) => texts.add(&contributor, &other),
            Err(why) => texts.lacks(&contributor, &why),
        }
    }
    let shared = shared.cloned();
    let loaded = blocking(move || texts.compile_with(shared)).await;
    Ok(Preview {
        commit: past.map(|past| past.commit().to_owned()),
        loaded: loaded.unwrap_or_default(),
    })
}

/// What one source contributes, or why that is not known.
async fn had(
    contributor: &Contributor,
    past: Option<&Past>,
    elsewhere: &Elsewhere,
) -> Result<Result<Texts, String>, Diagnostic> {
    if let Some(folder) = elsewhere.checkouts.get(&contributor.name) {
        return Ok(Ok(present(folder).await));
    }
    match &contributor.place.at {
        At::Folder(folder) => {
            let read = match past.and_then(|p| Some((p, p.within(folder)?))) {
                Some((past, inside)) => past.folder(&inside).await?,
                None => None,
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
            let read = match past.and_then(|p| Some((p, p.within(path)?))) {
                Some((past, inside)) => past.file(&inside).await,
                None => {
                    let path = path.clone();
                    let read = blocking(move || file::bytes(&path)).await;
                    read.unwrap_or_else(|| Ok(Bytes::new()))
                }
            };
            Ok(Ok(elsewhere.bundle(contributor, read)))
        }
        At::Git(_) | At::Https(_) | At::Oci(_) => match elsewhere.asked(contributor).await {
            Some(had) => had.map(Ok),
            None => Ok(Err(NOT_ASKED.to_owned())),
        },
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
