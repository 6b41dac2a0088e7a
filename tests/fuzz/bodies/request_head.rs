//! The bytes of a connection: read by the HTTP/1.1 server that the proxy uses, put
//! in canonical form and cleaned as the proxy does. Whatever gets through has one
//! reading, and claims no identity.

use std::{convert::Infallible, io::Cursor};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use palisade_mesh::catalogue::{DeclaredHeader, HeaderShape};
use palisade_proxy::headers::{canonical, clean_request, is_managed};

#[path = "../canonical_form.rs"]
mod canonical_form;

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing");
    let connection = tokio::io::join(Cursor::new(bytes.to_vec()), tokio::io::sink());
    let serve = service_fn(|mut request| async move {
        check_request(&mut request);
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let served = http1::Builder::new()
        .max_header_size(64 * 1024)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(connection), serve);
    // How it ends does not matter; that it ends does.
    let _ = runtime.block_on(served);
}

fn check_request(request: &mut Request<Incoming>) {
    let Ok(form) = canonical(request) else {
        return;
    };
    canonical_form::check_path(&form.path);
    canonical_form::check_host(&form.host);
    let declared = [DeclaredHeader {
        name: "x-tenant".into(),
        shape: HeaderShape::Single,
    }];
    let Ok(hop) = clean_request(request.headers_mut(), &declared, true) else {
        return;
    };
    let headers = request.headers();
    for name in headers.keys().map(http::HeaderName::as_str) {
        assert!(!is_managed(name), "{name} got through");
        assert!(
            ![
                "connection",
                "transfer-encoding",
                "upgrade",
                "keep-alive",
                "expect"
            ]
            .contains(&name),
            "{name} got through"
        );
        assert!(name != "x_tenant", "a twin got through");
    }
    assert!(headers.get_all("x-tenant").iter().count() <= 1);
    assert!(headers.get_all("content-length").iter().count() <= 1);
    assert!(!hop.is_websocket() || hop.upgrade.is_some());
    // The second cleaning, by the proxy behind, finds nothing.
    let before = headers.clone();
    assert!(clean_request(request.headers_mut(), &declared, true).is_ok());
    assert_eq!(&before, request.headers());
}
