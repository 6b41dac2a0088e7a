//! Configuration of a proxy: as written, then checked.
//!
//! The binary parses the YAML; unknown keys are refused there. [`ProxyConfig::check`]
//! reports every mistake at once, before anything is bound.

use std::{net::SocketAddr, time::Duration};

use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

pub mod units;

pub use units::optional_bytes::deserialize as optional_size;

/// The fewest bytes of header space that still hold an ordinary request.
pub const HEADER_BYTES_MIN: u32 = 8 * 1024;
/// The most bytes of header space; a head is held in memory whole.
pub const HEADER_BYTES_MAX: u32 = 1024 * 1024;
/// The most worker threads.
pub const WORKERS_MAX: usize = 256;

/// A whole proxy. Every field has a safe default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// Worker threads; 0 (the default) means one per core.
    pub workers: usize,
    /// The listener that protects the local application.
    pub inbound: Option<InboundConfig>,
    /// The listener through which the local application calls others.
    pub outbound: Option<OutboundConfig>,
    /// The listener for health, metrics and state. Without it there is none.
    pub admin: Option<AdminConfig>,
    /// Limits; each has a default and a stated behaviour when it is reached.
    pub limits: Limits,
    /// Marks every record as left by a demo mesh. Default: false.
    pub demo: bool,
}

/// The listener that protects the local application: mTLS in, plaintext out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundConfig {
    /// Where to listen, `IP:PORT`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The service that is protected, `NAMESPACE/NAME` as in the catalogue.
    pub service: String,
    /// Where the application listens, `IP:PORT`.
    pub upstream: SocketAddr,
    /// What the application speaks. Default: `http1`.
    #[serde(default)]
    pub upstream_protocol: UpstreamProtocol,
    /// Whether `upstream` may be on another machine, in the clear. Default: false.
    #[serde(default)]
    pub upstream_off_host: bool,
}

/// What an application speaks on its plaintext port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, as gRPC servers expect.
    Http2,
}

/// The listener through which the local application calls others: plaintext
/// HTTP/1.1 or HTTP/2 with prior knowledge in, mTLS out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundConfig {
    /// Where to listen; must be loopback, for whoever reaches it speaks as us.
    pub listen: SocketAddr,
}

/// The listener for `/livez`, `/readyz`, `/metrics` and `/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where to listen; must be loopback. Default: `127.0.0.1:15021`.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 15021)),
        }
    }
}

/// Limits of one proxy. Counts are for the whole proxy and are shared out
/// evenly among its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections; more are closed on arrival. Default: 10000.
    pub connections: usize,
    /// Requests in flight; more are answered with 503. Default: 20000.
    pub requests: usize,
    /// Bytes of a request head; more is answered with 431. Default: 64 KiB.
    #[serde(with = "units::bytes32")]
    pub header_bytes: u32,
    /// Fields of a request head; more is answered with 431. Default: 100.
    pub header_count: usize,
    /// Whether field names with `_` are accepted; otherwise they are answered with
    /// 400, for some applications read `_` as `-`. Default: false.
    pub header_underscores: bool,
    /// Time to send a request head; then the connection is closed. Default: 10 s.
    #[serde(with = "units::duration")]
    pub header_read_timeout: Duration,
    /// Time for a TLS handshake; then the connection is closed. Default: 5 s.
    #[serde(with = "units::duration")]
    pub handshake_timeout: Duration,
    /// Time without a request; then the connection is closed. Default: 5 min.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Bytes of a request body; more is answered with 413. Default: no limit.
    #[serde(with = "units::optional_bytes")]
    pub body_bytes: Option<u64>,
    /// Greatest age of a stream (gRPC, WebSocket, server-sent events), which no
    /// request timeout ends; then it is closed. Default: 1 h.
    #[serde(with = "units::duration")]
    pub stream_age: Duration,
    /// Streams in flight on one HTTP/2 connection; more wait. Default: 256.
    pub h2_streams: u32,
    /// Time to connect upstream, its handshake included; then 502. Default: 3 s.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Time that the record of a `strict` request may take to be on disk; then 503.
    /// Default: 2 s.
    #[serde(with = "units::duration")]
    pub audit_wait: Duration,
    /// Idle HTTP/1.1 connections kept to the application. Default: 1024.
    pub upstream_idle: usize,
    /// How long an idle upstream connection is kept. Default: 30 s.
    #[serde(with = "units::duration")]
    pub upstream_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            requests: 20_000,
            header_bytes: 64 * 1024,
            header_count: 100,
            header_underscores: false,
            header_read_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            body_bytes: None,
            stream_age: Duration::from_secs(3600),
            h2_streams: 256,
            connect_timeout: Duration::from_secs(3),
            audit_wait: Duration::from_secs(2),
            upstream_idle: 1024,
            upstream_idle_timeout: Duration::from_secs(30),
        }
    }
}

