//! A proxy between a caller and an application, all on loopback.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use palisade_mesh::{catalogue::Unmatched, clock::Clock, svid::Identity, wire::record::AuditMode};
use tokio::time::timeout;

use crate::{
    config::{AdminConfig, InboundConfig, OutboundConfig, ProxyConfig, UpstreamProtocol},
    endpoints::{EndpointTable, Endpoints},
    policy::PolicySlot,
    proxy::{Parts, Proxy, RunningProxy},
};

pub(super) mod app;
pub(super) mod authority;
pub(super) mod client;
pub(super) mod policy;
pub(super) mod sink;

pub(super) use app::App;
pub(super) use authority::{Authority, id};
pub(super) use client::{Client, Reply};
pub(super) use policy::{Rules, service};
pub(super) use sink::Capture;

/// Longest wait for anything in a test.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for `work`, but not for ever.
pub(super) async fn soon<F: Future>(work: F) -> F::Output {
    timeout(PATIENCE, work).await.expect("took too long")
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How a stage is set, before it is started.
pub(super) struct Setting {
    pub(super) config: ProxyConfig,
    pub(super) audit: AuditMode,
    pub(super) timeout: Duration,
    pub(super) rules: Rules,
    pub(super) unmatched: Unmatched,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            config: ProxyConfig {
                workers: 2,
                admin: Some(AdminConfig { listen: loopback() }),
                ..ProxyConfig::default()
            },
            audit: AuditMode::Spool,
            timeout: PATIENCE,
            rules: Rules::shop(),
            unmatched: Unmatched::NotFound,
        }
    }
}

/// An inbound proxy before an application.
pub(super) struct Stage {
    pub(super) authority: Authority,
    pub(super) proxy: RunningProxy,
    pub(super) identity: Identity,
    pub(super) app: App,
    pub(super) records: Capture,
    pub(super) policy: PolicySlot,
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::set(Setting::default()).await
    }

    pub(super) async fn set(setting: Setting) -> Self {
        Self::with_app(setting, App::start().await).await
    }

    pub(super) async fn with_app(mut setting: Setting, app: App) -> Self {
        let authority = Authority::new();
        let identity = authority.identity("ns/shop/sa/orders");
        let upstream_protocol = match app.is_h2() {
            true => UpstreamProtocol::Http2,
            false => UpstreamProtocol::Http1,
        };
        setting.config.inbound = Some(InboundConfig {
            listen: loopback(),
            service: "shop/orders".into(),
            upstream: app.address,
            upstream_protocol,
            upstream_off_host: false,
        });
        let records = Capture::default();
        let mut orders = service("orders", &[id("ns/shop/sa/orders")]);
        orders.audit = setting.audit;
        orders.request_timeout = setting.timeout;
        orders.unmatched = setting.unmatched;
        let policy = setting.rules.slot(vec![orders]);
        let proxy = start(
            setting.config,
            &identity,
            &policy,
            &EndpointTable::default().shared(),
            &records,
        );
        Self {
            authority,
            proxy,
            identity,
            app,
            records,
            policy,
        }
    }

    pub(super) fn inbound(&self) -> SocketAddr {
        self.proxy.inbound.expect("inbound listener")
    }

    /// A caller with the identity of the web shop, over HTTP/1.1.
    pub(super) async fn h1(&self) -> Client {
        let identity = self.authority.identity("ns/shop/sa/web");
        Client::h1(self.inbound(), &identity).await
    }

    /// The same over HTTP/2.
    pub(super) async fn h2(&self) -> Client {
        let identity = self.authority.identity("ns/shop/sa/web");
        Client::h2(self.inbound(), &identity).await
    }

    /// One request over a connection of its own.
    pub(super) async fn raw(&self, request: impl AsRef<[u8]>) -> Reply {
        let identity = self.authority.identity("ns/shop/sa/web");
        client::raw(self.inbound(), &identity, request.as_ref()).await
    }

    /// One GET over HTTP/1.1, written by hand.
    pub(super) async fn get(&self, target: &str) -> Reply {
        self.raw(format!(
            "GET {target} HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n"
        ))
        .await
    }
}

pub(super) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An outbound proxy for the web shop that knows `orders` at `address`.
pub(super) fn start_outbound(
    identity: &Identity,
    policy: &PolicySlot,
    endpoints: &Endpoints,
) -> RunningProxy {
    let config = ProxyConfig {
        workers: 1,
        outbound: Some(OutboundConfig { listen: loopback() }),
        ..ProxyConfig::default()
    };
    start(config, identity, policy, endpoints, &Capture::default())
}

pub(super) fn start(
    config: ProxyConfig,
    identity: &Identity,
    policy: &PolicySlot,
    endpoints: &Endpoints,
    records: &Capture,
) -> RunningProxy {
    let parts = Parts {
        policy: policy.clone(),
        endpoints: endpoints.clone(),
        identity: identity.clone(),
        sink: Arc::new(records.clone()),
        clock: Clock::system(),
    };
    Proxy::start(config, parts).expect("proxy starts")
}

/// Something a test changes while the proxy uses it.
pub(super) type Shared<T> = Arc<Mutex<T>>;
