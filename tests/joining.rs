//! Hosts that join, over real sockets and with the binary as people run it: what lets
//! one in, what keeps one out, and what can be seen of it afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{fs, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use support::{Home, LIMIT, Running, free_port, wait_for};

mod support;

const PREFIX: &str = "palisade-join-1.";

/// An authority that takes hosts, with the rest of the control plane.
struct Mesh<'h> {
    home: &'h Home,
    _plane: Running,
}

impl<'h> Mesh<'h> {
    fn start(home: &'h Home) -> Self {
        support::copy(&support::sample_policies(), &home.path("policies"));
        let (ca, pdp, audit): (SocketAddr, _, _) = (free_port(), free_port(), free_port());
        let this = fs::canonicalize(env!("CARGO_BIN_EXE_palisade")).unwrap();
        let text = format!(
            "trust_domain: demo.test\nca:\n  listen: {ca}\n  registrations:\n    - spiffe_id: spiffe://demo.test/ns/shop/sa/web\n      selectors: [\"unix:path:{}\"]\n      node: host-2\nagent: {{}}\npdp:\n  policies: policies\n  listen: {pdp}\naudit:\n  listen: {audit}\n",
            this.display()
        );
        fs::write(home.path("mesh.yaml"), text).unwrap();
        let plane = home.start("plane", &["run", "all", "--config", "mesh.yaml"]);
        let mesh = Self {
            home,
            _plane: plane,
        };
        wait_for("the control plane", LIMIT, || {
            home.run(&["status"]).status.success().then_some(())
        });
        mesh
    }

    fn token(&self, node: &str) -> String {
        let made = self.home.json(&["join", "token", "create", "--node", node]);
        made["token"].as_str().unwrap().to_owned()
    }

    /// Starts an agent with a state of its own; `join` is what its section says.
    fn agent(&self, name: &str, token: &str, join: &str) -> Running {
        let section = if join.is_empty() { "{}" } else { join };
        let text =
            format!("trust_domain: demo.test\nstate_dir: {name}\nagent:\n  join: {section}\n");
        fs::write(self.home.path(&format!("{name}.yaml")), text).unwrap();
        fs::write(self.home.path(&format!("{name}.token")), token).unwrap();
        let (config, file) = (format!("{name}.yaml"), format!("{name}.token"));
        let log = self.home.path(&format!("{name}.log"));
        let _ = fs::remove_file(log);
        let args = [
            "run",
            "agent",
            "--config",
            &config,
            "--join-token-file",
            &file,
        ];
        self.home.start(name, &args)
    }

    fn joins(&self, name: &str, token: &str) -> Running {
        let agent = self.agent(name, token, "");
        let socket = self.home.path(&format!("{name}/agent.sock"));
        wait_for("a host that joins", LIMIT, || socket.exists().then_some(()));
        agent
    }

    /// The agent ends by itself, with this code in what it says.
    fn stays_out(&self, mut agent: Running, code: &str) {
        let status = wait_for("an agent that ends", LIMIT, || agent.ended());
        assert!(!status.success());
        let said = agent.printed();
        assert!(said.contains(code), "{code}: {said}");
    }

    /// `check` tells of it, and there is a record.
    fn is_told(&self, code: u64, reason: &str) {
        let facts = self.home.json(&["check"]);
        let told = facts.as_array().unwrap().iter();
        assert!(told.clone().any(|f| f["code"] == code), "{facts}");
        wait_for("a record of the refusal", LIMIT, || {
            let rows = self.home.rows("class:authn_failure last:1h")?;
            let mut rows = rows.iter().map(Value::to_string);
            rows.any(|r| r.contains(reason)).then_some(())
        });
    }
}

/// A token with something in it changed.
fn changed(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let json = URL_SAFE_NO_PAD
        .decode(token.strip_prefix(PREFIX).unwrap())
        .unwrap();
    let mut value: Value = serde_json::from_slice(&json).unwrap();
    change(&mut value);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(value.to_string()))
}

