//! `palisade demo` as a story needs it: started, known by its folder, asked for
//! what its services have sent.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{Home, LIMIT, Running, http, wait_for};

/// The sample services.
pub const SHOP: [&str; 5] = ["web", "orders", "payments", "inventory", "reports"];

/// A demo is eleven processes: the stories of one file have one at a time.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running demo.
pub struct Demo {
    pub running: Running,
    /// Sockets, logs and configuration.
    pub state: PathBuf,
    /// The policy repository that it watches.
    pub policies: PathBuf,
    /// From the start of the process until it said that it is ready.
    pub ready_after: Duration,
}

impl Demo {
    /// Starts one in `home` and waits until it says that it is ready.
    pub fn start(home: &Home, args: &[&str]) -> Self {
        Self::start_as(home, "demo", args)
    }

    /// As [`Demo::start`], with its output in `NAME.log`.
    pub fn start_as(home: &Home, name: &str, args: &[&str]) -> Self {
        let begun = Instant::now();
        let mut running = home.start(name, &[&["demo"], args].concat());
        wait_for("a demo that is ready", LIMIT, || {
            let ended = running.ended();
            assert!(ended.is_none(), "{ended:?}: {}", running.printed());
            running.printed().contains("ready in").then_some(())
        });
        Self {
            state: home.path(&format!("palisade-demo-{}", running.id())),
            policies: home.path("palisade-demo/policies"),
            ready_after: begun.elapsed(),
            running,
        }
    }

    /// One whose records stand still, all of them searchable.
    pub fn at_rest(home: &Home) -> Self {
        let demo = Self::start(home, &["--svid-ttl", "1h"]);
        wait_for("requests of every kind", LIMIT, || {
            let kinds = home.json(&["audit", "search", "last:1h | count by decision"]);
            (kinds["distinct"].as_u64()? >= 2 && kinds["total"].as_u64()? > 50).then_some(())
        });
        demo.pause();
        let mut before = None;
        wait_for("records that stand still", LIMIT, || {
            let now = home.decisions()?;
            (before.replace(now) == Some(now)).then_some(())
        });
        demo
    }

    /// Address of a sample service, behind its proxy's back.
    pub fn service(&self, name: &str) -> SocketAddr {
        let log = fs::read_to_string(self.state.join(format!("{name}.log"))).unwrap();
        log.lines().next().unwrap().parse().unwrap()
    }

    /// Stops the calls and waits until every one that was sent has ended; what each
    /// service has sent.
    pub fn pause(&self) -> BTreeMap<&'static str, Tally> {
        for name in SHOP {
            pause(self.service(name));
        }
        let settled = |name| (name, settled(self.service(name)));
        SHOP.into_iter().map(settled).collect()
    }
}

/// What a sample service has sent, and what came back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tally {
    pub sent: u64,
    pub answered: BTreeMap<u16, u64>,
    pub failed: u64,
    pub received: u64,
    pub failures: Vec<String>,
}

impl Tally {
    /// Answers that no service of the shop and no denial gives: the mesh's own faults.
    pub fn faults(&self) -> u64 {
        let faults = self.answered.iter().filter(|(status, _)| **status >= 500);
        faults.map(|(_, n)| n).sum()
    }

    /// What came since an earlier count.
    pub fn since(&self, before: &Self) -> Self {
        let answered = self.answered.iter().map(|(status, n)| {
            let earlier = before.answered.get(status).copied().unwrap_or_default();
            (*status, n - earlier)
        });
        Self {
            sent: self.sent - before.sent,
            answered: answered.collect(),
            failed: self.failed - before.failed,
            received: self.received - before.received,
            failures: self.failures.clone(),
        }
    }

    fn ended(&self) -> u64 {
        self.failed + self.answered.values().sum::<u64>()
    }
}

/// Asks a sample service for its counts.
pub fn tally(service: SocketAddr) -> Tally {
    let reply = http::send(service, "GET", "localhost", "/-/tally", "").unwrap();
    serde_json::from_str(&reply.body).unwrap()
}

/// Tells a sample service to stop its calls.
pub fn pause(service: SocketAddr) {
    let reply = http::send(service, "POST", "localhost", "/-/pause", "").unwrap();
    assert_eq!(reply.status, 204);
}

/// The counts of a paused service, once nothing is under way any more.
pub fn settled(service: SocketAddr) -> Tally {
    let mut before = None;
    wait_for("a service that is done", LIMIT, || {
        // Longer than the pause between two calls, after which it hears the order.
        std::thread::park_timeout(Duration::from_millis(300));
        let now = tally(service);
        let still = now.ended() == now.sent && before.as_ref() == Some(&now);
        before = Some(now.clone());
        still.then_some(now)
    })
}
