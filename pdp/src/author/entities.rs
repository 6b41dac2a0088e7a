//! `entities/*.yaml`: groups, users known by claim, attributes and labels of
//! services.

use std::collections::{BTreeMap, BTreeSet};

use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    spiffe_id::SpiffeId,
    yaml::{Node, Source, Span},
};
use smol_str::{SmolStr, format_smolstr};

use super::{
    codes,
    services::{self, Declared, is_word},
    settings::Settings,
    yaml::{Reader, parse},
};

/// Groups and users, as they are meant.
#[derive(Debug, Default)]
pub(crate) struct People {
    pub(crate) groups: BTreeMap<SmolStr, Group>,
    pub(crate) users: BTreeMap<SmolStr, User>,
}

/// A group and who is in it, by what they are.
#[derive(Debug)]
pub(crate) struct Group {
    at: Location,
    pub(crate) services: Vec<Member>,
    pub(crate) workloads: Vec<Member>,
    pub(crate) groups: Vec<Member>,
    pub(crate) users: Vec<Member>,
}

/// A name in a list of members, and where it stands.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: SmolStr,
    at: Location,
}

/// A user as tokens name them.
#[derive(Debug)]
pub(crate) struct User {
    at: Location,
    pub(crate) issuer: SmolStr,
    pub(crate) subject: SmolStr,
    pub(crate) email: Option<SmolStr>,
}

impl User {
    /// Entity id: issuer and subject, which together are unique (OIDC Core, section 2).
    pub(crate) fn id(&self) -> SmolStr {
        format_smolstr!("{}#{}", self.issuer, self.subject)
    }
}

/// Reads one file into `people`; attributes go to the services they are of.
pub(crate) fn read(
    source: &Source,
    settings: &Settings,
    declared: &mut [Declared],
    people: &mut People,
    found: &mut Vec<Diagnostic>,
) {
    let Some(root) = parse(source, found) else {
        return;
    };
    let mut reader = Reader::new(source, found);
    let Some(fields) = reader.fields(&root, "an entities file", &["groups", "users", "services"])
    else {
        return;
    };
    if let Some(node) = fields.get("groups") {
        groups(node, settings, people, &mut reader);
    }
    if let Some(node) = fields.get("users") {
        users(node, people, &mut reader);
    }
    if let Some(node) = fields.get("services") {
        attributes(node, declared, &mut reader);
    }
}

fn groups(node: &Node, settings: &Settings, people: &mut People, reader: &mut Reader<'_>) {
    for entry in reader.map(node, "`groups`").unwrap_or_default() {
        let at = reader.source.span(entry.key_span);
        let known = &["description", "services", "workloads", "groups", "users"];
        let Some(fields) = reader.fields(&entry.value, "a group", known) else {
            continue;
        };
        if !named(&entry.key, entry.key_span, "group", reader) {
            continue;
        }
        let mut members = |key: &str| match fields.get(key) {
            Some(node) => members(node, key, reader),
            None => Vec::new(),
        };
        let mut group = Group {
            services: members("services"),
            workloads: members("workloads"),
            groups: members("groups"),
            users: members("users"),
            at: at.clone(),
        };
        group.workloads = workloads(group.workloads, settings, reader.found);
        if let Some(first) = people.groups.get(entry.key.as_str()) {
            let diagnostic = declared_twice("group", &entry.key, &first.at, at);
            reader.found.push(diagnostic);
            continue;
        }
        people.groups.insert(entry.key.as_str().into(), group);
    }
}

fn members(node: &Node, key: &str, reader: &mut Reader<'_>) -> Vec<Member> {
    let texts = reader.texts(node, &format!("`{key}`"));
    texts
        .into_iter()
        .map(|(text, span)| Member {
            name: text.into(),
            at: reader.source.span(span),
        })
        .collect()
}

/// Turns short identities into whole ones.
fn workloads(
    members: Vec<Member>,
    settings: &Settings,
    found: &mut Vec<Diagnostic>,
) -> Vec<Member> {
    let mut whole = Vec::new();
    for member in members {
        match services::identity(&member.name, settings) {
            Ok(id) => whole.push(Member {
                name: id.as_str().into(),
                ..member
            }),
            Err(diagnostic) => found.push(diagnostic.at(member.at)),
        }
    }
    whole
}

fn users(node: &Node, people: &mut People, reader: &mut Reader<'_>) {
    for entry in reader.map(node, "`users`").unwrap_or_default() {
        let at = reader.source.span(entry.key_span);
        let Some(fields) = reader.fields(&entry.value, "a user", &["issuer", "subject", "email"])
        else {
            continue;
        };
        let mut text = |key: &str, example: &str| match fields.get(key) {
            Some(node) => reader.text(node, &format!("`{key}`")).map(SmolStr::new),
            None if example.is_empty() => None,
            None => {
                reader.missing(entry.key_span, "a user", key, example);
                None
            }
        };
        let issuer = text("issuer", "issuer: https://login.acme.test");
        let subject = text("subject", "subject: 8f2c…");
        let email = text("email", "");
        let named = named(&entry.key, entry.key_span, "user", reader);
        let (Some(issuer), Some(subject), true) = (issuer, subject, named) else {
            continue;
        };
        let user = User {
            at: at.clone(),
            issuer,
            subject,
            email,
        };
        let same = |(name, other): (&SmolStr, &User)| {
            (*name == entry.key || other.id() == user.id()).then(|| other.at.clone())
        };
        if let Some(first) = people.users.iter().find_map(same) {
            let diagnostic = declared_twice("user", &entry.key, &first, at);
            reader.found.push(diagnostic);
            continue;
        }
        people.users.insert(entry.key.as_str().into(), user);
    }
}

