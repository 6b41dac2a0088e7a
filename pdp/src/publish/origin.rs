//! One source that is followed: asked again and again which state it is in.
//!
//! A task of its own for each, so that one that hangs holds up no other.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, Place},
    snapshot::Digest,
};
use smol_str::SmolStr;
use tokio::{
    sync::mpsc,
    task::{JoinError, spawn_blocking},
    time::sleep,
};

use super::{
    bundled::{Contribution, LocalBundle, RemoteBundle, Use},
    codes,
    git::{Content, FolderBlame, Mirror, credit},
    source::SourceConfig,
    watched::Watched,
};
use crate::author::{Texts, codes as policy_codes};

/// What a source said when it was asked.
#[derive(Debug)]
pub(crate) struct Word {
    /// Which source.
    pub(crate) name: SmolStr,
    /// Who said it, of all that ever followed one; 0 for what comes with the repository.
    pub(crate) origin: u64,
    /// The state that it is in, if it answered.
    pub(crate) wanted: Option<String>,
    /// Its content where that is new, or why there is none.
    pub(crate) given: Result<Option<Given>, Diagnostic>,
}

/// New content of a source.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) texts: Texts,
    /// Which state of the source it is; a commit where it has those.
    pub(crate) revision: String,
    /// The state before, where this one does not follow it.
    pub(crate) rewritten: Option<String>,
    /// Who signed it.
    pub(crate) signer: Option<String>,
    /// What the folders have that its settings name beside it, by source.
    pub(crate) beside: Vec<(SmolStr, Result<Texts, Diagnostic>)>,
}

impl Word {
    /// What a repository's commit has of a source beside it.
    pub(crate) fn of_beside(name: &SmolStr, given: Result<Given, Diagnostic>) -> Self {
        Self {
            name: name.clone(),
            origin: 0,
            wanted: given.as_ref().ok().map(|given| given.revision.clone()),
            given: given.map(Some),
        }
    }
}

impl Given {
    /// Takes what stands beside it, each as of the same commit.
    pub(crate) fn beside(&mut self) -> BTreeMap<SmolStr, Result<Self, Diagnostic>> {
        let all = std::mem::take(&mut self.beside).into_iter();
        all.map(|(name, read)| {
            let given = read.map(|texts| Self {
                texts,
                revision: self.revision.clone(),
                rewritten: self.rewritten.clone(),
                signer: self.signer.clone(),
                beside: Vec::new(),
            });
            (name, given)
        })
        .collect()
    }
}

/// A source and what was seen of it.
#[derive(Debug)]
pub(crate) struct Origin {
    name: SmolStr,
    poll: Duration,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Folder(Folder),
    File(LocalBundle),
    Remote(RemoteBundle),
    Git {
        mirror: Box<Mirror>,
        /// The commit that was judged last, and what keeps it from being used.
        judged: Option<(String, Option<Diagnostic>)>,
    },
}

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    watched: Watched,
    seen: Option<Digest>,
    blame: FolderBlame,
    /// Folder for git where authors are known of all policies or of none.
    reproducible: Option<PathBuf>,
}

impl Origin {
    /// Follows `place`; the repository itself has no name. `home` is its folder in the
    /// state.
    ///
    /// # Errors
    /// When the state cannot be used, or a folder that is the repository cannot be watched.
    pub(crate) fn new(
        name: SmolStr,
        place: &Place,
        signers: Option<&str>,
        home: PathBuf,
        config: &SourceConfig,
    ) -> Result<Self, Diagnostic> {
        let (debounce, fetch) = (config.debounce, &config.fetch);
        let used = match name.is_empty() {
            true => Use::Whole,
            false => Use::Part(Contribution {
                signers: signers.map(str::to_owned),
                domain: config.domain.clone(),
                home: home.clone(),
            }),
        };
        let kind = match &place.at {
            At::Folder(dir) => {
                let watched = Watched::folder(dir, debounce);
                if name.is_empty() {
                    watched.check()?;
                }
                Kind::Folder(Folder {
                    dir: dir.clone(),
                    watched,
                    seen: None,
                    reproducible: config.reproducible.then(|| home.clone()),
                    blame: FolderBlame::new(home),
                })
            }
            At::File(path) => {
                let file = LocalBundle::new(path, used, debounce);
                if name.is_empty() {
                    file.watched.check()?;
                }
                Kind::File(file)
            }
            At::Https(_) | At::Oci(_) => {
                let fetch = fetch.clone().ok_or_else(|| not_fetched(place))?;
                Kind::Remote(RemoteBundle::new(place, used, fetch))
            }
            At::Git(at) => {
                let mirror = Mirror::new(place, at, home, signers)?;
                let mirror = match name.is_empty() {
                    true => mirror.whole(),
                    false => mirror,
                };
                Kind::Git {
                    mirror: Box::new(mirror),
                    judged: None,
                }
            }
        };
        Ok(Self {
            name,
            poll: place.poll,
            kind,
        })
    }

