//! Reads test tables: rows of YAML become questions with what is expected.

use std::{borrow::Cow, collections::BTreeSet};

use jiff::Timestamp;
use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    yaml::{Source, Span},
};
use smol_str::SmolStr;

use super::{
    CASES_MAX, Case, EXPECTED,
    fixtures::{Files, Shared},
};
use crate::{
    author::{
        codes,
        question::{Ask, question},
        yaml::{Fields, Node, Reader, Value, parse},
    },
    compiled::Compiled,
};

const KEYS: &[&str] = &[
    "name",
    "principal",
    "principals",
    "request",
    "requests",
    "action",
    "actions",
    "resource",
    "resources",
    "on",
    "context",
    "entities",
    "expect",
    "policies",
];

/// Reads the rows of one file into cases.
pub(super) fn read(
    source: &Source,
    files: &mut Files<'_>,
    now_us: i64,
    cases: &mut Vec<Case>,
    found: &mut Vec<Diagnostic>,
) {
    let Some(root) = parse(source, found) else {
        return;
    };
    let mut reader = Reader::new(source, found);
    let Some(fields) = reader.fields(&root, "a test file", &["fixtures", "tests"]) else {
        return;
    };
    let Some(node) = fields.get("tests") else {
        reader.missing(fields.span, "a test file", "tests", "tests: []");
        return;
    };
    let shared = match fields.get("fixtures") {
        Some(names) => files.shared(names, &mut reader),
        None => Shared::default(),
    };
    for row in reader.list(node, "`tests`").unwrap_or_default() {
        read_row(row, files, &shared, now_us, cases, &mut reader);
        if cases.len() > CASES_MAX {
            cases.truncate(CASES_MAX);
            reader.report(too_many(), row.span);
            return;
        }
    }
}

/// What to say of more cases than are run.
pub(super) fn too_many() -> Diagnostic {
    Diagnostic::error(codes::REPOSITORY_TOO_LARGE, "too many test cases")
        .cause(format!("at most {CASES_MAX} are run"))
        .help("name fewer principals and requests in one row")
}

fn read_row(
    row: &Node,
    files: &mut Files<'_>,
    shared: &Shared,
    now_us: i64,
    cases: &mut Vec<Case>,
    reader: &mut Reader<'_>,
) {
    let Some(fields) = reader.fields(row, "a test", KEYS) else {
        return;
    };
    let name = match fields.get("name") {
        Some(node) => reader.text(node, "`name`").map(str::to_owned),
        None => None,
    };
    let principals = one_or_more(fields, "principal", "principals", "web", reader);
    let requests = requests(fields, reader);
    let on = fields.get("on").and_then(|n| reader.text(n, "`on`"));
    let expected = match fields.get("expect") {
        Some(node) => reader.choice(node, "`expect`", EXPECTED),
        None => {
            reader.missing(fields.span, "a test", "expect", "expect: allow");
            None
        }
    };
    let policies = fields
        .get("policies")
        .map(|node| policies(node, "`policies`", files.compiled, reader));
    let base = context(fields, shared, now_us, reader);
    let world = match fields.get("entities") {
        Some(node) => {
            let name = reader.text(node, "`entities`");
            let world = name.and_then(|name| files.world(shared, name, node.span, reader));
            if world.is_none() {
                return;
            }
            world
        }
        None => None,
    };
    let (Some(expected), Some(base)) = (expected, base) else {
        return;
    };
    // Who and what is named, and what comes of it, is a question to the whole repository.
    let Some(compiled) = files.compiled else {
        return;
    };
    let callers = principals.iter().flat_map(|(name, span)| {
        let all = shared.principals(name).into_iter();
        all.map(move |caller| (*name, caller, span))
    });
    for (principal, caller, principal_span) in callers {
        for (request, request_span) in &requests {
            if cases.len() > CASES_MAX {
                return;
            }
            let (verb, target) = request.split_once(' ').unwrap_or((request, ""));
            let ask = Ask {
                principal: caller.to_owned(),
                verb: verb.to_owned(),
                target: target.trim().to_owned(),
                on: on.map(str::to_owned),
                ..base.clone()
            };
            match question(&compiled.catalogue, &ask) {
                Ok(question) => cases.push(Case {
                    name: name
                        .clone()
                        .unwrap_or_else(|| format!("{principal} {request}")),
                    principal: called(principal, caller),
                    request: match on {
                        Some(on) => format!("{request} on {on}"),
                        None => request.to_string(),
                    },
                    location: reader.source.span(fields.span),
                    world: world.clone(),
                    question,
                    expected,
                    policies: policies.clone(),
                    others: false,
                    errors: None,
                }),
                Err(diagnostics) => {
                    for diagnostic in diagnostics {
                        let span = match diagnostic.code.0 {
                            codes::TEST_PRINCIPAL => *principal_span,
                            codes::TEST_CONTEXT => {
                                fields.get("context").map_or(fields.span, |n| n.span)
                            }
                            _ => *request_span,
                        };
                        reader.report(diagnostic, span);
                    }
                }
            }
        }
    }
}

