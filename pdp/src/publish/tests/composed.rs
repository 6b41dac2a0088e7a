//! A repository with sources that contribute to it.

use super::{
    git::{Repository, follow},
    *,
};
use crate::author::{Texts, codes as policy};

pub(super) const LEDGER: &str =
    "service: pay/ledger\noperations:\n  - { name: list, match: GET /entries }\n";

/// A repository of security's that two teams contribute to.
struct Composed {
    guard: tempfile::TempDir,
    pay: Repository,
    desk: tempfile::TempDir,
    state: tempfile::TempDir,
}

pub(super) fn permit(id: &str, resource: &str) -> String {
    format!("@id(\"{id}\")\npermit (principal, action, resource {resource});\n")
}

pub(super) const OWN: &str = "in Namespace::\"demo.test/pay\"";

impl Composed {
    fn new() -> Self {
        let of_pay = tempfile::tempdir().unwrap();
        sample::write(of_pay.path(), "services/ledger.yaml", LEDGER);
        sample::write(
            of_pay.path(),
            "policies/pay.cedar",
            &permit("pay-read", OWN),
        );
        let desk = tempfile::tempdir().unwrap();
        sample::write(
            desk.path(),
            "entities/groups.yaml",
            "groups:\n  desk.all: { services: [shop/web] }\n",
        );
        let composed = Self {
            guard: sample::copy(),
            pay: Repository::of_folder(of_pay.path(), ""),
            desk,
            state: tempfile::tempdir().unwrap(),
        };
        composed.list("[pay]");
        composed
    }

    /// Writes the list of sources; pay may speak for these namespaces.
    fn list(&self, namespaces: &str) {
        let text = format!(
            "trust_domain: demo.test\nheaders: {{ x-change-id: single, x-roles: list }}\nsources:\n  pay:\n    namespaces: {namespaces}\n    git: file://{}\n    ref: main\n    poll: 1s\n  desk:\n    namespaces: [desk]\n    folder: {}\n",
            self.pay.dir.path().display(),
            self.desk.path().display()
        );
        let before = fs::read_to_string(self.guard.path().join("palisade.yaml")).unwrap();
        let kept = before.split("sources:").next().unwrap();
        let listed = text.split("sources:").nth(1).unwrap();
        sample::write(
            self.guard.path(),
            "palisade.yaml",
            &format!("{}\nsources:{listed}", kept.trim_end()),
        );
    }

    async fn open(&self) -> Source {
        let mut config = config(self.guard.path(), self.state.path());
        config.place.poll = Duration::from_millis(200);
        let records = Records::default();
        let source = Source::open(config, Clock::system(), records.recorder());
        source.await.expect("opens")
    }
}

pub(super) fn has(state: &State, id: &str) -> bool {
    let current = state.current.as_ref();
    current.is_some_and(|c| c.compiled.info.contains_key(id))
}

pub(super) fn of<'s>(standings: &'s [Standing], name: &str) -> &'s Standing {
    standings.iter().find(|s| s.name == name).unwrap()
}

pub(super) fn refused(standings: &[Standing], name: &str) -> Option<u16> {
    let refused = of(standings, name).refused.as_ref()?;
    let first = refused.diagnostics.iter().find(|d| d.is_error())?;
    Some(first.code.0)
}

