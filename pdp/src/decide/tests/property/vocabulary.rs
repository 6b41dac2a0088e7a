//! Random vocabularies: entity types with hierarchies, attributes of every kind of type, tags
//! and groups of actions; stores of such entities; and policies that read them.
//!
//! Everything is rolled from bytes, so that a failing case shrinks to a small one: where the
//! bytes are used up, the first and simplest choice is taken.

use std::fmt::Write;

use palisade_mesh::catalogue::Catalogue;
use serde_json::{Map, Value, json};

use super::super::super::testing::{SCHEMA, entities};

/// Names of the types that are made up.
const KINDS: [&str; 4] = ["Aa", "Bb", "Cc", "Dd"];
/// Types of the base vocabulary that get attributes and parents beside their own.
const OWNERS: [&str; 4] = ["Group", "Operation", "Service", "Workload"];
const ATTRIBUTES: [&str; 4] = ["a0", "a1", "a2", "a3"];
/// Entities of one made-up type; one more is named in policies and never there.
const IDS: usize = 3;
/// How deep expressions are put into each other.
const LEVELS: usize = 3;

/// Rolls numbers from bytes.
pub(super) struct Dice<'b>(std::slice::Iter<'b, u8>);

impl<'b> Dice<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self(bytes.iter())
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default()) % n.max(1)
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    fn of<'t, T: ?Sized>(&mut self, all: &[&'t T]) -> &'t T {
        all[self.below(all.len())]
    }
}

/// The type of an attribute.
#[derive(Debug, Clone)]
enum Type {
    Bool,
    Long,
    Text,
    Ip,
    Decimal,
    Moment,
    Span,
    Entity(String),
    Set(Box<Type>),
    Record(Vec<Attribute>),
}

#[derive(Debug, Clone)]
struct Attribute {
    name: &'static str,
    of: Type,
    optional: bool,
}

/// An entity type beyond, or what is added to one of, the base vocabulary.
#[derive(Debug)]
struct Kind {
    name: String,
    parents: Vec<String>,
    attributes: Vec<Attribute>,
    tags: Option<Type>,
}

/// A schema, a store and policies that belong together.
pub(super) struct Vocabulary {
    kinds: Vec<Kind>,
    pub(super) schema: String,
    pub(super) entities: Value,
}

impl Vocabulary {
    /// A vocabulary around the services of `catalogue`.
    pub(super) fn roll(dice: &mut Dice<'_>, catalogue: &Catalogue) -> Self {
        let made_up = 1 + dice.below(KINDS.len());
        let names = &KINDS[..made_up];
        let mut kinds: Vec<Kind> = Vec::new();
        for name in names.iter().chain(&OWNERS) {
            // A made-up type may be in itself and in those before it.
            let at = names.iter().position(|n| n == name).unwrap_or(made_up - 1);
            let above = names[..=at].iter().filter(|_| dice.is());
            let parents = above.map(|n| (*n).to_owned()).collect();
            let mut attributes = record(dice, names, 2);
            attributes.truncate(3);
            let tags = (KINDS.contains(name) && dice.is()).then(|| kind_of_value(dice, names, 1));
            kinds.push(Kind {
                name: (*name).to_owned(),
                parents,
                attributes,
                tags,
            });
        }
        let schema = schema(dice, &kinds);
        let entities = store(dice, &kinds, catalogue);
        Self {
            kinds,
            schema,
            entities,
        }
    }

    /// Policies, each with an `@id`.
    pub(super) fn policies(&self, dice: &mut Dice<'_>, count: usize) -> String {
        let mut text = String::new();
        for i in 0..count {
            let policy = self.policy(dice);
            let _ = writeln!(text, "@id(\"v{i:02}\") {policy}");
        }
        text
    }

