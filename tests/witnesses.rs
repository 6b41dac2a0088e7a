//! Two meshes that witness each other's logs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use palisade::{
    config::Config,
    control::{api::Fact, client::Mesh, status::AuditStatus},
    run::{self, ControlPlane, Role},
};
use palisade_audit::{
    checkpoint::Checkpoint,
    cosignature::Cosigner,
    log::{Log, LogOptions},
    note::Signer,
    witness::AddCheckpoint,
};
use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain};
use serde_json::Value;
use support::{
    Home, copy, decisions, free_port, http,
    inside::{config, until},
};

/// Longer than the witnesses may be missed before that is an alarm.
const MISSED: Duration = Duration::from_secs(90);

/// A mesh as it is known before it runs.
struct Side {
    name: String,
    domain: TrustDomain,
    folder: PathBuf,
    witness: SocketAddr,
    log_key: String,
    witness_key: String,
}

impl Side {
    /// Makes the keys that the other side is told.
    fn new(home: &Home, domain: &str) -> Self {
        let folder = home.path(domain);
        let domain = TrustDomain::parse(domain).unwrap();
        let log = folder.join("state/audit/log");
        let opened = Log::open(&log, LogOptions::new(domain.clone()), Clock::system()).unwrap();
        let log_key = opened.verifier().to_string();
        opened.close();
        let dir = folder.join("state/audit/witness");
        fs::create_dir_all(&dir).unwrap();
        let name = format!("{domain}/witness");
        let cosigner = Cosigner::load(&dir.join("witness.key"), &name, true).unwrap();
        Self {
            name: format!(
                "{}-{}",
                domain.as_str().replace('.', "-"),
                std::process::id()
            ),
            domain,
            folder,
            witness: free_port(),
            log_key,
            witness_key: cosigner.key().to_string(),
        }
    }

    fn config(&self, other: &Self) -> Config {
        let Self {
            name,
            domain,
            folder,
            witness,
            ..
        } = self;
        let yaml = format!(
            "trust_domain: {domain}\nname: {name}\nca: {{}}\naudit:\n  listen: 127.0.0.1:0\n  witness: {{ listen: \"{witness}\", logs: [\"{}\"] }}\n  witnesses:\n    each:\n    - {{ url: \"http://{}\", key: \"{}\" }}\n",
            other.log_key, other.witness, other.witness_key
        ) + &support::alerts_to(&self.told());
        config(folder, &yaml)
    }

    /// Where its alerts go.
    fn told(&self) -> PathBuf {
        self.folder.join("alerts")
    }

    async fn start(&self, other: &Self, clock: &Clock) -> ControlPlane {
        let roles = [Role::Ca, Role::Agent, Role::Audit];
        run::control_plane(&self.config(other), &roles, clock.clone())
            .await
            .unwrap()
    }

    async fn status(&self) -> AuditStatus {
        let mesh = Mesh::find(Some(&self.name)).await.unwrap();
        mesh.get("audit", "/v1/audit/status").await.unwrap()
    }

    async fn has(&self, code: u16) -> bool {
        let mesh = Mesh::find(Some(&self.name)).await.unwrap();
        let facts: Vec<Fact> = mesh.get("audit", "/v1/audit/check").await.unwrap();
        facts.iter().any(|fact| fact.code == Some(code))
    }

    /// Who signs under the name of this log, with the key in `file`.
    fn signer(&self, file: &Path) -> Signer {
        Signer::load(file, &format!("palisade/{}", self.domain), true).unwrap()
    }

    /// Whether `check` and `status` say of the log that is witnessed that it has forked.
    fn told_of_fork(&self) -> [bool; 2] {
        let told = |command: &str| {
            let args = [command, "--mesh", &self.name, "-o", "json"];
            let output = tokio::task::block_in_place(|| {
                Command::new(env!("CARGO_BIN_EXE_palisade"))
                    .args(args)
                    .output()
                    .unwrap()
            });
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            let facts = match command {
                "check" => &answer,
                _ => &answer["alarms"],
            };
            let mut facts = facts.as_array().unwrap().iter();
            facts.any(|fact| {
                let text = fact["text"].as_str().unwrap_or_default();
                fact["code"] == 7544 && text.contains("`palisade/f.test`")
            })
        };
        ["check", "status"].map(told)
    }

    async fn until_cosigned(&self, more_than: u64) {
        until("the witness has cosigned", || async {
            let status = self.status().await;
            status.cosigned.is_some_and(|size| size > more_than)
        })
        .await;
    }
}

