//! Open streams when policy, trust or time changes under them (invariant 8).

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use palisade_mesh::{
    decision::Verdict,
    svid::Identity,
    wire::record::{Rejudgement, Verdict as Wire, outcome::End},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{
    App, Authority, Client, Rules, Setting, Stage, id, service, soon, start_outbound, until,
};
use crate::endpoints::{Endpoint, EndpointTable};

/// How soon a stream ends that may not go on.
const BOUND: Duration = Duration::from_secs(1);

const UPGRADE: [(&str, &str); 3] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-key", "x"),
];

impl Stage {
    /// Puts other rules in force for the same service.
    fn rule(&self, rules: &Rules) {
        let orders = service("orders", &[id("ns/shop/sa/orders")]);
        self.policy.store(Some(rules.snapshot(vec![orders])));
    }

    /// A caller of the web shop whose certificate ends after `ttl`.
    fn web_for(&self, ttl: Duration) -> Identity {
        let identity = self.authority.identity("ns/shop/sa/web");
        let short = self.authority.svid("ns/shop/sa/web", ttl);
        identity.replace(short, self.authority.bundle()).unwrap();
        identity
    }

    /// The only re-judgement of the last decision.
    async fn rejudgement(&self) -> Rejudgement {
        let id = self.records.decisions().pop().expect("a decision").0.id;
        let find = || {
            let mut all = self.records.rejudgements();
            all.retain(|(r, _)| r.id == id);
            all
        };
        until("a re-judgement is recorded", || !find().is_empty()).await;
        assert_eq!(find().len(), 1, "{:?}", find());
        find().pop().unwrap().1
    }
}