    fn policy(&self, dice: &mut Dice<'_>) -> String {
        let effect = dice.of(&["permit", "forbid", "permit", "@mode(\"shadow\") permit"]);
        let principal = match dice.below(5) {
            0 => "principal".to_owned(),
            1 => format!("principal in {}", self.entity(dice)),
            2 => format!("principal is Workload in {}", self.entity(dice)),
            3 => "principal is Unregistered".to_owned(),
            _ => r#"principal in Service::"acme.test/shop/web""#.to_owned(),
        };
        let action = dice.of(&[
            "action",
            r#"action in Action::"g0""#,
            r#"action in [Action::"g1", Action::"orders:refund"]"#,
            r#"action == Action::"GET""#,
        ]);
        let resource = match dice.below(4) {
            0 => "resource".to_owned(),
            1 => format!("resource in {}", self.entity(dice)),
            2 => format!("resource is Operation in {}", self.entity(dice)),
            _ => r#"resource in Service::"acme.test/shop/orders""#.to_owned(),
        };
        let mut text = format!("{effect} ({principal}, {action}, {resource})");
        for _ in 0..dice.below(3) {
            let kind = dice.of(&["when", "unless"]);
            let _ = write!(text, " {kind} {{ {} }}", self.test(dice, LEVELS));
        }
        text + ";"
    }

    /// An entity by name; one in four is not there.
    fn entity(&self, dice: &mut Dice<'_>) -> String {
        let made_up: Vec<&Kind> = self.kinds.iter().filter(|k| k.is_made_up()).collect();
        let kind = made_up[dice.below(made_up.len())];
        format!("{}::\"e{}\"", kind.name, dice.below(IDS + 1))
    }

    /// A condition.
    fn test(&self, dice: &mut Dice<'_>, level: usize) -> String {
        if level == 0 {
            return self.of_path(dice);
        }
        match dice.below(8) {
            0..3 => self.of_path(dice),
            3 => {
                let (one, other) = (self.who(dice), self.entity(dice));
                match dice.below(4) {
                    0 => format!("{one} in {other}"),
                    1 => format!("{one} in [{other}, {}]", self.entity(dice)),
                    2 => format!("{other} in {one}"),
                    _ => format!("({one} is {} && {one} in {other})", self.kinds[0].name),
                }
            }
            4 => {
                let who = self.who(dice);
                let key = dice.of(&["\"t0\"", "\"t1\"", "\"env\""]);
                match dice.is() {
                    true => format!("{who}.hasTag({key})"),
                    false => format!("({who}.hasTag({key}) && {who}.getTag({key}) == \"prod\")"),
                }
            }
            5 => format!("!({})", self.test(dice, level - 1)),
            6 => {
                let sign = dice.of(&["&&", "||"]);
                let one = self.test(dice, level - 1);
                format!("(({one}) {sign} ({}))", self.test(dice, level - 1))
            }
            _ => {
                let parts = [(); 3].map(|()| self.test(dice, level - 1));
                format!("(if {} then {} else {})", parts[0], parts[1], parts[2])
            }
        }
    }

    fn who(&self, dice: &mut Dice<'_>) -> String {
        match dice.below(3) {
            0 => "principal".into(),
            1 => "resource".into(),
            _ => self.entity(dice),
        }
    }

    /// Walks from an entity along attributes, guarded by `has` or not, and tests what is
    /// found.
    fn of_path(&self, dice: &mut Dice<'_>) -> String {
        let (mut path, start) = match dice.below(3) {
            0 => ("principal".to_owned(), "Workload".to_owned()),
            1 => (
                "resource".to_owned(),
                dice.of(&["Operation", "Service"]).to_owned(),
            ),
            _ => {
                let entity = self.entity(dice);
                let kind = entity.split("::").next().unwrap_or_default().to_owned();
                (entity, kind)
            }
        };
        let mut guards = String::new();
        let mut at = Type::Entity(start);
        for _ in 0..3 {
            let attributes = match &at {
                Type::Entity(name) => self.kinds.iter().find(|k| k.name == *name),
                _ => None,
            };
            let attributes = match &at {
                Type::Record(fields) => fields.as_slice(),
                _ => attributes.map_or(&[][..], |kind| &kind.attributes),
            };
            if attributes.is_empty() || (!guards.is_empty() && dice.below(3) == 0) {
                break;
            }
            let attribute = attributes[dice.below(attributes.len())].clone();
            if dice.below(4) > 0 {
                let _ = write!(guards, "{path} has {} && ", attribute.name);
            }
            path = format!("{path}.{}", attribute.name);
            at = attribute.of;
        }
        format!("({guards}{})", self.about(dice, &path, &at))
    }

