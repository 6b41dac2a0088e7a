//! Who last changed each line: `git blame`, remembered from one commit to the next.
//!
//! The same commit gives the same answer on every machine: what is remembered of a file
//! holds only where no commit between touched it. It is bounded in time; what it had no
//! time for is told, and has neither commit nor author.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_mesh::{diagnostic::Diagnostic, wire::policy::File};

use super::{Failure, Git, LOCAL_TIME_MAX, Run, codes, tree::object};
use crate::author::{
    Provenance, REPOSITORY_LEN_MAX,
    files::{self, WorkTree},
    provenance::{Change, Lines, author},
};

/// Longest time for all files of a revision.
const TIME_MAX: Duration = Duration::from_secs(15);
/// The same for a folder, where somebody waits for what was saved.
const FOLDER_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest answer about one file.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// What is known of the files of one commit.
#[derive(Debug)]
pub(super) struct Blame {
    git: Git,
    /// Path of the policy repository in the repository, with a `/` behind it where it has one.
    prefix: String,
    commit: String,
    files: BTreeMap<String, Arc<Lines>>,
    time: Duration,
}

impl Blame {
    pub(super) fn new(git: Git, subdir: &str) -> Self {
        let prefix = match subdir {
            "" => String::new(),
            subdir => format!("{subdir}/"),
        };
        Self {
            git,
            prefix,
            commit: String::new(),
            files: BTreeMap::new(),
            time: TIME_MAX,
        }
    }

    /// Who changed the policy files among `texts`, which are those of `commit`.
    pub(super) async fn of(
        &mut self,
        commit: &str,
        texts: &[File],
        found: &mut Vec<Diagnostic>,
    ) -> Provenance {
        let begun = Instant::now();
        if self.commit != commit {
            match self.touched(commit).await {
                Some(touched) => self.files.retain(|path, _| !touched.contains(path)),
                None => self.files.clear(),
            }
            commit.clone_into(&mut self.commit);
        }
        let policies = texts.iter().filter(|f| files::is_policy(&f.path));
        let paths: BTreeSet<&String> = policies.map(|f| &f.path).collect();
        self.files.retain(|path, _| paths.contains(path));
        let mut provenance = Provenance::default();
        let mut without = 0_usize;
        for path in paths {
            let known = self.files.get(path).cloned();
            let left = self.time.saturating_sub(begun.elapsed());
            let lines = match known {
                Some(lines) => Some(lines),
                None if left.is_zero() => None,
                None => self.lines(path, left).await.map(Arc::new),
            };
            match lines {
                Some(lines) => {
                    self.files.insert(path.clone(), lines.clone());
                    provenance.insert(path.clone(), lines);
                }
                None => without += 1,
            }
        }
        if without > 0 {
            found.push(
                Diagnostic::warning(
                    codes::NO_AUTHORS,
                    format!("commit and author of the policies of {without} files are not known"),
                )
                .cause(format!(
                    "`git blame` gave no answer within {} s for all files",
                    self.time.as_secs()
                ))
                .help("see that the history is whole (no shallow clone); policies are in force all the same"),
            );
        }
        provenance
    }

    /// Files that a commit between the last one and this one touched; none when this one
    /// does not follow it.
    async fn touched(&self, commit: &str) -> Option<BTreeSet<String>> {
        if self.commit.is_empty() {
            return None;
        }
        let ancestor = ["merge-base", "--is-ancestor", &self.commit, commit];
        let run = Run::new(ancestor, LOCAL_TIME_MAX, 1 << 10);
        self.git.run(run).await.ok()?;
        let range = format!("{}..{commit}", self.commit);
        let args = ["log", "--format=", "--name-only", "-c", "-z", &range];
        let run = Run::new(args, LOCAL_TIME_MAX, ANSWER_LEN_MAX);
        let listed = self.git.run(run).await.ok()?;
        let listed = String::from_utf8_lossy(&listed);
        let names = listed.split(['\0', '\n']);
        let inside = names.filter_map(|n| n.strip_prefix(self.prefix.as_str()));
        Some(inside.map(str::to_owned).collect())
    }

    async fn lines(&self, path: &str, time: Duration) -> Option<Lines> {
        let whole = format!("{}{path}", self.prefix);
        let args = [
            "blame",
            "--porcelain",
            "--no-textconv",
            &self.commit,
            "--",
            &whole,
        ];
        let answer = self.git.run(Run::new(args, time, ANSWER_LEN_MAX)).await;
        parse(&String::from_utf8_lossy(&answer.ok()?))
    }
}

