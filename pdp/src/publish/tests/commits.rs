//! Folders beside a repository in git: what one commit has is one, taken whole or not at all.

use std::process::Command;

use super::{
    composed::{LEDGER, OWN, has, of, permit, refused},
    git::{Repository, Signer, follow, git_revision},
    *,
};
use crate::author::{Texts, codes as policy};

/// Security's settings, which list pay as a source at `place`.
fn listing(place: &str) -> String {
    let settings = sample::copy();
    let settings = fs::read_to_string(settings.path().join("palisade.yaml")).unwrap();
    let pay = format!("sources:\n  pay:\n    namespaces: [pay]\n    {place}\n    poll: 1s\n");
    format!("{}\n{pay}", settings.trim_end())
}

const BESIDE: &str = "folder: ../../teams/pay";

fn guard() -> String {
    permit("guard", OWN).replace("permit", "forbid")
}

/// Security's repository in `security/prod` with a forbid about pay, whose folder is
/// `teams/pay`; listed at `place`.
fn guarded(place: &str) -> Repository {
    let repository = Repository::of_sample("security/prod");
    let root = repository.dir.path();
    sample::write(root, "teams/pay/services/ledger.yaml", LEDGER);
    sample::write(
        root,
        "teams/pay/policies/pay.cedar",
        &permit("pay-read", OWN),
    );
    sample::write(root, "security/prod/policies/guard.cedar", &guard());
    repository.write("security/prod/palisade.yaml", &listing(place));
    repository
}

/// Moves the forbid from security to pay, and leaves the rest to be committed.
fn give_away_guard(repository: &Repository) {
    let root = repository.dir.path();
    fs::remove_file(root.join("security/prod/policies/guard.cedar")).unwrap();
    sample::write(root, "teams/pay/policies/guard.cedar", &guard());
}

/// The forbid is in every revision until that of `commit`, which has it at `file`.
async fn guarded_until(seen: &mut watch::Receiver<State>, commit: &str, file: &str) {
    loop {
        let state = seen.borrow_and_update().clone();
        let info = state.current.as_ref().unwrap().compiled.info.get("guard");
        let info = info.expect("the forbid is in force");
        if git_revision(&state) == commit {
            return assert_eq!(&*info.file, file);
        }
        tokio::time::timeout(PATIENCE, seen.changed())
            .await
            .unwrap()
            .unwrap();
    }
}

/// A commit that moves a forbid into a folder with a mistake is refused as a whole: taken apart,
/// the forbid would be in neither place.
#[tokio::test]
async fn a_commit_that_moves_a_forbid_is_taken_whole_or_not_at_all() {
    let (repository, state) = (guarded(BESIDE), tempfile::tempdir().unwrap());
    let first = repository.head();
    let place = repository.place("main", "security/prod");
    let source = follow(place.clone(), state.path(), None).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());
    guarded_until(&mut seen, &first, "policies/guard.cedar").await;

    give_away_guard(&repository);
    let bad = repository.write("teams/pay/policies/pay.cedar", "permit (principal");
    for name in ["", "pay"] {
        let told = until(&mut standings, "the mistake", |s| {
            refused(s, name).is_some()
        })
        .await;
        assert_eq!(refused(&told, name), Some(policy::CEDAR_SYNTAX));
        assert_eq!(
            (&*of(&told, name).has, &*of(&told, name).wanted),
            (&*first, &*bad)
        );
    }
    let rejected = seen.borrow().rejected.clone().expect("it is told");
    assert_eq!(rejected.diagnostics.len(), 1, "and told once");
    guarded_until(&mut seen, &first, "policies/guard.cedar").await;

    task.abort();

    // Nor is it after a restart.
    let source = follow(place, state.path(), None).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());
    until(&mut standings, "the mistake", |s| refused(s, "").is_some()).await;
    guarded_until(&mut seen, &first, "policies/guard.cedar").await;

    // What says too much is no reason to leave the folder out, either.
    let beyond = permit("pay-all", "");
    let bad = repository.write("teams/pay/policies/pay.cedar", &beyond);
    until(&mut standings, "a commit that says too much", |s| {
        of(s, "").wanted == bad && refused(s, "") == Some(policy::FOREIGN_RESOURCE)
    })
    .await;
    guarded_until(&mut seen, &first, "policies/guard.cedar").await;

    let mended = repository.write("teams/pay/policies/pay.cedar", &permit("pay-read", OWN));
    guarded_until(&mut seen, &mended, "pay/policies/guard.cedar").await;
    until(&mut standings, "order", |s| {
        s.iter().all(|s| s.refused.is_none() && s.has == mended)
    })
    .await;
    assert!(seen.borrow().rejected.is_none());
    task.abort();
}

