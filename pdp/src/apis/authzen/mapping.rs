//! Which words of callers mean what here: as it is configured, and what is wrong with it.
//!
//! Each rule holds both ways, so that the answers of a search come back in the caller's
//! words. What has no rule keeps its name.

use palisade_mesh::{
    canonical::{Method, canonical_host},
    diagnostic::{Diagnostic, did_you_mean},
    spiffe_id::{SpiffeId, TrustDomain},
};

use super::{
    names::{Entity, Part, Verb},
    pattern::Pattern,
    words::{OPERATION, READ, SERVICE, URL, WORKLOAD},
};
use crate::{
    apis::codes::{MAP_KIND, MAP_MEANINGS, MAP_NAMES, MAP_UNREAD, MAP_WRONG},
    decide::asked::GRPC_CALL,
};

/// Most rules of one kind.
pub const RULES_MAX: usize = 1024;
/// Longest text of a rule, in bytes.
pub const WORD_LEN_MAX: usize = 1024;

/// Callers' words, and what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Of subjects.
    pub subjects: Vec<SubjectRule>,
    /// Of actions.
    pub actions: Vec<ActionRule>,
    /// Of resources.
    pub resources: Vec<ResourceRule>,
    /// Properties that callers send and that change nothing here, such as
    /// `subject.department`.
    pub unread: Vec<String>,
}

/// A subject of a caller is a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectRule {
    /// The caller's type.
    pub kind: String,
    /// The caller's id; a `*` stands for what is the same in `is`.
    pub id: String,
    /// A SPIFFE ID.
    pub is: String,
}

/// An action of a caller is a method, `grpc:call` or a business action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRule {
    /// The caller's name.
    pub name: String,
    /// Ours.
    pub is: String,
    /// The callers' types of resources for which it holds; empty for all.
    pub on: Vec<String>,
}

/// A resource of a caller is one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRule {
    /// The caller's type.
    pub kind: String,
    /// The caller's id; a `*` stands for what is the same in `is`.
    pub id: String,
    /// Ours.
    pub is: Target,
}

/// What a caller's resource is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An operation by its id.
    Operation(String),
    /// A service by its name.
    Service(String),
    /// An address.
    Url(String),
}

/// The rules of each kind, as they are used.
pub(super) type Read = (Vec<Entity>, Vec<Verb>, Vec<Entity>, Vec<(Part, String)>);

impl Mapping {
    /// Makes the rules ready for use in the trust domain `domain`.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(super) fn read(&self, domain: &TrustDomain) -> Result<Read, Vec<Diagnostic>> {
        let mut found = Vec::new();
        for (key, count) in [
            ("subjects", self.subjects.len()),
            ("actions", self.actions.len()),
            ("resources", self.resources.len()),
            ("unread", self.unread.len()),
        ] {
            if count > RULES_MAX {
                found.push(wrong(
                    key,
                    "them all",
                    &format!("there are {count}, at most {RULES_MAX}"),
                ));
            }
        }
        if !found.is_empty() {
            return Err(found);
        }
        let subjects = self.subjects.iter().map(|rule| rule.read(domain));
        let subjects = kept(subjects, &mut found);
        let resources = kept(
            self.resources.iter().map(|rule| rule.read(domain)),
            &mut found,
        );
        let actions = kept(self.actions.iter().map(|rule| self.verb(rule)), &mut found);
        let unread = kept(self.unread.iter().map(|text| unread(text)), &mut found);
        twice("subjects", &subjects, &mut found);
        twice("resources", &resources, &mut found);
        twice_said(&actions, &mut found);
        match found.is_empty() {
            true => Ok((subjects, actions, resources, unread)),
            false => Err(found),
        }
    }

    fn verb(&self, rule: &ActionRule) -> Result<Verb, Diagnostic> {
        let ActionRule { name, is, on } = rule;
        let wrong = |cause: &str| Err(wrong("actions", name, cause));
        if name.is_empty() || is.is_empty() || name.len().max(is.len()) > WORD_LEN_MAX {
            return wrong(&format!("a name has 1 to {WORD_LEN_MAX} bytes"));
        }
        if name == GRPC_CALL || Method::parse(&name.to_ascii_uppercase()).is_some() {
            return wrong("it is an action of ours, and keeps its meaning");
        }
        let ours = [OPERATION, SERVICE, URL];
        let known = || self.resources.iter().map(|r| r.kind.as_str()).chain(ours);
        if let Some(kind) = on.iter().find(|kind| known().all(|k| k != kind.as_str())) {
            let text = format!("`actions` has the type `{kind}`, and no resource has");
            let unknown = Diagnostic::error(MAP_KIND, text)
                .cause(format!("`{name}` would never be said on it"))
                .help("give it a rule under `resources`, or take it out of `on`");
            return Err(match did_you_mean(kind, known()) {
                Some(near) => unknown.label(format!("did you mean `{near}`?")),
                None => unknown,
            });
        }
        Ok(Verb {
            name: name.clone(),
            is: Method::parse(&is.to_ascii_uppercase())
                .map_or_else(|| is.clone(), |method| method.as_str().to_owned()),
            on: on.clone(),
        })
    }
}

