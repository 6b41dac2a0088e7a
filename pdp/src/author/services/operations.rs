//! Operations of a service: what can be asked of it.

use palisade_mesh::{
    canonical::Method,
    catalogue::{Protocol, ServiceId},
    diagnostic::{Diagnostic, Location, did_you_mean},
    operation::{Operation, OperationTable, Template},
    personal::Mask,
    yaml::Span,
};
use smol_str::{SmolStr, format_smolstr};

use super::is_word;
use crate::author::{
    codes, mask,
    settings::AUDIT,
    yaml::{Fields, Node, Reader},
};

/// Most operations of one service; they are compared pairwise.
pub const OPERATIONS_MAX: usize = 1_000;
/// Most overlapping pairs that are told of one service.
const OVERLAPS_TOLD_MAX: usize = 20;
/// Prefixes of actions that the generated schema keeps for itself.
const PREFIXES_RESERVED: &[&str] = &["grpc", "http", "palisade", "tcp"];

/// What the service of an operation is, and what it may name.
#[derive(Clone, Copy)]
pub(super) struct Around<'s> {
    pub(super) id: &'s ServiceId,
    pub(super) protocol: Protocol,
    pub(super) hosts: &'s [SmolStr],
    pub(super) mask: &'s Mask,
    pub(super) headers: &'s [SmolStr],
}

/// Reads `operations`, with the place of each; none when two of them overlap.
pub(super) fn read(
    fields: Fields<'_>,
    around: Around<'_>,
    reader: &mut Reader<'_>,
) -> (OperationTable, Vec<Location>) {
    let Some(node) = fields.get("operations") else {
        return Default::default();
    };
    let items = reader.list(node, "`operations`").unwrap_or_default();
    if items.len() > OPERATIONS_MAX {
        let diagnostic = Diagnostic::error(
            codes::REPOSITORY_TOO_LARGE,
            format!("a service may have {OPERATIONS_MAX} operations"),
        )
        .cause(format!("this one has {}", items.len()))
        .help("use templates such as `/orders/{id}`, or split the service");
        reader.report(diagnostic, node.span);
        return Default::default();
    }
    let mut operations: Vec<Operation> = Vec::new();
    let mut places: Vec<Location> = Vec::new();
    for item in items {
        let Some((operation, span)) = operation(item, around, reader) else {
            continue;
        };
        if let Some(first) = operations.iter().position(|o| o.name == operation.name) {
            let line = places.get(first).map_or(0, |l| l.line);
            let diagnostic = Diagnostic::error(
                codes::OPERATION_TWICE,
                format!("operation `{}` is there twice", operation.name),
            )
            .label("second time")
            .cause(format!("the first is on line {line}"))
            .help("give each operation its own name; policies refer to it");
            reader.report(diagnostic, span);
            continue;
        }
        operations.push(operation);
        places.push(reader.source.span(span));
    }
    match OperationTable::new(operations.clone()) {
        Ok(table) => (table, places),
        Err(pairs) => {
            for (first, second) in pairs.into_iter().take(OVERLAPS_TOLD_MAX) {
                overlap(&operations, &places, first, second, reader);
            }
            Default::default()
        }
    }
}

fn overlap(
    operations: &[Operation],
    places: &[Location],
    first: usize,
    second: usize,
    reader: &mut Reader<'_>,
) {
    let (Some(a), Some(b)) = (operations.get(first), operations.get(second)) else {
        return;
    };
    let (Some(at), Some(there)) = (places.get(second), places.get(first)) else {
        return;
    };
    let diagnostic = Diagnostic::error(
        codes::OPERATIONS_OVERLAP,
        format!("operations `{}` and `{}` overlap", a.name, b.name),
    )
    .label(format!(
        "also matched by `{}` on line {}",
        a.name, there.line
    ))
    .cause(format!(
        "some request is both `{}` and `{}`, so it would be unclear which one is decided on",
        a.template.as_str(),
        b.template.as_str()
    ))
    .help("change a path or method, or make them one operation");
    reader.found.push(diagnostic.at(at.clone()));
}

fn operation(
    item: &Node,
    around: Around<'_>,
    reader: &mut Reader<'_>,
) -> Option<(Operation, Span)> {
    let known = &["name", "match", "action", "host", "audit", "mask"];
    let fields = reader.fields(item, super::OPERATION, known)?;
    let name = match fields.get("name") {
        Some(node) => operation_name(node, reader),
        None => {
            reader.missing(fields.span, "an operation", "name", "name: read");
            None
        }
    };
    let example = match around.protocol {
        Protocol::Http => "match: \"GET /orders/{id}\"",
        Protocol::Grpc => "match: \"shop.v1.Orders/Get\"",
    };
    let matched = match fields.get("match") {
        Some(node) => matched(node, around.protocol, example, reader),
        None => {
            reader.missing(fields.span, "an operation", "match", example);
            None
        }
    };
    let action = fields.get("action").and_then(|n| action(n, reader));
    let audit = fields
        .get("audit")
        .and_then(|n| reader.choice(n, "`audit`", AUDIT));
    let mask = match fields.written("mask") {
        Some(node) => (around.mask).and(&mask::read(node, around.headers, reader)),
        None => Mask::NONE,
    };
    // One that adds nothing is as the service.
    let mask = match mask.is_same(around.mask) {
        true => Mask::NONE,
        false => mask,
    };
    let limited = operation_hosts(fields, around.hosts, reader);
    let (name, span) = name?;
    let (methods, template) = matched?;
    let operation = Operation {
        id: format_smolstr!("{}/{name}", around.id),
        name: name.into(),
        methods,
        hosts: limited,
        template,
        action,
        audit,
        mask,
    };
    Some((operation, span))
}

