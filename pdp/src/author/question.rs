//! A question in words: `can web POST orders/42/refund`.
//!
//! `can`, `policy test` and the playground all come through here, and use the
//! canonicaliser and the operation table that the proxy uses. Where a person may
//! be vague, the rules are fixed:
//!
//! - principal: `web`, `shop/web`, `ns/shop/sa/web`, or a SPIFFE ID, which may
//!   be of nobody we know;
//! - verb: a method, `grpc:call`, or a business action such as `orders:refund`;
//! - target: `http://orders/orders/42`, or `SERVICE/PATH` with the service by
//!   host or name. In the second form the service's own name may also be the
//!   first segment of the path: `orders/42/refund` is `/42/refund` of `orders`
//!   if that is an operation, else `/orders/42/refund` if that is one.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_mesh::{
    canonical::CanonicalRequest,
    catalogue::{Catalogue, HeaderShape, Service},
    decision::{Connection, Question, TlsFacts},
    diagnostic::{Diagnostic, did_you_mean},
    operation::Operation,
    spiffe_id::SpiffeId,
    svid::Peer,
};
use smol_str::SmolStr;

use super::codes;

mod target;

pub(super) use target::canonical;

/// Port of the caller where none is given.
const PORT_DEFAULT: u16 = 40_000;

/// A question in words.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Who: service name, identity path or SPIFFE ID.
    pub principal: String,
    /// Does what: method, `grpc:call` or business action.
    pub verb: String,
    /// To what; may be empty for a business action that one operation has.
    pub target: String,
    /// The service that `target` is a path of, by host or name.
    pub on: Option<String>,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Address of the caller, `IP` or `IP:PORT`; default `127.0.0.1`.
    pub source: Option<String>,
    /// Whether the caller proves no identity, as one on a listener that asks for none.
    pub anonymous: bool,
    /// When, microseconds since the Unix epoch.
    pub now_us: i64,
}

/// A [`Question`] that owns what it speaks of.
#[derive(Debug, Clone)]
pub struct OwnedQuestion {
    /// The connection it would come on.
    pub connection: Connection,
    /// The request in its only spelling.
    pub request: CanonicalRequest,
    /// Declared header fields.
    pub headers: HeaderMap,
    /// The service it is for.
    pub service: Arc<Service>,
    /// The operation it is, if it is one.
    pub operation: Option<Operation>,
    /// When, microseconds since the Unix epoch.
    pub now_us: i64,
}

impl OwnedQuestion {
    /// As the engine takes it.
    pub fn as_question(&self) -> Question<'_> {
        Question {
            connection: &self.connection,
            request: &self.request,
            headers: &self.headers,
            service: &self.service,
            operation: self.operation.as_ref(),
            now_us: self.now_us,
        }
    }

    /// The request as it was understood: `POST http://orders/orders/42/refund`.
    pub fn understood(&self) -> String {
        let request = &self.request;
        format!(
            "{} http://{}{}",
            request.method.as_str(),
            request.host,
            request.path
        )
    }
}

/// Understands `ask` against `catalogue`.
///
/// # Errors
/// Everything that is not understood, each with what was probably meant.
pub fn question(catalogue: &Catalogue, ask: &Ask) -> Result<OwnedQuestion, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut keep = |diagnostic| found.push(diagnostic);
    let id = principal(catalogue, &ask.principal).map_err(&mut keep).ok();
    let source = source(ask.source.as_deref()).map_err(&mut keep).ok();
    let headers = headers(catalogue, &ask.headers).map_err(&mut keep).ok();
    let asked = target::request(catalogue, ask).map_err(&mut keep).ok();
    let (Some(id), Some(source), Some(headers), Some((service, request))) =
        (id, source, headers, asked)
    else {
        return Err(found);
    };
    let now_s = ask.now_us.div_euclid(1_000_000);
    Ok(OwnedQuestion {
        connection: Connection {
            peer: Peer {
                id,
                serial: Arc::from([0_u8; 0]),
                not_before_s: now_s,
                not_after_s: now_s.saturating_add(3600),
            },
            source,
            tls: TlsFacts {
                version: "1.3",
                mtls: !ask.anonymous,
                sni: None,
                alpn: Some(SmolStr::new_static("h2")),
            },
        },
        operation: service.operations.find(&request).cloned(),
        request,
        headers,
        service,
        now_us: ask.now_us,
    })
}

/// The service that a question is about which is not understood, where that can be told.
pub fn service_meant(catalogue: &Catalogue, ask: &Ask) -> Option<Arc<Service>> {
    target::service(catalogue, ask)
}