impl SubjectRule {
    fn read(&self, domain: &TrustDomain) -> Result<Entity, Diagnostic> {
        let entity = entity("subjects", (&self.kind, &self.id), (WORKLOAD, &self.is))?;
        let sample = SpiffeId::parse(&entity.is.filled("x"));
        if sample.is_ok_and(|id| id.is_member_of(domain)) {
            return Ok(entity);
        }
        let cause = format!("`{}` is no SPIFFE ID of `{domain}`", self.is);
        Err(wrong("subjects", &self.id, &cause))
    }
}

impl ResourceRule {
    fn read(&self, domain: &TrustDomain) -> Result<Entity, Diagnostic> {
        let (kind, is) = self.is.plain(domain);
        let entity = entity("resources", (&self.kind, &self.id), (kind, &is))?;
        if kind != URL || is_address(&is) {
            return Ok(entity);
        }
        let cause = format!("`{is}` is no address such as `http://orders/orders/*`");
        Err(wrong("resources", &self.id, &cause))
    }
}

impl Target {
    /// Its type, and the one spelling of it that is compared and used: an id with its trust
    /// domain, an address with a canonical host and without port. A service by its name
    /// alone, or by a host, stays what it is; the catalogue alone knows which one that is.
    fn plain(&self, domain: &TrustDomain) -> (&'static str, String) {
        let whole = |id: &str, slashes: usize| match id.matches('/').count() == slashes {
            true => format!("{domain}/{id}"),
            false => id.to_owned(),
        };
        match self {
            Self::Operation(id) => (OPERATION, whole(id, 2)),
            Self::Service(name) => (SERVICE, whole(name, 1)),
            Self::Url(url) => (URL, canonical_url(url).unwrap_or_else(|| url.clone())),
        }
    }
}

/// An address as it is compared; none where it is none. Which of the two schemes it has
/// changes nothing about what is decided.
fn canonical_url(url: &str) -> Option<String> {
    let (host, path) = parts_of(url)?;
    Some(format!("http://{}{path}", canonical_host(host).ok()?))
}

/// Host and path of an address.
pub(super) fn parts_of(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split('/').next().unwrap_or(rest);
    let path = rest.get(host.len()..)?;
    let is_web = scheme == "http" || scheme == "https";
    (is_web && path.starts_with('/')).then_some((host, path))
}

fn is_address(url: &str) -> bool {
    parts_of(url).is_some_and(|(host, path)| {
        let plain = !path.contains(['?', '#']);
        plain && !host.contains('*') && canonical_host(host).is_ok()
    })
}

