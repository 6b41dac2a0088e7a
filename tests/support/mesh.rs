//! A mesh of separate processes: each role by itself, two proxies, two services.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::Value;

use super::{
    Home, LIMIT, Running,
    demo::{self, Tally},
    free_port, http, sample_policies, wait_for,
};

/// The control plane's roles, as `palisade run` names them.
pub const ROLES: [&str; 4] = ["ca", "agent", "audit", "pdp"];
/// The services, each with a proxy.
pub const SERVICES: [&str; 2] = ["web", "orders"];

/// The mesh; a role that was killed is started again with [`Separate::start`].
pub struct Separate<'h> {
    home: &'h Home,
    processes: Vec<(String, Running)>,
    outbound: SocketAddr,
}

impl<'h> Separate<'h> {
    /// Starts every process, and waits until a request passes.
    pub fn ready(home: &'h Home) -> Self {
        Self::ready_with(home, "1h", "", "")
    }

    /// As [`Separate::ready`], with more lines of `ca.registrations`.
    pub fn ready_for(home: &'h Home, registrations: &str) -> Self {
        Self::ready_with(home, "1h", "", registrations)
    }

    /// As [`Separate::ready`], with certificates that live this long, more lines in the
    /// section of each proxy, and more of `ca.registrations`.
    pub fn ready_with(home: &'h Home, ttl: &str, of_proxies: &str, registrations: &str) -> Self {
        let mut mesh = Self::configured(home);
        for service in SERVICES {
            mesh.start_app(service);
        }
        let outbound = mesh.write_config(ttl, of_proxies, registrations);
        mesh.outbound = outbound;
        for role in ROLES.into_iter().chain(["proxy-web", "proxy-orders"]) {
            mesh.start(role);
        }
        mesh.wait_until_ready();
        mesh
    }

    fn configured(home: &'h Home) -> Self {
        super::copy(&sample_policies(), &home.path("policies"));
        Self {
            home,
            processes: Vec::new(),
            outbound: free_port(),
        }
    }

    /// Writes one file for the control plane and one for each proxy; gives the
    /// outbound port of `web`.
    fn write_config(&self, ttl: &str, of_proxies: &str, more: &str) -> SocketAddr {
        let (pdp, audit) = (free_port(), free_port());
        let registrations: String = SERVICES
            .iter()
            .map(|service| {
                let path = self.binary(service);
                format!(
                    "    - spiffe_id: spiffe://demo.test/ns/shop/sa/{service}\n      selectors: [\"unix:path:{}\"]\n",
                    path.display()
                )
            })
            .collect();
        let plane = format!(
            "trust_domain: demo.test\nstate_dir: state\nca:\n  svid_ttl: {ttl}\n  registrations:\n{registrations}{more}agent: {{}}\npdp:\n  policies: policies\n  listen: {pdp}\naudit:\n  listen: {audit}\n"
        );
        fs::write(self.home.path("mesh.yaml"), plane).unwrap();
        let mut web = free_port();
        for service in SERVICES {
            let (inbound, outbound) = (free_port(), free_port());
            let app = self.app(service);
            let agent = self.home.path("state/agent.sock");
            let text = format!(
                "trust_domain: demo.test\nstate_dir: state-{service}\nproxy:\n  instance: {service}-1\n  identity:\n    workload_api: unix://{}\n  policy: {{ pdp: \"{pdp}\" }}\n  records: {{ audit: \"{audit}\" }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/{service}, upstream: \"{app}\" }}\n  outbound: {{ listen: \"{outbound}\" }}\n{of_proxies}",
                agent.display()
            );
            fs::write(self.home.path(&format!("proxy-{service}.yaml")), text).unwrap();
            let this = env!("CARGO_BIN_EXE_palisade");
            let named = self.binary(service);
            fs::create_dir_all(named.parent().unwrap()).unwrap();
            if fs::hard_link(this, &named).is_err() {
                fs::copy(this, &named).unwrap();
            }
            if service == "web" {
                web = outbound;
            }
        }
        web
    }

    fn binary(&self, service: &str) -> PathBuf {
        self.home.path(&format!("bin/proxy-{service}"))
    }

    /// Starts a role, or `proxy-SERVICE`.
    pub fn start(&mut self, name: &str) {
        let running = match name.strip_prefix("proxy-") {
            Some(service) => self.home.start_program(
                &self.binary(service),
                name,
                &["run", "proxy", "--config", &format!("{name}.yaml")],
            ),
            None => self
                .home
                .start(name, &["run", name, "--config", "mesh.yaml"]),
        };
        self.processes.push((name.to_owned(), running));
    }

    /// Starts a second proxy before orders, with a name of its own.
    pub fn start_second_orders(&self) -> Running {
        let text = fs::read_to_string(self.home.path("proxy-orders.yaml")).unwrap();
        let mut second = text.replace("orders-1", "orders-2");
        second = second.replace("state-orders", "state-orders-2");
        for door in ["inbound: { listen: \"", "outbound: { listen: \""] {
            let (before, rest) = second.split_once(door).unwrap();
            let (_, after) = rest.split_once('"').unwrap();
            second = format!("{before}{door}{}\"{after}", free_port());
        }
        fs::write(self.home.path("proxy-orders-2.yaml"), second).unwrap();
        self.home.start_program(
            &self.binary("orders"),
            "proxy-orders-2",
            &["run", "proxy", "--config", "proxy-orders-2.yaml"],
        )
    }

