//! The table itself, in the order of the annotated files.

use super::{
    Fallback::{self, InState, Is, Off, Required, Shown, Told},
    Key,
    Kind::{
        self, Address, Bool, Bytes, Choice, Count, Duration, List, OneOf, Path, Place, Section,
        Text, Texts, Word,
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
const OTHER_AUDIT: &str = "Audit service for its own records, when it runs in another process; `mesh` asks the directory.";
const FROM_AGENT: Fallback = Told("the Workload API at `agent.socket`", "");
const WORKLOAD_API: &str = "Address of a SPIFFE Workload API, `unix:///PATH` or `tcp://IP:PORT`.";
const WORKLOAD_API_EXAMPLE: Fallback = Off("unix:///run/palisade-agent/agent.sock");
const PEM: &str = "PEM files, read again when they change.";
const CERT: &str = "The certificate, followed by its intermediates.";
const PRIVATE_KEY: &str = "The private key of the certificate.";
const BUNDLE: &str = "The trust domain's roots.";

const TRUST: &str = "Who must have signed a policy bundle before it is used; without it nobody, and the PDP's word is all there is.";
const TRUST_KEYS: &str =
    "File of public keys, one a line: `NAME ed25519:BASE64`. Read again at each use.";
const TRUST_THRESHOLD: &str = "How many of them must have signed content and number.";
const TRUST_STAMP_AGE: &str =
    "Demands a stamp, no older than this: proof that no newer revision is withheld.";
const TRUST_STAMP_KEYS: &str = "File of the keys that sign stamps; one signature is enough.";

/// Every key, parents before children.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("trust_domain", Text, Required("acme.test"), "Trust domain of the mesh."),
    key("name", Text, Told("the trust domain", "acme"), "Name for `--mesh` and the control socket."),
    key("state_dir", Path, Is("state"), "Folder of everything that must survive a restart."),
    key("demo", Bool, Is("false"), "Marks every record as left by a demo. Only the demo sets it."),
    key("links", Path, Off("links"), "Folder of Cedar policies about the mesh's own links, beside the built-in ones."),
    key("ca", Section, Shown, "The certificate authority: palisade run ca"),
    key("ca.socket", Path, InState("ca.sock"), "Unix socket on which agents ask for certificates."),
    key("ca.kek", Path, InState("ca/kek"), "File with the key that seals the authorities' keys; made on the first start, mode 0600. Better on another disk than the state, or a systemd credential."),
    key("ca.listen", Address, Off("10.0.0.1:7440"), "Network address for the agents of other hosts; without it no host can join."),
    key("ca.advertise", Address, Told("`ca.listen`", "10.0.0.1:7440"), "Address at which other hosts reach it, for join tokens."),
    key("ca.svid_ttl", Duration, Is("1h"), "Life of an X.509-SVID, 10 s at least. Renewed at half of it."),
    key("ca.ack_deadline", Duration, Told("`ca.svid_ttl`, 1m at least", "1h"), "How long a rotation waits until every agent and workload has acknowledged the new root before it goes on without the rest, 1 s at least."),
    key("ca.reissue_rate", Count, Is("100"), "Certificates replaced in a second after a forced rotation."),
    key("ca.audit", Place, Told("the file's own `audit.listen`", "127.0.0.1:7444"), OTHER_AUDIT),
    key("ca.registrations", List, Is("[]"), "Who gets which identity: a process that shows all of the selectors."),
    key("ca.registrations[].spiffe_id", Text, Required("spiffe://acme.test/ns/shop/sa/orders"), "The identity."),
    key("ca.registrations[].selectors", Texts, Required("[\"unix:uid:1001\", \"unix:path:/usr/bin/palisade\"]"), "What must all be attested: `unix:uid:N`, `unix:gid:N`, `unix:path:/FILE`, `unix:sha256:HEX`."),
    key("ca.registrations[].ttl", Duration, Told("`ca.svid_ttl`", "30m"), "Life of its certificates."),
    key("ca.registrations[].hint", Text, Off("orders"), "Tells a workload with several identities which is which."),
    key("ca.registrations[].nodes", Texts, Told("the CA's own host", "[host-2, host-3]"), "Joined nodes whose workload it is; `\"*\"` is every host."),
    key("ca.registrations[].node", Text, Told("`nodes`", "host-2"), "One node, in place of `nodes`."),
    key("agent", Section, Shown, "The agent with the SPIFFE Workload API: palisade run agent"),
    key("agent.socket", Path, InState("agent.sock"), "Unix socket of the Workload API."),
    key("agent.ca_socket", Path, InState("ca.sock"), "The CA's socket."),
    key("agent.join", Section, Off(""), "On another host than the CA's: how it joins, to be a node from then on."),
    key("agent.join.token_file", Path, Told("the systemd credential `join-token`, then `PALISADE_JOIN_TOKEN`", "join-token"), "File with a join token, read until the host has joined."),
    key("agent.join.node", Text, Told("the token's", "host-2"), "Name of this node; a token for another is refused."),
    key("agent.join.ca", Address, Told("the token's", "10.0.0.1:7440"), "Address of the authority, where it has moved."),
    key("agent.audit", Place, Told("the file's own `audit.listen`; on a joined host `mesh`", "127.0.0.1:7444"), OTHER_AUDIT),
    key("pdp", Section, Shown, "The policy decision point: palisade run pdp"),
    key("pdp.policies", Path, Required("policies"), "Folder of the policy repository, or a bundle file; watched."),
    key("pdp.policy_trust", Section, Off(""), TRUST),
    key("pdp.policy_trust.keys", Path, Required("trusted.keys"), TRUST_KEYS),
    key("pdp.policy_trust.threshold", Count, Is("1"), TRUST_THRESHOLD),
    key("pdp.policy_trust.stamp_age", Duration, Off("26h"), TRUST_STAMP_AGE),
    key("pdp.policy_trust.stamp_keys", Path, Told("`keys`", "stamp.keys"), TRUST_STAMP_KEYS),
    key("pdp.listen", Address, Required("127.0.0.1:7443"), "Where proxies subscribe, gRPC over mTLS."),
    key("pdp.identity", Choice, FROM_AGENT, OWN_IDENTITY),
    key("pdp.identity.workload_api", Text, WORKLOAD_API_EXAMPLE, WORKLOAD_API),
    key("pdp.identity.files", Section, Off(""), PEM),
    key("pdp.identity.files.cert", Path, Required("cert.pem"), CERT),
    key("pdp.identity.files.key", Path, Required("key.pem"), PRIVATE_KEY),
    key("pdp.identity.files.bundle", Path, Required("bundle.pem"), BUNDLE),
    key("pdp.audit", Place, Told("the file's own `audit.listen`", "127.0.0.1:7444"), OTHER_AUDIT),
    key("pdp.rollout", Section, Off(""), "How each new revision goes to the proxies; without it, to all of them at once. docs/operations/rollout.md"),
    key("pdp.rollout.shadow", Duration, Told("`10m`", "10m"), "How long all proxies try it beside what they enforce; `0s` for not at all."),
    key("pdp.rollout.every", Count, Told("`1`", "1"), "One decision in this many is put to both revisions."),
    key("pdp.rollout.canary", List, Told("a tenth, then half of the proxies, 10m each", "[]"), "Who enforces it before the others, step by step; each step includes those before."),
    key("pdp.rollout.canary[].services", Texts, Off("[shop/orders]"), "Proxies of these services, `NAMESPACE/NAME`."),
    key("pdp.rollout.canary[].share", Text, Off("25%"), "Or so many of all proxies, by a stable hash; one at least."),
    key("pdp.rollout.canary[].for", Duration, Told("`10m`", "10m"), "For how long, at least."),
    key("pdp.rollout.watch", Duration, Told("`10m`", "10m"), "How long all proxies are watched before it is complete."),
    key("pdp.rollout.patience", Duration, Told("`1h`", "1h"), "How much longer than planned a phase may wait for decisions; then it halts."),
    key("pdp.rollout.ready_within", Duration, Told("`2m`", "2m"), "How long proxies have for taking a revision, and for going back."),
    key("pdp.rollout.pause_limit", Duration, Told("`24h`", "24h"), "How long it may be paused; then it is rolled back."),
    key("pdp.rollout.min_decisions", Count, Told("`100`", "100"), "Decisions that a phase must have seen before it may end well."),
    key("pdp.rollout.abort_on", Section, Told("its keys' own", ""), "What halts it: more than so many (`5`), or than a share (`0.1%`); `off` does not look."),
    key("pdp.rollout.abort_on.newly_denied", Text, Told("`0.1%`", "0.1%"), "Requests that passed before and are stopped now."),
    key("pdp.rollout.abort_on.newly_allowed", Text, Told("`off`", "1%"), "Requests that were stopped before and pass now."),
    key("pdp.rollout.abort_on.newly_undecided", Text, Told("`0`", "0"), "Requests that were decided before and are undecided now."),
    key("pdp.rollout.abort_on.errors", Text, Told("`0`", "0"), "Workers in which the engine failed."),
    key("pdp.rollout.abort_on.server_errors", Text, Told("`1%`", "1%"), "Answers with 5xx beyond the share that they had before."),
    key("pdp.rollout.abort_on.p99", Text, Told("`2`", "1.5"), "How many times as long as before the p99 of requests and decisions may be."),
    key("pdp.decisions", Section, Off(""), "Where others than proxies ask for decisions: gRPC, AuthZEN, Envoy's ext_authz."),
    key("pdp.decisions.listen", Address, Required("127.0.0.1:7445"), "Where they are answered, over mTLS with SVIDs."),
    key("pdp.decisions.tokens", Path, Off("tokens"), "File of hashed bearer tokens; with it callers without an SVID may come in over TLS. Read again when it changes."),
    key("pdp.decisions.insecure_loopback", Address, Off("127.0.0.1:7446"), "Loopback address for callers with a token, in plain text."),
    key("pdp.decisions.in_flight", Count, Is("128"), "Requests of one caller in flight."),
    key("pdp.decisions.questions_per_s", Count, Is("20000"), "Questions of one caller in a second; each of a batch counts."),
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
    key("proxy.policy", Choice, Required(""), "Where policy comes from. Exactly one of these."),
    key("proxy.policy.pdp", Address, Off("127.0.0.1:7443"), "Address of a PDP."),
    key("proxy.policy.folder", Path, Off("policies"), "A policy repository on this host, or a bundle file; watched."),
    key("proxy.policy.mesh", Word, Off(""), "The PDP that the directory of the local agent names."),
    key("proxy.policy_trust", Section, Off(""), TRUST),
    key("proxy.policy_trust.keys", Path, Required("trusted.keys"), TRUST_KEYS),
    key("proxy.policy_trust.threshold", Count, Is("1"), TRUST_THRESHOLD),
    key("proxy.policy_trust.stamp_age", Duration, Off("26h"), TRUST_STAMP_AGE),
    key("proxy.policy_trust.stamp_keys", Path, Told("`keys`", "stamp.keys"), TRUST_STAMP_KEYS),
    key("proxy.records", Choice, Required(""), "Where records go. Exactly one of these."),
    key("proxy.records.audit", Address, Off("127.0.0.1:7444"), "Address of an audit service; records wait in a spool on disk until it has them."),
    key("proxy.records.log", Path, Off("log"), "Folder of a log of its own."),
    key("proxy.records.mesh", Word, Off(""), "The audit service that the directory of the local agent names, through a spool."),
    key("proxy.engine", OneOf(&["indexed", "reference"]), Is("indexed"), "How it decides. `reference` is Cedar's own authorizer on the whole set, without index and caches, at 1 to 2 µs a policy and request."),
    key("proxy.stale_after", Duration, Is("24h"), "How long a snapshot may go without the word of its PDP that it is the newest, 1 s at least; then every request is undecided (503)."),
    key("proxy.drain", Section, Is(""), "How it ends."),
    key("proxy.drain.deadline", Duration, Is("30s"), "How long what is in flight may take when the proxy ends; then it is cut."),
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
    key("proxy.limits.header_underscores", Bool, Is("false"), "Whether field names with `_` are accepted; otherwise they are answered with 400, for some applications read `_` as `-`."),
    key("proxy.limits.header_read_timeout", Duration, Is("10s"), "Time to send a request head; then the connection is closed."),
    key("proxy.limits.handshake_timeout", Duration, Is("5s"), "Time for a TLS handshake; then the connection is closed."),
    key("proxy.limits.idle_timeout", Duration, Is("5m"), "Time without a request; then the connection is closed."),
    key("proxy.limits.body_bytes", Bytes, Told("no limit", "10MiB"), "Bytes of a request body; more is answered with 413."),
    key("proxy.limits.stream_age", Duration, Is("1h"), "Greatest age of a stream (gRPC, WebSocket, server-sent events), which no request timeout ends; then it is closed, and its caller opens it again."),
    key("proxy.limits.h2_streams", Count, Is("256"), "Streams in flight on one HTTP/2 connection; more wait."),
    key("proxy.limits.connect_timeout", Duration, Is("3s"), "Time to connect upstream, its handshake included; then 502."),
    key("proxy.limits.audit_wait", Duration, Is("2s"), "Time that the record of a `strict` request may take to be on disk; then 503."),
    key("proxy.limits.upstream_idle", Count, Is("1024"), "Idle HTTP/1.1 connections kept to the application."),
    key("proxy.limits.upstream_idle_timeout", Duration, Is("30s"), "How long an idle upstream connection is kept."),
];
