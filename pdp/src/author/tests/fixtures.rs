//! `tests/fixtures/**/*.yaml`: what rows of tables share, by name.
//!
//! ```yaml
//! principals: { shopper: web, strangers: [spiffe://evil.test/ns/shop/sa/web] }
//! contexts:
//!   office-hours: { now: 2026-11-20T12:00:00Z, source: 10.0.0.7 }
//! entities:
//!   web-in-quarantine:
//!     groups: { quarantine: { services: [shop/web] } }
//! ```
//!
//! Entities are written as in entities/. A group, user or attribute that they name is
//! otherwise than in the repository, for the rows that ask for it; the rest stays.

use std::{collections::BTreeMap, sync::Arc};

use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    yaml::{Source, Span},
};

use crate::{
    author::{
        self, codes,
        entities::Overlay,
        yaml::{Node, Reader, parse},
    },
    compiled::Compiled,
};

/// Folder that names in tables are relative to.
const FOLDER: &str = "tests/";

const FIXTURES_HELP: &str = "define it in a file that the table names under `fixtures`";

/// The fixture files of a repository, each read when a table first asks for it.
pub(super) struct Files<'c> {
    sources: Vec<Source>,
    read: BTreeMap<String, Option<Arc<Fixtures>>>,
    worlds: BTreeMap<String, Option<Arc<Compiled>>>,
    /// The repository, where it compiles.
    pub(super) compiled: Option<&'c Compiled>,
}

/// What one file defines.
#[derive(Debug)]
pub(super) struct Fixtures {
    source: Source,
    principals: BTreeMap<String, Vec<String>>,
    contexts: BTreeMap<String, Node>,
    entities: BTreeMap<String, Node>,
}

/// What a table may refer to, and where it is looked for.
#[derive(Default)]
pub(super) struct Shared(Vec<Arc<Fixtures>>);

impl<'c> Files<'c> {
    pub(super) fn new(sources: Vec<Source>, compiled: Option<&'c Compiled>) -> Self {
        Self {
            sources,
            read: BTreeMap::new(),
            worlds: BTreeMap::new(),
            compiled,
        }
    }

    /// The fixtures that a table names under `fixtures`.
    pub(super) fn shared(&mut self, names: &Node, reader: &mut Reader<'_>) -> Shared {
        let mut shared = Vec::new();
        for (name, span) in reader.texts(names, "`fixtures`") {
            shared.extend(self.file(name, span, reader));
        }
        Shared(shared)
    }

    fn file(&mut self, name: &str, span: Span, reader: &mut Reader<'_>) -> Option<Arc<Fixtures>> {
        let path = format!("{FOLDER}{name}");
        let Some(source) = self.sources.iter().find(|s| *s.path == *path) else {
            let known = self
                .sources
                .iter()
                .filter_map(|s| s.path.strip_prefix(FOLDER));
            let near = did_you_mean(name, known);
            reader.report(
                unknown(
                    "fixture file",
                    name,
                    near,
                    "name a file of tests/fixtures/, such as `fixtures/people.yaml`",
                ),
                span,
            );
            return None;
        };
        let source = source.clone();
        self.read
            .entry(path)
            .or_insert_with(|| read(source, reader.found).map(Arc::new))
            .clone()
    }

    /// Reads what no table named, for its mistakes.
    pub(super) fn finish(mut self, found: &mut Vec<Diagnostic>) {
        for source in std::mem::take(&mut self.sources) {
            if !self.read.contains_key(&*source.path) {
                read(source, found);
            }
        }
    }

    /// The repository in which entities are as `name` says.
    pub(super) fn world(
        &mut self,
        shared: &Shared,
        name: &str,
        span: Span,
        reader: &mut Reader<'_>,
    ) -> Option<Arc<Compiled>> {
        let named = shared
            .0
            .iter()
            .find_map(|f| Some((f, f.entities.get(name)?)));
        let Some((fixtures, node)) = named else {
            let known = shared.0.iter().flat_map(|f| f.entities.keys());
            let near = did_you_mean(name, known.map(String::as_str));
            reader.report(
                unknown("fixture of `entities`", name, near, FIXTURES_HELP),
                span,
            );
            return None;
        };
        let key = format!("{}#{name}", fixtures.source.path);
        let compiled = self.compiled?;
        self.worlds
            .entry(key)
            .or_insert_with(|| world(compiled, &fixtures.source, node, reader.found).map(Arc::new))
            .clone()
    }
}

impl Shared {
    /// The callers that a name stands for: a fixture's, or the name itself.
    pub(super) fn principals<'n>(&'n self, name: &'n str) -> Vec<&'n str> {
        let defined = self.0.iter().find_map(|f| f.principals.get(name));
        match defined {
            Some(all) => all.iter().map(String::as_str).collect(),
            None => vec![name],
        }
    }

    /// The context of that name, and the file it stands in.
    pub(super) fn context(
        &self,
        name: &str,
        span: Span,
        reader: &mut Reader<'_>,
    ) -> Option<(&Source, &Node)> {
        let found = self
            .0
            .iter()
            .find_map(|f| Some((&f.source, f.contexts.get(name)?)));
        if found.is_none() {
            let known = self.0.iter().flat_map(|f| f.contexts.keys());
            let near = did_you_mean(name, known.map(String::as_str));
            reader.report(
                unknown("fixture of `contexts`", name, near, FIXTURES_HELP),
                span,
            );
        }
        found
    }
}

fn unknown(what: &str, name: &str, near: Option<&str>, help: &str) -> Diagnostic {
    let diagnostic =
        Diagnostic::error(codes::TEST_FIXTURE, format!("there is no {what} `{name}`")).help(help);
    match near {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

fn read(source: Source, found: &mut Vec<Diagnostic>) -> Option<Fixtures> {
    let root = parse(&source, found)?;
    let mut reader = Reader::new(&source, found);
    let fields = reader.fields(
        &root,
        "a fixture file",
        &["principals", "contexts", "entities"],
    )?;
    let mut principals = BTreeMap::new();
    if let Some(node) = fields.get("principals") {
        for entry in reader.map(node, "`principals`").unwrap_or_default() {
            let names = reader.texts(&entry.value, "a principal");
            let names = names.into_iter().map(|(name, _)| name.to_owned());
            principals.insert(entry.key.clone(), names.collect());
        }
    }
    let mut nodes = |key: &str| -> BTreeMap<String, Node> {
        let entries = fields
            .get(key)
            .and_then(|node| reader.map(node, &format!("`{key}`")));
        let entries = entries.unwrap_or_default().iter();
        entries.map(|e| (e.key.clone(), e.value.clone())).collect()
    };
    let (contexts, entities) = (nodes("contexts"), nodes("entities"));
    Some(Fixtures {
        source,
        principals,
        contexts,
        entities,
    })
}

/// The repository with the entities of a fixture over its own.
fn world(
    compiled: &Compiled,
    source: &Source,
    node: &Node,
    found: &mut Vec<Diagnostic>,
) -> Option<Compiled> {
    let overlay = Overlay {
        source: source.clone(),
        node: node.clone(),
    };
    let loaded = author::with_entities(compiled, overlay);
    let errors = loaded.diagnostics.into_iter();
    found.extend(errors.filter(Diagnostic::is_error));
    loaded.compiled
}
