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
    svid::{Identity, PeerError, TrustBundle, X509Svid, verify_chain},
    wire::ca::{
        ChallengeRequest, ChallengeResponse, EnrolRequest, NodeCredential, ReturnRequest,
        enrolment_client::EnrolmentClient,
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

use super::{
    backoff::{Backoff, FOLLOW_MAX, RENEW_MAX},
    upstream::{Remote, Upstream},
};
use crate::{
    join::{
        NodeName, NodeRole,
        proof::{NONCE_LEN, enrol_context, return_context, vouched},
        refusal::code_of,
        sha256,
        token::JoinToken,
    },
    random,
    renewal::{NAP_MAX, is_superseded, renewal_after},
    request::SvidKey,
    trust::TrustState,
};

use self::state::{Kept, StateDir};

mod state;

pub(super) use self::state::put;

/// How long one exchange at the enrolment door may take.
const EXCHANGE_MAX: Duration = Duration::from_secs(15);
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

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Nothing to be done here.
    #[error("{0}")]
    Final(Box<Diagnostic>),
    /// Tried again.
    #[error("{0}")]
    Later(String),
}

impl Failure {
    fn code(&self) -> u16 {
        match self {
            Self::Final(diagnostic) => diagnostic.code.0,
            Self::Later(_) => 0,
        }
    }
}

impl From<Diagnostic> for Failure {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Final(Box::new(diagnostic))
    }
}

/// Code of a token that somebody has spent.
const TOKEN_USED: u16 = 4112;

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

/// What every exchange with the authority needs.
struct Host<'h> {
    domain: &'h TrustDomain,
    key: &'h SvidKey,
    doors: &'h dyn Doors,
    clock: &'h Clock,
}

/// A challenge, and who gave it.
struct Challenged {
    client: EnrolmentClient<Channel>,
    chain: Vec<CertificateDer<'static>>,
    nonce: [u8; NONCE_LEN],
    response: ChallengeResponse,
}

