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
    canonical::{CanonicalRequest, Method, RawRequest},
    catalogue::{Catalogue, HeaderShape, Service},
    decision::{Connection, Question, TlsFacts},
    diagnostic::{Diagnostic, did_you_mean},
    operation::Operation,
    spiffe_id::SpiffeId,
    svid::Peer,
};
use smol_str::SmolStr;

use super::codes;

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
    let asked = request(catalogue, ask).map_err(&mut keep).ok();
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
                mtls: true,
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

fn principal(catalogue: &Catalogue, name: &str) -> Result<SpiffeId, Diagnostic> {
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

fn headers(catalogue: &Catalogue, given: &[(String, String)]) -> Result<HeaderMap, Diagnostic> {
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

/// What is asked of which service.
struct Target {
    service: Arc<Service>,
    host: SmolStr,
    /// Paths it can mean, best first; empty when only the service is named.
    paths: Vec<String>,
    query: Option<String>,
}

type Asked = (Arc<Service>, CanonicalRequest);

fn request(catalogue: &Catalogue, ask: &Ask) -> Result<Asked, Diagnostic> {
    let verb = verb(&ask.verb, catalogue)?;
    if let Verb::Action(action) = verb
        && ask.target.is_empty()
        && ask.on.is_none()
    {
        return sample(action, catalogue.services().iter());
    }
    let target = match &ask.on {
        Some(on) => on_service(catalogue, on, &ask.target)?,
        None => target(catalogue, &ask.target)?,
    };
    match verb {
        Verb::Action(action) if target.paths.is_empty() => {
            sample(action, std::iter::once(&target.service))
        }
        Verb::Action(action) => by_action(action, &target),
        Verb::Method(method) => by_method(method, &target),
    }
}

enum Verb<'a> {
    Action(&'a str),
    Method(Method),
}

fn verb<'a>(text: &'a str, catalogue: &Catalogue) -> Result<Verb<'a>, Diagnostic> {
    if text == "grpc:call" {
        return Ok(Verb::Method(Method::Post));
    }
    let upper = text.to_ascii_uppercase();
    if let Some(method) = Method::parse(&upper) {
        return Ok(Verb::Method(method));
    }
    let actions: Vec<&str> = operations(catalogue.services().iter())
        .filter_map(|(_, o)| o.action.as_deref())
        .collect();
    if actions.contains(&text) {
        return Ok(Verb::Action(text));
    }
    let methods = Method::ALL.map(Method::as_str);
    let diagnostic = Diagnostic::error(
        codes::TEST_ACTION,
        format!("`{text}` is neither a method nor an action"),
    )
    .help(format!(
        "a method ({}), `grpc:call`, or an action of services/",
        methods.join(", ")
    ));
    let near = did_you_mean(&upper, methods).or_else(|| did_you_mean(text, actions));
    Err(match near {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    })
}

fn operations<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> impl Iterator<Item = (&'a Arc<Service>, &'a Operation)> {
    services.flat_map(|s| s.operations.iter().map(move |o| (s, o)))
}

/// A request for the one operation that has this action.
fn sample<'a>(
    action: &str,
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> Result<Asked, Diagnostic> {
    let having: Vec<_> = operations(services)
        .filter(|(_, o)| o.action.as_deref() == Some(action))
        .collect();
    let [(service, operation)] = having.as_slice() else {
        let names: Vec<_> = having.iter().map(|(_, o)| o.id.as_str()).collect();
        let cause = if names.is_empty() {
            "no operation of this service has it".to_owned()
        } else {
            format!("several operations have it: {}", names.join(", "))
        };
        return Err(Diagnostic::error(
            codes::TEST_ACTION,
            format!("`{action}` does not say which operation is meant"),
        )
        .cause(cause)
        .help("add a target, such as `orders/42/refund`"));
    };
    let path = operation.template.as_str().replace(['{', '}', '*'], "");
    let host = operation.hosts.first().or(service.hosts.first());
    let method = operation.methods.first().copied().unwrap_or(Method::Get);
    let host = host.map_or(service.name.as_str(), SmolStr::as_str);
    Ok(((*service).clone(), canonical(method, host, &path, None)?))
}

fn by_action(action: &str, target: &Target) -> Result<Asked, Diagnostic> {
    for path in &target.paths {
        for method in Method::ALL {
            let request = canonical(method, &target.host, path, target.query.as_deref())?;
            let operation = target.service.operations.find(&request);
            if operation.is_some_and(|o| o.action.as_deref() == Some(action)) {
                return Ok((target.service.clone(), request));
            }
        }
    }
    Err(
        Diagnostic::error(codes::TEST_ACTION, format!("this target is not `{action}`"))
            .cause(format!(
                "no operation of `{}` with that action matches the path",
                target.service.id.short()
            ))
            .help("ask with the method instead, or correct the path"),
    )
}