/// One revision of all; each source's name, place and commit are in it, and paths begin with
/// the source's name.
#[tokio::test]
async fn sources_come_together_in_one_revision() {
    let composed = Composed::new();
    let source = composed.open().await;
    let state = source.state().borrow().clone();
    let current = state.current.unwrap();
    assert_eq!(
        current.sequence(),
        1,
        "nothing was published before all were heard"
    );
    assert!(state.rejected.is_none());
    let info = &current.compiled.info["pay-read"];
    assert_eq!(&*info.file, "pay/policies/pay.cedar");
    assert_eq!(info.commit.as_deref(), Some(composed.pay.head().as_str()));
    let bundle = <palisade_mesh::wire::policy::Bundle as prost::Message>::decode(
        current.compiled.bundle.clone(),
    )
    .unwrap();
    let names: Vec<_> = bundle
        .contributions
        .iter()
        .map(|c| (c.name.as_str(), c.git_revision.as_str()))
        .collect();
    assert_eq!(names, [("desk", ""), ("pay", composed.pay.head().as_str())]);
    let standings = source.standings().borrow().clone();
    let shown: Vec<_> = standings
        .iter()
        .map(|s| (s.name.as_str(), s.has == s.wanted))
        .collect();
    assert_eq!(shown, [("", true), ("desk", true), ("pay", true)]);
}

/// A bundle is built of the same; and not at all without a source, or with one that is not
/// signed by who may.
#[tokio::test]
async fn what_is_built_once_is_what_a_pdp_puts_together() {
    let composed = Composed::new();
    let source = composed.open().await;
    let served = source.state().borrow().current.clone().unwrap();
    let build = async || {
        let home = tempfile::tempdir().unwrap();
        let config = config(composed.guard.path(), home.path());
        compose(config, Clock::system()).await
    };
    let built = build().await.compiled.unwrap();
    assert_eq!(built.digest, served.digest());
    assert!(built.info.contains_key("pay-read"));

    let codes_of = |loaded: crate::author::Loaded| -> Vec<u16> {
        assert!(loaded.compiled.is_none());
        let errors = loaded.diagnostics.iter().filter(|d| d.is_error());
        errors.map(|d| d.code.0).collect()
    };
    composed.pay.git(&["branch", "-m", "main", "other"]);
    assert_eq!(codes_of(build().await), [codes::REFERENCE_MISSING]);
    composed.pay.git(&["branch", "-m", "other", "main"]);
    composed
        .pay
        .write("policies/pay.cedar", &permit("pay-all", ""));
    assert_eq!(codes_of(build().await), [policy::FOREIGN_RESOURCE]);
    composed
        .pay
        .write("policies/pay.cedar", &permit("pay-read", OWN));
    let listed = composed.guard.path().join("palisade.yaml");
    let text = fs::read_to_string(&listed).unwrap();
    let signed = text.replace(
        "    ref: main\n",
        "    ref: main\n    signers: [\"eve@acme.test ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxhSp4bo4gVF5FZ3tOKcF7TRxLzzdv7wXrSXRIOTnQL\"]\n",
    );
    assert_ne!(text, signed);
    fs::write(listed, signed).unwrap();
    assert_eq!(codes_of(build().await), [codes::NOT_SIGNED]);
}

/// A source that is broken, says too much or is gone keeps its last good contribution, and
/// holds up no other.
#[tokio::test]
async fn one_bad_source_never_blocks_the_others() {
    let composed = Composed::new();
    let source = composed.open().await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());

    composed
        .pay
        .write("policies/pay.cedar", &permit("pay-all", ""));
    until(&mut standings, "a source that says too much", |s| {
        refused(s, "pay") == Some(policy::FOREIGN_RESOURCE)
    })
    .await;
    sample::write(
        composed.desk.path(),
        "services/desk.yaml",
        "service: desk/app\n",
    );
    sample::write(
        composed.desk.path(),
        "policies/desk.cedar",
        &permit("desk", "in Service::\"demo.test/desk/app\""),
    );
    let now = until(&mut seen, "another source", |s| has(s, "desk")).await;
    assert!(has(&now, "pay-read") && !has(&now, "pay-all"));
    assert!(now.rejected.is_some());

    let away = composed.pay.dir.path().with_extension("away");
    fs::rename(composed.pay.dir.path(), &away).unwrap();
    until(&mut standings, "a source that is gone", |s| {
        of(s, "pay").fault.is_some()
    })
    .await;
    sample::write(
        composed.guard.path(),
        "policies/x.cedar",
        &permit("guard", "in Service::\"demo.test/shop/web\""),
    );
    let now = until(&mut seen, "the repository itself", |s| has(s, "guard")).await;
    assert!(has(&now, "pay-read"));

    fs::rename(&away, composed.pay.dir.path()).unwrap();
    composed
        .pay
        .write("policies/pay.cedar", &permit("pay-mended", OWN));
    let now = until(&mut seen, "a mended source", |s| has(s, "pay-mended")).await;
    assert!(now.rejected.is_none() && !has(&now, "pay-read"));
    let settled = until(&mut standings, "order", |s| {
        s.iter().all(|s| s.fault.is_none() && s.refused.is_none())
    })
    .await;
    assert_eq!(of(&settled, "pay").has, composed.pay.head());
    task.abort();
}

