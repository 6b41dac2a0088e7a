//! Keeps one identity fresh: a new key and certificate at half of its life.
//!
//! A keeper belongs to a registration and is shared by every stream that serves
//! it. While renewal fails it keeps the certificate it has. When no stream has
//! asked since the last renewal it stops renewing, and goes when the certificate
//! ends: nobody's certificates are not issued.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use palisade_mesh::svid::{PeerError, X509Svid, verify_chain};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    Desk, KeptIdentity, UpstreamError,
    backoff::{self, Backoff},
};
use crate::{
    random,
    registration::Registration,
    renewal::{NAP_MAX, is_superseded, renewal_after},
    request::SvidKey,
    trust::TrustState,
};

/// How long an identity that could never be had is tried for after the last
/// stream asked for it.
const PATIENCE_US: i64 = 60_000_000;

/// One identity.
pub(super) struct Keeper {
    registration: Registration,
    state: Mutex<State>,
    asked: Notify,
    stop: CancellationToken,
}

struct State {
    svid: Option<Arc<X509Svid>>,
    /// Whether a stream has asked since the last renewal.
    asked_again: bool,
    due_us: i64,
    asked_us: i64,
    backoff: Backoff,
    /// After a failure: not before this. Timers do not jump with the wall clock.
    retry_at: Instant,
    error: Option<String>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Obtain,
    Nap(Duration),
    Leave,
}

