//! Path attacks (T1 to T13): one reading, or none.
//!
//! A forbid covers `/admin`, a permit `/public`. Whatever is written, policy,
//! record and application see the same path, or the request is refused.

use palisade_mesh::{catalogue::Unmatched, decision::Verdict};

use super::support::{App, Rules, Setting, Stage};

/// Sends `target` by hand over HTTP/1.1 and through a client over HTTP/2.
async fn check(stage: &Stage, target: &str, status: u16, canonical: Option<&str>) {
    let before = stage.app.seen().len();
    assert_eq!(stage.get(target).await.status, status, "h1 {target:?}");
    if let Some(canonical) = canonical {
        assert_eq!(
            stage.records.decision().path,
            canonical,
            "recorded for {target:?}"
        );
    }
    check_upstream(stage, target, status, canonical, before);
    if target.starts_with('/') && target.is_ascii() && !target.contains(['\\', '"', ' ']) {
        let before = stage.app.seen().len();
        let reply = stage.h2().await.get(target, &[]).await;
        assert_eq!(reply.status, status, "h2 {target:?}");
        check_upstream(stage, target, status, canonical, before);
    }
}

fn check_upstream(
    stage: &Stage,
    target: &str,
    status: u16,
    canonical: Option<&str>,
    before: usize,
) {
    let seen = stage.app.seen();
    if status == 200 {
        let last = seen.last().expect("forwarded");
        let path = last.target.split('?').next();
        assert_eq!(path, canonical, "forwarded for {target:?}");
    } else {
        assert_eq!(seen.len(), before, "{target:?} reached the application");
    }
}

#[tokio::test]
async fn every_spelling_of_admin_is_admin() {
    let stage = Stage::new().await;
    for (target, canonical) in [
        ("/admin/x", "/admin/x"),
        ("/public/../admin", "/admin"),
        ("/public/./../admin", "/admin"),
        ("//admin", "/admin"),
        ("/public//../admin", "/admin"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/public/%2E./admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("//admin/secret", "/admin/secret"),
        ("/admin?x=1", "/admin"),
        ("http://orders/admin", "/admin"),
        ("http://orders//admin", "/admin"),
    ] {
        check(&stage, target, 403, Some(canonical)).await;
    }
}

/// A host of nobody, or of another service: the application might take it for
/// something else than what was decided.
#[tokio::test]
async fn a_host_that_is_not_the_service_s_is_refused() {
    let stage = Stage::new().await;
    for (host, status) in [
        ("orders", 200),
        ("Orders.Shop.Test.:8443", 200),
        ("web", 404),
        ("admin.internal", 404),
    ] {
        let request = format!("GET /public HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(stage.raw(request).await.status, status, "{host}");
    }
    assert_eq!(stage.records.decision().reason, "host_unknown");
    assert_eq!(stage.app.seen().len(), 2);
}

/// `?x` alone has the path `/`, and says so to the application.
#[tokio::test]
async fn an_empty_path_is_sent_as_it_was_decided() {
    for app in [App::start().await, App::start_h2().await] {
        let rules = Rules::new(|question| match question.request.path.as_str() {
            "/" => Verdict::Allow,
            _ => Verdict::NotPermitted,
        });
        let setting = Setting {
            rules,
            unmatched: Unmatched::Forward,
            ..Setting::default()
        };
        let stage = Stage::with_app(setting, app).await;
        assert_eq!(stage.get("http://orders?x=1").await.status, 200);
        assert_eq!(stage.app.last().target, "/?x=1");
    }
}

#[tokio::test]
async fn what_has_two_readings_is_refused() {
    let stage = Stage::new().await;
    for target in [
        "/public%2f..%2fadmin",
        "/public%5c..%5cadmin",
        "/public%2F..%2Fadmin",
        "/public/%252e%252e%252fadmin",
        "/public\\..\\admin",
        "\\admin",
        "/admin;x=1/y",
        "/public/..;/admin",
        "/public/;/admin",
        "/public/%zz",
        "/public/%",
        "/public/%c0%af",
        "/public/%00",
        "/public/caf\u{e9}",
        "/../admin",
        "/public/\"x",
        "admin",
    ] {
        check(&stage, target, 400, None).await;
    }
    let too_long = format!("/public/{}", "a".repeat(9000));
    check(&stage, &too_long, 414, None).await;
    let deep = "/a".repeat(100);
    check(&stage, &deep, 400, None).await;
}

#[tokio::test]
async fn the_application_sees_what_was_decided() {
    let stage = Stage::new().await;
    for (target, canonical) in [
        ("/public", "/public"),
        ("/public/../public", "/public"),
        ("/public/a%20b", "/public/a%20b"),
        ("/public/%7Ea?q=%2e%2e", "/public/~a"),
        ("/public/admin*", "/public/admin*"),
        ("http://orders/public?a=b", "/public"),
    ] {
        check(&stage, target, 200, Some(canonical)).await;
    }
    assert_eq!(stage.get("/public/./x?a=../b&c").await.status, 200);
    assert_eq!(stage.app.last().target, "/public/x?a=../b&c");
    // T7: what follows `#` is gone before anything sees it.
    assert_eq!(stage.get("/public#/../admin").await.status, 200);
    assert_eq!(stage.app.last().target, "/public");
    assert_eq!(stage.get("/admin/x#/public").await.status, 403);
}

/// T14 to T16: the host has one spelling too.
#[tokio::test]
async fn hosts_are_compared_in_one_spelling() {
    let stage = Stage::new().await;
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\n{fields}connection: close\r\n\r\n")
    };
    for (request, status) in [
        (get("/public", "host: ORDERS.shop.TEST.\r\n"), 200),
        (get("/public", "host: orders:8443\r\n"), 200),
        (get("http://orders/public", "host: orders\r\n"), 200),
        (get("http://orders/public", "host: other\r\n"), 400),
        (get("/public", "host: orders\r\nhost: orders\r\n"), 400),
        (get("/public", "host: orders\r\nhost: other\r\n"), 400),
        (get("/public", "host: a@orders\r\n"), 400),
        (get("/public", "host: \r\n"), 400),
        (get("/public", ""), 400),
        (get("/public", "host: or\u{e9}ders\r\n"), 400),
    ] {
        let reply = stage.raw(&request).await;
        assert_eq!(reply.status, status, "{request:?}");
        if status == 200 {
            assert!(
                !stage.app.last().headers["host"]
                    .to_str()
                    .unwrap()
                    .contains([':', 'O'])
            );
        }
    }
}

/// T17, T18.
#[tokio::test]
async fn methods_are_exact() {
    let stage = Stage::new().await;
    let request =
        |line: &str| format!("{line} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n");
    for (line, status) in [
        ("get /public", 501),
        ("PURGE /public", 501),
        ("TRACE /public", 501),
        ("CONNECT orders:443", 501),
        ("GET *", 400),
        ("OPTIONS *", 404),
        ("OPTIONS /public", 200),
    ] {
        let reply = stage.raw(request(line)).await;
        assert_eq!(reply.status, status, "{line}");
    }
    let mut client = stage.h2().await;
    let reply = client
        .post("/public", &[("x-http-method-override", "DELETE")], "")
        .await;
    assert_eq!(
        (reply.status, stage.records.decision().method.as_str()),
        (200, "POST")
    );
}
