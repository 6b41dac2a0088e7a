//! Cedar for the readers of the audit log: who may ask it what, and see which rows.
//!
//! A vocabulary of its own, and one policy file of the operator's; nothing is built in, so
//! nobody reads who was not let. Each `permit` says by `@rows("…")` which rows it lets be
//! seen, in the words of the query language, which this crate does not know: whoever asks
//! reads them, and lets be seen what one of the permits does. A `forbid` stops it all.

use std::{collections::HashMap, fs, path::Path, str::FromStr, sync::Arc};

use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, Entity, Policy, PolicyId, PolicySet, Request,
    Schema, ValidationMode, Validator,
};
use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    spiffe_id::SpiffeId,
    yaml::{Source, Span},
};

use crate::{
    author::cedar,
    links::{FILE_LEN_MAX, Kind, kind, text, uid},
};

const SCHEMA: &str = include_str!("readers/readers.cedarschema");
/// Most policies of the file.
pub const POLICIES_MAX: usize = 1000;
/// Annotations that have a meaning here.
const ANNOTATIONS: [&str; 2] = ["id", "rows"];
/// Code of everything that is wrong with the file.
const WRONG: u16 = 7902;

/// What a reader wants of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadAction {
    /// Alert rules and the alerts that are open.
    Alerts,
    /// The latest signed checkpoint.
    Checkpoint,
    /// All records, as a file.
    Export,
    /// Values of fields, counted.
    Facets,
    /// What is missing.
    Gaps,
    /// The legal holds.
    Holds,
    /// How the service is.
    Metrics,
    /// A record as it is hashed, with its proof.
    Proof,
    /// Reports: which there are, and one made.
    Reports,
    /// What is under the covers of the records of one id.
    Reveal,
    /// The reader's own saved queries.
    Saved,
    /// Records or a summary of them.
    Search,
    /// What is under one id.
    Show,
    /// Records as they arrive.
    Tail,
    /// Hashes and records as a tile log has them.
    Tiles,
    /// Records counted in steps of time.
    Timeline,
    /// Verification of the whole log.
    Verify,
}

impl ReadAction {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Alerts,
        Self::Checkpoint,
        Self::Export,
        Self::Facets,
        Self::Gaps,
        Self::Holds,
        Self::Metrics,
        Self::Proof,
        Self::Reports,
        Self::Reveal,
        Self::Saved,
        Self::Search,
        Self::Show,
        Self::Tail,
        Self::Tiles,
        Self::Timeline,
        Self::Verify,
    ];

    /// The word for it in records; policies write `audit:` before it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alerts => "alerts",
            Self::Checkpoint => "checkpoint",
            Self::Export => "export",
            Self::Facets => "facets",
            Self::Gaps => "gaps",
            Self::Holds => "holds",
            Self::Metrics => "metrics",
            Self::Proof => "proof",
            Self::Reports => "reports",
            Self::Reveal => "reveal",
            Self::Saved => "saved",
            Self::Search => "search",
            Self::Show => "show",
            Self::Tail => "tail",
            Self::Tiles => "tiles",
            Self::Timeline => "timeline",
            Self::Verify => "verify",
        }
    }
}

/// Decides who reads what.
#[derive(Clone)]
pub struct Readers(Arc<Inner>);

struct Inner {
    schema: Schema,
    policies: PolicySet,
    read: HashMap<PolicyId, Read>,
}

/// What is known of a policy.
struct Read {
    /// Its `@id`, as records name it.
    name: String,
    /// What a permit's `@rows` says, and where.
    rows: Option<Rows>,
}

/// The rows of a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// In the words of the query language.
    pub text: String,
    /// Where it stands.
    pub location: Location,
}

/// A reader is let.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted<'r> {
    /// Ids of the permits.
    pub policies: Vec<String>,
    /// What each of them lets be seen.
    pub rows: Vec<&'r str>,
}

/// A reader is not let.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotGranted {
    /// Ids of the policies that forbid it; none, where nothing permits it.
    pub policies: Vec<String>,
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readers").finish_non_exhaustive()
    }
}