/// The same where the commit takes a source into the repository that was followed elsewhere,
/// which goes on until that commit is in force.
#[tokio::test]
async fn a_source_that_moves_into_the_repository_moves_with_its_commit() {
    let elsewhere = tempfile::tempdir().unwrap();
    sample::write(elsewhere.path(), "services/ledger.yaml", LEDGER);
    let elsewhere = Repository::of_folder(elsewhere.path(), "");
    elsewhere.write("policies/pay.cedar", &permit("pay-read", OWN));
    let at = format!(
        "git: file://{}\n    ref: main",
        elsewhere.dir.path().display()
    );
    let (repository, state) = (guarded(&at), tempfile::tempdir().unwrap());
    let first = repository.head();
    let place = repository.place("main", "security/prod");
    let source = follow(place, state.path(), None).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());
    guarded_until(&mut seen, &first, "policies/guard.cedar").await;

    repository.write(
        "security/prod/palisade.yaml",
        &listing("folder: ../../teams/none"),
    );
    until(&mut standings, "a folder that is not there", |s| {
        refused(s, "") == Some(codes::REFERENCE_MISSING)
    })
    .await;
    elsewhere.write("policies/less.cedar", &permit("pay-less", OWN));
    until(&mut seen, "what is followed until then", |s| {
        has(s, "pay-less")
    })
    .await;

    give_away_guard(&repository);
    sample::write(
        repository.dir.path(),
        "teams/pay/policies/pay.cedar",
        "permit (principal",
    );
    repository.write("security/prod/palisade.yaml", &listing(BESIDE));
    until(&mut standings, "the mistake", |s| {
        refused(s, "") == Some(policy::CEDAR_SYNTAX)
    })
    .await;
    elsewhere.write("policies/more.cedar", &permit("pay-more", OWN));
    until(&mut seen, "what is followed until then", |s| {
        has(s, "pay-more")
    })
    .await;
    guarded_until(&mut seen, &first, "policies/guard.cedar").await;

    let moved = repository.write("teams/pay/policies/pay.cedar", &permit("pay-read", OWN));
    guarded_until(&mut seen, &moved, "pay/policies/guard.cedar").await;
    let settled = until(&mut standings, "order", |s| {
        s.iter().all(|s| s.refused.is_none() && s.has == moved)
    })
    .await;
    assert!(of(&settled, "pay").place.ends_with("in teams/pay"));
    assert!(!has(&seen.borrow(), "pay-more"));

    // What a refused commit has in the folder is no part of one that lists another place.
    repository.write("teams/pay/policies/pay.cedar", "permit (principal");
    until(&mut standings, "the mistake", |s| {
        refused(s, "pay") == Some(policy::CEDAR_SYNTAX)
    })
    .await;
    let back = repository.write("security/prod/palisade.yaml", &listing(&at));
    guarded_until(&mut seen, &back, "pay/policies/guard.cedar").await;
    until(&mut seen, "what is elsewhere", |s| has(s, "pay-more")).await;
    task.abort();
}

/// Has each object of a mirror in a file of its own.
fn unpack(mirror: &Path) {
    for entry in fs::read_dir(mirror.join("objects/pack")).unwrap() {
        let pack = entry.unwrap().path();
        if pack.extension().is_some_and(|ending| ending == "pack") {
            let aside = mirror.join("aside");
            fs::rename(&pack, &aside).unwrap();
            let mut git = Command::new("git");
            git.args(["unpack-objects", "-q"]).current_dir(mirror);
            let unpacked = git.stdin(fs::File::open(aside).unwrap()).status();
            assert!(unpacked.unwrap().success());
        }
    }
}

/// A folder's list that was damaged on disk is no folder that is not there: the mirror is made
/// anew, and the next good commit is in force.
#[tokio::test]
async fn a_damaged_list_of_a_folder_holds_up_no_commit() {
    let (repository, state) = (guarded(BESIDE), tempfile::tempdir().unwrap());
    let place = repository.place("main", "security/prod");
    drop(follow(place.clone(), state.path(), None).await);
    let id = repository.git(&["rev-parse", "HEAD:teams/pay"]);
    let (folder, file) = id.split_at(2);
    let mirror = state.path().join("sources/repository/mirror.git");
    unpack(&mirror);
    let object = mirror.join("objects").join(folder).join(file);
    fs::remove_file(&object).unwrap();
    fs::write(object, b"damaged").unwrap();

    let source = follow(place, state.path(), None).await;
    let mut seen = source.state();
    let task = tokio::spawn(source.run());
    let more = permit("more", "in Service::\"demo.test/shop/web\"");
    let next = repository.write("security/prod/policies/more.cedar", &more);
    guarded_until(&mut seen, &next, "policies/guard.cedar").await;
    assert!(has(&seen.borrow(), "pay-read"));
    task.abort();
}