impl ProxyConfig {
    /// Every mistake in the configuration; empty means it can be started.
    pub fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if self.inbound.is_none() && self.outbound.is_none() {
            found.push(
                Diagnostic::error(5001, "proxy has neither an `inbound` nor an `outbound` listener")
                    .help("add `inbound` to protect an application, `outbound` to let one call others, or both"),
            );
        }
        if let Some(outbound) = &self.outbound {
            found.extend(loopback("outbound.listen", outbound.listen));
        }
        if let Some(admin) = &self.admin {
            found.extend(loopback("admin.listen", admin.listen));
        }
        if let Some(inbound) = &self.inbound {
            found.extend(self.upstream_loop(inbound));
            found.extend(off_host(inbound));
        }
        found.extend(self.limits.check());
        if self.workers > WORKERS_MAX {
            found.push(out_of_range(
                "workers",
                self.workers,
                format!("0 to {WORKERS_MAX}"),
            ));
        }
        found
    }

    /// Worker threads to start.
    pub(crate) fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
        .clamp(1, WORKERS_MAX)
    }

    fn upstream_loop(&self, inbound: &InboundConfig) -> Option<Diagnostic> {
        let own = [
            Some(inbound.listen),
            self.outbound.as_ref().map(|o| o.listen),
            self.admin.as_ref().map(|a| a.listen),
        ];
        let upstream = inbound.upstream;
        own.into_iter()
            .flatten()
            .find(|own| {
                own.port() == upstream.port()
                    && (own.ip() == upstream.ip() || own.ip().is_unspecified())
            })
            .map(|own| {
                Diagnostic::error(
                    5005,
                    format!("`inbound.upstream` is the proxy's own listener `{own}`"),
                )
                .cause("a request would come back to the proxy that forwards it")
                .help(
                    "set `inbound.upstream` to the address on which the application itself listens",
                )
            })
    }
}

impl Limits {
    fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut positive = |key: &str, value: usize| {
            if value == 0 {
                found.push(out_of_range(key, value, "1 or more".to_owned()));
            }
        };
        positive("limits.connections", self.connections);
        positive("limits.requests", self.requests);
        positive("limits.header_count", self.header_count);
        positive("limits.h2_streams", self.h2_streams as usize);
        for (key, value) in [
            ("limits.header_read_timeout", self.header_read_timeout),
            ("limits.handshake_timeout", self.handshake_timeout),
            ("limits.idle_timeout", self.idle_timeout),
            ("limits.stream_age", self.stream_age),
            ("limits.connect_timeout", self.connect_timeout),
            ("limits.audit_wait", self.audit_wait),
            ("limits.upstream_idle_timeout", self.upstream_idle_timeout),
        ] {
            if value.is_zero() {
                found.push(out_of_range(key, "0s", "more than 0s".to_owned()));
            }
        }
        if !(HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&self.header_bytes) {
            found.push(out_of_range(
                "limits.header_bytes",
                self.header_bytes,
                "8 KiB to 1 MiB".to_owned(),
            ));
        }
        found
    }
}

fn loopback(key: &str, address: SocketAddr) -> Option<Diagnostic> {
    (!address.ip().is_loopback()).then(|| {
        Diagnostic::error(
            5002,
            format!("`{key}` is `{address}`, which is not loopback"),
        )
        .cause("this listener asks nobody for an identity; whoever reaches it has its rights")
        .help(format!("use `127.0.0.1:{}`", address.port()))
    })
}

