//! `entities/*.yaml`: groups, users known by claim, attributes and labels of
//! services.

use std::collections::{BTreeMap, BTreeSet};

use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    spiffe_id::SpiffeId,
    yaml::{Source, Span},
};
use smol_str::{SmolStr, format_smolstr};

use super::{
    SUGGESTIONS_MAX, codes,
    remit::Remit,
    services::{self, Declared, is_word},
    settings::Settings,
    yaml::{Node, Reader, Value, parse},
};

/// What a file of entities is called where a key of it is unknown.
pub(crate) const FILE: &str = "an entities file";

/// Groups and users, as they are meant.
#[derive(Debug, Default)]
pub(crate) struct People {
    pub(crate) groups: BTreeMap<SmolStr, Group>,
    pub(crate) users: BTreeMap<SmolStr, User>,
    user_ids: BTreeMap<SmolStr, Location>,
}

impl People {
    /// The same, with nobody in any group: members that are wrong say nothing about others, and
    /// following them round a circle takes long.
    pub(crate) fn without_members(mut self) -> Self {
        for group in self.groups.values_mut() {
            group.services.clear();
            group.workloads.clear();
            group.groups.clear();
            group.users.clear();
        }
        self
    }
}

/// A group and who is in it, by what they are.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) at: Location,
    pub(crate) services: Vec<Member>,
    pub(crate) workloads: Vec<Member>,
    pub(crate) groups: Vec<Member>,
    pub(crate) users: Vec<Member>,
}

/// A name in a list of members, and where it stands.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: SmolStr,
    pub(crate) at: Location,
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

/// Entities that go before those of the repository: a fixture of tests.
#[derive(Debug, Clone)]
pub(crate) struct Overlay {
    pub(crate) source: Source,
    pub(crate) node: Node,
}

/// Reads one file into `people`; attributes go to the services they are of.
pub(crate) fn read(
    source: &Source,
    settings: &Settings,
    remit: &Remit<'_>,
    declared: &mut [Declared],
    people: &mut People,
    found: &mut Vec<Diagnostic>,
) {
    if let Some(root) = parse(source, found) {
        let mut reader = Reader::new(source, found);
        read_node(&root, settings, remit, declared, people, &mut reader);
    }
}

/// Reads a fixture: what it names is as it says, whatever was read before.
pub(crate) fn read_over(
    overlay: &Overlay,
    settings: &Settings,
    declared: &mut [Declared],
    people: &mut People,
    found: &mut Vec<Diagnostic>,
) {
    forget(&overlay.node, declared, people);
    let mut reader = Reader::new(&overlay.source, found);
    let remit = Remit::whole(settings);
    read_node(
        &overlay.node,
        settings,
        &remit,
        declared,
        people,
        &mut reader,
    );
}

fn read_node(
    root: &Node,
    settings: &Settings,
    remit: &Remit<'_>,
    declared: &mut [Declared],
    people: &mut People,
    reader: &mut Reader<'_>,
) {
    let Some(fields) = reader.fields(root, FILE, &["groups", "users", "services"]) else {
        return;
    };
    if let Some(node) = fields.get("groups") {
        groups(node, settings, remit, people, reader);
    }
    if let Some(node) = fields.get("users") {
        users(node, remit, people, reader);
    }
    if let Some(node) = fields.get("services") {
        attributes(node, remit, declared, reader);
    }
}

/// Takes out what a file of entities names.
fn forget(root: &Node, declared: &mut [Declared], people: &mut People) {
    let entries = |node: &Node| match &node.value {
        Value::Map(entries) => entries.clone(),
        _ => Vec::new(),
    };
    for section in entries(root) {
        for entry in entries(&section.value) {
            match section.key.as_str() {
                "groups" => drop(people.groups.remove(entry.key.as_str())),
                "users" => {
                    if let Some(user) = people.users.remove(entry.key.as_str()) {
                        people.user_ids.remove(&user.id());
                    }
                }
                _ => {
                    let service = declared
                        .iter_mut()
                        .find(|d| d.service.id.short() == entry.key);
                    let Some(service) = service else { continue };
                    for attribute in entries(&entry.value) {
                        match attribute.key.as_str() {
                            "tier" => service.tier = None,
                            _ => service.labels.clear(),
                        }
                    }
                }
            }
        }
    }
}

