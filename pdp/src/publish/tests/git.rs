//! Git repositories as sources: real ones, made by the program `git` in the test's folder.

use std::{path::PathBuf, process::Command};

use palisade_mesh::place::{At, GitAt, Place};

use super::*;

/// A git repository that a test pushes to.
pub(super) struct Repository {
    pub(super) dir: tempfile::TempDir,
}

impl Repository {
    /// With the sample policy repository in `subdir`, as the branch `main`.
    pub(super) fn of_sample(subdir: &str) -> Self {
        let sample = sample::copy();
        Self::of_folder(sample.path(), subdir)
    }

    pub(super) fn of_folder(from: &Path, subdir: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Self { dir };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        let target = repository.dir.path().join(subdir);
        fs::create_dir_all(&target).unwrap();
        let copied = Command::new("cp")
            .arg("-r")
            .arg(from.join("."))
            .arg(&target)
            .status();
        assert!(copied.unwrap().success());
        repository.commit("begin");
        repository
    }

    pub(super) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(args)
            .current_dir(self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs([
                ("GIT_AUTHOR_NAME", "Alice"),
                ("GIT_AUTHOR_EMAIL", "alice@acme.test"),
                ("GIT_COMMITTER_NAME", "Alice"),
                ("GIT_COMMITTER_EMAIL", "alice@acme.test"),
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(super) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    pub(super) fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.head()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> String {
        sample::write(self.dir.path(), name, text);
        self.commit(name)
    }

    /// Moves `main` to a commit on top of `base`, at once, as a push with force does.
    pub(super) fn force(&self, base: &str, name: &str, text: &str) -> String {
        self.git(&["checkout", "--quiet", "--detach", base]);
        let commit = self.write(name, text);
        self.git(&["branch", "--quiet", "--force", "main", "HEAD"]);
        self.git(&["checkout", "--quiet", "main"]);
        commit
    }

    pub(super) fn place(&self, reference: &str, subdir: &str) -> Place {
        let mut place = Place::new(At::Git(GitAt {
            url: format!("file://{}", self.dir.path().display()),
            reference: reference.into(),
            subdir: subdir.into(),
        }));
        place.poll = Duration::from_millis(100);
        place
    }
}

pub(super) async fn follow(place: Place, state: &Path, signers: Option<String>) -> Source {
    let mut config = SourceConfig::new(place, state);
    config.signers = signers;
    let records = Records::default();
    let source = Source::open(config, Clock::system(), records.recorder());
    source.await.expect("opens")
}

fn fault(standings: &[Standing]) -> Option<u16> {
    let fault = standings[0].fault.as_ref()?;
    Some(fault.diagnostics[0].code.0)
}

pub(super) fn git_revision(state: &State) -> String {
    let current = state.current.as_ref();
    current.map_or_else(String::new, |c| c.git_revision.clone())
}

const MORE: &str =
    "@id(\"x\")\npermit (principal, action, resource in Service::\"demo.test/shop/web\");\n";

/// A reference that moves, is rewritten, is deleted, comes back; a server that is gone. The
/// running revision is only ever replaced by a good newer one, and everything converges.
#[tokio::test]
async fn what_becomes_of_a_reference_never_removes_what_runs() {
    let (repository, state) = (
        Repository::of_sample("policy"),
        tempfile::tempdir().unwrap(),
    );
    let first = repository.head();
    let source = follow(repository.place("main", "policy"), state.path(), None).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    assert_eq!(git_revision(&seen.borrow()), first);
    let task = tokio::spawn(source.run());

    let second = repository.write("policy/policies/x.cedar", MORE);
    let now = until(&mut seen, "the next commit", |s| git_revision(s) == second).await;
    let info = &now.current.as_ref().unwrap().compiled.info["x"];
    assert_eq!(info.commit.as_deref(), Some(second.as_str()));
    assert_eq!(info.author.as_deref(), Some("Alice <alice@acme.test>"));

    let text = MORE.replace("\"x\"", "\"y\"");
    let forced = repository.force(&first, "policy/policies/y.cedar", &text);
    let now = until(&mut seen, "rewritten history", |s| {
        git_revision(s) == forced
    })
    .await;
    assert_eq!(sequence(&now), 3);
    until(&mut standings, "a word about it", |s| {
        s[0].rewritten.as_deref() == Some(second.as_str())
    })
    .await;

    repository.git(&["branch", "--quiet", "-m", "main", "other"]);
    until(&mut standings, "a deleted branch", |s| {
        fault(s) == Some(codes::REFERENCE_MISSING)
    })
    .await;
    assert_eq!(sequence(&seen.borrow()), 3);

    let away = repository.dir.path().with_extension("away");
    fs::rename(repository.dir.path(), &away).unwrap();
    until(&mut standings, "a source that is gone", |s| {
        fault(s) == Some(codes::UNREACHABLE_SOURCE)
    })
    .await;
    assert_eq!(git_revision(&seen.borrow()), forced);

    fs::rename(&away, repository.dir.path()).unwrap();
    repository.git(&["branch", "--quiet", "-m", "other", "main"]);
    let last = repository.write("policy/policies/x.cedar", MORE);
    until(&mut seen, "the source that is back", |s| {
        git_revision(s) == last
    })
    .await;
    let settled = until(&mut standings, "order", |s| fault(s).is_none()).await;
    assert_eq!(
        (settled[0].has.as_str(), &settled[0].rewritten),
        (last.as_str(), &None)
    );
    task.abort();
}

/// A commit that does not compile is refused with its place; the next good one is taken.
#[tokio::test]
async fn a_commit_that_does_not_compile_keeps_the_one_before() {
    let (repository, state) = (Repository::of_sample(""), tempfile::tempdir().unwrap());
    let first = repository.head();
    let source = follow(repository.place("HEAD", ""), state.path(), None).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    repository.write("policies/x.cedar", "permit (");
    let broken = until(&mut seen, "rejection", |s| s.rejected.is_some()).await;
    assert_eq!(git_revision(&broken), first);
    let mended = repository.write("policies/x.cedar", MORE);
    let now = until(&mut seen, "a mended commit", |s| git_revision(s) == mended).await;
    assert!(now.rejected.is_none());
    task.abort();
}

/// Without its server, a PDP that starts again serves what it had, under the same number,
/// with commits and authors; a mirror that was damaged meanwhile is made anew.
#[tokio::test]
async fn a_restart_without_the_server_serves_what_was_in_force() {
    let (repository, state) = (Repository::of_sample(""), tempfile::tempdir().unwrap());
    let place = repository.place("main", "");
    let first = follow(place.clone(), state.path(), None).await;
    let before = first.state().borrow().current.clone().unwrap();
    drop(first);
    let away = repository.dir.path().with_extension("away");
    fs::rename(repository.dir.path(), &away).unwrap();
    let again = follow(place.clone(), state.path(), None).await;
    let current = again.state().borrow().current.clone().unwrap();
    assert_eq!((current.digest(), current.sequence()), (before.digest(), 1));
    assert!(current.compiled.info.values().all(|i| i.commit.is_some()));
    drop(again);

    fs::rename(&away, repository.dir.path()).unwrap();
    let mirror = state.path().join("sources/repository/mirror.git");
    for object in walk(&mirror.join("objects")) {
        fs::write(object, b"damaged").unwrap();
    }
    let source = follow(place, state.path(), None).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    let last = repository.write("policies/x.cedar", MORE);
    until(&mut seen, "a new mirror", |s| git_revision(s) == last).await;
    task.abort();
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => walk(&path),
            false => {
                let mut rights = fs::metadata(&path).unwrap().permissions();
                #[expect(clippy::permissions_set_readonly_false, reason = "a file of this test")]
                rights.set_readonly(false);
                fs::set_permissions(&path, rights).unwrap();
                vec![path]
            }
        })
        .collect()
}

/// A key of a signer, and the line that allows it.
pub(super) struct Signer {
    dir: tempfile::TempDir,
    pub(super) line: String,
}

impl Signer {
    pub(super) fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        Self {
            line: format!("{name} {public}"),
            dir,
        }
    }

