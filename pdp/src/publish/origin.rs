//! One source that is followed: asked again and again which state it is in.
//!
//! A task of its own for each, so that one that hangs holds up no other.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, Place},
    snapshot::Digest,
};
use smol_str::SmolStr;
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    codes,
    git::{FolderBlame, Mirror},
};
use crate::author::{Texts, codes as policy_codes, files};

/// Longest time that a stream of events can hold back a reading, in quiet times.
const DEBOUNCE_ROUNDS: u32 = 10;

/// What a source said when it was asked.
#[derive(Debug)]
pub(crate) struct Word {
    /// Which source.
    pub(crate) name: SmolStr,
    /// The state that it is in, if it answered.
    pub(crate) wanted: Option<String>,
    /// Its content where that is new, or why there is none.
    pub(crate) given: Result<Option<Given>, Diagnostic>,
}

/// New content of a source.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) texts: Texts,
    /// Which state of the source it is; a commit where it has those.
    pub(crate) revision: String,
    /// The state before, where this one does not follow it.
    pub(crate) rewritten: Option<String>,
    /// Who signed it.
    pub(crate) signer: Option<String>,
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
    Git {
        mirror: Box<Mirror>,
        /// The commit that was judged last, and what keeps it from being used.
        judged: Option<(String, Option<Diagnostic>)>,
    },
}

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    debounce: Duration,
    wake: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    seen: Option<Digest>,
    blame: FolderBlame,
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
        debounce: Duration,
    ) -> Result<Self, Diagnostic> {
        let kind = match &place.at {
            At::Folder(dir) => {
                let wake = Arc::new(Notify::new());
                let watcher = watch_folder(dir, wake.clone());
                if name.is_empty() {
                    watcher.as_ref().map_err(Clone::clone)?;
                }
                Kind::Folder(Folder {
                    dir: dir.clone(),
                    debounce,
                    wake,
                    watcher: watcher.ok(),
                    seen: None,
                    blame: FolderBlame::new(home),
                })
            }
            At::Git(at) => Kind::Git {
                mirror: Box::new(Mirror::new(place, at, home, signers)?),
                judged: None,
            },
            At::Https(_) | At::Oci(_) => return Err(no_bundles(place)),
        };
        Ok(Self {
            name,
            poll: place.poll,
            kind,
        })
    }

    /// Asks until nobody listens any more.
    pub(crate) async fn follow(mut self, words: mpsc::Sender<Word>) {
        loop {
            let word = self.ask().await;
            if words.send(word).await.is_err() {
                return;
            }
            match &mut self.kind {
                Kind::Folder(folder) => folder.wait(self.poll).await,
                Kind::Git { .. } => sleep(self.poll).await,
            }
        }
    }

    async fn ask(&mut self) -> Word {
        let contributes = !self.name.is_empty();
        let (wanted, given) = match &mut self.kind {
            Kind::Folder(folder) => folder.ask(contributes).await,
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
    let mut texts = Texts::of(read.commit.clone(), read.files, read.found);
    texts.provenance = read.provenance;
    complete(&mut texts, contributes);
    Ok(Some(Given {
        texts,
        revision: read.commit,
        rewritten: read.rewritten,
        signer: read.signer,
    }))
}

/// A source without files is a mistake, not the wish that everything of it be gone.
fn complete(texts: &mut Texts, contributes: bool) {
    if texts.found.iter().any(Diagnostic::is_error) {
        return;
    }
    if contributes {
        let mut files = texts.files.iter();
        if !files.any(|f| files::is_contributed(&f.path)) {
            texts.found.push(
                Diagnostic::error(policy_codes::SOURCE_EMPTY, "there is nothing that it contributes")
                    .cause("it has no file in `services`, `policies` or `entities`")
                    .help("see that it is the right folder or reference; take the source out of `palisade.yaml` where it is no more"),
            );
        }
    } else if texts.settings().is_empty() {
        texts.found.push(files::no_repository("the source"));
        texts.files.clear();
    }
}

impl Folder {
    async fn ask(
        &mut self,
        contributes: bool,
    ) -> (Option<String>, Result<Option<Given>, Diagnostic>) {
        let (dir, seen) = (self.dir.clone(), self.seen);
        let read = spawn_blocking(move || {
            let mut texts = match contributes {
                true => Texts::contributed(&dir),
                false => Texts::read(&dir),
            };
            if contributes {
                complete(&mut texts, true);
            }
            let fingerprint = texts.fingerprint();
            (fingerprint, (Some(fingerprint) != seen).then_some(texts))
        });
        let (fingerprint, new) = match read.await {
            Ok(read) => read,
            Err(error) => {
                let diagnostic = Diagnostic::error(
                    policy_codes::UNREADABLE,
                    format!("`{}` was not read to its end", self.dir.display()),
                )
                .cause(error.to_string())
                .help("it is read again by itself");
                return (None, Err(diagnostic));
            }
        };
        self.seen = Some(fingerprint);
        let Some(mut texts) = new else {
            return (None, Ok(None));
        };
        texts.provenance = self
            .blame
            .of(&self.dir, &texts.files, &mut texts.found)
            .await;
        let revision = match texts.git_revision.as_str() {
            "" => fingerprint.short(),
            commit => commit.to_owned(),
        };
        let given = Given {
            texts,
            revision: revision.clone(),
            rewritten: None,
            signer: None,
        };
        (Some(revision), Ok(Some(given)))
    }

    /// Waits until something happens in it, or it is time to look.
    async fn wait(&mut self, poll: Duration) {
        if timeout(poll, self.wake.notified()).await.is_ok() {
            self.settle().await;
            return;
        }
        // A folder that was replaced has lost its watch; setting it again costs nothing
        // where it is still there.
        match &mut self.watcher {
            Some(watcher) => {
                let _ = watcher.watch(&self.dir, RecursiveMode::Recursive);
            }
            None => self.watcher = watch_folder(&self.dir, self.wake.clone()).ok(),
        }
    }

    /// Waits until nothing has happened for the quiet time, within reason.
    async fn settle(&self) {
        let deadline = Instant::now() + self.debounce * DEBOUNCE_ROUNDS;
        while Instant::now() < deadline {
            tokio::select! {
                () = sleep(self.debounce) => return,
                () = self.wake.notified() => {}
            }
        }
    }
}

fn watch_folder(dir: &Path, wake: Arc<Notify>) -> Result<RecommendedWatcher, Diagnostic> {
    let failed = |error: notify::Error| {
        Diagnostic::error(
            codes::WATCH,
            format!("policy folder `{}` cannot be watched", dir.display()),
        )
        .cause(error.to_string())
        .help("check that the folder exists and that this user may read it")
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading is an event too; following it would never end.
        if event.map_or(true, |e| !is_reading(&e)) {
            wake.notify_one();
        }
    })
    .map_err(failed)?;
    watcher
        .watch(dir, RecursiveMode::Recursive)
        .map_err(failed)?;
    Ok(watcher)
}

fn is_reading(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
}

fn no_bundles(place: &Place) -> Diagnostic {
    Diagnostic::error(
        codes::UNREACHABLE_SOURCE,
        format!("policy source `{place}` cannot be asked"),
    )
    .cause("this build fetches no bundles")
    .help("name a folder or a git repository")
}
