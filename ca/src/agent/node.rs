//! This host as a node: its key, how it joins, and how it stays.
//!
//! The key is made here once and never leaves. A join token lets the authority know
//! it; after that the key alone renews the node's SVID over mTLS, and brings the node
//! back through the enrolment door when the SVID has ended or the authority's roots
//! have changed meanwhile. Nothing secret is sent before the authority has proven
//! itself: by the roots that the token names, by those known from before, or by a
//! code that only it can make.

use std::{path::PathBuf, sync::Arc, time::Duration};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    spiffe_id::{SpiffeId, TrustDomain},
    svid::{Identity, verify_chain},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    backoff::{Backoff, RENEW_MAX},
    upstream::{Remote, Upstream},
};
use crate::{
    join::{NodeName, NodeRole, token::JoinToken},
    random,
    renewal::{NAP_MAX, is_superseded, renewal_after},
    request::SvidKey,
    trust::TrustState,
};

use self::{
    host::{EXCHANGE_MAX, Failure, Host, der, unusable},
    state::{Kept, StateDir},
};

mod host;
mod state;

pub(super) use self::state::put;

/// Naps for which a node has to be cut off before it asks for another certificate; an
/// authority that starts again is back by then.
const CUT_OFF_NAPS: u64 = 3;
/// How long a node that is cut off rests before it asks for another certificate again,
/// in microseconds: that may not be why.
const CUT_OFF_REST_US: i64 = 60_000_000;

/// An authority that somebody has shaken hands with, and that has proven nothing yet.
pub struct Met {
    /// To this very connection; it must not connect again by itself.
    pub channel: Channel,
    /// What the authority presented, leaf first, its roots last.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Opens connections to the authority; the binary owns sockets and TLS.
#[tonic::async_trait]
pub trait Doors: Send + Sync + 'static {
    /// Shakes hands at the enrolment door, without deciding about the certificate.
    ///
    /// # Errors
    /// Why there is no connection, for people.
    async fn meet(&self, address: &str) -> Result<Met, String>;

    /// A channel to the authority by mTLS; connects when used, again after a loss.
    fn link(&self, address: &str, authority: &SpiffeId, identity: &Identity) -> Channel;
}

/// What a node needs to start.
pub struct NodeConfig {
    /// Trust domain it belongs to.
    pub trust_domain: TrustDomain,
    /// Folder of its key and certificate, mode 0700.
    pub state_dir: PathBuf,
    /// The name it should have; a token for another is not used.
    pub name: Option<NodeName>,
    /// A token to spend, where it has not joined yet.
    pub token: Option<JoinToken>,
    /// Where the authority is now, when that has changed.
    pub authority: Option<String>,
}

/// A host that has joined.
pub struct Node {
    domain: TrustDomain,
    state: StateDir,
    key: SvidKey,
    kept: std::sync::Mutex<Kept>,
    identity: Identity,
    doors: Arc<dyn Doors>,
    clock: Clock,
}

impl Node {
    /// Joins, comes back, or goes on with the certificate on disk. An authority that
    /// does not answer is waited for.
    ///
    /// # Errors
    /// What only a person can mend: no token, a refused one, a ban, a wrong clock.
    pub async fn start(
        config: NodeConfig,
        doors: Arc<dyn Doors>,
        clock: Clock,
    ) -> Result<Arc<Self>, Diagnostic> {
        let state = StateDir::open(&config.state_dir)?;
        let key = state.key()?;
        let mut kept = state.read()?;
        if let (Some(kept), Some(address)) = (&mut kept, &config.authority) {
            kept.address.clone_from(address);
        }
        let host = Host {
            domain: &config.trust_domain,
            key: &key,
            doors: &*doors,
            clock: &clock,
        };
        let kept = match kept {
            Some(kept) if host.is_valid(&kept) => kept,
            kept => host.become_node(kept, &config).await?,
        };
        state.write(&kept)?;
        let (svid, bundle) = host
            .credential(&kept)
            .map_err(|e| unusable(&e.to_string()))?;
        let identity =
            Identity::new(svid, bundle, clock.clone()).map_err(|e| unusable(&e.to_string()))?;
        tracing::info!(id = %identity.id(), authority = kept.address, "this host is a node");
        Ok(Arc::new(Self {
            domain: config.trust_domain,
            state,
            key,
            kept: std::sync::Mutex::new(kept),
            identity,
            doors,
            clock,
        }))
    }

    /// The node's own identity; it stays fresh while [`Node::keep`] runs.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Its name.
    pub fn name(&self) -> NodeName {
        self.kept().name.clone()
    }

    /// What it may run.
    pub fn roles(&self) -> Vec<NodeRole> {
        self.kept().roles.clone()
    }

    /// A channel to the authority by mTLS, for whatever else a node follows there.
    pub fn channel(&self) -> Channel {
        self.link()
    }

    /// The authority, for an agent on this node.
    pub fn upstream(&self) -> Remote {
        Remote::new(self.link())
    }

