//! Decisions as events of the Open Cybersecurity Schema Framework: class 6003, API
//! Activity, with the profile `security_control`.
//!
//! Source: the schema repository of OCSF, release 1.8.0. What the class has no place for is
//! under `unmapped.palisade`.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Object;

/// The version of the schema.
pub const OCSF_VERSION: &str = "1.8.0";

const CATEGORY: u32 = 6;
const CLASS: u32 = 6003;

/// What of a row has no place in the class.
const UNMAPPED: &[&str] = &[
    "entry",
    "reporter",
    "mode",
    "revision",
    "sequence",
    "discovery",
    "kill_list",
    "route",
    "policy_error",
    "shadow",
    "flip",
    "end",
    "error",
    "upstream",
    "serial",
    "demo",
    "suspect",
    "api",
    "asserted_by",
    "decision_ns",
    "cached",
    "trace",
    "span",
    "request_id",
];

/// The event of a decision; `None` for a record of another class.
pub fn ocsf_event(row: &Object) -> Option<Value> {
    if text(row, "class") != Some("decision") {
        return None;
    }
    let activity = activity(text(row, "method").unwrap_or_default());
    let verdict = text(row, "decision").unwrap_or_default();
    let enforced = row.get("enforced").and_then(Value::as_bool).unwrap_or(true);
    let ruling = Ruling::of(verdict, enforced);
    let mut event = json!({
        "category_uid": CATEGORY,
        "category_name": "Application Activity",
        "class_uid": CLASS,
        "class_name": "API Activity",
        "activity_id": activity.0,
        "activity_name": activity.1,
        "type_uid": CLASS * 100 + activity.0,
        "type_name": format!("API Activity: {}", activity.1),
        "time": millis(text(row, "time")?)?,
        "severity_id": ruling.severity.0,
        "severity": ruling.severity.1,
        "metadata": metadata(row),
        "actor": actor(row, verdict),
        "api": api(row),
        "src_endpoint": source(row),
        "action_id": ruling.action.0,
        "action": ruling.action.1,
        "disposition_id": ruling.disposition.0,
        "disposition": ruling.disposition.1,
        "is_alert": false,
        "status_id": ruling.status.0,
        "status": ruling.status.1,
        "http_request": http_request(row),
    });
    let fields = event.as_object_mut()?;
    put(fields, "status_code", text(row, "reason"));
    put(
        fields,
        "status_detail",
        text(row, "reason").map(|r| r.replace('_', " ")),
    );
    put(fields, "policy", policy(row, enforced));
    put(fields, "resources", resource(row).map(|r| vec![r]));
    put(fields, "dst_endpoint", destination(row));
    put(
        fields,
        "http_response",
        number(row, "status").map(|code| json!({ "code": code })),
    );
    put(
        fields,
        "duration",
        number(row, "latency").map(|us| us / 1000),
    );
    let unmapped: Object = UNMAPPED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), row.get(*name)?.clone())))
        .collect();
    put(fields, "unmapped", Some(json!({ "palisade": unmapped })));
    Some(event)
}

