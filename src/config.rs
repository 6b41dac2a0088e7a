//! Configuration of the roles: one YAML file, a section for each.
//!
//! Two stages: as written (unknown keys refused with a suggestion, every mistake
//! told at once) and as meant (validated types, paths relative to the file).
//! `palisade run ROLE` needs only the sections that the role reads. Every key
//! with its default: `deploy/palisade.yaml`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use palisade_audit::{privacy::Rules, spool::SpoolOptions};
use palisade_ca::registration::RegistrationConfig;
use palisade_mesh::{
    diagnostic::Diagnostic,
    spiffe_id::TrustDomain,
    yaml::{self, Codes, Source},
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::net::identity::IdentityConfig;

pub mod alerts;
pub mod archive;
pub mod authzen;
mod de;
pub mod decisions;
pub mod keys;
pub mod layers;
pub mod log_key;
pub mod policies;
pub mod privacy;
mod proxy;
pub mod readers;
pub mod retention;
pub mod rollout;
pub mod schedules;
pub mod schema;
pub mod spool;
pub mod syslog;
pub mod template;
pub mod witness;

use alerts::{AlertSection, DeliverSection};
use archive::ArchiveSection;
use decisions::DecisionsSection;
use layers::{Effective, Overrides};
use log_key::LogKeySection;
use policies::PoliciesSection;
use privacy::PrivacySection;
pub use proxy::{DrainSection, PolicySource, ProxySection, RecordTarget, STALE_AFTER_MIN};
use readers::ReadersSection;
use retention::RetentionSection;
use rollout::RolloutSection;
use schedules::ScheduleSection;
use spool::SpoolSection;
use syslog::SyslogSection;
use witness::{WitnessSection, WitnessesSection};

/// Longest configuration file, in bytes.
pub const FILE_LEN_MAX: usize = 1 << 20;

const CODES: Codes = Codes {
    duplicate_key: 8006,
    syntax: 8007,
    too_deep: 8008,
};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Trust domain of the mesh, such as `acme.test`.
    pub trust_domain: TrustDomain,
    /// Name of the mesh for `--mesh` and the control socket. Default: the trust domain.
    pub name: Option<String>,
    /// Folder of everything that must survive a restart. Default: `state` beside the file.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Whether records carry the demo mark. Only the demo sets it.
    #[serde(default)]
    pub demo: bool,
    /// The certificate authority.
    pub ca: Option<CaSection>,
    /// The agent that serves the Workload API.
    pub agent: Option<AgentSection>,
    /// The policy decision point.
    pub pdp: Option<PdpSection>,
    /// The audit service.
    pub audit: Option<AuditSection>,
    /// One proxy.
    pub proxy: Option<ProxySection>,
    /// Folder of Cedar policies about control links, beside the built-in ones.
    pub links: Option<PathBuf>,
    /// What is personal in the records of this process. Default: everything is kept.
    #[serde(default)]
    pub privacy: PrivacySection,
    /// Spools of this process, where records wait until the audit service has them.
    #[serde(default)]
    pub spool: SpoolSection,
}

/// Section `ca`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaSection {
    /// Unix socket on which agents ask for certificates. Default: `ca.sock` in the state folder.
    pub socket: Option<PathBuf>,
    /// File with the key that seals the authorities' keys. Default: `ca/kek` in the state folder.
    pub kek: Option<PathBuf>,
    /// Network address for the agents of other hosts. Default: none, hosts cannot join.
    pub listen: Option<SocketAddr>,
    /// Address at which other hosts reach it, for join tokens. Default: `listen`.
    pub advertise: Option<SocketAddr>,
    /// Life of an X.509-SVID, at least 10 s. Default: 1 h.
    #[serde(default = "default_svid_ttl", deserialize_with = "lifetime")]
    pub svid_ttl: Duration,
    /// How long a rotation waits for acknowledgements, at least 1 s. Default:
    /// `svid_ttl`, at least 1 min.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub ack_deadline: Option<Duration>,
    /// Certificates that may be replaced in a second after a forced rotation. Default: 100.
    #[serde(default = "default_reissue_rate")]
    pub reissue_rate: u32,
    /// Address of the audit service that gets its records, when it is in another process;
    /// `mesh` asks the directory.
    pub audit: Option<PartAddress>,
    /// Who gets which identity.
    #[serde(default)]
    pub registrations: Vec<RegistrationConfig>,
}

