//! `kill -9` of the proxies of a mesh and of its audit service, while requests come.
//!
//! The operations of orders are `strict`: who has an answer, has a decision that is on disk. Now
//! and then the file that has it loses its name before the proxy dies.
//! In the end each of these is in the log once, whichever process died meanwhile.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use palisade_audit::log::{Log, LogOptions, whose};
use palisade_mesh::{clock::Clock, wire::record::record::Body};
use serde_json::json;
use ulid::Ulid;

use crate::{
    Dice,
    stage::spool_files,
    support::{Home, LIMIT, http, mesh::Separate, wait_for},
};

/// Clients that ask without a pause.
const CLIENTS: usize = 4;
/// Answers before something is killed, at most.
const PATIENCE: u64 = 60;
/// Rounds from one spool file that loses its name to the next.
const UNLINKED_EVERY: usize = 7;
/// Who is killed, alone or together.
const VICTIMS: [&[&str]; 5] = [
    &["proxy-orders"],
    &["audit"],
    &["proxy-web"],
    &["proxy-orders", "audit"],
    &["proxy-orders", "proxy-web"],
];

/// Decision ids of answers that orders gave.
#[derive(Clone, Default)]
struct Answered(Arc<Mutex<Vec<Ulid>>>);

impl Answered {
    fn count(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn note(&self, reply: &http::Reply) {
        // The caller's proxy answers by itself while the other is away: no decision.
        if reply.status == 200 {
            let id = reply.header("palisade-decision-id").unwrap();
            self.0.lock().unwrap().push(id.parse().unwrap());
        }
    }

    fn wait_for(&self, more: u64) {
        let enough = self.count() + more;
        wait_for("answers", LIMIT, || (self.count() >= enough).then_some(()));
    }
}

/// Kills until `enough` processes have died.
pub fn survive(enough: u64, mut dice: Dice) {
    let home = Home::new();
    let mut mesh = Separate::ready(&home);
    strict(&home, &mesh);
    let answered = Answered::default();
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| client(mesh.outbound(), answered.clone(), over.clone()))
        .collect();
    let mut kills: BTreeMap<&str, u64> = BTreeMap::new();
    let mut unlinked = 0;
    for round in 0.. {
        answered.wait_for(1 + dice.below(PATIENCE));
        if round % UNLINKED_EVERY == 0 {
            unlink_spool(&home, &mut mesh, &answered);
            for victim in ["audit", "proxy-orders"] {
                *kills.entry(victim).or_default() += 1;
            }
            unlinked += 1;
        }
        let victims = VICTIMS[round % VICTIMS.len()];
        for victim in victims {
            mesh.kill(victim);
            *kills.entry(victim).or_default() += 1;
        }
        if kills.values().sum::<u64>() >= enough {
            victims.iter().for_each(|victim| mesh.start(victim));
            break;
        }
        // Half of the time one dies again before it can have come up.
        for victim in victims {
            mesh.start(victim);
            if dice.below(2) == 0 {
                mesh.kill(victim);
                *kills.entry(victim).or_default() += 1;
                mesh.start(victim);
            }
        }
    }
    answered.wait_for(PATIENCE);
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    println!(
        "{kills:?}; {unlinked} spool files unlinked; {} answers",
        answered.count()
    );
    settle(&home, &mut mesh, &answered);
}

/// Removes the file that orders' proxy writes its records into, while nobody else has them; the
/// proxy puts them under that name again, and dies.
fn unlink_spool(home: &Home, mesh: &mut Separate<'_>, answered: &Answered) {
    mesh.kill("audit");
    answered.wait_for(PATIENCE);
    let newest = spool_files(&home.path("state-orders/spool")).pop().unwrap();
    fs::remove_file(&newest).unwrap();
    wait_for("the spool file under its name", LIMIT, || {
        newest.exists().then_some(())
    });
    mesh.kill("proxy-orders");
    mesh.start("proxy-orders");
    mesh.start("audit");
}

/// Makes orders strict, and waits until it is.
fn strict(home: &Home, mesh: &Separate<'_>) {
    let service = home.path("policies/services/orders.yaml");
    let sample = fs::read_to_string(&service).unwrap();
    fs::write(&service, format!("{sample}\naudit: strict\n")).unwrap();
    wait_for("strict decisions", LIMIT, || {
        mesh.get("/orders");
        let rows = home.rows("class:decision mode:strict service:shop/orders last:1h")?;
        (!rows.is_empty()).then_some(())
    });
}

fn client(
    outbound: std::net::SocketAddr,
    answered: Answered,
    over: Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            match http::send(outbound, "GET", "orders", "/orders", "") {
                Ok(reply) => answered.note(&reply),
                // Its proxy is away: its port refuses at once.
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    })
}

/// Waits until everything is in the log, and compares.
fn settle(home: &Home, mesh: &mut Separate<'_>, answered: &Answered) {
    let log = home.path("state/audit/log");
    let answered = answered.0.lock().unwrap();
    wait_for("every decision in the log", LIMIT * 3, || {
        // What is being written cannot always be read.
        let kept = decisions(&log)?;
        answered
            .iter()
            .all(|id| kept.contains_key(id))
            .then_some(())
    });
    wait_for("numbers that were missing", LIMIT, || {
        let gaps = home.json(&["audit", "gaps", "last:1d"]);
        (gaps["open"] == json!([])).then_some(())
    });
    mesh.end("audit");
    let shown = home.json(&["audit", "verify", "--dir", &log.display().to_string()]);
    assert_eq!(shown["findings"], json!([]), "{shown}");
    let kept = decisions(&log).unwrap();
    let doubled: Vec<_> = kept.iter().filter(|(_, n)| **n > 1).take(5).collect();
    assert!(doubled.is_empty(), "in the log more than once: {doubled:?}");
}

/// How often each decision is in the log; none where it cannot be read now.
fn decisions(dir: &Path) -> Option<BTreeMap<Ulid, u32>> {
    let options = LogOptions {
        read_only: true,
        ..LogOptions::new(whose(dir).ok()?)
    };
    let log = Log::open(dir, options, Clock::system()).ok()?;
    let mut decisions = BTreeMap::new();
    for entry in log.scan(0) {
        let record = entry.ok()?.record;
        if let Some(Body::Decision(_)) = record.body {
            let id = Ulid::from_bytes(record.id.try_into().unwrap());
            *decisions.entry(id).or_default() += 1;
        }
    }
    Some(decisions)
}
