//! What a decision read of the context, as JSON: written with the decision,
//! read back to explain or replay it.
//!
//! The shape is the context's own: `{"http":{"path":"/x"},"tls":{"sni":null}}`.
//! `null` is an attribute that was looked for and absent; what is not there was
//! not recorded. Addresses and moments are text. `decided_us` is there when an
//! `@expires` in scope made the time of the decision an input of its own.

use std::borrow::Cow;

use palisade_mesh::catalogue::HeaderShape;
use rustc_hash::FxHashMap;
use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::{
    fact::{Fact, Facts, moment_text},
    field::{Field, Form, Layout},
};

/// Longest text of a recorded context, in bytes (record schema, `context_json`).
pub(crate) const CONTEXT_JSON_LEN_MAX: usize = 4096;
/// When the limit does not hold, values longer than these are left out, in turn.
const VALUE_LEN_STEPS: [usize; 3] = [1024, 256, 64];
const DECIDED_US: &str = "decided_us";

/// Writes the values of `fields`; what does not fit is not recorded.
pub(crate) fn write(
    facts: &dyn Facts,
    fields: &[Field],
    layout: &Layout,
    decided_us: Option<i64>,
) -> SmolStr {
    for value_len_max in [usize::MAX].into_iter().chain(VALUE_LEN_STEPS) {
        let text = object(facts, fields, layout, decided_us, value_len_max).to_string();
        if text.len() <= CONTEXT_JSON_LEN_MAX {
            return text.into();
        }
    }
    SmolStr::new_static("{}")
}

fn object(
    facts: &dyn Facts,
    fields: &[Field],
    layout: &Layout,
    decided_us: Option<i64>,
    value_len_max: usize,
) -> Value {
    let mut root = Map::new();
    if let Some(at) = decided_us {
        root.insert(DECIDED_US.to_owned(), at.into());
    }
    for field in fields {
        let Some(value) = value_of(&facts.fact(*field)) else {
            continue;
        };
        if length(&value) > value_len_max {
            continue;
        }
        let path = layout.path(*field);
        let Some((leaf, groups)) = path.split_last() else {
            continue;
        };
        let mut at = &mut root;
        for group in groups {
            let entry = at
                .entry(*group)
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(inner) = entry else {
                return Value::Object(root);
            };
            at = inner;
        }
        at.insert((*leaf).to_owned(), value);
    }
    Value::Object(root)
}

fn value_of(fact: &Fact<'_>) -> Option<Value> {
    Some(match fact {
        Fact::Absent => Value::Null,
        Fact::Bool(b) => (*b).into(),
        Fact::Ip(ip) => ip.to_string().into(),
        Fact::Long(n) => (*n).into(),
        Fact::Moment(second) => moment_text(*second)?.into(),
        Fact::Text(text) => text.as_ref().into(),
        Fact::Texts(texts) => {
            let mut texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
            texts.sort_unstable();
            texts.dedup();
            texts.into()
        }
        Fact::Unfit | Fact::Unknown => return None,
    })
}

fn length(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(length).sum(),
        Value::String(text) => text.len(),
        _ => 0,
    }
}

/// The facts of a recorded context.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    facts: FxHashMap<Field, Fact<'static>>,
    /// Protocol of the context.
    form: Option<Form>,
    /// When the decision was made, if that mattered.
    pub(crate) decided_us: Option<i64>,
}

impl Recorded {
    /// Reads what [`write`] wrote; what is not of the right type was not recorded.
    ///
    /// # Errors
    /// When the text is no JSON object.
    pub(crate) fn parse(text: &str, form: Form, layout: &Layout) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if !value.is_object() {
            return Err("not an object".to_owned());
        }
        let mut facts = FxHashMap::default();
        for field in layout.fields(form) {
            let path = layout.path(field);
            let found = path.iter().try_fold(&value, |at, name| at.get(name));
            if let Some(fact) = found.and_then(|v| fact_of(field, v, layout)) {
                facts.insert(field, fact);
            }
        }
        Ok(Self {
            facts,
            form: Some(form),
            decided_us: value.get(DECIDED_US).and_then(Value::as_i64),
        })
    }
}

impl Facts for Recorded {
    fn fact(&self, field: Field) -> Fact<'_> {
        match self.facts.get(&field) {
            Some(fact) => fact.clone(),
            // The other protocol's record is never part of a context.
            None if self.form.is_some_and(|form| !field.is_in(form)) => Fact::Absent,
            None => Fact::Unknown,
        }
    }
}

fn fact_of(field: Field, value: &Value, layout: &Layout) -> Option<Fact<'static>> {
    let text = |v: &Value| v.as_str().map(|s| Cow::Owned(s.to_owned()));
    if value.is_null() {
        return Some(Fact::Absent);
    }
    match field {
        Field::Jwt | Field::User => None,
        Field::SourceIp => value.as_str()?.parse().ok().map(Fact::Ip),
        Field::SourcePort | Field::TimeHour | Field::TimeWeekday => value.as_i64().map(Fact::Long),
        Field::TimeNow => {
            let at: jiff::Timestamp = value.as_str()?.parse().ok()?;
            moment_text(at.as_second()).map(|_| Fact::Moment(at.as_second()))
        }
        Field::TlsMtls => value.as_bool().map(Fact::Bool),
        Field::Header(i) if layout.header(i)?.shape == HeaderShape::List => {
            let texts: Option<Vec<_>> = value.as_array()?.iter().map(text).collect();
            texts.map(Fact::Texts)
        }
        _ => text(value).map(Fact::Text),
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::catalogue::DeclaredHeader;

    use super::*;

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
        for text in ["", "[]", "3", "{"] {
            assert!(
                Recorded::parse(text, Form::Http, &layout()).is_err(),
                "{text}"
            );
        }
        let odd = r#"{"http":{"path":1},"source":{"ip":"x"},"tls":7,"user":"u"}"#;
        let recorded = Recorded::parse(odd, Form::Http, &layout()).unwrap();
        for field in [
            Field::HttpPath,
            Field::SourceIp,
            Field::TlsMtls,
            Field::User,
        ] {
            assert_eq!(recorded.fact(field), Fact::Unknown, "{field:?}");
        }
    }
}
