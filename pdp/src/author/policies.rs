//! `policies/**/*.cedar`: from text to policies with ids and annotations.

use std::{collections::BTreeMap, sync::Arc};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    yaml::{Source, Span},
};
use smol_str::SmolStr;

use super::{
    POLICIES_MAX, cedar, codes, nesting,
    shared::{Judged, Turn},
};
use crate::{bundle::scope, compiled::PolicyInfo};

/// Longest `@id`.
pub const ID_LEN_MAX: usize = 128;
/// Longest `@deny_message` and `@help_url`; both travel in answers.
pub const MESSAGE_LEN_MAX: usize = 1_000;

/// The rule that [`Read::may_be_impossible`] sets aside, by its name.
pub(super) const IMPOSSIBLE_RULE: &str = "impossible-policy";

const ANNOTATIONS: &[&str] = &[
    "allow",
    "deny_message",
    "description",
    "expires",
    "help_url",
    "id",
    "mode",
    "owner",
];

/// All policies that could be read.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    pub(crate) set: PolicySet,
    pub(crate) read: BTreeMap<SmolStr, Read>,
    /// From which end they are validated.
    pub(super) turn: Turn,
    count: usize,
}

/// A policy with its place.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) info: PolicyInfo,
    pub(crate) source: Source,
    pub(crate) span: Span,
    /// What it can concern, see [`scope`].
    pub(crate) scope: String,
    /// Whether validation has anything against it.
    pub(super) judged: Judged,
    /// Whether its author means it so where it can never match.
    pub(super) may_be_impossible: bool,
}

/// What one file says, whatever other files say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parsed {
    /// What is wrong with the file as a whole.
    found: Vec<Diagnostic>,
    /// Its policies in order; what is too deep to be looked at is refused.
    statements: Vec<Result<Statement, Box<Diagnostic>>>,
}

/// One policy of a file.
#[derive(Debug, Clone)]
struct Statement {
    span: Span,
    /// The policy under its `@id`, or under a made-up one.
    policy: Policy,
    read: Read,
    /// Whether it has a usable `@id`.
    named: bool,
    /// What is wrong with its annotations.
    found: Vec<Diagnostic>,
}

impl Read {
    /// Marks `needle` in the policy, or else its first line.
    pub(crate) fn find(&self, needle: &str) -> Location {
        match self.source.slice(self.span).find(needle) {
            Some(at) => self
                .source
                .span(Span::new(self.span.start + at, needle.len())),
            None => self.source.line(self.info.first_line),
        }
    }

    /// `permit` or `forbid`.
    pub(crate) fn effect(&self) -> &'static str {
        if self.info.permit { "permit" } else { "forbid" }
    }
}

impl Parsed {
    /// The policies that can be looked at.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        let read = self.statements.iter().flatten();
        read.map(|statement| &statement.policy)
    }

    /// Reads one file. One that does not parse has nothing but diagnostics.
    pub(super) fn of(source: &Source) -> Self {
        let broken = |found| Self {
            found,
            ..Self::default()
        };
        if let Err(diagnostic) = nesting::check(source) {
            return broken(vec![*diagnostic]);
        }
        let parsed: PolicySet = match source.text.parse() {
            Ok(parsed) => parsed,
            Err(errors) => return broken(cedar::of_parse(&errors, source)),
        };
        let templates = parsed.templates().map(|template| {
            let span = template.as_ref().loc().map(|l| (l.start(), l.end()));
            Diagnostic::error(codes::TEMPLATE, "a template cannot be used here")
                .cause("nothing in a repository fills `?principal` or `?resource`")
                .help("name the principal and resource, or use a group")
                .at(source.span(to_span(span)))
        });
        let mut policies: Vec<_> = parsed
            .policies()
            .map(|p| {
                let span = p.as_ref().loc().map(|l| (l.start(), l.end()));
                (to_span(span), p)
            })
            .collect();
        policies.sort_by_key(|(span, _)| span.start);
        let (mut line, mut at) = (1, 0);
        let statements = policies.into_iter().map(|(span, policy)| {
            let between = source.text.get(at..span.start).unwrap_or_default();
            line += between.matches('\n').count();
            at = span.start;
            nesting::check_policy(policy, source, span)?;
            Ok(Statement::of(policy, span, line, source))
        });
        Self {
            statements: statements.collect(),
            found: templates.collect(),
        }
    }
}

