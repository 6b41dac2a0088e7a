//! The words of AuthZEN, and what they mean in a catalogue of services.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use palisade_mesh::{
    canonical::Method,
    catalogue::{Catalogue, Service},
    decision::TlsFacts,
    operation::Operation,
    spiffe_id::SpiffeId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Fault,
    names::{Names, Part},
};
use crate::apis::codes::MALFORMED;
use crate::{
    apis::{
        inquiry::{self, Inquiry, Misread, Stated, Words},
        native::version_of,
    },
    decide::Known,
};

/// The only type of subject: principals are workloads.
pub(super) const WORKLOAD: &str = "workload";
pub(super) const OPERATION: &str = "operation";
pub(super) const SERVICE: &str = "service";
pub(super) const URL: &str = "url";
/// Every property that can change an answer.
pub(super) const READ: &[(Part, &str)] = &[
    (Part::Action, "method"),
    (Part::Context, "http"),
    (Part::Context, "source"),
    (Part::Context, "time"),
    (Part::Context, "tls"),
    (Part::Resource, "path"),
    (Part::Subject, "ip_address"),
];

/// Section 5.1 of the specification; in a search without its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Subject {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) properties: Map<String, Value>,
}

/// Section 5.2; in a search without its id.
pub(super) type Resource = Subject;

/// Section 5.3.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Action {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) properties: Map<String, Value>,
}

/// An access evaluation request, or defaults for several.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Evaluation {
    pub(super) subject: Option<Subject>,
    pub(super) action: Option<Action>,
    pub(super) resource: Option<Resource>,
    pub(super) context: Option<Map<String, Value>>,
}

impl Evaluation {
    /// What is not said here is as `defaults` say.
    pub(super) fn over(self, defaults: &Self) -> Self {
        Self {
            subject: self.subject.or_else(|| defaults.subject.clone()),
            action: self.action.or_else(|| defaults.action.clone()),
            resource: self.resource.or_else(|| defaults.resource.clone()),
            context: self.context.or_else(|| defaults.context.clone()),
        }
    }

    /// The four parts, of which three must be there.
    pub(super) fn whole(self) -> Result<Whole, Fault> {
        let missing = |what: &str| Fault::bad(format!("PLS{MALFORMED}: `{what}` is missing"));
        let subject = self.subject.ok_or_else(|| missing("subject"))?;
        let resource = self.resource.ok_or_else(|| missing("resource"))?;
        if subject.id.is_none() {
            return Err(missing("subject.id"));
        }
        if resource.id.is_none() {
            return Err(missing("resource.id"));
        }
        Ok(Whole {
            subject,
            action: self.action.ok_or_else(|| missing("action"))?,
            resource,
            context: Arc::new(self.context.unwrap_or_default()),
        })
    }
}

/// A question with everything that it must have.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) subject: Subject,
    pub(super) action: Action,
    pub(super) resource: Resource,
    /// Shared by the candidates of a search.
    pub(super) context: Arc<Map<String, Value>>,
}

/// Whom a subject means.
pub(super) fn principal(catalogue: &Catalogue, subject: &Subject) -> Result<SpiffeId, Misread> {
    is_workload(subject)?;
    inquiry::subject(catalogue, subject.id.as_deref().unwrap_or_default())
}

/// Refuses a subject of another kind.
pub(super) fn is_workload(subject: &Subject) -> Result<(), Misread> {
    if subject.kind == WORKLOAD {
        return Ok(());
    }
    Err(Misread::words(format!(
        "subjects of type `{}` are not decided about: a principal is a `{WORKLOAD}`, with a \
         SPIFFE ID or a service's name as its id",
        subject.kind
    )))
}

/// What a question in the words of a caller means.
pub(super) fn understand(
    names: &Names,
    catalogue: &Catalogue,
    whole: &Whole,
    now_us: i64,
) -> Result<Inquiry, Misread> {
    if names.is_empty() {
        return of_ours(catalogue, whole, now_us);
    }
    let subject = names.subject(&whole.subject)?;
    let subject = principal(catalogue, &subject)?;
    let own = names.whole(whole).map_err(|m| m.about(&subject))?;
    of_ours(catalogue, &own, now_us)
}

