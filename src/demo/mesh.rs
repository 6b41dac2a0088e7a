//! The demo's mesh: control plane here, services and proxies as children.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use palisade_ca::Agent;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tokio::{net::TcpStream, time::timeout};

use super::{
    DemoArgs,
    children::{Children, named_binary},
    policies,
    shop::{SHOP, Start},
};
use crate::{
    config::Config,
    control::{client::Mesh, status::ProxyStatus},
    run::{self, ControlPlane, Role, audit::AuditRole, pdp::PdpRole},
};

/// Folder of the editable policies, in the working folder.
const FOLDER: &str = "palisade-demo";
/// Name of the first demo that a user runs.
pub(super) const DEFAULT_NAME: &str = "demo";
/// How long the services and proxies may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How often they are asked.
const READY_LOOK: Duration = Duration::from_millis(20);

/// A running demo.
pub(super) struct DemoMesh {
    /// The policy repository in use.
    pub(super) policies: PathBuf,
    /// Name for `--mesh`.
    pub(super) name: String,
    plane: ControlPlane,
    children: Children,
    state: PathBuf,
    /// The folder to remove at the end, when we made it.
    made: Option<PathBuf>,
}

/// Cleans up when starting fails half-way.
struct Unfinished {
    state: PathBuf,
    made: Option<PathBuf>,
}

impl DemoMesh {
    /// Starts everything; `step` hears what is under way.
    pub(super) async fn start(
        args: &DemoArgs,
        step: impl Fn(&str),
    ) -> Result<Self, Vec<Diagnostic>> {
        let name = free_name().await;
        let (policies, made) = policies_folder(args)?;
        let state = state_folder().map_err(|e| vec![failed("the demo's folder", &e)])?;
        let unfinished = Unfinished {
            state: state.clone(),
            made: made.clone(),
        };
        match Self::start_in(args, &name, policies, state, step).await {
            Ok(mut mesh) => {
                mesh.made = made;
                Ok(mesh)
            }
            Err(found) => {
                unfinished.remove();
                Err(found)
            }
        }
    }

    async fn start_in(
        args: &DemoArgs,
        name: &str,
        policies: PathBuf,
        state: PathBuf,
        step: impl Fn(&str),
    ) -> Result<Self, Vec<Diagnostic>> {
        let trouble = |what: &'static str| move |e: io::Error| vec![failed(what, &e)];
        step("starting the control plane");
        let file = state.join("mesh.yaml");
        fs::write(&file, control_plane_yaml(args, name, &policies, &state))
            .map_err(trouble("the demo's configuration"))?;
        let plane = run::control_plane(&Config::read(&file)?, &Role::ALL, Clock::system()).await?;
        let mut mesh = Self {
            policies,
            name: name.to_owned(),
            plane,
            children: Children::default(),
            state,
            made: None,
        };
        if let Some(rejected) = &mesh.pdp()?.state.borrow().rejected {
            return Err(rejected.diagnostics.clone());
        }
        let services = mesh.start_services(step).await?;
        mesh.start_proxies(args, name, &services)
            .map_err(trouble("a proxy"))?;
        let proxies = mesh.proxies_ready(name).await?;
        for (sample, proxy) in SHOP.iter().zip(&proxies) {
            let (Some(service), Some(outbound)) = (
                services.iter().find(|(n, _)| *n == sample.name),
                proxy.outbound,
            ) else {
                continue;
            };
            let order = Start {
                outbound,
                rate: args.rate / callers(),
            };
            post(service.1, "/-/start", &order)
                .await
                .map_err(trouble("a sample service"))?;
        }
        Ok(mesh)
    }

    async fn start_services(
        &mut self,
        step: impl Fn(&str),
    ) -> Result<Vec<(&'static str, SocketAddr)>, Vec<Diagnostic>> {
        step("starting sample services and proxies");
        let this = std::env::current_exe().map_err(|e| vec![failed("this program's path", &e)])?;
        let listen = "127.0.0.1:0";
        let log_of = |name: &str| self.state.join(format!("{name}.log"));
        let logs: Vec<PathBuf> = SHOP.iter().map(|s| log_of(s.name)).collect();
        for (sample, log) in SHOP.iter().zip(&logs) {
            self.children
                .start(
                    sample.name,
                    &this,
                    &["shop", sample.name, "--listen", listen, "--end-with-parent"],
                    log,
                )
                .map_err(|e| vec![failed("a sample service", &e)])?;
        }
        let mut services = Vec::new();
        for (sample, log) in SHOP.iter().zip(&logs) {
            let address = until(|| first_line(log), || not_ready(sample.name, log)).await?;
            services.push((sample.name, address));
        }
        Ok(services)
    }

