//! One proxy by itself: certificates from files, policies from a folder, records in
//! a log of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{fs, io, net::SocketAddr, sync::Arc};

use palisade_audit::{
    item::Item,
    log::{Log, LogOptions},
    row::Row,
    source::Entry,
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Identity,
};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use support::{
    Home, LIMIT, Running,
    authority::Authority,
    free_port,
    git::git,
    http::{self, Reply},
    wait_for,
};

const DOMAIN: &str = "demo.test";
const WEB: &str = "ns/shop/sa/web";
const ORDERS: &str = "ns/shop/sa/orders";

/// A proxy in front of orders, with everything it needs.
struct Alone<'h> {
    home: &'h Home,
    authority: Authority,
    inbound: SocketAddr,
    _app: Running,
}

impl<'h> Alone<'h> {
    fn prepare(home: &'h Home) -> Self {
        let authority = Authority::new(DOMAIN);
        authority.write(&authority.leaf(ORDERS), &home.path("identity"));
        support::copy(&support::sample_policies(), &home.path("policies"));
        let app = home.start("app", &["shop", "orders"]);
        let upstream: SocketAddr = wait_for("a sample service", LIMIT, || {
            app.printed().lines().next()?.parse().ok()
        });
        let inbound = free_port();
        let text = format!(
            "trust_domain: {DOMAIN}\nproxy:\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  policy: {{ folder: policies }}\n  records: {{ log: log }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"{upstream}\" }}\n"
        );
        fs::write(home.path("proxy.yaml"), text).unwrap();
        Self {
            home,
            authority,
            inbound,
            _app: app,
        }
    }

    fn start(&self) -> Running {
        let mut proxy = self
            .home
            .start("proxy", &["run", "proxy", "--config", "proxy.yaml"]);
        wait_for("a proxy that listens", LIMIT, || {
            assert!(proxy.ended().is_none(), "{}", proxy.printed());
            proxy.printed().contains("ready").then_some(())
        });
        proxy
    }

    fn caller(&self, path: &str) -> Identity {
        self.authority.trusting(&self.authority.leaf(path))
    }

    /// Sends a request over TLS as `caller`.
    fn send(&self, caller: &Identity, method: &str, path: &str) -> io::Result<Reply> {
        let orders = SpiffeId::parse(&format!("spiffe://{DOMAIN}/{ORDERS}")).unwrap();
        let config = caller.client_config(&[orders], &[b"http/1.1"]);
        let name = ServerName::IpAddress(self.inbound.ip().into());
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let tcp = http::connect(self.inbound)?;
        http::exchange(
            &mut StreamOwned::new(session, tcp),
            method,
            "orders",
            path,
            "",
        )
    }

    /// Every record of the log of a proxy that has ended, oldest first.
    fn records(&self) -> Vec<Row> {
        let options = LogOptions::new(TrustDomain::parse(DOMAIN).unwrap());
        let log = Log::open(&self.home.path("log"), options, Clock::system()).unwrap();
        let rows = log.scan(0).map(Result::unwrap).map(|entry| {
            Row::new(&Item::new(Entry {
                index: entry.index,
                envelope: entry.envelope,
                record: entry.record,
            }))
        });
        let rows = rows.collect();
        log.close();
        rows
    }
}

/// Allowed, denied, malformed, unknown, and from another trust domain; each leaves
/// its record.
#[test]
fn one_file_makes_a_proxy_that_decides_and_records() {
    let home = Home::new();
    let alone = Alone::prepare(&home);
    let mut proxy = alone.start();
    let web = alone.caller(WEB);

    let allowed = alone.send(&web, "GET", "/orders").unwrap();
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.json()["path"], "/orders");

    let denied = alone.send(&web, "POST", "/orders/42/refund").unwrap();
    assert_eq!(denied.status, 403);
    assert_eq!(
        denied.header("content-type"),
        Some("application/problem+json")
    );
    let id = denied.header("palisade-decision-id").unwrap();
    assert_eq!(denied.json()["decision_id"], id);

    let malformed = alone.send(&web, "GET", "/a%2fb").unwrap();
    assert_eq!(malformed.status, 400, "{malformed:?}");

    let second = alone.send(&alone.caller("ns/shop/sa/inventory"), "GET", "/orders");
    assert_eq!(second.unwrap().status, 403);

    let stranger = Authority::new("evil.test").leaf(WEB);
    let stranger = alone.authority.trusting(&stranger);
    let refused = alone.send(&stranger, "GET", "/orders");
    assert!(refused.is_err(), "{refused:?}");

    assert!(proxy.end().success());
    let records = alone.records();
    let decisions: Vec<&str> = records
        .iter()
        .filter(|r| r.text("class") == Some("decision"))
        .map(|r| r.text("decision").unwrap())
        .collect();
    assert_eq!(
        decisions,
        ["allow", "not_permitted", "refused", "not_permitted"]
    );
    assert!(records.iter().any(|r| r.text("id") == Some(id)));
    let failed = |r: &&Row| r.text("class") == Some("authn_failure");
    let failures: Vec<&Row> = records.iter().filter(failed).collect();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].text("reason"), Some("unknown_issuer"));
    assert_eq!(failures[0].text("listener"), Some("inbound"));
    home.says(&["audit", "verify", "--dir", "log"], 0);
}

