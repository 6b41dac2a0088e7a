//! Rows of `audit search -o json` and `audit tail -o json` as decisions.

use std::{io::Read, ops::ControlFlow};

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::{decision::DecisionId, wire::record::Verdict};
use serde_json::{Deserializer, Value};

use crate::render::unhex;

/// Gives each decision among the rows to `visit`, with how many bytes were read. Rows
/// come one a document, or in the list `rows` of an answer.
///
/// # Errors
/// When it is no JSON, or neither rows nor answers.
pub(super) fn visit(
    reader: impl Read,
    mut visit: impl FnMut(&DecisionRef<'_>, u64) -> ControlFlow<()>,
) -> Result<(), String> {
    let mut documents = Deserializer::from_reader(reader).into_iter::<Value>();
    while let Some(document) = documents.next() {
        let document = document.map_err(|e| e.to_string())?;
        let at = u64::try_from(documents.byte_offset()).unwrap_or(u64::MAX);
        let rows = match document.get("rows") {
            Some(Value::Array(rows)) => rows.as_slice(),
            _ => std::slice::from_ref(&document),
        };
        for row in rows {
            let class = row.get("class").and_then(Value::as_str);
            match class.ok_or_else(|| format!("neither a row nor an answer ends at byte {at}"))? {
                "decision" => {
                    let owned = Owned::new(row);
                    if visit(&owned.borrowed(row), at).is_break() {
                        return Ok(());
                    }
                }
                _ => continue,
            }
        }
    }
    Ok(())
}

/// What a row has in another form than a record.
pub(super) struct Owned {
    id: Vec<u8>,
    serial: Vec<u8>,
    digest: Vec<u8>,
    context: String,
    time_us: i64,
}

impl Owned {
    pub(super) fn new(row: &Value) -> Self {
        let hex = |key| unhex(text(row, key)).unwrap_or_default();
        let id = DecisionId::parse(text(row, "id")).map(DecisionId::to_bytes);
        // A record whose clock was not credible is filed under another time than its own.
        let time = row.get("reported_time").or_else(|| row.get("time"));
        let time = time.and_then(Value::as_str).and_then(|t| t.parse().ok());
        Self {
            id: id.map(|id| id.to_vec()).unwrap_or_default(),
            serial: hex("serial"),
            digest: hex("revision_digest"),
            context: match row.get("context") {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            },
            time_us: time.map_or(0, jiff::Timestamp::as_microsecond),
        }
    }

    pub(super) fn borrowed<'r>(&'r self, row: &'r Value) -> DecisionRef<'r> {
        let number = |key| row.get(key).and_then(Value::as_u64).unwrap_or_default();
        let policies = row.get("policy").and_then(Value::as_array);
        DecisionRef {
            id: &self.id,
            time_us: self.time_us,
            verdict: verdict(text(row, "decision")),
            reason: text(row, "reason"),
            principal: text(row, "principal"),
            serial: &self.serial,
            action: text(row, "action"),
            resource_type: text(row, "resource_type"),
            resource_id: text(row, "resource"),
            service: text(row, "service"),
            method: text(row, "method"),
            host: text(row, "host"),
            path: text(row, "path"),
            policies: policies
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect(),
            policy_digest: &self.digest,
            policy_sequence: number("sequence"),
            enforced: row
                .get("enforced")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            source_ip: text(row, "source"),
            source_port: u32::try_from(number("source_port")).unwrap_or_default(),
            context_json: &self.context,
            api: text(row, "api"),
            covered: row
                .get("covered")
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(|fields| fields.keys().map(String::as_str))
                .collect(),
        }
    }
}

fn verdict(word: &str) -> Verdict {
    match word {
        "allow" => Verdict::Allow,
        "forbidden" => Verdict::Forbidden,
        "not_permitted" => Verdict::NotPermitted,
        "undecided" => Verdict::Undecided,
        "refused" => Verdict::Refused,
        _ => Verdict::Unspecified,
    }
}

fn text<'r>(row: &'r Value, key: &str) -> &'r str {
    row.get(key).and_then(Value::as_str).unwrap_or_default()
}
