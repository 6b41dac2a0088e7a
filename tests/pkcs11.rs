//! The key of the log on a device: checkpoints are signed there, whatever restarts, and a
//! device that is away is told.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use support::{Home, LIMIT, Running, authority::Authority, said, wait_for};

/// Where Debian has it.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "123456";

/// A token in a folder of the test's own.
struct Token<'h> {
    home: &'h Home,
    conf: PathBuf,
}

impl<'h> Token<'h> {
    fn new(home: &'h Home) -> Self {
        let tokens = home.path("tokens");
        fs::create_dir(&tokens).unwrap();
        let conf = home.path("softhsm2.conf");
        fs::write(
            &conf,
            format!("directories.tokendir = {}\n", tokens.display()),
        )
        .unwrap();
        fs::write(home.path("pin"), format!("{PIN}\n")).unwrap();
        let token = Self { home, conf };
        let init = [
            "--init-token",
            "--free",
            "--label",
            "mesh",
            "--pin",
            PIN,
            "--so-pin",
            "7890",
        ];
        token.tool("softhsm2-util", &init);
        token
    }

    fn tool(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(program);
        let output = command.args(args).env("SOFTHSM2_CONF", &self.conf).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{program}: {}", said(&output));
    }

    fn make_key(&self, label: &str) {
        let on_token = [
            "--module",
            MODULE,
            "--token-label",
            "mesh",
            "--login",
            "--pin",
            PIN,
        ];
        let key = [
            "--keypairgen",
            "--key-type",
            "EC:edwards25519",
            "--label",
            label,
        ];
        self.tool("pkcs11-tool", &[&on_token[..], &key].concat());
    }

    /// Starts an audit service alone, whose key has this label.
    fn start(&self, label: &str) -> Running {
        let authority = Authority::new("acme.test");
        let leaf = authority.leaf("palisade/audit");
        authority.write(&leaf, &self.home.path("identity"));
        let text = format!(
            "trust_domain: acme.test\nstate_dir: state\naudit:\n  listen: 127.0.0.1:0\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  log_key: {{ pkcs11: {MODULE}, token: mesh, label: {label}, pin: pin }}\n"
        );
        fs::write(self.home.path("audit.yaml"), text).unwrap();
        let conf = format!("SOFTHSM2_CONF={}", self.conf.display());
        let run = ["run", "audit", "--config", "audit.yaml"];
        let args = [&[&conf, env!("CARGO_BIN_EXE_palisade")][..], &run].concat();
        self.home.start_program(Path::new("env"), "audit", &args)
    }

    /// Starts it, and expects that it says why it does not run.
    fn is_refused(&self, label: &str, why: &str) {
        let _ = fs::remove_file(self.home.path("audit.log"));
        let mut audit = self.start(label);
        let status = wait_for("the end of a refused start", LIMIT, || audit.ended());
        let told = audit.printed();
        assert!(!status.success(), "{told}");
        assert!(
            told.contains("PLS7211") && told.contains(why),
            "{why}: {told}"
        );
    }
}

/// Waits until more than `records` are under a checkpoint.
fn checkpointed(home: &Home, records: u64) -> Value {
    wait_for("a checkpoint", LIMIT, || {
        home.run(&["audit", "search", "class:admin last:1h"]);
        let output = home.run(&["status", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let audit = &status["audit"][0];
        (audit["checkpointed"].as_u64()? > records).then(|| audit.clone())
    })
}

#[test]
#[ignore = "needs softhsm2 and opensc; .ci/run installs them"]
fn a_device_signs_the_checkpoints_and_one_that_is_away_is_told() {
    let home = Home::new();
    let token = Token::new(&home);
    token.is_refused("log", "0 private Ed25519 keys `log`");
    token.make_key("log");
    let mut audit = token.start("log");
    let status = checkpointed(&home, 0);
    audit.kill();
    let mut audit = token.start("log");
    let again = checkpointed(&home, status["checkpointed"].as_u64().unwrap());
    assert_eq!(again["key"], status["key"]);
    assert!(audit.end().success());
    let log = home.path("state/audit/log");
    assert!(!log.join("checkpoint.key").exists());
    let key = again["key"].as_str().unwrap();
    let shown = home.json(&[
        "audit",
        "verify",
        "--dir",
        log.to_str().unwrap(),
        "--key",
        key,
    ]);
    assert_eq!(shown["findings"], json!([]), "{shown}");

    // Neither another key, nor a file, nor two keys of a name are the log's.
    token.make_key("other");
    token.is_refused("other", "it is not the one in");
    token.make_key("twice");
    token.make_key("twice");
    token.is_refused("twice", "2 private Ed25519 keys `twice`");
    fs::write(home.path("pin"), "wrong").unwrap();
    token.is_refused("log", "the token refuses the PIN");
    fs::write(home.path("pin"), "\n").unwrap();
    token.is_refused("log", "it has 0 bytes");
    fs::write(home.path("pin"), PIN).unwrap();

    // While the token is away nothing is signed, and everything is kept.
    let mut audit = token.start("log");
    let before = checkpointed(&home, 0)["checkpointed"].as_u64().unwrap();
    token.tool("softhsm2-util", &["--delete-token", "--token", "mesh"]);
    wait_for("word of the device", LIMIT, || {
        home.run(&["audit", "search", "class:admin last:1h"]);
        let told = said(&home.run(&["check"]));
        (told.contains("PLS7202") && told.contains("token")).then_some(())
    });
    let now = home.json(&["status"]);
    assert!(
        now["audit"][0]["records"].as_u64().unwrap() > before,
        "{now}"
    );
    audit.kill();
}