/// Each cosigns the other's log; a log that is rolled back to an older copy, key and
/// all, is told from the one that was there; a witness that is gone is missed.
#[tokio::test(flavor = "multi_thread")]
async fn two_meshes_witness_each_other_and_notice_a_rolled_back_log() {
    let home = Home::new();
    let (a, b) = (Side::new(&home, "a.test"), Side::new(&home, "b.test"));
    let clock = Clock::system();
    let (plane_a, plane_b) = (a.start(&b, &clock).await, b.start(&a, &clock).await);
    a.until_cosigned(0).await;
    b.until_cosigned(0).await;
    let status = a.status().await;
    assert_eq!(status.witnesses.len(), 1);
    assert_eq!(status.witnesses[0].name, "b.test/witness");
    assert_eq!(status.witnesses[0].fault, None);
    assert!(!a.has(7541).await && !a.has(7542).await);
    let witnessed = b.status().await.witnessing.unwrap();
    assert_eq!(witnessed.logs[0].0, "palisade/a.test");
    assert!(witnessed.logs[0].1 > 0);

    // A copy of the log as it is now, then more of it, which b cosigns.
    let log = a.folder.join("state/audit/log");
    plane_a.end().await;
    copy(&log, &home.path("older"));
    let plane_a = a.start(&b, &clock).await;
    let size = a.status().await.checkpointed;
    a.until_cosigned(size - 1).await;
    plane_a.end().await;
    let verified = |dir: &str, code| {
        let key = log.join("checkpoint.pub").display().to_string();
        home.says(&["audit", "verify", "--dir", dir, "--key", &key], code)
    };
    verified(&log.display().to_string(), 0);
    a_package_can_be_demanded_cosigned(&home, &log, &b.witness_key, &a.witness_key);
    verified(&home.path("older").display().to_string(), 0);
    // What was cosigned last betrays an older checkpoint beside it.
    let cosigned = log.join("cosigned");
    fs::copy(&cosigned, home.path("older").join("cosigned")).unwrap();
    let said = verified(&home.path("older").display().to_string(), 8);
    assert!(said.contains("was signed before"), "{said}");
    fs::remove_file(home.path("older").join("cosigned")).unwrap();

    fs::remove_dir_all(&log).unwrap();
    copy(&home.path("older"), &log);
    let plane_a = a.start(&b, &clock).await;
    until("the witness contradicts", || a.has(7541)).await;
    assert!(a.status().await.witnesses[0].conflict);
    // Whoever takes alerts is told, once, and of nobody else's log.
    let told = |side: &Side| support::alerted(&side.told(), "palisade-witness");
    let message = support::wait_for("an alert", support::LIMIT, || told(&a)?.pop());
    assert_eq!(
        (&message["severity"], &message["mesh"], &message["count"]),
        (&"critical".into(), &a.name.as_str().into(), &1.into())
    );
    let query = message["query"].as_str().unwrap();
    assert!(
        query.starts_with("class:admin verb:witness_conflict"),
        "{message}"
    );
    assert_eq!(told(&b).unwrap_or_default().len(), 0);
    plane_a.end().await;
    assert_eq!(told(&a).unwrap().len(), 1);
    plane_b.end().await;
}

/// An auditor says whose cosignatures count, and how many of them are enough.
fn a_package_can_be_demanded_cosigned(home: &Home, log: &Path, witness: &str, stranger: &str) {
    let log = log.display().to_string();
    let key = format!("{log}/checkpoint.pub");
    let run = [
        "report", "run", "digest", "--period", "last:1h", "--log", &log,
    ];
    home.says(
        &[&run[..], &["--to", "w.tar.zst", "--to", "w.json"]].concat(),
        0,
    );
    let verify = |rest: &[&str], code| {
        let verify = ["report", "verify", "w.tar.zst", "--key", &key];
        home.says(&[&verify[..], rest].concat(), code)
    };
    let said = verify(&[], 0);
    assert!(
        said.contains("b.test/witness, which was not verified"),
        "{said}"
    );
    let said = verify(&["--witness", witness], 0);
    assert!(said.contains("cosigned by b.test/witness at "), "{said}");
    assert!(!said.contains("not verified"), "{said}");
    let both = ["--witness", witness, "--witness", stranger];
    let said = verify(&both, 8);
    assert!(
        said.contains("PLS7532") && said.contains("1 of 2 witnesses"),
        "{said}"
    );
    verify(&[&both[..], &["--quorum", "1"]].concat(), 0);
    verify(&["--witness", stranger, "--quorum", "1"], 8);
    assert!(verify(&["--witness", witness, "--witness", witness], 3).contains("PLS7547"));
    verify(&["--quorum", "1"], 2);
    let told = home.json(&[
        "report",
        "verify",
        "w.tar.zst",
        "--key",
        &key,
        "--witness",
        witness,
    ]);
    assert_eq!(told["witnesses"][0]["name"], "b.test/witness", "{told:#}");
    assert!(told["cosigned_records"].as_u64() > Some(0), "{told:#}");
    assert_eq!(told["witnesses_not_verified"], serde_json::json!([]));
    let said = home.says(
        &[
            "report",
            "verify",
            "w.json",
            "--log",
            &log,
            "--witness",
            witness,
        ],
        3,
    );
    assert!(said.contains("PLS7831"), "{said}");
}

