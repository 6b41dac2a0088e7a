//! Reads typed values from a YAML tree, and reports every mistake at once.
//!
//! Deserializing stops at the first mistake. So the mistake is noted, the value
//! it stands in is taken out of the tree, and reading begins anew, until nothing
//! is wrong any more. A field that is missing only because it was taken out is
//! not reported again.

use std::fmt;

use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    yaml::{Entry, Node, Source, Span, Value},
};
use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess,
        SeqAccess, Unexpected, VariantAccess, Visitor, value::StrDeserializer,
    },
};

/// Most mistakes that are looked for in one file.
const MISTAKES_MAX: usize = 100;

/// Code of a key that nothing reads.
const UNKNOWN_KEY: u16 = 8003;
/// Code of a key that must be there.
const MISSING_KEY: u16 = 8004;
/// Code of a value that does not fit.
const INVALID_VALUE: u16 = 8005;

/// Reads `T` from `root`.
///
/// # Errors
/// Every mistake, with its place in `source`.
pub(super) fn read<T: DeserializeOwned>(
    source: &Source,
    mut root: Node,
) -> Result<T, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut incomplete = false;
    while found.len() < MISTAKES_MAX {
        let mistake = match T::deserialize(Reader { node: &root }) {
            Ok(value) if found.is_empty() && !incomplete => return Ok(value),
            Ok(_) => break,
            Err(mistake) => mistake,
        };
        let removed_before = mistake.is_missing() && mistake.in_pruned(&root);
        if !removed_before {
            found.push(mistake.tell(source, &root));
        }
        incomplete = true;
        if !prune(&mut root, &mistake.path) {
            break;
        }
    }
    found.sort_by_key(|d| d.location.as_ref().map(|at| at.offset));
    Err(found)
}

/// Takes the node at `path` out of the tree; false when that is the root.
fn prune(root: &mut Node, path: &[usize]) -> bool {
    let Some((last, parents)) = path.split_last() else {
        return false;
    };
    let mut node = root;
    for step in parents {
        node = match &mut node.value {
            Value::Map(entries) => match entries.get_mut(*step) {
                Some(entry) => &mut entry.value,
                None => return false,
            },
            Value::List(items) => match items.get_mut(*step) {
                Some(item) => item,
                None => return false,
            },
            Value::Null | Value::Scalar(_) => return false,
        };
    }
    match &mut node.value {
        Value::Map(entries) if *last < entries.len() => {
            entries.remove(*last);
            node.pruned = true;
            true
        }
        Value::List(items) if *last < items.len() => {
            items.remove(*last);
            true
        }
        _ => false,
    }
}

/// What is wrong, and on which path from the root.
#[derive(Debug)]
struct Mistake {
    kind: Kind,
    /// Indexes of entries and items, outermost first.
    path: Vec<usize>,
    /// Whether it is the key of the last step that is wrong.
    at_key: bool,
}

#[derive(Debug)]
enum Kind {
    Invalid(String),
    Missing(&'static str),
    Unknown {
        what: &'static str,
        name: String,
        expected: &'static [&'static str],
    },
}

impl Mistake {
    fn within(mut self, step: usize) -> Self {
        self.path.insert(0, step);
        self
    }

    fn at_key(mut self) -> Self {
        self.at_key = true;
        self
    }

    fn is_missing(&self) -> bool {
        matches!(self.kind, Kind::Missing(_))
    }

    /// Whether something was taken out of the map that now lacks a field.
    fn in_pruned(&self, root: &Node) -> bool {
        lookup(root, &self.path).is_some_and(|(node, _)| node.pruned)
    }

    fn tell(&self, source: &Source, root: &Node) -> Diagnostic {
        let (node, entry) = lookup(root, &self.path).unwrap_or((root, None));
        let key_span = entry.map_or(node.span, |e| e.key_span);
        let name = named(root, &self.path).map_or("the file".into(), |p| format!("`{p}`"));
        let (diagnostic, span) = match &self.kind {
            Kind::Invalid(message) => {
                let told = Diagnostic::error(INVALID_VALUE, format!("{name}: {message}"))
                    .help("deploy/palisade.yaml shows every key with a value");
                (told, node.span)
            }
            Kind::Missing(field) => {
                let told =
                    Diagnostic::error(MISSING_KEY, format!("{name} lacks the key `{field}`"))
                        .help(format!("add it: `{field}: …`"));
                (told, key_span)
            }
            Kind::Unknown {
                what,
                name,
                expected,
            } => (
                {
                    let parents = self.path.len() - usize::from(self.at_key);
                    let parent = self.path.get(..parents).unwrap_or_default();
                    unknown(what, name, named(root, parent), expected)
                },
                if self.at_key { key_span } else { node.span },
            ),
        };
        let first_line = Span::new(
            span.start,
            source
                .slice(span)
                .lines()
                .next()
                .map_or(1, |l| l.trim_end().len()),
        );
        diagnostic.at(source.span(first_line))
    }
}