/// A path that a repository in git names is of the same repository, reference and signers,
/// whatever folder the PDP runs in; one that leads out of it is refused by name.
#[tokio::test]
async fn a_folder_beside_a_repository_in_git_is_of_the_same_commits() {
    let (guard, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let settings = fs::read_to_string(guard.path().join("palisade.yaml")).unwrap();
    let listing = |folder: &str| {
        let source = format!(
            "sources:\n  pay:\n    namespaces: [pay]\n    folder: {folder}\n    poll: 1s\n"
        );
        format!("{}\n{source}", settings.trim_end())
    };
    let repository = Repository::of_folder(guard.path(), "security/prod");
    sample::write(
        repository.dir.path(),
        "teams/pay/services/ledger.yaml",
        LEDGER,
    );
    sample::write(
        repository.dir.path(),
        "teams/pay/policies/pay.cedar",
        &permit("pay-read", OWN),
    );
    repository.write("security/prod/palisade.yaml", &listing("../../teams/pay"));

    let place = repository.place("main", "security/prod");
    let source = follow(place, state.path(), None).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());
    until(&mut seen, "the folder's policy", |s| has(s, "pay-read")).await;
    let pay = of(&standings.borrow(), "pay").clone();
    assert!(pay.place.ends_with("#main in teams/pay"), "{}", pay.place);

    let next = permit("pay-more", OWN);
    let commit = repository.write("teams/pay/policies/more.cedar", &next);
    until(&mut seen, "the folder's next policy", |s| {
        has(s, "pay-more")
    })
    .await;
    until(&mut standings, "its commit", |s| {
        of(s, "pay").has == commit && of(s, "").has == commit
    })
    .await;

    // What a commit moves from the one to the other is in every revision.
    for (from, to) in [
        ("teams/pay", "security/prod"),
        ("security/prod", "teams/pay"),
    ] {
        fs::rename(
            repository.dir.path().join(from).join("policies/more.cedar"),
            repository.dir.path().join(to).join("policies/more.cedar"),
        )
        .unwrap();
        let commit = repository.commit("moved");
        loop {
            assert!(has(&seen.borrow_and_update(), "pay-more"), "{from} to {to}");
            if git_revision(&seen.borrow()) == commit {
                break;
            }
            let patience = Duration::from_secs(30);
            tokio::time::timeout(patience, seen.changed())
                .await
                .unwrap()
                .unwrap();
        }
    }
    // A source that is new in a commit is in the revision of that commit.
    sample::write(
        repository.dir.path(),
        "teams/desk/entities/groups.yaml",
        "groups:\n  desk.all: { services: [shop/web] }\n",
    );
    let two = format!(
        "{}  desk: {{ namespaces: [desk], folder: ../../teams/desk }}\n",
        listing("../../teams/pay")
    );
    let commit = repository.write("security/prod/palisade.yaml", &two);
    until(&mut seen, "both sources", |s| git_revision(s) == commit).await;
    let names = seen.borrow().current.as_ref().map_or(0, |c| {
        let texts = Texts::of_compiled(&c.compiled).unwrap();
        texts.contributions().len()
    });
    assert_eq!(names, 2);
    repository.write(
        "security/prod/palisade.yaml",
        &listing("../../teams/nowhere"),
    );
    until(&mut standings, "a folder that is not there", |s| {
        let fault = of(s, "pay").fault.as_ref();
        fault.is_some_and(|f| f.diagnostics[0].code.0 == codes::REFERENCE_MISSING)
    })
    .await;
    assert!(has(&seen.borrow(), "pay-more"), "what runs goes on");

    until(&mut standings, "the commit that names it", |s| {
        refused(s, "") == Some(codes::REFERENCE_MISSING)
    })
    .await;

    repository.write("security/prod/palisade.yaml", &listing("../../../pay"));
    until(&mut standings, "a way out", |s| {
        refused(s, "") == Some(codes::BESIDE_GIT)
    })
    .await;
    assert!(has(&seen.borrow(), "pay-more"), "what runs goes on");
    assert_eq!(git_revision(&seen.borrow()), commit);
    task.abort();
}

/// Whoever must sign a repository must sign what it names by a path, too.
#[tokio::test]
async fn a_folder_of_a_signed_repository_is_signed_by_the_same() {
    let (guard, state) = (sample::copy(), tempfile::tempdir().unwrap());
    let settings = guard.path().join("palisade.yaml");
    let text = fs::read_to_string(&settings).unwrap();
    let listed = "sources:\n  pay: { namespaces: [pay], folder: pay, poll: 1s }\n";
    fs::write(&settings, format!("{}\n{listed}", text.trim_end())).unwrap();
    let policy = permit("pay-read", OWN);
    sample::write(guard.path(), "pay/services/ledger.yaml", LEDGER);
    sample::write(guard.path(), "pay/policies/pay.cedar", &policy);
    let repository = Repository::of_folder(guard.path(), "");
    let alice = Signer::new("alice@acme.test");
    alice.commit(&repository, "2026-01-01T00:00:00Z");
    let place = repository.place("main", "");
    let source = follow(place, state.path(), Some(alice.line.clone())).await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());
    until(&mut seen, "the signed policy", |s| has(s, "pay-read")).await;
    let by = of(&standings.borrow(), "pay").signer.clone();
    assert_eq!(by.as_deref(), Some("alice@acme.test"));

    repository.write("pay/policies/more.cedar", &permit("pay-more", OWN));
    until(&mut standings, "an unsigned commit", |s| {
        let fault = of(s, "").fault.as_ref();
        fault.is_some_and(|f| f.diagnostics[0].code.0 == codes::NOT_SIGNED)
    })
    .await;
    assert!(!has(&seen.borrow(), "pay-more"));
    task.abort();
}