impl Readers {
    /// Reads a policy file.
    ///
    /// # Errors
    /// `PLS7902` for everything that is wrong with it, each with its line.
    pub fn read(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let name = path.display().to_string();
        let text = fs::metadata(path).and_then(|meta| match meta.len() {
            len if len > FILE_LEN_MAX => Err(std::io::Error::other("it is larger than 1 MiB")),
            _ => fs::read_to_string(path),
        });
        let text = text.map_err(|error| {
            vec![
                Diagnostic::error(WRONG, format!("reader policies in `{name}` cannot be read"))
                    .cause(error.to_string())
                    .help("name a Cedar file in `audit.api.policy`; docs/operations/audit-api.md has one"),
            ]
        })?;
        Self::parse(&name, &text)
    }

    /// Reads the text of a policy file that diagnostics call `name`.
    ///
    /// # Errors
    /// As [`Readers::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let source = Source::new(name, text);
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)
            .map_err(|e| vec![Diagnostic::error(WRONG, format!("bug: own schema: {e}"))])?;
        let policies = PolicySet::from_str(text).map_err(|errors| {
            let of_ours = |found: Diagnostic| Diagnostic {
                code: palisade_mesh::diagnostic::Code(WRONG),
                ..found
            };
            let found = cedar::of_parse(&errors, &source);
            found.into_iter().map(of_ours).collect::<Vec<_>>()
        })?;
        let mut found = Vec::new();
        if policies.templates().next().is_some() {
            let told = Diagnostic::error(WRONG, "templates are not used here");
            found.push(
                told.help("name the reader instead of `?principal`")
                    .at(source.line(1)),
            );
        }
        let mut all: Vec<_> = policies.policies().map(|p| (span(p), p)).collect();
        all.sort_by_key(|(span, _)| span.start);
        if all.len() > POLICIES_MAX {
            let told = Diagnostic::error(WRONG, format!("{} policies are too many", all.len()));
            found.push(
                told.help(format!("at most {POLICIES_MAX}"))
                    .at(source.line(1)),
            );
        }
        let mut read = HashMap::new();
        for (span, policy) in all {
            let named = Named {
                source: &source,
                span,
                policy,
            };
            match named.read(&read) {
                Ok(one) => drop(read.insert(policy.id().clone(), one)),
                Err(wrong) => found.extend(wrong),
            }
        }
        let validator = Validator::new(schema.clone());
        let validated = validator.validate(&policies, ValidationMode::Strict);
        for error in validated.validation_errors() {
            let mut told = cedar::of_report(WRONG, error, &source);
            told.message = cedar::without_policy(&told.message).to_owned();
            if told.help.is_none() {
                told.help = Some("the vocabulary is in docs/operations/audit-api.md".into());
            }
            found.push(told);
        }
        match found.is_empty() {
            true => Ok(Self(Arc::new(Inner {
                schema,
                policies,
                read,
            }))),
            false => Err(found),
        }
    }

    /// The rows of every permit.
    pub fn rows(&self) -> impl Iterator<Item = &Rows> {
        self.0.read.values().filter_map(|read| read.rows.as_ref())
    }

    /// Decides about one question. What cannot be evaluated is not let, and so is a
    /// question on which any policy fails.
    ///
    /// # Errors
    /// Which policies forbid it; none, where nothing permits it.
    pub fn decide(&self, reader: &SpiffeId, action: ReadAction) -> Result<Granted<'_>, NotGranted> {
        let nobody = NotGranted {
            policies: Vec::new(),
        };
        let Some((request, entities)) = self.ask(reader, action) else {
            return Err(nobody);
        };
        let answer = Authorizer::new().is_authorized(&request, &self.0.policies, &entities);
        let reads: Vec<&Read> = answer
            .diagnostics()
            .reason()
            .filter_map(|id| self.0.read.get(id))
            .collect();
        if answer.diagnostics().errors().next().is_some() {
            return Err(nobody);
        }
        let mut policies: Vec<String> = reads.iter().map(|read| read.name.clone()).collect();
        policies.sort_unstable();
        match answer.decision() {
            Decision::Allow => Ok(Granted {
                policies,
                rows: reads
                    .into_iter()
                    .filter_map(|read| Some(read.rows.as_ref()?.text.as_str()))
                    .collect(),
            }),
            Decision::Deny => Err(NotGranted { policies }),
        }
    }

    fn ask(&self, reader: &SpiffeId, action: ReadAction) -> Option<(Request, Entities)> {
        let principal = principal(reader)?;
        let action = uid("Action", &format!("audit:{}", action.as_str()))?;
        let schema = Some(&self.0.schema);
        let request = Request::new(
            principal.uid(),
            action,
            uid("Log", "audit")?,
            Context::empty(),
            schema,
        );
        let entities = Entities::from_entities([principal], schema);
        Some((request.ok()?, entities.ok()?))
    }
}