/// Opens a stream and waits for its first bytes.
async fn open(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Incoming {
    let request = client.request(path, fields);
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let frame = soon(body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first");
    body
}

/// How a stream ends: its trailers' status, or the error.
async fn ended(mut body: Incoming) -> Result<String, hyper::Error> {
    loop {
        let Some(frame) = soon(body.frame()).await else {
            return Ok("whole".into());
        };
        if let Ok(trailers) = frame?.into_trailers() {
            return Ok(trailers["grpc-status"].to_str().unwrap().to_owned());
        }
    }
}

type Socket = TokioIo<hyper::upgrade::Upgraded>;

async fn websocket(client: &mut Client) -> Socket {
    let request = client.request("/public/ws", &UPGRADE);
    let mut response = client.send(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    echo(&mut io).await;
    io
}

async fn echo(io: &mut Socket) {
    io.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    soon(io.read_exact(&mut echo)).await.unwrap();
    assert_eq!(&echo, b"ping");
}

async fn closed(mut io: Socket) {
    let mut rest = Vec::new();
    let _ = soon(io.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_policy_change_ends_what_it_forbids_over_http_1_and_2() {
    let stage = Stage::new().await;
    for mut client in [stage.h1().await, stage.h2().await] {
        stage.rule(&Rules::shop());
        let body = open(&mut client, "/public/drip", &[]).await;
        let changed = Instant::now();
        stage.rule(&Rules::nothing());
        assert!(ended(body).await.is_err());
        assert!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
        let outcome = stage.records.outcome().await;
        assert_eq!(
            (outcome.end(), &*outcome.error),
            (End::Rejudged, "no_permit")
        );
        let told = stage.rejudgement().await;
        assert_eq!((told.verdict(), told.closed), (Wire::NotPermitted, true));
        assert_eq!((&*told.cause, &*told.reason), ("policy", "no_permit"));
        assert_eq!(told.versions.unwrap().policy_sequence, 2);
    }
}

#[tokio::test]
async fn a_stream_that_stays_allowed_stays_open_and_its_record_says_so() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let mut socket = websocket(&mut client).await;
    stage.rule(&Rules::shop().numbered(7));
    let told = stage.rejudgement().await;
    assert_eq!((told.verdict(), told.closed), (Wire::Allow, false));
    assert_eq!(told.versions.unwrap().policy_sequence, 7);
    assert_eq!(told.policies, ["p1"]);
    echo(&mut socket).await;
    assert!(stage.records.outcomes().is_empty());
}

#[tokio::test]
async fn a_websocket_ends_with_its_permit() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let socket = websocket(&mut client).await;
    let changed = Instant::now();
    stage.rule(&Rules::nothing());
    closed(socket).await;
    assert!(changed.elapsed() < BOUND);
    assert_eq!(stage.records.outcome().await.end(), End::Rejudged);
    assert!(stage.rejudgement().await.closed);
}

/// A gRPC caller is told why, after the head has gone.
#[tokio::test]
async fn a_grpc_stream_ends_in_a_status() {
    let stage = Stage::with_app(Setting::default(), App::start_h2().await).await;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let mut client = stage.h2().await;
    let body = open(&mut client, "/public/grpc-drip", &grpc).await;
    stage.rule(&Rules::nothing());
    assert_eq!(ended(body).await.unwrap(), "7");
    assert_eq!(stage.records.outcome().await.end(), End::Rejudged);
    // The connection goes on; only the stream was ended.
    stage.rule(&Rules::shop());
    assert_eq!(client.get("/public", &[]).await.status, 200);
}

/// No snapshot, and an engine that fails: what cannot be decided again, ends.
#[tokio::test]
async fn what_cannot_be_decided_again_ends() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    let body = open(&mut client, "/public/drip", &[]).await;
    stage.policy.store(None);
    assert!(ended(body).await.is_err());
    let told = stage.rejudgement().await;
    assert_eq!(
        (told.verdict(), &*told.reason),
        (Wire::Undecided, "no_snapshot")
    );
    stage.rule(&Rules::shop());
    let body = open(&mut client, "/public/drip", &[]).await;
    stage.rule(&Rules::new(|_| panic!("a broken engine")).numbered(2));
    assert!(ended(body).await.is_err());
    assert_eq!(stage.rejudgement().await.reason, "engine_failed");
    // Whoever judges again has survived that.
    stage.rule(&Rules::shop());
    let body = open(&mut client, "/public/drip", &[]).await;
    stage.rule(&Rules::nothing());
    assert!(ended(body).await.is_err());
}

/// A caller that has been told nothing yet is told the new answer.
#[tokio::test]
async fn a_request_that_waits_for_its_answer_is_refused() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    let request = client.request("/public/hang", &[]);
    let asked = tokio::spawn(async move { client.send(request).await.unwrap() });
    until("it is under way", || stage.app.seen().len() == 1).await;
    stage.rule(&Rules::nothing());
    let response = soon(asked).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["palisade-refused"], "no_permit");
    let outcome = stage.records.outcome().await;
    assert_eq!((outcome.status, outcome.end()), (403, End::Rejudged));
}

/// T44, T102: connections that rest on a root end when the bundle loses it, idle
/// ones too.
#[tokio::test]
async fn a_root_that_leaves_the_bundle_takes_its_connections_along() {
    let stage = Stage::new().await;
    let mut idle = stage.h2().await;
    assert_eq!(idle.status("/public").await, 200);
    let (mut first, mut second) = (stage.h1().await, stage.h2().await);
    let socket = websocket(&mut first).await;
    let body = open(&mut second, "/public/drip", &[]).await;
    let other = Authority::new();
    let changed = Instant::now();
    let svid = other.svid("ns/shop/sa/orders", Duration::from_secs(600));
    stage.identity.replace(svid, other.bundle()).unwrap();
    assert!(ended(body).await.is_err());
    closed(socket).await;
    until("every connection is closed", || {
        stage.proxy.counters().connections == 0
    })
    .await;
    assert!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
    until("both are recorded", || {
        stage.records.rejudgements().len() == 2
    })
    .await;
    for (_, told) in stage.records.rejudgements() {
        assert_eq!((&*told.cause, &*told.reason), ("trust", "peer_untrusted"));
        assert!(told.closed);
    }
    let ends: Vec<_> = stage.records.outcomes();
    assert_eq!(
        ends.iter()
            .filter(|(_, o)| o.end() == End::Rejudged)
            .count(),
        2
    );
}