/// A witness that is gone is missed, and an alarm.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_is_gone_is_missed() {
    let home = Home::new();
    let (a, b) = (Side::new(&home, "c.test"), Side::new(&home, "d.test"));
    let clock = Clock::manual(jiff::Timestamp::now());
    let (plane_a, plane_b) = (a.start(&b, &clock).await, b.start(&a, &clock).await);
    a.until_cosigned(0).await;
    plane_b.end().await;
    until("nobody answers", || async {
        a.status().await.witnesses[0].fault.is_some()
    })
    .await;
    assert!(!a.has(7542).await, "not yet");
    clock.advance(MISSED);
    assert!(a.has(7542).await);
    let plane_b = b.start(&a, &clock).await;
    until("it cosigns again", || async { !a.has(7542).await }).await;
    plane_a.end().await;
    plane_b.end().await;
}

/// A log that shows one tree to its witness and then another one of the same size is named by
/// `check` and `status`, also after a restart; what the log has not signed, or what begins
/// elsewhere, accuses nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_witnessed_log_that_forks_is_named() {
    let home = Home::new();
    let (a, b) = (Side::new(&home, "e.test"), Side::new(&home, "f.test"));
    let clock = Clock::system();
    let plane = a.start(&b, &clock).await;
    let log = b.signer(&b.folder.join("state/audit/log/checkpoint.key"));
    let stranger = b.signer(&home.path("stranger.key"));
    let shows = |signer: &Signer, old, size, root| {
        let signed = Checkpoint::sign(signer, size, [root; 32], jiff::Timestamp::now());
        let checkpoint = signed.unwrap().note;
        let proof = Vec::new();
        let asked = AddCheckpoint {
            old,
            proof,
            checkpoint,
        };
        let body = asked.to_string();
        let posted =
            |mut stream| decisions::request(&mut stream, "POST", "/add-checkpoint", &[], &body);
        tokio::task::block_in_place(|| http::connect(a.witness).and_then(posted).unwrap().status)
    };
    assert_eq!(shows(&log, 0, 5, 1), 200);
    // The same again; another key; another beginning; another size.
    assert_eq!(shows(&log, 5, 5, 1), 200);
    assert_eq!(shows(&stranger, 5, 5, 2), 403);
    assert_eq!(shows(&log, 4, 5, 1), 409);
    assert_eq!(shows(&log, 5, 6, 2), 422);
    assert!(!a.has(7544).await);
    assert_eq!(a.told_of_fork(), [false, false]);

    // Wherever it says that it begins.
    assert_eq!(shows(&log, 4, 5, 2), 409);
    assert!(a.has(7544).await);
    assert_eq!(a.told_of_fork(), [true, true]);
    // What it cosigned is what it cosigns.
    assert_eq!(shows(&log, 5, 5, 2), 409);
    assert_eq!(shows(&log, 5, 5, 1), 200);
    plane.end().await;
    let plane = a.start(&b, &clock).await;
    assert_eq!(a.told_of_fork(), [true, true]);
    plane.end().await;
    let kept = fs::read_dir(a.folder.join("state/audit/witness")).unwrap();
    let kept = kept.map(|entry| entry.unwrap().path());
    let forks: Vec<_> = kept
        .filter(|file| file.extension().is_some_and(|e| e == "fork"))
        .collect();
    assert_eq!(forks.len(), 1, "{forks:?}");
    let proof = fs::read_to_string(&forks[0]).unwrap();
    assert_eq!(proof.matches("palisade/f.test\n5\n").count(), 2, "{proof}");
}
