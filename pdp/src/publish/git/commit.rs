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
/// Most links on the way to a path, as many as the system follows.
const LINKS_MAX: usize = 40;

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

/// Where a path is, seen from a clone.
pub(in crate::publish) enum Within {
    /// In it: the path from its root, `/` as separator.
    At(String),
    /// Elsewhere.
    Outside,
    /// That depends on a link of the clone, which may have led elsewhere in the commit; why in
    /// words.
    Unknown(String),
}

/// What a path of a commit is.
enum Entry {
    Folder(String),
    /// Another repository within, or around it: where it stands, its commit, and the path in it.
    Submodule(String, String, String),
    /// A link.
    Link,
    /// A file, or nothing.
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
        let inside = match self.within(&self.dir) {
            Within::At(inside) => inside,
            _ => String::new(),
        };
        let tree = format!("{}:{inside}", self.commit);
        let texts = texts(&self.git, &tree, &self.commit).await;
        let mut texts = texts.map_err(|failure| self.unread(&failure))?;
        texts.demand_settings("the commit");
        Ok(texts)
    }

    /// Where what `path` names is. Links outside of the clone are followed as they are now, and
    /// `..` is what the system takes it for: the parent of where a link leads.
    pub(in crate::publish) fn within(&self, path: &Path) -> Within {
        let whole = self.dir.join(path);
        let mut real = PathBuf::new();
        let mut ahead: Vec<PathBuf> = parts(&whole);
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            match part.components().next() {
                Some(Component::CurDir) | None => continue,
                Some(Component::ParentDir) => {
                    real.pop();
                    continue;
                }
                Some(_) => real.push(part),
            }
            let Ok(target) = real.read_link() else {
                continue;
            };
            links += 1;
            if let Ok(link) = real.strip_prefix(&self.root) {
                let link = link.display();
                return Within::Unknown(format!(
                    "the way there is the link `{link}` of the clone, which a commit may have elsewhere"
                ));
            }
            if links > LINKS_MAX {
                return Within::Unknown("links lead to each other".to_owned());
            }
            real.pop();
            ahead.extend(parts(&target));
        }
        let Ok(inside) = real.strip_prefix(&self.root) else {
            return Within::Outside;
        };
        let texts: Option<Vec<&str>> = inside.iter().map(|part| part.to_str()).collect();
        match texts {
            Some(parts) => Within::At(parts.join("/")),
            None => Within::Unknown("its path is no text".to_owned()),
        }
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
            Entry::Submodule(at, commit, rest) => {
                let git = Git::of_user(self.root.join(&at));
                let tree = format!("{commit}:{rest}");
                let texts = texts(&git, &tree, &commit).await;
                Ok(Some(texts.map_err(|failure| {
                    let why = failure.cause();
                    format!(
                        "commit {commit} of submodule `{at}` does not have it here: {why}; fetch it: git -C {at} fetch --depth=1 origin {commit}"
                    )
                })))
            }
            Entry::Link => Ok(Some(Err(format!("`{inside}` is a link in the commit")))),
            Entry::Other if self.is_of_another(inside) => Ok(None),
            Entry::Other if self.root.join(inside).exists() => Ok(Some(Err(format!(
                "the commit has nothing at `{inside}`, though there is something now"
            )))),
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

    /// What the commit has at a path, where that may be in another repository within, or behind a
    /// link.
    async fn entry(&self, inside: &str) -> Result<Entry, Failure> {
        if inside.is_empty() {
            return Ok(Entry::Folder(self.commit.clone()));
        }
        let ends = inside.match_indices('/').map(|(end, _)| end);
        for end in ends.chain([inside.len()]) {
            let (path, rest) = inside.split_at(end);
            let (kind, id) = tree::entry(&self.git, &self.commit, path).await?;
            match kind.as_str() {
                tree::FOLDER if rest.is_empty() => return Ok(Entry::Folder(id)),
                tree::FOLDER => {}
                "160000" => {
                    let rest = rest.trim_start_matches('/').to_owned();
                    return Ok(Entry::Submodule(path.to_owned(), id, rest));
                }
                "120000" => return Ok(Entry::Link),
                _ => break,
            }
        }
        Ok(Entry::Other)
    }

    fn unread(&self, failure: &Failure) -> Diagnostic {
        unread(&self.reference, failure)
    }
}

/// The parts of a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().rev();
    parts.map(|part| PathBuf::from(part.as_os_str())).collect()
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