/// Section `agent`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// Unix socket of the Workload API. Default: `agent.sock` in the state folder.
    pub socket: Option<PathBuf>,
    /// Unix socket of the CA, when it is in another process. Default: `ca.sock` in the state folder.
    pub ca_socket: Option<PathBuf>,
    /// Joins the mesh of an authority on another host.
    pub join: Option<JoinSection>,
    /// Address of the audit service that gets its records; `mesh` asks the directory.
    /// Default on a joined host: `mesh`.
    pub audit: Option<PartAddress>,
}

/// How this host joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinSection {
    /// File with a join token, read until the host has joined. Default: the credential
    /// `join-token` of systemd, then `PALISADE_JOIN_TOKEN`.
    pub token_file: Option<PathBuf>,
    /// Name of this node; a token for another is refused. Default: the token's.
    pub node: Option<palisade_ca::join::NodeName>,
    /// Address of the authority, where it has moved. Default: the token's.
    pub ca: Option<SocketAddr>,
}

/// Section `pdp`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PdpSection {
    /// The policy repository: a folder, a bundle file, an address, or a map.
    pub policies: PoliciesSection,
    /// Who must have signed what it serves. Default: nobody.
    pub policy_trust: Option<PolicyTrust>,
    /// Where proxies subscribe.
    pub listen: SocketAddr,
    /// How the decision APIs decide. Default: `indexed`.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Where its identity comes from, when the CA is in another process. Default: the
    /// Workload API at `agent.sock` in the state folder.
    pub identity: Option<IdentityConfig>,
    /// Address of the audit service that gets its records, when it is in another process;
    /// `mesh` asks the directory.
    pub audit: Option<PartAddress>,
    /// How each new revision goes to the proxies. Default: to all of them at once.
    pub rollout: Option<RolloutSection>,
    /// Where others than proxies ask for decisions. Default: nowhere.
    pub decisions: Option<DecisionsSection>,
}

/// Section `audit`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSection {
    /// Where reporters push their records.
    pub listen: SocketAddr,
    /// Folder of log and index. Default: `audit` in the state folder.
    pub dir: Option<PathBuf>,
    /// Folder with the keys of persons. Default: `subjects` in that folder.
    pub subjects: Option<PathBuf>,
    /// File with the key that wraps them. Default: `kek` in that folder.
    pub kek: Option<PathBuf>,
    /// The device that has the key of the log. Default: a file of the log has it.
    pub log_key: Option<LogKeySection>,
    /// Where its identity comes from, when the CA is in another process. Default: the
    /// Workload API at `agent.sock` in the state folder.
    pub identity: Option<IdentityConfig>,
    /// The logs that are witnessed here. Default: none.
    pub witness: Option<WitnessSection>,
    /// Who cosigns the log. Default: nobody.
    pub witnesses: Option<WitnessesSection>,
    /// Where others than this host's user ask it. Default: nowhere.
    pub api: Option<ReadersSection>,
    /// Whom alerts and scheduled reports are brought to. Default: nobody.
    #[serde(default)]
    pub deliver: Vec<DeliverSection>,
    /// What is looked for in the log as it grows. Default: nothing.
    #[serde(default)]
    pub alerts: Vec<AlertSection>,
    /// Reports that are made by themselves. Default: none.
    #[serde(default)]
    pub schedules: Vec<ScheduleSection>,
    /// Policy repository that reports ask, where they are about policies. Default: the
    /// revision in force in the mesh on this host.
    pub policies: Option<PathBuf>,
    /// Where records are forwarded to as they come. Default: nowhere.
    pub syslog: Option<SyslogSection>,
    /// How long records are kept, by class. Default: for ever.
    #[serde(default)]
    pub retention: RetentionSection,
    /// Where old segments of the log go. Default: nowhere.
    pub archive: Option<ArchiveSection>,
}

