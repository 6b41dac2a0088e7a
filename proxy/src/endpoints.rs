//! Where the services of the mesh can be reached, and as whom.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use palisade_mesh::{catalogue::ServiceId, spiffe_id::SpiffeId};
use rustc_hash::FxHashMap;

/// One inbound listener of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The identity it must prove in the handshake.
    pub identity: SpiffeId,
}

/// Every known endpoint, under one discovery version; replaced whole.
#[derive(Debug, Clone, Default)]
pub struct EndpointTable {
    version: u64,
    services: FxHashMap<ServiceId, Arc<[Endpoint]>>,
}

/// The table in force, shared with whoever learns of endpoints.
pub type Endpoints = Arc<ArcSwap<EndpointTable>>;

impl EndpointTable {
    /// Groups `endpoints` by service; order within a service is kept.
    pub fn new(version: u64, endpoints: impl IntoIterator<Item = (ServiceId, Endpoint)>) -> Self {
        let mut services: FxHashMap<ServiceId, Vec<Endpoint>> = FxHashMap::default();
        for (service, endpoint) in endpoints {
            services.entry(service).or_default().push(endpoint);
        }
        Self {
            version,
            services: services.into_iter().map(|(s, e)| (s, e.into())).collect(),
        }
    }

    /// The discovery version, as records name it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The endpoints of `service`; empty when none is known.
    pub fn of(&self, service: &ServiceId) -> &[Endpoint] {
        self.services.get(service).map_or(&[], |e| e)
    }

    /// Every service with its endpoints, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceId, &[Endpoint])> {
        self.services.iter().map(|(s, e)| (s, e.as_ref()))
    }

    /// Wraps the table for sharing.
    pub fn shared(self) -> Endpoints {
        Arc::new(ArcSwap::from_pointee(self))
    }
}
