//! Records as syslog messages (RFC 5424), framed for a stream (RFC 5425, section 4.3).
//!
//! Nothing that a caller chose reaches a receiver as it was: the header has words of ours
//! alone, values of structured data are made visible and quoted (section 6.3.3), and the
//! message is JSON in plain ASCII. So no value ends a field, a message or a frame.

use serde_json::{Value, json};

use super::{Object, ocsf_event};
use crate::report::visible;

/// Longest message, bytes: what receivers take where nothing else is said (RFC 5425,
/// section 4.3.1).
pub const MESSAGE_LEN_MAX: usize = 8192;

/// The facility where nothing is said: log audit.
pub const FACILITY: u8 = 13;

/// Highest facility (section 6.2.1).
pub const FACILITY_MAX: u8 = 23;

/// Fields in the structured data, as far as a record has them.
const STRUCTURED: [&str; 9] = [
    "entry",
    "id",
    "class",
    "decision",
    "principal",
    "service",
    "verb",
    "actor",
    "rule",
];

/// Longest value in the structured data, characters.
const VALUE_CHARS_MAX: usize = 256;

/// What is left out of a message that would be too long, one after the other.
const HEAVY: [&str; 9] = [
    "context", "heads", "shadows", "query", "detail", "added", "changed", "removed", "author",
];

/// What is left where even that is not enough.
const LEAST: [&str; 4] = ["time", "class", "entry", "id"];

/// What the text of a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Content {
    /// The record as `audit search -o json` has it.
    #[default]
    Json,
    /// An event of OCSF; decisions only.
    Ocsf,
}

/// How messages are made.
#[derive(Debug, Clone)]
pub struct Syslog {
    /// Facility, at most [`FACILITY_MAX`].
    pub facility: u8,
    /// What the text is.
    pub content: Content,
    /// Whether fields are repeated as structured data.
    pub structured: bool,
    /// The host that is named: the trust domain.
    pub host: String,
}

impl Syslog {
    /// The framed message of a record: its length, a blank, itself. None for a record that
    /// the content has no place for.
    pub fn frame(&self, row: &Object) -> Option<Vec<u8>> {
        let text = match self.content {
            Content::Json => ascii(&Value::Object(row.clone())),
            Content::Ocsf => ascii(&ocsf_event(row)?),
        };
        let head = self.head(row);
        let message = match head.len() + text.len() > MESSAGE_LEN_MAX {
            false => head + &text,
            true => head.clone() + &shortened(row, MESSAGE_LEN_MAX.saturating_sub(head.len())),
        };
        Some(format!("{} {message}", message.len()).into_bytes())
    }

    /// Everything before the text, a blank at its end.
    fn head(&self, row: &Object) -> String {
        let priority = u32::from(self.facility) * 8 + u32::from(severity(row));
        let time = text(row, "time")
            .filter(|time| is_word(time, 32))
            .unwrap_or("-");
        let host = Some(self.host.as_str())
            .filter(|host| is_word(host, 255))
            .unwrap_or("-");
        let class = text(row, "class")
            .filter(|class| is_word(class, 32))
            .unwrap_or("-");
        let data = match self.structured {
            true => structured(row),
            false => "-".to_owned(),
        };
        format!("<{priority}>1 {time} {host} palisade - {class} {data} ")
    }
}

/// How bad a record is, as syslog counts: 2 critical, 3 error, 4 warning, 5 notice, 6 info.
fn severity(row: &Object) -> u8 {
    match text(row, "class").unwrap_or_default() {
        "decision" | "rejudgement" => match text(row, "decision").unwrap_or_default() {
            "allow" => 6,
            "undecided" => 3,
            _ => 4,
        },
        "authn_failure" => 4,
        "alert" => match text(row, "severity").unwrap_or_default() {
            "critical" => 2,
            "high" => 3,
            "medium" => 4,
            _ => 5,
        },
        "log_lifecycle" | "spool_event" => match text(row, "verb").unwrap_or_default() {
            "gap" | "dropped" | "restored" | "recovered" => 4,
            _ => 5,
        },
        "admin" | "credential" | "policy_change" | "erasure" => 5,
        _ => 6,
    }
}

/// `[palisade@32473 NAME="VALUE" …]`: 32473 is the number for examples (RFC 5612), as there
/// is none of ours.
fn structured(row: &Object) -> String {
    let mut data = "[palisade@32473".to_owned();
    for name in STRUCTURED {
        let value = match row.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => continue,
        };
        let value: String = value.chars().take(VALUE_CHARS_MAX).collect();
        data.push_str(&format!(" {name}=\"{}\"", quoted(&value)));
    }
    data.push(']');
    data
}