    pub(super) fn commit(&self, repository: &Repository, time: &str) -> String {
        repository.git(&["add", "--all"]);
        let key = self.dir.path().join("key");
        let output = Command::new("git")
            .args(["-c", "gpg.format=ssh", "-c"])
            .arg(format!("user.signingkey={}", key.display()))
            .args(["commit", "--quiet", "--allow-empty", "-S", "-m", "signed"])
            .current_dir(repository.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs([
                ("GIT_AUTHOR_NAME", "Alice"),
                ("GIT_AUTHOR_EMAIL", "alice@acme.test"),
                ("GIT_COMMITTER_NAME", "Alice"),
                ("GIT_COMMITTER_EMAIL", "alice@acme.test"),
                ("GIT_COMMITTER_DATE", time),
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        repository.head()
    }
}

/// Unsigned, signed by somebody else, and signed but older than what was in force: each is
/// refused, and the next good one is taken.
#[tokio::test]
async fn only_commits_of_allowed_signers_are_taken_and_none_is_played_again() {
    let (repository, state) = (Repository::of_sample(""), tempfile::tempdir().unwrap());
    let (alice, mallory) = (
        Signer::new("alice@acme.test"),
        Signer::new("mallory@acme.test"),
    );
    let old = alice.commit(&repository, "2026-01-01T00:00:00Z");
    let place = repository.place("main", "");
    let source = follow(place, state.path(), Some(alice.line.clone())).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    assert_eq!(git_revision(&seen.borrow()), old);
    assert_eq!(
        standings.borrow()[0].signer.as_deref(),
        Some("alice@acme.test")
    );
    let task = tokio::spawn(source.run());

    repository.write("policies/x.cedar", MORE);
    until(&mut standings, "an unsigned commit", |s| {
        fault(s) == Some(codes::NOT_SIGNED)
    })
    .await;
    let by_mallory = mallory.commit(&repository, "2026-01-02T00:00:00Z");
    until(&mut standings, "a stranger's commit", |s| {
        s[0].wanted == by_mallory && fault(s) == Some(codes::NOT_SIGNED)
    })
    .await;
    assert_eq!(git_revision(&seen.borrow()), old);

    let good = alice.commit(&repository, "2026-01-03T00:00:00Z");
    until(&mut seen, "a signed commit", |s| git_revision(s) == good).await;
    repository.git(&["reset", "--quiet", "--hard", &old]);
    until(&mut standings, "an old signed commit", |s| {
        fault(s) == Some(codes::REWOUND)
    })
    .await;
    assert_eq!(git_revision(&seen.borrow()), good);

    let later = alice.commit(&repository, "2026-01-04T00:00:00Z");
    until(&mut seen, "rewritten by a signer", |s| {
        git_revision(s) == later
    })
    .await;
    task.abort();
}

/// What is in the repository beside its policies: links out of it, hooks, filters. Nothing
/// of it is followed or run.
#[tokio::test]
async fn nothing_in_a_repository_is_run_and_no_link_is_followed() {
    let (repository, state) = (Repository::of_sample(""), tempfile::tempdir().unwrap());
    let root = repository.dir.path();
    let trap = root.with_extension("trap");
    std::os::unix::fs::symlink("/etc/hostname", root.join("policies/link.cedar")).unwrap();
    sample::write(root, ".gitattributes", "*.cedar filter=trap diff=trap\n");
    repository.commit("traps");
    let run = format!("touch {}", trap.display());
    for key in [
        "filter.trap.smudge",
        "filter.trap.clean",
        "diff.trap.textconv",
        "core.fsmonitor",
        "uploadpack.packObjectsHook",
    ] {
        repository.git(&["config", key, &run]);
    }
    let of_git = follow(repository.place("main", ""), state.path(), None).await;
    assert_eq!(sequence(&of_git.state().borrow()), 1);
    let state = tempfile::tempdir().unwrap();
    let of_folder = open(root, state.path(), &Records::default()).await;
    let current = of_folder.state().borrow().current.clone().unwrap();
    assert!(current.compiled.info.values().all(|i| i.commit.is_some()));
    assert!(!trap.exists());
}

/// The same commit gives the same bundle, whichever way there; a folder that is checked out
/// knows who changed what, except of what is not committed.
#[tokio::test]
async fn a_commit_gives_one_bundle_wherever_it_is_read() {
    let repository = Repository::of_sample("");
    let digest = |source: &Source| source.state().borrow().current.as_ref().unwrap().digest();
    let state = tempfile::tempdir().unwrap();
    let long = follow(repository.place("main", ""), state.path(), None).await;
    let mut seen = long.state();
    let task = tokio::spawn(long.run());
    let path = repository.dir.path().join("policies/orders.cedar");
    let text = fs::read_to_string(&path).unwrap();
    let begin = repository.head();
    repository.write("policies/orders.cedar", &format!("{text}\n// more\n"));
    let last = repository.write("policies/orders.cedar", &text);
    let of_long = until(&mut seen, "the last commit", |s| git_revision(s) == last).await;
    task.abort();

    let states = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let new = follow(repository.place(&last, ""), states.0.path(), None).await;
    let folder = open(repository.dir.path(), states.1.path(), &Records::default()).await;
    let of_long = of_long.current.unwrap();
    assert_eq!(
        (digest(&new), digest(&folder)),
        (of_long.digest(), of_long.digest())
    );
    assert!(
        of_long
            .compiled
            .info
            .values()
            .all(|i| i.commit.as_deref() == Some(&*begin))
    );

    drop(folder);
    sample::write(repository.dir.path(), "policies/x.cedar", MORE);
    let folder = open(repository.dir.path(), states.1.path(), &Records::default()).await;
    let current = folder.state().borrow().current.clone().unwrap();
    let without: Vec<_> = current
        .compiled
        .info
        .values()
        .filter(|i| i.commit.is_none())
        .collect();
    assert_eq!(
        without.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(),
        ["x"]
    );
}
