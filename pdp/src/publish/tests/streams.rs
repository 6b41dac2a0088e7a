//! Revisions on their way to proxies.

use super::*;

#[tokio::test]
async fn a_proxy_gets_the_revision_at_once_and_on_change_and_acknowledges() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
    until(&mut proxy.seen.state, "first", |s| {
        s.sequence == 1 && s.connected
    })
    .await;
    let text = format!("@id(\"x\")\n{PERMIT}");
    sample::write(mesh.dir.path(), "policies/x.cedar", &text);
    until(&mut proxy.seen.state, "second", |s| s.sequence == 2).await;
    assert_eq!(*proxy.applied.lock().unwrap(), [1, 2]);
    eventually("acknowledged, with status", || {
        mesh.distribution.proxies().iter().any(|p| {
            p.acked_sequence == 2
                && p.connected
                && p.nack.is_none()
                && p.status.as_ref().is_some_and(|s| s.requests == 7)
                && p.identity.as_str() == WEB
                && p.instance == "proxy-1"
        })
    })
    .await;
}

/// A status is answered: the snapshot is confirmed and clocks are compared.
#[tokio::test]
async fn the_pdp_confirms_what_is_the_newest_and_nothing_else() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let mut good = proxy(pdp.connect(), state.path(), &[], false);
    until(&mut good.seen.state, "first", |s| s.sequence == 1).await;
    let from = good.seen.freshness.confirmed_us().unwrap();
    eventually("confirmed again", || {
        good.seen.freshness.confirmed_us().unwrap() > from
    })
    .await;
    until(&mut good.seen.state, "the clock", |s| {
        s.clock_ahead_us.is_some_and(|us| us.abs() < 5_000_000)
    })
    .await;
    eventually("the other clock", || {
        let proxies = mesh.distribution.proxies();
        proxies.iter().any(|p| p.clock_ahead_us.is_some())
    })
    .await;
    let elsewhere = tempfile::tempdir().unwrap();
    let mut refusing = proxy(pdp.connect(), elsewhere.path(), &[], true);
    until(&mut refusing.seen.state, "an answer", |s| {
        s.clock_ahead_us.is_some()
    })
    .await;
    assert_eq!(refusing.seen.freshness.age(), None);
}

/// An address that changes while the stream is open.
#[tokio::test]
async fn announcements_are_replaced_on_an_open_stream() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
    until(&mut proxy.seen.state, "first", |s| s.sequence == 1).await;
    for address in ["10.0.0.1:443", "10.0.0.2:443"] {
        proxy.seen.tell.announce(vec![Announcement {
            service: "shop/web".to_owned(),
            address: address.to_owned(),
        }]);
        until(&mut proxy.seen.endpoints, "the new address", |e| {
            let own: Vec<_> = e.endpoints.iter().filter(|e| e.identity == WEB).collect();
            own.len() == 1 && own[0].address == address
        })
        .await;
    }
    *proxy.draining.lock().unwrap() = true;
    proxy.seen.tell.status();
    until(&mut proxy.seen.endpoints, "withdrawn", |e| {
        e.endpoints.iter().all(|e| e.identity != WEB)
    })
    .await;
}

#[tokio::test]
async fn a_refused_revision_is_known_to_the_pdp_and_recorded() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let proxy = proxy(pdp.connect(), state.path(), &[], true);
    eventually("nack", || {
        mesh.distribution.proxies().iter().any(|p| {
            let nack = p.nack.as_ref();
            nack.is_some_and(|n| n.code == "PLS3001" && n.sequence == 1) && p.acked_sequence == 0
        })
    })
    .await;
    assert!(proxy.seen.revision.borrow().is_none());
    let verbs = mesh.records.verbs();
    assert!(
        verbs.contains(&"revision_refused PLS3001: engine lacks a feature".to_owned()),
        "{verbs:?}"
    );
}

/// Invariant 9: without any PDP the last good revision is in force.
#[tokio::test]
async fn a_proxy_starts_from_disk_when_no_pdp_is_there() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let mut first = proxy(pdp.connect(), state.path(), &[], false);
    until(&mut first.seen.state, "first", |s| s.sequence == 1).await;
    let address = pdp.address;
    drop((first, pdp));
    let mut second = proxy(connect(address), state.path(), &[], false);
    let seen = until(&mut second.seen.state, "from disk", |s| {
        s.sequence == 1 && s.last_error.is_some()
    })
    .await;
    assert!(seen.from_disk && !seen.connected);
    assert_eq!(seen.last_error.unwrap().code.0, codes::UNREACHABLE);
    assert_eq!(*second.applied.lock().unwrap(), [1]);
    drop(second);

    // And once a PDP is back, what is the same is not put in force again.
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let mut third = proxy(pdp.connect(), state.path(), &[], false);
    until(&mut third.seen.state, "confirmed", |s| {
        s.connected && !s.from_disk
    })
    .await;
    assert_eq!(*third.applied.lock().unwrap(), [1]);
}

#[tokio::test]
async fn who_has_no_identity_or_a_foreign_one_gets_nothing() {
    let mesh = Mesh::start().await;
    for (peer, told) in [
        (None, "connection has no SPIFFE identity"),
        (
            Some("spiffe://evil.test/ns/shop/sa/web"),
            "policy is for proxies of its own trust domain",
        ),
        // Of the trust domain, but no service: policies tell who guards what.
        (
            Some("spiffe://demo.test/ns/shop/sa/stranger"),
            "PLS4130: `spiffe://demo.test/ns/shop/sa/stranger` may not subscribe here: no link policy permits it",
        ),
        (
            Some("spiffe://demo.test/palisade/agent/host-2"),
            "PLS4130: `spiffe://demo.test/palisade/agent/host-2` may not subscribe here: no link policy permits it",
        ),
    ] {
        let pdp = Pdp::serve(&mesh.distribution, peer).await;
        let state = tempfile::tempdir().unwrap();
        let mut proxy = proxy(pdp.connect(), state.path(), &[], false);
        let seen = until(&mut proxy.seen.state, told, |s| s.last_error.is_some()).await;
        assert_eq!(seen.last_error.unwrap().cause.as_deref(), Some(told));
    }
    assert!(mesh.distribution.proxies().is_empty());
}
