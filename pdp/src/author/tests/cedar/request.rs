//! A request in Cedar's words, turned back into one that a proxy puts to the engine.
//!
//! Action, resource and context of the mesh follow from one HTTP request. So does what is
//! tested: what contradicts itself, or is routed elsewhere, is told and not guessed.

use std::sync::Arc;

use cedar_policy::{Context, EntityUid, Request, Schema};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use palisade_mesh::{
    canonical::{CanonicalRequest, Method},
    catalogue::{Catalogue, Service},
    decision::{Connection, TlsFacts},
    diagnostic::{Diagnostic, did_you_mean},
    spiffe_id::SpiffeId,
    svid::Peer,
    yaml::Span,
};
use serde_json::Value as Json;
use smol_str::SmolStr;

use crate::{
    author::{
        codes,
        question::{OwnedQuestion, canonical, headers},
        store::uid,
        yaml::Reader,
    },
    compiled::Compiled,
    decide::{
        asked::Names,
        fact::{hour_of, weekday_of},
        world::{OPERATION, SERVICE, UNREGISTERED, WORKLOAD},
    },
};

/// A request as a test writes it.
pub(super) struct Asking<'t> {
    pub(super) principal: EntityUid,
    pub(super) action: EntityUid,
    pub(super) resource: EntityUid,
    pub(super) context: &'t Json,
    pub(super) places: [(Part, Span); 4],
}

/// What of a request is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Action,
    Context,
    Principal,
    Resource,
}

/// Why no proxy puts it.
pub(super) type Wrong = Vec<(Part, Diagnostic)>;

impl Asking<'_> {
    /// Tells each thing where it stands.
    pub(super) fn report(&self, wrong: Wrong, reader: &mut Reader<'_>) {
        for (part, diagnostic) in wrong {
            let place = self.places.iter().find(|(own, _)| *own == part);
            reader.report(
                diagnostic,
                place.map_or_else(Span::default, |(_, span)| *span),
            );
        }
    }

    fn text(&self, path: [&str; 2]) -> Option<&str> {
        text(self.context.get(path[0])?.get(path[1])?)
    }

    fn number<T: TryFrom<i64>>(&self, path: [&str; 2]) -> Option<T> {
        let number = self.context.get(path[0])?.get(path[1])?.as_i64()?;
        number.try_into().ok()
    }
}

/// The question that a proxy would put.
pub(super) fn question(asking: &Asking<'_>, compiled: &Compiled) -> Result<OwnedQuestion, Wrong> {
    fits(asking, &compiled.schema).map_err(|one| vec![one])?;
    let catalogue = &*compiled.catalogue;
    let mut wrong = Vec::new();
    let mut keep = |one: (Part, Diagnostic)| wrong.push(one);
    let id = caller(&asking.principal, catalogue).map_err(&mut keep).ok();
    let now_us = moment(asking).map_err(&mut keep).ok();
    let connection = connection(asking).map_err(&mut keep).ok();
    let service = service(&asking.resource, catalogue).map_err(&mut keep).ok();
    let headers = headers(catalogue, &given_headers(asking))
        .map_err(|diagnostic| keep((Part::Context, diagnostic)))
        .ok();
    let request = service
        .as_ref()
        .and_then(|service| request(asking, service, catalogue).map_err(&mut keep).ok());
    let (Some(id), Some(now_us), Some((source, tls)), Some(service), Some(headers), Some(request)) =
        (id, now_us, connection, service, headers, request)
    else {
        return Err(wrong);
    };
    let now_s = now_us.div_euclid(1_000_000);
    let question = OwnedQuestion {
        connection: Connection {
            peer: Peer {
                id,
                serial: Arc::from([0_u8; 0]),
                not_before_s: now_s,
                not_after_s: now_s.saturating_add(3600),
            },
            source,
            tls,
        },
        operation: service.operations.find(&request).cloned(),
        request,
        headers,
        service,
        now_us,
    };
    let wrong = misnamed(asking, &question);
    if wrong.is_empty() {
        Ok(question)
    } else {
        Err(wrong)
    }
}