/// The path of a node as people write it, such as `proxy.limits` or `list[2]`; `None`
/// for the root.
fn named(root: &Node, path: &[usize]) -> Option<String> {
    let (mut node, mut name) = (root, String::new());
    for step in path {
        node = match &node.value {
            Value::Map(entries) => {
                let entry = entries.get(*step)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&entry.key);
                &entry.value
            }
            Value::List(items) => {
                name.push_str(&format!("[{step}]"));
                items.get(*step)?
            }
            Value::Null | Value::Scalar(_) => return None,
        };
    }
    (!name.is_empty()).then_some(name)
}

fn unknown(what: &str, name: &str, within: Option<String>, expected: &[&str]) -> Diagnostic {
    let within = within.map_or(String::new(), |path| format!(" in `{path}`"));
    let diagnostic = Diagnostic::error(UNKNOWN_KEY, format!("unknown {what} `{name}`{within}"));
    let diagnostic = match did_you_mean(name, expected.iter().copied()) {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    };
    if expected.is_empty() {
        return diagnostic.help("take it out: nothing can stand here");
    }
    diagnostic.help(format!("possible here: {}", expected.join(", ")))
}

fn lookup<'n>(root: &'n Node, path: &[usize]) -> Option<(&'n Node, Option<&'n Entry>)> {
    let mut at = (root, None);
    for step in path {
        at = match &at.0.value {
            Value::Map(entries) => entries.get(*step).map(|e| (&e.value, Some(e)))?,
            Value::List(items) => (items.get(*step)?, at.1),
            Value::Null | Value::Scalar(_) => return None,
        };
    }
    Some(at)
}

impl From<Kind> for Mistake {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            path: Vec::new(),
            at_key: false,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = match message.to_string() {
            // The standard library's words for an address.
            text if text == "invalid socket address syntax" => {
                "expected `IP:PORT`, such as `127.0.0.1:8443`; names are not looked up".to_owned()
            }
            text => text,
        };
        Kind::Invalid(message).into()
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Kind::Invalid(format!(
            "expected {}, found {}",
            wanted(&expected.to_string()),
            told(unexpected)
        ))
        .into()
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Kind::Unknown {
            what: "key",
            name: field.into(),
            expected,
        }
        .into()
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Kind::Unknown {
            what: "value",
            name: variant.into(),
            expected,
        }
        .into()
    }

    fn missing_field(field: &'static str) -> Self {
        Kind::Missing(field).into()
    }
}

/// What a value should be, without Rust's names of types.
fn wanted(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "a borrowed string" => "a text",
        "a sequence" => "a list",
        other if other.starts_with("struct ") => "a map of keys",
        other => other,
    }
}

fn told(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Str(text) => format!("`{text}`"),
        Unexpected::Map => "a map".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Unit => "nothing".into(),
        other => other.to_string(),
    }
}

/// Reads one node as whatever is asked for; a scalar is a text until a number or a
/// truth value is wanted.
#[derive(Clone, Copy)]
struct Reader<'n> {
    node: &'n Node,
}

impl<'n> Reader<'n> {
    fn unexpected(self) -> Unexpected<'n> {
        match &self.node.value {
            Value::Null => Unexpected::Unit,
            Value::Scalar(text) => Unexpected::Str(text),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }

    fn parsed<T: std::str::FromStr>(self, expected: &dyn de::Expected) -> Result<T, Mistake> {
        let parsed = match &self.node.value {
            Value::Scalar(text) => text.replace('_', "").parse().ok(),
            _ => None,
        };
        parsed.ok_or_else(|| de::Error::invalid_type(self.unexpected(), expected))
    }
}

macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty),+ $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
            let value: $type = self.parsed(&visitor)?;
            visitor.$visit(value)
        })+
    };
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Mistake;

    parsed! {
        deserialize_bool visit_bool bool,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_f32 visit_f32 f32,
        deserialize_f64 visit_f64 f64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar(text) => match text.parse() {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_borrowed_str(text),
            },
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
        }
    }

    /// A text, also where it looks like a number.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Scalar(text) => visitor.visit_borrowed_str(text),
            _ => Err(de::Error::invalid_type(self.unexpected(), &visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        choices: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        match &self.node.value {
            Value::Scalar(text) => visitor.visit_enum(
                IntoDeserializer::<Mistake>::into_deserializer(text.as_str()),
            ),
            Value::Map(entries) => match entries.as_slice() {
                [one] => visitor.visit_enum(Variant { entry: one }),
                _ if self.node.pruned => Err(Kind::Missing("choice").into()),
                _ => Err(Kind::Invalid(format!(
                    "choose one of {}, not {} of them",
                    choices.join(", "),
                    entries.len()
                ))
                .into()),
            },
            _ => Err(de::Error::invalid_type(self.unexpected(), &visitor)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

struct Items<'n> {
    items: &'n [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Mistake;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Mistake> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let step = self.next;
        self.next += 1;
        seed.deserialize(Reader { node })
            .map(Some)
            .map_err(|m| m.within(step))
    }
}

struct Entries<'n> {
    entries: &'n [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Mistake;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Mistake> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(None);
        };
        let key: StrDeserializer<'de, Mistake> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|m| m.at_key().within(self.next))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mistake> {
        let step = self.next;
        self.next += 1;
        let entry = self
            .entries
            .get(step)
            .ok_or_else(|| <Mistake as de::Error>::custom("bug: value asked before its key"))?;
        seed.deserialize(Reader { node: &entry.value })
            .map_err(|m| m.within(step))
    }
}

/// The one entry of a map that stands for an enum variant.
struct Variant<'n> {
    entry: &'n Entry,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Mistake;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Mistake> {
        let name: StrDeserializer<'de, Mistake> = self.entry.key.as_str().into_deserializer();
        let value = seed.deserialize(name).map_err(|m| m.at_key().within(0))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Mistake;

    fn unit_variant(self) -> Result<(), Mistake> {
        Err(Kind::Invalid("takes no value".into()).into())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Mistake> {
        seed.deserialize(Reader {
            node: &self.entry.value,
        })
        .map_err(|m| m.within(0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mistake> {
        Reader {
            node: &self.entry.value,
        }
        .deserialize_any(visitor)
        .map_err(|m| m.within(0))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        Reader {
            node: &self.entry.value,
        }
        .deserialize_any(visitor)
        .map_err(|m| m.within(0))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: std::net::SocketAddr,
        #[serde(default)]
        workers: usize,
        kind: Option<Choice>,
        inner: Option<Inner>,
        #[serde(default)]
        list: Vec<u16>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Plain,
        Folder(String),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        deep: bool,
    }

    fn parse(text: &str) -> Result<Sample, Vec<Diagnostic>> {
        let source = Source::new("a.yaml", text);
        let mut found = Vec::new();
        let root =
            palisade_mesh::yaml::parse(&source, super::super::CODES, &mut found).expect("is YAML");
        read(&source, root)
    }

    #[test]
    fn what_is_right_is_read() {
        let read = parse("listen: 127.0.0.1:80\nworkers: 4\nkind: {folder: x}\ninner: {deep: true}\nlist: [1, 2]\n").unwrap();
        assert_eq!(read.workers, 4);
        assert_eq!(read.kind, Some(Choice::Folder("x".into())));
        assert_eq!(read.inner, Some(Inner { deep: true }));
        assert_eq!(
            parse("listen: 127.0.0.1:80\nkind: plain\n").unwrap().kind,
            Some(Choice::Plain)
        );
    }

    /// One run tells all mistakes, each at its line, and no follow-ups.
    #[test]
    fn all_mistakes_are_told_at_once() {
        let found = parse("listn: 127.0.0.1:80\nworkers: many\nkind: {foldr: x}\ninner: {deep: 1, extra: 2}\nlist: [1, 99999]\n").unwrap_err();
        let told: Vec<(u16, usize)> = found
            .iter()
            .map(|d| (d.code.0, d.location.as_ref().map_or(0, |at| at.line)))
            .collect();
        assert_eq!(
            told,
            [
                (8003, 1),
                (8005, 2),
                (8003, 3),
                (8005, 4),
                (8003, 4),
                (8005, 5)
            ]
        );
        assert_eq!(found[0].label.as_deref(), Some("did you mean `listen`?"));
        assert_eq!(found[2].label.as_deref(), Some("did you mean `folder`?"));
    }

    #[test]
    fn a_wrong_value_is_told_without_names_of_types() {
        let message = |text| parse(text).unwrap_err().remove(0).message;
        assert_eq!(
            message("listen: localhost\n"),
            "`listen`: expected `IP:PORT`, such as `127.0.0.1:8443`; names are not looked up"
        );
        assert_eq!(
            message("listen: 127.0.0.1:1\nworkers: many\n"),
            "`workers`: expected a whole number, found `many`"
        );
        assert_eq!(
            message(""),
            "the file: expected a map of keys, found nothing"
        );
    }

    #[test]
    fn a_missing_key_is_told_by_name() {
        let found = parse("workers: 2\n").unwrap_err();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].message.contains("`listen`"),
            "{}",
            found[0].message
        );
    }
}