/// What a question in our words means.
pub(super) fn of_ours(
    catalogue: &Catalogue,
    whole: &Whole,
    now_us: i64,
) -> Result<Inquiry, Misread> {
    let subject = principal(catalogue, &whole.subject)?;
    let read = || -> Result<Inquiry, Misread> {
        let stated = stated(&whole.subject, &whole.context, now_us)?;
        let asked = Asked::of(catalogue, whole)?;
        let words = Words {
            verb: asked.verb,
            target: &asked.target,
            on: asked.on,
            headers: headers(&whole.context)?,
        };
        let mut inquiry = inquiry::words(catalogue, subject.clone(), words, stated)?;
        if let Some((operation, made_up)) = asked.operation {
            let found = inquiry.question.operation.as_ref().map(|o| &o.id);
            if found != Some(&operation.id) {
                let (id, verb) = (&operation.id, asked.verb);
                let wrong = format!("this is not `{id}`: it has another path, or no `{verb}`");
                return Err(Misread::words(wrong));
            }
            if made_up && operation.template.as_str().contains('{') {
                inquiry.known = inquiry.known.without(Known::PATH);
            }
            if made_up {
                inquiry.known = inquiry.known.without(Known::QUERY);
            }
        }
        Ok(inquiry)
    };
    read().map_err(|misread| misread.about(&subject))
}

/// Action and resource in the words of `palisade can`.
struct Asked<'a> {
    verb: &'a str,
    target: String,
    on: Option<&'a str>,
    /// The operation that is meant, and whether its path was made up.
    operation: Option<(&'a Operation, bool)>,
}

impl<'a> Asked<'a> {
    fn of(catalogue: &'a Catalogue, whole: &'a Whole) -> Result<Self, Misread> {
        let (action, resource) = (&whole.action, &whole.resource);
        allow_only("action", &action.properties, &["method"])?;
        let id = resource.id.as_deref().unwrap_or_default();
        let path = text(&resource.properties, "path")?;
        let method = text(&action.properties, "method")?;
        agree(&action.name, method)?;
        match resource.kind.as_str() {
            OPERATION => {
                allow_only("resource", &resource.properties, &["path"])?;
                let (service, operation) = operation(catalogue, id)?;
                let named = operation.action.as_deref() == Some(action.name.as_str());
                Ok(Self {
                    verb: method.filter(|_| named).unwrap_or(&action.name),
                    target: path.map_or_else(|| sample(operation), str::to_owned),
                    on: Some(service.id.as_str()),
                    operation: Some((operation, path.is_none())),
                })
            }
            SERVICE => {
                allow_only("resource", &resource.properties, &["path"])?;
                Ok(Self {
                    verb: method.unwrap_or(&action.name),
                    target: path.unwrap_or_default().to_owned(),
                    on: Some(id),
                    operation: None,
                })
            }
            URL => {
                allow_only("resource", &resource.properties, &[])?;
                if !id.contains("://") {
                    let wrong = format!("`{id}` is no URL, such as `http://orders/orders/42`");
                    return Err(Misread::words(wrong));
                }
                Ok(Self {
                    verb: &action.name,
                    target: id.to_owned(),
                    on: None,
                    operation: None,
                })
            }
            other => Err(Misread::words(format!(
                "resources of type `{other}` are not decided about: `{OPERATION}`, `{SERVICE}` or \
                 `{URL}`"
            ))),
        }
    }
}

/// Refuses two methods: which of them is meant would have to be guessed.
fn agree(action: &str, method: Option<&str>) -> Result<(), Misread> {
    let is_method = Method::parse(&action.to_ascii_uppercase()).is_some();
    match method {
        Some(method) if is_method && !method.eq_ignore_ascii_case(action) => {
            Err(Misread::words(format!(
                "the action is `{action}`, and its `method` is `{}`",
                method.escape_debug()
            )))
        }
        _ => Ok(()),
    }
}

/// A path of an operation whose parameters are anything.
pub(super) fn sample(operation: &Operation) -> String {
    operation.template.as_str().replace(['{', '}', '*'], "")
}

/// The operation with this id, with the trust domain or without.
pub(super) fn operation<'c>(
    catalogue: &'c Catalogue,
    id: &str,
) -> Result<(&'c Service, &'c Operation), Misread> {
    let all = catalogue.services().iter();
    let mut all = all.flat_map(|s| s.operations.iter().map(move |o| (s.as_ref(), o)));
    let short = |o: &Operation| o.id.split_once('/').is_some_and(|(_, rest)| rest == id);
    all.find(|(_, o)| o.id == id || short(o)).ok_or_else(|| {
        Misread::words(format!(
            "there is no operation `{id}`; an id is `NAMESPACE/SERVICE/NAME`"
        ))
    })
}

