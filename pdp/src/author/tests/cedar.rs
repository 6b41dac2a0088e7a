//! Tests in the format of Cedar's own command line (`cedar run-tests`): `tests/**/*.json`.
//!
//! ```json
//! [{ "name": "the storefront reads",
//!    "request": { "principal": "Workload::\"spiffe://acme.test/ns/shop/sa/web\"",
//!                 "action": "Action::\"GET\"", "resource": "Operation::\"acme.test/shop/orders/list\"",
//!                 "context": {} },
//!    "entities": "entities.json", "decision": "allow", "reason": ["orders-read"], "num_errors": 0 }]
//! ```
//!
//! They run on the engine that enforces, as rows of tables do, so a request must be one
//! that a proxy can put. As in Cedar's, `reason` need not be all, and `entities` are all there
//! are; without them, those of the repository hold. A list of entities may stand in a file of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use cedar_policy::{Entities, EntityUid};
use palisade_mesh::{
    diagnostic::Diagnostic,
    yaml::{Source, Span},
};
use serde_json::Value as Json;

use super::{CASES_MAX, Case, Expected, table};
use crate::{
    author::{
        codes, files,
        yaml::{Fields, Node, Reader, Value, parse},
    },
    compiled::Compiled,
};

mod request;

use request::{Asking, Part, question};

/// How the names of such files end.
pub(super) const EXTENSION: &str = ".json";

const KEYS: &[&str] = &[
    "decision",
    "entities",
    "name",
    "num_errors",
    "reason",
    "request",
];
const DECISIONS: &[(&str, Expected)] = &[("allow", Expected::Allow), ("deny", Expected::Deny)];

/// Reads the tests of these files into cases.
pub(super) fn read(
    sources: &[Source],
    compiled: Option<&Compiled>,
    cases: &mut Vec<Case>,
    found: &mut Vec<Diagnostic>,
) {
    let mut documents: BTreeMap<&str, (&Source, Json)> = BTreeMap::new();
    for source in sources {
        match serde_json::from_str(&source.text) {
            Ok(document) => {
                documents.insert(&source.path, (source, document));
            }
            Err(error) => found.push(syntax(source, &error)),
        }
    }
    let is_table = |path: &str| !path.starts_with(files::FIXTURES);
    let named: BTreeSet<String> = documents
        .iter()
        .filter(|(path, _)| is_table(path))
        .flat_map(|(path, (_, document))| entity_files(path, document))
        .collect();
    let mut worlds = Worlds {
        documents: &documents,
        compiled,
        made: BTreeMap::new(),
    };
    for (path, (source, document)) in &documents {
        if is_table(path) && !named.contains(*path) {
            read_file(source, document, &mut worlds, cases, found);
        }
    }
}

/// JSON is YAML, too, but says more clearly what is wrong with it.
fn syntax(source: &Source, error: &serde_json::Error) -> Diagnostic {
    let lines = source.text.split_inclusive('\n');
    let before: usize = lines
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let at = (before + error.column().saturating_sub(1)).min(source.text.len());
    let whole = error.to_string();
    let cause = whole.split(" at line ").next().unwrap_or(&whole);
    Diagnostic::error(codes::TEST_JSON, "this is no JSON")
        .cause(cause.to_owned())
        .help("a file of Cedar tests is a list of objects: [{ \"request\": {…}, \"entities\": […], … }]")
        .at(source.span(Span::new(at, usize::from(at < source.text.len()))))
}

/// Files that tests of the file at `path` name under `entities`.
fn entity_files(path: &str, document: &Json) -> Vec<String> {
    let tests = document.as_array().into_iter().flatten();
    let names = tests.filter_map(|test| test.get("entities")?.as_str());
    names.filter_map(|name| beside(path, name)).collect()
}

