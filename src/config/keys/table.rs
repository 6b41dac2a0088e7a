//! The table itself, in the order of the annotated files.

use super::{
    Fallback::{self, InState, Is, Off, Required, Shown, Told},
    Key,
    Kind::{
        self, Address, Bool, Bytes, Choice, Count, Duration, List, OneOf, Path, Section, Text,
        Texts,
    },
};

const fn key(path: &'static str, kind: Kind, fallback: Fallback, about: &'static str) -> Key {
    Key {
        path,
        kind,
        fallback,
        about,
    }
}

/// What a role says about an identity that it gets from elsewhere.
const OWN_IDENTITY: &str =
    "Its own identity, when the CA is in another process. Exactly one of the two.";
const FROM_AGENT: Fallback = Told("the Workload API at `agent.socket`", "");
const WORKLOAD_API: &str = "Address of a SPIFFE Workload API, `unix:///PATH` or `tcp://IP:PORT`.";
const WORKLOAD_API_EXAMPLE: Fallback = Off("unix:///run/palisade-agent/agent.sock");
const PEM: &str = "PEM files, read again when they change.";
const CERT: &str = "The certificate, followed by its intermediates.";
const PRIVATE_KEY: &str = "The private key of the certificate.";
const BUNDLE: &str = "The trust domain's roots.";