fn operation_name<'n>(node: &'n Node, reader: &mut Reader<'_>) -> Option<(&'n str, Span)> {
    let text = reader.text(node, "`name`")?;
    if is_word(text) {
        return Some((text, node.span));
    }
    let diagnostic = Diagnostic::error(codes::NAME, format!("`{text}` is not an operation name"))
        .cause("it has letters, digits, `-`, `_` and `.`, at most 63 of them")
        .help("write for example `name: read`");
    reader.report(diagnostic, node.span);
    None
}

fn operation_hosts(fields: Fields<'_>, hosts: &[SmolStr], reader: &mut Reader<'_>) -> Vec<SmolStr> {
    let Some(node) = fields.get("host") else {
        return Vec::new();
    };
    let mut limited = Vec::new();
    for (text, span) in reader.texts(node, "`host`") {
        if hosts.iter().any(|h| h == text) {
            limited.push(SmolStr::new(text));
            continue;
        }
        let diagnostic = Diagnostic::error(
            codes::HOST,
            format!("operation is limited to host `{text}`, which the service does not have"),
        )
        .help(format!("one of: {}", hosts.join(", ")));
        reader.report(diagnostic, span);
    }
    limited
}

fn matched(
    node: &Node,
    protocol: Protocol,
    example: &str,
    reader: &mut Reader<'_>,
) -> Option<(Vec<Method>, Template)> {
    let text = reader.text(node, "`match`")?;
    let parsed = match protocol {
        Protocol::Http => http_match(text),
        Protocol::Grpc => grpc_match(text),
    };
    match parsed {
        Ok(matched) => Some(matched),
        Err(cause) => {
            let diagnostic = Diagnostic::error(
                codes::OPERATION_MATCH,
                format!("`{text}` does not say what the operation matches"),
            )
            .cause(cause)
            .help(match (protocol, grpc_match(text)) {
                (Protocol::Http, Ok(_)) => {
                    format!(
                        "for a gRPC service write `protocol: grpc`, else for example `{example}`"
                    )
                }
                _ => format!("write for example `{example}`"),
            });
            reader.report(diagnostic, node.span);
            None
        }
    }
}

/// `GET /orders/{id}`, `GET,HEAD /orders` or `* /files/{*path}`.
fn http_match(text: &str) -> Result<(Vec<Method>, Template), String> {
    let (methods, path) = text
        .split_once(' ')
        .ok_or("it is one or more methods, a space and a path template")?;
    let template = Template::parse(path.trim()).map_err(|e| e.to_string())?;
    if methods == "*" {
        let mut all = Method::ALL.to_vec();
        all.sort_unstable();
        return Ok((all, template));
    }
    let mut parsed = Vec::new();
    for name in methods.split(',') {
        let method = Method::parse(name).ok_or_else(|| {
            let names = Method::ALL.map(Method::as_str);
            match did_you_mean(name, names) {
                Some(near) => format!("`{name}` is not a method, did you mean `{near}`?"),
                None => format!("`{name}` is not one of {}", names.join(", ")),
            }
        })?;
        parsed.push(method);
    }
    parsed.sort_unstable();
    parsed.dedup();
    Ok((parsed, template))
}

/// `package.Service/Method`.
fn grpc_match(text: &str) -> Result<(Vec<Method>, Template), String> {
    let valid = |part: &str, dots: bool| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || (dots && b == b'.'))
    };
    match text.split_once('/') {
        Some((service, method)) if valid(service, true) && valid(method, false) => {
            let template = Template::parse(&format!("/{text}")).map_err(|e| e.to_string())?;
            Ok((vec![Method::Post], template))
        }
        _ => Err("a gRPC operation is `package.Service/Method`".to_owned()),
    }
}

fn action(node: &Node, reader: &mut Reader<'_>) -> Option<SmolStr> {
    let text = reader.text(node, "`action`")?;
    let cause = match text.split_once(':') {
        Some((prefix, _)) if PREFIXES_RESERVED.contains(&prefix) => {
            format!("actions that begin with `{prefix}:` are the mesh's own")
        }
        Some((prefix, verb)) if is_word(prefix) && is_word(verb) => return Some(text.into()),
        _ => "it is NOUN:VERB, of letters, digits, `-`, `_` and `.`".to_owned(),
    };
    let diagnostic = Diagnostic::error(codes::ACTION_NAME, format!("`{text}` cannot be an action"))
        .cause(cause)
        .help("write for example `action: orders:refund`");
    reader.report(diagnostic, node.span);
    None
}
