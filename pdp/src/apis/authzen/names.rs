//! The words of callers, put into ours and back.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use palisade_mesh::{
    canonical::canonical_host,
    catalogue::{Catalogue, Service},
    diagnostic::Diagnostic,
    operation::Operation,
    spiffe_id::TrustDomain,
};
use serde_json::{Map, Value};

use super::{
    mapping::{Mapping, parts_of},
    pattern::Pattern,
    words::{Action, OPERATION, Resource, SERVICE, Subject, WORKLOAD, Whole},
};
use crate::apis::inquiry::Misread;

/// What callers' words mean. Without rules every word is ours.
#[derive(Debug, Default)]
pub struct Names {
    subjects: Vec<Entity>,
    actions: Vec<Verb>,
    resources: Vec<Entity>,
    unread: BTreeSet<(Part, String)>,
}

/// A rule about subjects or resources: what the caller calls it, and what it is.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) kind: String,
    pub(super) id: Pattern,
    pub(super) own_kind: &'static str,
    pub(super) is: Pattern,
}

/// A rule about actions.
#[derive(Debug)]
pub(super) struct Verb {
    pub(super) name: String,
    pub(super) is: String,
    /// Types of resources, as callers call them; empty for all.
    pub(super) on: Vec<String>,
}

/// A part of a question that has properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Action,
    Context,
    Resource,
    Subject,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Action, Self::Context, Self::Resource, Self::Subject];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Context => "context",
            Self::Resource => "resource",
            Self::Subject => "subject",
        }
    }
}

/// A resource that a search asks about: by our type and id, and its id in the caller's
/// words. The properties are the search's.
pub(super) struct Listed {
    pub(super) own_kind: &'static str,
    pub(super) own_id: String,
    pub(super) id: String,
}

impl Names {
    /// The rules of `mapping` in the trust domain `domain`.
    ///
    /// # Errors
    /// Everything that is wrong with them: a name with two meanings, two names of one
    /// thing, a type that nothing has, a text that cannot be mapped.
    pub fn new(mapping: &Mapping, domain: &TrustDomain) -> Result<Self, Vec<Diagnostic>> {
        let (subjects, actions, resources, unread) = mapping.read(domain)?;
        Ok(Self {
            subjects,
            actions,
            resources,
            unread: unread.into_iter().collect(),
        })
    }

    /// A question in our words.
    pub(super) fn whole(&self, said: &Whole) -> Result<Whole, Misread> {
        Ok(Whole {
            subject: self.subject(&said.subject)?,
            action: self.action(&said.action, &said.resource.kind),
            resource: self.resource(&said.resource)?,
            context: self.context(&said.context),
        })
    }

    /// Whether every word is ours.
    pub(super) fn is_empty(&self) -> bool {
        let rules = self.subjects.len() + self.actions.len() + self.resources.len();
        rules + self.unread.len() == 0
    }

    /// A subject in our words; in a search its type alone.
    pub(super) fn subject(&self, said: &Subject) -> Result<Subject, Misread> {
        let mut own = ours(&self.subjects, said)?;
        self.strip(Part::Subject, &mut own.properties);
        Ok(own)
    }

    /// A resource in our words, with its id.
    pub(super) fn resource(&self, said: &Resource) -> Result<Resource, Misread> {
        let mut own = ours(&self.resources, said)?;
        self.strip(Part::Resource, &mut own.properties);
        Ok(own)
    }

    /// An action in our words, on a resource of the caller's type `on`.
    pub(super) fn action(&self, said: &Action, on: &str) -> Action {
        let mut own = said.clone();
        if let Some(rule) = self.verbs(on).find(|rule| rule.name == said.name) {
            own.name.clone_from(&rule.is);
        }
        self.strip(Part::Action, &mut own.properties);
        own
    }

    /// A context without what changes nothing.
    pub(super) fn context(&self, said: &Arc<Map<String, Value>>) -> Arc<Map<String, Value>> {
        let mut own = said.clone();
        if self.unread.iter().any(|(part, _)| *part == Part::Context) {
            self.strip(Part::Context, Arc::make_mut(&mut own));
        }
        own
    }