/// Reads the porcelain format of git-blame(1).
fn parse(text: &str) -> Option<Lines> {
    let mut lines = Lines::default();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let (mut name, mut mail) = ("", "");
    let mut at = None;
    for line in text.split('\n') {
        if line.starts_with('\t') {
            lines.of_line.push(at?);
        } else if let Some(value) = line.strip_prefix("author ") {
            name = value;
        } else if let Some(value) = line.strip_prefix("author-mail ") {
            mail = value;
        } else if let Some(value) = line.strip_prefix("committer-time ") {
            let change = lines.changes.get_mut(at?)?;
            change.author = author(name, mail);
            change.time_s = value.parse().ok()?;
        } else if let Some(commit) = line.split(' ').next().filter(|c| files::is_commit(c)) {
            let changes = &mut lines.changes;
            at = Some(*known.entry(commit).or_insert_with(|| {
                changes.push(Change {
                    commit: commit.into(),
                    author: "".into(),
                    time_s: 0,
                });
                changes.len() - 1
            }));
        }
    }
    Some(lines)
}

/// Who changed the policies of a folder that is checked out from git. Of files that differ
/// from the commit, nothing is known. Reads the repository only, never the work tree: its
/// filters would be programs to run.
#[derive(Debug)]
pub(crate) struct FolderBlame {
    /// Folder for git's configuration.
    home: PathBuf,
    time: Duration,
    blame: Option<(PathBuf, Blame)>,
}

impl FolderBlame {
    pub(crate) fn new(home: PathBuf) -> Self {
        Self {
            home,
            time: FOLDER_TIME_MAX,
            blame: None,
        }
    }

    /// For who does not wait for what was just saved.
    pub(crate) fn patient(home: PathBuf) -> Self {
        Self {
            time: TIME_MAX,
            ..Self::new(home)
        }
    }

    /// Who changed `texts`, which are those of `folder`; nothing where there is no
    /// repository or no git.
    pub(crate) async fn of(
        &mut self,
        folder: &Path,
        texts: &[File],
        found: &mut Vec<Diagnostic>,
    ) -> Provenance {
        let Some(tree) = files::work_tree(folder) else {
            return Provenance::default();
        };
        if self
            .blame
            .as_ref()
            .is_none_or(|(dir, _)| *dir != tree.git_dir)
        {
            let Ok(git) = Git::new(&self.home, tree.git_dir.clone()) else {
                return Provenance::default();
            };
            let mut blame = Blame::new(git, tree.prefix.trim_end_matches('/'));
            blame.time = self.time;
            self.blame = Some((tree.git_dir.clone(), blame));
        }
        let Some((_, blame)) = &mut self.blame else {
            return Provenance::default();
        };
        match unchanged(&blame.git, &tree, texts).await {
            Ok(same) => blame.of(&tree.commit, &same, found).await,
            Err(failure) => {
                tracing::debug!(
                    cause = failure.cause(),
                    "git knows nothing of the policy folder"
                );
                Provenance::default()
            }
        }
    }
}

/// The policy files that are as the commit has them.
async fn unchanged(git: &Git, tree: &WorkTree, texts: &[File]) -> Result<Vec<File>, Failure> {
    // A name with a line break in it would be two questions.
    let asked = |f: &&File| files::is_policy(&f.path) && !f.path.contains(char::is_control);
    let policies: Vec<&File> = texts.iter().filter(asked).collect();
    let named = |f: &&File| format!("{}:{}{}\n", tree.commit, tree.prefix, f.path);
    let names: String = policies.iter().map(named).collect();
    let limit = REPOSITORY_LEN_MAX + policies.len() * 4_096;
    let run = Run::new(["cat-file", "--batch"], LOCAL_TIME_MAX, limit).input(names.as_bytes());
    let batch = git.run(run).await?;
    let mut rest = batch.as_slice();
    let mut same = Vec::new();
    for file in policies {
        match object(&mut rest) {
            Some(Some(text)) if text == file.text.as_bytes() => same.push(file.clone()),
            Some(_) => {}
            None => break,
        }
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_change_that_git_names() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let text = format!(
            "{a} 1 1 2\nauthor Alice\nauthor-mail <alice@acme.test>\ncommitter-time 5\nfilename p\n\tauthor Mallory\n\
             {a} 2 2\n\t\n{b} 3 3 1\nauthor Bob\nauthor-mail <bob@acme.test>\ncommitter-time 9\nfilename p\n\tpermit\n"
        );
        let lines = parse(&text).unwrap();
        assert_eq!(lines.of_line, [0, 0, 1]);
        assert_eq!(lines.changes[0].author, "Alice <alice@acme.test>");
        assert_eq!(
            (lines.changes[1].commit.as_str(), lines.changes[1].time_s),
            (b.as_str(), 9)
        );
    }
}
