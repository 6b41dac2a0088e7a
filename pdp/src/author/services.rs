//! `services/*.yaml`: the catalogue.

use std::{collections::BTreeMap, net::SocketAddr};

use palisade_mesh::{
    canonical::canonical_host,
    catalogue::{Protocol, Service, ServiceId},
    diagnostic::{Diagnostic, Location},
    spiffe_id::SpiffeId,
    yaml::{Source, Span},
};
use smol_str::SmolStr;

use super::{
    codes, mask,
    settings::{AUDIT, Settings, UNMATCHED, timeout},
    yaml::{Fields, Node, Reader, parse},
};

mod operations;

use operations::Around;
pub use operations::OPERATIONS_MAX;

/// Longest name of a service, namespace, operation or action.
pub const NAME_LEN_MAX: usize = 63;

const PROTOCOLS: &[(&str, Protocol)] = &[("http", Protocol::Http), ("grpc", Protocol::Grpc)];

const KEYS: &[&str] = &[
    "service",
    "description",
    "identities",
    "hosts",
    "protocol",
    "tier",
    "labels",
    "operations",
    "unmatched",
    "audit",
    "mask",
    "endpoints",
    "timeout",
];

/// What a file of a service is called where a key of it is unknown.
pub(crate) const FILE: &str = "a service file";
/// What an operation is called there.
pub(crate) const OPERATION: &str = "an operation";

/// A service with what only Cedar sees of it, and where it was declared.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) service: Service,
    pub(crate) tier: Option<SmolStr>,
    pub(crate) labels: BTreeMap<SmolStr, SmolStr>,
    pub(crate) at: Location,
    identity_at: Vec<Location>,
    host_at: Vec<Location>,
    pub(crate) operation_at: Vec<Location>,
}

impl Declared {
    /// Its identities, and where each is written.
    pub(crate) fn identities(&self) -> impl Iterator<Item = (&SpiffeId, &Location)> {
        self.service.identities.iter().zip(&self.identity_at)
    }
}

/// Reads one file; `None` when it declares no usable service.
pub(crate) fn read(
    source: &Source,
    settings: &Settings,
    found: &mut Vec<Diagnostic>,
) -> Option<Declared> {
    let root = parse(source, found)?;
    let mut reader = Reader::new(source, found);
    let fields = reader.fields(&root, FILE, KEYS)?;
    let node = fields.get("service");
    if node.is_none() {
        reader.missing(
            fields.span,
            "a service file",
            "service",
            "service: shop/orders",
        );
    }
    let named = node.and_then(|node| {
        let written = reader.text(node, "`service`")?;
        service_name(written, node.span, &mut reader)
    });
    // Without a name the rest is read all the same, for its mistakes.
    let (namespace, name) = named.unwrap_or(("unnamed", "unnamed"));
    let named_at = node.map_or(fields.span, |node| node.span);
    let id = ServiceId::new(&settings.trust_domain, namespace, name);
    let protocol = fields
        .get("protocol")
        .and_then(|n| reader.choice(n, "`protocol`", PROTOCOLS))
        .unwrap_or(Protocol::Http);
    let (identities, identity_at) =
        identities(fields, namespace, name, settings, named_at, &mut reader);
    let (hosts, host_at) = hosts(fields, name, named_at, &mut reader);
    let mask = match fields.written("mask") {
        Some(node) => (settings.mask).and(&mask::read(node, &settings.header_names, &mut reader)),
        None => settings.mask.clone(),
    };
    let around = Around {
        id: &id,
        protocol,
        hosts: &hosts,
        mask: &mask,
        headers: &settings.header_names,
    };
    let (operations, operation_at) = operations::read(fields, around, &mut reader);
    let service = Service {
        namespace: namespace.into(),
        name: name.into(),
        identities,
        hosts,
        protocol,
        operations,
        unmatched: fields
            .get("unmatched")
            .and_then(|n| reader.choice(n, "`unmatched`", UNMATCHED))
            .unwrap_or(settings.unmatched),
        audit: fields
            .get("audit")
            .and_then(|n| reader.choice(n, "`audit`", AUDIT))
            .unwrap_or(settings.audit),
        mask,
        endpoints: endpoints(fields, &mut reader),
        request_timeout: fields
            .get("timeout")
            .and_then(|n| timeout(n, &mut reader))
            .unwrap_or(settings.timeout),
        id,
    };
    let tier = fields
        .get("tier")
        .and_then(|n| reader.text(n, "`tier`"))
        .map(SmolStr::new);
    let labels = fields
        .get("labels")
        .map(|n| labels(n, &mut reader))
        .unwrap_or_default();
    named?;
    Some(Declared {
        service,
        tier,
        labels,
        at: source.span(named_at),
        identity_at,
        host_at,
        operation_at,
    })
}

