//! A proxy as a service: what it tells the service manager, who can wait for it, the
//! application as its child, and what its admin port counts.

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
    io::ErrorKind,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use palisade_mesh::spiffe_id::SpiffeId;
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use support::{Home, LIMIT, authority::Authority, free_port, http, wait_for};

const DOMAIN: &str = "demo.test";
const ORDERS: &str = "ns/shop/sa/orders";
const WEB: &str = "ns/shop/sa/web";

/// A home with the configuration of a proxy, and its addresses.
struct Proxy {
    home: Home,
    authority: Authority,
    inbound: SocketAddr,
    admin: SocketAddr,
    upstream: SocketAddr,
}

impl Proxy {
    /// Policy comes from `policy`, a line of the configuration.
    fn new(policy: &str) -> Self {
        let home = Home::new();
        let authority = Authority::new(DOMAIN);
        authority.write(&authority.leaf(ORDERS), &home.path("identity"));
        support::copy(&support::sample_policies(), &home.path("policies"));
        let (inbound, admin, upstream) = (free_port(), free_port(), free_port());
        let text = format!(
            "trust_domain: {DOMAIN}\nproxy:\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  policy: {{ {policy} }}\n  records: {{ log: log }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"{upstream}\" }}\n  outbound: {{ listen: \"127.0.0.1:0\" }}\n  admin: {{ listen: \"{admin}\" }}\n"
        );
        fs::write(home.path("proxy.yaml"), text).unwrap();
        Self {
            home,
            authority,
            inbound,
            admin,
            upstream,
        }
    }

    fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Waits for the proxy; gives the exit code.
    fn wait(&self, more: &[&str]) -> Option<i32> {
        let url = self.admin_url();
        let args = [&["wait", "--admin", &url][..], more].concat();
        self.home.run(&args).status.code()
    }

    fn get(&self, path: &str) -> http::Reply {
        let mut stream = http::connect(self.admin).unwrap();
        http::exchange(&mut stream, "GET", "localhost", path, "").unwrap()
    }

    /// Sends a request as web, over TLS.
    fn send(&self, path: &str) -> http::Reply {
        let caller = self.authority.trusting(&self.authority.leaf(WEB));
        let orders = SpiffeId::parse(&format!("spiffe://{DOMAIN}/{ORDERS}")).unwrap();
        let config = caller.client_config(&[orders], &[b"http/1.1"]);
        let name = ServerName::IpAddress(self.inbound.ip().into());
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(session, http::connect(self.inbound).unwrap());
        http::exchange(&mut stream, "GET", "orders", path, "").unwrap()
    }
}

/// A service manager's end of the socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        Self(socket)
    }

    /// The next thing told, if any comes in time.
    fn told(&self) -> Option<String> {
        let mut buffer = [0; 1024];
        match self.0.recv(&mut buffer) {
            Ok(len) => Some(String::from_utf8_lossy(&buffer[..len]).into_owned()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("{e}"),
        }
    }

    fn expects(&self, beginning: &str) {
        wait_for(beginning, LIMIT, || {
            self.told().filter(|t| t.starts_with(beginning))
        });
    }
}

