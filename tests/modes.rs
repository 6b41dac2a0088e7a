//! What a record that must be on disk costs a request, against one that need not:
//! the same proxy, the same disk, 2,000 requests a second.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use palisade_mesh::{spiffe_id::SpiffeId, svid::Identity};
use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;
use support::{Home, LIMIT, authority::Authority, free_port, http, wait_for};

const DOMAIN: &str = "demo.test";
const ORDERS: &str = "ns/shop/sa/orders";
/// Requests per second of all callers, whatever the answers take: the rate of the bar.
const RATE: u32 = 2_000;
/// Callers that share it; enough for answers that take a group commit.
const CALLERS: u32 = 64;
const SPAN: Duration = Duration::from_secs(5);

/// What the callers saw.
struct Seen {
    per_s: f64,
    p50: Duration,
    p99: Duration,
}

/// `p50` of `strict` is at most that of `spool` and a group commit more, its
/// throughput at least 0.8 of it. Run on a quiet machine, built for release.
#[test]
#[ignore = "a measurement; takes a quarter of a minute"]
fn strict_costs_a_group_commit() {
    let home = Home::new();
    let authority = Authority::new(DOMAIN);
    authority.write(&authority.leaf(ORDERS), &home.path("identity"));
    support::copy(&support::sample_policies(), &home.path("policies"));
    let app = home.start("app", &["shop", "orders"]);
    let upstream: SocketAddr = wait_for("a sample service", LIMIT, || {
        app.printed().lines().next()?.parse().ok()
    });
    let caller = authority.trusting(&authority.leaf("ns/shop/sa/web"));
    let service = home.path("policies/services/orders.yaml");
    let sample = fs::read_to_string(&service).unwrap();
    let measure = |name: &str, mode: &str| {
        fs::write(&service, format!("{sample}\naudit: {mode}\n")).unwrap();
        let inbound = free_port();
        // Nobody takes the records: they stay in the spool.
        let text = format!(
            "trust_domain: {DOMAIN}\nstate_dir: state-{mode}\nproxy:\n  identity:\n    files: {{ cert: identity/cert.pem, key: identity/key.pem, bundle: identity/bundle.pem }}\n  policy: {{ folder: policies }}\n  records: {{ audit: \"{}\" }}\n  workers: 1\n  inbound: {{ listen: \"{inbound}\", service: shop/orders, upstream: \"{upstream}\" }}\n",
            free_port()
        );
        fs::write(home.path("proxy.yaml"), text).unwrap();
        let mut proxy = home.start(name, &["run", "proxy", "--config", "proxy.yaml"]);
        wait_for("a proxy that listens", LIMIT, || {
            assert!(proxy.ended().is_none(), "{}", proxy.printed());
            proxy.printed().contains("ready").then_some(())
        });
        let seen = load(inbound, &caller);
        println!(
            "{mode}: {:.0} requests/s, p50 {:?}, p99 {:?}",
            seen.per_s, seen.p50, seen.p99
        );
        assert!(proxy.end().success());
        seen
    };
    let spool = [
        measure("first", "spool"),
        measure("second", "strict"),
        measure("third", "spool"),
    ];
    let [before, strict, after] = spool;
    let per_s = f64::midpoint(before.per_s, after.per_s);
    let p50 = (before.p50 + after.p50) / 2;
    println!(
        "strict: {:.2} of the throughput, p50 {:?} more",
        strict.per_s / per_s,
        strict.p50.saturating_sub(p50)
    );
}

/// Callers on connections of their own, each with its part of the rate.
fn load(inbound: SocketAddr, caller: &Identity) -> Seen {
    let begun = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|index| {
            let caller = caller.clone();
            let first = begun + Duration::from_secs(1) * index / RATE;
            thread::spawn(move || call(inbound, &caller, first, begun + SPAN))
        })
        .collect();
    let mut took: Vec<Duration> = callers
        .into_iter()
        .flat_map(|caller| caller.join().unwrap())
        .collect();
    took.sort();
    Seen {
        per_s: took.len() as f64 / SPAN.as_secs_f64(),
        p50: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
    }
}

/// Times from the moment a request was due to its answer.
fn call(inbound: SocketAddr, caller: &Identity, first: Instant, end: Instant) -> Vec<Duration> {
    let orders = SpiffeId::parse(&format!("spiffe://{DOMAIN}/{ORDERS}")).unwrap();
    let config = caller.client_config(&[orders], &[b"http/1.1"]);
    let name = ServerName::IpAddress(inbound.ip().into());
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(session, http::connect(inbound).unwrap());
    let mut took = Vec::new();
    let mut due = first;
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        stream
            .write_all(b"GET /orders HTTP/1.1\r\nhost: orders\r\n\r\n")
            .unwrap();
        let head = answer(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        if Instant::now() < end {
            took.push(due.elapsed());
        }
        due += Duration::from_secs(1) * CALLERS / RATE;
    }
    took
}

/// Reads one answer; gives its head.
fn answer(stream: &mut impl Read) -> String {
    let mut read = Vec::new();
    let mut block = [0; 4096];
    loop {
        let n = stream.read(&mut block).unwrap();
        assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&block[..n]);
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or_default() {
                return head.to_owned();
            }
        }
    }
}
