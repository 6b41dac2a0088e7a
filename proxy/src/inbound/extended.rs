//! WebSockets over HTTP/2 (RFC 8441): an extended CONNECT is put in the form that
//! the same WebSocket has over HTTP/1.1, before anything looks at it.
//!
//! So the path is authorized as it is there, as a GET of its operation, and the
//! application needs to know HTTP/1.1 only. Any other CONNECT stays one, and is
//! refused as a method that nobody has.

use http::{HeaderValue, Method, Request, Response, StatusCode, header::SEC_WEBSOCKET_ACCEPT};
use hyper::{body::Incoming, ext::Protocol};

use crate::{body::ResponseBody, tunnel::switch_to_websocket};

/// Marks a request that came as an extended CONNECT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extended;

/// Rewrites an extended CONNECT for a WebSocket; leaves everything else alone.
pub(super) fn unfold(request: &mut Request<Incoming>) {
    if request.method() != Method::CONNECT {
        return;
    }
    let protocol = request.extensions_mut().remove::<Protocol>();
    if !protocol.is_some_and(|p| p.as_str().eq_ignore_ascii_case("websocket")) {
        return;
    }
    *request.method_mut() = Method::GET;
    switch_to_websocket(request.headers_mut());
    request.extensions_mut().insert(Extended);
}

/// A nonce for the application (RFC 6455 section 4.1), which the caller did not
/// have to send: 16 bytes in base64, different for each request as its id is.
pub(crate) fn key(id: &HeaderValue) -> Option<HeaderValue> {
    let random = id.as_bytes().get(5..)?;
    let mut key = Vec::with_capacity(24);
    key.extend_from_slice(random);
    // 22 characters hold 16 bytes; of the last one only two bits count.
    key.extend_from_slice(b"A==");
    HeaderValue::from_maybe_shared(bytes::Bytes::from(key)).ok()
}

/// The answer to a caller whose WebSocket was opened: 200 (RFC 8441 section 5).
pub(crate) fn opened(mut parts: http::response::Parts) -> Response<ResponseBody> {
    parts.status = StatusCode::OK;
    parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
    Response::from_parts(parts, ResponseBody::empty())
}
