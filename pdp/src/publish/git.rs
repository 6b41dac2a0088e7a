//! A git repository as a source: a bare mirror in the state folder, read without a
//! check-out.
//!
//! Each question is about a state: which commit does the reference name there, and is it
//! the one that was read? So nothing is lost when a question fails, when history was
//! rewritten, or when the mirror is thrown away: the next answer is the whole truth.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{GitAt, Place},
    wire::policy::File,
};

use smol_str::SmolStr;

use super::{codes, listed::folders_beside};
use crate::author::{Provenance, files};

mod blame;
mod commit;
mod credited;
mod run;
mod tree;

use blame::Blame;
pub(crate) use blame::FolderBlame;
pub(super) use commit::{Past, Within};
pub(crate) use credited::credit;
pub use credited::load_credited;
use run::{Failure, Git, Run};

/// Longest time of a question and its answer.
pub(crate) const LIST_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest time of fetching what is new.
pub(crate) const FETCH_TIME_MAX: Duration = Duration::from_secs(120);
/// Most bytes of one fetch.
pub(crate) const FETCH_LEN_MAX: u64 = 256 << 20;
/// Longest time of anything that stays on this host.
const LOCAL_TIME_MAX: Duration = Duration::from_secs(30);
/// Fetches after which the mirror is packed anew.
const PACKS_MAX: usize = 20;
/// Where the fetched commit is named in the mirror.
const WANTED: &str = "refs/palisade/wanted";

/// One commit.
#[derive(Debug)]
pub(crate) struct Read {
    /// Which.
    pub(crate) commit: String,
    /// The policy repository in it.
    pub(crate) content: Content,
    /// The folders beside it that its settings name, by source.
    pub(crate) beside: Vec<(SmolStr, Result<Content, Diagnostic>)>,
    /// The commit before, where this one does not descend from it.
    pub(crate) rewritten: Option<String>,
    /// Who signed it, where that was asked for.
    pub(crate) signer: Option<String>,
}

/// Files of a folder of a commit.
#[derive(Debug)]
pub(crate) struct Content {
    /// Texts by path, sorted; paths start at the folder.
    pub(crate) files: Vec<File>,
    /// What keeps it from being used, or is to be told about it.
    pub(crate) found: Vec<Diagnostic>,
    /// Who changed what.
    pub(crate) provenance: Provenance,
}

/// The mirror of a repository.
#[derive(Debug)]
pub(crate) struct Mirror {
    at: GitAt,
    git: Git,
    /// File with those who may sign; see `ALLOWED SIGNERS` in ssh-keygen(1).
    signers: Option<PathBuf>,
    taken: PathBuf,
    /// By folder.
    blames: BTreeMap<String, Blame>,
    /// Whether folders that the settings name are read, too.
    whole: bool,
    failures: u32,
}

/// The commit that was last good, and when it was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    commit: String,
    time_s: i64,
}

