//! What was added, removed and changed between two revisions, by what it is and its id.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::Arc,
};

use cedar_policy::{Entity, EntityUid};
use palisade_mesh::{
    catalogue::{Catalogue, HeaderShape, Service},
    operation::Operation,
    personal::Mask,
};
use serde::Serialize;
use smol_str::SmolStr;

use super::change::{changed, joined};
use crate::{
    author,
    compiled::PolicyInfo,
    decide::{
        Snapshot,
        world::{OPERATION, SERVICE, WORKLOAD},
    },
};

/// Something that is different.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its id.
    pub id: String,
    /// How it differs.
    pub change: Change,
    /// File in the repository; empty where it is not known.
    pub file: String,
    /// First line; 0 where it is not known.
    pub line: usize,
    /// Who answers for it (`@owner` of a policy).
    pub owner: Option<String>,
    /// What about it is different.
    pub details: Vec<String>,
}

/// What is different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// What must never become possible.
    Invariant,
    /// A policy.
    Policy,
    /// A service of the catalogue.
    Service,
    /// An operation of a service.
    Operation,
    /// A group, user, or another entity.
    Entity,
    /// `palisade.yaml`.
    Setting,
    /// The team's schema.
    Schema,
}

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Only the newer revision has it.
    Added,
    /// Both have it, otherwise.
    Changed,
    /// Only the older one has it.
    Removed,
}

/// Compares everything; sorted by kind and id.
pub(crate) fn compare(base: &Snapshot, head: &Snapshot) -> Vec<Item> {
    let meaning: BTreeSet<SmolStr> = changed(base, head).into_iter().map(|c| c.id).collect();
    let mut items = statements(
        ItemKind::Policy,
        [base, head].map(|s| &s.compiled().info),
        &|_, new| meaning.contains(&new.id),
    );
    items.extend(statements(
        ItemKind::Invariant,
        [base, head].map(|s| &s.compiled().invariants),
        // Whatever is written otherwise may mean something else.
        &|old, new| old.text != new.text,
    ));
    let texts = [files(base), files(head)];
    items.extend(services(base, head, &texts));
    items.extend(entities(base, head, &texts));
    items.extend(settings(base, head, &texts));
    items.sort();
    items
}

fn statements(
    kind: ItemKind,
    infos: [&BTreeMap<SmolStr, PolicyInfo>; 2],
    meaning: &dyn Fn(&PolicyInfo, &PolicyInfo) -> bool,
) -> Vec<Item> {
    let [old, new] = infos.map(|infos| infos.values().cloned().collect::<Vec<_>>());
    let pairs = joined(&old, &new, |i| i.id.as_str());
    let differing = pairs.into_iter().filter_map(|(old, new)| {
        let any = new.or(old)?;
        let details = match (old, new) {
            (Some(old), Some(new)) => of_policy(old, new, meaning(old, new))?,
            _ => Vec::new(),
        };
        let effect = if any.permit { "permit" } else { "forbid" };
        Some(Item {
            kind,
            id: any.id.to_string(),
            change: change_of(old.is_some(), new.is_some()),
            file: any.file.to_string(),
            line: any.first_line,
            owner: any.owner.as_ref().map(SmolStr::to_string),
            details: [effect.to_owned()].into_iter().chain(details).collect(),
        })
    });
    differing.collect()
}

/// What is different about a policy that both have; `None` where nothing is.
fn of_policy(old: &PolicyInfo, new: &PolicyInfo, meaning: bool) -> Option<Vec<String>> {
    let mut details = Vec::new();
    if meaning {
        details.push("means something else".to_owned());
    }
    if old.owner != new.owner {
        let word = |owner: &Option<SmolStr>| owner.clone().unwrap_or_else(|| "nobody".into());
        details.push(format!("owner {} → {}", word(&old.owner), word(&new.owner)));
    }
    if (&old.deny_message, &old.help_url) != (&new.deny_message, &new.help_url) {
        details.push("words for a denied caller".to_owned());
    }
    if old.file != new.file {
        details.push(format!("was in {}", old.file));
    }
    if details.is_empty() && old.text != new.text {
        details.push("layout or comment only".to_owned());
    }
    (!details.is_empty()).then_some(details)
}

