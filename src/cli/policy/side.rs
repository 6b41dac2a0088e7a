//! Where a revision under comparison comes from: a folder, a commit, a bundle, or the running
//! mesh.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{
    author::{self, FILE_LEN_MAX, FILES_MAX, Loaded, REPOSITORY_LEN_MAX},
    bundle::file,
    compiled::Compiled,
    decide::Snapshot,
};

use crate::{
    cli::{Context, target::running},
    run::policy,
};

/// A revision, and what it was called.
pub(super) struct Side {
    /// As it was asked for, with the commit where there is one.
    pub(super) name: String,
    pub(super) compiled: Compiled,
}

impl Side {
    /// Its engine.
    ///
    /// # Errors
    /// When it cannot be built; the compiler is to blame.
    pub(super) fn snapshot(self) -> Result<Arc<Snapshot>, Vec<Diagnostic>> {
        policy::snapshot(self.compiled, 0).map_err(|d| vec![d])
    }
}

/// Where a revision is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Bundle(PathBuf),
    Folder(PathBuf),
    /// A commit of the repository that a folder lies in.
    Git {
        reference: String,
        dir: PathBuf,
    },
    Running,
}

impl Source {
    /// Understands what was asked for; a commit is one of the repository that `near` lies in.
    fn of(name: &str, near: &Path) -> Self {
        if let Some(reference) = name.strip_prefix("git:") {
            return Self::Git {
                reference: reference.to_owned(),
                dir: near.to_path_buf(),
            };
        }
        match Path::new(name) {
            _ if name == "running" => Self::Running,
            path if path.is_file() => Self::Bundle(path.to_path_buf()),
            path => Self::Folder(path.to_path_buf()),
        }
    }
}

/// Both revisions of a comparison, compiled at the same time.
///
/// # Errors
/// What is wrong with the older one, then what is wrong with the newer one.
pub(super) async fn both(
    base: &str,
    head: &str,
    context: &Context,
) -> Result<(Side, Side), Vec<Diagnostic>> {
    match tokio::join!(one(base, head, context), one(head, head, context)) {
        (Ok(base), Ok(head)) => Ok((base, head)),
        (Err(wrong), Ok(_)) | (Ok(_), Err(wrong)) => Err(wrong),
        (Err(mut of_base), Err(of_head)) => {
            of_base.extend(of_head);
            Err(of_base)
        }
    }
}

/// One revision, compiled. A commit is one of the repository that the folder `head` lies
/// in; of the working folder's, where `head` is no folder.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn one(
    name: &str,
    head: &str,
    context: &Context,
) -> Result<Side, Vec<Diagnostic>> {
    let near = match Source::of(head, Path::new(".")) {
        Source::Folder(dir) => dir,
        _ => PathBuf::from("."),
    };
    load(name, Source::of(name, &near), context).await
}

async fn load(name: &str, source: Source, context: &Context) -> Result<Side, Vec<Diagnostic>> {
    let mut name = name.to_owned();
    let loaded = match source {
        Source::Running => {
            let snapshot = running(context).await.map_err(|d| vec![d])?;
            return Ok(Side {
                name: format!("running, revision {}", snapshot.versions().sequence),
                compiled: snapshot.compiled().clone(),
            });
        }
        Source::Folder(dir) => blocking(move || Ok(author::load(&dir))).await?,
        Source::Bundle(path) => {
            blocking(move || Ok(author::compile(file::read(&path)?.signed.bundle))).await?
        }
        Source::Git { reference, dir } => {
            let commit = {
                let (reference, dir) = (reference.clone(), dir.clone());
                blocking(move || commit(&dir, &reference)).await?
            };
            let short: String = commit.chars().take(12).collect();
            name = format!("git:{reference} {short}");
            blocking(move || of_commit(&dir, &commit)).await?
        }
    };
    match loaded.compiled {
        Some(compiled) => Ok(Side { name, compiled }),
        None => Err(loaded
            .diagnostics
            .into_iter()
            .map(|d| told(d, &name))
            .collect()),
    }
}

/// Says which of the two revisions a diagnostic is about.
fn told(mut diagnostic: Diagnostic, name: &str) -> Diagnostic {
    diagnostic.message = format!("{name}: {}", diagnostic.message);
    diagnostic
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Diagnostic> + Send + 'static,
) -> Result<T, Vec<Diagnostic>> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|d| vec![d]),
        Err(error) => Err(vec![
            Diagnostic::error(9199, "bug: reading a revision did not end").cause(error.to_string()),
        ]),
    }
}

/// The commit that a reference of the repository around `dir` names.
fn commit(dir: &Path, reference: &str) -> Result<String, Diagnostic> {
    let wanted = format!("{reference}^{{commit}}");
    let out = git(dir, &["rev-parse", "--verify", "--end-of-options", &wanted])?;
    Ok(String::from_utf8_lossy(&out).trim().to_owned())
}

/// The texts of a commit, read by git without a checkout, from the folder that `dir` is there.
fn of_commit(dir: &Path, commit: &str) -> Result<Loaded, Diagnostic> {
    let prefix = git(dir, &["rev-parse", "--show-prefix"])?;
    let prefix = String::from_utf8_lossy(&prefix).trim_end().to_owned();
    let listed = git(
        dir,
        &[
            "ls-tree",
            "-r",
            "-l",
            "-z",
            "--full-tree",
            commit,
            "--",
            folder(&prefix),
        ],
    )?;
    let blobs = blobs(&listed, &prefix)?;
    let texts = contents(dir, &blobs)?;
    let files = blobs.into_iter().map(|b| b.path).zip(texts).collect();
    Ok(author::of_files(files, commit.to_owned()))
}

