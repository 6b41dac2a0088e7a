//! Bundles that CI signs and pushes into a registry (Debian's `docker-registry`), from there
//! to the proxies; whatever becomes of the registry, proxies keep the right revision.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

use palisade::{
    control::{api::Fact, client::Mesh, status::PdpStatus},
    run::{self, Role},
};
use palisade_mesh::clock::Clock;
use support::{
    Home, LIMIT, free_port,
    inside::{config, control_plane, get, proxy, ready, start_app, until},
    wait_for,
};

const CLOSED: &str = "@id(\"closed\")\nforbid (principal, action, resource in Service::\"demo.test/shop/orders\");\n";

/// A registry of its own for one test; it ends with it.
struct Registry {
    address: SocketAddr,
    configuration: String,
    child: Child,
}

impl Registry {
    fn start(home: &Home) -> Self {
        let address = free_port();
        let store = home.path("registry");
        let configuration = home.path("registry.yml").display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n  delete: {{ enabled: true }}\nhttp: {{ addr: \"{address}\" }}\n",
            store.display()
        );
        fs::write(&configuration, text).unwrap();
        let child = serve(&configuration, address);
        Self {
            address,
            configuration,
            child,
        }
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.child = serve(&self.configuration, self.address);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(configuration: &str, address: SocketAddr) -> Child {
    let child = Command::new("docker-registry")
        .args(["serve", configuration])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry of Debian's package");
    wait_for("the registry", LIMIT, || TcpStream::connect(address).ok());
    child
}

/// What a pipeline does with a change: build, sign by two, push.
struct Pipeline<'h> {
    home: &'h Home,
    place: String,
}

impl Pipeline<'_> {
    fn new(home: &Home, place: String) -> Pipeline<'_> {
        support::copy(&support::sample_policies(), &home.path("policies"));
        let mut keys = String::new();
        for name in ["ci", "release"] {
            let output = home.run(&["bundle", "keygen", &format!("{name}.key")]);
            keys.push_str(&String::from_utf8(output.stdout).unwrap());
        }
        fs::write(home.path("trusted.keys"), keys).unwrap();
        Pipeline { home, place }
    }

    /// Signs what the folder has now under `number`, and pushes it; gives its digest.
    fn push(&self, number: u64, signers: &[&str]) -> String {
        let home = self.home;
        let built = home.json(&["bundle", "build", "policies", "-f", "shop.palisade"]);
        let number = number.to_string();
        for signer in signers {
            let key = format!("{signer}.key");
            home.says(
                &[
                    "bundle",
                    "sign",
                    "shop.palisade",
                    "--key",
                    &key,
                    "--sequence",
                    &number,
                    "--stamp",
                    "1h",
                ],
                0,
            );
        }
        let pushed = home.json(&["bundle", "push", "shop.palisade", &self.place]);
        assert_eq!(pushed["digest"], built["digest"]);
        built["digest"].as_str().unwrap().to_owned()
    }
}

async fn status(name: &str) -> Option<PdpStatus> {
    let mesh = Mesh::find(Some(name)).await.ok()?;
    let all: Vec<PdpStatus> = mesh.get_all("pdp", "/v1/pdp/status").await.ok()?;
    all.into_iter().next()
}

/// Waits until both proxies run the revision with this number and digest.
async fn runs(name: &str, number: u64, digest: &str) {
    until("every proxy runs it", || async {
        let Some(pdp) = status(name).await else {
            return false;
        };
        let current = pdp
            .revision
            .is_some_and(|r| r.sequence == number && r.digest == digest);
        let synced =
            |p: &&palisade::control::status::SubscriberStatus| p.connected && p.sequence == number;
        current && pdp.proxies.iter().filter(synced).count() == 2
    })
    .await;
}

