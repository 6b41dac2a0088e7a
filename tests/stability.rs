//! What a proxy stands: no control plane, its own restart and replacement, another
//! configuration, false files on its disk.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use support::{
    Home, LIMIT,
    demo::one_at_a_time,
    mesh::{Separate, pause, rotate, to_orders},
    wait_for,
};

/// Calls of web per second, to orders and, where nobody listens, to inventory.
const RATE: f64 = 60.0;
const PLANE: [&str; 4] = ["ca", "agent", "pdp", "audit"];

/// Everything but the proxies dies for half of a certificate's life and comes back.
#[test]
fn half_a_leaf_s_life_without_a_control_plane() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready_with(&home, "30s", "", "");
    let before = decided(&home, 1);
    mesh.start_calls(RATE);
    wait_for("fresh certificates", LIMIT, || {
        let left = |name| {
            let ends = proxy(&home, name)?["svid_not_after_s"].as_i64()?;
            Some(ends - jiff::Timestamp::now().as_second())
        };
        (left("web-1")? >= 27 && left("orders-1")? >= 27).then_some(())
    });
    for role in PLANE {
        mesh.kill(role);
    }
    let denied = |mesh: &Separate<'_>| assert_eq!(mesh.get("/nowhere"), Some(403));
    let mut asked = 0;
    let until = std::time::Instant::now() + Duration::from_secs(15);
    while std::time::Instant::now() < until {
        mesh.wait_for_calls(60);
        denied(&mesh);
        asked += 1;
    }
    for role in PLANE {
        mesh.start(role);
    }
    let renewed = jiff::Timestamp::now().as_second() + 20;
    wait_for("certificates are renewed", LIMIT, || {
        let ends = |name| proxy(&home, name)?["svid_not_after_s"].as_i64();
        (ends("web-1")? > renewed && ends("orders-1")? > renewed).then_some(())
    });
    mesh.wait_for_calls(60);
    let tally = pause(&mesh);
    all_are_there_once(&home, before + to_orders(&tally) + asked);
}

/// Policy, endpoints and certificate come from the disk; nobody else is there.
#[test]
fn a_proxy_restarts_alone() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    for role in PLANE {
        mesh.kill(role);
    }
    for proxy in ["proxy-orders", "proxy-web"] {
        mesh.end(proxy);
        mesh.start(proxy);
        mesh.wait_until_ready();
    }
    assert_eq!(mesh.get("/nowhere"), Some(403));
    let key = fs::metadata(home.path("state-orders/svid.json")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777,
        0o600
    );
    // What somebody else kept is not ours.
    mesh.end("proxy-orders");
    fs::copy(
        home.path("state-web/svid.json"),
        home.path("state-orders/svid.json"),
    )
    .unwrap();
    mesh.start("proxy-orders");
    wait_for("a word about it", LIMIT, || {
        log(&home, "proxy-orders").contains("PLS5304").then_some(())
    });
    assert_ne!(mesh.get("/orders"), Some(200));
    for role in PLANE {
        mesh.start(role);
    }
    mesh.wait_until_ready();
}

/// Beyond its limit a snapshot decides nothing, also after a restart, until the PDP
/// confirms it.
#[test]
fn a_snapshot_is_good_until_its_limit() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready_with(&home, "1h", "  stale_after: 3s\n", "");
    mesh.start_calls(RATE);
    mesh.wait_for_calls(300);
    let tally = pause(&mesh);
    to_orders(&tally);
    mesh.kill("pdp");
    let stale = || {
        let (status, reason) = mesh_get(&mesh);
        (status == 503 && reason == "snapshot_stale").then_some(())
    };
    assert_eq!(mesh.get("/orders"), Some(200));
    wait_for("a stale snapshot", LIMIT, stale);
    let said = support::said(&home.run(&["check"]));
    assert!(said.contains("PLS5312"), "{said}");
    assert_eq!(proxy(&home, "orders-1").unwrap()["stale"], true);
    mesh.end("proxy-orders");
    mesh.start("proxy-orders");
    wait_for("an answer after the restart", LIMIT, || {
        let (status, reason) = mesh_get(&mesh);
        assert_ne!(status, 200);
        (reason == "snapshot_stale").then_some(())
    });
    mesh.start("pdp");
    mesh.wait_until_ready();
}