fn start(proxy: &Proxy, manager: &Path) -> Child {
    proxy
        .home
        .palisade(&["run", "proxy", "--config", "proxy.yaml"])
        .env("NOTIFY_SOCKET", manager)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn a_service_manager_hears_of_every_turn() {
    let proxy = Proxy::new("folder: policies");
    let path = proxy.home.path("notify");
    let manager = Manager::new(&path);
    let mut child = start(&proxy, &path);
    manager.expects("READY=1");
    assert_eq!(proxy.wait(&["--timeout", "0s"]), Some(0));
    manager.expects("WATCHDOG=1");
    signal(&child, Signal::SIGHUP);
    manager.expects("WATCHDOG=1");
    assert_eq!(proxy.wait(&["--timeout", "0s"]), Some(0));
    signal(&child, Signal::SIGTERM);
    manager.expects("STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The manager watches the main process: after an upgrade that is the successor, whose
/// environment still names the process before.
#[test]
fn a_successor_gives_signs_of_life() {
    let proxy = Proxy::new("folder: policies");
    let file = proxy.home.path("proxy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let audit = free_port();
    fs::write(
        &file,
        text.replace("log: log", &format!("audit: \"{audit}\"")),
    )
    .unwrap();
    let path = proxy.home.path("notify");
    let manager = Manager::new(&path);
    let mut first = proxy
        .home
        .palisade(&["run", "proxy", "--config", "proxy.yaml"]);
    let program = first.get_program().to_owned();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""])
        .arg(program)
        .args(first.get_args());
    for (name, value) in first.get_envs().filter_map(|(n, v)| Some((n, v?))) {
        shell.env(name, value);
    }
    if let Some(folder) = first.get_current_dir() {
        shell.current_dir(folder);
    }
    first = shell;
    let mut child = first
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    manager.expects("READY=1");
    manager.expects("WATCHDOG=1");
    signal(&child, Signal::SIGUSR2);
    let told = wait_for("a successor", LIMIT, || {
        manager.told().filter(|t| t.starts_with("MAINPID="))
    });
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // What the process before has said.
    while manager.told().is_some() {}
    manager.expects("WATCHDOG=1");
    let pid = told.lines().next().unwrap().trim_start_matches("MAINPID=");
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGTERM).unwrap();
    manager.expects("STOPPING=1");
}

/// Without a snapshot every request is refused, so nobody is told that it is ready.
#[test]
fn without_policy_a_proxy_is_not_ready() {
    let nobody = free_port();
    let proxy = Proxy::new(&format!("pdp: \"{nobody}\""));
    let path = proxy.home.path("notify");
    let manager = Manager::new(&path);
    let mut child = start(&proxy, &path);
    manager.expects("STATUS=waiting");
    wait_for("the admin port", LIMIT, || http::connect(proxy.admin).ok());
    let said = proxy.home.says(
        &["wait", "--admin", &proxy.admin_url(), "--timeout", "300ms"],
        7,
    );
    assert!(
        said.contains("PLS9201") && said.contains("no policy snapshot"),
        "{said}"
    );
    while let Some(told) = manager.told() {
        assert!(!told.contains("READY"), "{told}");
    }
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// An agent by itself is ready when it has heard the authority, in another process.
#[test]
fn an_agent_is_ready_when_it_knows_whom_to_trust() {
    let home = Home::new();
    let audit = free_port();
    let text = format!(
        "trust_domain: {DOMAIN}\nca: {{}}\nagent: {{}}\naudit: {{ listen: \"{audit}\" }}\n"
    );
    fs::write(home.path("mesh.yaml"), text).unwrap();
    let path = home.path("notify");
    let manager = Manager::new(&path);
    let mut agent = home
        .palisade(&["run", "agent", "--config", "mesh.yaml"])
        .env("NOTIFY_SOCKET", &path)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    manager.expects("STATUS=waiting");
    assert_eq!(manager.told(), None, "without an authority");
    let _ca = home.start("ca", &["run", "ca", "--config", "mesh.yaml"]);
    manager.expects("READY=1");
    home.says(&["wait", "--role", "ca", "--role", "agent"], 0);
    signal(&agent, Signal::SIGHUP);
    manager.expects("RELOADING=1");
    manager.expects("READY=1");
    signal(&agent, Signal::SIGTERM);
    assert_eq!(agent.wait().unwrap().code(), Some(0));
}

#[test]
fn nobody_waits_longer_than_asked() {
    let proxy = Proxy::new("folder: policies");
    let begun = Instant::now();
    assert_eq!(proxy.wait(&["--timeout", "0s"]), Some(7));
    let said = proxy.home.says(&["wait", "--timeout", "200ms"], 7);
    assert!(said.contains("no mesh is running"), "{said}");
    assert!(begun.elapsed() < LIMIT);
    assert_eq!(
        proxy.home.run(&["wait", "--timeout", "soon"]).status.code(),
        Some(2)
    );
}

/// The application starts when the proxy can decide, knows where to go, and its end is
/// the proxy's.
#[test]
fn a_command_runs_beside_a_ready_proxy_and_ends_it() {
    let proxy = Proxy::new("folder: policies");
    let script = format!(
        "echo \"proxy=$HTTP_PROXY notify=$NOTIFY_SOCKET\"; {} wait --admin {} --timeout 0s; exit 42",
        env!("CARGO_BIN_EXE_palisade"),
        proxy.admin_url()
    );
    let manager = Manager::new(&proxy.home.path("notify"));
    let args = [
        "run",
        "proxy",
        "-c",
        "proxy.yaml",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let output = proxy
        .home
        .palisade(&args)
        .env("NOTIFY_SOCKET", proxy.home.path("notify"))
        .output()
        .unwrap();
    let said = support::said(&output);
    assert_eq!(output.status.code(), Some(42), "{said}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("proxy=http://127.0.0.1:"), "{said}");
    assert!(printed.contains("notify=\nready"), "{said}");
    manager.expects("READY=1");
}

#[test]
fn signals_go_on_to_the_command() {
    let proxy = Proxy::new("folder: policies");
    let done = proxy.home.path("done");
    let script = format!(
        "trap 'echo hup >> {0}' HUP; trap 'echo term >> {0}; exit 7' TERM; echo started > {0}; while :; do sleep 0.05; done",
        done.display()
    );
    let args = [
        "run",
        "proxy",
        "-c",
        "proxy.yaml",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut child = proxy
        .home
        .palisade(&args)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let read = || fs::read_to_string(&done).unwrap_or_default();
    wait_for("the command", LIMIT, || {
        read().contains("started").then_some(())
    });
    signal(&child, Signal::SIGHUP);
    wait_for("a hang-up", LIMIT, || read().contains("hup").then_some(()));
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(read().matches("term").count(), 1);
}

/// The proxy ends with its command, so that is asked to end; and it cannot be replaced.
#[test]
fn a_proxy_beside_a_command_answers_orders() {
    let proxy = Proxy::new("folder: policies");
    let script = "trap 'exit 7' TERM; echo started; while :; do sleep 0.05; done";
    let args = ["run", "proxy", "-c", "proxy.yaml", "--", "sh", "-c", script];
    let mut running = proxy.home.start("beside", &args);
    wait_for("the command", LIMIT, || {
        running.printed().contains("started").then_some(())
    });
    let said = proxy.home.says(&["proxy", "upgrade", "proxy"], 1);
    assert!(said.contains("PLS5323"), "{said}");
    proxy.home.says(&["proxy", "drain", "proxy"], 0);
    let ended = wait_for("the end", LIMIT, || running.ended());
    assert_eq!(ended.code(), Some(7), "{}", running.printed());
}

#[test]
fn a_command_that_is_not_there_is_told() {
    let proxy = Proxy::new("folder: policies");
    let args = ["run", "proxy", "-c", "proxy.yaml", "--", "/no/such/command"];
    assert!(proxy.home.says(&args, 1).contains("PLS9212"));
    let args = ["run", "agent", "-c", "proxy.yaml", "--", "true"];
    assert!(proxy.home.says(&args, 3).contains("PLS9212"));
}

/// Names of metrics on a reference page or in a scrape.
fn metrics(text: &str, before: &str, after: char) -> BTreeSet<String> {
    let named = text.lines().filter_map(|l| l.strip_prefix(before));
    named
        .filter_map(|rest| rest.split(after).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Every metric of a live scrape is on the page, and every one of the page is counted
/// somewhere in the proxy.
#[test]
fn the_reference_of_metrics_is_complete() {
    let proxy = Proxy::new("folder: policies");
    let path = proxy.home.path("notify");
    let manager = Manager::new(&path);
    let mut child = start(&proxy, &path);
    manager.expects("READY=1");
    // Allowed, with nobody behind it; and denied.
    assert_eq!(proxy.send("/orders").status, 502, "{}", proxy.upstream);
    assert_eq!(proxy.send("/nothing/of/the/kind").status, 403);
    assert_eq!(proxy.wait(&["--for", "decision"]), Some(0));
    let scrape = proxy.get("/metrics").body;
    signal(&child, Signal::SIGTERM);
    child.wait().unwrap();
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md"))
            .unwrap();
    let (mut told, seen) = (metrics(&page, "| `", '`'), metrics(&scrape, "# TYPE ", ' '));
    // Those of the PDP and of the audit service, of the same page.
    told.retain(|name| {
        let others = [
            "palisade_decision_api_",
            "palisade_log_",
            "palisade_archive_",
        ];
        !others.iter().any(|of| name.starts_with(of))
    });
    assert!(seen.len() > 8, "{scrape}");
    let missing: Vec<_> = seen.difference(&told).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
    let source = Command::new("grep")
        .args(["-rhoE", "\"(palisade|http)_[a-z0-9_]+\"", "proxy/src"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let source = String::from_utf8_lossy(&source.stdout).into_owned();
    let counted: BTreeSet<String> = source
        .lines()
        .map(|l| l.trim_matches('"').to_owned())
        .collect();
    let stale: Vec<_> = told.difference(&counted).collect();
    assert!(stale.is_empty(), "nothing counts: {stale:?}");
    let untold: Vec<_> = counted
        .iter()
        .filter(|n| n.ends_with("_total") || n.ends_with("_seconds") || n.ends_with("_info"))
        .filter(|n| !told.contains(*n))
        .collect();
    assert!(untold.is_empty(), "not on the page: {untold:?}");
}

/// A page for every command, and a completion for every shell.
#[test]
fn manual_pages_and_completions_cover_every_command() {
    let home = Home::new();
    home.says(&["man", "man"], 0);
    let there = |name: &str| {
        let text = fs::read_to_string(home.path("man").join(name));
        text.unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let help = home.says(&["--help"], 0);
    let commands = help.split("Commands:").nth(1).unwrap();
    let names: Vec<&str> = commands
        .lines()
        .skip(1)
        .take_while(|l| !l.trim().is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|n| *n != "help")
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let page = there(&format!("palisade-{name}.1"));
        assert!(
            page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
            "{name}"
        );
    }
    there("palisade-config-check.1");
    assert!(there("palisade.1").contains("Exit codes"));
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = home.run(&["completion", shell]).stdout;
        let script = String::from_utf8_lossy(&script);
        for name in &names {
            assert!(script.contains(name), "{name} in {shell}");
        }
    }
}

/// Whenever it is told to end, also while it starts, a process does.
#[test]
fn a_signal_is_heard_whenever_it_comes() {
    let proxy = Proxy::new("folder: policies");
    let audit = Home::new();
    support::lone::configure(&audit, "");
    for wait in (0..24).map(|n| Duration::from_millis(12 * n)) {
        for (home, role) in [(&proxy.home, "proxy"), (&audit, "audit")] {
            let config = format!("{role}.yaml");
            let mut running = home.start(role, &["run", role, "--config", &config]);
            std::thread::sleep(wait);
            running.end();
        }
    }
}
