//! The authority of a trust domain, ready to issue.
//!
//! Everything that issuance reads is one immutable state in memory, swapped whole
//! when authorities or registrations change; the database is written first. One
//! task moves the authorities through their lives. It wakes every second at most,
//! because wall clocks jump (suspend, NTP) and timers do not see it.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use palisade_mesh::{
    clock::Clock,
    link::Gate,
    sink::RecordStream,
    snapshot::Digest,
    svid::X509Svid,
    wire::{
        ca::{
            IssueRequest, IssueResponse, authority_server::AuthorityServer,
            enrolment_server::EnrolmentServer,
        },
        kill::kill_server::KillServer,
        record::{Credential, record::Body},
    },
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::states::Place;
pub use self::{
    acks::{AGENT_NAME_LEN_MAX, AGENTS_MAX, AckError, AgentStanding, HolderStanding, Missing},
    backup::{
        ARCHIVE_LEN_MAX, Backup, BackupError, Header as BackupHeader, Restored, backup, restore,
    },
    config::{ACK_DEADLINE_MIN, CaConfig},
    enrolment::{EnrolmentService, Source},
    error::CaError,
    kill::{KillError, KillOrder, SIGNED_EVERY_S},
    network::{Caller, NetworkAuthority, NetworkKill},
    nodes::{JoinedNode, RefusedHost, TOKEN_TTL_MAX, TOKEN_TTL_MIN, TokenOrder, WaitingToken},
    offline::{Repaired, init, repair},
    role::RoleError,
    rotation::{RotateError, Rotation, Stage, Standing, Waiting, name as name_missing},
    service::AuthorityService,
};
pub use crate::store::{ISSUED_LIST_MAX, IssuedCertificate, IssuedFilter, StoreError};
use crate::{
    authority::Authority,
    issue::{Desk, Leaf, Order, Press, Refusal},
    recorder::Recorder,
    registration::{Registration, Rules},
    renewal::NAP_MAX,
    request::SvidKey,
    socket::SocketError,
    store::{Issuance, Store},
    trust::TrustState,
};

use self::{acks::Acks, books::Books};

mod acks;
mod backup;
mod books;
mod config;
mod enrolment;
mod error;
mod kill;
mod network;
mod nodes;
mod offline;
mod role;
mod rotation;
mod service;
mod states;

/// How often the authorities are looked at.
const TICK: Duration = NAP_MAX;
/// How often ended certificates are forgotten, in seconds.
const PRUNE_EVERY_S: i64 = 60;

/// The authority of one trust domain.
pub struct Ca {
    config: CaConfig,
    clock: Clock,
    store: Arc<Store>,
    recorder: Arc<Recorder>,
    acks: Arc<Acks>,
    /// Written by whoever holds `books`.
    press: ArcSwapOption<Press>,
    /// Written by whoever holds `books`.
    authority_keys: ArcSwapOption<HashSet<[u8; 32]>>,
    /// Written by whoever holds `books`.
    trust: watch::Sender<Arc<TrustState>>,
    books: Mutex<Books>,
    nodes: Arc<nodes::Nodes>,
    kill: kill::Register,
    closing: CancellationToken,
}

impl Ca {
    /// Opens the state directory, or makes it on the first start, and brings the
    /// authorities up to date. `records` is this part's own stream.
    ///
    /// # Errors
    /// When the configuration contradicts itself, the state cannot be opened or
    /// unsealed, or does not verify. Nothing is repaired silently.
    pub async fn start(
        config: CaConfig,
        clock: Clock,
        records: Box<dyn RecordStream>,
    ) -> Result<Arc<Self>, CaError> {
        config.check()?;
        let recorder = Arc::new(Recorder::new(
            records,
            config.trust_domain.role("ca"),
            clock.clone(),
            config.demo,
        ));
        let acks = Arc::new(Acks::new(clock.now_us(), config.rules().ttl_max));
        let noted = Some(recorder.clone());
        let mut books = Books::open(&config, clock.clone(), noted, acks.clone()).await?;
        books.settle().await?;
        let (trust, _) = watch::channel(Arc::new(books.trust()));
        let nodes = nodes::Nodes::load(&books.store()).await?;
        let kill = kill::Register::open(&config, &books.store()).await?;
        let ca = Arc::new(Self {
            config,
            clock,
            store: books.store(),
            recorder,
            acks,
            press: ArcSwapOption::empty(),
            authority_keys: ArcSwapOption::empty(),
            trust,
            books: Mutex::new(books),
            nodes: Arc::new(nodes),
            kill,
            closing: CancellationToken::new(),
        });
        ca.publish(&*ca.books.lock().await)?;
        let closing = ca.closing.clone();
        tokio::spawn(closing.run_until_cancelled_owned(keep(Arc::downgrade(&ca))));
        Ok(ca)
    }

