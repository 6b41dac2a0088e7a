//! The catalogue: which services exist, who they are, what can be asked of them.
//!
//! Compiled from `services/*.yaml` of the policy repository. Proxy, `can` and
//! `policy test` read the same one.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use smol_str::{SmolStr, format_smolstr};

use crate::{
    canonical::CanonicalRequest,
    operation::{Operation, OperationTable},
    personal::Mask,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::AuditMode,
};

/// A service's entity id, `TRUST_DOMAIN/NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(SmolStr);

impl ServiceId {
    /// The id of `namespace/name` in `domain`.
    pub fn new(domain: &TrustDomain, namespace: &str, name: &str) -> Self {
        Self(format_smolstr!("{domain}/{namespace}/{name}"))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `NAMESPACE/NAME`, as people write it.
    pub fn short(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, rest)| rest)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC: every request is `grpc:call` on `/PACKAGE.SERVICE/METHOD`.
    Grpc,
    /// HTTP/1.1 or HTTP/2.
    Http,
}

/// What becomes of an allowed request that is no declared operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmatched {
    /// Forwarded.
    Forward,
    /// Answered with 404.
    NotFound,
}

/// How a header that policies may read is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderShape {
    /// A set of strings.
    List,
    /// One string; a repeat is refused with 400.
    Single,
}

/// A header that policies may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredHeader {
    /// Lower-case name.
    pub name: SmolStr,
    /// Its shape.
    pub shape: HeaderShape,
}

/// One service of the mesh.
#[derive(Debug, Clone)]
pub struct Service {
    /// Entity id.
    pub id: ServiceId,
    /// Namespace.
    pub namespace: SmolStr,
    /// Name within the namespace.
    pub name: SmolStr,
    /// SPIFFE IDs of the workloads that are this service.
    pub identities: Vec<SpiffeId>,
    /// Hosts callers use for it, lower case.
    pub hosts: Vec<SmolStr>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What can be asked of it.
    pub operations: OperationTable,
    /// What becomes of an allowed request that is no operation.
    pub unmatched: Unmatched,
    /// How durable its records must be, where an operation does not say.
    pub audit: AuditMode,
    /// What its records leave out, where an operation does not add to it; what the
    /// repository's defaults leave out is in it.
    pub mask: Mask,
    /// Endpoints known without announcement.
    pub endpoints: Vec<SocketAddr>,
    /// Longest time from the first byte of a request to the last of its answer.
    pub request_timeout: Duration,
}

impl Service {
    /// How durable the records of a request must be: as its operation says, else
    /// as the service does. A mode that was not said is `spool`.
    pub fn audit_of(&self, operation: Option<&Operation>) -> AuditMode {
        let said = operation.and_then(|o| o.audit).unwrap_or(self.audit);
        match said {
            AuditMode::Unspecified => AuditMode::Spool,
            said => said,
        }
    }

    /// What the record of a request leaves out. One that is no operation may be a
    /// misspelt one of any: its record leaves out what any of them does, for nothing can
    /// be taken out of the log later.
    pub fn mask_of<'s>(&'s self, operation: Option<&'s Operation>) -> &'s Mask {
        let more = operation.map_or(self.operations.mask(), |o| &o.mask);
        match more.is_none() {
            true => &self.mask,
            false => more,
        }
    }

    /// As [`Service::mask_of`], of whoever has not looked for the operation; it is looked
    /// for only where one adds something.
    pub fn mask_for(&self, request: &CanonicalRequest) -> &Mask {
        match self.operations.mask().is_none() {
            true => &self.mask,
            false => self.mask_of(self.operations.find(request)),
        }
    }
}

/// Every service, found by id, host, identity or name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    trust_domain: TrustDomain,
    services: Vec<Arc<Service>>,
    headers: Vec<DeclaredHeader>,
    mask: Mask,
    /// What any of them leaves out: defaults, services and operations.
    widest: Mask,
    by_id: FxHashMap<ServiceId, usize>,
    by_host: FxHashMap<SmolStr, usize>,
    by_identity: FxHashMap<SpiffeId, usize>,
    /// By every name that people use; none where several have it.
    by_name: FxHashMap<SmolStr, Option<usize>>,
}

impl Catalogue {
    /// Builds the lookup tables. Where two services claim one host or identity the
    /// first keeps it: the compiler has refused such a repository before.
    pub fn new(
        trust_domain: TrustDomain,
        services: Vec<Service>,
        headers: Vec<DeclaredHeader>,
    ) -> Self {
        let services: Vec<_> = services.into_iter().map(Arc::new).collect();
        let mut catalogue = Self {
            trust_domain,
            headers,
            mask: Mask::NONE,
            widest: widest(&Mask::NONE, &services),
            by_id: FxHashMap::default(),
            by_host: FxHashMap::default(),
            by_identity: FxHashMap::default(),
            by_name: FxHashMap::default(),
            services: Vec::new(),
        };
        for (i, service) in services.iter().enumerate() {
            catalogue.by_id.entry(service.id.clone()).or_insert(i);
            for host in &service.hosts {
                catalogue.by_host.entry(host.clone()).or_insert(i);
            }
            for identity in &service.identities {
                catalogue.by_identity.entry(identity.clone()).or_insert(i);
            }
            for name in [service.id.as_str(), service.id.short(), &service.name] {
                let named = catalogue.by_name.entry(name.into()).or_insert(Some(i));
                *named = named.filter(|known| *known == i);
            }
        }
        catalogue.services = services;
        catalogue
    }

    /// The same, where `mask` is what the repository's defaults leave out.
    #[must_use]
    pub fn masking(self, mask: Mask) -> Self {
        Self {
            widest: widest(&mask, &self.services),
            mask,
            ..self
        }
    }

    /// What the repository's defaults leave out.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Whether any record leaves something out.
    pub fn has_masks(&self) -> bool {
        !self.widest.is_none()
    }

    /// What the record of a request leaves out that is no known operation of `service`. One
    /// of which no service is known may have been meant for any: its record leaves out what
    /// any of them does.
    pub fn mask_of<'s>(&'s self, service: Option<&'s Service>) -> &'s Mask {
        service.map_or(&self.widest, |service| service.mask_of(None))
    }

    /// The trust domain of the repository.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Every service, in the order of the repository.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// Headers that policies may read.
    pub fn headers(&self) -> &[DeclaredHeader] {
        &self.headers
    }

    /// The service with this entity id.
    pub fn by_id(&self, id: &ServiceId) -> Option<&Arc<Service>> {
        self.by_id.get(id).and_then(|i| self.services.get(*i))
    }

    /// The service that callers reach under this canonical host.
    pub fn by_host(&self, host: &str) -> Option<&Arc<Service>> {
        self.by_host.get(host).and_then(|i| self.services.get(*i))
    }

    /// The service that this workload is.
    pub fn by_identity(&self, identity: &SpiffeId) -> Option<&Arc<Service>> {
        self.by_identity
            .get(identity)
            .and_then(|i| self.services.get(*i))
    }

    /// The service named `NAMESPACE/NAME`, or by its name alone where that is unique.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Service>> {
        let at = self.by_name.get(name).copied().flatten()?;
        self.services.get(at)
    }
}

fn widest(defaults: &Mask, services: &[Arc<Service>]) -> Mask {
    let of_services = services.iter().map(|service| service.mask_of(None));
    of_services.fold(defaults.clone(), |all, mask| all.and(mask))
}