/// What the schema says of it.
fn fits(asking: &Asking<'_>, schema: &Schema) -> Result<(), (Part, Diagnostic)> {
    if !schema.actions().any(|action| *action == asking.action) {
        let name = asking.action.id().unescaped();
        let mut diagnostic = wrong(format!("action `{name}` is not in the schema"))
            .help("a method, `grpc:call`, or an action of services/");
        let known = schema.actions().map(|action| action.id().unescaped());
        if let Some(near) = did_you_mean(name, known) {
            diagnostic = diagnostic.label(format!("did you mean `Action::\"{near}\"`?"));
        }
        return Err((Part::Action, diagnostic));
    }
    let context = Context::from_json_value(asking.context.clone(), Some((schema, &asking.action)));
    let context = context.map_err(|error| {
        let diagnostic = wrong("the context does not fit the schema".to_owned())
            .cause(error.to_string())
            .help("`palisade policy schema` prints what every context has");
        (Part::Context, diagnostic)
    })?;
    let (principal, action) = (asking.principal.clone(), asking.action.clone());
    let request = Request::new(
        principal,
        action,
        asking.resource.clone(),
        context,
        Some(schema),
    );
    request.map(drop).map_err(|error| {
        let is_principal = error.to_string().starts_with("principal");
        let part = if is_principal {
            Part::Principal
        } else {
            Part::Resource
        };
        let diagnostic = wrong("the request does not fit the schema".to_owned())
            .cause(error.to_string())
            .help(
                "who asks is a Workload or Unregistered; what is asked an Operation or a Service",
            );
        (part, diagnostic)
    })
}

fn wrong(message: String) -> Diagnostic {
    Diagnostic::error(codes::TEST_CEDAR, message)
}

/// The caller's identity: of a workload where a service claims it, and only there.
fn caller(principal: &EntityUid, catalogue: &Catalogue) -> Result<SpiffeId, (Part, Diagnostic)> {
    let text = principal.id().unescaped();
    let id = SpiffeId::parse(text).map_err(|error| {
        let diagnostic = wrong(format!("`{text}` is nobody"))
            .cause(error.to_string())
            .help("the id of a caller is a SPIFFE ID, such as `spiffe://acme.test/ns/shop/sa/web`");
        (Part::Principal, diagnostic)
    })?;
    let kind = match catalogue.by_identity(&id) {
        Some(_) => WORKLOAD,
        None => UNREGISTERED,
    };
    if *principal == uid(kind, text) {
        return Ok(id);
    }
    let diagnostic = wrong(format!("`{text}` asks as `{kind}::\"{text}\"`"))
        .cause(match kind {
            WORKLOAD => "a service claims the identity",
            _ => "no service claims the identity",
        })
        .help("correct the type, or the identities in services/");
    Err((Part::Principal, diagnostic))
}

/// The service that a resource is, or is of.
fn service(
    resource: &EntityUid,
    catalogue: &Catalogue,
) -> Result<Arc<Service>, (Part, Diagnostic)> {
    let id = resource.id().unescaped();
    let found = catalogue.services().iter().find(|service| {
        *resource == uid(SERVICE, service.id.as_str())
            || service
                .operations
                .iter()
                .any(|operation| *resource == uid(OPERATION, &operation.id))
    });
    found.cloned().ok_or_else(|| {
        let ids = catalogue.services().iter().flat_map(|service| {
            let operations = service.operations.iter().map(|o| o.id.as_str());
            operations.chain([service.id.as_str()])
        });
        let mut diagnostic = wrong(format!("nothing can be asked of `{resource}`"))
            .cause("no service of the repository is called that, and none of its operations")
            .help("the id carries the trust domain: Operation::\"acme.test/shop/orders/list\"");
        if let Some(near) = did_you_mean(id, ids) {
            diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
        }
        (Part::Resource, diagnostic)
    })
}

/// The time, with what a proxy derives from it.
fn moment(asking: &Asking<'_>) -> Result<i64, (Part, Diagnostic)> {
    let text = asking.text(["time", "now"]).unwrap_or_default();
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp());
    let parsed = text.parse::<Timestamp>().ok();
    let parsed = parsed.or_else(|| text.parse::<Date>().ok().and_then(midnight));
    let context = |diagnostic| (Part::Context, diagnostic);
    let Some(now_us) = parsed.map(Timestamp::as_microsecond) else {
        return Err(context(
            wrong(format!("`time.now` cannot be `{text}`"))
                .help("write for example `2026-11-20T12:00:00Z`"),
        ));
    };
    let derived = [("hour", hour_of(now_us)), ("weekday", weekday_of(now_us))];
    for (name, own) in derived {
        let given: Option<i64> = asking.number(["time", name]);
        if let Some(given) = given.filter(|given| *given != own) {
            return Err(context(
                wrong(format!(
                    "`time.{name}` is {given}, and `time.now` says {own}"
                ))
                .cause("a proxy derives it from the time, in UTC; Monday is 1")
                .help("correct one of the two"),
            ));
        }
    }
    Ok(now_us)
}

