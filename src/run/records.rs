//! Where the control plane's own parts leave their records: straight in the log
//! when it is in this process, else in a spool that is sent to the audit service.

use std::sync::{Arc, OnceLock};

use axum::{Json, Router, routing::get};
use palisade_audit::spool::Spool;
#[cfg(feature = "full")]
use palisade_audit::{local::LocalSink, log::Log};
use palisade_mesh::{
    clock::Clock, diagnostic::Diagnostic, sink::RecordSink, spiffe_id::SpiffeId, svid::Identity,
};
use tokio::sync::Notify;

use super::{Role, keeping, link::Source, unusable};
use crate::{
    config::Config,
    net::{directory::Whereabouts, heads::SvidSigner, tls},
};

/// A sink as every role takes it.
pub(super) type Sink = Arc<dyn RecordSink>;

/// Sinks for the parts in this process.
pub(super) struct Records {
    config: Config,
    clock: Clock,
    #[cfg(feature = "full")]
    log: Option<Log>,
    /// Of each part that asked; none where it writes into the log.
    spools: Vec<(Role, Option<Arc<Spool>>)>,
    identities: Vec<(Role, Arc<Pending>)>,
}

/// An identity that a spool's uplink waits for.
#[derive(Default)]
struct Pending {
    identity: OnceLock<Identity>,
    there: Notify,
}

impl Records {
    pub(super) fn new(config: &Config, clock: Clock) -> Self {
        Self {
            config: config.clone(),
            clock,
            #[cfg(feature = "full")]
            log: None,
            spools: Vec::new(),
            identities: Vec::new(),
        }
    }

    /// Parts asked for from now on write into this log.
    #[cfg(feature = "full")]
    pub(super) fn keep_in(&mut self, log: Log) {
        self.log = Some(log);
    }

    /// The sink of `role`. Without a log here, records go to `audit`, or to the
    /// service that the file's own `audit` section names.
    pub(super) fn sink(
        &mut self,
        role: Role,
        audit: Option<Whereabouts>,
    ) -> Result<Sink, Vec<Diagnostic>> {
        let reporter = self.config.trust_domain.role(role.as_str());
        let (sink, pending) = self.sink_of(role, reporter, audit)?;
        self.identities.extend(pending.map(|p| (role, p)));
        Ok(sink)
    }

    /// The sink of a part that reports as `identity`, which it has already.
    pub(super) fn sink_as(
        &mut self,
        role: Role,
        identity: &Identity,
        audit: Option<Whereabouts>,
    ) -> Result<Sink, Vec<Diagnostic>> {
        let (sink, pending) = self.sink_of(role, identity.id(), audit)?;
        if let Some(pending) = pending {
            pending.give(identity.clone());
        }
        Ok(sink)
    }

    fn sink_of(
        &mut self,
        role: Role,
        reporter: SpiffeId,
        audit: Option<Whereabouts>,
    ) -> Result<(Sink, Option<Arc<Pending>>), Vec<Diagnostic>> {
        #[cfg(feature = "full")]
        if let Some(log) = &self.log {
            self.spools.push((role, None));
            let sink = LocalSink::new(log.clone(), reporter, self.clock.clone());
            return Ok((Arc::new(sink), None));
        }
        let address = audit
            .or_else(|| Some(Whereabouts::At(self.config.audit.as_ref()?.listen)))
            .ok_or_else(|| {
                vec![
                    Diagnostic::error(
                        8012,
                        format!("records of the `{}` role have nowhere to go", role.as_str()),
                    )
                    .help("add `audit: IP:PORT` to its section, or an `audit` section to the file"),
                ]
            })?;
        let folder = self.config.state_dir.join("spool").join(role.as_str());
        let options = self.config.spool_options();
        let spool = Spool::open(&folder, reporter, options, self.clock.clone())
            .map_err(|e| vec![unusable(&e.to_string())])?;
        let pending = Arc::new(Pending::default());
        let waiting = pending.clone();
        let (signing, of_heads) = (pending.clone(), spool.clone());
        tokio::spawn(async move {
            let identity = signing.wait().await;
            of_heads.sign_heads(Arc::new(SvidSigner(identity)));
        });
        self.spools.push((role, Some(spool.clone())));
        let expected = self.config.trust_domain.role(Role::Audit.as_str());
        tokio::spawn(spool.clone().uplink(move || {
            let (pending, expected) = (waiting.clone(), expected.clone());
            let address = address.clone();
            async move {
                let identity = pending.wait().await;
                Ok::<_, std::convert::Infallible>(tls::channel_to(&address, &expected, &identity))
            }
        }));
        Ok((spool, Some(pending)))
    }

    /// Gets identities for the spools that wait for one, in the background.
    pub(super) fn identify(&mut self, source: &Source, clock: &Clock) {
        for (role, pending) in self.identities.drain(..) {
            let (source, config, clock) = (source.clone(), self.config.clone(), clock.clone());
            tokio::spawn(async move {
                match super::link::identity(&source, role, &config, &clock).await {
                    Ok(identity) => pending.give(identity),
                    Err(found) => {
                        for diagnostic in found {
                            tracing::error!(%diagnostic, "records of this part stay in its spool");
                        }
                    }
                }
            });
        }
    }

    /// Writes out what is left.
    pub(super) fn close(self) {
        for spool in self.spools.into_iter().filter_map(|(_, spool)| spool) {
            spool.close();
        }
    }

    /// Tells on the local socket what is wrong with the keeping of records.
    pub(super) fn routes(&self) -> Router {
        self.spools
            .iter()
            .fold(Router::new(), |router, (role, spool)| {
                let (name, spool) = (role.as_str(), spool.clone());
                let check = move || async move {
                    let health = spool.as_ref().map(|spool| spool.health());
                    Json(
                        health
                            .map_or_else(Vec::new, |health| keeping::facts("audit", name, &health)),
                    )
                };
                router.route(&format!("/v1/{name}/records"), get(check))
            })
    }
}

impl Pending {
    fn give(&self, identity: Identity) {
        let _ = self.identity.set(identity);
        self.there.notify_waiters();
    }

    async fn wait(&self) -> Identity {
        loop {
            let there = self.there.notified();
            if let Some(identity) = self.identity.get() {
                return identity.clone();
            }
            there.await;
        }
    }
}
