//! The API as an OpenAPI 3.1 document, made of the table of routes, the table of fields
//! and the schemas of the answers.

use http::Method;
use palisade_audit::query::QUERY_LEN_MAX;
use palisade_pdp::readers::ReadAction;
use serde_json::{Map, Value, json};

use super::routes::{BODY_LEN_MAX, FORMATS, Kind, Parameter, ROUTES, Reply, Route, What};

mod schemas;

/// The whole document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        // A wildcard of the router is a parameter here.
        let path = route.path.replace("{*", "{");
        let path = paths.entry(path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            let method = route.method.as_str().to_ascii_lowercase();
            methods.insert(method, operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Palisade audit API",
            "summary": "The log of decisions: search, follow, summarise, export.",
            "description": "Reads are let by the operator's Cedar file and recorded in the log. A reader that may not see every record is answered as if the others were not there, and the answer says `restricted_to`.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "audit.api.listen of the audit service" }],
        "security": [{ "svid": [] }, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "svid": { "type": "mutualTLS", "description": "An X.509-SVID of the trust domain." },
                "token": { "type": "http", "scheme": "bearer", "description": "A token of audit.api.tokens." },
            },
            "responses": { "Problem": problem() },
            "schemas": schemas::all(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = Map::new();
    operation.insert("operationId".into(), json!(route.id));
    operation.insert("summary".into(), json!(route.about));
    let in_body = route.method == Method::POST || route.method == Method::PUT;
    let (of_path, others): (Vec<&Parameter>, Vec<&Parameter>) =
        route.parameters.iter().partition(|p| p.kind.is_in_path());
    let told = match in_body {
        true => of_path,
        false => [of_path, others.clone()].concat(),
    };
    if !told.is_empty() {
        let told: Vec<Value> = told.into_iter().map(parameter).collect();
        operation.insert("parameters".into(), json!(told));
    }
    if in_body && !others.is_empty() {
        operation.insert("requestBody".into(), body(&others));
    }
    if route.what == What::Document {
        operation.insert("security".into(), json!([{}]));
    }
    let action = match route.what {
        What::Document | What::Fields => None,
        What::Metrics => Some(ReadAction::Metrics),
        What::Read(action) => Some(action),
    };
    if let Some(action) = action {
        let name = format!("audit:{}", action.as_str());
        operation.insert("x-palisade-action".into(), json!(name));
    }
    let responses = json!({
        "200": answer(route.answer),
        "default": { "$ref": "#/components/responses/Problem" },
    });
    operation.insert("responses".into(), responses);
    Value::Object(operation)
}

fn parameter(parameter: &Parameter) -> Value {
    let in_path = parameter.kind.is_in_path();
    let mut value = json!({
        "name": parameter.name,
        "in": if in_path { "path" } else { "query" },
        "required": in_path,
        "description": parameter.about,
        "schema": schema(parameter.kind),
    });
    if let (Kind::Names(_), Value::Object(value)) = (parameter.kind, &mut value) {
        value.insert("style".into(), json!("form"));
        value.insert("explode".into(), json!(false));
    }
    value
}

fn schema(kind: Kind) -> Value {
    match kind {
        Kind::Count(max, usual) => {
            json!({ "type": "integer", "minimum": 1, "maximum": max, "default": usual })
        }
        Kind::Id => json!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" }),
        Kind::Level => json!({ "type": "integer", "minimum": 0, "maximum": 7 }),
        Kind::Number => json!({ "type": "integer", "minimum": 0 }),
        Kind::Word => json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" }),
        Kind::Tile => {
            json!({ "type": "string", "pattern": "^(x[0-9]{3}/)*[0-9]{3}(\\.p/[1-9][0-9]{0,2})?$" })
        }
        Kind::Names(max) => {
            json!({ "type": "array", "items": { "type": "string" }, "maxItems": max })
        }
        Kind::OneOf(words) => {
            json!({ "type": "string", "enum": words, "default": words.first() })
        }
        Kind::Query => json!({
            "type": "string",
            "maxLength": QUERY_LEN_MAX,
            "default": "",
            "examples": ["decision:deny service:shop/orders last:1h"],
        }),
        Kind::Text => json!({ "type": "string" }),
    }
}

fn body(parameters: &[&Parameter]) -> Value {
    let properties: Map<String, Value> = parameters
        .iter()
        .map(|p| {
            let mut schema = schema(p.kind);
            if let Value::Object(schema) = &mut schema {
                schema.insert("description".into(), json!(p.about));
            }
            (p.name.to_owned(), schema)
        })
        .collect();
    json!({
        "required": true,
        "description": format!("At most {BODY_LEN_MAX} bytes."),
        "content": { "application/json": { "schema": {
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        } } },
    })
}

fn answer(reply: Reply) -> Value {
    let of = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let (description, content) = match reply {
        Reply::Json(name) => (
            "The answer.",
            json!({ "application/json": { "schema": of(name) } }),
        ),
        Reply::Lines(name) => (
            "Lines of JSON, each of this schema, as they come.",
            json!({ "application/x-ndjson": { "schema": of(name) } }),
        ),
        Reply::Text => (
            "The answer.",
            json!({ "text/plain": { "schema": { "type": "string" } } }),
        ),
        Reply::Tile => (
            "The bytes.",
            json!({ "application/octet-stream": { "schema": { "type": "string" } } }),
        ),
        Reply::Report => (
            "The report: the document itself, a page, a paper, a workbook, or one of its tables; with `format=oscal` assessment results of NIST's OSCAL 1.2.1, which are JSON as well.",
            json!({
                "application/json": {
                    "schema": { "oneOf": [of("Report"), of("AssessmentResults")] },
                },
                "text/html": { "schema": { "type": "string" } },
                "application/pdf": { "schema": { "type": "string" } },
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet":
                    { "schema": { "type": "string" } },
                "text/csv": { "schema": { "type": "string" } },
            }),
        ),
        Reply::File => (
            "The file: a Row or an OCSF event on each line, a table with the names of its columns first, or Parquet.",
            json!({
                "application/x-ndjson": { "schema": of("Row") },
                "text/csv": { "schema": { "type": "string" } },
                "application/vnd.apache.parquet": { "schema": { "type": "string" } },
            }),
        ),
    };
    let mut headers = json!({ "x-request-id": request_id() });
    if let (Reply::File, Value::Object(headers)) = (reply, &mut headers) {
        debug_assert_eq!(FORMATS.len(), 4);
        for (name, about, kind) in [
            (
                "palisade-records",
                "How many records follow; one that cannot be read is left out.",
                "integer",
            ),
            ("palisade-complete", "As `complete` of a search.", "boolean"),
            (
                "palisade-restricted",
                "Whether the reader may not see every record.",
                "boolean",
            ),
        ] {
            headers.insert(
                name.into(),
                json!({ "description": about, "schema": { "type": kind } }),
            );
        }
    }
    json!({ "description": description, "headers": headers, "content": content })
}

fn problem() -> Value {
    json!({
        "description": "Why there is no answer. 400 the question is wrong, 401 the caller is not proven, 403 it may not, 404 there is no such route or record, 405 not by this method, 408 and 413 its body is too slow or too long, 415 its body is no JSON, 422 an export is too long, 429 the caller has to wait, 500 and 503 it cannot be answered now.",
        "headers": {
            "x-request-id": request_id(),
            "retry-after": {
                "description": "Of 429 and 503: seconds.",
                "schema": { "type": "integer" },
            },
        },
        "content": { "application/problem+json": { "schema": {
            "$ref": "#/components/schemas/Problem",
        } } },
    })
}

fn request_id() -> Value {
    json!({
        "description": "The caller's own, or one of ours. The record of the read has it, too.",
        "schema": { "type": "string" },
    })
}