/// Who must have signed a policy bundle before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTrust {
    /// File of public keys, one a line: `NAME ed25519:BASE64`.
    pub keys: PathBuf,
    /// How many of them must have signed content and number. Default: 1.
    #[serde(default = "default_threshold")]
    pub threshold: usize,
    /// Demands a stamp, no older than this. Default: none is demanded.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub stamp_age: Option<Duration>,
    /// File of the keys that sign stamps. Default: `keys`.
    pub stamp_keys: Option<PathBuf>,
    /// Invariants that must have been proved when the bundle was built. Default: none.
    #[serde(default)]
    pub require_proved: Vec<String>,
}

impl PolicyTrust {
    fn resolve(&mut self, base: &Path) {
        let files = std::iter::once(&mut self.keys).chain(&mut self.stamp_keys);
        files.for_each(|file| *file = base.join(&*file));
    }
}

/// Where a part of the mesh is, as written: an address, or `mesh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartAddress {
    /// Here.
    At(SocketAddr),
    /// Where the directory says.
    Mesh,
}

impl<'de> Deserialize<'de> for PartAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "mesh" {
            return Ok(Self::Mesh);
        }
        text.parse().map(Self::At).map_err(|_| {
            serde::de::Error::custom(format!("`{text}` is neither `IP:PORT` nor `mesh`"))
        })
    }
}