fn attributes(node: &Node, declared: &mut [Declared], reader: &mut Reader<'_>) {
    for entry in reader.map(node, "`services`").unwrap_or_default() {
        let Some(fields) =
            reader.fields(&entry.value, "attributes of a service", &["tier", "labels"])
        else {
            continue;
        };
        let names: Vec<_> = declared
            .iter()
            .map(|d| d.service.id.short().to_owned())
            .collect();
        let found = declared
            .iter_mut()
            .find(|d| d.service.id.short() == entry.key);
        let Some(target) = found else {
            let at = reader.source.span(entry.key_span);
            let names = names.iter().map(String::as_str);
            let diagnostic = unknown("service", &entry.key, names, at);
            reader.found.push(diagnostic);
            continue;
        };
        if let Some(node) = fields.get("tier")
            && let Some(tier) = reader.text(node, "`tier`")
        {
            if target.tier.is_some() {
                let at = reader.source.span(node.span);
                let diagnostic = declared_twice("tier of", &entry.key, &target.at, at);
                reader.found.push(diagnostic);
            }
            target.tier = Some(tier.into());
        }
        if let Some(node) = fields.get("labels") {
            for (key, value) in services::labels(node, reader) {
                if target.labels.contains_key(&key) {
                    let at = reader.source.span(node.span);
                    let diagnostic = declared_twice("label", &key, &target.at, at);
                    reader.found.push(diagnostic);
                }
                target.labels.insert(key, value);
            }
        }
    }
}

fn named(name: &str, span: Span, what: &str, reader: &mut Reader<'_>) -> bool {
    let valid = is_word(name);
    if !valid {
        let diagnostic = Diagnostic::error(codes::NAME, format!("`{name}` is not a {what} name"))
            .cause("it has letters, digits, `-`, `_` and `.`, at most 63 of them")
            .help("write for example `back-office`");
        reader.report(diagnostic, span);
    }
    valid
}

fn declared_twice(what: &str, name: &str, first: &Location, at: Location) -> Diagnostic {
    Diagnostic::error(
        codes::DECLARED_TWICE,
        format!("{what} `{name}` is declared twice"),
    )
    .label("second time")
    .cause(format!("`{}:{}` declares it too", first.file, first.line))
    .help("keep one of the two")
    .at(at)
}

fn unknown<'c>(
    what: &str,
    name: &str,
    candidates: impl Iterator<Item = &'c str>,
    at: Location,
) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_MEMBER,
        format!("there is no {what} `{name}`"),
    )
    .cause("a member that does not exist would silently be in no group")
    .help(format!("declare the {what}, or remove it here"))
    .at(at);
    match did_you_mean(name, candidates) {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    }
}

/// Checks that all members exist and that groups do not contain each other.
pub(crate) fn check_together(people: &People, declared: &[Declared], found: &mut Vec<Diagnostic>) {
    let services = || declared.iter().map(|d| d.service.id.short());
    let workloads = || {
        let all = declared.iter().flat_map(|d| &d.service.identities);
        all.map(SpiffeId::as_str)
    };
    for group in people.groups.values() {
        let mut check = |what: &str, members: &[Member], candidates: &[&str]| {
            for m in members
                .iter()
                .filter(|m| !candidates.contains(&m.name.as_str()))
            {
                let all = candidates.iter().copied();
                found.push(unknown(what, &m.name, all, m.at.clone()));
            }
        };
        check("service", &group.services, &services().collect::<Vec<_>>());
        check(
            "workload",
            &group.workloads,
            &workloads().collect::<Vec<_>>(),
        );
        check("group", &group.groups, &keys(&people.groups));
        check("user", &group.users, &keys(&people.users));
    }
    for (name, group) in &people.groups {
        if contains_itself(name, people) {
            found.push(
                Diagnostic::error(
                    codes::GROUP_CYCLE,
                    format!("group `{name}` contains itself"),
                )
                .cause("its members lead back to it")
                .help("remove one of the memberships on the way")
                .at(group.at.clone()),
            );
        }
    }
}

fn keys<T>(map: &BTreeMap<SmolStr, T>) -> Vec<&str> {
    map.keys().map(SmolStr::as_str).collect()
}

fn contains_itself(name: &str, people: &People) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![name];
    while let Some(next) = open.pop() {
        for member in people.groups.get(next).into_iter().flat_map(|g| &g.groups) {
            if member.name == name {
                return true;
            }
            if seen.insert(member.name.as_str()) {
                open.push(&member.name);
            }
        }
    }
    false
}
