//! What records leave out, by the policy that decided.

use palisade_mesh::{
    catalogue::Service,
    operation::{Operation, OperationTable, Template},
    personal::Mask,
    wire::record::{Verdict, record::Body},
};
use tokio::io::AsyncWriteExt;

use super::support::{Capture, Client, Rules, Setting, Stage, id, loopback, service, start, until};
use crate::{
    config::{OutboundConfig, ProxyConfig},
    endpoints::{Endpoint, EndpointTable},
};

fn mask(names: &[&str]) -> Mask {
    Mask::of(names.iter().map(|name| name.parse().unwrap()))
}

/// `shop/orders`, which masks `of_service`, and of a file also `of_file`.
fn orders(of_service: &[&str], of_file: &[&str]) -> Service {
    let plain = service("orders", &[id("ns/shop/sa/orders")]);
    let own = mask(of_service);
    let file = Operation {
        mask: own.and(&mask(of_file)),
        template: Template::parse("/files/{name}").unwrap(),
        ..plain.operations.iter().next().unwrap().clone()
    };
    let others = plain.operations.iter().filter(|o| o.name != "file");
    let all = others.cloned().chain([Operation {
        name: "file".into(),
        ..file
    }]);
    Service {
        operations: OperationTable::new(all.collect()).unwrap(),
        mask: own,
        ..plain
    }
}

fn last(records: &Capture) -> (Verdict, Mask) {
    let all = records.masked().into_iter().rev();
    let mut decisions = all.filter_map(|(record, mask)| match record.body {
        Some(Body::Decision(decision)) => Some((decision.verdict(), mask)),
        _ => None,
    });
    decisions.next().expect("a decision was recorded")
}

/// The mask is that of the operation, of all of them where none is known, and of the revision
/// that decided.
#[tokio::test]
async fn a_decision_leaves_out_what_policy_says() {
    let stage = Stage::set(Setting::default()).await;
    let mut client = stage.h2().await;
    client.get("/public", &[]).await;
    assert_eq!(last(&stage.records), (Verdict::Allow, Mask::NONE));

    let masked = orders(&["query", "header:x-tenant"], &["path"]);
    let revision = Rules::shop().numbered(7).snapshot(vec![masked]);
    stage.policy.store(Some(revision));
    let own = mask(&["header:x-tenant", "query"]);
    let all = mask(&["header:x-tenant", "path", "query"]);
    let mut check = async |path: &str, verdict: Verdict, expected: &Mask| {
        client.get(path, &[]).await;
        let found = last(&stage.records);
        assert_eq!(found, (verdict, expected.clone()), "{path}");
    };
    check("/public?who=alice", Verdict::Allow, &own).await;
    check("/admin/x", Verdict::Forbidden, &own).await;
    check("/files/alice", Verdict::Allow, &all).await;
    check("/file/alice", Verdict::NotPermitted, &all).await;
    check("/files/%2e%2e%2falice", Verdict::Refused, &all).await;

    // The next revision holds for the next request.
    let narrower = Rules::shop()
        .numbered(8)
        .snapshot(vec![orders(&["query"], &[])]);
    stage.policy.store(Some(narrower));
    check("/files/alice", Verdict::Allow, &mask(&["query"])).await;

    // Bytes that are no HTTP leave a decision, too.
    let masked = orders(&["source_ip"], &["path"]);
    stage
        .policy
        .store(Some(Rules::shop().numbered(9).snapshot(vec![masked])));
    stage.raw("GET /files/alice\r\n\r\n").await;
    let expected = (Verdict::Refused, mask(&["path", "source_ip"]));
    until("a refusal is recorded", || last(&stage.records) == expected).await;
}

/// The policy is not there, so nobody can say what it masks.
#[tokio::test]
async fn without_a_snapshot_nothing_personal_is_recorded() {
    let stage = Stage::set(Setting::default()).await;
    stage.policy.store(None);
    let all = mask(&["path", "source_ip"]);
    let mut client = stage.h1().await;
    client.get("/files/alice", &[]).await;
    assert_eq!(last(&stage.records), (Verdict::Undecided, all.clone()));
    stage.raw("GET /files/alice\r\n\r\n").await;
    let expected = (Verdict::Refused, all.clone());
    until("a refusal is recorded", || last(&stage.records) == expected).await;
    knock(&stage).await;
    until("a failure", || failure(&stage.records) == Some(all.clone())).await;
}