/// The connection that the context tells of.
fn connection(asking: &Asking<'_>) -> Result<(std::net::SocketAddr, TlsFacts), (Part, Diagnostic)> {
    let context = |diagnostic| (Part::Context, diagnostic);
    for name in ["user", "jwt"] {
        if asking.context.get(name).is_some() {
            return Err(context(
                wrong(format!("no request has a `context.{name}` yet"))
                    .cause("no listener verifies tokens")
                    .help("leave it out"),
            ));
        }
    }
    let ip = asking.text(["source", "ip"]).unwrap_or_default();
    let (Ok(ip), Some(port)) = (ip.parse(), asking.number::<u16>(["source", "port"])) else {
        return Err(context(
            wrong(format!("`source` is no address: `{ip}`"))
                .help("write one IP address and a port up to 65535"),
        ));
    };
    let version = asking.text(["tls", "version"]).unwrap_or_default();
    let Some(version) = ["1.2", "1.3"].into_iter().find(|known| *known == version) else {
        return Err(context(
            wrong(format!("no proxy speaks TLS `{version}`")).help("write `1.3`"),
        ));
    };
    let mtls = asking.context.get("tls").and_then(|tls| tls.get("mtls"));
    let tls = TlsFacts {
        version,
        mtls: mtls.and_then(Json::as_bool).unwrap_or_default(),
        sni: asking.text(["tls", "sni"]).map(SmolStr::new),
        alpn: asking.text(["tls", "alpn"]).map(SmolStr::new),
    };
    Ok((std::net::SocketAddr::new(ip, port), tls))
}

fn given_headers(asking: &Asking<'_>) -> Vec<(String, String)> {
    let headers = asking
        .context
        .get("http")
        .and_then(|http| http.get("headers"));
    let headers = headers.and_then(Json::as_object).into_iter().flatten();
    headers
        .flat_map(|(name, value)| {
            let values = match value {
                Json::Array(values) => values.as_slice(),
                one => std::slice::from_ref(one),
            };
            let texts = values.iter().filter_map(Json::as_str);
            texts.map(move |text| (name.clone(), text.to_owned()))
        })
        .collect()
}

/// The request to `service` that the context tells of.
fn request(
    asking: &Asking<'_>,
    service: &Service,
    catalogue: &Catalogue,
) -> Result<CanonicalRequest, (Part, Diagnostic)> {
    let context = |diagnostic| (Part::Context, diagnostic);
    if let (Some(name), Some(method)) = (
        asking.text(["grpc", "service"]),
        asking.text(["grpc", "method"]),
    ) {
        let host = service
            .hosts
            .first()
            .map_or(service.name.as_str(), SmolStr::as_str);
        let path = format!("/{name}/{method}");
        return canonical(Method::Post, host, &path, None).map_err(context);
    }
    let [method, host, path] = ["method", "host", "path"].map(|name| asking.text(["http", name]));
    let (Some(method), Some(host), Some(path)) = (method, host, path) else {
        let diagnostic = wrong(format!("no request is asked as `{}`", asking.action))
            .cause("a proxy asks with a method, `grpc:call`, or an action of services/")
            .help(
                "test actions of your own with `palisade can`, or by the operation that has them",
            );
        return Err((Part::Action, diagnostic));
    };
    let Some(method) = Method::parse(method) else {
        return Err(context(
            wrong(format!("`http.method` cannot be `{method}`")).help(format!(
                "one of: {}",
                Method::ALL.map(Method::as_str).join(", ")
            )),
        ));
    };
    let request = canonical(method, host, path, asking.text(["http", "query"])).map_err(context)?;
    if request.host != host || request.path != path {
        return Err(context(
            wrong(format!(
                "a proxy asks about `{}` on `{}`",
                request.path, request.host
            ))
            .cause(format!("`{path}` on `{host}` is not in its only spelling"))
            .help("write host and path as the proxy does"),
        ));
    }
    let routed = catalogue.by_host(host);
    if routed.is_none_or(|routed| routed.id != service.id) {
        return Err(context(
            wrong(format!(
                "`http.host` `{host}` is not `{}`",
                service.id.short()
            ))
            .cause(match routed {
                Some(other) => format!("it is a host of `{}`", other.id.short()),
                None => "no service is reached by it".to_owned(),
            })
            .help("write a host of the service that the resource is of"),
        ));
    }
    Ok(request)
}

/// Action and resource are others than the request has.
fn misnamed(asking: &Asking<'_>, question: &OwnedQuestion) -> Wrong {
    let asked = question.as_question();
    let names = Names::of(&asked);
    let (action, resource) = (
        uid("Action", names.action),
        uid(names.resource_type, names.resource_id),
    );
    let other = |part, own: &EntityUid, given: &EntityUid| {
        (own != given).then(|| {
            let diagnostic = wrong(format!("a proxy puts this request as `{own}`"))
                .cause(format!("{} is not `{given}`", question.understood()))
                .help("correct it, or the method, host and path in the context");
            (part, diagnostic)
        })
    };
    let action = other(Part::Action, &action, &asking.action);
    let resource = other(Part::Resource, &resource, &asking.resource);
    action.into_iter().chain(resource).collect()
}

/// A text, or what an extension value is made from.
fn text(value: &Json) -> Option<&str> {
    let made = value.get("__extn").unwrap_or(value);
    made.as_str().or_else(|| made.get("arg")?.as_str())
}