fn folder(prefix: &str) -> &str {
    if prefix.is_empty() { "." } else { prefix }
}

/// A file of a commit.
struct Blob {
    hash: String,
    /// Within the policy repository.
    path: String,
}

/// The files of a listing that belong to a policy repository; links are left out, as in a folder.
fn blobs(listed: &[u8], prefix: &str) -> Result<Vec<Blob>, Diagnostic> {
    let mut blobs = Vec::new();
    let mut total = 0;
    for entry in listed.split(|b| *b == 0).filter(|e| !e.is_empty()) {
        let entry = String::from_utf8_lossy(entry);
        let Some((facts, path)) = entry.split_once('\t') else {
            continue;
        };
        let facts: Vec<&str> = facts.split_whitespace().collect();
        let [mode, "blob", hash, size] = facts.as_slice() else {
            continue;
        };
        let path = path.strip_prefix(prefix).unwrap_or(path);
        if !mode.starts_with("100") || !author::is_part(path) {
            continue;
        }
        let len = size.parse::<usize>().unwrap_or(usize::MAX);
        total += len.min(REPOSITORY_LEN_MAX);
        if len > FILE_LEN_MAX || total > REPOSITORY_LEN_MAX || blobs.len() >= FILES_MAX {
            return Err(
                Diagnostic::error(2310, format!("`{path}` is too much to be read from git"))
                    .cause(format!(
                        "a file may have {FILE_LEN_MAX} bytes, all together {REPOSITORY_LEN_MAX} in {FILES_MAX} files"
                    ))
                    .help("compare with a commit whose policy repository is within the limits"),
            );
        }
        blobs.push(Blob {
            hash: (*hash).to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(blobs)
}

/// The bytes of every blob, in order, by one process.
fn contents(dir: &Path, blobs: &[Blob]) -> Result<Vec<Vec<u8>>, Diagnostic> {
    let failed = |e: std::io::Error| git_failed("cat-file", &e.to_string());
    let mut child = command(dir)
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(git_failed("cat-file", "bug: it has no pipes"));
    };
    let asked: String = blobs.iter().map(|b| format!("{}\n", b.hash)).collect();
    // Written beside: git answers before it has read everything, and pipes are short.
    let writer = thread::spawn(move || input.write_all(asked.as_bytes()));
    let mut output = BufReader::new(output);
    let mut read = || -> std::io::Result<Vec<Vec<u8>>> {
        let mut texts = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let mut head = String::new();
            output.read_line(&mut head)?;
            let len = head.rsplit(' ').next().and_then(|n| n.trim().parse().ok());
            let broken = || std::io::Error::other(format!("no answer for `{}`", blob.path));
            let len: usize = len.filter(|l| *l <= FILE_LEN_MAX).ok_or_else(broken)?;
            let mut text = vec![0; len + 1];
            output.read_exact(&mut text)?;
            text.pop();
            texts.push(text);
        }
        Ok(texts)
    };
    let texts = read().map_err(failed);
    drop(output);
    let _ = writer.join();
    let _ = child.wait();
    texts
}

fn git(dir: &Path, arguments: &[&str]) -> Result<Vec<u8>, Diagnostic> {
    let verb = arguments.first().copied().unwrap_or_default();
    let out = command(dir)
        .args(arguments)
        .output()
        .map_err(|e| git_failed(verb, &e.to_string()))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(git_failed(verb, said.trim().trim_start_matches("fatal: ")))
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).env("GIT_OPTIONAL_LOCKS", "0");
    command
}

fn git_failed(verb: &str, cause: &str) -> Diagnostic {
    Diagnostic::error(2310, format!("git {verb} failed"))
        .cause(cause.to_owned())
        .help("HEAD must be a folder of a git repository that has the commit; in CI, fetch it: git fetch --depth=1 origin REF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_where_a_revision_is() {
        let near = Path::new("here");
        for (name, expected) in [
            (
                "git:main",
                Source::Git {
                    reference: "main".into(),
                    dir: "here".into(),
                },
            ),
            ("running", Source::Running),
            ("policies", Source::Folder("policies".into())),
            ("Cargo.toml", Source::Bundle("Cargo.toml".into())),
        ] {
            assert_eq!(Source::of(name, near), expected, "{name}");
        }
    }

    #[test]
    fn only_files_of_a_repository_are_taken_from_a_commit() {
        let listed = "100644 blob aa 10\tp/palisade.yaml\0\
            120000 blob bb 10\tp/policies/link.cedar\0\
            100644 blob cc 10\tp/README.md\0\
            100755 blob dd 10\tp/policies/team/a.cedar\0\
            100644 blob ee 10\tp/policies/.hidden/b.cedar\0";
        let found = blobs(listed.as_bytes(), "p/").unwrap();
        let paths: Vec<&str> = found.iter().map(|b| b.path.as_str()).collect();
        assert_eq!(paths, ["palisade.yaml", "policies/team/a.cedar"]);
        let large = format!("100644 blob aa {}\tpalisade.yaml\0", FILE_LEN_MAX + 1);
        assert_eq!(
            blobs(large.as_bytes(), "").err().map(|d| d.code.0),
            Some(2310)
        );
    }
}