/// A host that is not the service's may be that of any other.
#[tokio::test]
async fn a_request_to_another_host_leaves_out_what_any_service_does() {
    let stage = Stage::set(Setting::default()).await;
    let patients = Service {
        mask: mask(&["path"]),
        ..service("patients", &[id("ns/shop/sa/patients")])
    };
    let services = vec![orders(&["query"], &[]), patients];
    stage
        .policy
        .store(Some(Rules::shop().numbered(7).snapshot(services)));
    for (host, verdict, expected) in [
        ("orders", Verdict::Allow, mask(&["query"])),
        ("patients", Verdict::Refused, mask(&["path", "query"])),
        ("nowhere", Verdict::Refused, mask(&["path", "query"])),
    ] {
        let request = "GET /public/alice HTTP/1.1\r\nconnection: close\r\nhost:";
        stage.raw(format!("{request} {host}\r\n\r\n")).await;
        assert_eq!(last(&stage.records), (verdict, expected), "{host}");
    }
}

/// What is no TLS proves no identity.
async fn knock(stage: &Stage) {
    let stream = tokio::net::TcpStream::connect(stage.inbound()).await;
    let request = b"GET / HTTP/1.1\r\n\r\n";
    stream.unwrap().write_all(request).await.unwrap();
}

/// What the last failed handshake leaves out.
fn failure(records: &Capture) -> Option<Mask> {
    let all = records.masked().into_iter().rev();
    let mut of = all.filter(|(r, _)| matches!(r.body, Some(Body::AuthnFailure(_))));
    of.next().map(|(_, mask)| mask)
}

/// No service of the catalogue is the listener's: what any of them leaves out holds, and the
/// defaults. No request was made in a failed handshake: what only an operation masks stays.
#[tokio::test]
async fn all_hold_for_an_unknown_service_and_the_service_for_a_handshake() {
    let stage = Stage::set(Setting::default()).await;
    let patients = Service {
        mask: mask(&["path", "query", "source_ip"]),
        ..service("patients", &[id("ns/shop/sa/patients")])
    };
    let defaults = Rules::shop().masking(mask(&["path", "source_ip"]));
    stage
        .policy
        .store(Some(defaults.numbered(7).snapshot(vec![patients])));
    let mut client = stage.h1().await;
    client.get("/public", &[]).await;
    let any = mask(&["path", "query", "source_ip"]);
    assert_eq!(last(&stage.records), (Verdict::Undecided, any.clone()));
    knock(&stage).await;
    until("a failure", || {
        failure(&stage.records).as_ref() == Some(&any)
    })
    .await;

    let masked = orders(&["source_ip"], &["query"]);
    stage
        .policy
        .store(Some(Rules::shop().numbered(8).snapshot(vec![masked])));
    knock(&stage).await;
    let of_service = Some(mask(&["source_ip"]));
    until("a failure", || failure(&stage.records) == of_service).await;
}

/// Whoever calls records the path, too, and knows the destination's operations.
#[tokio::test]
async fn a_call_leaves_out_what_its_destination_does() {
    let stage = Stage::new().await;
    let destination = orders(&[], &["path"]);
    let address = stage.inbound();
    let endpoint = Endpoint {
        address,
        identity: id("ns/shop/sa/orders"),
    };
    let table = EndpointTable::new(1, [(destination.id.clone(), endpoint)]);
    let records = Capture::default();
    let config = ProxyConfig {
        workers: 1,
        outbound: Some(OutboundConfig { listen: loopback() }),
        ..ProxyConfig::default()
    };
    let proxy = start(
        config,
        &stage.authority.identity("ns/shop/sa/web"),
        &Rules::shop().slot(vec![destination]),
        &table.shared(),
        &records,
    );
    let mut client = Client::plain_h1(proxy.outbound.unwrap()).await;
    for path in ["/public", "/files/alice", "/file/alice"] {
        client.get(path, &[]).await;
    }
    let calls = || {
        let all = records.masked().into_iter();
        let of = all.filter_map(|(record, mask)| match record.body {
            Some(Body::Call(call)) => Some((call.path, mask)),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    until("three calls", || calls().len() == 3).await;
    let path = mask(&["path"]);
    let expected = [
        ("/public".to_owned(), Mask::NONE),
        ("/files/alice".to_owned(), path.clone()),
        ("/file/alice".to_owned(), path),
    ];
    assert_eq!(calls(), expected);
}
