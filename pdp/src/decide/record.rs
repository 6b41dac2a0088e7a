//! What a decision read of the context, as JSON: written with the decision,
//! read back to explain or replay it.
//!
//! The shape is the context's own: `{"http":{"path":"/x"},"tls":{"sni":null}}`.
//! `null` is an attribute that was looked for and absent; what is not there was
//! not recorded. Addresses and moments are text. `decided_us` is there when an
//! `@expires` in scope made the time of the decision an input of its own.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::{
    fact::{Fact, Facts, moment_text},
    field::{Field, Layout},
};

mod recorded;

pub(crate) use recorded::Recorded;

/// Longest text of a recorded context, in bytes (record schema, `context_json`).
pub(crate) const CONTEXT_JSON_LEN_MAX: usize = 4096;
/// When the limit does not hold, values longer than these are left out, in turn.
const VALUE_LEN_STEPS: [usize; 3] = [1024, 256, 64];
const DECIDED_US: &str = "decided_us";

/// Writes the values of `fields`, which are sorted; what does not fit is not recorded.
pub(crate) fn write(
    facts: &dyn Facts,
    fields: &[Field],
    layout: &Layout,
    decided_us: Option<i64>,
) -> SmolStr {
    for value_len_max in [usize::MAX].into_iter().chain(VALUE_LEN_STEPS) {
        let mut object = Object::new(decided_us);
        for field in fields {
            let fact = facts.fact(*field);
            if length(&fact) <= value_len_max {
                object.put(layout.path(*field), &fact);
            }
        }
        match object.finish() {
            Some(text) if text.len() <= CONTEXT_JSON_LEN_MAX => return text,
            _ => {}
        }
    }
    SmolStr::new_static("{}")
}

fn length(fact: &Fact<'_>) -> usize {
    match fact {
        Fact::Text(text) => text.len(),
        Fact::Texts(texts) => texts.iter().map(|t| t.len()).sum(),
        _ => 0,
    }
}

/// A JSON object in the making: decisions are recorded on the request path, so no
/// tree is built.
struct Object {
    text: Vec<u8>,
    /// Records that are open.
    open: &'static [&'static str],
}

impl Object {
    fn new(decided_us: Option<i64>) -> Self {
        let mut object = Self {
            text: Vec::with_capacity(128),
            open: &[],
        };
        object.text.push(b'{');
        if let Some(at) = decided_us {
            object.key(DECIDED_US);
            object.json(&at);
        }
        object
    }

