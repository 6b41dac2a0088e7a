//! Three hosts as network namespaces, set up by following docs/walk-through-three-hosts.md
//! literally: each fenced block is run, or written to a file, on the host it names.
//!
//! Needs root, `ip` and `curl`: cargo test --test hosts -- --ignored

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::demo::Tally;

mod support;

const PAGE: &str = include_str!("../docs/walk-through-three-hosts.md");
/// Longest time for one block of the page.
const BLOCK_LIMIT: Duration = Duration::from_secs(120);

/// A fenced block that names a host.
struct Block {
    host: String,
    /// None for commands.
    file: Option<String>,
    text: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let words: Vec<&str> = info.split(' ').collect();
        let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let [_, host, rest @ ..] = words.as_slice() else {
            panic!("block `{info}` names no host");
        };
        blocks.push(Block {
            host: (*host).to_owned(),
            file: rest.first().map(|f| (*f).to_owned()),
            text: text.join("\n") + "\n",
        });
    }
    blocks
}

/// Runs a program of the system; a failure panics with what it said.
fn system(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The three hosts behind one bridge; all of it goes when this does.
struct Hosts {
    dir: tempfile::TempDir,
    tag: String,
}

/// How long the control plane is cut off.
const CUT: Duration = Duration::from_secs(15);
/// What a call to nobody may take until it is answered.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A policy that nobody hears of while the cable is out.
const FREEZE: &str = "@id(\"freeze\")\n@owner(\"platform\")\nforbid (principal, action, resource in Service::\"acme.test/shop/orders\");\n";

const NAMES: [&str; 3] = ["host-1", "host-2", "host-3"];

impl Hosts {
    fn new() -> Self {
        let hosts = Self {
            dir: tempfile::tempdir().unwrap(),
            // Interface names have at most 15 bytes.
            tag: format!("pls{}", std::process::id() % 100_000),
        };
        let bridge = format!("{}b", hosts.tag);
        // The bridge has a namespace of its own: nothing is changed in this one.
        system("ip", &["netns", "add", &bridge]);
        system(
            "ip",
            &["-n", &bridge, "link", "add", "bridge0", "type", "bridge"],
        );
        system("ip", &["-n", &bridge, "link", "set", "bridge0", "up"]);
        for (index, name) in NAMES.iter().enumerate() {
            let space = hosts.space(name);
            let cable = format!("c{}", index + 1);
            let address = format!("10.77.0.{}/24", index + 1);
            system("ip", &["netns", "add", &space]);
            system(
                "ip",
                &[
                    "-n", &bridge, "link", "add", &cable, "type", "veth", "peer", "name", "eth0",
                    "netns", &space,
                ],
            );
            system(
                "ip",
                &[
                    "-n", &bridge, "link", "set", &cable, "master", "bridge0", "up",
                ],
            );
            system(
                "ip",
                &["-n", &space, "address", "add", &address, "dev", "eth0"],
            );
            system("ip", &["-n", &space, "link", "set", "eth0", "up"]);
            system("ip", &["-n", &space, "link", "set", "lo", "up"]);
            fs::create_dir_all(hosts.home(name).join("run")).unwrap();
        }
        hosts.provide_scp();
        hosts
    }

    fn space(&self, host: &str) -> String {
        format!("{}{host}", self.tag)
    }

    fn home(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    /// Takes the cable of a host out of the bridge (`down`), or puts it back (`up`).
    fn cable(&self, host: &str, state: &str) {
        let index = NAMES.iter().position(|n| *n == host).unwrap() + 1;
        let (bridge, cable) = (format!("{}b", self.tag), format!("c{index}"));
        system("ip", &["-n", &bridge, "link", "set", &cable, state]);
    }

    /// Stands for the ssh of real hosts: copies out of another one's folder.
    fn provide_scp(&self) {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\nhost=${{1%%:*}}; path=${{1#*:/srv/palisade/}}\nexec cp \"{}/$host/$path\" \"$2\"\n",
            self.dir.path().display()
        );
        fs::write(bin.join("scp"), script).unwrap();
        fs::set_permissions(bin.join("scp"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs commands on a host, in its own network and with its own /srv/palisade;
    /// gives what they printed. Processes in the background go on.
    fn run(&self, host: &str, commands: &str) -> String {
        let home = self.home(host);
        let inside = format!(
            "mount -t tmpfs tmpfs /srv && mkdir /srv/palisade && mount --bind '{}' /srv/palisade && cd /srv/palisade && exec sh -euc \"$COMMANDS\"",
            home.display()
        );
        let palisade = Path::new(env!("CARGO_BIN_EXE_palisade")).parent().unwrap();
        let path = format!(
            "{}:{}:{}",
            self.dir.path().join("bin").display(),
            palisade.display(),
            std::env::var("PATH").unwrap()
        );
        let printed = home.join("printed");
        let out = File::create(&printed).unwrap();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.space(host), "sh", "-c", &inside])
            .env("COMMANDS", commands)
            .env("PATH", path)
            .env("XDG_RUNTIME_DIR", "/srv/palisade/run")
            .env("NO_COLOR", "1")
            .env_remove("PALISADE_MESH")
            .stdin(std::process::Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + BLOCK_LIMIT;
        let status = support::wait_for("a block of the page", BLOCK_LIMIT, || {
            let ended = child.try_wait().unwrap();
            if ended.is_none() && Instant::now() + Duration::from_secs(1) > deadline {
                panic!("{host}: {commands}\n{}", self.logs());
            }
            ended
        });
        let text = fs::read_to_string(&printed).unwrap();
        assert!(
            status.success(),
            "{host}: {commands}\n{text}\n{}",
            self.logs()
        );
        fs::rename(&printed, home.join(format!("printed-{}", text.len()))).unwrap();
        text
    }

    /// What every host has printed so far.
    fn logs(&self) -> String {
        let mut all = String::new();
        for name in NAMES {
            for entry in fs::read_dir(self.home(name)).unwrap().map(Result::unwrap) {
                if entry.file_name().to_string_lossy().starts_with("printed") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    all += &format!("--- {name}\n{text}\n");
                }
            }
        }
        all
    }

    fn json(&self, host: &str, command: &str) -> Value {
        let printed = self.run(host, &format!("{command} -o json"));
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{command}: {e}: {printed}"))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let spaces = NAMES.iter().map(|n| self.space(n));
        for space in spaces.chain([format!("{}b", self.tag)]) {
            // Whatever still runs there was started here.
            let pids = Command::new("ip").args(["netns", "pids", &space]).output();
            for pid in String::from_utf8_lossy(&pids.unwrap().stdout).lines() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
            let _ = Command::new("ip").args(["netns", "del", &space]).status();
        }
    }
}

/// Follows the page; when it is done, a call between two hosts was decided and recorded
/// on both sides, and what it promises about refusals holds.
#[test]
#[ignore = "needs root, iproute2 and curl; .ci/run runs it by name"]
fn three_hosts_as_the_page_says() {
    let hosts = Hosts::new();
    for block in blocks() {
        match &block.file {
            Some(file) => fs::write(hosts.home(&block.host).join(file), &block.text).unwrap(),
            None => drop(hosts.run(&block.host, &block.text)),
        }
    }
    decided_on_both_sides(&hosts);
    the_control_plane_is_cut_off(&hosts);
    a_service_is_cut_off(&hosts);
    used_tokens_are_refused(&hosts);
    a_host_comes_back_by_its_key(&hosts);
    a_banned_host_stays_out(&hosts);
}

fn decided_on_both_sides(hosts: &Hosts) {
    for (query, why) in [
        (
            "principal:sa/web service:shop/orders decision:allow",
            "host 3 decided",
        ),
        (
            "principal:sa/orders service:shop/web decision:deny",
            "host 2 decided",
        ),
    ] {
        support::wait_for(why, support::LIMIT, || {
            let found = hosts.json(
                "host-1",
                &format!("palisade audit search 'class:decision last:1h {query}'"),
            );
            (!found["rows"].as_array()?.is_empty()).then_some(())
        });
    }
}

/// Nobody reaches host 1: what was permitted goes on, what was not is refused, a policy
/// that is made meanwhile waits, and the records wait on host 3.
fn the_control_plane_is_cut_off(hosts: &Hosts) {
    let before = settled_decisions(hosts);
    let begun = tally(hosts);
    start_calls(hosts);
    let quiet = wait_for_calls(hosts, 60);
    hosts.cable("host-1", "down");
    let policy = hosts.home("host-1").join("policies/policies/freeze.cedar");
    fs::write(&policy, FREEZE).unwrap();
    let until = Instant::now() + CUT;
    while Instant::now() < until {
        let now = wait_for_calls(hosts, 60);
        let statuses = |t: &Tally| t.answered.keys().copied().collect::<Vec<_>>();
        assert_eq!(statuses(&now), statuses(&quiet), "{now:?}");
    }
    hosts.run("host-2", "curl -sf -X POST http://127.0.0.1:8080/-/pause");
    let mut ended = tally(hosts);
    support::wait_for("the last answers", support::LIMIT, || {
        ended = tally(hosts);
        (ended.answered.values().sum::<u64>() == ended.sent).then_some(())
    });
    hosts.cable("host-1", "up");
    // Two of the six calls in turn are to a service that nobody has here.
    let sent = ended.sent - begun.sent;
    let to_nobody = sent / 6 * 2 + u64::from(sent % 6 > 1) + u64::from(sent % 6 > 4);
    let expected = before + sent - to_nobody;
    support::wait_for("what was recorded meanwhile", support::LIMIT, || {
        (decisions(hosts)? >= expected).then_some(())
    });
    assert_eq!(settled_decisions(hosts), expected);
    status_is(hosts, "403");
    fs::remove_file(&policy).unwrap();
    status_is(hosts, "200");
    hosts.run("host-1", "palisade audit verify");
}

/// Nobody reaches host 3: its callers are told so, and find it again.
fn a_service_is_cut_off(hosts: &Hosts) {
    hosts.cable("host-3", "down");
    let begun = Instant::now();
    let status = ask_orders(hosts);
    assert!(["502", "503", "504"].contains(&&*status), "{status}");
    assert!(begun.elapsed() < CALL_LIMIT, "{:?}", begun.elapsed());
    hosts.cable("host-3", "up");
    status_is(hosts, "200");
}

/// Answers that `web` got since it was started.
fn tally(hosts: &Hosts) -> Tally {
    let printed = hosts.run("host-2", "curl -sf http://127.0.0.1:8080/-/tally");
    serde_json::from_str(&printed).unwrap()
}

fn start_calls(hosts: &Hosts) {
    hosts.run(
        "host-2",
        r#"curl -sf -H 'content-type: application/json' -d '{"outbound": "127.0.0.1:15001", "rate": 60}' http://127.0.0.1:8080/-/start"#,
    );
}

/// Waits until web has sent `n` calls more; every one has to be answered.
fn wait_for_calls(hosts: &Hosts, n: u64) -> Tally {
    let from = tally(hosts).sent;
    support::wait_for("calls that go on", support::LIMIT, || {
        let now = tally(hosts);
        assert_eq!(now.failed, 0, "{now:?}");
        (now.sent >= from + n).then_some(now)
    })
}

/// Status of a read that is permitted, as `web` gets it.
fn ask_orders(hosts: &Hosts) -> String {
    let ask =
        r#"curl -s -o /dev/null -w "%{http_code}" -H "Host: orders" http://127.0.0.1:15001/orders"#;
    hosts.run("host-2", ask)
}

fn status_is(hosts: &Hosts, status: &str) {
    support::wait_for(status, support::LIMIT, || {
        (ask_orders(hosts) == status).then_some(())
    });
}

/// Decisions about calls of `web` to `orders`; none while the log is behind.
fn decisions(hosts: &Hosts) -> Option<u64> {
    let found = hosts.json(
        "host-1",
        "palisade audit search 'class:decision last:1h principal:sa/web service:shop/orders | count'",
    );
    (found["complete"] == true && found["behind"] == 0).then_some(())?;
    found["total"].as_u64()
}

/// The same, once nothing is on its way any more.
fn settled_decisions(hosts: &Hosts) -> u64 {
    let mut before = None;
    support::wait_for("a log that rests", support::LIMIT, || {
        std::thread::park_timeout(Duration::from_millis(500));
        let now = decisions(hosts);
        let rests = now.is_some() && now == before;
        before = now;
        rests.then_some(now).flatten()
    })
}

fn used_tokens_are_refused(hosts: &Hosts) {
    let again = hosts.run(
        "host-3",
        "cp ../palisade/agent.yaml second.yaml; echo 'state_dir: second' >> second.yaml
         scp host-1:/srv/palisade/host-2.token join-token
         palisade run agent --config second.yaml && exit 1; rm join-token",
    );
    assert!(again.contains("PLS4112"), "{again}");
    let facts = hosts.json("host-1", "palisade check");
    let codes: Vec<u64> = facts
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|f| f["code"].as_u64())
        .collect();
    assert!(codes.contains(&4112), "{facts}");
}

/// Its certificate is thrown away, as if it had ended long ago; the key is still there.
fn a_host_comes_back_by_its_key(hosts: &Hosts) {
    stop_agent(hosts, "host-2");
    let file = hosts.home("host-2").join("state/node/node.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    kept["chain"] = Value::Array(Vec::new());
    fs::write(&file, kept.to_string()).unwrap();
    hosts.run(
        "host-2",
        "rm -f state/agent.sock; palisade run agent --config agent.yaml &
         until test -S state/agent.sock; do sleep 0.2; done",
    );
}

fn a_banned_host_stays_out(hosts: &Hosts) {
    hosts.run("host-1", "palisade join node ban host-3 --reason lost");
    stop_agent(hosts, "host-3");
    let file = hosts.home("host-3").join("state/node/node.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    kept["chain"] = Value::Array(Vec::new());
    fs::write(&file, kept.to_string()).unwrap();
    let refused = hosts.run(
        "host-3",
        "palisade run agent --config agent.yaml && exit 1; true",
    );
    assert!(refused.contains("PLS4106"), "{refused}");
}

fn stop_agent(hosts: &Hosts, host: &str) {
    let pids = system("ip", &["netns", "pids", &hosts.space(host)]);
    let agent = pids.lines().find(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("run\0agent")
    });
    let pid = agent.expect("an agent runs").to_owned();
    system("kill", &[&pid]);
    support::wait_for("the agent's end", support::LIMIT, || {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty().then_some(())
    });
}
