//! Cerbos as it is run: its server, asked over loopback, one call after the other. Its CPU is
//! that of its process.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::workload::{Load, PER_SERVICE, namespace, service_id, workload};

/// Where it listens.
const ADDRESS: &str = "127.0.0.1:13592";
/// Turns, and how long one is: the kernel counts its CPU in hundredths of a second.
const ROUNDS: usize = 3;
const TURN: Duration = Duration::from_secs(3);
/// Nanoseconds of a tick.
const TICK_NS: f64 = 10_000_000.0;

/// Nanoseconds of the server's CPU for each check, in each turn.
pub fn run(server: &Path, n: usize, load: &Load) -> Vec<f64> {
    let dir = env::temp_dir().join(format!("palisade-bench-cerbos-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let server = Server::start(server, &dir, (n / PER_SERVICE).max(4));
    let body = body(load);
    let mut stream = TcpStream::connect(ADDRESS).expect("it listens");
    stream.set_nodelay(true).expect("a socket option");
    let answer = ask(&mut stream, &body);
    assert!(answer.contains("EFFECT_ALLOW"), "{answer}");
    for _ in 0..200 {
        ask(&mut stream, &body);
    }
    let turns = (0..ROUNDS).map(|_| {
        let (begun, before, mut asked) = (Instant::now(), server.ticks(), 0_u32);
        while begun.elapsed() < TURN {
            ask(&mut stream, &body);
            asked += 1;
        }
        (server.ticks() - before) as f64 * TICK_NS / f64::from(asked)
    });
    let found = turns.collect();
    drop(server);
    let _ = fs::remove_dir_all(&dir);
    found
}

struct Server(Child);

impl Server {
    fn start(program: &Path, dir: &Path, services: usize) -> Self {
        let policies = dir.join("policies");
        fs::create_dir_all(&policies).expect("a folder");
        for k in 0..services {
            fs::write(policies.join(format!("s{k}.yaml")), policy(k)).expect("a file");
        }
        let config: PathBuf = dir.join("conf.yaml");
        let text = format!(
            "server:\n  httpListenAddr: \"{ADDRESS}\"\n  grpcListenAddr: \"127.0.0.1:13593\"\n\
             storage:\n  driver: disk\n  disk:\n    directory: {}\ntelemetry:\n  disabled: true\n",
            policies.display()
        );
        fs::write(&config, text).expect("a file");
        let child = Command::new(program)
            .args(["server", "--log-level=error", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("CERBOS is its program");
        let limit = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(ADDRESS).is_err() {
            assert!(Instant::now() < limit, "Cerbos does not listen");
            sleep(Duration::from_millis(100));
        }
        Self(child)
    }

    /// User and system time of the process.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs");
        let after = stat.rsplit(") ").next().expect("a name");
        let fields: Vec<&str> = after.split(' ').collect();
        let of = |i: usize| fields[i].parse::<u64>().expect("a number");
        of(11) + of(12)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The five policies of service `k` as one resource policy.
fn policy(k: usize) -> String {
    let (named, member, peers) = (workload(k + 1), service_id(k + 2), namespace(k + 1));
    let path = "request.resource.attr.path.startsWith(\"/orders/\")";
    let kind = service_id(k);
    let rules = [
        rule("GET", "ALLOW", "workload", &[&format!("request.principal.id == \"{named}\"")]),
        rule("GET", "ALLOW", "workload", &[&format!("request.principal.attr.service == \"{member}\""), path]),
        rule(
            "POST",
            "ALLOW",
            "workload",
            &[
                &format!("request.principal.attr.namespace == \"{peers}\""),
                path,
                "request.resource.attr.ip.inIPAddrRange(\"10.0.0.0/8\")",
            ],
        ),
        rule("*", "ALLOW", "batch", &["request.resource.attr.hour >= 8", "request.resource.attr.hour < 18"]),
        rule("POST", "DENY", "*", &["!request.resource.attr.changeId.startsWith(\"CHG-\")"]),
    ];
    format!(
        "apiVersion: api.cerbos.dev/v1\nresourcePolicy:\n  version: default\n  resource: \"{kind}\"\n  rules:\n{}",
        rules.concat()
    )
}

/// One rule whose expressions must all hold; Cerbos wants quotation marks in blocks.
fn rule(action: &str, effect: &str, role: &str, all: &[&str]) -> String {
    let of: String = all.iter().map(|e| format!("              - expr: |-\n                  {e}\n")).collect();
    format!(
        "    - actions: [\"{action}\"]\n      effect: EFFECT_{effect}\n      roles: [\"{role}\"]\n      condition:\n        match:\n          all:\n            of:\n{of}"
    )
}

fn body(load: &Load) -> String {
    let caller = load.service + 2;
    serde_json::json!({
        "requestId": "1",
        "principal": {
            "id": load.connection.peer.id.as_str(),
            "roles": ["workload"],
            "attr": {"service": service_id(caller), "namespace": namespace(caller)},
        },
        "resources": [{
            "actions": ["GET"],
            "resource": {
                "kind": service_id(load.service),
                "id": "read",
                "attr": {"path": load.request.path.as_str(), "ip": "10.1.2.3", "hour": 15, "changeId": "CHG-1234"},
            },
        }],
    })
    .to_string()
}

/// One call and its answer.
fn ask(stream: &mut TcpStream, body: &str) -> String {
    let head = format!(
        "POST /api/check/resources HTTP/1.1\r\nHost: cerbos\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(body.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let n = stream.read(&mut chunk).expect("it answers");
        assert!(n > 0, "it closed the connection");
        answer.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|l| l.strip_prefix("content-length:"));
            let length: usize = length.expect("a length").trim().parse().expect("a number");
            if rest.len() >= length {
                return rest.to_owned();
            }
        }
    }
}