    /// A test of a value.
    fn about(&self, dice: &mut Dice<'_>, path: &str, of: &Type) -> String {
        let value = |dice: &mut Dice<'_>| literal(dice, of);
        match of {
            Type::Bool => path.to_owned(),
            Type::Long => match dice.below(3) {
                0 => format!("{path} < {}", value(dice)),
                1 => format!("{path} + 9223372036854775807 > 0"),
                _ => format!("{path} * -1 == {}", value(dice)),
            },
            Type::Text => match dice.is() {
                true => format!("{path} like \"p*\""),
                false => format!("{path} == {}", value(dice)),
            },
            Type::Ip => match dice.below(3) {
                0 => format!("{path}.isInRange(ip(\"10.0.0.0/8\"))"),
                1 => format!("{path}.isLoopback()"),
                _ => format!("{path} == {}", value(dice)),
            },
            Type::Decimal => format!("{path}.lessThan({})", value(dice)),
            Type::Moment => match dice.below(3) {
                0 => format!("{path} < {}", value(dice)),
                1 => format!("{path}.offset(duration(\"1h\")) > context.time.now"),
                _ => format!("{path}.toDate() == {}", value(dice)),
            },
            Type::Span => match dice.is() {
                true => format!("{path} >= {}", value(dice)),
                false => format!("{path}.toMinutes() > 30"),
            },
            Type::Entity(_) => match dice.below(4) {
                0 => format!("{path} == {}", value(dice)),
                1 => format!("{path} in {}", self.entity(dice)),
                2 => format!("principal in {path}"),
                _ => format!("{path} is {}", self.kinds[0].name),
            },
            Type::Set(inner) => match dice.below(4) {
                0 => format!("{path}.contains({})", literal(dice, inner)),
                1 => format!("{path}.containsAll({})", value(dice)),
                2 => format!("{path}.containsAny({})", value(dice)),
                _ => format!("{path}.isEmpty()"),
            },
            Type::Record(_) => match dice.is() {
                true => format!("{path} == {}", value(dice)),
                false => format!("{path} has {}", dice.of(&ATTRIBUTES)),
            },
        }
    }
}

impl Kind {
    fn is_made_up(&self) -> bool {
        KINDS.contains(&self.name.as_str())
    }
}

fn record(dice: &mut Dice<'_>, names: &[&str], level: usize) -> Vec<Attribute> {
    let count = dice.below(ATTRIBUTES.len() + 1);
    let chosen = ATTRIBUTES.iter().take(count);
    chosen
        .map(|name| Attribute {
            name,
            of: kind_of_value(dice, names, level),
            optional: dice.is(),
        })
        .collect()
}

fn kind_of_value(dice: &mut Dice<'_>, names: &[&str], level: usize) -> Type {
    let choices = if level == 0 { 8 } else { 10 };
    match dice.below(choices) {
        0 => Type::Bool,
        1 => Type::Long,
        2 => Type::Text,
        3 => Type::Ip,
        4 => Type::Decimal,
        5 => Type::Moment,
        6 => Type::Span,
        7 => Type::Entity(dice.of(names).to_owned()),
        8 => Type::Set(Box::new(kind_of_value(dice, names, level - 1))),
        _ => Type::Record(record(dice, names, level - 1)),
    }
}

/// The type in a schema.
fn declared(of: &Type) -> String {
    match of {
        Type::Bool => "Bool".into(),
        Type::Long => "Long".into(),
        Type::Text => "String".into(),
        Type::Ip => "ipaddr".into(),
        Type::Decimal => "decimal".into(),
        Type::Moment => "datetime".into(),
        Type::Span => "duration".into(),
        Type::Entity(name) => name.clone(),
        Type::Set(inner) => format!("Set<{}>", declared(inner)),
        Type::Record(fields) => format!("{{ {} }}", fields_of(fields)),
    }
}