    /// Asks until nobody listens any more; `number` tells its words from those of others.
    pub(crate) async fn follow(mut self, number: u64, words: mpsc::Sender<Word>) {
        loop {
            let word = Word {
                origin: number,
                ..self.ask().await
            };
            if words.send(word).await.is_err() {
                return;
            }
            match &mut self.kind {
                Kind::Folder(folder) => folder.watched.wait(self.poll).await,
                Kind::File(file) => file.watched.wait(self.poll).await,
                Kind::Git { .. } | Kind::Remote(_) => sleep(self.poll).await,
            }
        }
    }

    /// What it has now, asked for once.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn given(mut self) -> Result<Texts, Diagnostic> {
        let given = self.ask().await.given?;
        Ok(given.map(|given| given.texts).unwrap_or_default())
    }

    async fn ask(&mut self) -> Word {
        let contributes = !self.name.is_empty();
        let (wanted, given) = match &mut self.kind {
            Kind::Folder(folder) => folder.ask(contributes).await,
            Kind::File(file) => file.ask().await,
            Kind::Remote(remote) => remote.ask().await,
            Kind::Git { mirror, judged } => match mirror.wanted().await {
                Ok(wanted) => {
                    let given = ask_git(mirror, judged, &wanted, contributes).await;
                    (Some(wanted), given)
                }
                Err(diagnostic) => (None, Err(diagnostic)),
            },
        };
        Word {
            name: self.name.clone(),
            origin: 0,
            wanted,
            given,
        }
    }
}

async fn ask_git(
    mirror: &mut Mirror,
    judged: &mut Option<(String, Option<Diagnostic>)>,
    wanted: &str,
    contributes: bool,
) -> Result<Option<Given>, Diagnostic> {
    if let Some((_, verdict)) = judged.as_ref().filter(|(commit, _)| commit == wanted) {
        return verdict.clone().map_or(Ok(None), Err);
    }
    let read = match mirror.read().await {
        Ok(read) => read,
        Err(diagnostic) => {
            // What the commit itself lacks it will lack next time, too; anything else may
            // have passed by then.
            let lasting = [codes::NOT_SIGNED, codes::REWOUND].contains(&diagnostic.code.0);
            *judged = lasting.then(|| (wanted.to_owned(), Some(diagnostic.clone())));
            return Err(diagnostic);
        }
    };
    *judged = Some((read.commit.clone(), None));
    let texts_of = |content: Content, contributes: bool| {
        let mut texts = Texts::of(read.commit.clone(), content.files, content.found);
        texts.provenance = content.provenance;
        match contributes {
            true => texts.demand_content(),
            false => texts.demand_settings("the source"),
        }
        texts
    };
    let beside = read.beside.into_iter();
    let beside = beside.map(|(name, read)| (name, read.map(|content| texts_of(content, true))));
    let beside = beside.collect();
    Ok(Some(Given {
        texts: texts_of(read.content, contributes),
        beside,
        revision: read.commit,
        rewritten: read.rewritten,
        signer: read.signer,
    }))
}

pub(super) fn unread(place: &str, error: &JoinError) -> Diagnostic {
    Diagnostic::error(
        policy_codes::UNREADABLE,
        format!("`{place}` was not read to its end"),
    )
    .cause(error.to_string())
    .help("it is read again by itself")
}

impl Folder {
    async fn ask(
        &mut self,
        contributes: bool,
    ) -> (Option<String>, Result<Option<Given>, Diagnostic>) {
        let (dir, seen) = (self.dir.clone(), self.seen);
        let read = spawn_blocking(move || {
            let texts = match contributes {
                true => {
                    let mut texts = Texts::contributed(&dir);
                    texts.demand_content();
                    texts
                }
                false => Texts::read(&dir),
            };
            let fingerprint = texts.fingerprint();
            (fingerprint, (Some(fingerprint) != seen).then_some(texts))
        });
        let (fingerprint, new) = match read.await {
            Ok(read) => read,
            Err(error) => {
                let place = self.dir.display().to_string();
                return (None, Err(unread(&place, &error)));
            }
        };
        self.seen = Some(fingerprint);
        let Some(mut texts) = new else {
            return (None, Ok(None));
        };
        texts.provenance = match &self.reproducible {
            Some(home) => credit(&self.dir, home, &mut texts).await,
            None => {
                let blame = &mut self.blame;
                blame.of(&self.dir, &texts.files, &mut texts.found).await
            }
        };
        let revision = match texts.git_revision.as_str() {
            "" => fingerprint.short(),
            commit => commit.to_owned(),
        };
        let given = Given {
            texts,
            revision: revision.clone(),
            rewritten: None,
            signer: None,
            beside: Vec::new(),
        };
        (Some(revision), Ok(Some(given)))
    }
}

fn not_fetched(place: &Place) -> Diagnostic {
    Diagnostic::error(
        codes::UNREACHABLE_SOURCE,
        format!("policy source `{place}` cannot be asked"),
    )
    .cause("nothing is fetched here")
    .help("name a folder, a bundle file or a git repository")
}
