//! The key of the log on a device: checkpoints are signed there, whatever restarts, and a
//! device that is away is told.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use support::{Home, LIMIT, Running, lone, said, wait_for};

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
        let token = Self { home, conf };
        token.pin(&format!("{PIN}\n"));
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

    /// Takes it away, or brings it back.
    fn is_away(&self, away: bool) {
        let (here, there) = (self.home.path("tokens"), self.home.path("elsewhere"));
        let (from, to) = if away { (here, there) } else { (there, here) };
        for token in fs::read_dir(&from).unwrap() {
            let token = token.unwrap();
            fs::create_dir_all(&to).unwrap();
            fs::rename(token.path(), to.join(token.file_name())).unwrap();
        }
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
        let key =
            format!("  log_key: {{ pkcs11: {MODULE}, token: mesh, label: {label}, pin: pin }}\n");
        self.start_with(&key)
    }

    /// As [`Token::start`], with this line in its section.
    fn start_with(&self, of_audit: &str) -> Running {
        lone::configure(self.home, of_audit);
        let conf = format!("SOFTHSM2_CONF={}", self.conf.display());
        let run = ["run", "audit", "--config", "audit.yaml"];
        let args = [&[&conf, env!("CARGO_BIN_EXE_palisade")][..], &run].concat();
        self.home.start_program(Path::new("env"), "audit", &args)
    }

    /// Starts it, and expects that it says why it does not run.
    fn is_refused(&self, label: &str, why: &str) {
        let _ = fs::remove_file(self.home.path("audit.log"));
        refused(self.start(label), why);
    }

    fn pin(&self, text: &str) {
        let (path, mode) = (self.home.path("pin"), fs::Permissions::from_mode(0o600));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, mode).unwrap();
    }
}

/// Waits until it has ended, and said why.
fn refused(mut audit: Running, why: &str) {
    let status = wait_for("the end of a refused start", LIMIT, || audit.ended());
    let told = audit.printed();
    assert!(!status.success(), "{told}");
    assert!(
        told.contains("PLS7211") && told.contains(why),
        "{why}: {told}"
    );
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
    let _ = fs::remove_file(home.path("audit.log"));
    refused(token.start_with(""), "checkpoint.key");

    // A PIN that was refused is tried once.
    token.pin("wrong");
    token.is_refused("log", "refuses the PIN");
    token.is_refused("log", "was refused and has not been written since");
    token.pin("\n");
    token.is_refused("log", "1 to 255 bytes that only its owner reads");
    token.pin(PIN);
    let open = fs::Permissions::from_mode(0o640);
    fs::set_permissions(home.path("pin"), open).unwrap();
    token.is_refused("log", "1 to 255 bytes that only its owner reads");

    // While the token is away nothing is signed, and everything is kept; then it is.
    token.pin(PIN);
    let mut audit = token.start("log");
    checkpointed(&home, 0);
    token.is_away(true);
    wait_for("word of the device", LIMIT, || {
        home.run(&["audit", "search", "class:admin last:1h"]);
        let told = said(&home.run(&["check"]));
        (told.contains("PLS7202") && told.contains("token")).then_some(())
    });
    let kept = home.json(&["status"])["audit"][0]["records"]
        .as_u64()
        .unwrap();
    audit.kill();
    // It is away at the start, too, which keeps nobody from recording.
    let mut audit = token.start("log");
    wait_for("an audit service", LIMIT, || {
        home.run(&["audit", "search", "class:admin last:1h"]);
        let status: Value =
            serde_json::from_slice(&home.run(&["status", "-o", "json"]).stdout).ok()?;
        (status["audit"][0]["records"].as_u64()? > kept).then_some(())
    });
    token.is_away(false);
    checkpointed(&home, kept);
    assert!(audit.end().success());
    let shown = home.json(&[
        "audit",
        "verify",
        "--dir",
        log.to_str().unwrap(),
        "--key",
        key,
    ]);
    assert_eq!(shown["findings"], json!([]), "{shown}");
}