    /// What a list of registrations has to keep to here.
    pub fn rules(&self) -> Rules {
        self.config.rules()
    }

    /// Replaces the whole list of registrations; agents hear of it at once.
    ///
    /// # Errors
    /// When the list cannot be stored; then the old one stays.
    pub async fn apply(&self, registrations: Vec<Registration>) -> Result<(), CaError> {
        let mut books = self.books.lock().await;
        if books.replace_registrations(registrations).await? {
            self.publish(&books)?;
        }
        Ok(())
    }

    /// Bundle and registrations, now and with every change.
    pub fn trust(&self) -> watch::Receiver<Arc<TrustState>> {
        self.trust.subscribe()
    }

    /// Issues a certificate for an attested workload. Every answer, good or bad,
    /// leaves a record; the certificate is on the list before it leaves.
    ///
    /// # Errors
    /// A named refusal.
    pub async fn issue(&self, request: &IssueRequest) -> Result<IssueResponse, Refusal> {
        let order = match self.check(request) {
            Ok(order) => order,
            Err(refusal) => return Err(self.refused(request, refusal)),
        };
        match self.fulfil(&order).await {
            Ok((press, leaf)) => Ok(IssueResponse {
                chain: press.chain(&leaf).iter().map(|c| c.to_vec()).collect(),
                not_after_s: leaf.not_after_s,
            }),
            Err(refusal) => Err(self.refused(request, refusal)),
        }
    }

    /// Makes a key and certifies it for a part of the mesh itself,
    /// `spiffe://TD/palisade/ROLE`. Only the process that holds the authority can.
    ///
    /// # Errors
    /// As [`Ca::issue`].
    pub async fn svid_for_role(&self, role: &str) -> Result<X509Svid, Refusal> {
        let key = SvidKey::generate().map_err(|_| Refusal::KeyType)?;
        let order = Order {
            spiffe_id: self.config.trust_domain.role(role),
            spki: key.spki(),
            ttl: self.config.svid_ttl,
            selectors: Vec::new(),
            node: None,
        };
        let (press, leaf) = self.fulfil(&order).await?;
        Ok(X509Svid::new(press.chain(&leaf), key.into_pkcs8())?)
    }