    fn start_proxies(
        &mut self,
        args: &DemoArgs,
        name: &str,
        services: &[(&'static str, SocketAddr)],
    ) -> io::Result<()> {
        let addresses = (
            self.plane.pdp.as_ref().map(|p| p.address),
            self.plane.audit.as_ref().and_then(|a| a.address),
        );
        let (Some(pdp), Some(audit)) = addresses else {
            return Err(io::Error::other("bug: the control plane has no addresses"));
        };
        for (service, upstream) in services {
            let instance = format!("proxy-{service}");
            let binary = named_binary(&self.state.join("bin"), &instance)?;
            let file = self.state.join(format!("{instance}.yaml"));
            fs::write(
                &file,
                proxy_yaml(args, name, service, *upstream, pdp, audit, &self.state),
            )?;
            let log = self.state.join(format!("{instance}.log"));
            let file = file.display().to_string();
            self.children.start(
                &instance,
                &binary,
                &["run", "proxy", "--config", &file, "--end-with-parent"],
                &log,
            )?;
        }
        Ok(())
    }

    /// Waits until every proxy has policy and knows every service; in the order of
    /// the shop.
    async fn proxies_ready(&mut self, name: &str) -> Result<Vec<ProxyStatus>, Vec<Diagnostic>> {
        let started = Instant::now();
        loop {
            if let Some((child, how)) = self.children.ended() {
                return Err(vec![self.lost(&child, &how)]);
            }
            if let Ok(mut proxies) = proxies(name).await {
                proxies.retain(|p| p.sequence > 0 && p.endpoints >= SHOP.len());
                if proxies.len() == SHOP.len() {
                    proxies.sort_by_key(|p| {
                        SHOP.iter()
                            .position(|s| p.instance == format!("proxy-{}", s.name))
                    });
                    return Ok(proxies);
                }
            }
            if started.elapsed() > READY_TIMEOUT {
                return Err(vec![not_ready(
                    "proxies",
                    &self.state.join("proxy-web.log"),
                )]);
            }
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    /// Policies in the revision in force.
    pub(super) fn policy_count(&self) -> usize {
        let pdp = self.plane.pdp.as_ref();
        let current = pdp.and_then(|p| p.state.borrow().current.clone());
        current.map_or(0, |c| c.compiled.info.len())
    }

    pub(super) fn pdp(&self) -> Result<&PdpRole, Vec<Diagnostic>> {
        self.plane.pdp.as_ref().ok_or_else(|| vec![absent("pdp")])
    }

    pub(super) fn audit(&self) -> Result<&AuditRole, Vec<Diagnostic>> {
        self.plane
            .audit
            .as_ref()
            .ok_or_else(|| vec![absent("audit")])
    }

    pub(super) fn agent(&self) -> Result<Arc<Agent>, Vec<Diagnostic>> {
        self.plane
            .agent
            .clone()
            .ok_or_else(|| vec![absent("agent")])
    }

    /// The first child that has ended by itself.
    pub(super) fn ended_child(&mut self) -> Option<(String, String)> {
        self.children.ended()
    }

    /// Whether the policies were there before; then they stay.
    pub(super) fn found_policies(&self) -> bool {
        self.made.is_none()
    }

    /// Tells of a child that has ended by itself.
    pub(super) fn lost(&self, name: &str, how: &str) -> Diagnostic {
        let log = fs::read_to_string(self.state.join(format!("{name}.log"))).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Diagnostic::error(9002, format!("`{name}` ended by itself ({how})"))
            .cause(last.join("\n"))
            .help("start the demo again; if it stays so, report it with the lines above")
    }

    /// Ends everything and removes what was made.
    pub(super) async fn end(self) {
        self.children.end().await;
        self.plane.end().await;
        Unfinished {
            state: self.state,
            made: self.made,
        }
        .remove();
    }
}

impl Unfinished {
    fn remove(self) {
        let _ = fs::remove_dir_all(self.state);
        if let Some(made) = self.made {
            let _ = fs::remove_dir_all(made);
        }
    }
}

/// `demo`, or `demo-2` and so on while others run.
async fn free_name() -> String {
    let mut name = DEFAULT_NAME.to_owned();
    for n in 2..100 {
        if Mesh::find(Some(&name)).await.is_err() {
            break;
        }
        name = format!("{DEFAULT_NAME}-{n}");
    }
    name
}

/// The folder to use, and the one to remove at the end.
fn policies_folder(args: &DemoArgs) -> Result<(PathBuf, Option<PathBuf>), Vec<Diagnostic>> {
    if let Some(dir) = &args.policies {
        let dir = fs::canonicalize(dir).map_err(|e| vec![failed("the policy repository", &e)])?;
        return Ok((dir, None));
    }
    let folder = std::path::absolute(FOLDER).map_err(|e| vec![failed("the working folder", &e)])?;
    let policies = folder.join("policies");
    if policies.exists() {
        return Ok((policies, None));
    }
    policies::write(&policies).map_err(|e| vec![failed("the sample policies", &e)])?;
    Ok((policies, Some(folder)))
}

fn state_folder() -> io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("palisade-demo-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    fs::create_dir(folder.join("bin"))?;
    fs::canonicalize(folder)
}

/// How many services call others.
fn callers() -> f64 {
    let n = SHOP.iter().filter(|s| s.calls_others()).count();
    f64::from(u8::try_from(n).unwrap_or(1))
}

fn control_plane_yaml(args: &DemoArgs, name: &str, policies: &Path, state: &Path) -> String {
    let registrations: String = SHOP
        .iter()
        .map(|s| {
            let path = state.join("bin").join(format!("proxy-{}", s.name));
            format!(
                "    - spiffe_id: spiffe://demo.test/ns/shop/sa/{}\n      selectors: [{}]\n",
                s.name,
                quoted(&format!("unix:path:{}", path.display())),
            )
        })
        .collect();
    format!(
        "trust_domain: demo.test\nname: {name}\nstate_dir: {}\ndemo: true\nca:\n  svid_ttl: {}s\n  registrations:\n{registrations}agent:\n  socket: agent.sock\npdp:\n  policies: {}\n  listen: {address}\n  decisions: {{ listen: \"{address}\" }}\naudit:\n  listen: {address}\n",
        quoted(&state.display().to_string()),
        args.svid_ttl.as_secs(),
        quoted(&policies.display().to_string()),
        address = SocketAddr::new(args.address, 0),
    )
}

fn proxy_yaml(
    args: &DemoArgs,
    name: &str,
    service: &str,
    upstream: SocketAddr,
    pdp: SocketAddr,
    audit: SocketAddr,
    state: &Path,
) -> String {
    let listen = SocketAddr::new(args.address, 0);
    format!(
        "trust_domain: demo.test\nname: {name}\nstate_dir: {}\ndemo: true\nproxy:\n  instance: proxy-{service}\n  identity:\n    workload_api: {}\n  policy: {{ pdp: \"{pdp}\" }}\n  records: {{ audit: \"{audit}\" }}\n  workers: 1\n  inbound: {{ listen: \"{listen}\", service: shop/{service}, upstream: \"{upstream}\" }}\n  outbound: {{ listen: \"{listen}\" }}\n  admin: {{ listen: \"{listen}\" }}\n",
        quoted(&state.join("proxies").join(service).display().to_string()),
        quoted(&format!("unix://{}", state.join("agent.sock").display())),
    )
}

/// A YAML string in double quotes (which JSON's are, too).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

async fn proxies(name: &str) -> Result<Vec<ProxyStatus>, Diagnostic> {
    let mesh = Mesh::find(Some(name)).await?;
    mesh.get_all("proxy", "/v1/proxy/status").await
}

fn first_line(log: &Path) -> Option<SocketAddr> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().next()?.parse().ok()
}

async fn until<T>(
    mut ask: impl FnMut() -> Option<T>,
    late: impl FnOnce() -> Diagnostic,
) -> Result<T, Vec<Diagnostic>> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if started.elapsed() > READY_TIMEOUT {
            return Err(vec![late()]);
        }
        tokio::time::sleep(READY_LOOK).await;
    }
}

async fn post(address: SocketAddr, path: &str, body: &impl serde::Serialize) -> io::Result<()> {
    let send = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = http::Request::post(path)
            .header(http::header::HOST, "localhost")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(body)?)))
            .map_err(io::Error::other)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(io::Error::other(answer.status().to_string())),
        }
    };
    timeout(READY_TIMEOUT, send).await?
}

fn failed(what: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::error(9003, format!("{what} cannot be used"))
        .cause(error.to_string())
        .help("see that the working folder and the temporary folder are writable")
}

fn not_ready(what: &str, log: &Path) -> Diagnostic {
    let said = fs::read_to_string(log).unwrap_or_default();
    Diagnostic::error(
        9004,
        format!(
            "{what} did not get ready within {} s",
            READY_TIMEOUT.as_secs()
        ),
    )
    .cause(said.lines().rev().take(3).collect::<Vec<_>>().join("\n"))
    .help("the machine may be busy; start the demo again")
}

fn absent(role: &str) -> Diagnostic {
    Diagnostic::error(9005, format!("bug: the demo's `{role}` role is not there"))
}
