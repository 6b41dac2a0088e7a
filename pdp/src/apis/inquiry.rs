//! What is asked: from an API's words to a question for the engine.
//!
//! Everything up to here is what a proxy does with a request it receives: one canonical
//! form, header hygiene, the service by its host, the operation by the catalogue. What
//! a proxy would refuse is refused, under the same word.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, header::HOST};
use palisade_mesh::{
    canonical::{CanonicalRequest, RawRequest, Refusal, canonical_host},
    catalogue::{Catalogue, HeaderShape, Service},
    decision::{Connection, TlsFacts},
    diagnostic::Diagnostic,
    fields::{HeaderFault, clean_request},
    spiffe_id::{SpiffeId, SpiffeIdError},
    svid::Peer,
};

use crate::{
    author::{self, Ask, OwnedQuestion},
    decide::{Known, asked::GRPC_CALL},
};

/// A question, understood.
pub(super) struct Inquiry {
    pub(super) question: OwnedQuestion,
    pub(super) known: Known,
}

/// A question that never gets as far as the policies.
#[derive(Debug)]
pub(super) struct Misread {
    pub(super) reason: &'static str,
    /// Status that a proxy answers with.
    pub(super) status: u16,
    pub(super) message: String,
    /// What is known of it, for authorization and record.
    pub(super) subject: Option<SpiffeId>,
    pub(super) service: Option<Arc<Service>>,
    /// The service that it could be about, where it is not known: its record leaves out what
    /// records of that one do.
    pub(super) meant: Option<Arc<Service>>,
    pub(super) method: String,
    pub(super) path: String,
}

/// What is said about the connection that the subject has with the caller.
#[derive(Debug, Default)]
pub(super) struct Stated {
    pub(super) source: Option<SocketAddr>,
    /// Whether the port is part of what is said.
    pub(super) port: bool,
    pub(super) tls: Option<TlsFacts>,
    /// Which of the facts of TLS are said.
    pub(super) tls_known: Known,
    /// Serial number of the subject's certificate; empty where it is not said.
    pub(super) serial: Arc<[u8]>,
    pub(super) now_us: i64,
}

/// A request as somebody else received it.
pub(super) struct Raw<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// Path with its query.
    pub(super) target: &'a str,
    pub(super) headers: Lines,
}

/// Header fields of such a request.
pub(super) struct Lines {
    pub(super) map: HeaderMap,
    /// Whether these are all that there were.
    pub(super) complete: bool,
    /// Whether lines of one name were joined, and bytes beyond UTF-8 replaced by `!`.
    pub(super) joined: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self::TIME_ONLY
    }
}

impl Misread {
    fn new(reason: &'static str, status: u16, message: impl Into<String>) -> Self {
        Self {
            reason,
            status,
            message: message.into(),
            subject: None,
            service: None,
            meant: None,
            method: String::new(),
            path: String::new(),
        }
    }

    /// A question whose words mean nothing here.
    pub(super) fn words(message: impl Into<String>) -> Self {
        Self::new("not_understood", 400, message)
    }

    /// A question that comes before any policy has.
    pub(super) fn no_snapshot() -> Self {
        Self::new("no_snapshot", 503, "no policy revision is in force")
    }

    /// A request of nobody whom we could know.
    pub(super) fn no_principal(name: &str, error: &SpiffeIdError) -> Self {
        let cause = match name {
            "" => "the peer has no certificate that was verified".to_owned(),
            name => format!("`{}`: {error}", name.escape_debug()),
        };
        Self::new("no_principal", 403, format!("no SPIFFE ID: {cause}"))
    }

    /// A request of somebody whose certificate is another's, or none.
    pub(super) fn no_certificate(cause: impl std::fmt::Display) -> Self {
        let message = format!("the certificate of the peer does not prove it: {cause}");
        Self::new("no_principal", 403, message)
    }

    pub(super) fn about(mut self, subject: &SpiffeId) -> Self {
        self.subject = Some(subject.clone());
        self
    }

    fn diagnosed(found: Vec<Diagnostic>) -> Self {
        let texts = found.into_iter().map(|d| {
            let parts = [Some(d.message), d.cause, d.label, d.help];
            parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
        });
        Self::words(texts.collect::<Vec<_>>().join(". "))
    }
}