fn groups(
    node: &Node,
    settings: &Settings,
    remit: &Remit<'_>,
    people: &mut People,
    reader: &mut Reader<'_>,
) {
    for entry in reader.map(node, "`groups`").unwrap_or_default() {
        let at = reader.source.span(entry.key_span);
        let known = &["description", "services", "workloads", "groups", "users"];
        let Some(fields) = reader.fields(&entry.value, "a group", known) else {
            continue;
        };
        if !named(&entry.key, entry.key_span, "group", reader) {
            continue;
        }
        reader.found.extend(remit.check_group(&entry.key, &at));
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

fn users(node: &Node, remit: &Remit<'_>, people: &mut People, reader: &mut Reader<'_>) {
    for entry in reader.map(node, "`users`").unwrap_or_default() {
        let at = reader.source.span(entry.key_span);
        reader.found.extend(remit.check_user(&entry.key, &at));
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
        let named = people.users.get(entry.key.as_str()).map(|u| &u.at);
        if let Some(first) = named.or(people.user_ids.get(&user.id())) {
            let diagnostic = declared_twice("user", &entry.key, first, at);
            reader.found.push(diagnostic);
            continue;
        }
        people.user_ids.insert(user.id(), at);
        people.users.insert(entry.key.as_str().into(), user);
    }
}

fn attributes(node: &Node, remit: &Remit<'_>, declared: &mut [Declared], reader: &mut Reader<'_>) {
    let index: BTreeMap<SmolStr, usize> = declared
        .iter()
        .enumerate()
        .map(|(i, d)| (d.service.id.short().into(), i))
        .collect();
    for entry in reader.map(node, "`services`").unwrap_or_default() {
        let Some(fields) =
            reader.fields(&entry.value, "attributes of a service", &["tier", "labels"])
        else {
            continue;
        };
        let found = index
            .get(entry.key.as_str())
            .and_then(|i| declared.get_mut(*i));
        let Some(target) = found else {
            let at = reader.source.span(entry.key_span);
            let names = index.keys().map(SmolStr::as_str);
            let diagnostic = unknown("service", &entry.key, names, at);
            reader.found.push(diagnostic);
            continue;
        };
        let at = reader.source.span(entry.key_span);
        reader.found.extend(remit.check_attributes(&entry.key, &at));
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
    let services = declared.iter().map(|d| d.service.id.short()).collect();
    let identities = declared.iter().flat_map(|d| &d.service.identities);
    let workloads = identities.map(SpiffeId::as_str).collect();
    let groups = people.groups.keys().map(SmolStr::as_str).collect();
    let users = people.users.keys().map(SmolStr::as_str).collect();
    for group in people.groups.values() {
        for (what, members, known) in [
            ("service", &group.services, &services),
            ("workload", &group.workloads, &workloads),
            ("group", &group.groups, &groups),
            ("user", &group.users, &users),
        ] {
            check_members(what, members, known, found);
        }
    }
    for name in in_cycles(people) {
        let Some(group) = people.groups.get(name) else {
            continue;
        };
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

fn check_members(
    what: &str,
    members: &[Member],
    known: &BTreeSet<&str>,
    found: &mut Vec<Diagnostic>,
) {
    for member in members.iter().filter(|m| !known.contains(m.name.as_str())) {
        // Suggestions compare with every candidate; they are for people, who read
        // some dozens at most.
        let candidates = (found.len() < SUGGESTIONS_MAX).then(|| known.iter().copied());
        let candidates = candidates.into_iter().flatten();
        found.push(unknown(what, &member.name, candidates, member.at.clone()));
    }
}

/// Groups on a cycle, or between two. What contains no group of the rest, or is in
/// none, is taken away until nothing changes.
fn in_cycles(people: &People) -> BTreeSet<&str> {
    let mut inside: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut outside: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, group) in &people.groups {
        for member in &group.groups {
            inside.entry(name).or_default().insert(&member.name);
            outside.entry(&member.name).or_default().insert(name);
        }
    }
    let mut left: BTreeSet<&str> = people.groups.keys().map(SmolStr::as_str).collect();
    let mut open: Vec<&str> = left.iter().copied().collect();
    while let Some(name) = open.pop() {
        let none =
            |of: &BTreeMap<&str, BTreeSet<&str>>| of.get(name).is_none_or(BTreeSet::is_empty);
        if !left.contains(name) || !(none(&inside) || none(&outside)) {
            continue;
        }
        left.remove(name);
        for member in inside.remove(name).unwrap_or_default() {
            if let Some(others) = outside.get_mut(member) {
                others.remove(name);
            }
            open.push(member);
        }
        for holder in outside.remove(name).unwrap_or_default() {
            if let Some(others) = inside.get_mut(holder) {
                others.remove(name);
            }
            open.push(holder);
        }
    }
    left
}