impl Mirror {
    /// Keeps the mirror of `at` in `home`; commits must be signed by one of `signers`
    /// where there are any.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn new(
        place: &Place,
        at: &GitAt,
        home: PathBuf,
        signers: Option<&str>,
    ) -> Result<Self, Diagnostic> {
        let make = || -> io::Result<(Git, Option<PathBuf>)> {
            begin(&home, place)?;
            let protocol = if at.url.starts_with("file:") {
                "file"
            } else {
                "https"
            };
            let mut git = Git::new(&home, home.join("mirror.git"))?.over(protocol);
            if let Some(file) = &place.credentials {
                git = git.set("credential.helper", reading(file));
            }
            if let Some(file) = &place.ca {
                git = git.set("http.sslCAInfo", file.as_os_str());
            }
            let file = home.join("signers");
            if let Some(signers) = signers {
                fs::write(&file, signers)?;
                git = git.set("gpg.ssh.allowedSignersFile", file.as_os_str());
            }
            Ok((git, signers.map(|_| file)))
        };
        let (git, signers) = make().map_err(|e| unusable(&home, &e))?;
        Ok(Self {
            at: at.clone(),
            blames: BTreeMap::new(),
            whole: false,
            taken: home.join("taken"),
            git,
            signers,
            failures: 0,
        })
    }

    /// The same of a repository that folders beside it contribute to.
    pub(crate) fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// The commit that the reference names there now.
    ///
    /// # Errors
    /// When the server does not answer, or knows no such reference.
    pub(crate) async fn wanted(&self) -> Result<String, Diagnostic> {
        if files::is_commit(&self.at.reference) {
            return Ok(self.at.reference.clone());
        }
        self.list().await.map(|(_, commit)| commit)
    }

    /// Name and commit of the reference there.
    async fn list(&self) -> Result<(String, String), Diagnostic> {
        let names = self.names();
        let mut args = vec!["ls-remote".to_owned(), self.at.url.clone()];
        args.extend(names.iter().cloned());
        args.extend(names.iter().map(|n| format!("{n}^{{}}")));
        let run = Run::new(args, LIST_TIME_MAX, 1 << 20);
        let listed = self.git.run(run).await.map_err(|f| self.unreachable(&f))?;
        let listed = String::from_utf8_lossy(&listed);
        let there: BTreeMap<&str, &str> = listed
            .lines()
            .filter_map(|l| l.split_once('\t').map(|(commit, name)| (name, commit)))
            .collect();
        let commit_of = |name: &String| {
            let peeled = there.get(format!("{name}^{{}}").as_str());
            let commit = peeled.or(there.get(name.as_str()))?;
            files::is_commit(commit).then(|| (name.clone(), (*commit).to_owned()))
        };
        names.iter().find_map(commit_of).ok_or_else(|| {
            Diagnostic::error(
                codes::REFERENCE_MISSING,
                format!("`{}` has no `{}`", self.at.url, self.at.reference),
            )
            .cause("the server answers, and lists no branch or tag of this name")
            .help("push it again, or name another reference; what runs goes on")
        })
    }

    /// Names that the reference can have there, in order of preference.
    fn names(&self) -> Vec<String> {
        let reference = &self.at.reference;
        match reference.as_str() {
            "HEAD" => vec!["HEAD".to_owned()],
            whole if whole.starts_with("refs/") => vec![whole.to_owned()],
            name => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
        }
    }

    /// Fetches what the reference names and reads it.
    ///
    /// # Errors
    /// When it cannot be fetched whole, or its signature does not count.
    pub(crate) async fn read(&mut self) -> Result<Read, Diagnostic> {
        let read = self.try_read().await;
        self.failures = match &read {
            Ok(_) => 0,
            Err(_) => self.failures + 1,
        };
        if self.failures > 1 {
            // A mirror that a power loss damaged would fail for ever; nothing in it is
            // needed that the server does not have.
            let _ = fs::remove_dir_all(&self.git.dir);
        }
        read
    }

    async fn try_read(&mut self) -> Result<Read, Diagnostic> {
        self.prepare().await?;
        let name = match files::is_commit(&self.at.reference) {
            true => self.at.reference.clone(),
            false => self.list().await?.0,
        };
        self.fetch(&name).await?;
        let commit = self
            .local(["rev-parse", "--verify", &format!("{WANTED}^{{commit}}")])
            .await?;
        let signer = self.check_signature(&commit).await?;
        let before = self.taken();
        let time_s = self.commit_time(&commit).await?;
        let rewritten = match &before {
            Some(before) if before.commit != commit => {
                let descends = self.descends(&before.commit, &commit).await;
                (!descends).then_some(before)
            }
            _ => None,
        };
        if let Some(before) = rewritten.filter(|b| self.signers.is_some() && time_s <= b.time_s) {
            return Err(self.older(&commit, before));
        }
        let rewritten = rewritten.map(|b| b.commit.clone());
        let subdir = self.at.subdir.clone();
        let content = self.content(&commit, &subdir).await?;
        let beside = match self.whole {
            true => self.beside(&commit, &content).await?,
            false => Vec::new(),
        };
        self.take(&Taken {
            commit: commit.clone(),
            time_s,
        })?;
        Ok(Read {
            commit,
            content,
            beside,
            rewritten,
            signer,
        })
    }

    /// Makes the mirror, or cleans it of what runs that were cut short left.
    async fn prepare(&self) -> Result<(), Diagnostic> {
        let packs = self.git.dir.join("objects/pack");
        if !packs.is_dir() {
            let dir = self.git.dir.as_os_str().to_owned();
            let args = ["init", "--quiet", "--bare"]
                .map(Into::into)
                .into_iter()
                .chain([dir]);
            let run = Run::new(args, LOCAL_TIME_MAX, 1 << 20);
            return self
                .git
                .run(run)
                .await
                .map(drop)
                .map_err(|f| self.unreachable(&f));
        }
        let entries = fs::read_dir(&packs).into_iter().flatten().flatten();
        let names: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        let named = |p: &&PathBuf, text: &str| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().contains(text))
        };
        for draft in names.iter().filter(|p| named(p, "tmp_")) {
            let _ = fs::remove_file(draft);
        }
        if names.iter().filter(|p| named(p, ".pack")).count() > PACKS_MAX {
            self.local(["gc", "--quiet", "--prune=now"]).await?;
        }
        Ok(())
    }

    async fn fetch(&self, name: &str) -> Result<(), Diagnostic> {
        let refspec = format!("+{name}:{WANTED}");
        let args = [
            "fetch",
            "--quiet",
            "--force",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            &self.at.url,
            &refspec,
        ];
        let run = Run::new(args, FETCH_TIME_MAX, 1 << 20).file_len_max(FETCH_LEN_MAX);
        self.git.run(run).await.map(drop).map_err(|failure| {
            if let Failure::Missing = failure {
                return self.unreachable(&failure);
            }
            Diagnostic::error(
                codes::FETCH_FAILED,
                format!(
                    "`{}` could not be fetched whole from `{}`",
                    self.at.reference, self.at.url
                ),
            )
            .cause(failure.cause())
            .help(format!(
                "it is fetched again by itself; at most {} MiB and {} s for one fetch",
                FETCH_LEN_MAX >> 20,
                FETCH_TIME_MAX.as_secs()
            ))
        })
    }

    /// Who signed the commit; nothing where no signature is asked for.
    async fn check_signature(&self, commit: &str) -> Result<Option<String>, Diagnostic> {
        if self.signers.is_none() {
            return Ok(None);
        }
        // `%G?` is `G` for a good signature of an allowed signer; `%GS` is who that is.
        let shown = self
            .local(["log", "-1", "--format=%G?%x00%GS", commit])
            .await?;
        let (state, signer) = shown.split_once('\0').unwrap_or_default();
        if state == "G" && !signer.is_empty() {
            return Ok(Some(signer.to_owned()));
        }
        let cause = match state {
            "N" => "it has no signature".to_owned(),
            "B" => "its signature is not of these bytes".to_owned(),
            "U" | "E" => "it is not signed by a key of an allowed signer".to_owned(),
            other => format!("its signature does not count (`{other}` in git's words)"),
        };
        Err(Diagnostic::error(
            codes::NOT_SIGNED,
            format!("commit {} is not signed by an allowed signer", short(commit)),
        )
        .cause(cause)
        .help("sign it with a key of `signers` and push again: git commit --amend -S; what runs goes on"))
    }

    fn older(&self, commit: &str, before: &Taken) -> Diagnostic {
        Diagnostic::error(
            codes::REWOUND,
            format!("commit {} is older than what was signed before", short(commit)),
        )
        .cause(format!(
            "`{}` was moved from {} to a commit that does not follow it and was not signed later; whoever may push could bring back what signers have replaced",
            self.at.reference,
            short(&before.commit)
        ))
        .help("revert in a new signed commit: git revert")
    }

    async fn commit_time(&self, commit: &str) -> Result<i64, Diagnostic> {
        let shown = self.local(["log", "-1", "--format=%ct", commit]).await?;
        shown
            .parse()
            .map_err(|_| self.damaged("a commit has no time"))
    }

    async fn descends(&self, before: &str, commit: &str) -> bool {
        let run = Run::new(
            ["merge-base", "--is-ancestor", before, commit],
            LOCAL_TIME_MAX,
            1 << 10,
        );
        self.git.run(run).await.is_ok()
    }

    /// What the folders have that the settings of the repository name.
    async fn beside(
        &mut self,
        commit: &str,
        repository: &Content,
    ) -> Result<Vec<(SmolStr, Result<Content, Diagnostic>)>, Diagnostic> {
        let mut all = repository.files.iter();
        let settings = all.find(|file| file.path == files::SETTINGS);
        let settings = settings.map_or("", |file| &file.text);
        let mut read = Vec::new();
        for (name, subdir) in folders_beside(settings, &self.at) {
            match self.content(commit, &subdir).await {
                Err(passing) if passing.code.0 != codes::REFERENCE_MISSING => return Err(passing),
                read_or_lacks => read.push((name, read_or_lacks)),
            }
        }
        Ok(read)
    }

    /// What a folder of a commit has.
    async fn content(&mut self, commit: &str, subdir: &str) -> Result<Content, Diagnostic> {
        let (files, mut found) = self.files(commit, subdir).await?;
        let git = &self.git;
        let blame = self.blames.entry(subdir.to_owned());
        let blame = blame.or_insert_with(|| Blame::new(git.clone(), subdir));
        let provenance = blame.of(commit, &files, &mut found).await;
        Ok(Content {
            files,
            found,
            provenance,
        })
    }

    /// Texts of a folder of the commit that belong to a policy repository.
    async fn files(
        &self,
        commit: &str,
        subdir: &str,
    ) -> Result<(Vec<File>, Vec<Diagnostic>), Diagnostic> {
        let tree = format!("{commit}:{subdir}");
        let blobs = match tree::list(&self.git, &tree).await {
            Err(Failure::Said(_)) if !self.has_folder(commit, subdir).await? => {
                return Err(lacks(commit, subdir));
            }
            blobs => blobs.map_err(|failure| self.damaged(&failure.cause()))?,
        };
        let texts = tree::texts(&self.git, blobs).await;
        texts.map_err(|failure| self.damaged(&failure.cause()))
    }

    /// Whether the commit has a folder `subdir`. Where that cannot be told, or its list cannot be
    /// read though it is there, the mirror is damaged: git ends in the same way for both.
    async fn has_folder(&self, commit: &str, subdir: &str) -> Result<bool, Diagnostic> {
        if subdir.is_empty() {
            return Ok(true);
        }
        let entry = tree::entry(&self.git, commit, subdir).await;
        let (mode, _) = entry.map_err(|failure| self.damaged(&failure.cause()))?;
        Ok(mode == tree::FOLDER)
    }

    /// Runs git on the mirror alone; the one line it gives.
    async fn local<const N: usize>(&self, args: [&str; N]) -> Result<String, Diagnostic> {
        let run = Run::new(args, LOCAL_TIME_MAX, 1 << 16);
        let output = self.git.run(run).await;
        let output = output.map_err(|failure| self.damaged(&failure.cause()))?;
        Ok(String::from_utf8_lossy(&output)
            .trim_end_matches('\n')
            .to_owned())
    }

    fn taken(&self) -> Option<Taken> {
        let text = fs::read_to_string(&self.taken).ok()?;
        let (commit, time) = text.trim_end().split_once(' ')?;
        Some(Taken {
            commit: commit.to_owned(),
            time_s: time.parse().ok()?,
        })
    }

    fn take(&self, taken: &Taken) -> Result<(), Diagnostic> {
        let draft = self.taken.with_extension("new");
        let text = format!("{} {}\n", taken.commit, taken.time_s);
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &self.taken))
            .map_err(|e| unusable(&self.taken, &e))
    }

    fn unreachable(&self, failure: &Failure) -> Diagnostic {
        if let Failure::Missing = failure {
            return Diagnostic::error(codes::GIT_MISSING, "there is no program `git` here")
                .cause(format!("`{}` is read with it", self.at.url))
                .help("install git on the host of the PDP: apt-get install git");
        }
        Diagnostic::error(
            codes::UNREACHABLE_SOURCE,
            format!("policy source `{}` does not answer", self.at.url),
        )
        .cause(failure.cause())
        .help("see that the repository is there and may be read (`credentials`, `ca`); what runs goes on, and it is asked again by itself")
    }

    fn damaged(&self, why: &str) -> Diagnostic {
        Diagnostic::error(
            codes::FETCH_FAILED,
            format!("the mirror of `{}` cannot be read", self.at.url),
        )
        .cause(why)
        .help("it is made anew by itself; if it stays so, check the disk of the state folder")
    }
}

