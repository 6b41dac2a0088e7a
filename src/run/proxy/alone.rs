//! A proxy without a control plane: policy from a folder, records in a log of its own.
//!
//! In the full program only. Who runs the slim one beside workloads has a PDP and an audit
//! service elsewhere, and spares it what numbers revisions and seals logs.

use std::{path::Path, sync::Arc};

use palisade_audit::{
    local::LocalSink,
    log::{Log, LogOptions},
    privacy::Rules,
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    sink::RecordSink,
    spiffe_id::{SpiffeId, TrustDomain},
};
use palisade_pdp::publish::{Recorder, Source, SourceConfig, State};

use super::{
    super::{policy, unusable},
    feed::Parts,
};
use crate::config::ProxySection;

/// Worker number of the proxy's own records, apart from those of its workers.
const OWN_WORKER: u32 = u32::MAX;

/// Opens the log in `folder`, and a sink that reports as `reporter`, without what is
/// personal by `rules`.
pub(super) fn log(
    folder: &Path,
    reporter: SpiffeId,
    rules: Arc<Rules>,
    clock: &Clock,
) -> Result<(Log, Arc<dyn RecordSink>), Vec<Diagnostic>> {
    let unusable = |why: String| vec![unusable(&why)];
    let domain = TrustDomain::parse(reporter.trust_domain());
    let options = LogOptions {
        rules,
        ..LogOptions::new(domain.map_err(|e| unusable(e.to_string()))?)
    };
    let log = Log::open(folder, options, clock.clone()).map_err(|e| unusable(e.to_string()))?;
    let sink = LocalSink::new(log.clone(), reporter, clock.clone());
    Ok((log, Arc::new(sink)))
}

/// Puts in force whatever good revision the folder holds.
pub(super) async fn folder(
    parts: &Parts<'_>,
    sink: &dyn RecordSink,
    section: &ProxySection,
    folder: &Path,
) -> Result<(), Vec<Diagnostic>> {
    let recorder = Recorder::new(
        sink.open(OWN_WORKER),
        parts.identity.id().as_str(),
        parts.config.demo,
        parts.clock.clone(),
    )
    .without_authors();
    let mut watched = SourceConfig::new(folder, parts.config.state_dir.join("policy"));
    watched.domain = Some(parts.config.trust_domain.clone());
    watched.trust = section.policy_trust.as_ref().map(policy::trust);
    let source = Source::open(watched, parts.clock.clone(), Arc::new(recorder))
        .await
        .map_err(|e| vec![e.diagnostic().clone()])?;
    let (mut state, bars) = (source.state(), parts.bars.clone());
    let first = state.borrow().clone();
    if let (None, Some(rejected)) = (&first.current, &first.rejected) {
        return Err(rejected.diagnostics.clone());
    }
    let (own, engine) = (parts.identity.id(), section.engine);
    let mut in_force = 0;
    let mut put = move |state: &State| {
        let Some(published) = state.current.as_ref().filter(|p| p.sequence() != in_force) else {
            return Ok(());
        };
        let compiled = (*published.compiled).clone();
        let snapshot = policy::snapshot_for(&own, compiled, published.sequence())?;
        bars.put(policy::plugged(snapshot, engine));
        in_force = published.sequence();
        Ok(())
    };
    put(&first).map_err(|d: Diagnostic| vec![d])?;
    let stop = parts.stop.clone();
    tokio::spawn(async move {
        let follow = async {
            while state.changed().await.is_ok() {
                let now = state.borrow_and_update().clone();
                if let Some(rejected) = &now.rejected {
                    for diagnostic in &rejected.diagnostics {
                        tracing::error!(%diagnostic, "policy folder was rejected, keeping the present revision");
                    }
                }
                if let Err(error) = put(&now) {
                    tracing::error!(%error, "revision has no engine, keeping the present one");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = source.run() => {}
            () = follow => {}
        }
    });
    Ok(())
}