/// A new certificate under the same root, and a bundle with one root more, end
/// nothing.
#[tokio::test]
async fn a_rotation_that_keeps_the_root_ends_nothing() {
    let stage = Stage::new().await;
    let mut client = stage.h1().await;
    let mut socket = websocket(&mut client).await;
    let mut bundle = stage.authority.bundle();
    bundle.roots.extend(Authority::new().bundle().roots);
    let svid = stage
        .authority
        .svid("ns/shop/sa/orders", Duration::from_secs(600));
    stage.identity.replace(svid, bundle).unwrap();
    assert_eq!(stage.h1().await.status("/public").await, 200);
    echo(&mut socket).await;
    assert!(stage.records.rejudgements().is_empty());
}

/// The door for a kill list: handshakes are refused, what is open ends, others
/// are left alone.
#[tokio::test]
async fn a_barred_peer_loses_its_connections() {
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    let body = open(&mut client, "/public/drip", &[]).await;
    let serial = stage.records.decision().principal.unwrap().serial;
    let mut other = stage.h1().await;
    let mut socket = websocket(&mut other).await;
    let changed = Instant::now();
    let barred = serial.clone();
    stage.rule(
        &Rules::shop()
            .barring(move |facts| (*facts.peer.serial == *barred).then_some("serial_killed")),
    );
    assert!(ended(body).await.is_err());
    assert!(changed.elapsed() < BOUND);
    let request = client.request("/public", &[]);
    assert!(client.send(request).await.is_err());
    echo(&mut socket).await;
    let told = stage.records.rejudgements();
    let (_, told) = told.iter().find(|(_, r)| r.closed).unwrap();
    assert_eq!(
        (&*told.cause, &*told.reason),
        ("kill_list", "serial_killed")
    );
    stage.rule(&Rules::shop().barring(|facts| {
        let web = id("ns/shop/sa/web");
        (facts.peer.id == web).then_some("identity_killed")
    }));
    closed(socket).await;
    let web = stage.authority.identity("ns/shop/sa/web");
    let mut stream = super::support::client::tls(stage.inbound(), &web, b"h2")
        .await
        .unwrap();
    let _ = soon(stream.read(&mut [0; 64])).await;
    until("the handshake is refused", || {
        stage
            .records
            .failures()
            .iter()
            .any(|f| f.reason == "identity_killed")
    })
    .await;
}

/// T102: a permit that the clock ends takes its streams along; before that the
/// clock leaves no record.
#[tokio::test]
async fn a_stream_ends_when_the_clock_ends_its_permit() {
    let stage = Stage::new().await;
    let end = jiff::Timestamp::now().as_microsecond() + 700_000;
    stage.rule(&Rules::shop().until(end));
    let mut client = stage.h2().await;
    let body = open(&mut client, "/public/drip", &[]).await;
    assert!(ended(body).await.is_err());
    let late = jiff::Timestamp::now().as_microsecond() - end;
    assert!((0..1_000_000).contains(&late), "{late}");
    let told = stage.rejudgement().await;
    assert_eq!(
        (&*told.cause, told.verdict()),
        ("deadline", Wire::NotPermitted)
    );
    assert_eq!(stage.records.outcome().await.end(), End::Rejudged);
}

/// The caller's certificate is the last bound of all that is open on it.
#[tokio::test]
async fn a_stream_ends_with_the_caller_s_certificate() {
    let stage = Stage::with_app(Setting::default(), App::start_h2().await).await;
    let web = stage.web_for(Duration::from_secs(2));
    let end = web.not_after_s();
    let mut client = Client::h2(stage.inbound(), &web).await;
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let body = open(&mut client, "/public/grpc-drip", &grpc).await;
    assert_eq!(ended(body).await.unwrap(), "14");
    let late = jiff::Timestamp::now().as_microsecond() - end * 1_000_000;
    assert!((0..1_000_000).contains(&late), "{late}");
    let told = stage.rejudgement().await;
    assert_eq!(
        (&*told.cause, &*told.reason),
        ("deadline", "certificate_ended")
    );
    assert!(told.closed);
    assert_eq!(stage.records.outcome().await.end(), End::Deadline);
    until("the connection is closed", || {
        stage.proxy.counters().connections == 0
    })
    .await;
}

