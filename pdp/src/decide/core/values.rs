//! Facts as values of Cedar, without going through text or expressions.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use cedar_policy_core::{
    ast::{Context, Name, PartialValue, Value},
    extensions::Extensions,
};
use smol_str::SmolStr;

use crate::decide::{
    fact::{Fact, Facts, moment_text},
    field::{Field, Form, Layout},
};

type Record = BTreeMap<SmolStr, Value>;

/// Values that stay the same for many requests: the last address and moment, whose
/// parsing is most of the cost of a context, and the record with nothing in it.
#[derive(Debug, Default)]
pub(crate) struct ValueCache {
    ip: Option<(IpAddr, Value)>,
    moment: Option<(i64, Value)>,
    empty: Option<Value>,
    /// Records of the connection that is asked about, where it has a place to keep them.
    pub(crate) fixed: Option<FixedRecords>,
}

/// Records of a context that are the same for every request of a connection: its address and
/// its TLS facts, as much of them as some slice reads. At most one for each selection of the
/// fields, 20 in all.
#[derive(Debug, Default)]
pub(crate) struct FixedRecords(Vec<(Group, u8, Value)>);

/// Such a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Source,
    Tls,
}

impl Group {
    /// The field's bit among those of the record, and its name there.
    fn place(self, field: Field) -> Option<(u8, &'static str)> {
        Some(match (self, field) {
            (Self::Source, Field::SourceIp) => (1, "ip"),
            (Self::Source, Field::SourcePort) => (2, "port"),
            (Self::Tls, Field::TlsAlpn) => (1, "alpn"),
            (Self::Tls, Field::TlsMtls) => (2, "mtls"),
            (Self::Tls, Field::TlsSni) => (4, "sni"),
            (Self::Tls, Field::TlsVersion) => (8, "version"),
            _ => return None,
        })
    }
}

/// A context with those of these fields that `form` has, and nothing else: both forms
/// have a `method`, and one must not stand in for the other. Its records are always there,
/// so presence of a record never depends on what was asked for. A fact that is
/// absent, unfit or unknown is left out.
pub(crate) fn context(
    facts: &dyn Facts,
    fields: &[Field],
    form: Form,
    layout: &Layout,
    cache: &mut ValueCache,
) -> Context {
    let mut time = Record::new();
    let mut protocol = Record::new();
    let mut headers = Record::new();
    for field in fields.iter().filter(|field| field.is_in(form)) {
        if field.is_of_connection() {
            continue;
        }
        let Some(value) = cache.value(facts.fact(*field)) else {
            continue;
        };
        let (record, name) = match field {
            Field::GrpcMethod => (&mut protocol, "method"),
            Field::GrpcService => (&mut protocol, "service"),
            Field::Header(i) => {
                if let Some(header) = layout.header(*i) {
                    headers.insert(header.text.clone(), value);
                }
                continue;
            }
            Field::HttpHost => (&mut protocol, "host"),
            Field::HttpMethod => (&mut protocol, "method"),
            Field::HttpPath => (&mut protocol, "path"),
            Field::HttpQuery => (&mut protocol, "query"),
            Field::TimeHour => (&mut time, "hour"),
            Field::TimeNow => (&mut time, "now"),
            Field::TimeWeekday => (&mut time, "weekday"),
            _ => continue,
        };
        record.insert(SmolStr::new_static(name), value);
    }
    let name = match form {
        Form::Grpc => "grpc",
        Form::Http => {
            protocol.insert(SmolStr::new_static("headers"), cache.record(headers));
            "http"
        }
    };
    let groups = [
        ("source", cache.fixed(facts, fields, Group::Source)),
        ("tls", cache.fixed(facts, fields, Group::Tls)),
        ("time", cache.record(time)),
        (name, cache.record(protocol)),
    ];
    let named = groups.map(|(name, record)| (SmolStr::new_static(name), record));
    Context::Value(Arc::new(named.into_iter().collect()))
}