fn services(base: &Snapshot, head: &Snapshot, texts: &[Files; 2]) -> Vec<Item> {
    let by_name = |catalogue: &Catalogue| -> BTreeMap<String, Arc<Service>> {
        let services = catalogue.services().iter();
        services
            .map(|s| (s.id.short().to_owned(), s.clone()))
            .collect()
    };
    let (old, new) = (by_name(base.catalogue()), by_name(head.catalogue()));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut items = Vec::new();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        let change = change_of(before.is_some(), after.is_some());
        let (details, of_operations) = match (before, after) {
            (Some(a), Some(b)) => (of_service(a, b), operations(a, b)),
            (a, b) => (of_one_service(a, b), Vec::new()),
        };
        let of_itself = change != Change::Changed || !details.is_empty();
        let of_operations = of_operations
            .into_iter()
            .map(|(operation, change, details)| {
                let id = format!("{name}/{operation}");
                (ItemKind::Operation, id, change, details)
            });
        let differing: Vec<_> = of_itself
            .then(|| (ItemKind::Service, name.clone(), change, details))
            .into_iter()
            .chain(of_operations)
            .collect();
        if differing.is_empty() {
            // Most are as they were: looking for where each stands would take longer than all else.
            continue;
        }
        let (file, line) = find(texts, |files| service_at(files, name));
        items.extend(
            differing
                .into_iter()
                .map(|(kind, id, change, details)| Item {
                    kind,
                    id,
                    change,
                    file: file.clone(),
                    line,
                    owner: None,
                    details,
                }),
        );
    }
    items
}

fn of_service(old: &Service, new: &Service) -> Vec<String> {
    let texts = |ids: &[palisade_mesh::spiffe_id::SpiffeId]| -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    };
    let mut details = lists(
        "identities",
        &texts(&old.identities),
        &texts(&new.identities),
    );
    details.extend(lists("hosts", &old.hosts, &new.hosts));
    if old.protocol != new.protocol {
        details.push(format!("protocol {:?} → {:?}", old.protocol, new.protocol).to_lowercase());
    }
    if old.unmatched != new.unmatched {
        details.push(format!(
            "unmatched {:?} → {:?}",
            old.unmatched, new.unmatched
        ));
    }
    if old.audit != new.audit {
        details.push(format!("audit {:?} → {:?}", old.audit, new.audit).to_lowercase());
    }
    let of_all = masks(&old.mask, &new.mask);
    // These leave out what any operation does.
    let unmatched = masks(old.mask_of(None), new.mask_of(None));
    let unmatched = unmatched.into_iter().filter(|m| !of_all.contains(m));
    details.extend(unmatched.map(|m| format!("of requests that are no operation {m}")));
    details.extend(of_all);
    if old.endpoints != new.endpoints {
        details.push("endpoints".to_owned());
    }
    if old.request_timeout != new.request_timeout {
        details.push(format!(
            "timeout {:?} → {:?}",
            old.request_timeout, new.request_timeout
        ));
    }
    details
}

/// What is masked of a service that is added or removed, by itself or by an operation of it.
fn of_one_service(old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) -> Vec<String> {
    let none = Mask::NONE;
    let of =
        |service: Option<&Arc<Service>>| service.map_or(none.clone(), |s| s.mask_of(None).clone());
    masks(&of(old), &of(new))
}

fn operations(old: &Service, new: &Service) -> Vec<(String, Change, Vec<String>)> {
    let by_name = |service: &Service| -> BTreeMap<SmolStr, Operation> {
        let operations = service.operations.iter();
        operations.map(|o| (o.name.clone(), o.clone())).collect()
    };
    let of_service = masks(&old.mask, &new.mask);
    let (service, next) = (old, new);
    let (old, new) = (by_name(service), by_name(next));
    let names: BTreeSet<&SmolStr> = old.keys().chain(new.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let (before, after) = (old.get(name), new.get(name));
        let details = match (before, after) {
            (Some(a), Some(b)) => {
                let mut details = of_operation(a, b);
                // What the service's mask brings to each of its operations is told of it.
                let masks = masks(service.mask_of(Some(a)), next.mask_of(Some(b)));
                details.extend(masks.into_iter().filter(|m| !of_service.contains(m)));
                details
            }
            (Some(gone), None) => {
                let masks = masks(service.mask_of(Some(gone)), &service.mask);
                iter::once(matched(gone)).chain(masks).collect()
            }
            (None, Some(added)) => {
                let masks = masks(&next.mask, next.mask_of(Some(added)));
                iter::once(matched(added)).chain(masks).collect()
            }
            (None, None) => Vec::new(),
        };
        if !details.is_empty() {
            let change = change_of(before.is_some(), after.is_some());
            found.push((name.to_string(), change, details));
        }
    }
    found
}

