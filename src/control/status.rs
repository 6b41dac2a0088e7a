//! How each role stands, as `palisade status` shows it.

use std::path::PathBuf;

use palisade_mesh::clock::Clock;
use palisade_proxy::ProxyConfig;
use serde::{Deserialize, Serialize};

use crate::config::EngineChoice;

/// The certificate authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// Trust domain.
    pub trust_domain: String,
    /// Authorities, roots first.
    pub authorities: Vec<AuthorityStatus>,
    /// Identities with a certificate that is still valid.
    pub identities: usize,
    /// Which life of its state this is.
    pub epoch: u64,
    /// Sequence of its trust state.
    pub sequence: u64,
    /// A rotation that waits for acknowledgements, if there is one.
    pub waiting: Option<WaitingStatus>,
    /// Agents that are live, and what they hold.
    pub agents: Vec<AgentStatus>,
}

/// A rotation that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingStatus {
    /// Key id of the prepared root that is to sign, or of the tainted one that is to go.
    pub key_id: String,
    /// Its state.
    pub state: String,
    /// When it goes on without those who are missing, seconds since the Unix epoch.
    pub deadline_s: i64,
    /// Who is missing: an agent, or a workload and its agent.
    pub missing: Vec<MissingStatus>,
}

/// Somebody that a rotation waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingStatus {
    /// Name of the agent.
    pub agent: String,
    /// The workload; none when it is the agent itself.
    pub spiffe_id: Option<String>,
    /// When the agent was last heard, microseconds since the Unix epoch.
    pub heard_us: i64,
}

/// An agent and what it has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: String,
    /// Epoch of the trust state it holds.
    pub epoch: u64,
    /// Sequence of the trust state it holds.
    pub sequence: u64,
    /// When it was last heard, microseconds since the Unix epoch.
    pub heard_us: i64,
    /// Identities that workloads hold a stream for.
    pub holders: Vec<HolderStatus>,
}

/// An identity in use at an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// Open streams.
    pub streams: u32,
    /// Sequence of the oldest trust state that one of them took.
    pub sequence: u64,
    /// Key ids of the intermediates that signed what they took.
    pub issuers: Vec<String>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// `root` or `intermediate`.
    pub kind: String,
    /// Key id, hexadecimal.
    pub key_id: String,
    /// State: `prepared`, `active`, `retiring`, `retired`, `tainted`, `revoked`.
    pub state: String,
    /// Since when it is in this state, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Key id of the root that signed it.
    pub issuer: String,
    /// SHA-256 of its certificate, hexadecimal.
    pub digest: String,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after_s: i64,
}

/// An identity and its newest certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// SPIFFE ID.
    pub spiffe_id: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before_s: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after_s: i64,
    /// Certificates issued so far.
    pub issued: u64,
    /// Selectors that attested the workload.
    pub selectors: Vec<String>,
    /// Key id of the issuing authority, hexadecimal.
    pub authority: String,
}

/// The policy decision point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PdpStatus {
    /// Where the policy repository is.
    pub folder: String,
    /// How each source of it stands, the repository itself first.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// The revision that runs, if there is one.
    pub revision: Option<RevisionStatus>,
    /// The last candidate that was rejected since, as rendered diagnostics.
    pub rejected: Option<RejectedStatus>,
    /// Subscribed proxies.
    pub proxies: Vec<SubscriberStatus>,
    /// The revision on its way to them, or the last one that was.
    #[cfg(feature = "full")]
    #[serde(default)]
    pub rollout: Option<crate::run::rollout::RolloutStatus>,
    /// The decision APIs, where they are served.
    #[serde(default)]
    pub decisions: Option<DecisionsStatus>,
}

/// The decision APIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionsStatus {
    /// Where they are served.
    pub address: std::net::SocketAddr,
    /// Where in plain text, if anywhere.
    pub insecure: Option<std::net::SocketAddr>,
    /// How they decide.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Decisions under the revision in force that were compared with Cedar's own authorizer.
    #[serde(default)]
    pub checked: u64,
    /// Of these, how many differed.
    #[serde(default)]
    pub differed: u64,
    /// Answers since the start.
    pub answers: Vec<TallyStatus>,
    /// Time that deciding them took, microseconds, all together.
    pub took_us: u64,
    /// Searches.
    pub searches: u64,
    /// Requests of callers that may not ask what they asked.
    pub refused: u64,
    /// Requests of callers that were at a limit.
    pub busy: u64,
    /// Answers that a revision tried beside the one that decided was asked about, too.
    #[serde(default)]
    pub tried: u64,
    /// Of these, stopped by the older of the two and passed by the newer one.
    #[serde(default)]
    pub newly_allowed: u64,
    /// Passed by the older one and stopped by the newer one.
    #[serde(default)]
    pub newly_denied: u64,
    /// Decided by the older one and not by the newer one.
    #[serde(default)]
    pub newly_undecided: u64,
    /// Trials that ended because an engine failed.
    #[serde(default)]
    pub trials_failed: u64,
}

