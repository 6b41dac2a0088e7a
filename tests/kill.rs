//! The kill list in a running mesh, each role a process of its own: from the command to
//! the connections that it ends, and over restarts.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::{
    body::Incoming, client::conn::http1::SendRequest, service::service_fn, upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use palisade::net::{
    identity::{self, IdentityConfig},
    tls,
};
use palisade_mesh::{
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Identity,
    wire::audit::{Batch, ingest_client::IngestClient},
};
use rustls_pki_types::ServerName;
use serde_json::Value;
use support::{Home, LIMIT, Running, free_port, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

const WEB: &str = "ns/shop/sa/web";
const REPORTS: &str = "ns/shop/sa/reports";
const ORDERS: &str = "ns/shop/sa/orders";
const ROLES: [&str; 4] = ["ca", "agent", "audit", "pdp"];
/// Everything open ends within a second of the command, which a loaded machine may
/// stretch.
const BOUND: Duration = Duration::from_secs(5);
const POLICY: &str = "@id(\"callers\")\n@owner(\"team-orders\")\npermit (\n  principal in Group::\"callers\",\n  action,\n  resource in Service::\"demo.test/shop/orders\"\n);\n";
const GROUPS: &str = "groups:\n  card-handlers:\n    services: [shop/payments]\n  callers:\n    services: [shop/web, shop/reports]\n";

fn id(path: &str) -> SpiffeId {
    TrustDomain::parse("demo.test").unwrap().id(path).unwrap()
}

/// Four processes of the control plane, and a proxy before an application of this
/// process, which calls it as `web` and as `reports`.
struct Stage<'h> {
    home: &'h Home,
    inbound: SocketAddr,
    audit: SocketAddr,
    processes: Vec<(&'static str, Running)>,
}

impl<'h> Stage<'h> {
    fn start(home: &'h Home, app: SocketAddr) -> Self {
        support::copy(&support::sample_policies(), &home.path("policies"));
        fs::write(home.path("policies/policies/orders.cedar"), POLICY).unwrap();
        fs::write(home.path("policies/entities/groups.yaml"), GROUPS).unwrap();
        let (inbound, pdp, audit) = (free_port(), free_port(), free_port());
        let this = fs::canonicalize(std::env::current_exe().unwrap()).unwrap();
        let named = home.path("bin/proxy-orders");
        let register = |path: &str, binary: &PathBuf| {
            format!(
                "    - spiffe_id: {}\n      selectors: [\"unix:path:{}\"]\n",
                id(path),
                binary.display()
            )
        };
        let registrations: String = [(WEB, &this), (REPORTS, &this), (ORDERS, &named)]
            .map(|(path, binary)| register(path, binary))
            .concat();
        let plane = format!(
            "trust_domain: demo.test\nstate_dir: state\nca:\n  registrations:\n{registrations}agent: {{}}\npdp:\n  policies: policies\n  listen: {pdp}\naudit:\n  listen: {audit}\n"
        );
        fs::write(home.path("mesh.yaml"), plane).unwrap();
        let agent = home.path("state/agent.sock");
        let proxy = format!(
            "trust_domain: demo.test\nstate_dir: state-orders\nproxy:\n  instance: orders-1\n  identity: {{ workload_api: \"unix://{}\" }}\n  policy: {{ pdp: \"{pdp}\" }}\n  records: {{ audit: \"{audit}\" }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"{app}\" }}\n",
            agent.display()
        );
        fs::write(home.path("proxy.yaml"), proxy).unwrap();
        fs::create_dir_all(named.parent().unwrap()).unwrap();
        if fs::hard_link(env!("CARGO_BIN_EXE_palisade"), &named).is_err() {
            fs::copy(env!("CARGO_BIN_EXE_palisade"), &named).unwrap();
        }
        let mut stage = Self {
            home,
            inbound,
            audit,
            processes: Vec::new(),
        };
        ROLES.into_iter().for_each(|role| stage.run(role));
        stage.run("proxy");
        stage
    }

    fn run(&mut self, name: &'static str) {
        let process = match name {
            "proxy" => {
                let binary = self.home.path("bin/proxy-orders");
                let args = ["run", "proxy", "--config", "proxy.yaml"];
                self.home.start_program(&binary, name, &args)
            }
            role => {
                let args = ["run", role, "--config", "mesh.yaml"];
                self.home.start(role, &args)
            }
        };
        self.processes.push((name, process));
    }

    fn kill(&mut self, name: &str) {
        let at = self.processes.iter().position(|(n, _)| *n == name).unwrap();
        self.processes.remove(at).1.kill();
    }

    /// The caller's identity, from the agent.
    async fn caller(&self, path: &str) -> Identity {
        let socket = self.home.path("state/agent.sock");
        let api = IdentityConfig::WorkloadApi(format!("unix://{}", socket.display()));
        let got = identity::acquire(&api, Some(id(path)), Clock::system());
        timeout(LIMIT, got).await.unwrap().unwrap()
    }

    /// Waits until the caller passes, or until it does not.
    async fn until(&self, caller: &Identity, passes: bool) -> Duration {
        let begun = Instant::now();
        while KeptAlive::open(self.inbound, caller).await.is_some() != passes {
            assert!(begun.elapsed() < LIMIT, "passes: {}", !passes);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        begun.elapsed()
    }

    /// Bars somebody; the entry's id.
    fn bar(&self, target: &[&str]) -> String {
        let args = [&["kill", "add"], target, &["--reason", "stolen key"]].concat();
        let outcome = self.home.json(&args);
        outcome["entry"]["id"].as_str().unwrap().to_owned()
    }

    /// Waits until the log takes records of the caller, or until it does not.
    async fn until_taken(&self, caller: &Identity, taken: bool) {
        let channel = tls::channel(self.audit, &id("palisade/audit"), caller);
        let mut client = IngestClient::new(channel);
        let begun = Instant::now();
        loop {
            let (_batches, receiver) = tokio::sync::mpsc::channel::<Batch>(1);
            let pushed = client.push(tokio_stream::wrappers::ReceiverStream::new(receiver));
            match timeout(LIMIT, pushed).await.unwrap() {
                Ok(_) if taken => return,
                Err(status) if !taken && status.message().contains("PLS4412") => return,
                _ => assert!(begun.elapsed() < LIMIT, "taken: {}", !taken),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn record(&self, query: &str) -> Value {
        wait_for(query, LIMIT, || self.home.rows(query)?.into_iter().next())
    }

    /// Knocks until a refusal for this reason is on record: of many in a row not each
    /// leaves one.
    async fn refused(&self, caller: &Identity, reason: &str) {
        let query = format!("class:authn_failure reason:{reason} last:1h");
        let begun = Instant::now();
        loop {
            assert!(KeptAlive::open(self.inbound, caller).await.is_none());
            let rows = self.home.rows(&query).unwrap_or_default();
            if let Some(row) = rows.first() {
                let claimed = caller.id().to_string();
                return assert!(row.to_string().contains(&claimed), "{row}");
            }
            assert!(begun.elapsed() < LIMIT, "no record: {reason}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn connect(address: SocketAddr, caller: &Identity) -> Option<SendRequest<Empty<Bytes>>> {
    Some(connected(address, caller).await?.0)
}

async fn connected(
    address: SocketAddr,
    caller: &Identity,
) -> Option<(SendRequest<Empty<Bytes>>, JoinHandle<()>)> {
    let config = caller.client_config(&[id(ORDERS)], &[b"http/1.1"]);
    let tcp = TcpStream::connect(address).await.ok()?;
    let name = ServerName::from(address.ip());
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let stream = TokioIo::new(tls.await.ok()?);
    let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
    let driving = tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    Some((sender, driving))
}

/// A connection on which one request was answered, and that waits for the next.
struct KeptAlive {
    _sender: SendRequest<Empty<Bytes>>,
    driving: JoinHandle<()>,
}

impl KeptAlive {
    async fn open(address: SocketAddr, caller: &Identity) -> Option<Self> {
        let (mut sender, driving) = connected(address, caller).await?;
        let request = Request::get("/orders").header("host", "orders");
        let request = request.body(Empty::new()).unwrap();
        let response = sender.send_request(request).await.ok()?;
        (response.status() == 200).then_some(Self {
            _sender: sender,
            driving,
        })
    }

    async fn ended(self) {
        timeout(LIMIT, self.driving).await.expect("an end").unwrap();
    }
}

/// An open WebSocket, as far as a proxy sees it.
struct Socket {
    id: String,
    io: TokioIo<Upgraded>,
}

impl Socket {
    async fn open(address: SocketAddr, caller: &Identity) -> Option<Self> {
        let mut sender = connect(address, caller).await?;
        let request = Request::get("/orders")
            .header("host", "orders")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(Empty::new())
            .unwrap();
        let mut response = sender.send_request(request).await.ok()?;
        if response.status() != 101 {
            return None;
        }
        let id = response.headers()["palisade-decision-id"].to_str().unwrap();
        let id = id.to_owned();
        let io = TokioIo::new(hyper::upgrade::on(&mut response).await.ok()?);
        let mut socket = Self { id, io };
        socket.echo().await;
        Some(socket)
    }

    async fn echo(&mut self) {
        self.io.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        let read = timeout(LIMIT, self.io.read_exact(&mut echo)).await;
        read.unwrap().unwrap();
        assert_eq!(&echo, b"ping");
    }

    async fn ended(mut self) -> String {
        let mut rest = Vec::new();
        let reading = timeout(LIMIT, self.io.read_to_end(&mut rest));
        let _ = reading.await.expect("an end");
        self.id
    }
}

/// Answers, and echoes on WebSockets.
async fn start_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http1::Builder::new();
            let serving = server.serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(serving.with_upgrades());
        }
    });
    address
}

async fn answer(
    mut request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, std::convert::Infallible> {
    if !request.headers().contains_key("upgrade") {
        return Ok(Response::new(Empty::new()));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reads, mut writes) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
    });
    let response = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    Ok(response.body(Empty::new()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_barred_loses_everything_at_once_and_stays_out() {
    let home = Home::new();
    let mut stage = Stage::start(&home, start_app().await);
    let (web, reports) = (stage.caller(WEB).await, stage.caller(REPORTS).await);
    let first = reports.svid().serial.clone();
    stage.until(&reports, true).await;
    stage.until(&web, true).await;
    // One entry first, so that every link is known to carry the list.
    let away = id("ns/shop/sa/nobody");
    stage.bar(&[away.as_str()]);
    wait_for("a list at the proxy", LIMIT, || {
        let kept = fs::metadata(home.path("state-orders/kill-list")).ok()?;
        (kept.len() > 0).then_some(())
    });

    let at = stage.inbound;
    let mut other = Socket::open(at, &web).await.unwrap();
    let socket = Socket::open(at, &reports).await.unwrap();
    let idle = KeptAlive::open(at, &reports).await.unwrap();
    let entry = stage.bar(&[id(REPORTS).as_str()]);
    let begun = Instant::now();
    let (stream, ()) = tokio::join!(socket.ended(), idle.ended());
    let took = begun.elapsed();
    assert!(took < BOUND, "{took:?}");
    println!("everything of the barred caller ended in {took:?}");
    stage.until(&reports, false).await;
    other.echo().await;
    stage.until(&web, true).await;
    let judged = stage.record(&format!("class:rejudgement id:{stream} last:1h"));
    let judged = judged.to_string();
    assert!(
        judged.contains("kill_list") && judged.contains("identity_killed"),
        "{judged}"
    );
    stage.refused(&reports, "identity_killed").await;
    // Nor does the log take records from it.
    stage.until_taken(&reports, false).await;
    stage.until_taken(&web, true).await;
    let told = stage.record("class:authn_failure listener:audit last:1h");
    assert!(told.to_string().contains(REPORTS), "{told}");

    // The control plane is gone; a proxy that starts now knows what the last one knew.
    ROLES.into_iter().for_each(|role| stage.kill(role));
    stage.kill("proxy");
    stage.run("proxy");
    stage.until(&web, true).await;
    stage.until(&reports, false).await;

    ROLES.into_iter().for_each(|role| stage.run(role));
    wait_for("an authority", LIMIT, || {
        let output = home.run(&["kill", "remove", &entry]);
        output.status.success().then_some(())
    });
    stage.until(&reports, true).await;
    stage.until_taken(&reports, true).await;

    // One certificate alone, until there is another; each agent makes its own.
    another(&reports, &first).await;
    let second = reports.svid().serial.clone();
    let serial: String = second.iter().map(|b| format!("{b:02x}")).collect();
    stage.bar(&["--serial", &serial]);
    stage.until(&reports, false).await;
    stage.until(&web, true).await;
    stage.refused(&reports, "serial_killed").await;
    stage.until_taken(&reports, false).await;
    stage.kill("agent");
    stage.run("agent");
    another(&reports, &second).await;
    stage.until(&reports, true).await;

    // An entry that ends lets in without another list.
    stage.bar(&[id(REPORTS).as_str(), "--for", "3s"]);
    stage.until(&reports, false).await;
    stage.until(&reports, true).await;

    // Everything under the intermediate, named as `identity show` names it.
    let shown = home.json(&["identity", "show", "reports"]);
    let authority = shown[0]["authority"].as_str().unwrap().to_owned();
    let entry = stage.bar(&["--authority", &authority, "--yes"]);
    stage.until(&web, false).await;
    stage.refused(&reports, "authority_killed").await;
    home.says(&["kill", "remove", &entry], 0);
    stage.until(&web, true).await;
}

/// Waits for another certificate than the one with this serial number.
async fn another(caller: &Identity, serial: &[u8]) {
    let begun = Instant::now();
    while caller.svid().serial == serial {
        assert!(begun.elapsed() < LIMIT, "the same certificate");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