/// A revoked root takes the node's own certificate along, perhaps before it hears of it.
#[test]
fn a_node_comes_through_the_revocation_of_its_root() {
    let home = Home::new();
    let mesh = Mesh::start(&home);
    let token = mesh.token("host-2");
    let _agent = mesh.joins("two", &token);
    let kept = || -> Value {
        let kept = fs::read(home.path("two/node/node.json")).unwrap();
        serde_json::from_slice(&kept).unwrap()
    };
    for how in [&["--now", "--yes"][..], &["--yes"]] {
        let before = kept();
        let mut args = vec!["ca", "rotate", "root", "--compromised"];
        args.extend(how);
        home.says(&args, 0);
        wait_for("another root and certificate", LIMIT, || {
            let now = kept();
            let is_other = |key: &str| now[key][0] != before[key][0];
            (is_other("chain") && is_other("roots")).then_some(())
        });
        wait_for("only the new root", LIMIT, || {
            let roots = kept()["roots"].as_array()?.len();
            let nodes = home.json(&["join", "node", "list"]);
            (roots == 1 && nodes[0]["connected"] == true).then_some(())
        });
    }
}

#[test]
fn a_host_joins_once_by_a_token_and_comes_back_by_its_key() {
    let home = Home::new();
    let mesh = Mesh::start(&home);
    let token = mesh.token("host-2");
    let mut agent = mesh.joins("two", &token);
    let nodes = home.json(&["join", "node", "list"]);
    assert_eq!(nodes[0]["name"], "host-2", "{nodes}");
    assert!(
        home.json(&["join", "token", "list"])
            .as_array()
            .unwrap()
            .is_empty()
    );

    // Another host with the same token, as a thief would come.
    mesh.stays_out(mesh.agent("thief", &token, ""), "PLS4112");
    mesh.is_told(4112, "token_used");

    // The same host, with a certificate that serves no more and without a token.
    assert!(agent.end().success());
    let file = home.path("two/node/node.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    kept["chain"] = Value::Array(Vec::new());
    // It does not know the authority's roots any more, either.
    kept["roots"] = Value::Array(Vec::new());
    fs::write(&file, kept.to_string()).unwrap();
    let mut agent = mesh.joins("two", "");
    assert!(agent.end().success());

    home.says(&["join", "node", "ban", "host-2", "--reason", "lost"], 0);
    fs::write(&file, kept.to_string()).unwrap();
    mesh.stays_out(mesh.agent("two", "", ""), "PLS4106");
    mesh.is_told(4106, "node_banned");
}

#[test]
fn a_token_for_another_node_or_another_authority_lets_nobody_in() {
    let home = Home::new();
    let mesh = Mesh::start(&home);
    let token = mesh.token("host-2");
    mesh.stays_out(mesh.agent("three", &token, "{ node: host-3 }"), "PLS4113");
    mesh.is_told(4113, "token_of_other_node");

    // Nothing is sent to an authority that is not the token's.
    let strange = changed(&token, |t| {
        t["roots"] = Value::from(vec![URL_SAFE_NO_PAD.encode([7; 32])]);
    });
    mesh.stays_out(mesh.agent("astray", &strange, ""), "PLS4114");
    let foreign = changed(&token, |t| t["trust_domain"] = "other.test".into());
    mesh.stays_out(mesh.agent("foreign", &foreign, ""), "PLS4114");
    let guessed = changed(&token, |t| {
        t["secret"] = URL_SAFE_NO_PAD.encode([7; 32]).into();
    });
    mesh.stays_out(mesh.agent("guess", &guessed, ""), "PLS4111");
    mesh.is_told(4111, "token_unknown");
    mesh.stays_out(mesh.agent("cut", &token[..40], ""), "PLS4110");
    mesh.stays_out(mesh.agent("none", "", "{ node: host-9 }"), "PLS4110");

    home.says(&["join", "token", "create", "--node", "Host"], 1);
    let said = home.says(
        &["join", "token", "create", "--node", "a", "--ttl", "11m"],
        1,
    );
    assert!(said.contains("PLS4104"), "{said}");
    let id = home.json(&["join", "token", "list"])[0]["id"].clone();
    home.says(&["join", "token", "revoke", id.as_str().unwrap()], 0);
    mesh.stays_out(mesh.agent("late", &token, ""), "PLS4111");
}