fn fields_of(fields: &[Attribute]) -> String {
    let field = |f: &Attribute| {
        let mark = if f.optional { "?" } else { "" };
        format!("{}{mark}: {}, ", f.name, declared(&f.of))
    };
    fields.iter().map(field).collect()
}

/// The base vocabulary with what was rolled.
fn schema(dice: &mut Dice<'_>, kinds: &[Kind]) -> String {
    let mut text = SCHEMA.to_owned();
    for kind in kinds {
        let fields = fields_of(&kind.attributes);
        let parents: String = kind.parents.iter().map(|p| format!(", {p}")).collect();
        let replaced = |from: &str, to: String| {
            assert!(SCHEMA.contains(from), "{from}");
            (from.to_owned(), to)
        };
        let (from, to) = match kind.name.as_str() {
            "Group" => replaced(
                "entity Group in [Group];",
                format!("entity Group in [Group{parents}] {{ {fields} }};"),
            ),
            "Operation" => replaced(
                "entity Operation in [Service];",
                format!("entity Operation in [Service{parents}] {{ {fields} }};"),
            ),
            "Service" => replaced(
                "entity Service in [Namespace, Group] { tier?: String }",
                format!(
                    "entity Service in [Namespace, Group{parents}] {{ {fields} tier?: String }}"
                ),
            ),
            "Workload" => replaced(
                "entity Workload in [Service, Namespace, TrustDomain, Group] {",
                format!(
                    "entity Workload in [Service, Namespace, TrustDomain, Group{parents}] {{ {fields}"
                ),
            ),
            name => {
                let above = match kind.parents.is_empty() {
                    true => String::new(),
                    false => format!(" in [{}]", kind.parents.join(", ")),
                };
                let tags = kind
                    .tags
                    .as_ref()
                    .map(|of| format!(" tags {}", declared(of)));
                let tags = tags.unwrap_or_default();
                let _ = writeln!(text, "entity {name}{above} {{ {fields} }}{tags};");
                continue;
            }
        };
        text = text.replacen(&from, &to, 1);
    }
    let above = if dice.is() { " in [\"g0\"]" } else { "" };
    let _ = writeln!(text, "action \"g0\";\naction \"g1\"{above};");
    for action in [
        "action \"orders:refund\" in [",
        "action GET, HEAD, OPTIONS in [",
    ] {
        if dice.is() {
            let group = dice.of(&["g0", "g1"]);
            text = text.replacen(action, &format!("{action}\"{group}\", "), 1);
        }
    }
    text
}

