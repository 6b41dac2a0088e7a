//! A commit of the clone that somebody works in.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use palisade_mesh::diagnostic::Diagnostic;

use super::{Failure, Git, LOCAL_TIME_MAX, Run, tree};
use crate::{
    author::Texts,
    bundle::file::{self, FILE_LEN_MAX},
};

/// The commit cannot be read.
const UNREAD: u16 = 2310;

/// A commit of the clone that a folder lies in. Git is run as the user runs it: a partial clone
/// fetches what it lacks.
#[derive(Debug)]
pub(in crate::publish) struct Past {
    git: Git,
    reference: String,
    commit: String,
    /// The folder, and the root of its clone.
    dir: PathBuf,
    root: PathBuf,
}

/// What a path of a commit is.
enum Entry {
    Folder(String),
    /// Another repository within, at a commit.
    Submodule(String),
    /// A file, a link, or nothing.
    Other,
}

impl Past {
    /// The commit that `reference` names in the clone around `dir`.
    ///
    /// # Errors
    /// When git is not there, `dir` is in no clone, or the clone lacks the commit.
    pub(in crate::publish) async fn at(dir: &Path, reference: &str) -> Result<Self, Diagnostic> {
        let git = Git::of_user(dir.to_owned());
        let unread = |failure: Failure| unread(reference, &failure);
        let wanted = format!("{reference}^{{commit}}");
        let asked = ["rev-parse", "--verify", "--end-of-options", &wanted];
        let commit = line(&git, asked).await.map_err(unread)?;
        let prefix = line(&git, ["rev-parse", "--show-prefix"]).await;
        let prefix = prefix.map_err(unread)?;
        let dir = dir.canonicalize().map_err(|e| unread(Failure::Io(e)))?;
        let deep = Path::new(&prefix).components().count();
        let root = dir.ancestors().nth(deep).unwrap_or(&dir).to_owned();
        Ok(Self {
            git,
            reference: reference.to_owned(),
            commit,
            dir,
            root,
        })
    }

    /// Its id.
    pub(in crate::publish) fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder of the repository, where paths start.
    pub(in crate::publish) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The texts of the repository.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(in crate::publish) async fn repository(&self) -> Result<Texts, Diagnostic> {
        let inside = self.within(&self.dir).unwrap_or_default();
        let tree = format!("{}:{inside}", self.commit);
        let texts = texts(&self.git, &tree, &self.commit).await;
        let mut texts = texts.map_err(|failure| self.unread(&failure))?;
        texts.demand_settings("the commit");
        Ok(texts)
    }

    /// The path in the clone of what `path` names, `/` as separator; nothing where that is
    /// outside.
    pub(in crate::publish) fn within(&self, path: &Path) -> Option<String> {
        let mut clean = PathBuf::new();
        for part in self.dir.join(path).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir => {
                    clean.pop();
                }
                part => clean.push(part),
            }
        }
        let inside = clean.strip_prefix(&self.root).ok()?;
        let parts: Option<Vec<&str>> = inside.iter().map(|part| part.to_str()).collect();
        Some(parts?.join("/"))
    }

    /// What the folder at a path of the clone contributes, or why that is not known here;
    /// nothing where it is of another clone, which only stands in this one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(in crate::publish) async fn folder(
        &self,
        inside: &str,
    ) -> Result<Option<Result<Texts, String>>, Diagnostic> {
        let unread = |failure: Failure| self.unread(&failure);
        match self.entry(inside).await.map_err(unread)? {
            Entry::Folder(tree) => {
                let texts = texts(&self.git, &tree, &self.commit).await;
                Ok(Some(Ok(texts.map_err(unread)?)))
            }
            Entry::Submodule(commit) => {
                let git = Git::of_user(self.root.join(inside));
                let texts = texts(&git, &commit, &commit).await;
                Ok(Some(texts.map_err(|failure| {
                    let short = super::short(&commit);
                    let why = failure.cause();
                    format!("that is a submodule, whose commit {short} is not here: {why}")
                })))
            }
            Entry::Other if self.is_of_another(inside) => Ok(None),
            Entry::Other => {
                let nothing = Texts::of(self.commit.clone(), Vec::new(), Vec::new());
                Ok(Some(Ok(nothing)))
            }
        }
    }

    /// Whether another clone stands there, or around it, as CI puts one beside the sources.
    fn is_of_another(&self, inside: &str) -> bool {
        let path = self.root.join(inside);
        let mut above = path.ancestors().take_while(|dir| *dir != self.root);
        above.any(|dir| dir.join(".git").exists())
    }

    /// The bytes of the bundle file at a path of the clone.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    pub(in crate::publish) async fn file(&self, inside: &str) -> Result<Bytes, Diagnostic> {
        let name = format!("{}:{inside}", self.commit);
        let args = ["cat-file", "blob", &name];
        let read = self.git.run(Run::new(args, LOCAL_TIME_MAX, FILE_LEN_MAX));
        let read = read.await.map(Bytes::from);
        read.map_err(|failure| {
            file::unread(
                &format!("git:{}:{inside}", self.reference),
                &failure.cause(),
            )
        })
    }

    async fn entry(&self, inside: &str) -> Result<Entry, Failure> {
        if inside.is_empty() {
            return Ok(Entry::Folder(self.commit.clone()));
        }
        let args = ["ls-tree", "-z", "--full-tree", &self.commit, "--", inside];
        let run = Run::new(args, LOCAL_TIME_MAX, 1 << 16);
        let listed = self.git.run(run).await?;
        let listed = String::from_utf8_lossy(&listed);
        let head = listed.split('\t').next().unwrap_or_default();
        let words: Vec<&str> = head.split(' ').collect();
        Ok(match words.as_slice() {
            [_, "tree", id] => Entry::Folder((*id).to_owned()),
            [_, "commit", id] => Entry::Submodule((*id).to_owned()),
            _ => Entry::Other,
        })
    }

    fn unread(&self, failure: &Failure) -> Diagnostic {
        unread(&self.reference, failure)
    }
}

/// The texts of a policy repository in `tree`, which is of `commit`.
async fn texts(git: &Git, tree: &str, commit: &str) -> Result<Texts, Failure> {
    if !git.dir.is_dir() {
        return Err(Failure::Io(io::ErrorKind::NotFound.into()));
    }
    let blobs = tree::list(git, tree).await?;
    let (files, found) = tree::texts(git, blobs).await?;
    Ok(Texts::of(commit.to_owned(), files, found))
}

/// The one line that git answers.
async fn line<const N: usize>(git: &Git, args: [&str; N]) -> Result<String, Failure> {
    let output = git.run(Run::new(args, LOCAL_TIME_MAX, 1 << 16)).await?;
    let text = String::from_utf8_lossy(&output);
    Ok(text.trim_end_matches('\n').to_owned())
}

fn unread(reference: &str, failure: &Failure) -> Diagnostic {
    Diagnostic::error(UNREAD, format!("`git:{reference}` cannot be read"))
    .cause(failure.cause())
    .help("HEAD must be a folder of a git repository that has the commit; in CI, fetch it: git fetch --depth=1 origin REF")
}