/// Reads a map of texts.
pub(crate) fn labels(node: &Node, reader: &mut Reader<'_>) -> BTreeMap<SmolStr, SmolStr> {
    let mut labels = BTreeMap::new();
    for entry in reader.map(node, "`labels`").unwrap_or_default() {
        if let Some(value) = reader.text(&entry.value, "a label") {
            labels.insert(entry.key.as_str().into(), value.into());
        }
    }
    labels
}

fn service_name<'t>(
    written: &'t str,
    span: Span,
    reader: &mut Reader<'_>,
) -> Option<(&'t str, &'t str)> {
    if let Some((namespace, name)) = written.split_once('/')
        && is_name(namespace)
        && is_name(name)
    {
        return Some((namespace, name));
    }
    let diagnostic = Diagnostic::error(codes::NAME, format!("`{written}` is not a service name"))
        .cause("it is NAMESPACE/NAME, each of lower-case letters, digits and `-`, at most 63 long")
        .help("write for example `service: shop/orders`");
    reader.report(diagnostic, span);
    None
}

/// A DNS label (RFC 1123), lower case.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn identities(
    fields: Fields<'_>,
    namespace: &str,
    name: &str,
    settings: &Settings,
    span: Span,
    reader: &mut Reader<'_>,
) -> (Vec<SpiffeId>, Vec<Location>) {
    let default = format!("ns/{namespace}/sa/{name}");
    let written = match fields.get("identities") {
        Some(node) => reader.texts(node, "`identities`"),
        None => vec![(default.as_str(), span)],
    };
    let mut ids = Vec::new();
    let mut places = Vec::new();
    for (text, span) in written {
        match identity(text, settings) {
            Ok(id) => {
                ids.push(id);
                places.push(reader.source.span(span));
            }
            Err(diagnostic) => reader.report(diagnostic, span),
        }
    }
    (ids, places)
}

/// Reads `ns/shop/sa/web` or a whole SPIFFE ID of the trust domain.
pub(crate) fn identity(text: &str, settings: &Settings) -> Result<SpiffeId, Diagnostic> {
    let domain = &settings.trust_domain;
    let parsed = if text.contains("://") {
        SpiffeId::parse(text)
    } else {
        domain.id(text.trim_start_matches('/'))
    };
    let wrong = |cause: String| {
        Diagnostic::error(codes::IDENTITY, format!("`{text}` cannot be an identity here"))
            .cause(cause)
            .help(format!(
                "write the path, such as `ns/shop/sa/web`, or the whole ID, `spiffe://{domain}/ns/shop/sa/web`"
            ))
    };
    let id = parsed.map_err(|e| wrong(e.to_string()))?;
    if !id.is_member_of(domain) {
        return Err(wrong(format!(
            "it belongs to `{}`; a workload of another trust domain cannot be a service of `{domain}`",
            id.trust_domain()
        )));
    }
    if id.is_reserved() {
        return Err(Diagnostic::error(
            codes::IDENTITY_RESERVED,
            format!("identity `{text}` is reserved"),
        )
        .cause("paths under `/palisade/` belong to the mesh's own parts")
        .help("choose another path, such as `ns/shop/sa/web`"));
    }
    Ok(id)
}

fn hosts(
    fields: Fields<'_>,
    name: &str,
    span: Span,
    reader: &mut Reader<'_>,
) -> (Vec<SmolStr>, Vec<Location>) {
    let written = match fields.get("hosts") {
        Some(node) => reader.texts(node, "`hosts`"),
        None => vec![(name, span)],
    };
    let mut hosts = Vec::new();
    let mut places = Vec::new();
    for (text, span) in written {
        if let Some(host) = host(text, span, reader) {
            hosts.push(host);
            places.push(reader.source.span(span));
        }
    }
    (hosts, places)
}