/// Waits until `check` gives this code for the PDP.
async fn checks(name: &str, code: u16) {
    until("check says so", || async {
        let Ok(mesh) = Mesh::find(Some(name)).await else {
            return false;
        };
        let facts: Result<Vec<Vec<Fact>>, _> = mesh.get_all("pdp", "/v1/pdp/check").await;
        facts.is_ok_and(|all| all.into_iter().flatten().any(|f| f.code == Some(code)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the program docker-registry; run by name in .ci/run"]
async fn a_signed_bundle_goes_from_a_registry_to_the_proxies() {
    let home = Home::new();
    let mut registry = Registry::start(&home);
    let place = format!("oci://{}/shop/policy:prod", registry.address);
    let pipeline = Pipeline::new(&home, place.clone());
    let first = pipeline.push(7, &["ci", "release"]);

    // What is there is what was pushed, by its tag and by its digest.
    let server = place.trim_end_matches(":prod");
    let again = home.json(&["bundle", "push", "shop.palisade", &place]);
    let by_digest = format!("{server}@{}", again["manifest"].as_str().unwrap());
    for from in [&place, &by_digest] {
        let pulled = home.json(&["bundle", "pull", from, "-f", "pulled.palisade"]);
        assert_eq!(pulled["digest"], first.as_str());
        let read = |file: &str| fs::read(home.path(file)).unwrap();
        assert_eq!(read("pulled.palisade"), read("shop.palisade"));
    }
    let missing = format!("{server}:nothing");
    let told = home.says(&["bundle", "pull", &missing, "-f", "none.palisade"], 1);
    assert!(
        told.contains("PLS3202") && !home.path("none.palisade").exists(),
        "{told}"
    );
    fs::write(home.path("text.palisade"), "no bundle").unwrap();
    let told = home.says(&["bundle", "push", "text.palisade", &place], 1);
    assert!(told.contains("PLS3108"), "{told}");

    let name = format!("registry-{}", std::process::id());
    let (clock, app, pdp, audit) = (Clock::system(), start_app().await, free_port(), free_port());
    let trust = format!(
        "{{oci: \"{}\", poll: 1s}}\n  policy_trust: {{keys: {}, threshold: 2, stamp_age: 2h}}",
        place.trim_start_matches("oci://"),
        home.path("trusted.keys").display()
    );
    let yaml = control_plane(&name, &trust)
        .replacen("127.0.0.1:0", &pdp.to_string(), 1)
        .replacen("127.0.0.1:0", &audit.to_string(), 1);
    let plane_config = config(&home.path("plane"), &yaml);
    let start = async || run::control_plane(&plane_config, &Role::ALL, clock.clone()).await;
    let plane = start().await.unwrap();
    let mut proxies = Vec::new();
    for service in ["web", "orders"] {
        let yaml = proxy(
            &name,
            service,
            app,
            pdp,
            audit,
            &plane_config.agent_socket(),
        );
        let yaml = format!(
            "{yaml}  policy_trust: {{keys: {}, threshold: 2, stamp_age: 2h}}\n",
            home.path("trusted.keys").display()
        );
        let config = config(&home.path(service), &yaml);
        proxies.push(run::proxy::start(&config, clock.clone()).await.unwrap());
    }
    let outbound = ready(&name).await;
    runs(&name, 7, &first).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    let signed = status(&name).await.unwrap().revision.unwrap().signed;
    assert_eq!(signed, "signed in CI (2 of 2)");

    // Signed by one of two, or under an older number: refused, and what was in force stays.
    fs::write(home.path("policies/policies/closed.cedar"), CLOSED).unwrap();
    pipeline.push(8, &["ci"]);
    checks(&name, 3102).await;
    pipeline.push(6, &["ci", "release"]);
    checks(&name, 3004).await;
    runs(&name, 7, &first).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 200);

    let closed = pipeline.push(8, &["ci", "release"]);
    runs(&name, 8, &closed).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 403);

    // The registry is gone, and the PDP starts again without it.
    registry.stop();
    checks(&name, 3201).await;
    plane.end().await;
    let plane = start().await.unwrap();
    runs(&name, 8, &closed).await;
    assert_eq!(get(outbound, "orders", "/orders").await, 403);
    registry.start_again();
    fs::remove_file(home.path("policies/policies/closed.cedar")).unwrap();
    let last = pipeline.push(9, &["release", "ci"]);
    runs(&name, 9, &last).await;
    assert_eq!(last, first);
    assert_eq!(get(outbound, "orders", "/orders").await, 200);
    for proxy in proxies {
        proxy.end().await;
    }
    plane.end().await;
}
