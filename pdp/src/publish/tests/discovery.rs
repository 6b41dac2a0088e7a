//! Endpoints: announced, found, and gone.

use super::*;

fn listed(endpoints: &Endpoints) -> Vec<(String, String, String)> {
    let all = endpoints.endpoints.iter();
    all.map(|e| (e.service.clone(), e.address.clone(), e.identity.clone()))
        .collect()
}

fn web(address: &str) -> (String, String, String) {
    (
        "demo.test/shop/web".to_owned(),
        address.to_owned(),
        WEB.to_owned(),
    )
}

/// Attack T98.
#[tokio::test]
async fn only_what_the_identity_entitles_to_is_announced_and_it_ends_with_the_stream() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let announced = [
        ("shop/web", "127.0.0.1:9001"),
        ("shop/payments", "127.0.0.1:9001"),
        ("shop/none", "127.0.0.1:9001"),
        ("shop/web", "0.0.0.0:9001"),
        ("shop/web", "127.0.0.1:0"),
        ("shop/web", "localhost:9001"),
    ];
    let mut endpoints = mesh.distribution.endpoints();
    let mut proxy = proxy(pdp.connect(), state.path(), &announced, false);
    let seen = until(&mut proxy.seen.endpoints, "announced", |e| {
        !e.endpoints.is_empty()
    })
    .await;
    assert_eq!(listed(&seen), [web("127.0.0.1:9001")]);
    let refused: Vec<_> = mesh
        .records
        .verbs()
        .into_iter()
        .filter(|v| v.starts_with("announcement_refused PLS3005"))
        .collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused
            .iter()
            .any(|r| r.contains("is not an identity of `shop/payments`"))
    );
    eventually("reasons in the registry", || {
        mesh.distribution
            .proxies()
            .iter()
            .any(|p| p.refused.len() == 5)
    })
    .await;
    let before = seen.version;
    drop(proxy);
    let gone = until(&mut endpoints, "withdrawn", |e| {
        e.endpoints.is_empty() && e.version > before
    })
    .await;
    assert!(gone.version > before);
}

/// Invariant 9, on both sides: a proxy knows the others before it reaches a PDP,
/// and a PDP knows them before they have come back.
#[tokio::test]
async fn endpoints_survive_restarts() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let (state, address) = (tempfile::tempdir().unwrap(), pdp.address);
    let announced = [("shop/web", "127.0.0.1:9001")];
    let mut first = proxy(pdp.connect(), state.path(), &announced, false);
    until(&mut first.seen.endpoints, "announced", |e| {
        e.endpoints.len() == 1
    })
    .await;
    let (of_proxy, of_pdp) = (state.path(), mesh.state.path());
    for kept in [of_proxy, of_pdp] {
        eventually("kept", || {
            let kept = Keep::open(kept).unwrap().load_endpoints().unwrap();
            kept.is_some_and(|e| e.endpoints.len() == 1)
        })
        .await;
    }
    let after = tempfile::tempdir().unwrap();
    let name = "endpoints.pb";
    fs::copy(of_pdp.join(name), after.path().join(name)).unwrap();
    drop((first, pdp));

    let mut second = proxy(connect(address), state.path(), &[], false);
    let seen = until(&mut second.seen.endpoints, "from disk", |e| {
        !e.endpoints.is_empty()
    })
    .await;
    assert_eq!(listed(&seen), [web("127.0.0.1:9001")]);

    let restarted = Mesh::start_in(after).await;
    let mut endpoints = restarted.distribution.endpoints();
    assert_eq!(listed(&endpoints.borrow()), [web("127.0.0.1:9001")]);
    until(&mut endpoints, "withdrawn", |e| e.endpoints.is_empty()).await;
}

#[tokio::test]
async fn a_draining_proxy_is_withdrawn_at_once() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let mut proxy = proxy(
        pdp.connect(),
        state.path(),
        &[("shop/web", "127.0.0.1:9001")],
        false,
    );
    until(&mut proxy.seen.endpoints, "announced", |e| {
        e.endpoints.len() == 1
    })
    .await;
    *proxy.draining.lock().unwrap() = true;
    until(&mut proxy.seen.endpoints, "withdrawn", |e| {
        e.endpoints.is_empty()
    })
    .await;
    *proxy.draining.lock().unwrap() = false;
    until(&mut proxy.seen.endpoints, "back", |e| {
        e.endpoints.len() == 1
    })
    .await;
}

/// The catalogue decides anew with every revision.
#[tokio::test]
async fn endpoints_follow_the_catalogue() {
    let mesh = Mesh::start().await;
    let pdp = Pdp::serve(&mesh.distribution, Some(WEB)).await;
    let state = tempfile::tempdir().unwrap();
    let mut proxy = proxy(
        pdp.connect(),
        state.path(),
        &[("shop/web", "127.0.0.1:9001")],
        false,
    );
    until(&mut proxy.seen.endpoints, "announced", |e| {
        e.endpoints.len() == 1
    })
    .await;
    let other =
        "service: shop/web\nidentities: [ns/shop/sa/web2]\nendpoints: [\"127.0.0.1:9002\"]\n";
    sample::write(mesh.dir.path(), "services/web.yaml", other);
    let static_one = (
        "demo.test/shop/web".to_owned(),
        "127.0.0.1:9002".to_owned(),
        format!("{WEB}2"),
    );
    until(&mut proxy.seen.endpoints, "static only", |e| {
        listed(e) == [static_one.clone()]
    })
    .await;
}