    fn put(&mut self, (records, name): (&'static [&'static str], &str), fact: &Fact<'_>) {
        if matches!(fact, Fact::Unfit | Fact::Unknown) {
            return;
        }
        self.enter(records);
        self.key(name);
        match fact {
            Fact::Absent | Fact::Unfit | Fact::Unknown => self.text.extend(b"null"),
            Fact::Bool(b) => self.json(b),
            Fact::Ip(ip) => self.json(ip),
            Fact::Long(n) => self.json(n),
            Fact::Moment(second) => self.json(&moment_text(*second)),
            Fact::Text(text) => self.json(text),
            Fact::Texts(texts) => {
                let texts: BTreeSet<&str> = texts.iter().map(AsRef::as_ref).collect();
                self.json(&texts);
            }
        }
    }

    /// Closes and opens records until exactly `records` are open.
    fn enter(&mut self, records: &'static [&'static str]) {
        let shared = self.open.iter().zip(records).take_while(|(a, b)| a == b);
        let shared = shared.count();
        for _ in shared..self.open.len() {
            self.text.push(b'}');
        }
        for record in records.iter().skip(shared) {
            self.key(record);
            self.text.push(b'{');
        }
        self.open = records;
    }

    fn key(&mut self, name: &str) {
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
        self.json(name);
        self.text.push(b':');
    }

    fn json<T: serde::Serialize + ?Sized>(&mut self, value: &T) {
        // Writing text, numbers and lists of text to memory does not fail; if it
        // did, the rest would be no JSON and nothing would be recorded.
        if serde_json::to_writer(&mut self.text, value).is_err() {
            self.text.push(0xff);
        }
    }

    fn finish(mut self) -> Option<SmolStr> {
        self.enter(&[]);
        self.text.push(b'}');
        std::str::from_utf8(&self.text).ok().map(SmolStr::new)
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::catalogue::{DeclaredHeader, HeaderShape};

    use super::{super::field::Form, *};

    struct Long(usize);

    impl Facts for Long {
        fn fact(&self, field: Field) -> Fact<'_> {
            match field {
                Field::HttpPath => Fact::Text("p".repeat(self.0).into()),
                Field::HttpQuery => Fact::Absent,
                Field::Header(0) => Fact::Texts(vec!["b".into(), "a".into(), "b".into()]),
                Field::SourceIp => Fact::Ip("10.1.2.3".parse().unwrap()),
                Field::TimeNow => Fact::Moment(0),
                _ => Fact::Unfit,
            }
        }
    }

    fn layout() -> Layout {
        Layout::new(&[DeclaredHeader {
            name: "x-roles".into(),
            shape: HeaderShape::List,
        }])
    }

    #[test]
    fn what_is_written_is_read_back() {
        let fields = [
            Field::Header(0),
            Field::HttpPath,
            Field::HttpQuery,
            Field::SourceIp,
            Field::TimeNow,
            Field::TlsSni,
        ];
        let text = write(&Long(3), &fields, &layout(), Some(7));
        assert_eq!(
            text,
            r#"{"decided_us":7,"http":{"headers":{"x-roles":["a","b"]},"path":"ppp","query":null},"source":{"ip":"10.1.2.3"},"time":{"now":"1970-01-01T00:00:00Z"}}"#
        );
        let recorded = Recorded::parse(&text, Form::Http, &layout()).unwrap();
        assert_eq!(recorded.decided_us, Some(7));
        for field in [
            Field::HttpPath,
            Field::HttpQuery,
            Field::SourceIp,
            Field::TimeNow,
        ] {
            assert_eq!(recorded.fact(field), Long(3).fact(field), "{field:?}");
        }
        assert_eq!(recorded.fact(Field::TlsSni), Fact::Unknown);
        assert_eq!(recorded.fact(Field::GrpcMethod), Fact::Absent);
    }

    #[test]
    fn an_overlong_context_loses_its_longest_values() {
        let fields = [Field::HttpPath, Field::HttpQuery];
        let full = r#"{"http":{"path":"","query":null}}"#.len();
        let most = CONTEXT_JSON_LEN_MAX - full;
        assert_eq!(
            write(&Long(most), &fields, &layout(), None).len(),
            CONTEXT_JSON_LEN_MAX
        );
        assert_eq!(
            write(&Long(most + 1), &fields, &layout(), None),
            r#"{"http":{"query":null}}"#
        );
    }

    #[test]
    fn nonsense_was_not_recorded() {
        for text in ["", "[]", "3", "{", "null", "\"\"", "{} {}"] {
            assert!(
                Recorded::parse(text, Form::Http, &layout()).is_err(),
                "{text}"
            );
        }
        let odd = r#"{"http":{"path":1,"host":"a","host":{"deep":[{"er":2}]},"headers":{"x-roles":["a",1]}},
            "source":{"ip":"x","port":1e3},"tls":7,"user":"u","other":{"path":"/"}}"#;
        let recorded = Recorded::parse(odd, Form::Http, &layout()).unwrap();
        for field in [
            Field::Header(0),
            Field::HttpHost,
            Field::HttpPath,
            Field::SourcePort,
            Field::SourceIp,
            Field::TlsMtls,
            Field::User,
        ] {
            assert_eq!(recorded.fact(field), Fact::Unknown, "{field:?}");
        }
    }

    #[test]
    fn escapes_are_read_and_the_last_of_two_counts() {
        let text = r#"{"http":{"p\u0061th":"/a\n","path":"/\u00e9"},"decided_us":-3,"jwt":null}"#;
        let recorded = Recorded::parse(text, Form::Http, &layout()).unwrap();
        assert_eq!(recorded.fact(Field::HttpPath), Fact::from("/é"));
        assert_eq!(recorded.fact(Field::Jwt), Fact::Absent);
        assert_eq!(recorded.decided_us, Some(-3));
    }
}
