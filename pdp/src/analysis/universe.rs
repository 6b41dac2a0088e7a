//! Everybody who can ask, and everything that can be asked, in one revision or the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use palisade_mesh::{
    canonical::{CanonicalRequest, Method},
    catalogue::{Catalogue, Protocol, Service, ServiceId, Unmatched},
    operation::Operation,
    spiffe_id::{SpiffeId, TrustDomain},
};
use smol_str::{SmolStr, format_smolstr};

use crate::decide::{
    Snapshot, Target,
    asked::Names,
    world::{Ent, Requested},
};

/// What stands for a parameter of a path.
const PARAMETER: &str = "42";
/// The name of what matches no operation, where a service forwards it.
const ANY_OTHER: &str = "any other path";

/// Callers and requests of two revisions together.
#[derive(Debug)]
pub(crate) struct Universe {
    pub(crate) callers: Vec<Caller>,
    pub(crate) asks: Vec<Ask>,
    /// How many of the callers are identities of services.
    pub(crate) identities: usize,
    /// How many operations the asks are of.
    pub(crate) operations: usize,
}

/// Somebody who can ask.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) id: SpiffeId,
    /// What people call him.
    pub(crate) name: String,
}

/// One method of one operation, with an ordinary request that is one.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) service: ServiceId,
    /// Name of the operation within its service.
    pub(crate) operation: SmolStr,
    pub(crate) request: CanonicalRequest,
}

/// An ask in terms of one snapshot.
pub(crate) struct Resolved {
    pub(crate) service: Arc<Service>,
    pub(crate) operation: Option<Operation>,
    /// Cedar action id.
    pub(crate) action: SmolStr,
    method: Method,
}

impl Universe {
    pub(crate) fn new(base: &Snapshot, head: &Snapshot) -> Self {
        let mut callers: BTreeMap<String, Caller> = BTreeMap::new();
        for catalogue in [base.catalogue(), head.catalogue()] {
            callers.extend(identities(catalogue));
        }
        let identities = callers.len();
        let domain = head.catalogue().trust_domain();
        callers.extend(strangers(domain, &[base, head]));
        let mut asks: Vec<Ask> = asks(head.catalogue());
        let known: Vec<Ask> = asks_of_old(base, head);
        asks.extend(known);
        let operations: BTreeSet<(&ServiceId, &str)> = asks
            .iter()
            .map(|a| (&a.service, a.operation.as_str()))
            .collect();
        Self {
            operations: operations.len(),
            identities,
            callers: callers.into_values().collect(),
            asks,
        }
    }
}

/// Every identity of a service, by SPIFFE ID.
fn identities(catalogue: &Catalogue) -> BTreeMap<String, Caller> {
    let services = catalogue.services().iter();
    let all = services.flat_map(|s| s.identities.iter().map(move |id| (s, id)));
    all.map(|(service, id)| {
        let only = service.identities.len() == 1;
        let name = match only {
            true => service.id.short().to_owned(),
            false => format!("{} ({id})", service.id.short()),
        };
        let id = id.clone();
        (id.to_string(), Caller { id, name })
    })
    .collect()
}

/// One caller for each kind of workload that no service claims: those that some policy
/// names, any other of our trust domain, and any of another.
fn strangers(domain: &TrustDomain, snapshots: &[&Snapshot; 2]) -> BTreeMap<String, Caller> {
    let mut found = BTreeMap::new();
    let mut add = |id: SpiffeId, name: String| {
        let unclaimed = snapshots
            .iter()
            .all(|s| s.catalogue().by_identity(&id).is_none());
        if unclaimed {
            found.insert(format!("~{id}"), Caller { id, name });
        }
    };
    let mut domains: BTreeSet<SmolStr> = BTreeSet::new();
    for snapshot in snapshots {
        let named: Vec<SpiffeId> = snapshot
            .world()
            .named_strangers()
            .filter_map(|id| SpiffeId::parse(id).ok())
            .collect();
        for id in named {
            let name = id.to_string();
            add(id, name);
        }
        domains.extend(snapshot.world().domains().map(SmolStr::new));
    }
    domains.remove(domain.as_str());
    if let Some(id) = anyone(domain.as_str(), snapshots) {
        add(id, format!("any unregistered workload of {domain}"));
    }
    for other in &domains {
        if let Some(id) = anyone(other, snapshots) {
            add(id, format!("any workload of {other}"));
        }
    }
    if let Some(id) = anyone(&unused(&domains), snapshots) {
        add(id, "any workload of another trust domain".to_owned());
    }
    found
}

/// A workload of a trust domain that no service claims and nothing names: it stands for
/// all others, and must not be one that policies tell apart from them.
fn anyone(domain: &str, snapshots: &[&Snapshot; 2]) -> Option<SpiffeId> {
    let is_known = |id: &SpiffeId| {
        snapshots.iter().any(|s| {
            let mut named = s.world().named_strangers();
            s.catalogue().by_identity(id).is_some() || named.any(|one| one == id.as_str())
        })
    };
    let names = (0_u64..).map(|n| match n {
        0 => "stranger".to_owned(),
        n => format!("stranger-{n}"),
    });
    let mut ids = names
        .map_while(|name| SpiffeId::parse(&format!("spiffe://{domain}/ns/any/sa/{name}")).ok());
    ids.find(|id| !is_known(id))
}

