//! Verb and target of a question, made into a canonical request.

use std::sync::Arc;

use palisade_mesh::{
    canonical::{CanonicalRequest, Method, RawRequest, canonical_host},
    catalogue::{Catalogue, Service, ServiceId},
    diagnostic::{Diagnostic, did_you_mean},
    operation::Operation,
};
use smol_str::SmolStr;

use super::{Ask, not_one, suggest_service};
use crate::author::codes;

/// What is asked of which service.
struct Target {
    service: Arc<Service>,
    host: SmolStr,
    /// Paths it can mean, best first; empty when only the service is named.
    paths: Vec<String>,
    query: Option<String>,
}

pub(super) type Asked = (Arc<Service>, CanonicalRequest);

/// What is asked, and of which service.
pub(super) fn request(catalogue: &Catalogue, ask: &Ask) -> Result<Asked, Diagnostic> {
    let verb = verb(&ask.verb, catalogue)?;
    if let Verb::Action(action) = verb
        && ask.target.is_empty()
        && ask.on.is_none()
    {
        return sample(action, catalogue.services().iter());
    }
    let target = match &ask.on {
        Some(on) => on_service(catalogue, on, &ask.target)?,
        None => target(catalogue, &ask.target)?,
    };
    match verb {
        Verb::Action(action) if target.paths.is_empty() => {
            sample(action, std::iter::once(&target.service))
        }
        Verb::Action(action) => by_action(action, &target),
        Verb::Method(method) => by_method(method, &target),
    }
}

/// The service that is meant, where as much can be understood.
pub(super) fn service(catalogue: &Catalogue, ask: &Ask) -> Option<Arc<Service>> {
    let target = match &ask.on {
        Some(on) => on_service(catalogue, on, &ask.target),
        None => target(catalogue, &ask.target),
    };
    target.ok().map(|target| target.service)
}

enum Verb<'a> {
    Action(&'a str),
    Method(Method),
}

fn verb<'a>(text: &'a str, catalogue: &Catalogue) -> Result<Verb<'a>, Diagnostic> {
    if text == "grpc:call" {
        return Ok(Verb::Method(Method::Post));
    }
    let upper = text.to_ascii_uppercase();
    if let Some(method) = Method::parse(&upper) {
        return Ok(Verb::Method(method));
    }
    let actions: Vec<&str> = operations(catalogue.services().iter())
        .filter_map(|(_, o)| o.action.as_deref())
        .collect();
    if actions.contains(&text) {
        return Ok(Verb::Action(text));
    }
    let methods = Method::ALL.map(Method::as_str);
    let diagnostic = Diagnostic::error(
        codes::TEST_ACTION,
        format!("`{text}` is neither a method nor an action"),
    )
    .help(format!(
        "a method ({}), `grpc:call`, or an action of services/",
        methods.join(", ")
    ));
    let near = did_you_mean(&upper, methods).or_else(|| did_you_mean(text, actions));
    Err(match near {
        Some(near) => diagnostic.label(format!("did you mean `{near}`?")),
        None => diagnostic,
    })
}

fn operations<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> impl Iterator<Item = (&'a Arc<Service>, &'a Operation)> {
    services.flat_map(|s| s.operations.iter().map(move |o| (s, o)))
}

/// A request for the one operation that has this action.
fn sample<'a>(
    action: &str,
    services: impl Iterator<Item = &'a Arc<Service>>,
) -> Result<Asked, Diagnostic> {
    let having: Vec<_> = operations(services)
        .filter(|(_, o)| o.action.as_deref() == Some(action))
        .collect();
    let [(service, operation)] = having.as_slice() else {
        let names: Vec<_> = having.iter().map(|(_, o)| o.id.as_str()).collect();
        let cause = if names.is_empty() {
            "no operation of this service has it".to_owned()
        } else {
            format!("several operations have it: {}", names.join(", "))
        };
        return Err(Diagnostic::error(
            codes::TEST_ACTION,
            format!("`{action}` does not say which operation is meant"),
        )
        .cause(cause)
        .help("add a target, such as `orders/42/refund`"));
    };
    let path = operation.template.as_str().replace(['{', '}', '*'], "");
    let host = operation.hosts.first().or(service.hosts.first());
    let method = operation.methods.first().copied().unwrap_or(Method::Get);
    let host = host.map_or(service.name.as_str(), SmolStr::as_str);
    Ok(((*service).clone(), canonical(method, host, &path, None)?))
}

fn by_action(action: &str, target: &Target) -> Result<Asked, Diagnostic> {
    for path in &target.paths {
        for method in Method::ALL {
            let request = canonical(method, &target.host, path, target.query.as_deref())?;
            let operation = target.service.operations.find(&request);
            if operation.is_some_and(|o| o.action.as_deref() == Some(action)) {
                return Ok((target.service.clone(), request));
            }
        }
    }
    Err(
        Diagnostic::error(codes::TEST_ACTION, format!("this target is not `{action}`"))
            .cause(format!(
                "no operation of `{}` with that action matches the path",
                target.service.id.short()
            ))
            .help("ask with the method instead, or correct the path"),
    )
}