    /// Renews the node's SVID at half of its life, or before when its authority goes, and
    /// takes over every bundle, until `stop`. `trust` is what the agent hears, `is_cut_off`
    /// whether it hears nothing: the authority may have dropped the root of this SVID
    /// before it could say so.
    pub async fn keep(
        self: Arc<Self>,
        mut trust: watch::Receiver<Option<Arc<TrustState>>>,
        is_cut_off: impl Fn() -> bool + Send,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::default();
        let mut due_us = self.due_us();
        let mut rest_us = self.clock.now_us();
        let mut cut_off = 0_u64;
        loop {
            let woken = tokio::select! {
                () = stop.cancelled() => return,
                woken = tokio::time::timeout(NAP_MAX, trust.changed()) => woken,
            };
            let heard = trust.borrow_and_update().clone();
            if let Some(state) = heard.iter().find(|s| s.bundle != self.identity.bundle()) {
                self.take_over(|kept| kept.roots = der(&state.bundle.roots));
            }
            let now_us = self.clock.now_us();
            if let (Ok(Ok(())), Some(state)) = (&woken, &heard) {
                due_us = self.ordered_us(state, now_us).unwrap_or(due_us).min(due_us);
            }
            cut_off = if is_cut_off() { cut_off + 1 } else { 0 };
            if cut_off > CUT_OFF_NAPS && rest_us <= now_us {
                due_us = due_us.min(now_us);
                rest_us = now_us.saturating_add(CUT_OFF_REST_US);
            }
            // One that has not begun was issued before the clock was set back.
            let early = now_us < self.identity.svid().not_before_s * 1_000_000;
            if now_us < due_us && !early {
                continue;
            }
            match self.renew().await {
                Ok(()) => {
                    backoff.reset();
                    due_us = self.due_us();
                }
                Err(error) => {
                    let pause = backoff.next(RENEW_MAX);
                    tracing::warn!(%error, ?pause, "certificate of this node is not renewed");
                    due_us = now_us + i64::try_from(pause.as_micros()).unwrap_or(i64::MAX);
                }
            }
        }
    }

    /// When the SVID is to be replaced before its time, if `state` asks for that: as the
    /// certificates of workloads are.
    fn ordered_us(&self, state: &TrustState, now_us: i64) -> Option<i64> {
        let svid = self.identity.svid();
        let micros = u64::try_from(now_us).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_micros(micros));
        let over = match is_superseded(&svid, &state.superseded) {
            Some(order) if order.tainted => Duration::ZERO,
            Some(_) => state.reissue_over.mul_f64(random::fraction()),
            None if verify_chain(&svid.chain, &state.bundle, now).is_err() => Duration::ZERO,
            None => return None,
        };
        Some(now_us.saturating_add(i64::try_from(over.as_micros()).unwrap_or(i64::MAX)))
    }

    /// By mTLS as long as that works, else by the key.
    async fn renew(&self) -> Result<(), Failure> {
        let by_link = async {
            let request = self
                .key
                .request(&self.domain, &self.identity.id(), &[])
                .map_err(|_| "key cannot sign".to_owned())?;
            let upstream = self.upstream();
            match tokio::time::timeout(EXCHANGE_MAX, upstream.issue(request)).await {
                Ok(Ok(response)) => Ok(response.chain),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("authority does not answer".to_owned()),
            }
        };
        match by_link.await {
            Ok(chain) => self.take_over(|kept| kept.chain = chain),
            Err(why) => {
                tracing::info!(why, "coming back by the node's own key");
                let kept = self.kept().clone();
                let host = Host {
                    domain: &self.domain,
                    key: &self.key,
                    doors: &*self.doors,
                    clock: &self.clock,
                };
                let fresh = host.come_back(&kept).await?;
                self.take_over(|kept| *kept = fresh);
            }
        }
        Ok(())
    }

    /// Changes what is kept, in memory and on disk; a change that does not serve is
    /// told and not made.
    fn take_over(&self, change: impl FnOnce(&mut Kept)) {
        let mut next = self.kept().clone();
        change(&mut next);
        let host = Host {
            domain: &self.domain,
            key: &self.key,
            doors: &*self.doors,
            clock: &self.clock,
        };
        let replaced = host.credential(&next).map_err(|e| e.to_string());
        let replaced = replaced.and_then(|(svid, bundle)| {
            let replaced = self.identity.replace(svid, bundle);
            replaced.map_err(|e| e.to_string())
        });
        if let Err(error) = replaced {
            tracing::error!(
                error,
                "new certificate or bundle of this node cannot be used"
            );
            return;
        }
        if let Err(diagnostic) = self.state.write(&next) {
            tracing::error!(%diagnostic, "certificate of this node is not kept");
        }
        *self.kept() = next;
    }

    fn link(&self) -> Channel {
        let authority = self.domain.role("ca");
        let address = self.kept().address.clone();
        self.doors.link(&address, &authority, &self.identity)
    }

    fn due_us(&self) -> i64 {
        let now_us = self.clock.now_us();
        let left_us = self.identity.not_after_s() * 1_000_000 - now_us;
        let left = Duration::from_micros(u64::try_from(left_us).unwrap_or_default());
        now_us + i64::try_from(renewal_after(left).as_micros()).unwrap_or(i64::MAX)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