fn entity(
    key: &str,
    (kind, id): (&str, &str),
    (own_kind, is): (&'static str, &str),
) -> Result<Entity, Diagnostic> {
    let wrong = |cause: &str| wrong(key, id, cause);
    let longest = kind.len().max(id.len()).max(is.len());
    if kind.is_empty() || id.is_empty() || is.is_empty() || longest > WORD_LEN_MAX {
        return Err(wrong(&format!("a text has 1 to {WORD_LEN_MAX} bytes")));
    }
    if [WORKLOAD, OPERATION, SERVICE, URL].contains(&kind) {
        return Err(wrong(&format!(
            "`{kind}` is a type of ours, and keeps its meaning"
        )));
    }
    let (Some(said), Some(meant)) = (Pattern::parse(id), Pattern::parse(is)) else {
        return Err(wrong("a text has at most one `*`"));
    };
    if said.is_literal() != meant.is_literal() {
        return Err(wrong("there is a `*` on both sides, or on neither"));
    }
    Ok(Entity {
        kind: kind.to_owned(),
        id: said,
        own_kind,
        is: meant,
    })
}

/// A property that changes nothing, `PART.NAME`.
fn unread(text: &str) -> Result<(Part, String), Diagnostic> {
    let refused = |cause: String| {
        Diagnostic::error(MAP_UNREAD, format!("`unread` cannot have `{text}`"))
            .cause(cause)
            .help("such as `subject.department`, `resource.title` or `context.schema`")
    };
    let (part, name) = text.split_once('.').unwrap_or((text, ""));
    let Some(part) = Part::ALL.into_iter().find(|p| p.as_str() == part) else {
        let cause = "it is `subject`, `action`, `resource` or `context`, a dot, and a name";
        return Err(refused(cause.into()));
    };
    if name.is_empty() || name.len() > WORD_LEN_MAX {
        return Err(refused(format!("a name has 1 to {WORD_LEN_MAX} bytes")));
    }
    match READ.contains(&(part, name)) {
        true => Err(refused("it changes answers, so it is read".into())),
        false => Ok((part, name.to_owned())),
    }
}

fn kept<T>(
    read: impl Iterator<Item = Result<T, Diagnostic>>,
    found: &mut Vec<Diagnostic>,
) -> Vec<T> {
    read.filter_map(|rule| rule.map_err(|d| found.push(d)).ok())
        .collect()
}

/// Two rules of one type must share neither a caller's id nor one of ours.
fn twice(key: &str, rules: &[Entity], found: &mut Vec<Diagnostic>) {
    for (i, one) in rules.iter().enumerate() {
        let later = rules.iter().skip(i + 1).filter(|r| r.kind == one.kind);
        for other in later {
            let names = (one.id.filled("*"), other.id.filled("*"));
            if one.id.meets(&other.id) {
                found.push(meanings(key, &names));
            }
            if one.own_kind == other.own_kind && one.is.meets(&other.is) {
                found.push(named_twice(key, &names));
            }
        }
    }
}

/// As [`twice`], for actions on the same type of resource.
fn twice_said(rules: &[Verb], found: &mut Vec<Diagnostic>) {
    for (i, one) in rules.iter().enumerate() {
        let together = |other: &&Verb| {
            let everywhere = one.on.is_empty() || other.on.is_empty();
            everywhere || one.on.iter().any(|kind| other.on.contains(kind))
        };
        for other in rules.iter().skip(i + 1).filter(together) {
            let names = (one.name.clone(), other.name.clone());
            if one.name == other.name {
                found.push(meanings("actions", &names));
            } else if one.is == other.is {
                found.push(named_twice("actions", &names));
            }
        }
    }
}

fn wrong(key: &str, what: &str, cause: &str) -> Diagnostic {
    Diagnostic::error(MAP_WRONG, format!("`{key}` cannot map `{what}`"))
        .cause(cause)
        .help("docs/reference/decision-apis.md shows rules")
}

fn meanings(key: &str, (one, other): &(String, String)) -> Diagnostic {
    let text = format!("`{key}` gives two meanings to a name: `{one}`, and `{other}`");
    Diagnostic::error(MAP_MEANINGS, text)
        .cause("which of the two a caller means would have to be guessed")
        .help("take one of the two out, or narrow its `*`")
}

fn named_twice(key: &str, (one, other): &(String, String)) -> Diagnostic {
    let text = format!("`{key}` gives two names to one thing: `{one}`, and `{other}`");
    Diagnostic::error(MAP_NAMES, text)
        .cause("which of the two a search answers with would have to be guessed")
        .help("take one of the two out, or give it another type")
}