/// The path of the file `name`, written in a file at `path`; `None` outside the tests.
fn beside(path: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in name.split('/') {
        match part {
            "." => {}
            ".." if parts.len() > 1 => drop(parts.pop()),
            "" | ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn read_file(
    source: &Source,
    document: &Json,
    worlds: &mut Worlds<'_>,
    cases: &mut Vec<Case>,
    found: &mut Vec<Diagnostic>,
) {
    let Some(root) = parse(source, found) else {
        return;
    };
    let mut reader = Reader::new(source, found);
    let nodes = reader.list(&root, "a file of Cedar tests");
    let tests = document.as_array().into_iter().flatten();
    for (node, test) in nodes.unwrap_or_default().iter().zip(tests) {
        if cases.len() >= CASES_MAX {
            reader.report(table::too_many(), node.span);
            return;
        }
        cases.extend(read_test(node, test, worlds, &mut reader));
    }
}

fn read_test(
    node: &Node,
    test: &Json,
    worlds: &mut Worlds<'_>,
    reader: &mut Reader<'_>,
) -> Option<Case> {
    let fields = reader.fields(node, "a Cedar test", KEYS)?;
    let name = match fields.get("name") {
        Some(node) => Some(reader.text(node, "`name`")?.to_owned()),
        None => None,
    };
    let decision = needed(fields, "decision", "\"decision\": \"allow\"", reader);
    let expected = decision.and_then(|node| reader.choice(node, "`decision`", DECISIONS));
    let reason = needed(fields, "reason", "\"reason\": []", reader);
    let reason = reason.map(|node| table::policies(node, "`reason`", worlds.compiled, reader));
    let errors = needed(fields, "num_errors", "\"num_errors\": 0", reader);
    let errors = errors.and_then(|node| count(node, reader));
    let asking = asking(fields, test, reader);
    let world = match fields.get("entities") {
        Some(node) => Some(worlds.world(node, test.get("entities")?, reader)?),
        None => None,
    };
    let asking = asking?;
    let asked = question(&asking, worlds.compiled?);
    let question = asked.map_err(|wrong| asking.report(wrong, reader)).ok()?;
    let request = format!("{} {}", asking.action.id().unescaped(), asking.resource);
    Some(Case {
        name: name.unwrap_or_else(|| request.clone()),
        principal: asking.principal.id().unescaped().to_owned(),
        request,
        location: reader.source.span(fields.span),
        world,
        question,
        expected: expected?,
        policies: Some(reason?),
        others: true,
        errors: Some(errors?),
    })
}

fn needed<'n>(
    fields: Fields<'n>,
    key: &str,
    example: &str,
    reader: &mut Reader<'_>,
) -> Option<&'n Node> {
    let node = fields.get(key);
    if node.is_none() {
        reader.missing(fields.span, "a Cedar test", key, example);
    }
    node
}

fn count(node: &Node, reader: &mut Reader<'_>) -> Option<usize> {
    let text = reader.text(node, "`num_errors`")?;
    let count = text.parse().ok();
    if count.is_none() {
        let message = format!("`num_errors` cannot be `{text}`");
        let diagnostic = Diagnostic::error(codes::INVALID_VALUE, message)
            .help("how many policies fail to evaluate, 0 or more");
        reader.report(diagnostic, node.span);
    }
    count
}

/// The request as it is written.
fn asking<'t>(fields: Fields<'t>, test: &'t Json, reader: &mut Reader<'_>) -> Option<Asking<'t>> {
    let Some(node) = fields.get("request") else {
        reader.missing(fields.span, "a Cedar test", "request", "\"request\": { … }");
        return None;
    };
    let known = &["action", "context", "principal", "resource"];
    let parts = reader.fields(node, "`request`", known)?;
    let mut uid = |key: &str, example: &str| -> Option<(EntityUid, Span)> {
        let Some(node) = parts.get(key) else {
            let example = format!("\"{key}\": {:?}", example);
            reader.missing(parts.span, "`request`", key, &example);
            return None;
        };
        let text = reader.text(node, &format!("`{key}`"))?;
        match text.parse::<EntityUid>() {
            Ok(uid) => Some((uid, node.span)),
            Err(error) => {
                let diagnostic =
                    Diagnostic::error(codes::TEST_CEDAR, format!("`{text}` is no entity"))
                        .cause(error.to_string())
                        .help(format!("write it as in a policy: {example}"));
                reader.report(diagnostic, node.span);
                None
            }
        }
    };
    let principal = uid(
        "principal",
        "Workload::\"spiffe://acme.test/ns/shop/sa/web\"",
    );
    let action = uid("action", "Action::\"GET\"");
    let resource = uid("resource", "Operation::\"acme.test/shop/orders/list\"");
    let Some(context) = parts.get("context") else {
        reader.missing(parts.span, "`request`", "context", "\"context\": { … }");
        return None;
    };
    let ((principal, by), (action, does), (resource, to)) = (principal?, action?, resource?);
    Some(Asking {
        principal,
        action,
        resource,
        context: test.get("request")?.get("context")?,
        places: [
            (Part::Action, does),
            (Part::Context, context.span),
            (Part::Principal, by),
            (Part::Resource, to),
        ],
    })
}

/// The repository under the entities that tests bring, made once for all that bring the same.
struct Worlds<'d> {
    documents: &'d BTreeMap<&'d str, (&'d Source, Json)>,
    /// The repository, where it compiles.
    compiled: Option<&'d Compiled>,
    made: BTreeMap<String, Option<Arc<Compiled>>>,
}

impl Worlds<'_> {
    fn world(
        &mut self,
        node: &Node,
        entities: &Json,
        reader: &mut Reader<'_>,
    ) -> Option<Arc<Compiled>> {
        let (listed, file) = match &node.value {
            Value::Scalar(name) => {
                let path = beside(&reader.source.path, name);
                let known = path.as_deref().and_then(|path| self.documents.get(path));
                let Some((source, listed)) = known else {
                    reader.report(no_file(name), node.span);
                    return None;
                };
                (listed, source.path.to_string())
            }
            _ => (entities, String::new()),
        };
        let compiled = self.compiled?;
        let made = self.made.entry(listed.to_string());
        let made = made.or_insert_with(|| {
            let read = Entities::from_json_value(listed.clone(), Some(&compiled.schema));
            let entities = read.map_err(|error| {
                let diagnostic =
                    Diagnostic::error(codes::TEST_ENTITIES, "entities do not fit the schema")
                        .cause(match file.as_str() {
                            "" => error.to_string(),
                            file => format!("{file}: {error}"),
                        })
                        .help("compare them with `palisade policy schema`, or leave `entities` out for those of the repository");
                reader.report(diagnostic, node.span);
            });
            Some(Arc::new(Compiled {
                entities: entities.ok()?,
                ..compiled.clone()
            }))
        });
        made.clone()
    }
}

fn no_file(name: &str) -> Diagnostic {
    Diagnostic::error(codes::TEST_ENTITIES, format!("there is no file `{name}`"))
        .cause("a file of entities is named from the folder of the tests that use it, and lies in tests/")
        .help("name a file such as `entities.json`, or write the entities here")
}