/// The store of the shop, its entities with what was rolled for their types, and made-up ones.
fn store(dice: &mut Dice<'_>, kinds: &[Kind], catalogue: &Catalogue) -> Value {
    let mut all = Vec::new();
    let mut known: Vec<(String, String)> = Vec::new();
    for kind in kinds.iter().filter(|k| k.is_made_up()) {
        for n in 0..dice.below(IDS + 1) {
            let id = format!("e{n}");
            let mut entity = json!({
                "uid": { "type": kind.name, "id": id },
                "attrs": {}, "parents": [],
            });
            rolled(dice, kind, &known, &mut entity);
            if let Some(of) = &kind.tags {
                let tags = ["t0", "t1"].iter().filter(|_| dice.is());
                let tags: Vec<&&str> = tags.collect();
                let tags = tags.iter().map(|t| ((**t).to_string(), value(dice, of)));
                entity["tags"] = Value::Object(tags.collect());
            }
            all.push(entity);
            known.push((kind.name.clone(), id));
        }
    }
    let base = entities(catalogue);
    for entity in base.as_array().into_iter().flatten() {
        let mut entity = entity.clone();
        let name = entity["uid"]["type"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if let Some(kind) = kinds.iter().find(|k| k.name == name) {
            rolled(dice, kind, &known, &mut entity);
        }
        all.push(entity);
    }
    Value::Array(all)
}

/// Adds attributes and parents to an entity.
fn rolled(dice: &mut Dice<'_>, kind: &Kind, known: &[(String, String)], entity: &mut Value) {
    let more = fields(dice, &kind.attributes);
    if let Some(attributes) = entity["attrs"].as_object_mut() {
        attributes.extend(more);
    }
    let above = known.iter().filter(|(of, _)| kind.parents.contains(of));
    let above: Vec<_> = above.filter(|_| dice.below(3) == 1).collect();
    let named = above.iter().map(|(of, id)| json!({ "type": of, "id": id }));
    if let Some(parents) = entity["parents"].as_array_mut() {
        parents.extend(named);
    }
}

fn fields(dice: &mut Dice<'_>, attributes: &[Attribute]) -> Map<String, Value> {
    let mut fields = Map::new();
    for attribute in attributes {
        if !attribute.optional || dice.is() {
            fields.insert(attribute.name.to_owned(), value(dice, &attribute.of));
        }
    }
    fields
}

/// Few values of each type, so that two of them are often equal.
const TEXTS: [&str; 3] = ["", "p1", "prod"];
const ADDRESSES: [&str; 3] = ["10.1.2.3", "127.0.0.1", "::1"];
const DECIMALS: [&str; 3] = ["0.0", "1.5", "-2.25"];
const MOMENTS: [&str; 3] = ["2026-11-20", "2026-11-20T15:45:00Z", "1970-01-01"];
const SPANS: [&str; 3] = ["0s", "1h", "-2d3h"];
const NUMBERS: [i64; 4] = [0, 1, -7, i64::MAX];

fn value(dice: &mut Dice<'_>, of: &Type) -> Value {
    let extension = |name: &str, text: &str| json!({ "__extn": { "fn": name, "arg": text } });
    match of {
        Type::Bool => dice.is().into(),
        Type::Long => NUMBERS[dice.below(NUMBERS.len())].into(),
        Type::Text => dice.of(&TEXTS).into(),
        Type::Ip => extension("ip", dice.of(&ADDRESSES)),
        Type::Decimal => extension("decimal", dice.of(&DECIMALS)),
        Type::Moment => extension("datetime", dice.of(&MOMENTS)),
        Type::Span => extension("duration", dice.of(&SPANS)),
        Type::Entity(name) => {
            json!({ "__entity": { "type": name, "id": format!("e{}", dice.below(IDS + 1)) } })
        }
        Type::Set(inner) => (0..dice.below(3)).map(|_| value(dice, inner)).collect(),
        Type::Record(attributes) => Value::Object(fields(dice, attributes)),
    }
}

/// A value as policies write it.
fn literal(dice: &mut Dice<'_>, of: &Type) -> String {
    match of {
        Type::Bool => dice.of(&["false", "true"]).into(),
        Type::Long => NUMBERS[dice.below(NUMBERS.len())].to_string(),
        Type::Text => format!("\"{}\"", dice.of(&TEXTS)),
        Type::Ip => format!("ip(\"{}\")", dice.of(&ADDRESSES)),
        Type::Decimal => format!("decimal(\"{}\")", dice.of(&DECIMALS)),
        Type::Moment => format!("datetime(\"{}\")", dice.of(&MOMENTS)),
        Type::Span => format!("duration(\"{}\")", dice.of(&SPANS)),
        Type::Entity(name) => format!("{name}::\"e{}\"", dice.below(IDS + 1)),
        Type::Set(inner) => {
            let members: Vec<String> = (0..dice.below(3)).map(|_| literal(dice, inner)).collect();
            format!("[{}]", members.join(", "))
        }
        Type::Record(attributes) => {
            let mut members = Vec::new();
            for attribute in attributes {
                if !attribute.optional || dice.is() {
                    members.push(format!(
                        "{}: {}",
                        attribute.name,
                        literal(dice, &attribute.of)
                    ));
                }
            }
            format!("{{{}}}", members.join(", "))
        }
    }
}