/// How many answers were of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TallyStatus {
    /// `grpc`, `authzen` or `ext_authz`.
    pub api: String,
    /// `allow`, `forbidden`, `not_permitted`, `undecided` or `refused`.
    pub verdict: String,
    /// How many.
    pub count: u64,
}

/// A policy source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name; empty for the repository itself.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// The revision that it has, as it last said.
    pub wanted: String,
    /// The revision of it that is in force; empty when there is none.
    pub has: String,
    /// Since when, microseconds since the Unix epoch.
    pub since_us: Option<i64>,
    /// When it last answered, microseconds since the Unix epoch.
    pub heard_us: Option<i64>,
    /// Who signed what it has.
    pub signer: Option<String>,
    /// What is not in order about it.
    pub faults: Vec<FaultStatus>,
}

/// Something that is not in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultStatus {
    /// Its code.
    pub code: u16,
    /// What.
    pub text: String,
    /// Why.
    pub cause: Option<String>,
    /// How to mend it.
    pub fix: Option<String>,
    /// Since when, microseconds since the Unix epoch.
    pub since_us: i64,
}

/// A policy revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// Its number.
    pub sequence: u64,
    /// Digest of its bundle, hexadecimal.
    pub digest: String,
    /// Since when it runs, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Policies in it.
    pub policies: usize,
    /// Services in it.
    pub services: usize,
    /// Git revision of the folder, if it is a work tree.
    pub git_revision: String,
    /// Who vouches for it, in words.
    pub signed: String,
    /// Ids of its invariants that nobody has proved.
    #[serde(default)]
    pub unproved: Vec<String>,
}

/// A revision that was in force at a PDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRevision {
    /// Its number.
    pub sequence: u64,
    /// Digest of its bundle, hexadecimal.
    pub digest: String,
    /// In force since, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Commit it was read from, or empty.
    pub git_revision: String,
    /// Who vouched for it, in words.
    pub signed: String,
    /// Names of the trusted keys that had signed it.
    pub signers: Vec<String>,
    /// Policies in it.
    pub policies: u64,
    /// Whether it is kept whole.
    pub kept: bool,
}

/// A rejected candidate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RejectedStatus {
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// What is wrong with it.
    pub problems: Vec<super::api::Problem>,
}

impl PartialEq for RejectedStatus {
    fn eq(&self, other: &Self) -> bool {
        self.at_us == other.at_us
    }
}

impl Eq for RejectedStatus {}

/// A proxy as the PDP sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberStatus {
    /// Name.
    pub instance: String,
    /// Proven identity.
    pub spiffe_id: String,
    /// Revision it has acknowledged.
    pub sequence: u64,
    /// Revision it should have.
    #[serde(default)]
    pub wanted: u64,
    /// Why it refused the last revision, if it did.
    pub nack: Option<String>,
    /// End of its certificate, seconds since the Unix epoch.
    pub svid_not_after_s: i64,
    /// Requests since its start.
    pub requests: u64,
    /// Of them allowed.
    pub allowed: u64,
    /// Of them denied.
    pub denied: u64,
    /// Of them undecided.
    pub undecided: u64,
    /// Records that wait in its spool.
    pub spooled: u64,
    /// Whether its stream is open.
    pub connected: bool,
    /// When it was last heard of, microseconds since the Unix epoch.
    pub seen_us: i64,
    /// Whether it is about to end.
    #[serde(default)]
    pub draining: bool,
    /// How far its clock was ahead of the PDP's, microseconds.
    #[serde(default)]
    pub clock_ahead_us: Option<i64>,
    /// Other connected processes of the same identity and name.
    #[serde(default)]
    pub rivals: usize,
}

/// The audit service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Folder of log and index.
    pub folder: String,
    /// Durable records.
    pub records: u64,
    /// Records under the last signed checkpoint.
    pub checkpointed: u64,
    /// Public key of the log, `NAME+HASH+KEY`.
    #[serde(default)]
    pub key: String,
    /// Root hash of that checkpoint, base64.
    pub root: String,
    /// When it was signed, microseconds since the Unix epoch.
    pub checkpoint_us: i64,
    /// Records that are searchable.
    pub indexed: u64,
    /// Gaps in streams that are open now.
    pub gaps: usize,
    /// Where records are forwarded to, if anywhere.
    #[serde(default)]
    pub syslog: Option<SyslogStatus>,
    /// Where old segments go, if anywhere.
    #[serde(default)]
    pub archive: Option<ArchiveState>,
    /// Alerts that nobody has answered for.
    #[serde(default)]
    pub open_alerts: usize,
    /// Records under the last checkpoint that enough witnesses have cosigned; none
    /// without witnesses.
    #[serde(default)]
    pub cosigned: Option<u64>,
    /// Who cosigns the log.
    #[serde(default)]
    pub witnesses: Vec<WitnessStatus>,
    /// The logs that are witnessed here.
    #[serde(default)]
    pub witnessing: Option<WitnessingStatus>,
}

