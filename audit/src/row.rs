//! A record as people and scripts see it: flat, with the names of the query
//! language, the same for every class.

use palisade_mesh::wire::record::{Alert, Decision, Head, Heads, Shadow, SpoolEvent, record::Body};
use prost::Message as _;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    item::Item,
    merkle::hex,
    privacy::Handling,
    query::{
        ENDED, FIELDS, Field, OUTCOME_ENTRY,
        field::{Value, flip_word, is_list, verdict_word, versions},
        time::rfc3339,
    },
};

/// Digits of a digest that people see.
const DIGEST_SHORT: usize = 8;

/// One record, flat. As JSON it is an object whose keys are `time` (event time,
/// RFC 3339, UTC), `received`, the names of the fields that have a value, and
/// what is shown but cannot be searched: `revision_digest`, `context`, `detail`
/// and the like. `latency` is in microseconds, `decision_ns` in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Index of the record in the log.
    pub entry: u64,
    /// Time it is filed under, microseconds since the Unix epoch.
    pub time_us: i64,
    values: Vec<(&'static str, RowValue)>,
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RowValue {
    /// True or false.
    Flag(bool),
    /// A number, in the unit of its field.
    Number(u64),
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// A JSON value that was recorded as one.
    Json(serde_json::Value),
}

impl Row {
    /// The row of an item.
    pub fn new(item: &Item) -> Self {
        let mut row = Self {
            entry: item.at,
            time_us: item.time_us,
            values: Vec::with_capacity(32),
        };
        for field in FIELDS {
            field.values(item, &mut |value| row.add(field, value));
        }
        row.add_versions(item);
        row.add_covers(item);
        row.add_details(item);
        row
    }

    /// The value called `name`.
    pub fn value(&self, name: &str) -> Option<&RowValue> {
        self.values
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The text called `name`, when it is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.value(name)? {
            RowValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number called `name`, when it is one.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            RowValue::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Several texts called `name`; a single one counts.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.value(name) {
            Some(RowValue::Texts(texts)) => texts.iter().map(String::as_str).collect(),
            Some(RowValue::Text(text)) => vec![text],
            _ => Vec::new(),
        }
    }

    /// Every value, in the order of the reference page.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &RowValue)> {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    /// The time it is filed under, RFC 3339 with microseconds.
    pub fn time(&self) -> String {
        rfc3339(self.time_us)
    }

    /// The same in microseconds since the Unix epoch.
    pub(crate) fn time_us(&self) -> i64 {
        self.time_us
    }

    /// The row as it was before its outcome, where that stands at or behind `entry` of the
    /// log.
    pub(crate) fn ended_before(mut self, entry: u64) -> Self {
        if self
            .number(OUTCOME_ENTRY)
            .is_none_or(|outcome| outcome < entry)
        {
            return self;
        }
        let of_ending = |name: &str| Field::find(name).is_some_and(Field::of_endings);
        self.values.retain_mut(|(name, value)| {
            let ended = *name == ENDED;
            if ended {
                *value = RowValue::Flag(false);
            }
            ended || !of_ending(name)
        });
        self
    }

    /// One line without colours: time, what happened, who to whom, how it went,
    /// id.
    pub fn compact(&self) -> String {
        let mut line = self.time();
        let word = self.text("decision").or_else(|| self.text("class"));
        for text in [word, self.text("method"), self.text("verb")]
            .into_iter()
            .flatten()
        {
            line = format!("{line} {text}");
        }
        let who = ["principal", "actor", "claimed", "spiffe_id"];
        let what = ["service", "object", "listener"];
        if let Some(who) = who.iter().find_map(|name| self.text(name)) {
            line = format!("{line} {who}");
        }
        if let Some(what) = what.iter().find_map(|name| self.text(name)) {
            line = format!("{line} -> {what}");
        }
        for name in ["path", "reason"] {
            if let Some(text) = self.text(name) {
                line = format!("{line} {text}");
            }
        }
        if let Some(status) = self.number("status") {
            line = format!("{line} {status}");
        }
        if let Some(us) = self.number("latency") {
            line = format!("{line} {}.{:03}ms", us / 1000, us % 1000);
        }
        match self.text("id") {
            Some(id) => format!("{line} {id}"),
            None => line,
        }
    }

    fn add(&mut self, field: &Field, value: Value<'_>) {
        let name = field.name;
        let text = match value {
            Value::Number(number) => return self.put(name, RowValue::Number(number)),
            // A caller may call itself, or a host, `true`; that is a text.
            Value::Text(word) if field.is_flag() => {
                return self.put(name, RowValue::Flag(word == "true"));
            }
            Value::Text(text) if name == "revision" => text.chars().take(DIGEST_SHORT).collect(),
            Value::Text(text) => text.to_owned(),
            Value::Ip(ip) => ip.to_string(),
            Value::Id(id) => ulid::Ulid::from(id).to_string(),
            Value::Trace(trace) => hex(&trace),
        };
        if is_list(name) {
            self.put_more(name, text);
        } else {
            self.put(name, RowValue::Text(text));
        }
    }

    /// Fields that can have several values are always lists.
    fn put_more(&mut self, name: &'static str, text: String) {
        match self.values.last_mut() {
            Some((last, RowValue::Texts(texts))) if *last == name => texts.push(text),
            _ => self.put(name, RowValue::Texts(vec![text])),
        }
    }

    fn put(&mut self, name: &'static str, value: RowValue) {
        self.values.push((name, value));
    }

    fn put_text(&mut self, name: &'static str, text: &str) {
        if !text.is_empty() {
            self.put(name, RowValue::Text(text.to_owned()));
        }
    }

    fn add_versions(&mut self, item: &Item) {
        if let Some(versions) = versions(item) {
            self.put_text("revision_digest", &hex(&versions.policy_digest));
            self.put("discovery", RowValue::Number(versions.discovery));
            self.put("kill_list", RowValue::Number(versions.kill_list));
        }
        if item.time_us != item.record.time_us {
            self.put_text("reported_time", &rfc3339(item.record.time_us));
        }
        self.put_text("received", &rfc3339(item.received_us));
    }

    /// What was taken out of the record, and what became of it.
    fn add_covers(&mut self, item: &Item) {
        let mut covers: Vec<_> = item.record.covers.iter().collect();
        // Of a list whose end was masked, what became of the others is told.
        covers.sort_by_key(|cover| cover.handling() != Handling::Masked);
        let covered = covers.into_iter().map(|cover| {
            let handling = match cover.handling() {
                Handling::Unspecified => "unknown",
                Handling::Masked => "masked",
                Handling::Pseudonym => "pseudonym",
                Handling::Sealed => "sealed",
            };
            (cover.field.clone(), serde_json::Value::from(handling))
        });
        let covered: serde_json::Map<_, _> = covered.collect();
        if !covered.is_empty() {
            self.put("covered", RowValue::Json(covered.into()));
        }
    }

    fn add_details(&mut self, item: &Item) {
        match &item.record.body {
            Some(Body::Decision(decision)) => self.add_decision(decision),
            Some(Body::AuthnFailure(failure)) => {
                self.put("source_port", RowValue::Number(failure.source_port.into()));
                self.put_text("detail", &failure.detail);
            }
            Some(Body::Admin(admin)) => self.put_text("detail", &admin.detail),
            Some(Body::Credential(credential)) => {
                self.add_validity(credential.not_before_s, credential.not_after_s);
                self.put_text("detail", &credential.detail);
            }
            Some(Body::PolicyChange(change)) => {
                if let Some(before) = &change.before {
                    self.put("sequence_before", RowValue::Number(before.policy_sequence));
                }
                for (name, ids) in [
                    ("added", &change.added),
                    ("removed", &change.removed),
                    ("changed", &change.changed),
                ] {
                    self.put(name, RowValue::Texts(ids.clone()));
                }
                self.put_text("detail", &change.detail);
            }
            Some(Body::AuditRead(read)) => {
                self.put_text("query", &read.query);
                self.put_text("kept_to", &read.kept_to);
                self.put_text("request", &read.request);
                self.put_text("because", &read.reason);
                self.put_text("exported_to", &read.to);
                if read.more > 0 {
                    self.put("more", RowValue::Number(read.more));
                }
                if read.begun {
                    self.put("begun", RowValue::Flag(true));
                }
            }
            Some(Body::LogLifecycle(lifecycle)) => self.put_text("detail", &lifecycle.detail),
            Some(Body::StreamHead(head)) => {
                self.put("last_sequence", RowValue::Number(head.last_sequence));
            }
            Some(Body::Erasure(erasure)) => self.put_text("detail", &erasure.detail),
            Some(Body::SpoolEvent(event)) => self.add_spool_event(event),
            Some(Body::Call(call)) => {
                if call.status != 0 {
                    self.put("answered", RowValue::Number(call.status.into()));
                }
                self.put_text("sent_to", &call.upstream);
                self.put_text("unanswered", &call.error);
                self.put_text("decision_id", &ulid_text(&call.decision_id));
            }
            Some(Body::StreamHeads(signed)) => {
                self.put_text("certificate", &hex(&signed.certificate));
                if let Ok(heads) = Heads::decode(signed.heads.as_slice()) {
                    let heads = heads.streams.iter().map(head).collect();
                    self.put("heads", RowValue::Json(serde_json::Value::Array(heads)));
                }
            }
            Some(Body::Alert(alert)) => self.add_alert(alert),
            Some(Body::Outcome(_) | Body::Rejudgement(_)) | None => {}
        }
    }

    fn add_decision(&mut self, decision: &Decision) {
        if let Some(peer) = &decision.principal {
            self.add_validity(0, peer.not_after_s);
        }
        if decision.source_port != 0 {
            self.put("source_port", RowValue::Number(decision.source_port.into()));
        }
        self.put_text("span", &hex(&decision.span_id));
        self.put_text("request_id", &ulid_text(&decision.request_id));
        if !decision.shadows.is_empty() {
            let shadows = decision.shadows.iter().map(shadow).collect();
            self.put("shadows", RowValue::Json(serde_json::Value::Array(shadows)));
        }
        if decision.context_json.is_empty() {
            return;
        }
        // What does not read as JSON is shown as it was recorded.
        let context = serde_json::from_str(&decision.context_json)
            .unwrap_or_else(|_| serde_json::Value::String(decision.context_json.clone()));
        self.put("context", RowValue::Json(context));
    }

    fn add_alert(&mut self, alert: &Alert) {
        self.put_text("group", &alert.group);
        if alert.threshold > 0 {
            self.put("count", RowValue::Number(alert.count));
            self.put("threshold", RowValue::Number(alert.threshold));
            self.put_text("from", &rfc3339(alert.from_us));
            self.put_text("until", &rfc3339(alert.until_us));
        }
        self.put_text("query", &alert.query);
        self.put_text("detail", &alert.detail);
    }

    fn add_spool_event(&mut self, event: &SpoolEvent) {
        self.put_text("detail", &event.detail);
        for (name, count) in [
            ("dropped_strict", event.strict),
            ("dropped_spool", event.spool),
            ("dropped_best_effort", event.best_effort),
        ] {
            if count > 0 {
                self.put(name, RowValue::Number(count));
            }
        }
        for (name, time_us) in [("lost_from", event.from_us), ("lost_until", event.until_us)] {
            if time_us != 0 {
                self.put_text(name, &rfc3339(time_us));
            }
        }
    }

    fn add_validity(&mut self, from_s: i64, to_s: i64) {
        for (name, seconds) in [("not_before", from_s), ("not_after", to_s)] {
            if seconds != 0 {
                self.put_text(name, &rfc3339(seconds.saturating_mul(1_000_000)));
            }
        }
    }
}

/// How far one stream was.
fn head(head: &Head) -> serde_json::Value {
    serde_json::json!({
        "worker": head.worker,
        "first": head.first_sequence,
        "last": head.last_sequence,
        "digest": hex(&head.digest),
    })
}

/// An id as people write it; empty for what is none.
fn ulid_text(bytes: &[u8]) -> String {
    let id = <[u8; 16]>::try_from(bytes);
    id.map_or_else(
        |_| String::new(),
        |id| ulid::Ulid::from_bytes(id).to_string(),
    )
}

/// One thing that was tried, whole: the fields of a row have all of them, apart.
fn shadow(shadow: &Shadow) -> serde_json::Value {
    serde_json::json!({
        "decision": verdict_word(shadow.verdict()),
        "reason": shadow.reason,
        "policies": shadow.policies,
        "flip": flip_word(shadow.flip()),
        "revision_digest": hex(&shadow.policy_digest),
        "sequence": shadow.policy_sequence,
    })
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.values.len() + 1))?;
        map.serialize_entry("time", &self.time())?;
        for (name, value) in self.values() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
