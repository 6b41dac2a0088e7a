//! Promises about the systemd units: what they name exists, and what they may do is
//! little.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic here is a failed test"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use palisade::config::keys::KEYS;

/// Every unit, by the role that it runs.
const UNITS: [(&str, &str); 5] = [
    ("palisade-agent.service", "agent"),
    ("palisade-audit.service", "audit"),
    ("palisade-ca.service", "ca"),
    ("palisade-pdp.service", "pdp"),
    ("palisade-proxy@.service", "proxy"),
];
/// Worst exposure that a unit may have, in tenths: 2.0.
const EXPOSURE_MAX: &str = "20";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

/// Settings of a unit; those that stand several times are joined by line breaks.
fn settings(unit: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder().join(unit)).unwrap();
    let mut found = BTreeMap::<String, String>::new();
    for (name, value) in text.lines().filter_map(|l| l.split_once('=')) {
        if !name.starts_with(['#', '[']) {
            let all = found.entry(name.to_owned()).or_default();
            *all += &format!("{value}\n");
        }
    }
    found
}

#[test]
fn every_unit_is_in_the_table() {
    let mut units: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".service"))
        .collect();
    units.sort();
    assert_eq!(units, UNITS.map(|(unit, _)| unit));
}

#[test]
fn units_start_their_role_and_are_told_when_it_is_ready() {
    for (unit, role) in UNITS {
        let settings = settings(unit);
        let start = settings.get("ExecStart").unwrap();
        assert!(start.starts_with(&format!(
            "/usr/bin/palisade run {role} --config /etc/palisade/"
        )));
        for (name, value) in [
            ("Type", "notify\n"),
            ("ExecReload", "/bin/kill -HUP $MAINPID\n"),
            ("NoNewPrivileges", "yes\n"),
        ] {
            assert_eq!(settings.get(name).unwrap(), value, "{unit}");
        }
    }
}

/// The agent alone has a capability, and its user is its own.
#[test]
fn only_the_agent_may_look_into_processes() {
    for (unit, role) in UNITS {
        let settings = settings(unit);
        let expected = if role == "agent" {
            "CAP_SYS_PTRACE\n"
        } else {
            "\n"
        };
        for name in ["CapabilityBoundingSet", "AmbientCapabilities"] {
            assert_eq!(settings.get(name).unwrap(), expected, "{unit}");
        }
        let user = settings.get("User").unwrap();
        assert_eq!(user == "palisade-agent\n", role == "agent", "{unit}");
    }
}

/// A variable that overrides no key would be refused at the start.
#[test]
fn variables_of_the_units_override_keys_that_exist() {
    let mut seen = 0;
    for (unit, _) in UNITS {
        let environment = settings(unit).remove("Environment").unwrap();
        for name in environment.lines().filter_map(|l| l.split('=').next()) {
            if name.starts_with("PALISADE_") {
                seen += 1;
                let known = |k: &palisade::config::keys::Key| k.variable().as_deref() == Some(name);
                assert!(KEYS.iter().any(known), "{name} of {unit}");
            }
        }
    }
    assert!(seen >= UNITS.len());
}

#[test]
fn users_of_the_units_are_made() {
    let made = fs::read_to_string(folder().join("palisade.sysusers.conf")).unwrap();
    for (unit, _) in UNITS {
        let user = settings(unit).remove("User").unwrap();
        let user = user.trim().replace("%i", "orders");
        let line = |l: &str| {
            l.trim_start_matches(['#', ' '])
                .starts_with(&format!("u {user} "))
        };
        assert!(made.lines().any(line), "{user}");
    }
}

/// What `systemd-analyze` thinks of each unit.
#[test]
#[ignore = "needs systemd-analyze; .ci/run runs it by name"]
fn units_are_valid_and_rated_2_0_or_better() {
    for (unit, _) in UNITS {
        let rated = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={EXPOSURE_MAX}"))
            .arg(folder().join(unit))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&rated.stdout);
        println!("{}", said.lines().last().unwrap_or_default());
        assert!(rated.status.success(), "{unit}: {said}");
    }
    // With the program where the unit looks for it, as it is verified by its path.
    let dir = tempfile::tempdir().unwrap();
    for (unit, _) in UNITS {
        let text = fs::read_to_string(folder().join(unit)).unwrap();
        let text = text.replace("/usr/bin/palisade", env!("CARGO_BIN_EXE_palisade"));
        fs::write(dir.path().join(unit), text).unwrap();
    }
    for (unit, _) in UNITS {
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(dir.path().join(unit))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        assert!(
            verified.status.success() && said.is_empty(),
            "{unit}: {said}"
        );
    }
}