/// How a proxy or a PDP decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// By index and caches; a sample is compared with the reference.
    #[default]
    Indexed,
    /// By Cedar's own authorizer on the whole set, each time.
    Reference,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Every mistake in it, each with its place.
    pub fn read(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        Self::read_over(path, &Overrides::default()).map(|(config, _)| config)
    }

    /// Reads and checks a file under what overrides it; also tells the value of every
    /// key and who set it.
    ///
    /// # Errors
    /// Every mistake in it, each with its place.
    pub fn read_over(
        path: &Path,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Effective>), Vec<Diagnostic>> {
        let text = fs::read_to_string(path).map_err(|error| {
            vec![
                Diagnostic::error(8001, format!("`{}` cannot be read", path.display()))
                    .cause(error.to_string())
                    .help("name a configuration file: --config FILE"),
            ]
        })?;
        let name = path.display().to_string();
        let (mut config, effective) = Self::parse_over(&name, &text, overrides)?;
        // Absolute before its folder is taken: a bare file name has the empty one.
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        config.resolve(file.parent().unwrap_or(Path::new("/")));
        Ok((config, effective))
    }

    /// Parses a text; `name` is what diagnostics call it.
    ///
    /// # Errors
    /// Every mistake in it, each with its place.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Diagnostic>> {
        Self::parse_over(name, text, &Overrides::default()).map(|(config, _)| config)
    }

    /// Parses a text under what overrides it; see [`Config::read_over`].
    ///
    /// # Errors
    /// Every mistake in it, each with its place.
    pub fn parse_over(
        name: &str,
        text: &str,
        overrides: &Overrides,
    ) -> Result<(Self, Vec<Effective>), Vec<Diagnostic>> {
        if text.len() > FILE_LEN_MAX {
            return Err(vec![
                Diagnostic::error(
                    8002,
                    format!("`{name}` is larger than {FILE_LEN_MAX} bytes"),
                )
                .help("move registrations out of it, or split the roles"),
            ]);
        }
        let file = Source::new(name, text);
        let mut found = Vec::new();
        let Some(mut root) = yaml::parse(&file, CODES, &mut found) else {
            return Err(found);
        };
        let whole = overrides.apply(&file, &mut root, &mut found);
        let read = de::read(&whole, root.clone()).map_err(|more| found.extend(more));
        let config: Option<Self> = read.ok();
        if let Some(config) = &config {
            let more = config.spool.check().into_iter();
            found.extend(more.map(|d| placed(d, "spool", &whole, &root)));
            let more = config.check_privacy().into_iter();
            found.extend(more.map(|d| placed(d, "privacy", &whole, &root)));
        }
        for section in config.iter().filter_map(|c| c.proxy.as_ref()) {
            let mut more = section.listeners(false).check();
            more.extend(section.check_stale());
            more.extend(section.check_stamp_age());
            more.extend(section.check_alone(cfg!(feature = "full")));
            found.extend(more.into_iter().map(|d| placed(d, "proxy", &whole, &root)));
        }
        #[cfg(feature = "full")]
        for rollout in config
            .iter()
            .filter_map(|c| c.pdp.as_ref()?.rollout.as_ref())
        {
            let more = rollout.plan().err().unwrap_or_default();
            let more = more.into_iter();
            found.extend(more.map(|d| placed(d, "pdp.rollout", &whole, &root)));
        }
        let pdp = config.iter().filter_map(|c| c.pdp.as_ref());
        for section in pdp.filter_map(|pdp| pdp.decisions.as_ref()) {
            let more = section.check().into_iter();
            found.extend(more.map(|d| placed(d, "pdp.decisions", &whole, &root)));
        }
        #[cfg(feature = "full")]
        if let Some(config) = &config {
            let section = config.pdp.iter().filter_map(|pdp| pdp.decisions.as_ref());
            for authzen in section.filter_map(|d| d.authzen.as_ref()) {
                let more = authzen.names(&config.trust_domain).err();
                let more = more.into_iter().flatten();
                found.extend(more.map(|d| placed(d, "pdp.decisions.authzen", &whole, &root)));
            }
        }
        #[cfg(feature = "full")]
        for audit in config.iter().filter_map(|c| c.audit.as_ref()) {
            let of_witness = audit.witness.iter().flat_map(WitnessSection::check);
            found.extend(of_witness.map(|d| placed(d, "audit.witness", &whole, &root)));
            let of_witnesses = audit.witnesses.iter().flat_map(WitnessesSection::check);
            found.extend(of_witnesses.map(|d| placed(d, "audit.witnesses", &whole, &root)));
            found.extend(alerts::check(&audit.alerts, &audit.deliver));
            found.extend(schedules::check(&audit.schedules, &audit.deliver));
            let of_retention = audit.retention.periods().err().unwrap_or_default();
            let of_retention = of_retention.into_iter();
            found.extend(of_retention.map(|d| placed(d, "audit.retention", &whole, &root)));
            let of_archive = audit.archive.iter().flat_map(ArchiveSection::check);
            found.extend(of_archive.map(|d| placed(d, "audit.archive", &whole, &root)));
            let syslog = audit.syslog.iter();
            found.extend(syslog.filter_map(|s| s.parsed("-").err()));
        }
        layers::relocate(&mut found, &file, &whole);
        match config {
            Some(config) if found.is_empty() => Ok((config, overrides.effective(&file, &root))),
            _ => Err(found),
        }
    }

    /// Limits of each spool of this process, and what is personal in its records.
    pub fn spool_options(&self) -> SpoolOptions {
        SpoolOptions {
            spool_bytes: self.spool.bytes,
            rules: self.privacy(),
            ..SpoolOptions::default()
        }
    }

    /// What is personal in the records of this process.
    pub fn privacy(&self) -> Arc<Rules> {
        // A file with a mistake in it is not read.
        Arc::new(self.privacy.rules().unwrap_or_default())
    }

    fn check_privacy(&self) -> Vec<Diagnostic> {
        let section = &self.privacy;
        let rules = match section.rules() {
            Ok(rules) => rules,
            Err(found) => return found,
        };
        let own_log = self.proxy.as_ref().map(|proxy| &proxy.records);
        if rules.needs_keys() && matches!(own_log, Some(RecordTarget::Log(_))) {
            let key = match section.seal.is_empty() {
                true => "pseudonym",
                false => "seal",
            };
            let told = format!("`{key}` needs an audit service, and this proxy keeps its own log");
            return vec![
                Diagnostic::error(7561, told)
                    .cause("the keys of persons are with the audit service")
                    .help("write the fields under `mask`, or send records to an audit service"),
            ];
        }
        Vec::new()
    }

    /// Name of the mesh.
    pub fn mesh_name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.trust_domain.as_str())
    }

    /// Path of the CA's socket.
    pub fn ca_socket(&self) -> PathBuf {
        let of_ca = self.ca.as_ref().and_then(|c| c.socket.clone());
        let of_agent = self.agent.as_ref().and_then(|a| a.ca_socket.clone());
        of_ca
            .or(of_agent)
            .unwrap_or_else(|| self.state_dir.join("ca.sock"))
    }

    /// Path of the Workload API's socket.
    pub fn agent_socket(&self) -> PathBuf {
        let of_agent = self.agent.as_ref().and_then(|a| a.socket.clone());
        of_agent.unwrap_or_else(|| self.state_dir.join("agent.sock"))
    }

    /// Where a control-plane role gets its identity when nothing is said.
    pub fn default_identity(&self) -> IdentityConfig {
        IdentityConfig::WorkloadApi(format!("unix://{}", self.agent_socket().display()))
    }

    /// Makes every path start at the file's folder `base`.
    fn resolve(&mut self, base: &Path) {
        let absolute = |path: &mut PathBuf| *path = base.join(&*path);
        absolute(&mut self.state_dir);
        self.links.iter_mut().for_each(absolute);
        if let Some(ca) = &mut self.ca {
            ca.socket.iter_mut().chain(&mut ca.kek).for_each(absolute);
        }
        if let Some(agent) = &mut self.agent {
            agent
                .socket
                .iter_mut()
                .chain(&mut agent.ca_socket)
                .for_each(absolute);
            let join = agent.join.iter_mut();
            join.flat_map(|j| &mut j.token_file).for_each(absolute);
        }
        if let Some(pdp) = &mut self.pdp {
            pdp.policies.resolve(base);
            pdp.policy_trust.iter_mut().for_each(|t| t.resolve(base));
            pdp.identity.iter_mut().for_each(|i| i.resolve(base));
            let decisions = pdp.decisions.iter_mut();
            decisions.flat_map(|d| &mut d.tokens).for_each(absolute);
        }
        if let Some(audit) = &mut self.audit {
            let own = audit.dir.iter_mut().chain(&mut audit.subjects);
            own.chain(&mut audit.kek).for_each(absolute);
            let log_key = audit.log_key.iter_mut();
            log_key.flat_map(|k| k.paths()).for_each(absolute);
            let witnesses = audit.witnesses.iter_mut();
            witnesses.flat_map(|w| &mut w.ca).for_each(absolute);
            audit.identity.iter_mut().for_each(|i| i.resolve(base));
            audit.deliver.iter_mut().for_each(|d| d.resolve(base));
            let schedules = audit.schedules.iter_mut();
            schedules.for_each(|s| absolute(&mut s.folder));
            if let Some(syslog) = &mut audit.syslog {
                let files = syslog.ca.iter_mut().chain(&mut syslog.cert);
                files.chain(&mut syslog.key).for_each(absolute);
            }
            if let Some(archive) = &mut audit.archive {
                let files = archive.credentials.iter_mut();
                files.chain(&mut archive.ca).for_each(absolute);
            }
            if let Some(api) = &mut audit.api {
                absolute(&mut api.policy);
                api.tokens.iter_mut().for_each(absolute);
            }
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.identity.resolve(base);
            proxy.policy_trust.iter_mut().for_each(|t| t.resolve(base));
            if let PolicySource::Folder(folder) = &mut proxy.policy {
                absolute(folder);
            }
            if let RecordTarget::Log(folder) = &mut proxy.records {
                absolute(folder);
            }
        }
    }
}

/// Gives a diagnostic that begins with a key of `section` the place of that key.
fn placed(diagnostic: Diagnostic, section: &str, whole: &Source, root: &yaml::Node) -> Diagnostic {
    let mut words = diagnostic.message.split('`');
    let key = words.nth(1).unwrap_or_default();
    match layers::find(root, &format!("{section}.{key}")) {
        Some(node) if diagnostic.location.is_none() => {
            let at = whole.span(node.span);
            diagnostic.at(at)
        }
        _ => diagnostic,
    }
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("state")
}

fn default_svid_ttl() -> Duration {
    Duration::from_secs(3600)
}

fn default_reissue_rate() -> u32 {
    palisade_ca::REISSUE_RATE
}

fn default_threshold() -> usize {
    1
}

/// A span of time as people write it: `90s`, `15m`, `1h 30m`.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let span = text.parse::<jiff::SignedDuration>().ok()?;
    Duration::try_from(span).ok()
}

fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    span(&text).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "`{text}` is not a span of time such as `60s` or `1h`"
        ))
    })
}

fn optional_lifetime<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    lifetime(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