fn by_method(method: Method, target: &Target) -> Result<Asked, Diagnostic> {
    let query = target.query.as_deref();
    let mut first = None;
    for path in &target.paths {
        let request = canonical(method, &target.host, path, query)?;
        if target.service.operations.find(&request).is_some() {
            return Ok((target.service.clone(), request));
        }
        first = first.or(Some(request));
    }
    match first {
        Some(request) => Ok((target.service.clone(), request)),
        None => Ok((
            target.service.clone(),
            canonical(method, &target.host, "/", query)?,
        )),
    }
}

/// The request that a proxy makes of method, host and path.
pub(crate) fn canonical(
    method: Method,
    host: &str,
    path: &str,
    query: Option<&str>,
) -> Result<CanonicalRequest, Diagnostic> {
    let raw = RawRequest {
        method: method.as_str(),
        authority: None,
        host: Some(host),
        path,
        query,
    };
    CanonicalRequest::new(raw).map_err(|refusal| {
        Diagnostic::error(
            codes::TEST_REQUEST,
            format!("`{} {path}` is never decided", method.as_str()),
        )
        .cause(format!(
            "the proxy answers it with {}: {refusal}",
            refusal.status()
        ))
        .help("ask about a path that has one reading only")
    })
}

fn on_service(catalogue: &Catalogue, on: &str, path: &str) -> Result<Target, Diagnostic> {
    let service = catalogue
        .by_host(on)
        .or_else(|| catalogue.by_name(on))
        .ok_or_else(|| no_service(catalogue, on))?;
    let (path, query) = split_query(path);
    Ok(Target {
        host: host_of(catalogue, service, on),
        service: service.clone(),
        paths: match path {
            "" => Vec::new(),
            path if path.starts_with('/') => vec![path.to_owned()],
            path => vec![format!("/{path}")],
        },
        query,
    })
}

fn target(catalogue: &Catalogue, text: &str) -> Result<Target, Diagnostic> {
    if let Some((_, rest)) = text.split_once("://") {
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let host = canonical_host(authority).map_err(|refusal| {
            Diagnostic::error(codes::TEST_REQUEST, format!("`{text}` has no usable host"))
                .cause(refusal.to_string())
                .help("write for example `http://orders/orders/42`")
        })?;
        let service = catalogue
            .by_host(&host)
            .ok_or_else(|| no_service(catalogue, &host))?;
        let (path, query) = split_query(path);
        let path = if path.is_empty() { "/" } else { path };
        return Ok(Target {
            service: service.clone(),
            host,
            paths: vec![path.to_owned()],
            query,
        });
    }
    let (whole, query) = split_query(text);
    let segments: Vec<&str> = whole.split('/').collect();
    let (first, rest) = whole.split_once('/').unwrap_or((whole, ""));
    if first.is_empty() {
        return Err(Diagnostic::error(
            codes::TEST_TARGET,
            format!("`{text}` does not say which service is meant"),
        )
        .help("put the service before the path, as in `orders/42/refund`"));
    }
    let by_short = match segments.as_slice() {
        [namespace, name, ..] => {
            let id = ServiceId::new(catalogue.trust_domain(), namespace, name);
            let rest = whole.get(namespace.len() + 1 + name.len()..);
            catalogue
                .by_id(&id)
                .zip(rest.map(|rest| rest.trim_start_matches('/')))
        }
        _ => None,
    };
    let by_first = catalogue
        .by_host(first)
        .or_else(|| catalogue.by_name(first))
        .map(|service| (service, rest));
    let (service, rest) = by_short
        .or(by_first)
        .ok_or_else(|| no_service(catalogue, first))?;
    let bare = rest.is_empty() && !whole.ends_with('/');
    Ok(Target {
        host: host_of(catalogue, service, first),
        service: service.clone(),
        paths: if bare {
            // Only the service; for a method its own name may be the path.
            vec!["/".to_owned(), format!("/{}", service.name)]
                .into_iter()
                .filter(|p| p.len() > 1 || service_has_root(service))
                .collect()
        } else {
            vec![format!("/{rest}"), format!("/{}/{rest}", service.name)]
        },
        query,
    })
}

fn service_has_root(service: &Service) -> bool {
    service
        .operations
        .iter()
        .any(|o| o.template.as_str() == "/")
}

fn split_query(text: &str) -> (&str, Option<String>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (text, None),
    }
}

fn host_of(catalogue: &Catalogue, service: &Service, written: &str) -> SmolStr {
    let written_is_host = catalogue
        .by_host(written)
        .is_some_and(|s| s.id == service.id);
    match service.hosts.first() {
        Some(host) if !written_is_host => host.clone(),
        _ => SmolStr::new(written),
    }
}

fn no_service(catalogue: &Catalogue, name: &str) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        codes::TEST_TARGET,
        format!("no service is called or reached as `{name}`"),
    )
    .cause(not_one(catalogue, name))
    .help("a name or host of services/, as in `orders/42/refund`");
    suggest_service(diagnostic, catalogue, name)
}
