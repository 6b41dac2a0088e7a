//! HTTP to an S3 server: TLS with the roots that were given, without TLS to this host only;
//! bodies travel as they come. One connection for each exchange: there is one for each
//! segment that goes or is fetched.

use std::{io, path::Path, sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Uri,
    header::{HOST, USER_AGENT},
};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use palisade_audit::archive::http::{
    Carry, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
};
use palisade_mesh::diagnostic::Diagnostic;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

use super::web::{self, Io, is_this_host};

/// Longest time until a server is connected, its handshake included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Who carries requests to servers whose certificates are under the roots in `ca`, else the
/// system's. Where there is an `endpoint`, the roots in `ca` are for that alone: whom else is
/// asked who we are has those of the system.
///
/// # Errors
/// When the file cannot be read.
pub fn carry(ca: Option<&Path>, endpoint: Option<&str>) -> Result<Carry, Diagnostic> {
    let tls = |ca| {
        let config = ClientConfig::builder()
            .with_root_certificates(web::roots(ca)?)
            .with_no_client_auth();
        Ok::<_, Diagnostic>(TlsConnector::from(Arc::new(config)))
    };
    let endpoint: Option<Uri> = endpoint.and_then(|text| text.parse().ok());
    let (store, others) = (tls(ca)?, tls(ca.filter(|_| endpoint.is_none()))?);
    Ok(Arc::new(move |request| {
        let is_of_store = endpoint.as_ref().is_none_or(|of| is_of(of, request.uri()));
        let tls = if is_of_store { &store } else { &others }.clone();
        Box::pin(async move { exchange(&tls, request).await })
    }))
}

/// Whether `uri` is of the server at `endpoint`: its host, or the name of a bucket before that.
fn is_of(endpoint: &Uri, uri: &Uri) -> bool {
    let (Some(of), Some(host)) = (endpoint.host(), uri.host()) else {
        return false;
    };
    let (of, host) = (of.to_ascii_lowercase(), host.to_ascii_lowercase());
    host.strip_suffix(&of)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

async fn exchange(tls: &TlsConnector, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let connected = timeout(CONNECT_TIME_MAX, connect(tls, request.uri())).await;
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let io = connected
        .unwrap_or_else(|_| Err(late()))
        .map_err(|e| HttpError::new(HttpErrorKind::Connect, e))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
    let (mut sender, connection) = shaken.map_err(|e| HttpError::new(HttpErrorKind::Connect, e))?;
    // It ends with the body, or when nobody reads that any more.
    tokio::spawn(connection);
    let answer = sender.send_request(origin_form(request)?).await;
    let answer = answer.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e))?;
    Ok(answer.map(|body| {
        HttpResponseBody::new(body.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, e)))
    }))
}

async fn connect(tls: &TlsConnector, uri: &Uri) -> io::Result<Box<dyn Io>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let host = uri
        .host()
        .map(|host| host.trim_matches(['[', ']']).to_owned());
    let host = host.ok_or_else(|| wrong("the address has no host"))?;
    let secure = uri.scheme_str() == Some("https");
    if !secure && !is_this_host(&host) {
        return Err(wrong("only this host is spoken to without TLS"));
    }
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    if !secure {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(Box::new(tls.connect(name, tcp).await?))
}

/// The request as a server itself is asked (RFC 9112, section 3.2.1).
fn origin_form(request: HttpRequest) -> Result<HttpRequest, HttpError> {
    let (mut parts, body) = request.into_parts();
    let wrong = |e: http::uri::InvalidUri| HttpError::new(HttpErrorKind::Unknown, e);
    let authority = parts.uri.authority().map_or("", |a| a.as_str()).to_owned();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().map_err(wrong)?;
    if !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(&authority)
    {
        parts.headers.insert(HOST, host);
    }
    let agent = HeaderValue::from_static(concat!("palisade/", env!("CARGO_PKG_VERSION")));
    parts.headers.insert(USER_AGENT, agent);
    Ok(Request::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The roots that were named are those of the store, and of nobody else who is asked.
    #[test]
    fn the_endpoint_is_told_from_who_else_is_asked() {
        let endpoint = Uri::from_static("https://S3.acme.test:9000");
        let check = |uri: &'static str, expected: bool| {
            assert_eq!(is_of(&endpoint, &Uri::from_static(uri)), expected, "{uri}");
        };
        check("https://s3.acme.test:9000/audit/log", true);
        check("https://audit.s3.acme.test:9000/log", true);
        check("https://sts.us-east-1.amazonaws.com/", false);
        check("https://evils3.acme.test/", false);
        check("https://s3.acme.test.evil.test/", false);
    }
}