    fn start_app(&mut self, service: &str) {
        let name = format!("app-{service}");
        let running = self.home.start(&name, &["shop", service]);
        self.processes.push((name, running));
        wait_for("a sample service", LIMIT, || self.app_address(service));
    }

    fn app_address(&self, service: &str) -> Option<SocketAddr> {
        let log = fs::read_to_string(self.home.path(&format!("app-{service}.log"))).ok()?;
        log.lines().next()?.parse().ok()
    }

    /// Address of a sample service, behind its proxy's back.
    pub fn app(&self, service: &str) -> SocketAddr {
        self.app_address(service).unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self, name: &str) {
        self.take(name).kill();
    }

    /// SIGTERM, and waits for the end.
    pub fn end(&mut self, name: &str) {
        assert!(self.take(name).end().success(), "{name}");
    }

    /// Waits until a process has ended by itself; its exit code and what it printed.
    pub fn wait_for_end(&mut self, name: &str) -> (Option<i32>, String) {
        let mut process = self.take(name);
        let status = wait_for("the end of a process", LIMIT, || process.ended());
        (status.code(), process.printed())
    }

    fn take(&mut self, name: &str) -> Running {
        let at = self.processes.iter().position(|(n, _)| n == name).unwrap();
        self.processes.remove(at).1
    }

    /// Waits until one request from web to orders is answered by orders.
    pub fn wait_until_ready(&self) {
        wait_for("a request that passes", LIMIT, || {
            (self.get("/orders") == Some(200)).then_some(())
        });
    }

    /// Where web's proxy takes its calls.
    pub fn outbound(&self) -> SocketAddr {
        self.outbound
    }

    /// Status of a GET of web to orders; none when there was no answer.
    pub fn get(&self, path: &str) -> Option<u16> {
        let reply = http::send(self.outbound, "GET", "orders", path, "");
        reply.ok().map(|r| r.status)
    }

    /// Answer to a GET of web to orders; none when there was no answer.
    pub fn reply(&self, path: &str) -> Option<http::Reply> {
        http::send(self.outbound, "GET", "orders", path, "").ok()
    }

    /// Starts the calls of web.
    pub fn start_calls(&self, rate: f64) {
        let order = format!("{{\"outbound\":\"{}\",\"rate\":{rate}}}", self.outbound);
        let reply = http::send(self.app("web"), "POST", "localhost", "/-/start", &order).unwrap();
        assert_eq!(reply.status, 204);
    }

    /// Waits until web has sent `n` calls more; none may fail.
    pub fn wait_for_calls(&self, n: u64) {
        let from = demo::tally(self.app("web")).sent;
        wait_for("calls that go on", LIMIT, || {
            let now = demo::tally(self.app("web"));
            assert_eq!(now.failed, 0, "{now:?}");
            (now.sent >= from + n).then_some(())
        });
    }
}

/// Has web stop calling; what was sent until all of it has come back, without a failure.
pub fn pause(mesh: &Separate<'_>) -> Tally {
    demo::pause(mesh.app("web"));
    let tally = demo::settled(mesh.app("web"));
    println!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    tally
}

/// How many calls web sent to orders; its proxy itself answers those to inventory, of
/// which there is no endpoint: the second and the fifth of each six.
pub fn to_orders(tally: &Tally) -> u64 {
    assert_eq!(
        tally.faults(),
        tally.sent - sent_to_orders(tally),
        "{tally:?}"
    );
    sent_to_orders(tally)
}

/// The same where orders itself may answer with 5xx.
pub fn sent_to_orders(tally: &Tally) -> u64 {
    let to_inventory =
        tally.sent / 6 * 2 + u64::from(tally.sent % 6 > 1) + u64::from(tally.sent % 6 > 4);
    tally.sent - to_inventory
}

/// Gives an order to rotate, and waits until everybody has its certificates from the new
/// authority; the authority's state after that.
pub fn rotate(home: &Home, order: &[&str]) -> Value {
    let before = signing(&ca_status(home));
    home.says(order, 0);
    wait_for("a rotation that is done", LIMIT, || {
        let now = ca_status(home);
        let signs = signing(&now);
        let done = now["waiting"].is_null() && signs != before && everybody_is_under(&now, &signs);
        done.then_some(now)
    })
}

/// What the authority says of itself.
pub fn ca_status(home: &Home) -> Value {
    home.json(&["ca", "status"])
}

/// Key id of the active authority of this kind.
pub fn active(status: &Value, kind: &str) -> String {
    let all = status["authorities"].as_array().unwrap();
    let mut of_kind = all.iter().filter(|a| a["kind"] == kind);
    // While a tainted one still signs there may be none that is active.
    let found = of_kind.find(|a| a["state"] == "active");
    found.map_or_else(String::new, |a| a["key_id"].as_str().unwrap().to_owned())
}

fn signing(status: &Value) -> String {
    active(status, "intermediate")
}

/// Whether every workload shows certificates of this intermediate alone.
fn everybody_is_under(status: &Value, issuer: &str) -> bool {
    let agents = status["agents"].as_array().unwrap();
    let mut holders = agents.iter().flat_map(|a| a["holders"].as_array().unwrap());
    holders.all(|h| {
        let issuers = h["issuers"].as_array().unwrap();
        issuers.iter().all(|i| i == issuer)
    })
}