impl Statement {
    fn of(policy: &Policy, span: Span, first_line: usize, source: &Source) -> Self {
        let mut found = Vec::new();
        let mut annotations = Annotations {
            policy,
            said: policy.annotations().collect(),
            source,
            span,
            found: &mut found,
        };
        let may_be_impossible = annotations.allows_impossible();
        let (info, named) = annotations.info(first_line);
        Self {
            span,
            policy: policy.new_id(PolicyId::new(info.id.as_str())),
            read: Read {
                scope: scope::of(policy),
                source: source.clone(),
                span,
                info,
                judged: Judged::default(),
                may_be_impossible,
            },
            named,
            found,
        }
    }

    /// The same policy under another id.
    fn called(mut self, id: SmolStr) -> Self {
        self.policy = self.policy.new_id(PolicyId::new(id.as_str()));
        self.read.info.id = id;
        self
    }
}

impl Policies {
    /// Puts what files say together, in the order of the files.
    pub(crate) fn of<'s>(
        files: impl IntoIterator<Item = (&'s Source, Parsed)>,
        turn: Turn,
        found: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut policies = Self {
            turn,
            ..Self::default()
        };
        for (source, parsed) in files {
            policies.take(source, parsed, found);
        }
        policies
    }

    fn take(&mut self, source: &Source, parsed: Parsed, found: &mut Vec<Diagnostic>) {
        found.extend(parsed.found);
        for statement in parsed.statements {
            match statement {
                Ok(statement) => self.add(statement, source, found),
                Err(diagnostic) => found.push(*diagnostic),
            }
        }
    }

    /// Adds a policy. One whose id is no good is added as well, so that all its mistakes are
    /// told at once; no revision is made of it, for its id is one of them.
    fn add(&mut self, mut statement: Statement, source: &Source, found: &mut Vec<Diagnostic>) {
        let span = statement.span;
        self.count += 1;
        if self.count > POLICIES_MAX {
            if self.count == POLICIES_MAX + 1 {
                found.push(
                    Diagnostic::error(codes::TOO_MANY_POLICIES, "too many policies")
                        .cause(format!("a repository has at most {POLICIES_MAX}"))
                        .help("use groups instead of one policy for each caller")
                        .at(source.span(span)),
                );
            }
            return;
        }
        if let Some(first) = self.read.get(&statement.read.info.id) {
            found.extend(statement.named.then(|| twice(first, source, span)));
            let id = self.another(&statement, source);
            statement = statement.called(id);
        }
        found.append(&mut statement.found);
        if self.set.add(statement.policy).is_ok() {
            let read = statement.read;
            self.read.insert(read.info.id.clone(), read);
        }
    }

    /// What a policy is called whose id is taken: by the id that its author gave it and its
    /// line, and by its place on that where there is more than one.
    fn another(&self, statement: &Statement, source: &Source) -> SmolStr {
        let info = &statement.read.info;
        let by_line: SmolStr = match statement.named {
            true => format!("{} ({} line {})", info.id, source.path, info.first_line).into(),
            false => info.id.clone(),
        };
        match self.read.contains_key(&by_line) {
            true => format!("{by_line} byte {}", statement.span.start).into(),
            false => by_line,
        }
    }
}

/// The policy at `span` has the id of `first`.
fn twice(first: &Read, source: &Source, span: Span) -> Diagnostic {
    Diagnostic::error(
        codes::ID_TWICE,
        format!("two policies have the id `{}`", first.info.id),
    )
    .label("second time")
    .cause(format!(
        "`{}:{}` has it too; records and reports name policies by id",
        first.info.file, first.info.first_line
    ))
    .help("give each policy its own `@id`")
    .at(Annotations::place(source, span, "id"))
}

fn to_span(bounds: Option<(usize, usize)>) -> Span {
    bounds.map_or_else(Span::default, |(start, end)| {
        Span::new(start, end.saturating_sub(start))
    })
}