/// What OCSF calls a verdict.
struct Ruling {
    action: (u32, &'static str),
    disposition: (u32, &'static str),
    status: (u32, &'static str),
    severity: (u32, &'static str),
}

impl Ruling {
    fn of(verdict: &str, enforced: bool) -> Self {
        let (action, disposition, status, severity) = match verdict {
            _ if !enforced => (
                (3, "Observed"),
                (17, "Logged"),
                (1, "Success"),
                (1, "Informational"),
            ),
            "allow" => (
                (1, "Allowed"),
                (1, "Allowed"),
                (1, "Success"),
                (1, "Informational"),
            ),
            "forbidden" => ((2, "Denied"), (2, "Blocked"), (2, "Failure"), (2, "Low")),
            "not_permitted" => (
                (2, "Denied"),
                (26, "Unauthorized"),
                (2, "Failure"),
                (2, "Low"),
            ),
            _ => ((2, "Denied"), (27, "Error"), (2, "Failure"), (3, "Medium")),
        };
        Self {
            action,
            disposition,
            status,
            severity,
        }
    }
}

fn activity(method: &str) -> (u32, &'static str) {
    match method {
        "POST" => (1, "Create"),
        "GET" | "HEAD" | "OPTIONS" => (2, "Read"),
        "PUT" | "PATCH" => (3, "Update"),
        "DELETE" => (4, "Delete"),
        _ => (99, "Other"),
    }
}

fn metadata(row: &Object) -> Value {
    let mut metadata = json!({
        "version": OCSF_VERSION,
        "profiles": ["security_control"],
        "product": {
            "name": "Palisade",
            "vendor_name": "Palisade",
            "version": env!("CARGO_PKG_VERSION"),
        },
    });
    if let Some(fields) = metadata.as_object_mut() {
        put(fields, "uid", text(row, "id"));
        put(fields, "correlation_uid", text(row, "trace"));
        put(
            fields,
            "logged_time",
            text(row, "received").and_then(millis),
        );
        put(fields, "original_time", text(row, "reported_time"));
    }
    metadata
}

/// The caller: what it proved, and which policies said what about it.
fn actor(row: &Object, verdict: &str) -> Value {
    let principal = text(row, "principal");
    let policies = row.get("policy").and_then(Value::as_array);
    let authorizations: Vec<Value> = policies
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|id| json!({ "decision": verdict, "policy": { "uid": id, "name": id } }))
        .collect();
    let mut actor = Map::new();
    put(&mut actor, "app_uid", principal.or(Some("unauthenticated")));
    put(
        &mut actor,
        "app_name",
        principal.map(|id| last_segment(id).to_owned()),
    );
    if !authorizations.is_empty() {
        put(&mut actor, "authorizations", Some(authorizations));
    }
    Value::Object(actor)
}

fn api(row: &Object) -> Value {
    let mut api = Map::new();
    let action = text(row, "action").or(text(row, "method"));
    put(&mut api, "operation", action.or(Some("unknown")));
    if let Some(service) = text(row, "service") {
        let service = json!({ "uid": service, "name": last_segment(service) });
        put(&mut api, "service", Some(service));
    }
    Value::Object(api)
}

fn source(row: &Object) -> Value {
    let mut endpoint = Map::new();
    put(&mut endpoint, "ip", text(row, "source"));
    put(&mut endpoint, "port", number(row, "source_port"));
    let name = text(row, "principal").or(Some("unauthenticated"));
    put(&mut endpoint, "svc_name", name);
    Value::Object(endpoint)
}

fn destination(row: &Object) -> Option<Value> {
    let mut endpoint = Map::new();
    put(&mut endpoint, "svc_name", text(row, "service"));
    put(&mut endpoint, "hostname", text(row, "host"));
    (!endpoint.is_empty()).then_some(Value::Object(endpoint))
}

fn http_request(row: &Object) -> Value {
    let mut url = Map::new();
    put(&mut url, "path", text(row, "path"));
    put(&mut url, "hostname", text(row, "host"));
    let mut request = Map::new();
    put(&mut request, "http_method", text(row, "method"));
    if !url.is_empty() {
        put(&mut request, "url", Some(url));
    }
    Value::Object(request)
}

fn resource(row: &Object) -> Option<Value> {
    let mut resource = Map::new();
    put(&mut resource, "uid", text(row, "resource"));
    put(&mut resource, "type", text(row, "resource_type"));
    (!resource.is_empty()).then_some(Value::Object(resource))
}

/// The policy that decided, of the revision that was in force.
fn policy(row: &Object, enforced: bool) -> Option<Value> {
    let policies = row.get("policy").and_then(Value::as_array);
    let first = policies
        .and_then(|all| all.first())
        .and_then(Value::as_str)?;
    let mut policy = Map::new();
    put(&mut policy, "uid", Some(first));
    put(&mut policy, "name", Some(first));
    put(&mut policy, "version", text(row, "revision_digest"));
    put(&mut policy, "is_applied", Some(enforced));
    Some(Value::Object(policy))
}

fn put(fields: &mut Object, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

fn last_segment(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

fn millis(time: &str) -> Option<i64> {
    Some(time.parse::<Timestamp>().ok()?.as_millisecond())
}

fn text<'r>(row: &'r Object, name: &str) -> Option<&'r str> {
    row.get(name).and_then(Value::as_str)
}

fn number(row: &Object, name: &str) -> Option<u64> {
    row.get(name).and_then(Value::as_u64)
}
