//! A small client of web servers, for bundles that are fetched and witnesses that are
//! asked: HTTPS only (plain HTTP to this host, or where the messages are signed), bounded in time, size and redirects.
//!
//! One connection for each exchange: a source is asked every few seconds at most.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use palisade_mesh::diagnostic::Diagnostic;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

/// Longest time until a server is connected, its handshake included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest time of an exchange, redirects included.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(60);
/// Most redirects that are followed.
pub const REDIRECTS_MAX: usize = 3;
/// Longest file of credentials.
const CREDENTIALS_LEN_MAX: u64 = 64 << 10;
/// Where systems keep the roots of the web.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client with its roots and credentials.
#[derive(Clone)]
pub struct Web {
    tls: TlsConnector,
    /// Whether servers elsewhere are spoken to without TLS, too.
    plain: bool,
    credentials: Arc<Vec<Credential>>,
}

/// Name and password for one server.
struct Credential {
    /// `HOST[:PORT]`.
    authority: String,
    /// Value of `Authorization`.
    basic: HeaderValue,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Address.
    pub uri: Uri,
    /// Fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Most bytes of the answer's body; with 0 the head is the answer, and no body is read.
    pub len_max: usize,
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Who answered, redirects followed.
    pub from: Uri,
}

impl Ask {
    /// A question without a body.
    pub fn new(method: Method, uri: Uri, len_max: usize) -> Self {
        Self {
            method,
            uri,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            len_max,
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

impl Web {
    /// A client that believes the roots in `ca`, else the system's, and gives the
    /// credentials in a file of `https://USER:PASSWORD@HOST` lines.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn new(ca: Option<&Path>, credentials: Option<&Path>) -> Result<Self, Diagnostic> {
        let config = ClientConfig::builder()
            .with_root_certificates(roots(ca)?)
            .with_no_client_auth();
        let credentials = match credentials {
            Some(file) => read_credentials(file)?,
            None => Vec::new(),
        };
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            plain: false,
            credentials: Arc::new(credentials),
        })
    }

    /// Speaks without TLS to other hosts where the address says so: for messages that
    /// are signed and no secret.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Asks, and follows redirects of what only reads. Credentials go to the server they
    /// are for, and to no other.
    ///
    /// # Errors
    /// When there is no whole answer within the limits.
    pub async fn send(&self, ask: Ask) -> Result<Reply, Diagnostic> {
        let first = ask.uri.clone();
        let exchange = timeout(EXCHANGE_TIME_MAX, self.follow(ask));
        exchange.await.unwrap_or_else(|_| {
            let cause = format!("no whole answer within {} s", EXCHANGE_TIME_MAX.as_secs());
            Err(unreachable(&first, cause))
        })
    }

    /// `Authorization` for the server of `uri`, if there are credentials for it.
    pub fn basic(&self, uri: &Uri) -> Option<HeaderValue> {
        let authority = uri.authority()?.as_str();
        let mut known = self.credentials.iter();
        known
            .find(|c| c.authority == authority)
            .map(|c| c.basic.clone())
    }

    async fn follow(&self, mut ask: Ask) -> Result<Reply, Diagnostic> {
        for _ in 0..=REDIRECTS_MAX {
            let reply = self.once(&ask).await?;
            let reads = ask.method == Method::GET || ask.method == Method::HEAD;
            let location = reply
                .headers
                .get(LOCATION)
                .filter(|_| reads && reply.status.is_redirection());
            let Some(location) = location.filter(|_| reply.status != StatusCode::NOT_MODIFIED)
            else {
                return Ok(reply);
            };
            let next = location.to_str().ok().and_then(|l| resolve(&ask.uri, l));
            let next = next.ok_or_else(|| redirected(&ask.uri, "to what is no address"))?;
            if next.scheme_str() != Some("https") && ask.uri.scheme_str() == Some("https") {
                return Err(redirected(&ask.uri, "to an address without TLS"));
            }
            if next.authority() != ask.uri.authority() {
                ask.headers.remove(AUTHORIZATION);
            }
            ask.uri = next;
        }
        Err(redirected(&ask.uri, "too often"))
    }

    async fn once(&self, ask: &Ask) -> Result<Reply, Diagnostic> {
        let uri = &ask.uri;
        let host = uri.host().map(|h| h.trim_matches(['[', ']']).to_owned());
        let host = host.ok_or_else(|| unreachable(uri, "the address has no host"))?;
        let secure = uri.scheme_str() == Some("https");
        if !secure && !self.plain && !is_this_host(&host) {
            return Err(unreachable(uri, "only this host is spoken to without TLS"));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let connect = async {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            if !secure {
                return Ok(Box::new(tcp) as Box<dyn Io>);
            }
            let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
            Ok(Box::new(self.tls.connect(name, tcp).await?) as Box<dyn Io>)
        };
        let io: std::io::Result<Box<dyn Io>> =
            timeout(CONNECT_TIME_MAX, connect).await.map_err(|_| {
                unreachable(
                    uri,
                    format!("no connection within {} s", CONNECT_TIME_MAX.as_secs()),
                )
            })?;
        let io = io.map_err(|e| unreachable(uri, e.to_string()))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = shaken.map_err(|e| unreachable(uri, e.to_string()))?;
        let connection = tokio::spawn(connection);
        let reply = exchange(&mut sender, ask).await;
        connection.abort();
        reply
    }
}

/// The roots in `ca`, else the system's.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn roots(ca: Option<&Path>) -> Result<RootCertStore, Diagnostic> {
    let mut roots = RootCertStore::empty();
    let system = || {
        SYSTEM_ROOTS
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
    };
    if let Some(file) = ca.or_else(system) {
        let read =
            CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let read = read.map_err(|e| unreadable(file, &e.to_string()))?;
        roots.add_parsable_certificates(read);
    }
    Ok(roots)
}