/// What is different about an operation that both have, but for what it masks.
fn of_operation(old: &Operation, new: &Operation) -> Vec<String> {
    let unmasked = |operation: &Operation| Operation {
        mask: Mask::NONE,
        ..operation.clone()
    };
    match unmasked(old) == unmasked(new) {
        true => Vec::new(),
        false => vec![[matched(old), matched(new)].join(" → ")],
    }
}

/// `mask +path −query`, where records leave out something else.
fn masks(old: &Mask, new: &Mask) -> Vec<String> {
    let fields = |mask: &Mask| mask.fields().cloned().collect::<Vec<_>>();
    lists("mask", &fields(old), &fields(new))
}

/// `GET,HEAD /orders (orders:list)`
fn matched(operation: &Operation) -> String {
    let methods: Vec<&str> = operation.methods.iter().map(|m| m.as_str()).collect();
    let action = operation.action.as_ref();
    let action = action.map_or_else(String::new, |a| format!(" ({a})"));
    format!(
        "{} {}{action}",
        methods.join(","),
        operation.template.as_str()
    )
}

/// Entities that do not follow from the catalogue alone: groups, users and the team's own,
/// and what services and workloads have of groups, labels and tier.
fn entities(base: &Snapshot, head: &Snapshot, texts: &[Files; 2]) -> Vec<Item> {
    let all = |snapshot: &Snapshot| -> BTreeMap<EntityUid, Entity> {
        let entities = snapshot.compiled().entities.iter();
        let told = entities.filter(|e| {
            let kind = e.uid().type_name().to_string();
            !matches!(
                kind.as_str(),
                "Action" | "Namespace" | "TrustDomain" | OPERATION
            )
        });
        told.map(|e| (e.uid(), e.clone())).collect()
    };
    let (old, new) = (all(base), all(head));
    let uids: BTreeSet<&EntityUid> = old.keys().chain(new.keys()).collect();
    let mut items = Vec::new();
    for uid in uids {
        let (before, after) = (old.get(uid), new.get(uid));
        let kind = uid.type_name().to_string();
        let of_catalogue = matches!(kind.as_str(), SERVICE | WORKLOAD);
        let details = match (before, after) {
            (Some(a), Some(b)) if !a.deep_eq(b) => of_entity(a, b, base, head),
            (Some(_), Some(_)) => continue,
            _ if of_catalogue => continue,
            _ => Vec::new(),
        };
        if of_catalogue && details.is_empty() {
            continue;
        }
        let (file, line) = find(texts, |files| entity_at(files, uid.id().unescaped()));
        items.push(Item {
            kind: ItemKind::Entity,
            id: uid.to_string(),
            change: change_of(before.is_some(), after.is_some()),
            file,
            line,
            owner: None,
            details,
        });
    }
    items
}

fn of_entity(old: &Entity, new: &Entity, base: &Snapshot, head: &Snapshot) -> Vec<String> {
    let above = |snapshot: &Snapshot, entity: &Entity| -> Vec<String> {
        let above = snapshot.compiled().entities.ancestors(&entity.uid());
        above
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect()
    };
    let mut details = lists("in", &above(base, old), &above(head, new));
    let values = |entity: &Entity| -> Vec<String> {
        let values = entity.attrs().chain(entity.tags());
        let shown = values.map(|(key, value)| match value {
            Ok(value) => format!("{key} = {value}"),
            Err(_) => key.to_owned(),
        });
        shown.collect()
    };
    details.extend(lists("has", &values(old), &values(new)));
    details
}