    /// What a caller who asks for subjects of type `kind` calls the workload `id`; none where
    /// it is none of these.
    pub(super) fn subject_back<'i>(&self, kind: &str, id: &'i str) -> Option<Cow<'i, str>> {
        if kind == WORKLOAD {
            return Some(Cow::Borrowed(id));
        }
        let mut rules = self.subjects.iter().filter(|rule| rule.kind == kind);
        rules.find_map(|rule| rule.back(id)).map(Cow::Owned)
    }

    /// What callers call an action of ours on a resource of their type `on`; none where that
    /// name means something else to them.
    pub(super) fn action_back<'a>(&'a self, on: &str, action: &'a str) -> Option<&'a str> {
        if let Some(rule) = self.verbs(on).find(|rule| rule.is == action) {
            return Some(&rule.name);
        }
        let taken = self.verbs(on).any(|rule| rule.name == action);
        (!taken).then_some(action)
    }

    /// Whether callers' resources of type `kind` have rules.
    pub(super) fn maps(&self, kind: &str) -> bool {
        self.resources.iter().any(|rule| rule.kind == kind)
    }

    /// Every resource of the caller's type `kind` that the catalogue knows, of operations those that
    /// `fits`, and how many rules have ids that it does not know.
    pub(super) fn listed(
        &self,
        catalogue: &Catalogue,
        kind: &str,
        fits: &dyn Fn(&Service, &Operation) -> bool,
    ) -> (Vec<Listed>, usize) {
        let (mut listed, mut unlisted, mut seen) = (Vec::new(), 0, BTreeSet::new());
        for rule in self.resources.iter().filter(|rule| rule.kind == kind) {
            let (known, open) = rule.known(catalogue, fits);
            unlisted += usize::from(open);
            for own_id in known {
                let id = rule.back(&own_id).or_else(|| rule.back(short(&own_id)));
                let Some(id) = id.filter(|id| seen.insert(id.clone())) else {
                    continue;
                };
                listed.push(Listed {
                    own_kind: rule.own_kind,
                    own_id,
                    id,
                });
            }
        }
        (listed, unlisted)
    }

    fn verbs<'a>(&'a self, on: &str) -> impl Iterator<Item = &'a Verb> {
        let holds = move |rule: &&Verb| rule.on.is_empty() || rule.on.iter().any(|kind| kind == on);
        self.actions.iter().filter(holds)
    }

    fn strip(&self, part: Part, properties: &mut Map<String, Value>) {
        for (_, name) in self.unread.iter().filter(|(of, _)| *of == part) {
            properties.remove(name);
        }
    }
}

impl Entity {
    /// The caller's id of one of ours.
    fn back(&self, own: &str) -> Option<String> {
        self.is.piece(own).map(|piece| self.id.filled(piece))
    }

    /// What the catalogue knows of its side, and whether there may be more.
    fn known(
        &self,
        catalogue: &Catalogue,
        fits: &dyn Fn(&Service, &Operation) -> bool,
    ) -> (Vec<String>, bool) {
        if self.is.is_literal() {
            return (vec![self.is.filled("")], false);
        }
        let services = catalogue.services().iter();
        match self.own_kind {
            SERVICE => (services.map(|s| s.id.to_string()).collect(), false),
            OPERATION => {
                let of = |s: &'_ Arc<Service>| {
                    let fitting = s.operations.iter().filter(|o| fits(s, o));
                    fitting.map(|o| o.id.to_string()).collect::<Vec<_>>()
                };
                (services.flat_map(of).collect(), false)
            }
            _ => self.addresses(catalogue),
        }
    }

    /// Addresses of operations whose path is fixed, and whether others have parameters.
    fn addresses(&self, catalogue: &Catalogue) -> (Vec<String>, bool) {
        let text = self.is.filled("*");
        let (host, path) = parts_of(&text).unwrap_or_default();
        let canonical = canonical_host(host).ok();
        let Some(service) = canonical.and_then(|h| catalogue.by_host(&h)) else {
            return (Vec::new(), false);
        };
        let base = text.strip_suffix(path).unwrap_or_default();
        let is_open = |o: &&Operation| o.template.as_str().contains(['{', '*']);
        let (open, fixed): (Vec<&Operation>, Vec<&Operation>) =
            service.operations.iter().partition(is_open);
        let address = |o: &Operation| [base, o.template.as_str()].concat();
        (fixed.into_iter().map(address).collect(), !open.is_empty())
    }
}

/// What a caller's entity is, by the rules of its type.
fn ours(rules: &[Entity], said: &Subject) -> Result<Subject, Misread> {
    let mut own = said.clone();
    let mut of_kind = rules
        .iter()
        .filter(|rule| rule.kind == said.kind)
        .peekable();
    let Some(first) = of_kind.peek() else {
        return Ok(own);
    };
    let Some(id) = said.id.as_deref() else {
        own.kind = first.own_kind.to_owned();
        return Ok(own);
    };
    let found = of_kind.find_map(|rule| Some((rule, rule.id.piece(id)?)));
    let Some((rule, piece)) = found else {
        return Err(Misread::words(format!(
            "there is no `{}` with the id `{}`",
            said.kind.escape_debug(),
            id.escape_debug()
        )));
    };
    own.kind = rule.own_kind.to_owned();
    own.id = Some(rule.is.filled(piece));
    Ok(own)
}

/// An id of ours without the trust domain.
fn short(id: &str) -> &str {
    id.split_once('/').map_or(id, |(_, rest)| rest)
}
