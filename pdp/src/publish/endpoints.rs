//! Where every service is: what the catalogue says and what proxies announce.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use palisade_mesh::{
    catalogue::{Catalogue, ServiceId},
    spiffe_id::SpiffeId,
    wire::policy::{Announcement, Endpoint, Endpoints},
};

/// What each open stream announces; refused announcements never get here.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    streams: BTreeMap<u64, Stream>,
}

#[derive(Debug)]
struct Stream {
    identity: SpiffeId,
    announcements: Vec<Announcement>,
    draining: bool,
}

impl Announced {
    /// Replaces what `stream` announces.
    pub(crate) fn set(
        &mut self,
        stream: u64,
        identity: &SpiffeId,
        announcements: Vec<Announcement>,
    ) {
        self.streams.insert(
            stream,
            Stream {
                identity: identity.clone(),
                announcements,
                draining: false,
            },
        );
    }

    /// Notes whether the proxy is draining; says whether that is news.
    pub(crate) fn drain(&mut self, stream: u64, draining: bool) -> bool {
        match self.streams.get_mut(&stream) {
            Some(s) if s.draining != draining => {
                s.draining = draining;
                true
            }
            _ => false,
        }
    }

    /// Withdraws everything of `stream`.
    pub(crate) fn remove(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// Every endpoint, sorted, each once. Announcements are checked against this
    /// catalogue again, because it may have changed since they were made.
    pub(crate) fn endpoints(&self, catalogue: Option<&Catalogue>) -> Vec<Endpoint> {
        let Some(catalogue) = catalogue else {
            return Vec::new();
        };
        let mut all = BTreeSet::new();
        for service in catalogue.services() {
            if let Some(identity) = service.identities.first() {
                all.extend(service.endpoints.iter().map(|address| {
                    let service = service.id.to_string();
                    (service, address.to_string(), identity.to_string())
                }));
            }
        }
        for stream in self.streams.values().filter(|s| !s.draining) {
            for announcement in &stream.announcements {
                if let Ok((service, address)) = entitled(announcement, &stream.identity, catalogue)
                {
                    all.insert((
                        service.to_string(),
                        address.to_string(),
                        stream.identity.to_string(),
                    ));
                }
            }
        }
        all.into_iter()
            .map(|(service, address, identity)| Endpoint {
                service,
                address,
                identity,
            })
            .collect()
    }
}

/// What was announced to make `endpoint`, and by whom; none when it is malformed.
pub(crate) fn announcement(endpoint: &Endpoint) -> Option<(SpiffeId, Announcement)> {
    let identity = SpiffeId::parse(&endpoint.identity).ok()?;
    let (_, service) = endpoint.service.split_once('/')?;
    let announcement = Announcement {
        service: service.to_owned(),
        address: endpoint.address.clone(),
    };
    Some((identity, announcement))
}

/// Checks that `identity` may announce this (attack T98).
///
/// # Errors
/// Why not, for the record.
pub(crate) fn entitled(
    announcement: &Announcement,
    identity: &SpiffeId,
    catalogue: &Catalogue,
) -> Result<(ServiceId, SocketAddr), String> {
    let name = super::registry::cut(&announcement.service);
    let id = announcement
        .service
        .split_once('/')
        .map(|(namespace, name)| ServiceId::new(catalogue.trust_domain(), namespace, name));
    let service = id
        .and_then(|id| catalogue.by_id(&id))
        .ok_or_else(|| format!("there is no service `{name}`"))?;
    if !service.identities.contains(identity) {
        return Err(format!("`{identity}` is not an identity of `{name}`"));
    }
    let address = announcement.address.parse::<SocketAddr>().ok();
    let address = address.filter(|a| a.port() != 0 && !a.ip().is_unspecified());
    match address {
        Some(address) if !address.ip().is_multicast() => Ok((service.id.clone(), address)),
        _ => Err(format!(
            "`{}` is not an address that others can reach",
            super::registry::cut(&announcement.address)
        )),
    }
}

/// The next message if the endpoints differ. Versions start from the clock, so
/// that they grow over restarts without being kept.
pub(crate) fn next(
    current: &Endpoints,
    endpoints: Vec<Endpoint>,
    now_us: i64,
) -> Option<Endpoints> {
    if current.version != 0 && current.endpoints == endpoints {
        return None;
    }
    let now_ms = u64::try_from(now_us / 1_000).unwrap_or_default();
    Some(Endpoints {
        version: now_ms.max(current.version + 1),
        endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_with_the_clock_and_without_it() {
        let first = next(&Endpoints::default(), Vec::new(), 5_000).unwrap();
        assert_eq!(first.version, 5);
        assert_eq!(next(&first, Vec::new(), 9_000), None);
        let one = vec![Endpoint::default()];
        assert_eq!(next(&first, one.clone(), 9_000).unwrap().version, 9);
        // A clock that went back does not take the version with it.
        assert_eq!(next(&first, one, 1_000).unwrap().version, 6);
    }
}