fn settings(base: &Snapshot, head: &Snapshot, texts: &[Files; 2]) -> Vec<Item> {
    let headers = |snapshot: &Snapshot| -> Vec<String> {
        let headers = snapshot.catalogue().headers().iter();
        let word = |shape| match shape {
            HeaderShape::List => "list",
            HeaderShape::Single => "single",
        };
        headers
            .map(|h| format!("{}: {}", h.name, word(h.shape)))
            .collect()
    };
    let mut settings = lists("headers", &headers(base), &headers(head));
    settings.extend(masks(base.catalogue().mask(), head.catalogue().mask()));
    let domain = |snapshot: &Snapshot| snapshot.catalogue().trust_domain().as_str().to_owned();
    if domain(base) != domain(head) {
        settings.insert(
            0,
            format!("trust domain {} → {}", domain(base), domain(head)),
        );
    }
    let differs = |path: &str| {
        let [old, new] = texts.each_ref().map(|t| t.get(path));
        (old != new).then(|| change_of(old.is_some(), new.is_some()))
    };
    let item = |kind, path: &str, change, details| Item {
        kind,
        id: path.to_owned(),
        change,
        file: path.to_owned(),
        line: 1,
        owner: None,
        details,
    };
    let (file, schema) = ("palisade.yaml", "schema.cedarschema");
    let mut items = Vec::new();
    if let Some(change) = differs(file) {
        items.push(item(ItemKind::Setting, file, change, settings));
    }
    if let Some(change) = differs(schema) {
        items.push(item(ItemKind::Schema, schema, change, Vec::new()));
    }
    items
}

fn change_of(before: bool, after: bool) -> Change {
    match (before, after) {
        (false, _) => Change::Added,
        (true, false) => Change::Removed,
        (true, true) => Change::Changed,
    }
}

/// `hosts +a −b`, where two lists differ; nothing where they do not.
fn lists<T: ToString>(what: &str, old: &[T], new: &[T]) -> Vec<String> {
    let set = |list: &[T]| -> BTreeSet<String> { list.iter().map(ToString::to_string).collect() };
    let (old, new) = (set(old), set(new));
    let more = new.difference(&old).map(|t| format!("+{t}"));
    let less = old.difference(&new).map(|t| format!("−{t}"));
    let words: Vec<String> = more.chain(less).collect();
    match words.is_empty() {
        true => Vec::new(),
        false => vec![format!("{what} {}", words.join(" "))],
    }
}

/// Texts of a revision, by path.
pub(crate) type Files = BTreeMap<Arc<str>, Arc<str>>;

/// The files of a revision.
pub(crate) fn files(snapshot: &Snapshot) -> Files {
    author::texts_of(snapshot.compiled()).into_iter().collect()
}

/// Where a service is declared in the texts of a revision.
fn service_at(files: &Files, name: &str) -> Option<(String, usize)> {
    line_at(files, "services/", |line| {
        line.strip_prefix("service:")
            .is_some_and(|rest| unquoted(rest) == name)
    })
}

/// Where an entity is declared in the texts of a revision.
fn entity_at(files: &Files, name: &str) -> Option<(String, usize)> {
    let short = name.split_once('/').map_or(name, |(_, rest)| rest);
    line_at(files, "entities/", |line| {
        let key = line.split_once(':').map(|(key, _)| unquoted(key));
        key.is_some_and(|key| key == name || key == short)
    })
}

fn line_at(files: &Files, folder: &str, is: impl Fn(&str) -> bool) -> Option<(String, usize)> {
    let mut files = files.iter().filter(|(path, _)| path.starts_with(folder));
    files.find_map(|(path, text)| {
        let at = text.lines().position(|line| is(line.trim()))?;
        Some((path.to_string(), at + 1))
    })
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches(['"', '\''])
}

/// Looks in the newer revision, then in the older one.
fn find([old, new]: &[Files; 2], f: impl Fn(&Files) -> Option<(String, usize)>) -> (String, usize) {
    f(new).or_else(|| f(old)).unwrap_or_default()
}