impl ValueCache {
    fn value(&mut self, fact: Fact<'_>) -> Option<Value> {
        match fact {
            Fact::Absent | Fact::Unfit | Fact::Unknown => None,
            Fact::Bool(b) => Some(Value::from(b)),
            Fact::Ip(ip) => self.ip(ip),
            Fact::Long(n) => Some(Value::from(n)),
            Fact::Moment(second) => self.moment(second),
            Fact::Text(text) => Some(text_value(&text)),
            Fact::Texts(texts) => Some(Value::set(texts.iter().map(|t| text_value(t)), None)),
        }
    }

    /// A record of what is the same for every request of a connection.
    fn fixed(&mut self, facts: &dyn Facts, fields: &[Field], group: Group) -> Value {
        let of_group = fields.iter().filter_map(|f| Some((*f, group.place(*f)?)));
        let mask = of_group.clone().fold(0, |mask, (_, (bit, _))| mask | bit);
        let known = self.fixed.iter().flat_map(|kept| &kept.0);
        let mut known = known.filter(|(g, m, _)| (*g, *m) == (group, mask));
        if let Some((_, _, value)) = known.next() {
            return value.clone();
        }
        let mut record = Record::new();
        for (field, (_, name)) in of_group {
            if let Some(value) = self.value(facts.fact(field)) {
                record.insert(SmolStr::new_static(name), value);
            }
        }
        let value = self.record(record);
        if let Some(kept) = &mut self.fixed {
            kept.0.push((group, mask, value.clone()));
        }
        value
    }

    fn record(&mut self, record: Record) -> Value {
        let made = |record| Value::record_arc(Arc::new(record), None);
        if record.is_empty() {
            return self.empty.get_or_insert_with(|| made(record)).clone();
        }
        made(record)
    }

    fn ip(&mut self, ip: IpAddr) -> Option<Value> {
        if let Some((known, value)) = &self.ip
            && *known == ip
        {
            return Some(value.clone());
        }
        let value = call("ip", &ip.to_string())?;
        self.ip = Some((ip, value.clone()));
        Some(value)
    }

    fn moment(&mut self, second: i64) -> Option<Value> {
        if let Some((known, value)) = &self.moment
            && *known == second
        {
            return Some(value.clone());
        }
        let value = call("datetime", &moment_text(second)?)?;
        self.moment = Some((second, value.clone()));
        Some(value)
    }
}

fn text_value(text: &str) -> Value {
    Value::from(SmolStr::new(text))
}

fn call(constructor: &str, argument: &str) -> Option<Value> {
    let name = Name::parse_unqualified_name(constructor).ok()?;
    let function = Extensions::all_available().func(&name).ok()?;
    match function.call(&[text_value(argument)]).ok()? {
        PartialValue::Value(value) => Some(value),
        PartialValue::Residual(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::catalogue::{DeclaredHeader, HeaderShape};

    use super::*;

    /// Says its own name for every field, of whichever form.
    struct Names;

    impl Facts for Names {
        fn fact(&self, field: Field) -> Fact<'_> {
            Fact::Text(format!("{field:?}").into())
        }
    }

    #[test]
    fn a_context_holds_nothing_of_the_other_form() {
        let layout = Layout::new(&[DeclaredHeader {
            name: "x-tenant".into(),
            shape: HeaderShape::Single,
        }]);
        let all: Vec<Field> = [Form::Grpc, Form::Http]
            .iter()
            .flat_map(|form| layout.fields(*form))
            .collect();
        let made = |fields: &[Field], form| {
            context(&Names, fields, form, &layout, &mut ValueCache::default()).to_string()
        };
        for (form, method) in [
            (Form::Grpc, r#"method: "GrpcMethod""#),
            (Form::Http, r#"method: "HttpMethod""#),
        ] {
            assert_eq!(made(&all, form), made(&layout.fields(form), form));
            assert!(made(&all, form).contains(method), "{}", made(&all, form));
        }
    }
}