/// Every key, parents before children.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("trust_domain", Text, Required("acme.test"), "Trust domain of the mesh."),
    key("name", Text, Told("the trust domain", "acme"), "Name for `--mesh` and the control socket."),
    key("state_dir", Path, Is("state"), "Folder of everything that must survive a restart."),
    key("demo", Bool, Is("false"), "Marks every record as left by a demo. Only the demo sets it."),
    key("ca", Section, Shown, "The certificate authority: palisade run ca"),
    key("ca.socket", Path, InState("ca.sock"), "Unix socket on which agents ask for certificates."),
    key("ca.kek", Path, InState("ca/kek"), "File with the key that seals the authorities' keys; made on the first start, mode 0600. Better on another disk than the state, or a systemd credential."),
    key("ca.svid_ttl", Duration, Is("1h"), "Life of an X.509-SVID, 10 s at least. Renewed at half of it."),
    key("ca.audit", Address, Told("the file's own `audit.listen`", "127.0.0.1:7444"), "Audit service for its own records, when it runs in another process."),
    key("ca.registrations", List, Is("[]"), "Who gets which identity: a process that shows all of the selectors."),
    key("ca.registrations[].spiffe_id", Text, Required("spiffe://acme.test/ns/shop/sa/orders"), "The identity."),
    key("ca.registrations[].selectors", Texts, Required("[\"unix:uid:1001\", \"unix:path:/usr/bin/palisade\"]"), "What must all be attested: `unix:uid:N`, `unix:gid:N`, `unix:path:/FILE`, `unix:sha256:HEX`."),
    key("ca.registrations[].ttl", Duration, Told("`ca.svid_ttl`", "30m"), "Life of its certificates."),
    key("ca.registrations[].hint", Text, Off("orders"), "Tells a workload with several identities which is which."),
    key("agent", Section, Shown, "The agent with the SPIFFE Workload API: palisade run agent"),
    key("agent.socket", Path, InState("agent.sock"), "Unix socket of the Workload API."),
    key("agent.ca_socket", Path, InState("ca.sock"), "The CA's socket."),
    key("agent.audit", Address, Told("the file's own `audit.listen`", "127.0.0.1:7444"), "Audit service for its own records, when it runs in another process."),
    key("pdp", Section, Shown, "The policy decision point: palisade run pdp"),
    key("pdp.policies", Path, Required("policies"), "Folder of the policy repository; watched."),
    key("pdp.listen", Address, Required("127.0.0.1:7443"), "Where proxies subscribe, gRPC over mTLS."),
    key("pdp.identity", Choice, FROM_AGENT, OWN_IDENTITY),
    key("pdp.identity.workload_api", Text, WORKLOAD_API_EXAMPLE, WORKLOAD_API),
    key("pdp.identity.files", Section, Off(""), PEM),
    key("pdp.identity.files.cert", Path, Required("cert.pem"), CERT),
    key("pdp.identity.files.key", Path, Required("key.pem"), PRIVATE_KEY),
    key("pdp.identity.files.bundle", Path, Required("bundle.pem"), BUNDLE),
    key("pdp.audit", Address, Told("the file's own `audit.listen`", "127.0.0.1:7444"), "Audit service for its own records, when it runs in another process."),
    key("audit", Section, Shown, "The audit service: palisade run audit"),
    key("audit.listen", Address, Required("127.0.0.1:7444"), "Where records are pushed, gRPC over mTLS."),
    key("audit.dir", Path, InState("audit"), "Folder of log and index."),
    key("audit.identity", Choice, FROM_AGENT, OWN_IDENTITY),
    key("audit.identity.workload_api", Text, WORKLOAD_API_EXAMPLE, WORKLOAD_API),
    key("audit.identity.files", Section, Off(""), PEM),
    key("audit.identity.files.cert", Path, Required("cert.pem"), CERT),
    key("audit.identity.files.key", Path, Required("key.pem"), PRIVATE_KEY),
    key("audit.identity.files.bundle", Path, Required("bundle.pem"), BUNDLE),
    key("proxy", Section, Shown, "One proxy: palisade run proxy"),
    key("proxy.instance", Text, Is("proxy"), "Name for people."),
    key("proxy.identity", Choice, Required(""), "From a Workload API, or from PEM files. Exactly one of the two."),
    key("proxy.identity.workload_api", Text, WORKLOAD_API_EXAMPLE, WORKLOAD_API),
    key("proxy.identity.files", Section, Off(""), PEM),
    key("proxy.identity.files.cert", Path, Required("cert.pem"), CERT),
    key("proxy.identity.files.key", Path, Required("key.pem"), PRIVATE_KEY),
    key("proxy.identity.files.bundle", Path, Required("bundle.pem"), BUNDLE),
    key("proxy.spiffe_id", Text, Told("the first", "spiffe://acme.test/ns/shop/sa/orders"), "Which identity, where a Workload API gives several."),
    key("proxy.policy", Choice, Required(""), "Where policy comes from. Exactly one of the two."),
    key("proxy.policy.pdp", Address, Off("127.0.0.1:7443"), "Address of a PDP."),
    key("proxy.policy.folder", Path, Off("policies"), "A policy repository on this host; watched."),
    key("proxy.records", Choice, Required(""), "Where records go. Exactly one of the two."),
    key("proxy.records.audit", Address, Off("127.0.0.1:7444"), "Address of an audit service; records wait in a spool on disk until it has them."),
    key("proxy.records.log", Path, Off("log"), "Folder of a log of its own."),
    key("proxy.workers", Count, Is("0"), "Worker threads, at most 256; 0 for one per core."),
    key("proxy.inbound", Section, Shown, "In front of the local application: mTLS in, plain HTTP out."),
    key("proxy.inbound.listen", Address, Required("0.0.0.0:8443"), "Where to listen; port 0 takes a free one."),
    key("proxy.inbound.service", Text, Required("shop/orders"), "The service that is protected, `NAMESPACE/NAME` as in the catalogue."),
    key("proxy.inbound.upstream", Address, Required("127.0.0.1:8080"), "Where the application listens."),
    key("proxy.inbound.upstream_protocol", OneOf(&["http1", "http2"]), Is("http1"), "What the application speaks; `http2` for gRPC."),
    key("proxy.inbound.upstream_off_host", Bool, Is("false"), "Allows an upstream that is not loopback: in the clear, over the network."),
    key("proxy.outbound", Section, Shown, "For the local application's own calls."),
    key("proxy.outbound.listen", Address, Required("127.0.0.1:15001"), "Where to listen; loopback only."),
    key("proxy.admin", Section, Shown, "Health, metrics and state: /livez /readyz /metrics /state"),
    key("proxy.admin.listen", Address, Is("127.0.0.1:15021"), "Where to listen; loopback only."),
    key("proxy.limits", Section, Is(""), "What is bounded, and what happens at the bound. Counts are for the whole proxy, shared out evenly among its workers."),
    key("proxy.limits.connections", Count, Is("10000"), "Open connections; more are closed on arrival."),
    key("proxy.limits.requests", Count, Is("20000"), "Requests in flight; more are answered with 503."),
    key("proxy.limits.header_bytes", Bytes, Is("64KiB"), "Bytes of a request head, 8 KiB to 1 MiB; more is answered with 431."),
    key("proxy.limits.header_count", Count, Is("100"), "Fields of a request head; more is answered with 431."),
    key("proxy.limits.header_read_timeout", Duration, Is("10s"), "Time to send a request head; then the connection is closed."),
    key("proxy.limits.handshake_timeout", Duration, Is("5s"), "Time for a TLS handshake; then the connection is closed."),
    key("proxy.limits.idle_timeout", Duration, Is("5m"), "Time without a request; then the connection is closed."),
    key("proxy.limits.body_bytes", Bytes, Told("no limit", "10MiB"), "Bytes of a request body; more is answered with 413."),
    key("proxy.limits.h2_streams", Count, Is("256"), "Streams in flight on one HTTP/2 connection; more wait."),
    key("proxy.limits.connect_timeout", Duration, Is("3s"), "Time to connect upstream, its handshake included; then 502."),
    key("proxy.limits.upstream_idle", Count, Is("1024"), "Idle HTTP/1.1 connections kept to the application."),
    key("proxy.limits.upstream_idle_timeout", Duration, Is("30s"), "How long an idle upstream connection is kept."),
];