/// New workers, a new limit: no call fails. A mistake, and a key that is fixed, change
/// nothing and are told.
#[test]
fn another_configuration_costs_no_request() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mesh = Separate::ready(&home);
    let file = home.path("proxy-orders.yaml");
    let first = fs::read_to_string(&file).unwrap();
    let in_force = || {
        let config = home.json(&["proxy", "config", "orders-1"]);
        (config["listeners"]["workers"].as_u64().unwrap(), config)
    };
    let pid = pid(&home, "orders-1");
    mesh.start_calls(RATE);
    for workers in [2, 1, 3] {
        mesh.wait_for_calls(60);
        fs::write(
            &file,
            first.replace("workers: 1", &format!("workers: {workers}")),
        )
        .unwrap();
        wait_for("the new configuration", LIMIT, || {
            (in_force().0 == workers).then_some(())
        });
    }
    let wrong = [
        (first.replace("workers: 1", "wrokers: 1"), "PLS8003"),
        (first.replace("orders-1", "orders-9"), "PLS5311"),
    ];
    for (text, code) in wrong {
        fs::write(&file, text).unwrap();
        wait_for("a word about the mistake", LIMIT, || {
            let said = support::said(&home.run(&["check"]));
            (said.contains("PLS5310") && said.contains(code)).then_some(())
        });
        assert_eq!(in_force().0, 3);
    }
    // By signal, without waiting for anybody to look at the file.
    fs::write(&file, &first).unwrap();
    signal(pid, Signal::SIGHUP);
    wait_for("the first configuration", LIMIT, || {
        let (workers, config) = in_force();
        (workers == 1 && config["rejected"] == serde_json::json!([])).then_some(())
    });
    mesh.wait_for_calls(60);
    to_orders(&pause(&mesh));
    assert_eq!(self::pid(&home, "orders-1"), pid);
}

/// A second instance takes over while the first one drains; a request that takes long
/// is answered before it ends.
#[test]
fn a_drain_costs_no_request() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    let app = slow_app();
    let file = home.path("proxy-orders.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let upstream = mesh.app("orders").to_string();
    fs::write(&file, text.replace(&upstream, &app.to_string())).unwrap();
    wait_for("the slow application", LIMIT, || {
        let config = home.json(&["proxy", "config", "orders-1"]);
        (config["listeners"]["inbound"]["upstream"] == app.to_string()).then_some(())
    });
    thread::scope(|scope| {
        let long = scope.spawn(|| mesh.get("/orders?slow"));
        wait_for("a request in flight", LIMIT, || SLOW.lock().unwrap().pop());
        // Nobody may find the second one before it can decide.
        mesh.start_calls(RATE);
        let _second = mesh.start_second_orders();
        wait_for("two endpoints", LIMIT, || {
            let pdp = &home.json(&["status"])["pdp"][0]["proxies"];
            let two = pdp
                .as_array()?
                .iter()
                .filter(|p| p["sequence"] != 0)
                .count()
                == 3;
            (two && proxy(&home, "orders-2")?["connected"] == true).then_some(())
        });
        mesh.wait_for_calls(60);
        home.says(&["proxy", "drain", "orders-1", "--deadline", "20s"], 0);
        wait_for("a word of the drain", LIMIT, || {
            let said = support::said(&home.run(&["status", "-o", "json"]));
            said.contains("\"draining\": true").then_some(())
        });
        mesh.wait_for_calls(60);
        assert_eq!(long.join().unwrap(), Some(200));
        mesh.wait_for_calls(60);
        to_orders(&pause(&mesh));
    });
    let (code, said) = mesh.wait_for_end("proxy-orders");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("drained cut=0 flushed=true"), "{said}");
}