fn by_method(method: Method, target: &Target) -> Result<Asked, Diagnostic> {
    let query = target.query.as_deref();
    let mut first = None;
    for path in &target.paths {
        let request = canonical(method, &target.host, path, query)?;
        if target.service.operations.find(&request).is_some() {
            return Ok((target.service.clone(), request));
        }
        first = first.or(Some(request));
    }
    match first {
        Some(request) => Ok((target.service.clone(), request)),
        None => Ok((
            target.service.clone(),
            canonical(method, &target.host, "/", query)?,
        )),
    }
}

fn canonical(
    method: Method,
    host: &str,
    path: &str,
    query: Option<&str>,
) -> Result<CanonicalRequest, Diagnostic> {
    let raw = RawRequest {
        method: method.as_str(),
        authority: None,
        host: Some(host),
        path,
        query,
    };
    CanonicalRequest::new(raw).map_err(|refusal| {
        Diagnostic::error(
            codes::TEST_REQUEST,
            format!("`{} {path}` is never decided", method.as_str()),
        )
        .cause(format!(
            "the proxy answers it with {}: {refusal}",
            refusal.status()
        ))
        .help("ask about a path that has one reading only")
    })
}

fn on_service(catalogue: &Catalogue, on: &str, path: &str) -> Result<Target, Diagnostic> {
    let service = catalogue
        .by_host(on)
        .or_else(|| catalogue.by_name(on))
        .ok_or_else(|| no_service(catalogue, on))?;
    let (path, query) = split_query(path);
    Ok(Target {
        host: host_of(catalogue, service, on),
        service: service.clone(),
        paths: match path {
            "" => Vec::new(),
            path if path.starts_with('/') => vec![path.to_owned()],
            path => vec![format!("/{path}")],
        },
        query,
    })
}

fn target(catalogue: &Catalogue, text: &str) -> Result<Target, Diagnostic> {
    if let Some((_, rest)) = text.split_once("://") {
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let host = palisade_mesh::canonical::canonical_host(authority).map_err(|refusal| {
            Diagnostic::error(codes::TEST_REQUEST, format!("`{text}` has no usable host"))
                .cause(refusal.to_string())
                .help("write for example `http://orders/orders/42`")
        })?;
        let service = catalogue
            .by_host(&host)
            .ok_or_else(|| no_service(catalogue, &host))?;
        let (path, query) = split_query(path);
        let path = if path.is_empty() { "/" } else { path };
        return Ok(Target {
            service: service.clone(),
            host,
            paths: vec![path.to_owned()],
            query,
        });
    }
    let (whole, query) = split_query(text);
    let segments: Vec<&str> = whole.split('/').collect();
    let (first, rest) = whole.split_once('/').unwrap_or((whole, ""));
    if first.is_empty() {
        return Err(Diagnostic::error(
            codes::TEST_TARGET,
            format!("`{text}` does not say which service is meant"),
        )
        .help("put the service before the path, as in `orders/42/refund`"));
    }
    let by_short = segments.get(..2).map(|s| s.join("/"));
    let by_short = by_short.and_then(|short| {
        let service = catalogue.services().iter().find(|s| s.id.short() == short);
        Some((service?, whole.get(short.len()..)?.trim_start_matches('/')))
    });
    let by_first = catalogue
        .by_host(first)
        .or_else(|| catalogue.by_name(first))
        .map(|service| (service, rest));
    let (service, rest) = by_short
        .or(by_first)
        .ok_or_else(|| no_service(catalogue, first))?;
    let bare = rest.is_empty() && !whole.ends_with('/');
    Ok(Target {
        host: host_of(catalogue, service, first),
        service: service.clone(),
        paths: if bare {
            // Only the service; for a method its own name may be the path.
            vec!["/".to_owned(), format!("/{}", service.name)]
                .into_iter()
                .filter(|p| p.len() > 1 || service_has_root(service))
                .collect()
        } else {
            vec![format!("/{rest}"), format!("/{}/{rest}", service.name)]
        },
        query,
    })
}

fn service_has_root(service: &Service) -> bool {
    service
        .operations
        .iter()
        .any(|o| o.template.as_str() == "/")
}

fn split_query(text: &str) -> (&str, Option<String>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (text, None),
    }
}

fn host_of(catalogue: &Catalogue, service: &Service, written: &str) -> SmolStr {
    let written_is_host = catalogue
        .by_host(written)
        .is_some_and(|s| s.id == service.id);
    match service.hosts.first() {
        Some(host) if !written_is_host => host.clone(),
        _ => SmolStr::new(written),
    }
}

fn no_service(catalogue: &Catalogue, name: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        codes::TEST_TARGET,
        format!("no service is called or reached as `{name}`"),
    )
    .cause(not_one(catalogue, name))
    .help("a name or host of services/, as in `orders/42/refund`");
    suggest_service(diagnostic, catalogue, name)
}