impl From<Refusal> for Misread {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.reason(), refusal.status(), refusal.to_string())
    }
}

impl From<HeaderFault> for Misread {
    fn from(fault: HeaderFault) -> Self {
        match fault {
            HeaderFault::Repeated => Self::new(
                "header_repeated",
                400,
                "a header field that must occur once occurs more often",
            ),
            HeaderFault::TransferCoding => Self::new(
                "transfer_coding",
                400,
                "the request's transfer coding is not supported",
            ),
            HeaderFault::Underscore => Self::new(
                "header_underscore",
                400,
                "a header field's name has an underscore",
            ),
        }
    }
}

/// Whose rights are asked about: a service by name or a SPIFFE ID.
pub(super) fn subject(catalogue: &Catalogue, name: &str) -> Result<SpiffeId, Misread> {
    let id = author::principal(catalogue, name).map_err(|d| Misread::diagnosed(vec![d]))?;
    check_domain(catalogue, &id)?;
    Ok(id)
}

/// Refuses whom no listener of the mesh lets in: a proxy verifies certificates of its own
/// trust domain alone.
pub(super) fn check_domain(catalogue: &Catalogue, id: &SpiffeId) -> Result<(), Misread> {
    let domain = catalogue.trust_domain();
    if id.is_member_of(domain) {
        return Ok(());
    }
    let wrong = format!("`{id}` is of another trust domain than `{domain}`");
    Err(Misread::new("no_principal", 403, wrong).about(id))
}

/// Understands a request that `subject` makes.
pub(super) fn request(
    catalogue: &Catalogue,
    subject: SpiffeId,
    raw: Raw<'_>,
    stated: Stated,
) -> Result<Inquiry, Misread> {
    let service = service(catalogue, raw.host);
    let method = said_method(catalogue, raw.method);
    let path = raw.target.to_owned();
    let complete = raw.headers.complete;
    let (request, headers) = canonical(catalogue, raw).map_err(|misread| Misread {
        subject: Some(subject.clone()),
        service: service.clone(),
        method: method.clone(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        ..misread
    })?;
    let Some(service) = service else {
        return Err(Misread {
            subject: Some(subject),
            // The `Host` field may be all that names it.
            meant: catalogue.by_host(&request.host).cloned(),
            method,
            path: request.path.to_string(),
            ..Misread::new("host_unknown", 404, "no service of the mesh has this host")
        });
    };
    let known = stated
        .known()
        .and(Known::METHOD)
        .and(Known::HOST)
        .and(Known::PATH)
        .and(Known::QUERY)
        .and_if(complete, Known::HEADERS);
    let now_us = stated.now_us;
    let question = OwnedQuestion {
        connection: stated.connection(subject),
        operation: service.operations.find(&request).cloned(),
        request,
        headers,
        service,
        now_us,
    };
    Ok(Inquiry { question, known })
}

fn service(catalogue: &Catalogue, host: &str) -> Option<Arc<Service>> {
    catalogue.by_host(&canonical_host(host).ok()?).cloned()
}

/// What is recorded as the method of a question that was not understood: nothing, where it
/// could be any text.
fn said_method(catalogue: &Catalogue, text: &str) -> String {
    let mut operations = catalogue
        .services()
        .iter()
        .flat_map(|s| s.operations.iter());
    let is_one = http::Method::from_bytes(text.as_bytes()).is_ok()
        || text == GRPC_CALL
        || operations.any(|operation| operation.action.as_deref() == Some(text));
    if is_one {
        text.to_owned()
    } else {
        String::new()
    }
}

fn canonical(
    catalogue: &Catalogue,
    raw: Raw<'_>,
) -> Result<(CanonicalRequest, HeaderMap), Misread> {
    let (path, query) = match raw.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (raw.target, None),
    };
    let Lines {
        mut map, joined, ..
    } = raw.headers;
    let mut hosts = map.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(one), None) => Some(
            one.to_str()
                .map_err(|_| Refusal::HostInvalid("non-ASCII byte"))?,
        ),
        _ => return Err(Refusal::HostConflict.into()),
    };
    let request = CanonicalRequest::new(RawRequest {
        method: raw.method,
        authority: Some(raw.host).filter(|h| !h.is_empty()),
        host,
        path,
        query,
    })?;
    clean_request(&mut map, catalogue.headers(), false)?;
    if joined {
        mark_ambiguous(catalogue, &mut map);
    }
    Ok((request, map))
}