    /// Lists certificates that were issued, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn issued(&self, filter: &IssuedFilter) -> Result<Vec<IssuedCertificate>, CaError> {
        Ok(self.store.issued(filter, self.now_s()).await?)
    }

    /// Every authority that is not over, roots first.
    pub async fn authorities(&self) -> Vec<Authority> {
        self.books.lock().await.authorities()
    }

    /// The service for agents. It answers unix-socket peers of our own user or
    /// root only: who may call it may obtain any registered identity.
    pub fn service(self: &Arc<Self>) -> AuthorityServer<AuthorityService> {
        service::server(self.clone())
    }

    /// The service for the agents of joined nodes. Requests must carry the [`Caller`]
    /// of their connection as an extension; the gate is asked about each.
    pub fn network_service(
        self: &Arc<Self>,
        gate: Arc<dyn Gate>,
    ) -> AuthorityServer<NetworkAuthority> {
        network::server(self.clone(), gate)
    }

    /// The kill list for the agents of joined nodes, let in as by
    /// [`Ca::network_service`].
    pub fn network_kill_service(self: &Arc<Self>, gate: Arc<dyn Gate>) -> KillServer<NetworkKill> {
        network::kill_server(self.clone(), gate)
    }

    /// The service for hosts that have no identity yet. Requests may carry the
    /// [`Source`] of their connection as an extension, for the records.
    pub fn enrolment_service(self: &Arc<Self>) -> EnrolmentServer<EnrolmentService> {
        enrolment::server(self.clone())
    }

    /// Serves agents on a unix socket of mode 0600 until `shutdown` resolves. Its
    /// folder is made with mode 0700 when missing.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn serve(
        self: &Arc<Self>,
        path: &Path,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), SocketError> {
        service::serve(self.clone(), path, shutdown).await
    }

    /// Closes the database after what is under way; no more is issued.
    pub async fn close(&self) {
        self.closing.cancel();
        let _books = self.books.lock().await;
        self.press.store(None);
        self.store.close().await;
    }

    fn check(&self, request: &IssueRequest) -> Result<Order, Refusal> {
        let keys = self.authority_keys.load();
        let trust = self.trust.borrow().clone();
        let desk = Desk {
            trust_domain: &self.config.trust_domain,
            registrations: &trust.registrations,
            authority_keys: keys.as_ref().ok_or(Refusal::NoAuthority)?,
            serves: &Registration::is_local,
        };
        desk.check(request)
    }

    /// Signs, stores, records, in this order: a certificate that is not on the
    /// list or has no record does not leave.
    async fn fulfil(&self, order: &Order) -> Result<(Arc<Press>, Leaf), Refusal> {
        let press = self.press.load_full().ok_or(Refusal::NoAuthority)?;
        let now_us = self.clock.now_us();
        self.kill.check(&order.spiffe_id, &press, now_us)?;
        let leaf = press.sign(order, self.now_s())?;
        let authority = press.signer.authority.key_id;
        self.store
            .record(Issuance {
                certificate: IssuedCertificate {
                    spiffe_id: order.spiffe_id.clone(),
                    serial: leaf.serial.clone(),
                    not_before_s: leaf.not_before_s,
                    not_after_s: leaf.not_after_s,
                    selectors: order.selectors.clone(),
                    authority,
                },
                key_digest: order.key_digest(),
            })
            .await?;
        self.recorder.note(Body::Credential(Credential {
            verb: "issued".into(),
            spiffe_id: order.spiffe_id.to_string(),
            serial: leaf.serial.clone(),
            not_before_s: leaf.not_before_s,
            not_after_s: leaf.not_after_s,
            authority: authority.as_bytes().to_vec(),
            selectors: order.selectors.clone(),
            detail: String::new(),
            certificate: Digest::of(&leaf.certificate).0.to_vec(),
            node: order
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        }))?;
        Ok((press, leaf))
    }

    /// Records a refusal; the caller is refused whether or not that succeeds.
    fn refused(&self, request: &IssueRequest, refusal: Refusal) -> Refusal {
        tracing::warn!(
            reason = refusal.reason(),
            error = %refusal,
            src.id = excerpt(&request.spiffe_id),
            "issuance refused"
        );
        let record = Credential {
            verb: "refused".into(),
            spiffe_id: excerpt(&request.spiffe_id),
            selectors: request
                .selectors
                .iter()
                .take(8)
                .map(|s| excerpt(s))
                .collect(),
            detail: format!("{}: {refusal}", refusal.reason()),
            ..Credential::default()
        };
        if let Err(error) = self.recorder.note(Body::Credential(record)) {
            tracing::error!(%error, "refused issuance left no record");
        }
        refusal
    }

    /// Lets issuance and watchers see what the books say. Whoever hears that a
    /// certificate is superseded and asks again gets one of the new intermediate;
    /// that everybody knows the root above it is what the plan has waited for.
    fn publish(&self, books: &Books) -> Result<(), CaError> {
        let press = books.press()?;
        let keys = books.authority_spkis().map(|spki| Digest::of(&spki).0);
        self.authority_keys.store(Some(Arc::new(keys.collect())));
        self.press.store(Some(Arc::new(press)));
        let next = Arc::new(books.trust());
        self.trust.send_if_modified(|present| {
            let changed = *present != next;
            *present = next;
            changed
        });
        Ok(())
    }

    /// Does what is due with the authorities.
    async fn maintain(&self) -> Result<(), CaError> {
        let mut books = self.books.lock().await;
        if books.settle().await? {
            self.publish(&books)?;
        }
        Ok(())
    }

    fn now_s(&self) -> i64 {
        self.clock.now_us() / 1_000_000
    }
}

/// Keeps the authorities in order for as long as anybody holds the [`Ca`].
async fn keep(ca: std::sync::Weak<Ca>) {
    let mut pruned_s = i64::MIN;
    let Some(wanted) = ca.upgrade().map(|ca| ca.kill_list_wanted()) else {
        return;
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = wanted.notified() => {}
        }
        let Some(ca) = ca.upgrade() else { return };
        if let Err(error) = ca.maintain().await {
            tracing::error!(%error, "authorities cannot be brought up to date");
        }
        ca.keep_kill_list().await;
        let now_s = ca.now_s();
        if now_s >= pruned_s.saturating_add(PRUNE_EVERY_S) {
            pruned_s = now_s;
            if let Err(error) = ca.store.prune(now_s).await {
                tracing::warn!(%error, "ended certificates cannot be forgotten");
            }
        }
    }
}

/// What of an untrusted text goes into a log line or a record.
fn excerpt(text: &str) -> String {
    text.chars()
        .take(256)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests;