/// A stream is bounded by its age, an answer that is awaited by the timeout.
#[tokio::test]
async fn a_stream_outlives_the_request_timeout_and_not_its_age() {
    let mut setting = Setting {
        timeout: Duration::from_millis(300),
        ..Setting::default()
    };
    setting.config.limits.stream_age = Duration::from_millis(1200);
    let stage = Stage::set(setting).await;
    let mut client = stage.h1().await;
    let opened = Instant::now();
    let socket = websocket(&mut client).await;
    closed(socket).await;
    let age = opened.elapsed();
    assert!((1200..2200).contains(&age.as_millis()), "{age:?}");
    let told = stage.rejudgement().await;
    assert_eq!((&*told.cause, &*told.reason), ("deadline", "stream_age"));
    assert_eq!(stage.records.outcome().await.end(), End::Deadline);
    // A download is no stream.
    let mut client = stage.h2().await;
    let body = open(&mut client, "/public/drip", &[]).await;
    assert!(ended(body).await.is_err());
    assert_eq!(stage.records.outcome().await.end(), End::TimedOut);
}

/// Only of what opens a stream every field is kept: when policies begin to read
/// one more, whatever else is open cannot be decided again.
#[tokio::test]
async fn a_field_that_was_not_kept_makes_no_guess() {
    let stage = Stage::new().await;
    let (mut first, mut second) = (stage.h1().await, stage.h2().await);
    let mut socket = websocket(&mut first).await;
    let body = open(&mut second, "/public/drip", &[("x-role", "clerk")]).await;
    let banned = Rules::new(|q| match q.headers.contains_key("x-badge") {
        true => Verdict::Forbidden,
        false => Verdict::Allow,
    });
    stage.rule(&banned.clone().numbered(2));
    until("both are judged", || {
        stage.records.rejudgements().len() == 2
    })
    .await;
    stage.rule(&banned.numbered(3).declaring("x-badge"));
    assert!(ended(body).await.is_err());
    echo(&mut socket).await;
    let all = stage.records.rejudgements();
    let closed: Vec<_> = all.iter().filter(|(_, r)| r.closed).collect();
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].1.reason, "header_unknown");
}