/// Why a certificate was not obtained.
#[derive(Debug, thiserror::Error)]
enum ObtainError {
    #[error("key cannot be made")]
    Key,
    #[error("authority returned a certificate for another key or identity")]
    NotOurs,
    #[error("authority returned a certificate that does not verify: {0}")]
    Peer(#[from] PeerError),
    #[error("trust bundle is not known yet")]
    NoTrust,
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl Keeper {
    pub(super) fn new(registration: Registration, now_us: i64, stop: CancellationToken) -> Self {
        Self {
            registration,
            state: Mutex::new(State {
                svid: None,
                asked_again: false,
                due_us: now_us,
                asked_us: now_us,
                backoff: Backoff::default(),
                retry_at: Instant::now(),
                error: None,
            }),
            asked: Notify::new(),
            stop,
        }
    }

    /// The certificate, if there is one that is still valid; notes that somebody
    /// wants it.
    pub(super) fn ask(&self, now_us: i64) -> Option<Arc<X509Svid>> {
        let mut state = self.state();
        state.asked_us = now_us;
        state.asked_again = true;
        self.asked.notify_one();
        state.svid.clone().filter(|svid| !has_ended(svid, now_us))
    }

    /// Why the last attempt failed.
    pub(super) fn error(&self) -> Option<String> {
        self.state().error.clone()
    }

    /// Ends the keeper; its registration is gone.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Looks whether the certificate may stay under a new trust state. One that it
    /// does not accept, or of a tainted authority, is replaced at once; one of another
    /// authority that goes, within the span that is set for it.
    pub(super) fn reconsider(&self, trust: &TrustState, now_us: i64) {
        let mut state = self.state();
        let Some(svid) = state.svid.clone() else {
            // Why there is none may be gone with the old state.
            state.retry_at = Instant::now();
            self.asked.notify_one();
            return;
        };
        let order = is_superseded(&svid, &trust.superseded);
        let now = UnixTime::since_unix_epoch(micros(now_us));
        let over = match order {
            Some(order) if order.tainted => Some(Duration::ZERO),
            Some(_) => Some(trust.reissue_over.mul_f64(random::fraction())),
            None if verify_chain(&svid.chain, &trust.bundle, now).is_err() => Some(Duration::ZERO),
            None => None,
        };
        let Some(over) = over else { return };
        state.due_us = state.due_us.min(now_us + as_micros(over));
        if over.is_zero() {
            state.retry_at = Instant::now();
            state.backoff.reset();
        }
        self.asked.notify_one();
    }

    pub(super) fn describe(&self) -> KeptIdentity {
        let state = self.state();
        let svid = state.svid.as_deref();
        KeptIdentity {
            spiffe_id: self.registration.spiffe_id.clone(),
            hint: self.registration.hint.clone(),
            selectors: self.registration.selectors.to_vec(),
            serial: svid.map(|s| s.serial.clone()).unwrap_or_default(),
            not_after_s: svid.map_or(0, |s| s.not_after_s),
            renew_at_s: svid.map_or(0, |_| state.due_us / 1_000_000),
            error: state.error.clone(),
        }
    }

    /// Works until the registration goes, the agent stops, or nobody asks any more.
    pub(super) async fn run(self: Arc<Self>, desk: Arc<Desk>) {
        loop {
            match self.next(desk.now_us()) {
                Next::Obtain => {
                    let outcome = tokio::select! {
                        () = self.stop.cancelled() => return,
                        outcome = self.obtain(&desk) => outcome,
                    };
                    if self.take(outcome, desk.now_us()) {
                        // A change of trust may have come while it was on its way.
                        let trust = desk.trust.borrow().clone();
                        if let Some(trust) = trust {
                            self.reconsider(&trust, desk.now_us());
                        }
                        desk.changed.send_replace(());
                    }
                }
                Next::Nap(pause) => tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.asked.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                },
                Next::Leave => {
                    let mut keepers = desk.keepers();
                    // Under the lock that streams take to find us: none can ask now.
                    if self.next(desk.now_us()) == Next::Leave {
                        keepers.remove(&self.registration);
                        return;
                    }
                }
            }
        }
    }

    fn next(&self, now_us: i64) -> Next {
        let state = self.state();
        let wanted = match &state.svid {
            Some(_) => state.asked_again,
            None => now_us - state.asked_us < PATIENCE_US,
        };
        let ended = state.svid.as_ref().is_none_or(|s| has_ended(s, now_us));
        let pause = state.retry_at.saturating_duration_since(Instant::now());
        // One that has not begun was issued before the clock was set back.
        let early = state.svid.as_ref().is_some_and(|s| !has_begun(s, now_us));
        let due = if early {
            Duration::ZERO
        } else {
            micros(state.due_us - now_us)
        };
        let pause = pause.max(due);
        match (wanted, ended) {
            (true, _) if pause.is_zero() => Next::Obtain,
            (true, _) => Next::Nap(pause.min(NAP_MAX)),
            (false, true) => Next::Leave,
            (false, false) => Next::Nap(NAP_MAX),
        }
    }

    /// Makes a key, has it certified, and verifies what came back.
    async fn obtain(&self, desk: &Desk) -> Result<X509Svid, ObtainError> {
        let Registration {
            spiffe_id,
            selectors,
            ..
        } = &self.registration;
        let key = SvidKey::generate().map_err(|_| ObtainError::Key)?;
        let request = key
            .request(&desk.config.trust_domain, spiffe_id, selectors)
            .map_err(|_| ObtainError::Key)?;
        let spki = key.spki();
        let response = desk.upstream.issue(request).await?;
        let chain: Vec<CertificateDer<'static>> =
            response.chain.into_iter().map(Into::into).collect();
        let trust = desk.trust.borrow().clone().ok_or(ObtainError::NoTrust)?;
        let now = micros(desk.now_us());
        let peer = verify_chain(&chain, &trust.bundle, UnixTime::since_unix_epoch(now))?;
        if peer.id != *spiffe_id || !holds_key(&chain, &spki) {
            return Err(ObtainError::NotOurs);
        }
        Ok(X509Svid::new(chain, key.into_pkcs8())?)
    }

    /// Takes what came of an attempt; says whether there is something new.
    fn take(&self, outcome: Result<X509Svid, ObtainError>, now_us: i64) -> bool {
        let id = &self.registration.spiffe_id;
        let mut state = self.state();
        match outcome {
            Ok(svid) => {
                let left = micros(svid.not_after_s * 1_000_000 - now_us);
                state.due_us = now_us + as_micros(renewal_after(left));
                tracing::info!(dst.id = %id, not_after_s = svid.not_after_s, "certificate obtained");
                // Streams are rung after this; those that still care ask again.
                state.asked_again = false;
                state.svid = Some(Arc::new(svid));
                state.error = None;
                state.backoff.reset();
                true
            }
            Err(error) => {
                let pause = state.backoff.next(pause_max(self.registration.ttl));
                tracing::warn!(dst.id = %id, %error, ?pause, "certificate not obtained");
                state.retry_at = Instant::now() + pause;
                state.error = Some(error.to_string());
                false
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Longest pause between attempts: short lives need short pauses.
fn pause_max(ttl: Duration) -> Duration {
    backoff::RENEW_MAX.min(ttl / 8).max(backoff::FIRST)
}

fn holds_key(chain: &[CertificateDer<'_>], spki: &[u8]) -> bool {
    chain.first().is_some_and(|leaf| {
        X509Certificate::from_der(leaf).is_ok_and(|(_, cert)| cert.public_key().raw == spki)
    })
}

fn has_ended(svid: &X509Svid, now_us: i64) -> bool {
    svid.not_after_s * 1_000_000 <= now_us
}

fn has_begun(svid: &X509Svid, now_us: i64) -> bool {
    svid.not_before_s * 1_000_000 <= now_us
}

fn micros(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or_default())
}

fn as_micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_fit_into_short_lives() {
        assert_eq!(
            pause_max(Duration::from_secs(3600)),
            Duration::from_secs(150)
        );
        assert_eq!(
            pause_max(Duration::from_secs(60)),
            Duration::from_millis(7500)
        );
        assert_eq!(
            pause_max(Duration::from_secs(10)),
            Duration::from_millis(1250)
        );
    }
}
