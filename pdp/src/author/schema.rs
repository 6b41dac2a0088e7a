//! The schema: a vocabulary generated from settings and catalogue, and the
//! team's own types and actions beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use cedar_policy::{Schema, SchemaFragment};
use palisade_mesh::{
    canonical::Method,
    catalogue::{Catalogue, HeaderShape, Protocol},
    diagnostic::Diagnostic,
    snapshot::Digest,
    yaml::Source,
};

use super::{cedar, codes, files::SCHEMA, nesting};

/// What the generated part looks like before headers and business actions.
const BASE: &str = include_str!("base.cedarschema");

/// The generated vocabulary as Cedar schema text: what `policy schema` prints.
pub fn generated(catalogue: &Catalogue) -> String {
    let mut headers = String::new();
    for header in catalogue.headers() {
        let shape = match header.shape {
            HeaderShape::List => "Set<String>",
            HeaderShape::Single => "String",
        };
        let _ = writeln!(headers, "    \"{}\"?: {shape},", header.name);
    }
    let mut text = BASE.replace("    // HEADERS\n", &headers);
    for (parent, actions) in business_actions(catalogue) {
        let context = match parent {
            "grpc:call" => "GrpcContext",
            _ => "HttpContext",
        };
        // Many actions in one declaration: Cedar's parser makes a lexer for each name of a
        // type, which was most of the time that the schema of 2,000 services took.
        let names: Vec<String> = actions.iter().map(|name| format!("\"{name}\"")).collect();
        let _ = writeln!(
            text,
            "action\n  {}\n  in [\"{parent}\"]\n  appliesTo {{ principal: [Workload, Unregistered], resource: [Operation, Service], context: {context} }};",
            names.join(",\n  ")
        );
    }
    text
}

/// Every business action, by the group it belongs to by its methods.
fn business_actions(catalogue: &Catalogue) -> BTreeMap<&'static str, Vec<&str>> {
    let mut methods: BTreeMap<&str, (Protocol, BTreeSet<Method>)> = BTreeMap::new();
    for service in catalogue.services() {
        for operation in service.operations.iter() {
            if let Some(action) = &operation.action {
                let (_, all) = methods
                    .entry(action)
                    .or_insert_with(|| (service.protocol, BTreeSet::new()));
                all.extend(&operation.methods);
            }
        }
    }
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (action, (protocol, methods)) in methods {
        let group = groups.entry(parent(protocol, &methods)).or_default();
        group.push(action);
    }
    groups
}

fn parent(protocol: Protocol, methods: &BTreeSet<Method>) -> &'static str {
    let reads = |m: &Method| matches!(m, Method::Get | Method::Head | Method::Options);
    match protocol {
        Protocol::Grpc => "grpc:call",
        Protocol::Http if methods.iter().all(reads) => "http:read",
        Protocol::Http if !methods.iter().any(reads) => "http:write",
        Protocol::Http => "http",
    }
}

/// Joins the generated vocabulary with the team's file, where there is one; and the digest of
/// both texts, by which equal schemas are known.
pub(crate) fn compile(
    catalogue: &Catalogue,
    team: Option<&Source>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Schema, Digest)> {
    let text = generated(catalogue);
    // No schema has a NUL in it, so no two pairs of texts are one.
    let both = [&*text, team.map_or("", |team| &*team.text)].join("\0");
    let digest = Digest::of(both.as_bytes());
    compiled(text, team, found).map(|schema| (schema, digest))
}

fn compiled(text: String, team: Option<&Source>, found: &mut Vec<Diagnostic>) -> Option<Schema> {
    let base = match SchemaFragment::from_cedarschema_str(&text) {
        Ok((fragment, _)) => fragment,
        Err(error) => {
            let source = Source::new("generated schema", text);
            found.extend(cedar::of_schema(&error, &source));
            return None;
        }
    };
    let Some(team) = team else {
        return joined(vec![base], &Source::new("generated schema", text), found);
    };
    if let Err(diagnostic) = nesting::check(team) {
        found.push(*diagnostic);
        return None;
    }
    match SchemaFragment::from_cedarschema_str(&team.text) {
        Ok((fragment, warnings)) => {
            found.extend(warnings.map(|w| cedar::of_schema_warning(&w, team)));
            joined(vec![base, fragment], team, found)
        }
        Err(error) => {
            found.extend(cedar::of_schema(&error, team));
            None
        }
    }
}

fn joined(
    fragments: Vec<SchemaFragment>,
    source: &Source,
    found: &mut Vec<Diagnostic>,
) -> Option<Schema> {
    match Schema::from_schema_fragments(fragments) {
        Ok(schema) => Some(schema),
        Err(error) => {
            found.push(
                Diagnostic::error(codes::SCHEMA, "schema does not fit the generated vocabulary")
                    .cause(error.to_string())
                    .help(format!(
                        "`{SCHEMA}` adds types and actions; `palisade policy schema` prints what is there already"
                    ))
                    .at(cedar::first_label(&error, source).unwrap_or_else(|| source.line(1))),
            );
            None
        }
    }
}