impl Host<'_> {
    /// Until it is a node, or nothing more can be done.
    async fn become_node(
        &self,
        kept: Option<Kept>,
        config: &NodeConfig,
    ) -> Result<Kept, Diagnostic> {
        let mut backoff = Backoff::default();
        loop {
            let attempt = match (&kept, &config.token) {
                (Some(kept), token) => match (self.come_back(kept).await, token) {
                    // A name that was given to another host, or a database that was
                    // lost: a new token decides.
                    (Err(Failure::Final(_)), Some(token)) => self.join(token, config).await,
                    (attempt, _) => attempt,
                },
                (None, Some(token)) => self.join(token, config).await,
                (None, None) => return Err(no_token()),
            };
            match attempt {
                Ok(kept) => return Ok(kept),
                Err(Failure::Final(diagnostic)) => return Err(*diagnostic),
                Err(Failure::Later(why)) => {
                    let pause = backoff.next(FOLLOW_MAX);
                    tracing::warn!(why, ?pause, "PLS4122: this host is not a node yet");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Spends a token. One that was spent by this very key is as good as new: the
    /// answer was lost on its way.
    async fn join(&self, token: &JoinToken, config: &NodeConfig) -> Result<Kept, Failure> {
        if token.trust_domain != *self.domain {
            return Err(wrong_authority(&format!(
                "the token is for trust domain `{}`, this host is configured for `{}`",
                token.trust_domain, self.domain
            ))
            .into());
        }
        let name = config.name.as_ref().unwrap_or(&token.node);
        match self.enrol(name, token).await {
            Err(failure) if failure.code() == TOKEN_USED => {
                let known = Kept {
                    name: name.clone(),
                    address: token.address.clone(),
                    chain: Vec::new(),
                    roots: Vec::new(),
                    roles: Vec::new(),
                    return_secret: Vec::new(),
                };
                let back = self.return_by_key(&known, &token.roots).await;
                back.map_err(|_| failure)
            }
            outcome => outcome,
        }
    }

    async fn enrol(&self, name: &NodeName, token: &JoinToken) -> Result<Kept, Failure> {
        let mut challenged = self.challenge(&token.address, name).await?;
        self.prove(&challenged, &token.roots, &[])?;
        let mut request = EnrolRequest {
            node: name.to_string(),
            token_id: token.id.clone(),
            secret: token.secret.to_vec(),
            spki: self.key.spki(),
            challenge: challenged.response.challenge.clone(),
            proof: Vec::new(),
        };
        request.proof = self.sign(&enrol_context(self.domain, &request))?;
        let answered = exchange(challenged.client.enrol(request)).await?;
        self.kept(name, &token.address, answered)
    }

    /// By the node's own key.
    async fn come_back(&self, kept: &Kept) -> Result<Kept, Failure> {
        self.return_by_key(kept, &[]).await
    }

    async fn return_by_key(&self, kept: &Kept, pins: &[[u8; 32]]) -> Result<Kept, Failure> {
        let mut challenged = self.challenge(&kept.address, &kept.name).await?;
        if let Err(refused) = self.prove(&challenged, pins, &kept.roots()) {
            // Its roots have changed: its word for them counts, if it is the one that
            // this node joined.
            let given = &challenged.response;
            let is_word = !kept.return_secret.is_empty()
                && vouched(
                    &kept.return_secret,
                    &challenged.nonce,
                    &given.roots,
                    &given.vouch,
                );
            if !is_word {
                return Err(refused);
            }
            let digests: Vec<[u8; 32]> = given
                .roots
                .iter()
                .filter_map(|r| r.as_slice().try_into().ok())
                .collect();
            self.prove(&challenged, &digests, &[])?;
        }
        let mut request = ReturnRequest {
            node: kept.name.to_string(),
            spki: self.key.spki(),
            challenge: challenged.response.challenge.clone(),
            proof: Vec::new(),
        };
        request.proof = self.sign(&return_context(self.domain, &request))?;
        let answered = exchange(challenged.client.r#return(request)).await?;
        self.kept(&kept.name, &kept.address, answered)
    }

    async fn challenge(&self, address: &str, name: &NodeName) -> Result<Challenged, Failure> {
        let met = self.doors.meet(address).await.map_err(|why| {
            Failure::Later(format!("authority at `{address}` cannot be reached: {why}"))
        })?;
        let mut client = EnrolmentClient::new(met.channel);
        let nonce = random::bytes::<NONCE_LEN>();
        let request = ChallengeRequest {
            node: name.to_string(),
            spki: self.key.spki(),
            nonce: nonce.to_vec(),
            time_us: self.clock.now_us(),
        };
        let response = exchange(client.challenge(request)).await?;
        Ok(Challenged {
            client,
            chain: met.chain,
            nonce,
            response,
        })
    }

    /// Whether the other end is the authority: its chain leads to a root with one of
    /// these digests, or to one of these roots.
    fn prove(
        &self,
        challenged: &Challenged,
        digests: &[[u8; 32]],
        roots: &[CertificateDer<'static>],
    ) -> Result<(), Failure> {
        let (own, path): (Vec<_>, Vec<_>) = challenged
            .chain
            .iter()
            .cloned()
            .partition(|c| digests.contains(&sha256(c)));
        let bundle = TrustBundle {
            trust_domain: self.domain.clone(),
            roots: own.into_iter().chain(roots.iter().cloned()).collect(),
        };
        match verify_chain(&path, &bundle, self.now()) {
            Ok(peer) if peer.id == self.domain.role("ca") => Ok(()),
            Ok(peer) => Err(wrong_authority(&format!("it is `{}`", peer.id)).into()),
            Err(error @ (PeerError::Expired { .. } | PeerError::NotValidYet { .. })) => {
                Err(wrong_clock(&error).into())
            }
            Err(error) => Err(wrong_authority(&error.to_string()).into()),
        }
    }

    fn kept(&self, name: &NodeName, address: &str, given: NodeCredential) -> Result<Kept, Failure> {
        let kept = Kept {
            name: name.clone(),
            address: address.to_owned(),
            chain: given.chain,
            roots: given.roots,
            roles: given.roles.iter().filter_map(|r| r.parse().ok()).collect(),
            return_secret: given.return_secret,
        };
        let (svid, bundle) = self
            .credential(&kept)
            .map_err(|e| wrong_authority(&format!("its certificate for us: {e}")))?;
        let peer = verify_chain(&svid.chain, &bundle, self.now())
            .map_err(|e| wrong_authority(&format!("its certificate for us: {e}")))?;
        if peer.id != name.id(self.domain) {
            return Err(wrong_authority(&format!("it made us `{}`", peer.id)).into());
        }
        Ok(kept)
    }

    fn credential(&self, kept: &Kept) -> Result<(X509Svid, TrustBundle), PeerError> {
        let chain = kept.chain.iter().cloned().map(Into::into).collect();
        let svid = X509Svid::new(chain, self.key.pkcs8())?;
        let bundle = TrustBundle {
            trust_domain: self.domain.clone(),
            roots: kept.roots(),
        };
        Ok((svid, bundle))
    }

    /// Whether the certificate on disk still serves.
    fn is_valid(&self, kept: &Kept) -> bool {
        self.credential(kept).is_ok_and(|(svid, bundle)| {
            svid.id == kept.name.id(self.domain)
                && verify_chain(&svid.chain, &bundle, self.now()).is_ok()
        })
    }

    fn sign(&self, context: &[u8]) -> Result<Vec<u8>, Failure> {
        let signed = self.key.sign(context);
        signed.map_err(|_| Failure::Later("key cannot sign".into()))
    }

    fn now(&self) -> UnixTime {
        let us = u64::try_from(self.clock.now_us()).unwrap_or_default();
        UnixTime::since_unix_epoch(Duration::from_micros(us))
    }
}

async fn exchange<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(EXCHANGE_MAX, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(&status)),
        Err(_) => Err(Failure::Later("authority does not answer".into())),
    }
}

/// What the authority said; what it will say again is final.
fn refused(status: &Status) -> Failure {
    let is_final = matches!(
        status.code(),
        tonic::Code::PermissionDenied
            | tonic::Code::FailedPrecondition
            | tonic::Code::InvalidArgument
            | tonic::Code::Unimplemented
    );
    match code_of(status.message()) {
        Some((code, text)) if is_final => {
            let help = match code {
                4115 => "set the clock of one of them right, such as by NTP",
                4106 => "the operator has banned this node: palisade join node list",
                _ => {
                    "make a new token where the authority runs: palisade join token create --node NAME"
                }
            };
            Diagnostic {
                code: palisade_mesh::diagnostic::Code(code),
                ..not_let_in()
            }
            .cause(text.to_owned())
            .help(help)
            .into()
        }
        _ => Failure::Later(status.message().to_owned()),
    }
}

fn not_let_in() -> Diagnostic {
    Diagnostic::error(4122, "the authority does not let this host in")
}

fn no_token() -> Diagnostic {
    Diagnostic::error(4120, "this host has not joined a mesh, and has no join token")
        .help("where the authority runs: palisade join token create --node NAME; here: --join-token-file FILE")
}

fn wrong_authority(why: &str) -> Diagnostic {
    Diagnostic::error(4114, "this is not the authority that the node belongs to")
        .cause(why.to_owned())
        .help("see where the address leads; if the authority was made anew, join with a new token")
}

fn wrong_clock(error: &PeerError) -> Diagnostic {
    Diagnostic::error(4115, "the clocks of this host and of the authority differ")
        .cause(format!("{error}, in seconds since the epoch"))
        .help("set the clock of one of them right, such as by NTP")
}

fn unusable(why: &str) -> Diagnostic {
    Diagnostic::error(4121, "what this node keeps on disk cannot be used").cause(why.to_owned())
}

fn der(certificates: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|c| c.to_vec()).collect()
}