/// The reader as Cedar sees it.
fn principal(reader: &SpiffeId) -> Option<Entity> {
    let (name, attribute, value) = match kind(reader) {
        Kind::Client(name) => ("Client", "name", name),
        Kind::Node(name) => ("Node", "name", name),
        Kind::Role(name) => ("Role", "name", name),
        Kind::Workload => ("Workload", "path", reader.path()),
    };
    let attributes = [(attribute.to_owned(), text(value))].into_iter().collect();
    Entity::new(uid(name, reader.as_str())?, attributes, Default::default()).ok()
}

fn span(policy: &Policy) -> Span {
    policy.as_ref().loc().map_or_else(Span::default, |at| {
        Span::new(at.start(), at.end().saturating_sub(at.start()))
    })
}

/// One policy of the file.
struct Named<'a> {
    source: &'a Source,
    span: Span,
    policy: &'a Policy,
}

impl Named<'_> {
    fn read(&self, others: &HashMap<PolicyId, Read>) -> Result<Read, Vec<Diagnostic>> {
        let mut found = Vec::new();
        for (key, _) in self.policy.annotations() {
            if !ANNOTATIONS.contains(&key) {
                let told = self.wrong(key, format!("annotation `@{key}` has no meaning here"));
                found.push(match did_you_mean(key, ANNOTATIONS) {
                    Some(near) => told.help(format!("did you mean `@{near}`?")),
                    None => told.help("known annotations: @id, @rows"),
                });
            }
        }
        let name = self.policy.annotation("id").unwrap_or_default();
        if name.is_empty() {
            let told = self.wrong("id", "policy has no `@id`".into());
            found.push(told.help("write for example `@id(\"auditors-read\")` above it"));
        } else if others.values().any(|other| other.name == name) {
            let told = self.wrong("id", format!("two policies have the id `{name}`"));
            found.push(told.help("give each policy its own `@id`"));
        }
        let rows = self.policy.annotation("rows");
        let permits = self.policy.effect() == Effect::Permit;
        match (permits, rows) {
            (true, None) => {
                let told = self.wrong("rows", format!("`{name}` does not say which rows are seen"));
                found.push(
                    told.help("write `@rows(\"service:shop/*\")`, or `@rows(\"*\")` for every row"),
                );
            }
            (false, Some(_)) => {
                let told = self.wrong("rows", format!("a `forbid` has no rows, and `{name}` has"));
                found.push(
                    told.cause("it stops the whole question, whatever rows others let be seen")
                        .help("take `@rows` out, or narrow the `@rows` of the permits"),
                );
            }
            _ => {}
        }
        if !found.is_empty() {
            return Err(found);
        }
        Ok(Read {
            name: name.to_owned(),
            rows: rows.map(|text| Rows {
                text: text.to_owned(),
                location: self.place("rows"),
            }),
        })
    }

    fn wrong(&self, key: &str, message: String) -> Diagnostic {
        Diagnostic::error(WRONG, message).at(self.place(key))
    }

    /// Where an annotation stands; the first line of the policy, where it has none.
    fn place(&self, key: &str) -> Location {
        let text = self.source.slice(self.span);
        let marked = format!("@{key}");
        let at = text.match_indices(&marked).find(|(at, found)| {
            let rest = text.get(at + found.len()..).unwrap_or_default();
            rest.trim_start().starts_with('(')
        });
        match at {
            Some((at, found)) => self
                .source
                .span(Span::new(self.span.start + at, found.len())),
            None => {
                let first = text.lines().next().unwrap_or_default().len();
                self.source.span(Span::new(self.span.start, first))
            }
        }
    }
}

#[cfg(test)]
mod tests;