fn unusable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error(
        codes::STATE_DIR,
        format!("state in `{}` cannot be used", path.display()),
    )
    .cause(error.to_string())
    .help("check that the folder exists, that this user may write it, and that the disk has room")
}

/// A helper that gives git what a file of credentials has. Git tells its helpers to forget what a
/// server refuses (gitcredentials(7)), and `store` alone would take the line out of the file:
/// one wrong answer of a server, and the PDP could never ask it again.
fn reading(file: &Path) -> String {
    let quoted = file.display().to_string().replace('\'', "'\\''");
    format!(
        "!only_get() {{ if [ \"$1\" = get ]; then exec git credential-store --file='{quoted}' get; fi; }}; only_get"
    )
}

/// Prepares the folder; what is of another place is removed.
fn begin(home: &Path, place: &Place) -> io::Result<()> {
    let (label, place) = (home.join("place"), place.to_string());
    let known = fs::read_to_string(&label).ok();
    if known.as_deref() != Some(&place) {
        if home.exists() {
            fs::remove_dir_all(home)?;
        }
        fs::create_dir_all(home)?;
        fs::write(&label, place)?;
    }
    Ok(())
}

/// What names a folder that a commit does not have.
fn lacks(commit: &str, subdir: &str) -> Diagnostic {
    Diagnostic::error(
        codes::REFERENCE_MISSING,
        format!("commit {} has no folder `{subdir}`", short(commit)),
    )
    .help(
        "name the folder of the policy repository under `subdir`, that of a source under `folder`",
    )
}

/// A commit as people say it.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}