/// A new process with the old sockets: no call fails, no record is lost. A binary that
/// is none changes nothing.
#[test]
fn an_upgrade_costs_no_request() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    let before = decided(&home, 1);
    mesh.start_calls(RATE);
    mesh.wait_for_calls(60);
    let mut successors = Vec::new();
    for (name, process) in [("orders-1", "proxy-orders"), ("web-1", "proxy-web")] {
        let old = pid(&home, name);
        let said = home.says(&["proxy", "upgrade", name, "--binary", "/bin/false"], 1);
        assert!(said.contains("PLS5324"), "{said}");
        let said = home.says(&["proxy", "upgrade", name, "--binary", "/nowhere"], 1);
        assert!(said.contains("PLS5325"), "{said}");
        assert_eq!(pid(&home, name), old);
        mesh.wait_for_calls(60);
        home.says(&["proxy", "upgrade", name], 0);
        let new = pid(&home, name);
        successors.push(Successor(new));
        assert_ne!(new, old);
        mesh.wait_for_calls(60);
        let (code, said) = mesh.wait_for_end(process);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(pid(&home, name), new, "the socket is the new process's");
        mesh.wait_for_calls(60);
    }
    // And once more, from the process that took over, by signal.
    signal(successors[0].0, Signal::SIGUSR2);
    wait_for("the third process", LIMIT, || {
        let new = find_pid(&home, "orders-1").filter(|pid| *pid != successors[0].0)?;
        successors.push(Successor(new));
        Some(())
    });
    mesh.wait_for_calls(60);
    let tally = pause(&mesh);
    all_are_there_once(&home, before + to_orders(&tally));
    let said = home.says(&["proxy", "upgrade", "ordres-1"], 1);
    assert!(
        said.contains("PLS5330") && said.contains("orders-1"),
        "{said}"
    );
}

/// What the process before still carries is decided again like everything else.
#[test]
fn an_upgrade_keeps_nobody_in_who_is_allowed_no_more() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mesh = Separate::ready(&home);
    let app = slow_app();
    let file = home.path("proxy-orders.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let upstream = mesh.app("orders").to_string();
    fs::write(&file, text.replace(&upstream, &app.to_string())).unwrap();
    wait_for("the slow application", LIMIT, || {
        let config = home.json(&["proxy", "config", "orders-1"]);
        (config["listeners"]["inbound"]["upstream"] == app.to_string()).then_some(())
    });
    thread::scope(|scope| {
        let long = scope.spawn(|| mesh.get("/orders?slower"));
        wait_for("a request in flight", LIMIT, || SLOW.lock().unwrap().pop());
        home.says(&["proxy", "upgrade", "orders-1"], 0);
        let _successor = Successor(pid(&home, "orders-1"));
        let policy = home.path("policies/policies/orders.cedar");
        let text = fs::read_to_string(&policy).unwrap();
        let web = "principal in Service::\"demo.test/shop/web\"";
        assert!(text.contains(web));
        let nobody = text.replacen(web, &web.replace("/web", "/payments"), 1);
        fs::write(&policy, nobody).unwrap();
        assert_eq!(long.join().unwrap(), Some(403));
    });
}

/// The same at the rate the bars ask for.
#[test]
#[ignore = "by hand, on a machine with nothing else to do: cargo test --release --test stability -- --ignored --nocapture"]
fn two_thousand_a_second() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mesh = Separate::ready(&home);
    let file = home.path("proxy-orders.yaml");
    let first = fs::read_to_string(&file).unwrap();
    let begun = std::time::Instant::now();
    mesh.start_calls(2_000.0);
    for workers in [2, 1, 2] {
        mesh.wait_for_calls(4_000);
        let text = first.replace("workers: 1", &format!("workers: {workers}"));
        fs::write(&file, text).unwrap();
        wait_for("the new configuration", LIMIT, || {
            let config = home.json(&["proxy", "config", "orders-1"]);
            (config["listeners"]["workers"] == workers).then_some(())
        });
    }
    let mut successors = Vec::new();
    for name in ["orders-1", "web-1"] {
        mesh.wait_for_calls(4_000);
        home.says(&["proxy", "upgrade", name], 0);
        successors.push(Successor(pid(&home, name)));
    }
    mesh.wait_for_calls(4_000);
    for order in [["rotate", "issuer"], ["rotate", "root"]] {
        rotate(&home, &[&["ca"], &order[..]].concat());
        mesh.wait_for_calls(4_000);
    }
    let _second = mesh.start_second_orders();
    wait_for("a second proxy that is found", LIMIT, || {
        (proxy(&home, "orders-2")?["requests"].as_u64()? > 0).then_some(())
    });
    home.says(&["proxy", "drain", "orders-1"], 0);
    wait_for("the end of the first proxy", LIMIT, || {
        find_pid(&home, "orders-1").is_none().then_some(())
    });
    mesh.wait_for_calls(4_000);
    let tally = pause(&mesh);
    let rate = tally.sent as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} calls a second");
    to_orders(&tally);
}