/// Behind the proxy nothing protects the request any more.
fn off_host(inbound: &InboundConfig) -> Option<Diagnostic> {
    let upstream = inbound.upstream;
    (!upstream.ip().is_loopback() && !inbound.upstream_off_host).then(|| {
        Diagnostic::error(
            5007,
            format!("`inbound.upstream` is `{upstream}`, which is not loopback"),
        )
        .cause("requests would leave this machine in the clear, and whoever reaches that address passes the proxy by")
        .help("let the application listen on `127.0.0.1`, or accept it: `upstream_off_host: true`")
    })
}

fn out_of_range(key: &str, value: impl std::fmt::Display, range: String) -> Diagnostic {
    Diagnostic::error(5003, format!("`{key}` is `{value}`, out of range"))
        .help(format!("allowed: {range}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> ProxyConfig {
        serde_json::from_value(serde_json::json!({
            "inbound": { "listen": "127.0.0.1:0", "service": "shop/orders", "upstream": "127.0.0.1:9000" },
            "outbound": { "listen": "127.0.0.1:0" },
        }))
        .unwrap()
    }

    fn codes(config: &ProxyConfig) -> Vec<u16> {
        config.check().iter().map(|d| d.code.0).collect()
    }

    #[test]
    fn a_minimal_configuration_has_safe_defaults() {
        let config = valid();
        assert!(config.check().is_empty());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(
            config.inbound.unwrap().upstream_protocol,
            UpstreamProtocol::Http1
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut config = valid();
        config.outbound = Some(OutboundConfig {
            listen: "0.0.0.0:8080".parse().unwrap(),
        });
        config.admin = Some(AdminConfig {
            listen: "10.0.0.1:1".parse().unwrap(),
        });
        config.limits.connections = 0;
        config.limits.idle_timeout = Duration::ZERO;
        config.workers = WORKERS_MAX + 1;
        assert_eq!(codes(&config), [5002, 5002, 5003, 5003, 5003]);
        assert_eq!(codes(&ProxyConfig::default()), [5001]);
    }

    #[test]
    fn a_proxy_is_not_its_own_upstream() {
        let mut config = valid();
        let inbound = config.inbound.as_mut().unwrap();
        inbound.upstream = "10.0.0.1:9000".parse().unwrap();
        assert_eq!(codes(&config), [5007]);
        config.inbound.as_mut().unwrap().upstream_off_host = true;
        assert!(config.check().is_empty());
        let mut config = valid();
        let inbound = config.inbound.as_mut().unwrap();
        inbound.listen = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(codes(&config), [5005]);
    }

    #[test]
    fn header_bytes_are_bounded_on_both_sides() {
        let mut config = valid();
        for (bytes, expected) in [
            (HEADER_BYTES_MIN - 1, 1),
            (HEADER_BYTES_MIN, 0),
            (HEADER_BYTES_MAX, 0),
            (HEADER_BYTES_MAX + 1, 1),
        ] {
            config.limits.header_bytes = bytes;
            assert_eq!(codes(&config).len(), expected, "{bytes}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_units_are_read() {
        let parse = serde_json::from_value::<Limits>;
        assert!(parse(serde_json::json!({ "conections": 5 })).is_err());
        assert!(parse(serde_json::json!({ "idle_timeout": 5 })).is_err());
        let limits = parse(serde_json::json!({
            "idle_timeout": "90s", "header_bytes": "16KiB", "body_bytes": "10 MiB", "connect_timeout": "250ms",
        }))
        .unwrap();
        assert_eq!(limits.idle_timeout, Duration::from_secs(90));
        assert_eq!(limits.connect_timeout, Duration::from_millis(250));
        assert_eq!(limits.header_bytes, 16 * 1024);
        assert_eq!(limits.body_bytes, Some(10 * 1024 * 1024));
        let text = serde_json::to_value(&limits).unwrap();
        assert_eq!(serde_json::from_value::<Limits>(text).unwrap(), limits);
    }
}
