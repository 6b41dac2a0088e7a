//! Policies from git, seen from the whole mesh: whatever becomes of source, PDP or clock,
//! proxies keep the right revision, `status` says so within five seconds, and everything
//! converges afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use palisade::control::{api::Fact, client::Mesh, status::PdpStatus};
use support::{
    Home,
    inside::{Story, until},
};

/// Within this, `status` and `check` say what is wrong.
const SAID_WITHIN: Duration = Duration::from_secs(5);

const NO_ORDERS: &str = "@id(\"closed\")\nforbid (principal, action, resource in Service::\"demo.test/shop/orders\");\n";

/// A git repository with the sample, its branch `main` checked out.
struct Repository(PathBuf);

impl Repository {
    fn of_sample(dir: PathBuf) -> Self {
        support::copy(&support::sample_policies(), &dir);
        let repository = Self(dir);
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.commit();
        repository
    }

    fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Alice", "-c", "user.email=alice@acme.test"])
            .args(args)
            .current_dir(&self.0)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            support::said(&output)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Moves `main` to another commit on top of `base`, at once, as a push with force does.
    fn force(&self, base: &str) -> String {
        self.git(&["checkout", "--quiet", "--detach", base]);
        let commit = self.write("README.md", "rewritten\n");
        self.git(&["branch", "--quiet", "--force", "main", "HEAD"]);
        self.git(&["checkout", "--quiet", "main"]);
        commit
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.commit()
    }
}

/// What `status` and `check` say of the sources.
trait Told {
    async fn pdp(&self) -> Option<PdpStatus>;
    /// Waits until every proxy runs this commit.
    async fn runs(&self, commit: &str);
    /// Waits until `status` has a fault with this code at a source.
    async fn says(&self, name: &str, code: u16);
    /// Waits until no source has a fault.
    async fn is_in_order(&self);
    /// Codes that `check` gives for a role.
    async fn checked(&self, role: &str) -> Vec<u16>;
}

impl Told for Story {
    async fn pdp(&self) -> Option<PdpStatus> {
        let mesh = Mesh::find(Some(&self.name)).await.ok()?;
        let all: Vec<PdpStatus> = mesh.get_all("pdp", "/v1/pdp/status").await.ok()?;
        all.into_iter().next()
    }

    async fn runs(&self, commit: &str) {
        until("every proxy runs the commit", || async {
            let Some(pdp) = self.pdp().await else {
                return false;
            };
            let Some(revision) = pdp.revision.filter(|r| r.git_revision == commit) else {
                return false;
            };
            let current = |p: &&palisade::control::status::SubscriberStatus| {
                p.connected && p.sequence == revision.sequence
            };
            pdp.proxies.iter().filter(current).count() == 2
        })
        .await;
    }

    async fn says(&self, name: &str, code: u16) {
        let begun = Instant::now();
        until("status says so", || async {
            let Some(pdp) = self.pdp().await else {
                return false;
            };
            let source = pdp.sources.iter().find(|s| s.name == name);
            source.is_some_and(|s| s.faults.iter().any(|f| f.code == code))
        })
        .await;
        let took = begun.elapsed();
        assert!(took <= SAID_WITHIN, "PLS{code} was said after {took:?}");
        assert!(self.checked("pdp").await.contains(&code));
    }

    async fn is_in_order(&self) {
        until("every source is in order", || async {
            let pdp = self.pdp().await;
            pdp.is_some_and(|p| {
                p.sources
                    .iter()
                    .all(|s| s.faults.is_empty() && s.has == s.wanted)
            })
        })
        .await;
    }

    async fn checked(&self, role: &str) -> Vec<u16> {
        let Ok(mesh) = Mesh::find(Some(&self.name)).await else {
            return Vec::new();
        };
        let facts: Vec<Vec<Fact>> = mesh
            .get_all(role, &format!("/v1/{role}/check"))
            .await
            .unwrap();
        facts.into_iter().flatten().filter_map(|f| f.code).collect()
    }
}

/// A branch that is rewritten, deleted, gone with its server, and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_rewritten_deleted_or_gone_takes_nothing_away() {
    let home = Home::new();
    let repository = Repository::of_sample(home.path("policy"));
    let first = repository.git(&["rev-parse", "HEAD"]);
    let place = format!("git+file://{}#main", repository.0.display());
    let story = Story::start(&home, "rewritten", &place).await;
    story.runs(&first).await;
    assert_eq!(story.orders().await, 200);

    let closed = repository.write("policies/closed.cedar", NO_ORDERS);
    story.runs(&closed).await;
    assert_eq!(story.orders().await, 403);

    let forced = repository.force(&first);
    story.says("", 3208).await;
    story.runs(&forced).await;
    assert_eq!(story.orders().await, 200);

    repository.git(&["branch", "-m", "main", "other"]);
    story.says("", 3202).await;
    assert_eq!(story.orders().await, 200);

    let away = home.path("away");
    fs::rename(&repository.0, &away).unwrap();
    story.says("", 3201).await;
    story.runs(&forced).await;
    assert_eq!(story.orders().await, 200);

    fs::rename(&away, &repository.0).unwrap();
    repository.git(&["branch", "-m", "other", "main"]);
    let last = repository.write("policies/closed.cedar", NO_ORDERS);
    story.runs(&last).await;
    story.is_in_order().await;
    assert_eq!(story.orders().await, 403);
    story.end().await;
}

/// The PDP stops, and starts again without its source: the revision in force stays, under
/// its number. A clock that jumps changes nothing. Then the source is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pdp_that_stops_and_a_clock_that_jumps_take_nothing_away() {
    let home = Home::new();
    let repository = Repository::of_sample(home.path("policy"));
    let first = repository.git(&["rev-parse", "HEAD"]);
    let place = format!("git+file://{}#main", repository.0.display());
    let mut story = Story::start(&home, "stopped", &place).await;
    story.runs(&first).await;

    story.stop_plane().await;
    assert_eq!(story.orders().await, 200);
    let begun = Instant::now();
    until("the proxies say that no PDP is there", || async {
        story.clock.advance(Duration::from_millis(50));
        story.checked("proxy").await.contains(&5314)
    })
    .await;
    assert!(begun.elapsed() <= SAID_WITHIN, "{:?}", begun.elapsed());

    let away = home.path("away");
    fs::rename(&repository.0, &away).unwrap();
    story.start_plane().await;
    story.says("", 3201).await;
    story.runs(&first).await;
    assert_eq!(story.orders().await, 200);

    for jump in [Duration::from_secs(600), Duration::from_secs(1_200)] {
        story.clock.set_ahead(jump);
        story.runs(&first).await;
        assert_eq!(story.orders().await, 200);
    }
    story.clock.set_back(Duration::from_secs(600));
    assert_eq!(story.orders().await, 200);

    fs::rename(&away, &repository.0).unwrap();
    let closed = repository.write("policies/closed.cedar", NO_ORDERS);
    story.runs(&closed).await;
    story.is_in_order().await;
    assert_eq!(story.orders().await, 403);
    story.end().await;
}
