//! Schemas of the answers. What they have in common is written once.

use palisade_audit::export::{ColumnKind, columns};
use serde_json::{Map, Value, json};

/// All of them, by name.
pub(super) fn all() -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let count = json!({ "type": "integer", "minimum": 0 });
    let time = json!({ "type": "string", "format": "date-time" });
    let flag = json!({ "type": "boolean" });
    let mut all = json!({
        "Document": { "type": "object", "description": "OpenAPI 3.1." },
        "Fields": object(&[
            ("fields", &list("Field")),
        ], &[]),
        "Field": object(&[
            ("name", &text), ("values", &text), ("classes", &texts), ("countable", &flag),
            ("help", &text), ("example", &text),
        ], &[]),
        "Row": row(),
        "Total": object(&[
            ("relation", &json!({ "enum": ["exact", "at_least"] })), ("count", &count),
        ], &[]),
        "Gap": object(&[
            ("reporter", &text), ("first", &count), ("last", &count),
            ("noticed_us", &json!({ "type": "integer" })),
        ], &[]),
        "Dropped": object(&[("class", &text), ("records", &count), ("until", &time)], &[]),
        "Lost": object(&[
            ("reporter", &text), ("records", &count), ("from", &time), ("until", &time),
            ("entry", &count),
        ], &[]),
        "SearchAnswer": { "anyOf": [of("RowsAnswer"), of("GroupsAnswer"), of("StepsAnswer")] },
        "RowsAnswer": covering(&[
            ("rows", &list("Row")), ("total", &of("Total")),
            ("cursor", &json!({ "type": ["string", "null"] })),
        ]),
        "GroupsAnswer": covering(&[
            ("by", &texts), ("groups", &list("Group")), ("distinct", &count),
            ("total", &count), ("absent", &count), ("uncounted", &count),
        ]),
        "Group": object(&[
            ("values", &texts), ("count", &count), ("first", &time), ("last", &time),
        ], &[]),
        "StepsAnswer": covering(&[
            ("step_secs", &count), ("by", &json!({ "type": ["string", "null"] })),
            ("steps", &list("Step")), ("total", &count), ("absent", &count),
            ("uncounted", &count),
        ]),
        "Step": object(&[("time", &time), ("count", &count)], &[
            ("values", &json!({
                "type": "array",
                "items": {
                    "type": "array",
                    "prefixItems": [{ "type": "string" }, { "type": "integer" }],
                    "minItems": 2,
                    "maxItems": 2,
                },
            })),
            ("other", &count),
        ]),
        "Facets": covering(&[("facets", &list("Facet")), ("total", &count)]),
        "Facet": object(&[
            ("field", &text), ("groups", &list("Group")), ("distinct", &count),
            ("absent", &count), ("uncounted", &count),
        ], &[]),
        "Gaps": object(&[
            ("open", &list("OpenGap")), ("noted", &of("RowsAnswer")),
            ("declared", &of("RowsAnswer")), ("silent", &list("Silent")),
        ], &[("open_more", &count), ("open_withheld", &count), ("calls", &of("BothSides"))]),
        "Silent": object(&[("reporter", &text), ("boot", &text), ("heard_us", &count)], &[]),
        "BothSides": object(&[
            ("from", &time), ("to", &time), ("whole", &flag), ("agreed", &count),
            ("one_sided", &list("OneSided")), ("one_sided_more", &count),
            ("unanswered", &count), ("settling", &count),
            ("without_proxy", &json!({ "type": "object", "additionalProperties": count })),
            ("without_proxy_more", &count),
        ], &[]),
        "OneSided": object(&[
            ("kind", &json!({
                "enum": ["call_alone", "contradiction", "decision_alone", "repeated"],
            })),
            ("entry", &count), ("id", &text), ("time", &time), ("reporter", &text),
            ("caller", &text), ("service", &text), ("method", &text), ("path", &text),
            ("loss_known", &flag),
        ], &[]),
        "OpenGap": object(&[
            ("reporter", &text), ("boot", &text), ("worker", &count), ("first", &count),
            ("last", &count), ("missing", &count), ("noticed", &time),
        ], &[]),
        "Found": object(&[("checkpointed", &flag), ("rows", &list("Row"))], &[]),
        "Revealed": object(&[("records", &list("RevealedRecord"))], &[]),
        "RevealedRecord": object(&[
            ("entry", &count), ("values", &list("RevealedValue")),
        ], &[]),
        "RevealedValue": object(&[
            ("field", &text),
            ("state", &json!({ "enum": ["erased", "masked", "pseudonym", "unreadable", "value"] })),
        ], &[("subject", &text), ("value", &text)]),
        "Proven": object(&[
            ("entry", &count),
            ("entries", &json!({ "type": "array", "items": { "type": "integer" } })),
            ("record", &text), ("proof", &text), ("key", &text), ("row", &of("Row")),
        ], &[]),
        "TailLine": { "anyOf": [
            of("Row"),
            object(&[("skipped", &count)], &[]),
            object(&[("unreadable", &count)], &[]),
            object(&[("ended", &text)], &[]),
        ] },
        "Problem": object(&[
            ("type", &json!({ "type": "string", "pattern": "^urn:palisade:problem:PLS[0-9]{4}$" })),
            ("title", &text), ("status", &json!({ "type": "integer" })), ("detail", &text),
            ("code", &json!({ "type": "string", "pattern": "^PLS[0-9]{4}$" })),
            ("request_id", &text),
        ], &[
            ("cause", &text), ("help", &text),
            ("at", &object(&[("offset", &count), ("len", &count)], &[])),
        ]),
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut all, beside_rows()) {
        all.extend(more);
    }
    all
}