/// A caller that does not read is cut in time, too.
#[tokio::test]
async fn a_caller_that_does_not_read_is_cut_when_it_may_no_more() {
    let stage = Stage::new().await;
    let identity = stage.authority.identity("ns/shop/sa/web");
    let mut h2 = Client::h2_with_window(stage.inbound(), &identity, 1024).await;
    let mut request = h2.request("/public", &[]);
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = vec![b'x'; 4 << 20].into();
    let response = h2.send(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let changed = Instant::now();
    stage.rule(&Rules::nothing());
    until("the connection is closed", || {
        stage.proxy.counters().connections == 0
    })
    .await;
    assert!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
    assert_eq!(stage.records.outcome().await.end(), End::Rejudged);
}

/// RFC 8441: authorized on its path, as over HTTP/1.1, and ended like it.
#[tokio::test]
async fn a_websocket_over_http_2_is_one_of_its_path() {
    let connect = |path: &str, protocol: &'static str| {
        let protocol = hyper::ext::Protocol::from_static(protocol);
        let mut request = http::Request::connect(format!("https://orders{path}"))
            .body(Default::default())
            .unwrap();
        request.extensions_mut().insert(protocol);
        request
    };
    let stage = Stage::new().await;
    let mut client = stage.h2().await;
    // With its answer the settings have come that allow it.
    assert_eq!(client.status("/public").await, 200);
    let denied = client
        .send(connect("/admin/ws", "websocket"))
        .await
        .unwrap();
    assert_eq!(denied.status(), 403);
    let decision = stage.records.decision();
    assert_eq!((&*decision.method, &*decision.path), ("GET", "/admin/ws"));
    let unknown = client
        .send(connect("/public/ws", "connect-udp"))
        .await
        .unwrap();
    assert_eq!(unknown.status(), 501);
    assert_eq!(stage.records.decision().verdict(), Wire::Refused);

    let mut response = client
        .send(connect("/public/ws", "websocket"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut socket = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    echo(&mut socket).await;
    let changed = Instant::now();
    stage.rule(&Rules::nothing());
    closed(socket).await;
    assert!(changed.elapsed() < BOUND);
    let outcome = stage.records.outcome().await;
    assert_eq!((outcome.end(), outcome.bytes_in), (End::Rejudged, 4));

    // An application that speaks HTTP/2 has no WebSockets here.
    let stage = Stage::with_app(Setting::default(), App::start_h2().await).await;
    let mut client = stage.h2().await;
    assert_eq!(client.status("/public").await, 200);
    let refused = client
        .send(connect("/public/ws", "websocket"))
        .await
        .unwrap();
    assert_eq!(refused.headers()["palisade-refused"], "upgrade_unsupported");
}

/// The outbound side of the web shop, which knows `stage` as `orders`.
fn outbound(stage: &Stage) -> (crate::RunningProxy, Identity) {
    let identity = stage.authority.identity("ns/shop/sa/web");
    let orders = service("orders", &[id("ns/shop/sa/orders")]);
    let endpoint = Endpoint {
        address: stage.inbound(),
        identity: id("ns/shop/sa/orders"),
    };
    let table = EndpointTable::new(1, [(orders.id.clone(), endpoint)]);
    let policy = Rules::shop().slot(vec![orders]);
    (
        start_outbound(&identity, &policy, &table.shared()),
        identity,
    )
}

/// T19, T70, T71 across the mesh: the destination decides, only a 101 switches.
#[tokio::test]
async fn a_websocket_travels_through_both_proxies() {
    let stage = Stage::new().await;
    let (proxy, _) = outbound(&stage);
    let address = proxy.outbound.unwrap();
    let mut client = Client::plain_h1(address).await;
    let denied = client.get("/admin/ws", &UPGRADE).await;
    assert_eq!(
        (denied.status, denied.header("palisade-refused")),
        (403, "forbidden")
    );
    let plain = Client::plain_h1(address)
        .await
        .get("/public/switch", &UPGRADE)
        .await;
    assert_eq!((plain.status, &*plain.body), (200, "no"));
    let socket = websocket(&mut Client::plain_h1(address).await).await;
    assert_eq!(stage.records.decision().path, "/public/ws");
    let changed = Instant::now();
    stage.rule(&Rules::nothing());
    closed(socket).await;
    assert!(changed.elapsed() < BOUND);
    let outcome = stage.records.outcome().await;
    assert_eq!((outcome.status, outcome.end()), (101, End::Rejudged));
    assert_eq!((outcome.bytes_in, outcome.bytes_out), (4, 4));
}

/// The calling side, too, ends what rests on a root that it trusts no more.
#[tokio::test]
async fn connections_to_other_proxies_end_with_their_root() {
    let stage = Stage::new().await;
    let (proxy, identity) = outbound(&stage);
    let address = proxy.outbound.unwrap();
    let socket = websocket(&mut Client::plain_h1(address).await).await;
    let mut client = Client::plain_h2(address).await;
    let body = open(&mut client, "/public/drip", &[]).await;
    let other = Authority::new();
    let changed = Instant::now();
    let svid = other.svid("ns/shop/sa/web", Duration::from_secs(600));
    identity.replace(svid, other.bundle()).unwrap();
    assert!(ended(body).await.is_err());
    closed(socket).await;
    assert!(changed.elapsed() < BOUND, "{:?}", changed.elapsed());
    let reply = client.get("/public", &[]).await;
    assert_eq!(reply.header("palisade-refused"), "peer_identity");
}