/// What is on the disk must be what was last in force here, whole.
#[test]
fn forged_files_are_refused() {
    let _turn = one_at_a_time();
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    let policy = home.path("state-orders/policy");
    let (revision, word) = (policy.join("revision.pb"), policy.join("word.pb"));
    let (older, older_word) = (fs::read(&revision).unwrap(), fs::read(&word).unwrap());
    let rules = home.path("policies/policies/more.cedar");
    fs::write(
        &rules,
        "@id(\"more\")\npermit (principal, action, resource in Service::\"demo.test/shop/web\");\n",
    )
    .unwrap();
    // In force before it is kept, and the word is the last to be written.
    let (newer, good_word) = wait_for("a second revision on disk", LIMIT, || {
        let now = (fs::read(&revision).ok()?, fs::read(&word).ok()?);
        (now.0 != older && now.1 != older_word).then_some(now)
    });
    let mut damaged = newer.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    mesh.kill("pdp");
    let good: &[u8] = &good_word;
    let cases = [
        (older.as_slice(), Some(good), "PLS5301"),
        (&damaged, Some(good), "PLS300"),
        (&newer, None, "PLS5302"),
        (
            &newer,
            Some(b"no word of anybody, and far too long to be cut"),
            "PLS3007",
        ),
        (b"\xff\xff", Some(good), "PLS3007"),
    ];
    for (bytes, kept_word, code) in cases {
        mesh.end("proxy-orders");
        fs::write(&revision, bytes).unwrap();
        match kept_word {
            Some(bytes) => fs::write(&word, bytes).unwrap(),
            None => fs::remove_file(&word).unwrap(),
        }
        let _ = fs::remove_file(home.path("proxy-orders.log"));
        mesh.start("proxy-orders");
        wait_for("an answer", LIMIT, || {
            (mesh_get(&mesh) == (503, "no_snapshot".to_owned())).then_some(())
        });
        let said = log(&home, "proxy-orders");
        assert!(said.contains(code), "{code}: {said}");
    }
    let said = support::said(&home.run(&["check"]));
    assert!(said.contains("PLS5101"), "{said}");
    mesh.start("pdp");
    mesh.wait_until_ready();
}

/// A process that took the place of one that the test started.
struct Successor(i32);

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

static SLOW: std::sync::Mutex<Vec<()>> = std::sync::Mutex::new(Vec::new());

/// Answers at once, but what is asked with `slow` after four seconds, and with `slower`
/// after twenty.
fn slow_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(n) = stream.read(&mut buffer) {
                    if n == 0 {
                        return;
                    }
                    if String::from_utf8_lossy(&buffer[..n]).contains("?slow") {
                        SLOW.lock().unwrap().push(());
                        let slower = String::from_utf8_lossy(&buffer[..n]).contains("?slower");
                        let pause = Duration::from_secs(if slower { 20 } else { 4 });
                        thread::park_timeout(pause);
                    }
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn log(home: &Home, name: &str) -> String {
    fs::read_to_string(home.path(&format!("{name}.log"))).unwrap_or_default()
}

/// Status and reason of an answer to a GET of web to orders.
fn mesh_get(mesh: &Separate<'_>) -> (u16, String) {
    let reply = mesh.reply("/orders");
    reply.map_or((0, String::new()), |reply| {
        let reason = reply.header("palisade-refused").unwrap_or_default();
        (reply.status, reason.to_owned())
    })
}

/// What a proxy says of itself; none while it does not answer.
fn proxy(home: &Home, name: &str) -> Option<Value> {
    let output = home.run(&["proxy", "status", name, "-o", "json"]);
    output.status.success().then_some(())?;
    serde_json::from_slice(&output.stdout).ok()
}

fn pid(home: &Home, name: &str) -> i32 {
    find_pid(home, name).unwrap()
}

/// The process that answers as this proxy.
fn find_pid(home: &Home, name: &str) -> Option<i32> {
    let socket: PathBuf = home.path(&format!("run/palisade/demo.test.proxy-{name}.sock"));
    let about = support::http::over_unix(&socket, "/v1/about").ok()?;
    i32::try_from(about.json()["pid"].as_i64()?).ok()
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn decided(home: &Home, n: u64) -> u64 {
    wait_for("the first decisions", LIMIT, || {
        home.decisions().filter(|d| *d >= n)
    })
}

fn all_are_there_once(home: &Home, expected: u64) {
    let decisions = wait_for("every decision in the log", LIMIT, || {
        home.decisions().filter(|n| *n >= expected)
    });
    assert_eq!(decisions, expected);
    let rows = home.rows("class:decision last:1h").unwrap();
    let ids: BTreeSet<&str> = rows.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len() as u64, expected);
    home.says(&["audit", "verify"], 0);
}