/// Makes what has two readings unfit to be read: a comma in a `single` field may have
/// been two lines, a `!` may have been a byte beyond UTF-8.
fn mark_ambiguous(catalogue: &Catalogue, map: &mut HeaderMap) {
    // No list of texts and no single one: the engine takes it for what it cannot read.
    let unfit = HeaderValue::from_bytes(&[0xff]).expect("a byte beyond ASCII is a field value");
    for declared in catalogue.headers() {
        let name = declared.name.as_str();
        let single = declared.shape == HeaderShape::Single;
        let ambiguous = |value: &HeaderValue| {
            let has = |byte| value.as_bytes().contains(&byte);
            has(b'!') || (single && has(b','))
        };
        if map.get_all(name).iter().any(ambiguous)
            && let Ok(name) = http::HeaderName::from_bytes(name.as_bytes())
        {
            map.append(name, unfit.clone());
        }
    }
}

/// A question in the words of `palisade can`.
pub(super) struct Words<'a> {
    pub(super) verb: &'a str,
    pub(super) target: &'a str,
    /// The service that `target` is a path of.
    pub(super) on: Option<&'a str>,
    /// All header fields, if anything is said about them.
    pub(super) headers: Option<Vec<(String, String)>>,
}

/// Understands a question about `subject` in words.
pub(super) fn words(
    catalogue: &Catalogue,
    subject: SpiffeId,
    words: Words<'_>,
    stated: Stated,
) -> Result<Inquiry, Misread> {
    let said = words.headers.is_some();
    let ask = Ask {
        principal: subject.to_string(),
        verb: words.verb.to_owned(),
        target: words.target.to_owned(),
        on: words.on.map(str::to_owned),
        headers: words.headers.unwrap_or_default(),
        now_us: stated.now_us,
        // What was said of the connection takes its place below.
        ..Ask::default()
    };
    let mut question = author::question(catalogue, &ask).map_err(|found| Misread {
        method: said_method(catalogue, words.verb),
        path: words
            .target
            .split('?')
            .next()
            .unwrap_or_default()
            .to_owned(),
        meant: author::service_meant(catalogue, &ask),
        ..Misread::diagnosed(found).about(&subject)
    })?;
    let known = known_of(&question, words.verb, words.target);
    let known = stated.known().and(known).and_if(said, Known::HEADERS);
    question.connection = stated.connection(subject);
    Ok(Inquiry { question, known })
}

/// What the words said, and what was filled in where they said nothing.
fn known_of(question: &OwnedQuestion, verb: &str, target: &str) -> Known {
    let (request, service) = (&question.request, &question.service);
    let operation = question.operation.as_ref();
    let (written, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let path = request.path.trim_start_matches('/');
    let spelled = match path {
        "" => written.ends_with('/'),
        path => written.ends_with(path),
    };
    let fixed = operation.is_some_and(|o| !o.template.as_str().contains('{'));
    let named = |o: &palisade_mesh::operation::Operation| o.action.as_deref() == Some(verb);
    let method = match operation {
        Some(operation) if named(operation) => operation.methods.len() == 1,
        _ => true,
    };
    let host = request.host.as_str();
    let host = service.hosts.len() == 1 || written.contains("://") || written.starts_with(host);
    Known::TIME_ONLY
        .and_if(spelled || fixed, Known::PATH)
        .and_if(spelled || query.is_some(), Known::QUERY)
        .and_if(method, Known::METHOD)
        .and_if(host, Known::HOST)
}

impl Stated {
    fn known(&self) -> Known {
        Known::TIME_ONLY
            .and(self.tls_known)
            .and_if(self.source.is_some(), Known::SOURCE_IP)
            .and_if(self.source.is_some() && self.port, Known::SOURCE_PORT)
    }

    fn connection(self, id: SpiffeId) -> Connection {
        let now_s = self.now_us.div_euclid(1_000_000);
        let unknown = || TlsFacts {
            version: "",
            mtls: false,
            sni: None,
            alpn: None,
        };
        Connection {
            peer: Peer {
                id,
                serial: self.serial,
                not_before_s: now_s,
                not_after_s: now_s,
            },
            source: self.source.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
            tls: self.tls.unwrap_or_else(unknown),
        }
    }
}