/// A trust domain that nothing speaks of.
fn unused(domains: &BTreeSet<SmolStr>) -> SmolStr {
    let mut name = SmolStr::new_static("foreign.example");
    while domains.contains(&name) {
        name = format_smolstr!("a.{name}");
    }
    name
}

/// Every method of every operation, and of what a service forwards without one.
fn asks(catalogue: &Catalogue) -> Vec<Ask> {
    let services = catalogue.services().iter();
    services.flat_map(|s| asks_of(s)).collect()
}

fn asks_of(service: &Service) -> Vec<Ask> {
    let mut asks = Vec::new();
    for operation in service.operations.iter() {
        let hosts = match operation.hosts.is_empty() {
            true => &service.hosts,
            false => &operation.hosts,
        };
        let path = sample(operation.template.as_str());
        for method in &operation.methods {
            let request = request(*method, hosts.first(), path.clone());
            asks.push(Ask::new(service, &operation.name, request));
        }
    }
    if service.unmatched == Unmatched::Forward {
        let methods: &[Method] = match service.protocol {
            Protocol::Grpc => &[Method::Post],
            Protocol::Http => &Method::ALL,
        };
        for method in methods {
            let mut path = match service.protocol {
                Protocol::Grpc => "/any.Service/Method",
                Protocol::Http => "/any/other",
            }
            .to_owned();
            let mut request = request(*method, service.hosts.first(), path.clone().into());
            while service.operations.find(&request).is_some() && path.len() < 64 {
                path.push('x');
                request.path = path.clone().into();
            }
            asks.push(Ask::new(service, ANY_OTHER, request));
        }
    }
    asks
}

/// What could be asked before and is no operation any more, or another one.
fn asks_of_old(base: &Snapshot, head: &Snapshot) -> Vec<Ask> {
    let gone = |ask: &Ask| match head.catalogue().by_id(&ask.service) {
        None => true,
        Some(service) => match service.operations.find(&ask.request) {
            None => ask.operation != ANY_OTHER,
            Some(now) => now.name != ask.operation,
        },
    };
    asks(base.catalogue()).into_iter().filter(gone).collect()
}

fn request(method: Method, host: Option<&SmolStr>, path: SmolStr) -> CanonicalRequest {
    CanonicalRequest {
        method,
        host: host.cloned().unwrap_or_default(),
        path,
        query: None,
        rewritten: false,
    }
}

/// A path of a template: `/orders/{id}` as `/orders/42`.
fn sample(template: &str) -> SmolStr {
    let part = |segment: &str| match segment.starts_with('{') {
        true => PARAMETER.to_owned(),
        false => segment.to_owned(),
    };
    let parts: Vec<String> = template.split('/').map(part).collect();
    parts.join("/").into()
}

impl Ask {
    fn new(service: &Service, operation: &str, request: CanonicalRequest) -> Self {
        Self {
            service: service.id.clone(),
            operation: operation.into(),
            request,
        }
    }

    /// What it is in a snapshot; `None` where nobody can ask it, whatever policies say.
    pub(crate) fn resolve(&self, snapshot: &Snapshot) -> Option<Resolved> {
        let service = snapshot.catalogue().by_id(&self.service)?.clone();
        let operation = service.operations.find(&self.request).cloned();
        if operation.is_none() && service.unmatched == Unmatched::NotFound {
            return None;
        }
        let names = Names::new(&service, operation.as_ref(), self.request.method);
        Some(Resolved {
            action: names.action.into(),
            method: self.request.method,
            service,
            operation,
        })
    }
}

impl Resolved {
    /// The action and the resource of a question, whoever asks it.
    pub(crate) fn entities(&self, snapshot: &Snapshot) -> Option<(Ent, Ent)> {
        let world = snapshot.world();
        let names = Names::new(&self.service, self.operation.as_ref(), self.method);
        let table = match self.operation {
            Some(_) => Requested::Operation,
            None => Requested::Service,
        };
        Some((
            world.requested(Requested::Action, names.action)?,
            world.requested(table, names.resource_id)?,
        ))
    }

    /// Every request of its kind.
    pub(crate) fn target(&self, snapshot: &Snapshot) -> Target {
        snapshot.target_of(&self.service, self.operation.as_ref(), self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::testing;

    #[test]
    fn a_template_has_an_ordinary_path() {
        for (template, path) in [
            ("/", "/"),
            ("/orders/{id}/refund", "/orders/42/refund"),
            ("/files/{*path}", "/files/42"),
        ] {
            assert_eq!(sample(template), path);
        }
    }

    #[test]
    fn everybody_and_everything_is_in_it_once() {
        let policies = "@id(\"p\") permit (principal == Unregistered::\"spiffe://evil.test/x\", action, resource);";
        let (base, head) = (testing::snapshot(""), testing::snapshot(policies));
        let universe = Universe::new(&base, &head);
        let names: Vec<&str> = universe.callers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "jobs/batch",
                "shop/inventory",
                "shop/orders",
                "shop/web",
                "any unregistered workload of acme.test",
                "any workload of evil.test",
                "spiffe://evil.test/x",
                "any workload of another trust domain",
            ]
        );
        assert_eq!((universe.identities, universe.operations), (4, 5));
        assert_eq!(universe.asks.len(), 5);
    }
}