/// New certificates in the files are taken up, and a new policy in the folder.
#[test]
fn files_are_read_again_when_they_change() {
    let home = Home::new();
    let alone = Alone::prepare(&home);
    let _proxy = alone.start();
    let web = alone.caller(WEB);
    assert_eq!(alone.send(&web, "GET", "/orders").unwrap().status, 200);

    let file = home.path("policies/policies/orders.cedar");
    let sample = fs::read_to_string(&file).unwrap();
    fs::write(&file, sample.replace("permit (", "forbid (")).unwrap();
    wait_for("the new policy", LIMIT, || {
        let reply = alone.send(&web, "GET", "/orders").ok()?;
        (reply.status == 403).then_some(())
    });
    fs::write(&file, &sample).unwrap();
    wait_for("the old policy", LIMIT, || {
        let reply = alone.send(&web, "GET", "/orders").ok()?;
        (reply.status == 200).then_some(())
    });

    let other = Authority::new(DOMAIN);
    other.write(&other.leaf(ORDERS), &home.path("identity"));
    let web = other.trusting(&other.leaf(WEB));
    wait_for("the new authority", LIMIT, || {
        let reply = alone.send(&web, "GET", "/orders").ok()?;
        (reply.status == 200).then_some(())
    });
}

/// Whose the policies of a working tree of git are, a proxy says nothing of: a log takes that from
/// the PDP alone, and refuses the record of a proxy that names authors.
#[test]
fn a_proxy_names_no_authors_of_its_policies() {
    let home = Home::new();
    let alone = Alone::prepare(&home);
    for args in [
        ["init", "--quiet"].as_slice(),
        &["add", "--all"],
        &["commit", "--quiet", "-m", "policies"],
    ] {
        git(&home.path("policies"), args);
    }
    let mut proxy = alone.start();
    assert!(proxy.end().success());
    let records = alone.records();
    let change = |r: &&Row| r.text("class") == Some("policy_change");
    let changes: Vec<&Row> = records.iter().filter(change).collect();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].text("verb"), Some("activated"));
    assert_eq!(changes[0].texts("author"), Vec::<&str>::new());
}

/// A proxy does not start on a policy that says nothing for certain.
#[test]
fn a_broken_policy_folder_is_refused_with_its_place() {
    let home = Home::new();
    let alone = Alone::prepare(&home);
    let file = home.path("policies/policies/orders.cedar");
    let sample = fs::read_to_string(&file).unwrap();
    fs::write(&file, sample.replacen("permit (", "permit {", 1)).unwrap();
    let output = alone.home.run(&["run", "proxy", "--config", "proxy.yaml"]);
    let said = support::said(&output);
    assert!(!output.status.success(), "{said}");
    for part in ["PLS1100", "policies/orders.cedar", "permit {"] {
        assert!(said.contains(part), "{said}");
    }
}

/// Every mistake of a configuration is told in one run, with its line.
#[test]
fn three_mistakes_are_told_at_once() {
    let home = Home::new();
    let text = "trust_domain: demo.test\nproxy:\n  identiti: {}\n  workers: many\n  policy: { folder: policies }\n  records: { log: log }\n  inbound: { listen: nowhere, service: shop/orders, upstream: \"127.0.0.1:1\" }\n";
    fs::write(home.path("proxy.yaml"), text).unwrap();
    let said = home.says(&["run", "proxy", "--config", "proxy.yaml"], 3);
    for part in [
        "PLS8003",
        "PLS8005",
        "identiti",
        "did you mean `identity`?",
        ":3:",
        ":4:",
        ":7:",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let found = home.json(&["run", "proxy", "--config", "proxy.yaml"]);
    let lines: Vec<u64> = found["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["location"]["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [3, 4, 7]);
    let said = home.says(&["run", "proxy", "--config", "absent.yaml"], 3);
    assert!(said.contains("PLS8001"), "{said}");
}
