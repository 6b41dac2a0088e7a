//! The configuration as JSON Schema (draft 2020-12), for editors and checks.

use serde_json::{Map, Value, json};

use super::keys::{self, Fallback, Key, Kind};

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut schema = object("");
    schema.insert(
        "$schema".into(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".into(), json!("Palisade configuration"));
    Value::Object(schema)
}

/// A map of the keys that stand in `path`; others are refused.
fn object(path: &str) -> Map<String, Value> {
    let properties: Map<String, Value> = keys::children(path)
        .filter(|key| key.kind != Kind::Word)
        .map(|key| (key.name().to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = keys::children(path)
        .filter(|key| matches!(key.fallback, Fallback::Required(_)))
        .map(Key::name)
        .collect();
    let mut object = Map::new();
    object.insert("type".into(), json!("object"));
    object.insert("properties".into(), Value::Object(properties));
    object.insert("additionalProperties".into(), json!(false));
    if !required.is_empty() {
        object.insert("required".into(), json!(required));
    }
    object
}

fn property(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Address => text(r"^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}$"),
        Kind::Place => text(r"^(mesh|(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5})$"),
        Kind::Bool => one("type", json!("boolean")),
        Kind::Bytes => {
            let mut size = one("type", json!(["integer", "string"]));
            size.insert("minimum".into(), json!(0));
            size.insert("pattern".into(), json!("^[0-9]+ *(B|KiB|MiB|GiB)?$"));
            size
        }
        Kind::Choice => {
            let mut choice = object(key.path);
            choice.insert("minProperties".into(), json!(1));
            choice.insert("maxProperties".into(), json!(1));
            let words: Vec<&str> = keys::children(key.path)
                .filter(|k| k.kind == Kind::Word)
                .map(Key::name)
                .collect();
            if !words.is_empty() {
                choice.insert("type".into(), json!(["object", "string"]));
                choice.insert("pattern".into(), json!(format!("^({})$", words.join("|"))));
            }
            choice
        }
        Kind::Count => {
            let mut count = one("type", json!("integer"));
            count.insert("minimum".into(), json!(0));
            count
        }
        Kind::Duration => text("[0-9]"),
        Kind::List => {
            let mut list = one("type", json!("array"));
            let items = object(&format!("{}[]", key.path));
            list.insert("items".into(), Value::Object(items));
            list
        }
        Kind::OneOf(words) => one("enum", json!(words)),
        Kind::Path | Kind::Text | Kind::Word => one("type", json!("string")),
        Kind::Section => object(key.path),
        Kind::Source => {
            let mut source = object(key.path);
            source.insert("type".into(), json!(["object", "string"]));
            source.insert("minProperties".into(), json!(1));
            source
        }
        Kind::Texts => {
            let mut list = one("type", json!("array"));
            list.insert("items".into(), json!({ "type": "string" }));
            list
        }
    };
    schema.insert("description".into(), json!(key.about));
    if let (Fallback::Is(value), false) = (key.fallback, key.is_map()) {
        schema.insert("default".into(), default(key.kind, value));
    }
    Value::Object(schema)
}

fn default(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Bool | Kind::Count | Kind::List | Kind::Texts => {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        _ => json!(text),
    }
}

fn one(name: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value)])
}

fn text(pattern: &str) -> Map<String, Value> {
    let mut text = one("type", json!("string"));
    text.insert("pattern".into(), json!(pattern));
    text
}
