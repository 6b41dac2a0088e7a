//! The engine, plugged into the proxy: the two crates do not know each other.

use std::sync::Arc;

use palisade_mesh::{
    catalogue::{Catalogue, ServiceId},
    decision::{Answer, Pins, Question, SelfCheck},
    diagnostic::Diagnostic,
    snapshot::{Digest, Versions},
    spiffe_id::SpiffeId,
    wire::policy::{Endpoints as WireEndpoints, Revision},
};
use palisade_pdp::{
    author::{self, Loaded},
    bundle::trust::TrustConfig,
    compiled::Compiled,
    decide::{Engine, Snapshot, SnapshotError},
};
use palisade_proxy::{Decider, Endpoint, EndpointTable, PolicySnapshot};
#[cfg(feature = "full")]
use prost::Message as _;

use crate::config::{EngineChoice, PolicyTrust};

/// Who must have signed, as it is configured.
pub(super) fn trust(configured: &PolicyTrust) -> TrustConfig {
    TrustConfig {
        keys: configured.keys.clone(),
        threshold: configured.threshold,
        stamp_age: configured.stamp_age,
        stamp_keys: configured.stamp_keys.clone(),
        proved: configured.require_proved.clone(),
    }
}

/// A snapshot as the proxy takes it.
struct Plugged {
    snapshot: Arc<Snapshot>,
    rules: Option<Digest>,
    engine: EngineChoice,
}

impl PolicySnapshot for Plugged {
    fn versions(&self) -> Versions {
        self.snapshot.versions()
    }

    fn catalogue(&self) -> &Arc<Catalogue> {
        self.snapshot.catalogue()
    }

    fn self_check(&self) -> SelfCheck {
        self.snapshot.self_check()
    }

    fn decider(self: Arc<Self>) -> Box<dyn Decider> {
        let engine = self.snapshot.engine();
        Box::new(PluggedEngine(match self.engine {
            EngineChoice::Indexed => engine,
            EngineChoice::Reference => engine.by_reference(),
        }))
    }

    fn rules(&self) -> Option<Digest> {
        self.rules
    }
}

struct PluggedEngine(Engine);

impl Decider for PluggedEngine {
    fn decide(&mut self, question: &Question<'_>) -> Answer {
        self.0.decide(question)
    }

    fn decide_on(&mut self, question: &Question<'_>, pins: &mut Pins) -> Answer {
        self.0.decide_on(question, pins)
    }
}

/// The snapshot as the proxy takes it, to be decided under by this engine.
pub(super) fn plugged(snapshot: Arc<Snapshot>, engine: EngineChoice) -> Arc<dyn PolicySnapshot> {
    let rules = snapshot.compiled().rules_digest();
    Arc::new(Plugged {
        snapshot,
        rules,
        engine,
    })
}

/// Builds the engine of a compiled repository.
///
/// # Errors
/// When the engine refuses it.
pub(crate) fn snapshot(compiled: Compiled, sequence: u64) -> Result<Arc<Snapshot>, Diagnostic> {
    Snapshot::new(compiled, sequence).map_err(|error| no_engine(&error))
}

/// What to say where the engine refuses a revision.
pub(crate) fn no_engine(error: &SnapshotError) -> Diagnostic {
    Diagnostic::error(6001, "the engine cannot be built from this revision")
        .cause(error.to_string())
        .help("see the policy it names: palisade policy validate")
}

/// Builds the engine of a proxy: its policy must be of its own trust domain. In
/// another one every caller is a foreigner, and a `forbid` on a group of ours
/// would not fire.
///
/// # Errors
/// When it is of another one, or the engine refuses it.
pub(super) fn snapshot_for(
    own: &SpiffeId,
    compiled: Compiled,
    sequence: u64,
) -> Result<Arc<Snapshot>, Diagnostic> {
    if own.is_member_of(&compiled.trust_domain) {
        return snapshot(compiled, sequence);
    }
    let domain = &compiled.trust_domain;
    Err(
        Diagnostic::error(6004, format!("policy is for trust domain `{domain}`"))
            .cause(format!("this proxy is `{own}`"))
            .help("give it the policy of its own trust domain, or the right identity"),
    )
}

/// Compiles a received revision and builds the engine of the proxy `own`.
///
/// # Errors
/// As [`of_revision`], and when it is of another trust domain.
pub(super) fn of_revision_for(
    own: &SpiffeId,
    revision: &Revision,
) -> Result<Arc<Snapshot>, Diagnostic> {
    let loaded = author::compile_slice(revision.bundle.clone(), own);
    snapshot_for(own, compiled(revision, loaded)?, revision.sequence)
}

#[cfg(feature = "full")]
/// Compiles a revision of our own and builds its engine.
///
/// # Errors
/// When its bytes are not what its digest says, or it does not compile.
pub(super) fn of_revision(revision: &Revision) -> Result<Arc<Snapshot>, Diagnostic> {
    let loaded = author::compile(revision.bundle.clone());
    snapshot(compiled(revision, loaded)?, revision.sequence)
}

#[cfg(feature = "full")]
/// Builds the engine of a revision as the local socket gives it: encoded.
///
/// # Errors
/// As [`of_revision`], and when the bytes are none.
pub(crate) fn of_wire(bytes: &[u8]) -> Result<Arc<Snapshot>, Diagnostic> {
    let revision = Revision::decode(bytes).map_err(|error| {
        Diagnostic::error(9105, "the running mesh did not answer as expected")
            .cause(error.to_string())
            .help("see whether it still runs: palisade status")
    })?;
    of_revision(&revision)
}

fn compiled(revision: &Revision, loaded: Loaded) -> Result<Compiled, Diagnostic> {
    let first = loaded.diagnostics.into_iter().find(Diagnostic::is_error);
    let compiled = loaded.compiled.ok_or_else(|| {
        first.unwrap_or_else(|| {
            Diagnostic::error(3012, "revision does not compile")
                .help("the last good one stays in force; see the PDP's log")
        })
    })?;
    if Digest::from_slice(&revision.sha256) != Some(compiled.digest) {
        return Err(
            Diagnostic::error(3011, "revision is not what its digest says")
                .cause(format!("sequence {}", revision.sequence))
                .help("it was damaged on its way; the last good one stays in force"),
        );
    }
    Ok(compiled)
}

/// The endpoint table of what a PDP sent. What cannot be read is left out: it would
/// never be connected to.
pub(super) fn endpoints(wire: &WireEndpoints) -> EndpointTable {
    let readable = wire.endpoints.iter().filter_map(|e| {
        let address = e.address.parse().ok()?;
        let identity = SpiffeId::parse(&e.identity).ok()?;
        let mut parts = e.service.splitn(3, '/');
        let domain = palisade_mesh::spiffe_id::TrustDomain::parse(parts.next()?).ok()?;
        let service = ServiceId::new(&domain, parts.next()?, parts.next()?);
        Some((service, Endpoint { address, identity }))
    });
    EndpointTable::new(wire.version, readable)
}