/// The archive that old segments go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveState {
    /// Its address.
    pub url: String,
    /// Why it could not be used the last time.
    pub fault: Option<String>,
}

/// The syslog receiver that records are forwarded to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyslogStatus {
    /// Where it is.
    pub address: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Since when that is so, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Index of the first record that it may not have.
    pub position: u64,
    /// Messages since the start.
    pub messages: u64,
    /// Why it is not connected.
    pub fault: Option<String>,
}

/// A witness of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessStatus {
    /// Its name.
    pub name: String,
    /// Where it is asked.
    pub url: String,
    /// Records under the checkpoint that it cosigned last; 0 for none that is known.
    pub size: u64,
    /// When it cosigned last, microseconds since the Unix epoch.
    pub signed_us: Option<i64>,
    /// Whether it has seen another history of the log.
    pub conflict: bool,
    /// Why it did not cosign the last time.
    pub fault: Option<String>,
}

/// The witness that runs here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessingStatus {
    /// Where it is asked.
    pub address: std::net::SocketAddr,
    /// Its public key, `NAME+HASH+KEY`.
    pub key: String,
    /// Each log, with the records under the checkpoint that was cosigned last.
    pub logs: Vec<(String, u64)>,
}

/// One proxy, told by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Name.
    pub instance: String,
    /// Own identity.
    pub spiffe_id: String,
    /// End of its certificate, seconds since the Unix epoch.
    pub svid_not_after_s: i64,
    /// Policy sequence in force; 0 without a snapshot.
    pub sequence: u64,
    /// Digest in force, hexadecimal.
    pub digest: String,
    /// Who vouches for it, in words; none without a PDP.
    #[serde(default)]
    pub signed: Option<String>,
    /// How it decides.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Services of which an endpoint is known.
    pub endpoints: usize,
    /// Bound address of the inbound listener.
    pub inbound: Option<std::net::SocketAddr>,
    /// Bound address of the outbound listener.
    pub outbound: Option<std::net::SocketAddr>,
    /// Bound address of the admin listener.
    pub admin: Option<std::net::SocketAddr>,
    /// Requests since its start.
    pub requests: u64,
    /// Records that wait in its spool.
    pub spooled: u64,
    /// Whether it is about to end.
    pub draining: bool,
    /// Number of the kill list in force; 0 before the first change of it.
    #[serde(default)]
    pub kill_list: u64,
    /// Time since its PDP confirmed the snapshot, in seconds; none without a PDP.
    pub snapshot_age_s: Option<u64>,
    /// Whether the snapshot is older than allowed, and every request undecided.
    pub stale: bool,
    /// Whether its PDP is connected; none without a PDP.
    pub connected: Option<bool>,
}

/// The configuration that a proxy runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProxyConfigStatus {
    /// The file it came from.
    pub file: Option<PathBuf>,
    /// Since when it is in force, microseconds since the Unix epoch.
    pub since_us: i64,
    /// Listeners and limits.
    pub listeners: ProxyConfig,
    /// Limit of the snapshot's age, in seconds.
    pub stale_after_s: f64,
    /// Deadline of a drain, in seconds.
    pub drain_deadline_s: f64,
    /// When what is on disk now was refused, microseconds since the Unix epoch.
    pub rejected_us: Option<i64>,
    /// Why.
    pub rejected: Vec<super::api::Problem>,
}

/// How long ago `us` was, as people say it.
pub fn ago(clock: &Clock, us: i64) -> String {
    format!("{} ago", span(clock, us))
}

/// How much time has passed since `us`, microseconds since the Unix epoch.
pub fn span(clock: &Clock, us: i64) -> String {
    let us = u64::try_from(clock.now_us() - us).unwrap_or_default();
    crate::render::duration(std::time::Duration::from_micros(us))
}

/// How far `seconds` since the Unix epoch lie ahead, as people say it.
pub fn ahead(clock: &Clock, seconds: i64) -> String {
    match u64::try_from(seconds - clock.now_us() / 1_000_000) {
        Ok(left) => format!(
            "in {}",
            crate::render::duration(std::time::Duration::from_secs(left))
        ),
        Err(_) => "expired".into(),
    }
}