/// Who is called `name`: a service, an identity path or a SPIFFE ID.
///
/// # Errors
/// When nobody is, or several are.
pub fn principal(catalogue: &Catalogue, name: &str) -> Result<SpiffeId, Diagnostic> {
    if name.contains("://") {
        return SpiffeId::parse(name).map_err(|error| {
            Diagnostic::error(codes::TEST_PRINCIPAL, format!("`{name}` is nobody"))
                .cause(error.to_string())
                .help("write a SPIFFE ID such as `spiffe://acme.test/ns/shop/sa/web`")
        });
    }
    if let Some(service) = catalogue.by_name(name) {
        return service.identities.first().cloned().ok_or_else(|| {
            Diagnostic::error(
                codes::TEST_PRINCIPAL,
                format!("service `{name}` has no identity"),
            )
            .help("give it one under `identities`, or ask with a SPIFFE ID")
        });
    }
    let path = catalogue.trust_domain().id(name.trim_start_matches('/'));
    if let Ok(id) = path
        && (name.starts_with("ns/") || catalogue.by_identity(&id).is_some())
    {
        return Ok(id);
    }
    let diagnostic = Diagnostic::error(codes::TEST_PRINCIPAL, format!("nobody is called `{name}`"))
        .cause(not_one(catalogue, name))
        .help("a service name, an identity path such as `ns/shop/sa/web`, or a SPIFFE ID");
    Err(suggest_service(diagnostic, catalogue, name))
}

/// Why `by_name` did not find one service.
fn not_one(catalogue: &Catalogue, name: &str) -> String {
    let named: Vec<_> = catalogue
        .services()
        .iter()
        .filter(|s| s.name == name)
        .map(|s| s.id.short())
        .collect();
    if named.len() > 1 {
        format!("several services have that name: {}", named.join(", "))
    } else {
        "no service of the repository has that name".to_owned()
    }
}

fn suggest_service(diagnostic: Diagnostic, catalogue: &Catalogue, name: &str) -> Diagnostic {
    let services = catalogue.services().iter();
    let names = services.flat_map(|s| {
        let own = [s.name.as_str(), s.id.short()];
        own.into_iter().chain(s.hosts.iter().map(SmolStr::as_str))
    });
    match did_you_mean(name, names) {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

/// The request that verb and target of `ask` mean, and the service it is for.
///
/// # Errors
/// When they mean none.
pub fn request(
    catalogue: &Catalogue,
    ask: &Ask,
) -> Result<(Arc<Service>, CanonicalRequest), Diagnostic> {
    target::request(catalogue, ask)
}

fn source(text: Option<&str>) -> Result<SocketAddr, Diagnostic> {
    let Some(text) = text else {
        return Ok((Ipv4Addr::LOCALHOST, PORT_DEFAULT).into());
    };
    text.parse::<SocketAddr>()
        .or_else(|_| {
            text.parse::<IpAddr>()
                .map(|ip| SocketAddr::new(ip, PORT_DEFAULT))
        })
        .map_err(|_| {
            Diagnostic::error(codes::TEST_CONTEXT, format!("`{text}` is not an address"))
                .help("write an IP address such as `10.0.0.7`, with `:PORT` if it matters")
        })
}

/// Header fields that are declared, as a proxy hands them on.
pub(super) fn headers(
    catalogue: &Catalogue,
    given: &[(String, String)],
) -> Result<HeaderMap, Diagnostic> {
    let mut map = HeaderMap::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let wrong = |message: String| Diagnostic::error(codes::TEST_CONTEXT, message);
        let Some(declared) = catalogue.headers().iter().find(|h| h.name == lower) else {
            let diagnostic = wrong(format!("header `{name}` is not declared"))
                .cause("policies cannot read it, so it would change nothing")
                .help("declare it in palisade.yaml under `headers`");
            let names = catalogue.headers().iter().map(|h| h.name.as_str());
            return Err(match did_you_mean(&lower, names) {
                Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
                None => diagnostic,
            });
        };
        let parsed = HeaderName::from_bytes(lower.as_bytes())
            .ok()
            .zip(HeaderValue::from_str(value).ok());
        let Some((key, value)) = parsed else {
            return Err(wrong(format!("header `{name}` cannot have this value"))
                .help("visible ASCII characters and spaces"));
        };
        if declared.shape == HeaderShape::Single && map.contains_key(&key) {
            return Err(wrong(format!("header `{name}` is there twice"))
                .cause("it is declared `single`; a repeat is answered with 400")
                .help("give it once, or declare it `list`"));
        }
        map.append(key, value);
    }
    Ok(map)
}