async fn exchange(
    sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    ask: &Ask,
) -> Result<Reply, Diagnostic> {
    let uri = &ask.uri;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::new(Full::new(ask.body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = path
        .parse()
        .map_err(|_| unreachable(uri, "the address has no path"))?;
    *request.headers_mut() = ask.headers.clone();
    let authority = uri.authority().map_or("", |a| a.as_str());
    let host = HeaderValue::from_str(authority)
        .map_err(|_| unreachable(uri, "the address has no host"))?;
    request.headers_mut().insert(HOST, host);
    let agent = HeaderValue::from_static(concat!("palisade/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(USER_AGENT, agent);
    let answer = sender.send_request(request).await;
    let (head, body) = answer
        .map_err(|e| unreachable(uri, e.to_string()))?
        .into_parts();
    if ask.len_max == 0 {
        return Ok(Reply {
            status: head.status,
            headers: head.headers,
            body: Bytes::new(),
            from: uri.clone(),
        });
    }
    let told = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    let limit = u64::try_from(ask.len_max).unwrap_or(u64::MAX);
    if ask.method != Method::HEAD && told.is_some_and(|len| len > limit) {
        return Err(too_large(uri, ask.len_max));
    }
    let body = Limited::new(body, ask.len_max)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                return too_large(uri, ask.len_max);
            }
            cut(uri, error.to_string())
        })?;
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
        from: uri.clone(),
    })
}

/// What a connection is made of.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Whether `host` is a name or address of this host's loopback.
pub fn is_this_host(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|a| a.is_loopback())
}

/// `location` as seen from `base` (RFC 3986, section 5.2, without what servers do not send).
pub fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.contains("://") {
        return location.parse().ok();
    }
    let path = match location.starts_with('/') {
        true => location.to_owned(),
        false => format!("{}/{location}", base.path().rsplit_once('/')?.0),
    };
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    format!("{scheme}://{authority}{path}").parse().ok()
}

fn read_credentials(file: &Path) -> Result<Vec<Credential>, Diagnostic> {
    let len = fs::metadata(file)
        .map_err(|e| unreadable(file, &e.to_string()))?
        .len();
    if len > CREDENTIALS_LEN_MAX {
        return Err(unreadable(file, "it is too large"));
    }
    let text = fs::read_to_string(file).map_err(|e| unreadable(file, &e.to_string()))?;
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    let credential = |line: &str| {
        let rest = line.trim().split_once("://")?.1;
        let (secret, authority) = rest.rsplit_once('@')?;
        let (user, password) = secret.split_once(':')?;
        let both = format!("{}:{}", decoded(user)?, decoded(password)?);
        let mut basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(both))).ok()?;
        basic.set_sensitive(true);
        Some(Credential {
            authority: authority.trim_end_matches('/').to_owned(),
            basic,
        })
    };
    let read: Option<Vec<Credential>> = lines.map(credential).collect();
    read.ok_or_else(|| unreadable(file, "each line is `https://USER:PASSWORD@HOST`"))
}

/// Text with its `%XX` resolved.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn unreadable(file: &Path, cause: &str) -> Diagnostic {
    Diagnostic::error(3210, format!("`{}` cannot be used", file.display()))
        .cause(cause)
        .help("`ca` names a PEM file of roots, `credentials` a file of `https://USER:PASSWORD@HOST` lines")
}

fn unreachable(uri: &Uri, cause: impl Into<String>) -> Diagnostic {
    Diagnostic::error(3201, format!("`{uri}` does not answer"))
        .cause(cause)
        .help("see that the server is there and its certificate is under `ca`; a source that is followed is asked again")
}

fn redirected(uri: &Uri, how: &str) -> Diagnostic {
    Diagnostic::error(3212, format!("`{uri}` redirects {how}"))
        .cause(format!(
            "at most {REDIRECTS_MAX} redirects are followed, and none away from TLS"
        ))
        .help("write the address where it really is")
}

fn too_large(uri: &Uri, limit: usize) -> Diagnostic {
    Diagnostic::error(3203, format!("what `{uri}` sends is too large"))
        .cause(format!("at most {limit} bytes are read"))
        .help("see that it is the right address")
}

fn cut(uri: &Uri, cause: String) -> Diagnostic {
    Diagnostic::error(3203, format!("what `{uri}` sends is not whole"))
        .cause(cause)
        .help("fetch it again; for a source that is followed this is done")
}