/// A policy of pay whose owner has a letter of another script.
fn look_alike() -> String {
    format!("@owner(\"te\u{430}m\")\n{}", permit("pay-read", OWN))
}

/// A look-alike in one source holds back that source alone, and is told as any other mistake.
#[tokio::test]
async fn a_look_alike_holds_back_its_own_source_alone() {
    let composed = Composed::new();
    let source = composed.open().await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());
    let before = composed.pay.head();
    composed.pay.write("policies/pay.cedar", &look_alike());
    let told = until(&mut standings, "a look-alike", |s| {
        refused(s, "pay") == Some(policy::CONFUSABLE)
    })
    .await;
    assert_eq!(of(&told, "pay").has, before);
    sample::write(
        composed.guard.path(),
        "policies/x.cedar",
        &permit("guard", "in Service::\"demo.test/shop/web\""),
    );
    let now = until(&mut seen, "the repository itself", |s| has(s, "guard")).await;
    let owner = |state: &State| {
        let current = state.current.as_ref().unwrap();
        current.compiled.info["pay-read"].owner.clone()
    };
    assert_eq!(owner(&now), None);
    let rejected = now.rejected.expect("it is told");
    assert!(
        rejected
            .diagnostics
            .iter()
            .any(|d| d.code.0 == policy::CONFUSABLE)
    );
    let mended = look_alike().replace('\u{430}', "a");
    composed.pay.write("policies/pay.cedar", &mended);
    let now = until(&mut seen, "a mended source", |s| owner(s).is_some()).await;
    assert!(now.rejected.is_none());
    task.abort();
}

/// What is in force of one source with a look-alike, for it was taken by a version that found
/// none, is no more taken than any other mistake: what is in force stays, until it is mended.
#[tokio::test]
async fn a_look_alike_that_is_in_force_is_in_no_new_revision() {
    let composed = Composed::new();
    let first = composed.open().await;
    let before = first.state().borrow().current.clone().unwrap();
    drop(first);
    composed.pay.write("policies/pay.cedar", &look_alike());
    let keep = Keep::open(composed.state.path()).unwrap();
    let mut kept = keep.load().unwrap().unwrap();
    let mut texts = Texts::of_compiled(&before.compiled).unwrap();
    let mut files = texts.files.iter_mut();
    let file = files.find(|f| f.path == "pay/policies/pay.cedar").unwrap();
    file.text = look_alike();
    let old = texts.compile_with(Some(crate::author::Shared::default()));
    let old = old.compiled.unwrap();
    kept.bundle = old.bundle.clone();
    kept.sha256 = old.digest.0.to_vec();
    kept.content_signatures.clear();
    kept.release_signatures.clear();
    keep.store(&kept).unwrap();

    let source = composed.open().await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let owner = |state: &State| {
        let current = state.current.as_ref().unwrap();
        current.compiled.info["pay-read"].owner.clone()
    };
    let marked = Some("te\u{430}m".into());
    assert_eq!(owner(&seen.borrow()), marked);
    let task = tokio::spawn(source.run());
    sample::write(
        composed.guard.path(),
        "policies/x.cedar",
        &permit("guard", "in Service::\"demo.test/shop/web\""),
    );
    for name in ["", "pay"] {
        until(&mut standings, "the look-alike", |s| {
            refused(s, name) == Some(policy::CONFUSABLE)
        })
        .await;
    }
    let now = seen.borrow().clone();
    assert!(!has(&now, "guard"));
    assert_eq!(owner(&now), marked);
    composed
        .pay
        .write("policies/pay.cedar", &permit("pay-read", OWN));
    let now = until(&mut seen, "all", |s| has(s, "guard")).await;
    assert_eq!(owner(&now), None);
    task.abort();
}