/// Reads the annotations of one policy.
struct Annotations<'a> {
    policy: &'a Policy,
    /// Keys and values; Cedar's own look-up parses the key each time.
    said: Vec<(&'a str, &'a str)>,
    source: &'a Source,
    span: Span,
    found: &'a mut Vec<Diagnostic>,
}

impl<'a> Annotations<'a> {
    /// Everything but commit and author, and whether the id is usable. Where it is not, a
    /// policy is called by its place, which no `@id` can be, for it has a space.
    fn info(&mut self, first_line: usize) -> (PolicyInfo, bool) {
        self.unknown();
        let id = self.id();
        let permit = self.policy.effect() == Effect::Permit;
        if !permit {
            self.weakened();
        }
        let text = self.source.slice(self.span);
        let (text, lines): (Arc<str>, _) = (text.into(), text.matches('\n').count());
        let shadow = self.mode();
        let expires = self.expires();
        let named = id.is_some();
        let place = || format!("{} line {first_line}", self.source.path).into();
        let id = id.unwrap_or_else(place);
        let info = PolicyInfo {
            permit,
            file: self.source.path.clone(),
            first_line,
            last_line: first_line + lines,
            text,
            owner: self.value("owner").map(SmolStr::new),
            deny_message: self.message("deny_message"),
            help_url: self.url(),
            expires_us: expires.filter(|_| permit),
            shadow: shadow && permit,
            commit: None,
            author: None,
            id,
        };
        (info, named)
    }