/// Those of answers that are no rows of the log.
fn beside_rows() -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let count = json!({ "type": "integer", "minimum": 0 });
    let moment = json!({ "type": "integer" });
    let maybe_moment = json!({ "type": ["integer", "null"] });
    let maybe_text = json!({ "type": ["string", "null"] });
    json!({
        "SavedQueries": object(&[("saved", &list("SavedQuery"))], &[]),
        "SavedQuery": object(&[("name", &text), ("query", &text)], &[]),
        "Alerts": object(&[
            ("rules", &list("AlertRule")), ("open", &list("OpenAlert")),
            ("waiting", &list("Waiting")),
        ], &[]),
        "AlertRule": object(&[
            ("name", &text), ("query", &text), ("threshold", &count), ("window_us", &count),
            ("by", &text), ("forgotten", &count), ("severity", &text), ("deliver", &texts),
        ], &[]),
        "OpenAlert": object(&[
            ("id", &text), ("rule", &text), ("severity", &text), ("group", &text),
            ("count", &count), ("at_us", &moment),
        ], &[]),
        "Waiting": object(&[
            ("target", &text), ("messages", &count), ("fault", &maybe_text),
        ], &[]),
        "Holds": object(&[("holds", &list("Hold"))], &[]),
        "Hold": object(&[
            ("id", &text), ("query", &text), ("from_us", &maybe_moment),
            ("to_us", &maybe_moment), ("reason", &text), ("by", &text), ("since_us", &moment),
            ("until_us", &maybe_moment),
        ], &[]),
        "Reports": object(&[("reports", &list("ReportKind"))], &[]),
        "ReportKind": object(&[
            ("name", &text), ("title", &text), ("question", &text), ("controls", &texts),
        ], &[]),
        "Report": object(&[
            ("format", &count), ("name", &text), ("title", &text), ("question", &text),
            ("header", &json!({ "type": "object" })),
            ("sections", &json!({ "type": "array", "items": { "type": "object" } })),
        ], &[]),
        "AssessmentResults": object(&[
            ("assessment-results", &json!({
                "type": "object",
                "description": "As NIST's OSCAL 1.2.1 has it.",
                "properties": {
                    "uuid": { "type": "string", "format": "uuid" },
                    "metadata": { "type": "object" },
                    "import-ap": { "type": "object" },
                    "results": { "type": "array", "items": { "type": "object" } },
                    "back-matter": { "type": "object" },
                },
                "required": ["uuid", "metadata", "import-ap", "results"],
            })),
        ], &[]),
        "Verification": object(&[
            ("state", &json!({ "enum": ["done", "failed", "never", "running"] })),
            ("by", &maybe_text), ("begun", &maybe_text), ("ended", &maybe_text),
            ("records", &count), ("bytes", &count), ("bytes_total", &count),
            ("intact", &json!({ "type": ["boolean", "null"] })),
            ("report", &json!({ "type": ["object", "null"] })),
            ("last", &json!({ "type": ["object", "null"] })),
        ], &[]),
    })
}

fn of(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn list(name: &str) -> Value {
    json!({ "type": "array", "items": of(name) })
}

/// An object of these members and no others.
fn object(required: &[(&str, &Value)], optional: &[(&str, &Value)]) -> Value {
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    let all = required.iter().chain(optional);
    let properties: Map<String, Value> = all
        .map(|(name, schema)| ((*name).to_owned(), (*schema).clone()))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": false,
    })
}

/// An answer that says what it covers.
fn covering(own: &[(&str, &Value)]) -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    let time = json!({ "type": "string", "format": "date-time" });
    let flag = json!({ "type": "boolean" });
    let times = json!({ "type": "array", "items": time });
    let gaps = list("Gap");
    let reason = json!({ "type": ["string", "null"] });
    let mut required = own.to_vec();
    required.extend([
        ("from", &time),
        ("to", &time),
        ("default_time", &flag),
        ("complete", &flag),
        ("behind", &count),
        ("unreadable", &count),
        ("skipped_buckets", &times),
        ("gaps", &gaps),
        ("stalled", &reason),
        ("took_us", &count),
    ]);
    let restricted = json!({
        "type": "string",
        "description": "What the reader may see; then other records may match, and the answer is not complete.",
    });
    let dropped = list("Dropped");
    let silent = list("Silent");
    let lost = list("Lost");
    object(
        &required,
        &[
            ("dropped", &dropped),
            ("gaps_more", &count),
            ("gaps_withheld", &count),
            ("lost", &lost),
            ("lost_more", &count),
            ("restricted_to", &restricted),
            ("silent", &silent),
            ("silent_more", &count),
        ],
    )
}

/// A record: what every one has, the fields of the query language, and details.
fn row() -> Value {
    let properties: Map<String, Value> = columns()
        .map(|column| {
            let schema = match column.kind {
                ColumnKind::Flag => json!({ "type": "boolean" }),
                ColumnKind::Json => json!({}),
                ColumnKind::Number => json!({ "type": "integer", "minimum": 0 }),
                ColumnKind::Text => json!({ "type": "string" }),
                ColumnKind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
                ColumnKind::Time => json!({ "type": "string", "format": "date-time" }),
            };
            (column.name.to_owned(), schema)
        })
        .collect();
    json!({
        "type": "object",
        "description": "A record of the log; a decision with its outcome.",
        "properties": properties,
        "required": ["time", "class", "entry", "received"],
        "additionalProperties": false,
    })
}
