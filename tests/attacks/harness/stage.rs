//! The mesh of one test: an application, a proxy before it, and one that calls it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use palisade_mesh::{
    catalogue::ServiceId,
    clock::Clock,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Identity,
};
use palisade_proxy::{
    Endpoint, EndpointTable, Parts, Proxy, ProxyConfig, RunningProxy,
    config::{AdminConfig, InboundConfig, Limits, OutboundConfig, UpstreamProtocol},
};

use super::{
    policy::{self, Asked, DOMAIN, ORDERS, Questions, WEB},
    records::{Decided, Records},
    soon,
    upstream::{OK, Script, Seen, Upstream},
    wire::Wire,
};
use crate::support::authority::Authority;

/// Ways into the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// mTLS to the proxy before the application.
    InboundH1,
    InboundH2,
    /// Clear text to the proxy that calls it, as its own application does.
    OutboundH1,
    OutboundH2,
}

impl Door {
    pub(crate) const ALL: [Self; 4] = [
        Self::InboundH1,
        Self::InboundH2,
        Self::OutboundH1,
        Self::OutboundH2,
    ];
    pub(crate) const INBOUND: [Self; 2] = [Self::InboundH1, Self::InboundH2];
    pub(crate) const H1: [Self; 2] = [Self::InboundH1, Self::OutboundH1];
    pub(crate) const H2: [Self; 2] = [Self::InboundH2, Self::OutboundH2];

    pub(crate) fn is_h2(self) -> bool {
        matches!(self, Self::InboundH2 | Self::OutboundH2)
    }

    pub(crate) fn is_inbound(self) -> bool {
        matches!(self, Self::InboundH1 | Self::InboundH2)
    }
}

/// What differs between stages.
pub(crate) struct Setting {
    pub(crate) limits: Limits,
    pub(crate) script: Script,
    /// Whether a request may take a second only.
    pub(crate) hasty: bool,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            script: Arc::new(|_| Some(OK.to_vec())),
            hasty: false,
        }
    }
}

/// A mesh that is up. `orders` is under attack, `web` calls it.
pub(crate) struct Stage {
    pub(crate) authority: Authority,
    pub(crate) caller: Identity,
    pub(crate) server: SpiffeId,
    pub(crate) inbound: RunningProxy,
    pub(crate) outbound: RunningProxy,
    pub(crate) upstream: Upstream,
    pub(crate) records: Records,
    pub(crate) questions: Questions,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::set(Setting::default())
    }

    /// With other limits, on both proxies, or another application.
    pub(crate) fn set(setting: Setting) -> Self {
        let authority = Authority::new(DOMAIN);
        let server = id(ORDERS);
        let upstream = Upstream::start(setting.script);
        let records = Records::default();
        let (slot, questions) = policy::slot(setting.hasty);
        let parts = |path: &str, table: EndpointTable, records: &Records| Parts {
            policy: slot.clone(),
            endpoints: table.shared(),
            identity: authority.trusting(&authority.leaf(path)),
            sink: Arc::new(records.clone()),
            clock: Clock::system(),
        };
        let config = ProxyConfig {
            workers: 1,
            limits: setting.limits,
            admin: Some(AdminConfig { listen: loopback() }),
            ..ProxyConfig::default()
        };
        let inbound = ProxyConfig {
            inbound: Some(InboundConfig {
                listen: loopback(),
                service: "shop/orders".into(),
                upstream: upstream.address,
                upstream_protocol: UpstreamProtocol::Http1,
                upstream_off_host: false,
            }),
            ..config.clone()
        };
        let parts_in = parts(ORDERS, EndpointTable::default(), &records);
        let inbound = Proxy::start(inbound, parts_in).unwrap();
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let endpoint = Endpoint {
            address: inbound.inbound.unwrap(),
            identity: server.clone(),
        };
        let table = EndpointTable::new(1, [(ServiceId::new(&domain, "shop", "orders"), endpoint)]);
        let outbound = ProxyConfig {
            outbound: Some(OutboundConfig { listen: loopback() }),
            ..config
        };
        let parts_out = parts(WEB, table, &Records::default());
        let outbound = Proxy::start(outbound, parts_out).unwrap();
        Self {
            caller: authority.trusting(&authority.leaf(WEB)),
            authority,
            server,
            inbound,
            outbound,
            upstream,
            records,
            questions,
        }
    }

    /// A connection to a door, as `web`.
    pub(crate) fn wire(&self, door: Door) -> Wire {
        let alpn: &[u8] = if door.is_h2() { b"h2" } else { b"http/1.1" };
        match door {
            Door::InboundH1 | Door::InboundH2 => {
                Wire::tls(self.address(door), &self.caller, &self.server, alpn)
            }
            Door::OutboundH1 | Door::OutboundH2 => Wire::plain(self.address(door)),
        }
    }

    /// Where a door is.
    pub(crate) fn address(&self, door: Door) -> SocketAddr {
        match door.is_inbound() {
            true => self.inbound.inbound.unwrap(),
            false => self.outbound.outbound.unwrap(),
        }
    }

    /// Every request that reached the application since the last time.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.upstream.take()
    }

    /// Everything that the engine was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.questions.lock().unwrap())
    }

    /// Waits until there are `n` decisions, and gives them.
    pub(crate) fn decisions(&self, n: usize) -> Vec<Decided> {
        soon(&format!("{n} decisions"), || {
            let decisions = self.records.decisions();
            (decisions.len() >= n).then_some(decisions)
        })
    }

    /// Forgets everything that was seen, asked and recorded.
    pub(crate) fn forget(&self) {
        self.records.clear();
        self.asked();
        self.seen();
    }

    /// The admin page of the proxy before the application.
    pub(crate) fn metrics(&self) -> String {
        let address = self.inbound.admin.unwrap();
        crate::support::http::send(address, "GET", "localhost", "/metrics", "")
            .unwrap()
            .body
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// `spiffe://demo.test/PATH`.
pub(crate) fn id(path: &str) -> SpiffeId {
    TrustDomain::parse(DOMAIN).unwrap().id(path).unwrap()
}

/// Limits with short times, for what would otherwise take minutes.
pub(crate) fn hasty() -> Limits {
    Limits {
        header_read_timeout: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(2),
        ..Limits::default()
    }
}
