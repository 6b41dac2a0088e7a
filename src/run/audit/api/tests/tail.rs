//! A tail: what its reader gets, and when it ends.

use std::sync::atomic::{AtomicBool, Ordering};

use palisade_mesh::kill::Target;

use super::*;

/// A proof that ends, ends a tail, too; and whoever is barred does not come in.
#[tokio::test]
async fn who_is_no_longer_proven_or_barred_gets_nothing_more() {
    let service = Service::ready().await;
    let office = service.office();
    let good = Arc::new(AtomicBool::new(true));
    let is_good = good.clone();
    let caller = service.caller_while(&office, AUDITOR, move || is_good.load(Ordering::Relaxed));
    let tailing = service.ask_by(&office, Some(caller.clone()), "GET", "/v1/audit/tail");
    good.store(false, Ordering::Relaxed);
    let reply = tailing.await;
    assert!(reply.text().contains("no longer proven"), "{reply:?}");
    let told = office.enter(&caller).unwrap_err();
    assert_eq!((told.status.as_u16(), told.told.code.0), (401, 7904));
    good.store(true, Ordering::Relaxed);
    assert!(office.enter(&caller).is_ok());
    let entry = Entry {
        id: ulid::Ulid::generate(),
        target: Target::Identity(caller.id.clone()),
        reason: "lost".into(),
        author: "ana".into(),
        created_us: 0,
        expires_us: None,
    };
    service
        .kill
        .send_replace(held(&service.config, vec![entry]));
    let told = office.enter(&caller).unwrap_err();
    assert_eq!((told.status.as_u16(), told.told.code.0), (403, 7905));
    assert!(office.enter(&service.caller(&office, ORDERS)).is_ok());
}

/// A tail gives what arrives, kept to what its reader may see.
#[tokio::test]
async fn a_tail_shows_what_arrives_and_its_reader_may_see() {
    let service = Service::ready().await;
    let office = service.office_within(Bounds {
        tail: Duration::from_secs(2),
        ..Bounds::of(&service.section)
    });
    let caller = service.caller(&office, ORDERS);
    let visit = Visit {
        caller: Some(caller),
        request: RequestId::of(&HeaderMap::new()),
    };
    let mut request = AxumRequest::builder()
        .uri("/v1/audit/tail")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(visit);
    let answer = router(&office).oneshot(request).await.unwrap();
    // It follows from before its head was sent.
    let reporter = service.config.trust_domain.id(ORDERS).unwrap();
    let sink = LocalSink::new(service.role.log.clone(), reporter, Clock::system());
    let mut stream = sink.open(0);
    for name in ["acme.test/bank/accounts", "acme.test/shop/orders"] {
        let record = Record {
            time_us: Clock::system().now_us(),
            body: Some(decision(name, 1)),
            ..Record::default()
        };
        stream.append(&record).unwrap();
    }
    stream.flush();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let lines: Vec<Value> = String::from_utf8(body.to_vec())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    lines
        .iter()
        .for_each(|line| schema::check("TailLine", line));
    let services: Vec<&str> = lines.iter().filter_map(|l| l["service"].as_str()).collect();
    assert_eq!(services, ["acme.test/shop/orders"], "{lines:?}");
    let rows = service.rows("class:audit_read verb:tail").await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(rows[0]["rows"], 1);
    assert_eq!(rows[1]["begun"], true);
}