/// Two sources with one policy id: the one that was there stays, and the message names both
/// files. What is taken from a source by the repository is gone at once, and comes back.
#[tokio::test]
async fn what_a_source_may_say_is_the_repositorys_to_decide() {
    let composed = Composed::new();
    let source = composed.open().await;
    let (mut seen, mut standings) = (source.state(), source.standings());
    let task = tokio::spawn(source.run());

    sample::write(
        composed.desk.path(),
        "services/desk.yaml",
        "service: desk/app\n",
    );
    sample::write(
        composed.desk.path(),
        "policies/desk.cedar",
        &permit("pay-read", "in Service::\"demo.test/desk/app\""),
    );
    let told = until(&mut standings, "an id that is taken", |s| {
        refused(s, "desk") == Some(policy::ID_TWICE)
    })
    .await;
    let diagnostic = &of(&told, "desk").refused.as_ref().unwrap().diagnostics[0];
    let said = format!(
        "{diagnostic} {:?} {:?}",
        diagnostic.cause,
        diagnostic.location.as_ref().map(|l| &l.file)
    );
    assert!(
        said.contains("pay/policies/pay.cedar") && said.contains("desk/policies/desk.cedar"),
        "{said}"
    );
    fs::remove_file(composed.desk.path().join("policies/desk.cedar")).unwrap();
    until(&mut standings, "desk in order", |s| {
        refused(s, "desk").is_none()
    })
    .await;

    composed.list("[other]");
    let narrowed = until(&mut seen, "less to say", |s| !has(s, "pay-read")).await;
    assert!(narrowed.rejected.is_some());
    until(&mut standings, "nothing of pay", |s| {
        of(s, "pay").has.is_empty() && refused(s, "pay") == Some(policy::FOREIGN_RESOURCE)
    })
    .await;
    composed.list("[pay]");
    let wide = until(&mut seen, "as much to say as before", |s| {
        has(s, "pay-read")
    })
    .await;
    assert!(wide.rejected.is_none());
    task.abort();
}

/// A PDP that starts without its sources serves what it had of each.
#[tokio::test]
async fn a_restart_without_a_source_keeps_what_it_contributed() {
    let composed = Composed::new();
    let first = composed.open().await;
    let before = first.state().borrow().current.clone().unwrap();
    let head = composed.pay.head();
    drop(first);
    let away = composed.pay.dir.path().with_extension("away");
    fs::rename(composed.pay.dir.path(), &away).unwrap();
    let again = composed.open().await;
    let current = again.state().borrow().current.clone().unwrap();
    assert_eq!((current.digest(), current.sequence()), (before.digest(), 1));
    let standings = again.standings().borrow().clone();
    assert!(of(&standings, "pay").fault.is_some());
    assert_eq!(of(&standings, "pay").has, head);
    drop(again);
    fs::rename(&away, composed.pay.dir.path()).unwrap();

    // A source that is the repository is a git reference as well as a folder.
    let guard = Repository::of_folder(composed.guard.path(), "");
    let state = tempfile::tempdir().unwrap();
    let of_git = follow(guard.place("main", ""), state.path(), None).await;
    assert!(has(&of_git.state().borrow(), "pay-read"));
}