/// What subject and context say of the connection.
pub(super) fn stated(
    subject: &Subject,
    context: &Map<String, Value>,
    now_us: i64,
) -> Result<Stated, Misread> {
    allow_only("subject", &subject.properties, &["ip_address"])?;
    allow_only("context", context, &["http", "source", "time", "tls"])?;
    let mut stated = Stated {
        now_us,
        ..Stated::default()
    };
    if let Some(time) = text(context, "time")? {
        let at: jiff::Timestamp = time
            .parse()
            .map_err(|e| Misread::words(format!("`context.time`: {e}")))?;
        stated.now_us = at.as_microsecond();
    }
    let mut ip = text(&subject.properties, "ip_address")?;
    let mut port = None;
    if let Some(source) = object(context, "source")? {
        allow_only("context.source", source, &["ip", "port"])?;
        ip = text(source, "ip")?.or(ip);
        port = number(source, "port")?;
    }
    if let Some(ip) = ip {
        let ip: IpAddr = ip
            .parse()
            .map_err(|_| Misread::words(format!("`{ip}` is no address")))?;
        stated.source = Some(SocketAddr::new(ip, port.unwrap_or_default()));
        stated.port = port.is_some();
    } else if port.is_some() {
        return Err(Misread::words("`context.source` has a port and no `ip`"));
    }
    if let Some(tls) = object(context, "tls")? {
        allow_only("context.tls", tls, &["alpn", "mtls", "sni", "version"])?;
        // That there is none of a text is said by `null`; a truth value is one of two.
        let said = |key: &str| tls.contains_key(key);
        let mtls = boolean(tls, "mtls")?;
        let version = version_of(text(tls, "version")?.unwrap_or_default())?;
        stated.tls_known = Known::TIME_ONLY
            .and_if(said("alpn"), Known::TLS_ALPN)
            .and_if(mtls.is_some(), Known::TLS_MTLS)
            .and_if(said("sni"), Known::TLS_SNI)
            .and_if(!version.is_empty(), Known::TLS_VERSION);
        stated.tls = Some(TlsFacts {
            version,
            mtls: mtls.unwrap_or_default(),
            sni: text(tls, "sni")?.map(Into::into),
            alpn: text(tls, "alpn")?.map(Into::into),
        });
    }
    Ok(stated)
}

/// The header fields, if the context says which there are.
fn headers(context: &Map<String, Value>) -> Result<Option<Vec<(String, String)>>, Misread> {
    let Some(http) = object(context, "http")? else {
        return Ok(None);
    };
    allow_only("context.http", http, &["headers"])?;
    let Some(headers) = object(http, "headers")? else {
        return Ok(None);
    };
    let mut fields = Vec::new();
    for (name, value) in headers {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = value.as_str().ok_or_else(|| {
                Misread::words(format!(
                    "header `{name}` is neither text nor a list of texts"
                ))
            })?;
            fields.push((name.clone(), value.to_owned()));
        }
    }
    Ok(Some(fields))
}

/// Refuses what no policy could read: that it changes nothing must not go unnoticed.
fn allow_only(what: &str, given: &Map<String, Value>, known: &[&str]) -> Result<(), Misread> {
    let Some(unknown) = given.keys().find(|key| !known.contains(&key.as_str())) else {
        return Ok(());
    };
    let there_are = match known {
        [] => "nothing can be said there".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    };
    Err(Misread::words(format!(
        "no policy can read `{unknown}` of `{what}`; {there_are}"
    )))
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Misread> {
    typed(map, key, "a text", Value::as_str)
}

fn boolean(map: &Map<String, Value>, key: &str) -> Result<Option<bool>, Misread> {
    typed(map, key, "true or false", Value::as_bool)
}

fn number(map: &Map<String, Value>, key: &str) -> Result<Option<u16>, Misread> {
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    typed(map, key, "a number up to 65535", port)
}

fn object<'a>(
    map: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Misread> {
    typed(map, key, "an object", Value::as_object)
}

/// The value of `key`; `null` and nothing are the same.
fn typed<'a, T>(
    map: &'a Map<String, Value>,
    key: &str,
    what: &str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, Misread> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(Misread::words(format!("`{key}` is not {what}"))),
        },
    }
}
