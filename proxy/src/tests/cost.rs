//! What it costs an ordinary request that it can be judged again.

use std::{cell::RefCell, hint::black_box, rc::Rc, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue};
use palisade_mesh::{
    canonical::{CanonicalRequest, RawRequest},
    catalogue::{DeclaredHeader, HeaderShape},
    decision::{Answer, Connection, Decision, DecisionIds, TlsFacts, Verdict},
    svid::peer_of_chain,
    wire::record::AuditMode,
};

use super::support::{Authority, loopback};
use crate::{
    connection::{Control, Kind},
    exchange::Decided,
    hosts::HostCache,
    inbound::Caller,
};

/// Run by hand: `cargo test --release -p palisade-proxy --lib cost -- --ignored
/// --nocapture`. The bar is 3 % of the CPU time of a request, which is 20 µs and
/// more (docs/performance.md).
#[test]
#[ignore = "a measurement"]
fn of_being_judged_again() {
    const TIMES: u32 = 1_000_000;
    let svid = Authority::new().identity("ns/shop/sa/web").svid();
    let caller = Rc::new(Caller {
        connection: Connection {
            peer: peer_of_chain(&svid.chain).unwrap(),
            source: loopback(),
            tls: TlsFacts {
                version: "1.3",
                mtls: true,
                sni: None,
                alpn: None,
            },
        },
        control: Rc::new(Control::endless(Arc::default(), Kind::Http2)),
        client_cert: HeaderValue::from_static(""),
        source: "shop/web".into(),
        allowed: Arc::default(),
        hosts: HostCache::default(),
        pins: RefCell::default(),
        tried_pins: RefCell::default(),
    });
    let declared: Rc<[DeclaredHeader]> = ["x-tenant", "x-role"]
        .map(|name| DeclaredHeader {
            name: name.into(),
            shape: HeaderShape::List,
        })
        .into();
    let mut headers = HeaderMap::new();
    for name in ["accept", "user-agent", "x-request-id", "cookie", "x-tenant"] {
        headers.insert(name, HeaderValue::from_static("value"));
    }
    let answer = Answer {
        decision: Arc::new(Decision {
            verdict: Verdict::Allow,
            action: "GET".into(),
            resource_type: "Operation",
            resource_id: "x".into(),
            determining: vec![],
            errors: vec![],
            shadow_permits: vec![],
            deny_message: None,
            help_url: None,
            context_json: "{}".into(),
            valid_until_us: None,
        }),
        cached: true,
    };
    let request = CanonicalRequest::new(RawRequest {
        method: "GET",
        authority: None,
        host: Some("orders"),
        path: "/orders/42",
        query: None,
    })
    .unwrap();
    let mut ids = DecisionIds::new();
    let started = Instant::now();
    for n in 0..TIMES {
        let id = ids.next(n.into());
        let request = black_box(request.clone());
        let mut decided = Decided::new(id, AuditMode::Spool, caller.clone(), request, 1);
        decided.hold(Some(&black_box(answer.clone())));
        decided.keep(&headers, Some(declared.clone()), false);
        black_box(caller.control.enters(1));
        black_box(&decided);
    }
    println!("{:?} for each request", started.elapsed() / TIMES);
}