    fn said(&self, key: &str) -> Option<&'a str> {
        let said = self.said.iter().find(|(name, _)| *name == key);
        said.map(|(_, value)| *value)
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.said(key).filter(|v| !v.is_empty())
    }

    fn place(source: &Source, span: Span, key: &str) -> Location {
        let text = source.slice(span);
        let at = text.match_indices('@').find_map(|(at, _)| {
            let rest = text.get(at + 1..)?.trim_start();
            let name = rest.strip_prefix(key)?;
            (!name.starts_with(|c: char| c.is_alphanumeric() || c == '_')).then_some(at)
        });
        match at {
            Some(at) => source.span(Span::new(span.start + at, key.len() + 1)),
            None => source.span(Span::new(
                span.start,
                text.lines().next().unwrap_or_default().len(),
            )),
        }
    }

    fn report(&mut self, diagnostic: Diagnostic, key: &str) {
        let at = Self::place(self.source, self.span, key);
        self.found.push(diagnostic.at(at));
    }

    fn unknown(&mut self) {
        let keys = self.said.iter().map(|(key, _)| *key);
        let mut unknown: Vec<&str> = keys.filter(|key| !ANNOTATIONS.contains(key)).collect();
        unknown.sort_unstable();
        for key in unknown {
            let mut diagnostic = Diagnostic::warning(
                codes::ANNOTATION_UNKNOWN,
                format!("annotation `@{key}` has no meaning here"),
            )
            .help(format!("known annotations: @{}", ANNOTATIONS.join(", @")));
            if let Some(near) = did_you_mean(key, ANNOTATIONS.iter().copied()) {
                diagnostic = diagnostic.label(format!("did you mean `@{near}`?"));
            }
            self.report(diagnostic, key);
        }
    }

    fn id(&mut self) -> Option<SmolStr> {
        let Some(id) = self.value("id") else {
            let diagnostic = Diagnostic::error(codes::ID_MISSING, "policy has no `@id`")
                .cause("records and reports name policies by id; a position in a file is none")
                .help("write for example `@id(\"orders-read\")` above it");
            self.report(diagnostic, "id");
            return None;
        };
        let valid = id.len() <= ID_LEN_MAX
            && id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b));
        if valid {
            return Some(id.into());
        }
        let diagnostic = Diagnostic::error(codes::ID_INVALID, format!("`{id}` cannot be an id"))
            .cause(format!(
                "it has letters, digits and `-_.:/`, at most {ID_LEN_MAX} of them"
            ))
            .help("write for example `@id(\"orders-read\")`");
        self.report(diagnostic, "id");
        None
    }

    /// Attack T106: what would widen access without a visible change.
    fn weakened(&mut self) {
        for key in ["expires", "mode"] {
            if self.said(key).is_none() {
                continue;
            }
            let diagnostic = Diagnostic::error(
                codes::FORBID_WEAKENED,
                format!("a `forbid` cannot carry `@{key}`"),
            )
            .cause("it would stop forbidding, and access would widen without a change that anybody reviews")
            .help(match key {
                "mode" => "try a new `forbid` in a branch with `palisade policy test`; enforce it or leave it out",
                _ => "remove the annotation, and remove the policy when its time has come",
            });
            self.report(diagnostic, key);
        }
    }

    fn mode(&mut self) -> bool {
        match self.said("mode") {
            None | Some("enforce") => false,
            Some("shadow") => true,
            Some(other) => {
                let diagnostic = Diagnostic::error(
                    codes::ANNOTATION_VALUE,
                    format!("`@mode` cannot be `{other}`"),
                )
                .help("`@mode(\"shadow\")` evaluates and records without permitting; leave it out to enforce");
                self.report(diagnostic, "mode");
                true
            }
        }
    }

    /// Of the rules that keep a revision from being made, one can be set aside for a policy.
    fn allows_impossible(&mut self) -> bool {
        match self.said("allow") {
            None => false,
            Some(IMPOSSIBLE_RULE) => true,
            Some(other) => {
                let diagnostic = Diagnostic::error(
                    codes::ANNOTATION_VALUE,
                    format!("`@allow` cannot be `{other}`"),
                )
                .cause("a warning keeps no revision from being made, and every other error is a mistake in any case")
                .help(format!(
                    "`@allow(\"{IMPOSSIBLE_RULE}\")` says that a policy is meant so which can never match; leave it out"
                ));
                self.report(diagnostic, "allow");
                false
            }
        }
    }

    fn expires(&mut self) -> Option<i64> {
        let text = self.said("expires")?;
        let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
        let parsed = text
            .parse::<Timestamp>()
            .ok()
            .or_else(|| text.parse::<Date>().ok().and_then(midnight));
        if parsed.is_none() {
            let diagnostic = Diagnostic::error(
                codes::ANNOTATION_VALUE,
                format!("`@expires` cannot be `{text}`"),
            )
            .cause("it is a UTC time such as 2026-12-31T00:00:00Z, or a date, which means its first moment")
            .help("write for example `@expires(\"2026-12-31\")`");
            self.report(diagnostic, "expires");
        }
        parsed.map(Timestamp::as_microsecond)
    }

    fn message(&mut self, key: &str) -> Option<SmolStr> {
        let text = self.value(key)?;
        if text.len() <= MESSAGE_LEN_MAX && !text.contains(char::is_control) {
            return Some(text.into());
        }
        let diagnostic = Diagnostic::error(
            codes::ANNOTATION_VALUE,
            format!("`@{key}` cannot be sent to a caller"),
        )
        .cause(format!(
            "it has at most {MESSAGE_LEN_MAX} bytes, without line breaks"
        ))
        .help("shorten it, and link to the rest with `@help_url`");
        self.report(diagnostic, key);
        None
    }

    fn url(&mut self) -> Option<SmolStr> {
        let url = self.message("help_url")?;
        if url.starts_with("https://") || url.starts_with("http://") {
            return Some(url);
        }
        let diagnostic = Diagnostic::error(
            codes::ANNOTATION_VALUE,
            format!("`@help_url` cannot be `{url}`"),
        )
        .help("write a whole address, such as `https://wiki.acme.test/access`");
        self.report(diagnostic, "help_url");
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads two policies when all but `room` of the limit is used up.
    fn with_room(room: usize) -> Vec<u16> {
        let mut policies = Policies {
            count: POLICIES_MAX - room,
            ..Policies::default()
        };
        let text = "@id(\"a\") permit (principal, action, resource);\n\
                    @id(\"b\") permit (principal, action, resource);";
        let mut found = Vec::new();
        let source = Source::new("policies/a.cedar", text);
        policies.take(&source, Parsed::of(&source), &mut found);
        found.iter().map(|d| d.code.0).collect()
    }

    #[test]
    fn policies_are_bounded_on_both_sides_and_told_once() {
        assert!(with_room(2).is_empty());
        assert_eq!(with_room(1), [codes::TOO_MANY_POLICIES]);
        assert_eq!(with_room(0), [codes::TOO_MANY_POLICIES]);
    }
}
