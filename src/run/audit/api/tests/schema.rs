//! As much of JSON Schema as the document uses, so that answers are held against it.

use serde_json::Value;

/// Fails unless `value` is what the schema `name` of the document says.
pub(super) fn check(name: &str, value: &Value) {
    let document = super::document();
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "no schema `{name}`");
    if let Err(wrong) = matches(&document, schema, value) {
        panic!("{name}: {wrong}\n{value:#}");
    }
}

/// Fails unless `value` is what the document says of an answer of this media type.
pub(super) fn check_answer(path: &str, kind: &str, value: &Value) {
    let document = super::document();
    let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
    let schema = &content[kind]["schema"];
    assert!(schema.is_object(), "no schema of {kind}: {content}");
    if let Err(wrong) = matches(&document, schema, value) {
        panic!("{path}, {kind}: {wrong}\n{value:#}");
    }
}

fn matches(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = match schema["$ref"].as_str() {
        Some(at) => document.pointer(at.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    if let Some(words) = schema["enum"].as_array() {
        let fits = words.contains(value);
        return fits
            .then_some(())
            .ok_or(format!("{value} is none of {words:?}"));
    }
    if let Some(several) = schema["anyOf"].as_array() {
        let found: Result<Vec<()>, String> = several
            .iter()
            .map(|one| matches(document, one, value))
            .map(|done| match done {
                Ok(()) => Err(String::new()),
                Err(_) => Ok(()),
            })
            .collect();
        return match found {
            Err(_) => Ok(()),
            Ok(_) => Err(format!("{value} is none of {} schemas", several.len())),
        };
    }
    if let Some(several) = schema["oneOf"].as_array() {
        let all = several.iter().map(|one| matches(document, one, value));
        let (fit, wrong): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
        return match fit.len() {
            1 => Ok(()),
            n => Err(format!("{n} of the schemas fit, not one: {wrong:?}")),
        };
    }
    let is = |word: &Value| match word.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("unknown type {other}"),
    };
    match &schema["type"] {
        Value::Null => {}
        Value::Array(words) if words.iter().any(is) => {}
        word @ Value::String(_) if is(word) => {}
        other => return Err(format!("{value} is no {other}")),
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            object.get(name).ok_or(format!("`{name}` is missing"))?;
        }
        for (name, inner) in object {
            match schema["properties"].get(name) {
                Some(schema) => {
                    matches(document, schema, inner).map_err(|e| format!("{name}: {e}"))?;
                }
                None if schema["additionalProperties"] == false => {
                    return Err(format!("`{name}` is not in the schema"));
                }
                None => {}
            }
        }
    }
    if schema["items"].is_object() {
        for item in value.as_array().into_iter().flatten() {
            matches(document, &schema["items"], item)?;
        }
    }
    Ok(())
}