/// A value with everything hidden made visible, and `"`, `\` and `]` escaped (section 6.3.3).
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 8);
    for c in visible(value).chars() {
        if matches!(c, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A record in JSON without what is heavy, and a word that says so.
fn shortened(row: &Object, most: usize) -> String {
    let mut row = row.clone();
    row.insert("truncated".to_owned(), Value::Bool(true));
    for name in HEAVY {
        row.remove(name);
        let text = ascii(&Value::Object(row.clone()));
        if text.len() <= most {
            return text;
        }
    }
    let mut least = json!({ "truncated": true });
    for name in LEAST {
        if let (Some(value), Some(least)) = (row.get(name), least.as_object_mut()) {
            least.insert(name.to_owned(), value.clone());
        }
    }
    ascii(&least)
}

/// JSON in which everything beyond printable ASCII is escaped.
fn ascii(value: &Value) -> String {
    let json = value.to_string();
    if json.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    // Outside of strings JSON is ASCII, so all of these are in one.
    for c in json.chars() {
        match (' '..='~').contains(&c) {
            true => out.push(c),
            false => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out
}

/// Whether a text can stand in the header: printable ASCII without a blank.
fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn text<'r>(row: &'r Object, name: &str) -> Option<&'r str> {
    row.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn syslog(content: Content) -> Syslog {
        Syslog {
            facility: FACILITY,
            content,
            structured: true,
            host: "acme.test".into(),
        }
    }

    fn row(path: &str) -> Object {
        let row = json!({
            "time": "2026-11-29T08:00:00.000001Z",
            "class": "decision",
            "decision": "forbidden",
            "entry": 7,
            "principal": path,
            "path": path,
            "method": "GET",
        });
        row.as_object().cloned().unwrap()
    }

    /// Takes a frame apart as a receiver does: length, header, structured data, text.
    fn parsed(frame: &[u8]) -> (String, Vec<(String, String)>, Value) {
        let frame = std::str::from_utf8(frame).unwrap();
        let (len, message) = frame.split_once(' ').unwrap();
        assert_eq!(len.parse::<usize>().unwrap(), message.len());
        assert!(!message.chars().any(char::is_control), "{message}");
        let mut head = Vec::new();
        let mut rest = message;
        for _ in 0..6 {
            let (word, after) = rest.split_once(' ').unwrap();
            head.push(word);
            rest = after;
        }
        let mut values = Vec::new();
        if let Some(after) = rest.strip_prefix("[palisade@32473") {
            rest = after;
            while let Some(after) = rest.strip_prefix(' ') {
                let (name, after) = after.split_once("=\"").unwrap();
                let (mut value, mut end) = (String::new(), 0);
                let mut chars = after.char_indices();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '\\' => value.push(chars.next().unwrap().1),
                        '"' => {
                            end = at;
                            break;
                        }
                        c => value.push(c),
                    }
                }
                values.push((name.to_owned(), value));
                rest = &after[end + 1..];
            }
            rest = rest.strip_prefix("] ").unwrap();
        } else {
            rest = rest.strip_prefix("- ").unwrap();
        }
        (head.join(" "), values, serde_json::from_str(rest).unwrap())
    }

    #[test]
    fn a_record_is_one_message_with_the_header_of_the_standard() {
        let frame = syslog(Content::Json).frame(&row("/orders")).unwrap();
        let (head, values, text) = parsed(&frame);
        assert_eq!(
            head,
            "<108>1 2026-11-29T08:00:00.000001Z acme.test palisade - decision"
        );
        assert!(values.contains(&("entry".into(), "7".into())));
        assert_eq!(text["path"], "/orders");
        let frame = syslog(Content::Ocsf).frame(&row("/orders")).unwrap();
        assert_eq!(parsed(&frame).2["class_uid"], 6003);
        let mut other = row("/");
        other.insert("class".into(), "admin".into());
        assert_eq!(syslog(Content::Ocsf).frame(&other), None);
        let plain = Syslog {
            structured: false,
            ..syslog(Content::Json)
        };
        assert!(parsed(&plain.frame(&row("/")).unwrap()).1.is_empty());
    }

    #[test]
    fn what_a_caller_chose_ends_no_value_and_hides_nothing() {
        let bad = "x\"] <13>1 \n\r\0\u{1b}[31m\u{202e}\\ ä\u{1f600}";
        let (_, values, text) = parsed(&syslog(Content::Json).frame(&row(bad)).unwrap());
        let value = &values
            .iter()
            .find(|(name, _)| name == "principal")
            .unwrap()
            .1;
        assert_eq!(value, &visible(bad));
        assert_eq!(text["path"], bad);
        let mut odd = row("/");
        odd.insert("class".into(), "two words".into());
        odd.insert("time".into(), "now\n".into());
        let (head, _, _) = parsed(&syslog(Content::Json).frame(&odd).unwrap());
        assert_eq!(head, "<110>1 - acme.test palisade - -");
    }

    #[test]
    fn a_long_record_is_shortened_and_says_so() {
        let long = |n: usize| {
            let mut row = row("/");
            row.insert("detail".into(), "x".repeat(n).into());
            row
        };
        let whole = syslog(Content::Json).frame(&long(0)).unwrap();
        let room = MESSAGE_LEN_MAX - parsed(&whole).0.len() - 400;
        let (_, _, text) = parsed(&syslog(Content::Json).frame(&long(room)).unwrap());
        assert_eq!(text["detail"].as_str().map(str::len), Some(room));
        for row in [long(MESSAGE_LEN_MAX), row(&"ä".repeat(MESSAGE_LEN_MAX))] {
            let frame = syslog(Content::Json).frame(&row).unwrap();
            let (_, _, text) = parsed(&frame);
            assert!(frame.len() <= MESSAGE_LEN_MAX + 5);
            assert_eq!(
                (&text["truncated"], &text["entry"]),
                (&json!(true), &json!(7))
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text in "\\PC*|[\\x00-\\x7f]*") {
            let frame = syslog(Content::Json).frame(&row(&text)).unwrap();
            let (_, _, json) = parsed(&frame);
            prop_assert_eq!(json["path"].as_str(), Some(text.as_str()));
        }
    }
}