fn host(text: &str, span: Span, reader: &mut Reader<'_>) -> Option<SmolStr> {
    let cause = match canonical_host(text) {
        Ok(host) if host == text => return Some(host),
        Ok(host) => format!("callers reach it as `{host}`: lower case, without a port"),
        Err(refusal) => refusal.to_string(),
    };
    let diagnostic = Diagnostic::error(codes::HOST, format!("`{text}` is not a host"))
        .cause(cause)
        .help("write the bare name, such as `orders` or `orders.shop.internal`");
    reader.report(diagnostic, span);
    None
}

fn endpoints(fields: Fields<'_>, reader: &mut Reader<'_>) -> Vec<SocketAddr> {
    let Some(node) = fields.get("endpoints") else {
        return Vec::new();
    };
    let mut endpoints = Vec::new();
    for (text, span) in reader.texts(node, "`endpoints`") {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => endpoints.push(address),
            _ => {
                let diagnostic =
                    Diagnostic::error(codes::ENDPOINT, format!("`{text}` is not an endpoint"))
                        .cause("it is an IP address and a port; names are not looked up here")
                        .help("write for example `127.0.0.1:9000` or `[::1]:9000`");
                reader.report(diagnostic, span);
            }
        }
    }
    endpoints
}

/// Letters, digits, `-`, `_`, `.`; begins with a letter or digit.
pub(crate) fn is_word(text: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Checks what only all services together show; keeps the first of any two.
pub(crate) fn check_together(services: &[Declared], found: &mut Vec<Diagnostic>) {
    let mut ids: BTreeMap<&str, &Declared> = BTreeMap::new();
    let mut identities: BTreeMap<&str, (&Declared, &Location)> = BTreeMap::new();
    let mut hosts: BTreeMap<&str, (&Declared, &Location)> = BTreeMap::new();
    let mut actions: BTreeMap<&str, &Declared> = BTreeMap::new();
    for declared in services {
        let service = &declared.service;
        if let Some(first) = ids.insert(service.id.as_str(), declared) {
            found.push(
                Diagnostic::error(
                    codes::SERVICE_TWICE,
                    format!("service `{}` is declared twice", service.id.short()),
                )
                .label("second time")
                .cause(format!(
                    "`{}:{}` declares it too",
                    first.at.file, first.at.line
                ))
                .help("keep one file, or give one of them another name")
                .at(declared.at.clone()),
            );
            continue;
        }
        for (id, at) in declared.identities() {
            if let Some((first, there)) = identities.insert(id.as_str(), (declared, at)) {
                found.push(twice(
                    codes::IDENTITY_TWICE,
                    "identity",
                    id.as_str(),
                    first,
                    there,
                    at,
                ));
            }
        }
        for (host, at) in service.hosts.iter().zip(&declared.host_at) {
            if let Some((first, there)) = hosts.insert(host, (declared, at)) {
                found.push(twice(codes::HOST_TWICE, "host", host, first, there, at));
            }
        }
        for (operation, at) in service.operations.iter().zip(&declared.operation_at) {
            let Some(action) = &operation.action else {
                continue;
            };
            let first = *actions.entry(action).or_insert(declared);
            if first.service.protocol != service.protocol {
                found.push(
                    Diagnostic::error(
                        codes::ACTION_NAME,
                        format!("action `{action}` is used for HTTP and for gRPC"),
                    )
                    .cause(format!(
                        "`{}` speaks the other protocol, and policies read different contexts for the two",
                        first.service.id.short()
                    ))
                    .help("give the operation of one protocol another action")
                    .at(at.clone()),
                );
            }
        }
    }
}

fn twice(
    code: u16,
    what: &str,
    value: &str,
    first: &Declared,
    there: &Location,
    at: &Location,
) -> Diagnostic {
    Diagnostic::error(code, format!("two services claim {what} `{value}`"))
        .label("second claim")
        .cause(format!(
            "`{}` has it too ({}:{})",
            first.service.id.short(),
            there.file,
            there.line
        ))
        .help(format!(
            "one {what} belongs to one service; remove it from the other"
        ))
        .at(at.clone())
}
