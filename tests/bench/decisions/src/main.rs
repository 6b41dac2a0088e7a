//! What one decision costs in CPU: our engine, Cedar's own authorizer, regorus and Cerbos,
//! over the same policies and the same request, taking turns in one run.
//!
//! `palisade-bench-decisions [SIZE…]`; `CERBOS=PATH` names the server's binary, without it
//! Cerbos is left out. Where forms differ, the peer has the easier part: Cedar and regorus
//! get a request that was built before, Cerbos has no guard rails.

use std::{env, hint::black_box};

use cedar_policy::{Authorizer, Context, Decision, Request};
use nix::time::{ClockId, clock_gettime};
use palisade_pdp::decide::Snapshot;
use regorus::{Engine as Rego, Value};

mod cerbos;
mod rego;
#[path = "../../../../pdp/benches/support/workload.rs"]
mod workload;

use workload::{Load, compiled, uid};

/// Turns that each of them has.
const ROUNDS: usize = 5;
/// CPU time of one turn, nanoseconds.
const TURN_NS: u64 = 300_000_000;

/// Longest module that regorus takes.
const REGO_LEN_MAX: usize = 1 << 20;

/// One way to decide, at one size: its name, and one decision.
type Peer<'p> = (&'static str, Box<dyn FnMut() + 'p>);

fn main() {
    let sizes: Vec<usize> = env::args().skip(1).map(|n| n.parse().expect("a number")).collect();
    let sizes = if sizes.is_empty() { vec![10, 100, 1_000, 10_000] } else { sizes };
    println!("| policies | peer | CPU µs per decision, median (range) | × ours evaluated |");
    println!("|---|---|---|---|");
    for n in sizes {
        at_size(n);
    }
}

fn at_size(n: usize) {
    let snapshot = Snapshot::new(compiled(n), 1).expect("a snapshot");
    let load = Load::new(&snapshot);
    let mut hits = snapshot.engine().with_self_check(0);
    let mut misses = snapshot.engine().with_self_check(0).forgetful();
    let allowed = load.ask(&snapshot, |q| misses.decide(q)).decision.verdict;
    assert!(allowed.is_allow(), "{allowed:?}");
    let request = request(&load);
    let authorizer = Authorizer::new();
    let set = &snapshot.compiled().policies;
    let entities = &snapshot.compiled().entities;
    let cedar = || authorizer.is_authorized(&request, set, entities).decision();
    assert_eq!(cedar(), Decision::Allow);
    let mut rego = rego(n, &load);
    let mut peers: Vec<Peer<'_>> = vec![
        ("ours, found in the cache", Box::new(|| drop(black_box(load.ask(&snapshot, |q| hits.decide(q)))))),
        ("ours, evaluated", Box::new(|| drop(black_box(load.ask(&snapshot, |q| misses.decide(q)))))),
        ("Cedar's authorizer", Box::new(|| _ = black_box(cedar()))),
    ];
    if let Some(rego) = &mut rego {
        peers.push(("regorus", Box::new(|| drop(black_box(allowed_by(rego))))));
    }
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); peers.len()];
    for _ in 0..ROUNDS {
        for ((_, decide), found) in peers.iter_mut().zip(&mut found) {
            found.push(turn(decide));
        }
    }
    let mut named: Vec<(&str, Vec<f64>)> = peers.iter().map(|(name, _)| *name).zip(found).collect();
    if let Some(server) = env::var_os("CERBOS") {
        named.push(("Cerbos, over loopback", cerbos::run(server.as_ref(), n, &load)));
    }
    let ours = median(&named.iter().find(|(name, _)| *name == "ours, evaluated").expect("it ran").1);
    for (name, found) in &named {
        let (low, high) = found.iter().fold((f64::MAX, 0.0_f64), |(l, h), f| (l.min(*f), h.max(*f)));
        let median = median(found);
        println!("| {n} | {name} | {} ({}–{}) | {:.1} |", us(median), us(low), us(high), median / ours);
    }
}

/// Nanoseconds of CPU that one decision takes.
fn turn(decide: &mut dyn FnMut()) -> f64 {
    let (begun, mut done) = (cpu_ns(), 0_u64);
    loop {
        let batch = (done / 4).clamp(1, 4096);
        (0..batch).for_each(|_| decide());
        done += batch;
        let took = cpu_ns() - begun;
        if took >= TURN_NS {
            return took as f64 / done as f64;
        }
    }
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).expect("it counts up")
}

fn median(found: &[f64]) -> f64 {
    let mut sorted = found.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn us(ns: f64) -> String {
    match ns {
        ns if ns < 1_000.0 => format!("{:.3}", ns / 1_000.0),
        ns if ns < 100_000.0 => format!("{:.1}", ns / 1_000.0),
        ns => format!("{:.0}", ns / 1_000.0),
    }
}

/// The request in Cedar's terms, made once.
fn request(load: &Load) -> Request {
    let json = serde_json::json!({
        "source": {"ip": {"__extn": {"fn": "ip", "arg": "10.1.2.3"}}, "port": 40_000},
        "tls": {"version": "1.3", "mtls": true, "alpn": "h2"},
        "time": {
            "now": {"__extn": {"fn": "datetime", "arg": "2026-11-20T15:30:00Z"}},
            "hour": 15, "weekday": 5,
        },
        "http": {
            "method": "GET", "host": load.request.host.as_str(), "path": load.request.path.as_str(),
            "headers": {"x-change-id": "CHG-1234"},
        },
    });
    let context = Context::from_json_value(json, None).expect("a context");
    Request::new(
        uid("Workload", load.connection.peer.id.as_str()),
        uid("Action", "GET"),
        uid("Operation", &format!("{}/read", workload::service_id(load.service))),
        context,
        None,
    )
    .expect("a request")
}

/// The same set in Rego, with the request as its input; none where it is longer than what
/// regorus takes.
fn rego(n: usize, load: &Load) -> Option<Rego> {
    let module = rego::module(n);
    if module.len() > REGO_LEN_MAX {
        return None;
    }
    let mut engine = Rego::new();
    engine.add_policy("mesh.rego".into(), module).expect("a module");
    let input = rego::input(load).to_string();
    engine.set_input(Value::from_json_str(&input).expect("JSON"));
    assert_eq!(allowed_by(&mut engine), Value::from(true));
    Some(engine)
}

fn allowed_by(engine: &mut Rego) -> Value {
    engine.eval_rule("data.mesh.allow".into()).expect("a value")
}
