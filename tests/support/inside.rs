//! A mesh in the process of its story: control plane, proxies, and a clock that moves.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use palisade::{
    config::Config,
    control::{client::Mesh, status::ProxyStatus},
    run::{self, ControlPlane, Role, proxy::ProxyRole},
};
use palisade_mesh::clock::Clock;
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for something that should take milliseconds.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Control plane and two proxies, each of them to be stopped and started: under one clock,
/// unless the proxies have their own.
pub struct Story {
    pub name: String,
    pub plane_config: Config,
    pub plane: Option<ControlPlane>,
    pub proxies: Vec<ProxyRole>,
    pub clock: Clock,
    /// The clock of the proxies.
    pub theirs: Clock,
    pub outbound: SocketAddr,
}

impl Story {
    pub async fn start(home: &super::Home, name: &str, policies: &str) -> Self {
        let clock = Clock::manual(jiff::Timestamp::now());
        Self::start_under(home, name, policies, clock.clone(), clock).await
    }

    /// One whose proxies have a clock of their own, which is right at first.
    pub async fn start_apart(home: &super::Home, name: &str, policies: &str) -> Self {
        let now = jiff::Timestamp::now();
        let (clock, theirs) = (Clock::manual(now), Clock::manual(now));
        Self::start_under(home, name, policies, clock, theirs).await
    }

    async fn start_under(
        home: &super::Home,
        name: &str,
        policies: &str,
        clock: Clock,
        theirs: Clock,
    ) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let app = start_app().await;
        let (pdp, audit) = (super::free_port(), super::free_port());
        let yaml = control_plane(&name, policies)
            .replacen("127.0.0.1:0", &pdp.to_string(), 1)
            .replacen("127.0.0.1:0", &audit.to_string(), 1);
        let plane_config = config(&home.path("plane"), &yaml);
        let plane = run::control_plane(&plane_config, &Role::ALL, clock.clone())
            .await
            .unwrap();
        let agent = plane_config.agent_socket();
        let mut proxies = Vec::new();
        for service in ["web", "orders"] {
            let yaml = proxy(&name, service, app, pdp, audit, &agent);
            let config = config(&home.path(service), &yaml);
            proxies.push(run::proxy::start(&config, theirs.clone()).await.unwrap());
        }
        let outbound = ready(&name).await;
        Self {
            name,
            plane_config,
            plane: Some(plane),
            proxies,
            clock,
            theirs,
            outbound,
        }
    }

    pub async fn stop_plane(&mut self) {
        self.plane.take().unwrap().end().await;
    }

    pub async fn start_plane(&mut self) {
        let clock = self.clock.clone();
        let plane = run::control_plane(&self.plane_config, &Role::ALL, clock)
            .await
            .unwrap();
        self.plane = Some(plane);
    }

    /// Status of a GET from `web` to `orders`.
    pub async fn get(&self, path: &str) -> u16 {
        get(self.outbound, "orders", path).await
    }

    pub async fn orders(&self) -> u16 {
        self.get("/orders").await
    }

    /// What the program prints on this mesh.
    pub fn palisade(&self, args: &[&str]) -> String {
        palisade(&self.name, args)
    }

    pub async fn end(mut self) {
        for proxy in self.proxies {
            proxy.end().await;
        }
        if let Some(plane) = self.plane.take() {
            plane.end().await;
        }
    }
}

/// What the program prints on a mesh of this process, whose sockets are where this process has
/// them.
pub fn palisade(mesh: &str, args: &[&str]) -> String {
    let output = tokio::task::block_in_place(|| {
        Command::new(env!("CARGO_BIN_EXE_palisade"))
            .args(args)
            .args(["--mesh", mesh])
            .output()
            .unwrap()
    });
    let said = super::said(&output);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Reads a configuration that is written into `dir`.
pub fn config(dir: &Path, yaml: &str) -> Config {
    std::fs::create_dir_all(dir).unwrap();
    let file = dir.join("mesh.yaml");
    std::fs::write(&file, yaml).unwrap();
    Config::read(&file).unwrap_or_else(|found| panic!("{found:#?}"))
}

/// Configuration of the control plane, with its policies from `policies`, which is YAML.
pub fn control_plane(name: &str, policies: &str) -> String {
    let uid = nix::unistd::getuid();
    let registrations: String = ["web", "orders"]
        .map(|s| format!("    - {{ spiffe_id: spiffe://demo.test/ns/shop/sa/{s}, selectors: [\"unix:uid:{uid}\"] }}\n"))
        .concat();
    format!(
        "trust_domain: demo.test\nname: {name}\nca:\n  svid_ttl: 1h\n  registrations:\n{registrations}pdp:\n  policies: {policies}\n  listen: 127.0.0.1:0\naudit:\n  listen: 127.0.0.1:0\n"
    )
}

/// Configuration of the proxy of `service`.
pub fn proxy(
    name: &str,
    service: &str,
    app: SocketAddr,
    pdp: SocketAddr,
    audit: SocketAddr,
    agent: &Path,
) -> String {
    format!(
        "trust_domain: demo.test\nname: {name}\nproxy:\n  instance: {service}\n  identity: {{ workload_api: \"unix://{}\" }}\n  spiffe_id: spiffe://demo.test/ns/shop/sa/{service}\n  policy: {{ pdp: \"{pdp}\" }}\n  records: {{ audit: \"{audit}\" }}\n  workers: 1\n  inbound: {{ listen: \"127.0.0.1:0\", service: shop/{service}, upstream: \"{app}\" }}\n  outbound: {{ listen: \"127.0.0.1:0\" }}\n",
        agent.display()
    )
}

/// An application that says hello.
pub async fn start_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(|| async { "hello" });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// What every proxy of the mesh says of itself.
pub async fn statuses(name: &str) -> Vec<ProxyStatus> {
    let Ok(mesh) = Mesh::find(Some(name)).await else {
        return Vec::new();
    };
    mesh.get_all("proxy", "/v1/proxy/status")
        .await
        .unwrap_or_default()
}

/// The outbound port of `web`, once every proxy knows policy and endpoints.
pub async fn ready(name: &str) -> SocketAddr {
    until("both proxies are ready", || async {
        let all = statuses(name).await;
        all.len() == 2 && all.iter().all(|p| p.sequence > 0 && p.endpoints >= 2)
    })
    .await;
    let all = statuses(name).await;
    all.iter()
        .find(|p| p.instance == "web")
        .unwrap()
        .outbound
        .unwrap()
}

/// Asks again and again until the answer is yes; panics after [`LIMIT`].
pub async fn until<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    while !ask().await {
        assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        ticks.tick().await;
    }
}

/// Status of a GET through an outbound port.
pub async fn get(outbound: SocketAddr, host: &str, path: &str) -> u16 {
    let stream = TcpStream::connect(outbound).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header("host", host)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}