/// Verbs with their targets: as they were written, or every action on every resource.
fn requests<'n>(fields: Fields<'n>, reader: &mut Reader<'_>) -> Vec<(Cow<'n, str>, Span)> {
    let has = |key| fields.get(key).is_some();
    let crossed = ["action", "actions", "resource", "resources"]
        .into_iter()
        .any(has);
    let mut all = Vec::new();
    if !crossed || has("request") || has("requests") {
        let whole = one_or_more(fields, "request", "requests", "GET /orders", reader);
        all.extend(whole.into_iter().map(|(text, span)| (text.into(), span)));
    }
    if crossed {
        let actions = one_or_more(fields, "action", "actions", "GET", reader);
        let resources = one_or_more(fields, "resource", "resources", "orders/orders", reader);
        // One more than fit is enough to know that there are too many.
        let most = CASES_MAX + 1;
        let crossed = actions.iter().flat_map(|(action, _)| {
            let of_action = resources.iter();
            of_action.map(move |(resource, span)| (format!("{action} {resource}").into(), *span))
        });
        all.extend(crossed.take(most));
    }
    all
}

fn one_or_more<'n>(
    fields: Fields<'n>,
    one: &'static str,
    more: &'static str,
    example: &str,
    reader: &mut Reader<'_>,
) -> Vec<(&'n str, Span)> {
    let mut all = Vec::new();
    for key in [one, more] {
        if let Some(node) = fields.get(key) {
            all.extend(reader.texts(node, &format!("`{key}`")));
        }
    }
    if all.is_empty() {
        // A row without a case would look like one that passes.
        reader.missing(fields.span, "a test", one, &format!("{one}: {example}"));
    }
    all
}

/// The policies that a row names, under a key that is called `what`; whether there are such is
/// asked of the repository, where it compiles.
pub(super) fn policies(
    node: &Node,
    what: &str,
    compiled: Option<&Compiled>,
    reader: &mut Reader<'_>,
) -> BTreeSet<SmolStr> {
    let mut ids = BTreeSet::new();
    for (id, span) in reader.texts(node, what) {
        if let Some(compiled) = compiled
            && !compiled.info.contains_key(id)
        {
            let known = compiled.info.keys().map(SmolStr::as_str);
            let mut diagnostic =
                Diagnostic::error(codes::TEST_POLICY, format!("there is no policy `{id}`"))
                    .help("write the `@id` of a policy");
            if let Some(near) = did_you_mean(id, known) {
                diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
            }
            reader.report(diagnostic, span);
        }
        ids.insert(id.into());
    }
    ids
}

/// A fixture by its name and the caller that it stands for.
fn called(name: &str, caller: &str) -> String {
    match name == caller {
        true => name.to_owned(),
        false => format!("{name} ({caller})"),
    }
}

/// The context of a row: its own, or a fixture's by name.
fn context(
    fields: Fields<'_>,
    shared: &Shared,
    now_us: i64,
    reader: &mut Reader<'_>,
) -> Option<Ask> {
    let ask = Ask {
        now_us,
        ..Ask::default()
    };
    let Some(node) = fields.get("context") else {
        return Some(ask);
    };
    let Value::Scalar(name) = &node.value else {
        return read_context(node, ask, reader);
    };
    let (source, node) = shared.context(name, node.span, reader)?;
    // What is wrong with it is told where it stands.
    read_context(node, ask, &mut Reader::new(source, reader.found))
}

fn read_context(node: &Node, mut ask: Ask, reader: &mut Reader<'_>) -> Option<Ask> {
    let fields = reader.fields(node, "`context`", &["headers", "mtls", "now", "source"])?;
    if let Some(node) = fields.get("source") {
        ask.source = Some(reader.text(node, "`source`")?.to_owned());
    }
    if let Some(node) = fields.get("mtls") {
        ask.anonymous = !reader.choice(node, "`mtls`", &[("true", true), ("false", false)])?;
    }
    if let Some(node) = fields.get("headers") {
        for entry in reader.map(node, "`headers`")? {
            for (value, _) in reader.texts(&entry.value, "a header") {
                ask.headers.push((entry.key.clone(), value.to_owned()));
            }
        }
    }
    if let Some(node) = fields.get("now") {
        let text = reader.text(node, "`now`")?;
        match text.parse::<Timestamp>() {
            Ok(now) => ask.now_us = now.as_microsecond(),
            Err(_) => {
                let diagnostic =
                    Diagnostic::error(codes::TEST_CONTEXT, format!("`{text}` is not a time"))
                        .help("write for example `now: 2026-11-20T12:00:00Z`");
                reader.report(diagnostic, node.span);
                return None;
            }
        }
    }
    Some(ask)
}
