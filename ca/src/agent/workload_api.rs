//! The SPIFFE Workload API (SPIFFE standard "Workload API", X.509-SVID profile).
//!
//! Every message of a stream is the complete state; what is absent from it is
//! withdrawn. Callers are attested when they call and again before each message,
//! so a process that became another program gets nothing more. The JWT-SVID
//! profile is answered `Unimplemented`.

use std::{collections::HashMap, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use palisade_mesh::wire::agent::directory_server::DirectoryServer;
use palisade_mesh::wire::kill::{SignedKillList, kill_server::KillServer};
use palisade_mesh::wire::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Server};

use super::{
    Desk,
    attest::{Attested, Process},
    connection::{Caller, Connection},
    directory::DirectoryService,
    holders::{OpenStream, Shown},
    kill::{KillService, Signed},
    refusals::Refusals,
    tally::{Slot, Tally},
};
use crate::{
    registration::Registration, renewal::issuer_of, selector::Selector, socket::Socket,
    trust::TrustState,
};

/// The header that every call must carry, once, with the value `true`: a browser
/// or a confused proxy does not (Workload Endpoint standard, section 4).
const HEADER: &str = "workload.spiffe.io";
/// What rust-spiffe and SPIRE's own clients look for.
const NO_IDENTITY: &str = "no identity issued";
/// Largest message accepted from a client, in bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Largest list of headers accepted from a client, in bytes.
const HEADERS_LEN_MAX: u32 = 16 * 1024;
/// Most calls on one connection at a time.
const CALLS_PER_CONNECTION_MAX: u32 = 128;
/// How long a call waits for its first certificate before it is told to come back.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// How often an idle connection is asked whether it is still there, and how long
/// it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(20));
/// How long connections may take to end at shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// The Workload API on its bound socket.
pub struct WorkloadApi {
    desk: Arc<Desk>,
    socket: Socket,
    kill: Signed,
}

impl WorkloadApi {
    pub(super) fn new(desk: Arc<Desk>, socket: Socket) -> Self {
        Self {
            desk,
            socket,
            kill: watch::channel(None).1,
        }
    }

    /// Passes on the kill list too, which somebody else follows and has verified.
    #[must_use]
    pub fn relaying(mut self, kill: watch::Receiver<Option<Arc<SignedKillList>>>) -> Self {
        self.kill = kill;
        self
    }

    /// Serves until `shutdown` resolves or the agent is dropped; then streams end
    /// as unavailable, so that clients come back.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { desk, socket, kill } = self;
        let closing = desk.stop.child_token();
        let connections = Tally::new(desk.config.connections_per_uid_max);
        let incoming = socket
            .incoming()
            .filter_map(move |stream| std::future::ready(admit(stream, &connections)));
        let streams = Tally::new(desk.config.streams_per_uid_max);
        let refusals = Arc::<Refusals>::default();
        let directory = DirectoryService::new(desk.clone(), streams.clone(), refusals.clone());
        let directory = DirectoryServer::new(directory).max_decoding_message_size(MESSAGE_LEN_MAX);
        let kill = KillServer::new(KillService::new(desk.clone(), streams.clone(), kill))
            .max_decoding_message_size(MESSAGE_LEN_MAX);
        let service = SpiffeWorkloadApiServer::new(Service {
            streams,
            closing: closing.clone(),
            refusals,
            desk,
        })
        .max_decoding_message_size(MESSAGE_LEN_MAX);
        let server = Server::builder()
            .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(HEADERS_LEN_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .add_service(service)
            .add_service(directory)
            .add_service(kill)
            .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
        let mut server = std::pin::pin!(server);
        tokio::select! {
            () = shutdown => {}
            () = closing.cancelled() => {}
            ended = &mut server => {
                tracing::error!(?ended, "workload api ended by itself");
                return;
            }
        }
        closing.cancel();
        if tokio::time::timeout(GRACE, server).await.is_err() {
            tracing::debug!("connections to the workload api were cut at shutdown");
        }
    }
}

/// Reads who is behind a new connection; closes it if its user holds too many.
fn admit(stream: UnixStream, connections: &Tally) -> Option<Result<Connection, Infallible>> {
    let caller: Caller = Arc::new(Process::of(&stream));
    let uid = match &*caller {
        Ok(process) => process.uid(),
        Err(error) => {
            tracing::debug!(%error, "caller cannot be attested");
            u32::MAX
        }
    };
    let Some(slot) = connections.take(uid) else {
        tracing::warn!(src.uid = uid, "user holds too many connections");
        return None;
    };
    Some(Ok(Connection::new(stream, caller, slot)))
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Service {
    desk: Arc<Desk>,
    streams: Tally,
    refusals: Arc<Refusals>,
    closing: CancellationToken,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(Response::new(self.stream(&request, svids)?))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Ok(Response::new(self.stream(&request, bundles)?))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        Err(no_jwt(&request))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(no_jwt(&request))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(no_jwt(&request))
    }
}

impl Service {
    /// Opens a stream whose messages `build` makes of the caller's entitlement.
    fn stream<T: PartialEq + Clone + Send + Sync + 'static>(
        &self,
        request: &Request<impl Sized>,
        build: fn(&Entitlement) -> Outlook<T>,
    ) -> Result<Messages<T>, Status> {
        check_header(request)?;
        let caller = request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::internal("bug: connection without a caller"))?;
        let slot = self
            .streams
            .take(uid_of(&caller))
            .ok_or_else(|| Status::unavailable("user holds too many streams"))?;
        let (messages, stream) = mpsc::channel(1);
        let call = Call {
            desk: self.desk.clone(),
            refusals: self.refusals.clone(),
            caller,
            attested: None,
            held: OpenStream::new(self.desk.holders.clone()),
            _slot: Some(slot),
        };
        let closing = self.closing.clone();
        tokio::spawn(async move {
            let last = tokio::select! {
                status = call.run(build, &messages) => status,
                () = messages.closed() => return,
                () = closing.cancelled() => Status::unavailable("agent is shutting down"),
            };
            let _ = messages.send(Err(last)).await;
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// Whose connection it is; what cannot be told counts as one user.
pub(super) fn uid_of(caller: &Caller) -> u32 {
    caller.as_ref().as_ref().map_or(u32::MAX, Process::uid)
}

/// Attests a caller once: what is registered for it, at least one.
pub(super) async fn attested_registrations(
    desk: &Arc<Desk>,
    refusals: &Arc<Refusals>,
    caller: &Caller,
) -> Result<Vec<Registration>, Status> {
    let mut call = Call {
        desk: desk.clone(),
        refusals: refusals.clone(),
        caller: caller.clone(),
        attested: None,
        held: OpenStream::new(desk.holders.clone()),
        _slot: None,
    };
    match call.entitlement().await? {
        Some(entitlement) => Ok(entitlement.registrations),
        None => Err(Status::unavailable("the authority was not heard of yet")),
    }
}

pub(super) fn check_header<T>(request: &Request<T>) -> Result<(), Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument(
            "security header missing from request",
        )),
    }
}

fn no_jwt<T>(request: &Request<T>) -> Status {
    check_header(request)
        .err()
        .unwrap_or_else(|| Status::unimplemented("JWT-SVIDs are not offered"))
}

/// One open call.
struct Call {
    desk: Arc<Desk>,
    refusals: Arc<Refusals>,
    caller: Caller,
    /// What the caller was attested as last.
    attested: Option<Attested>,
    /// What the authority is told of it.
    held: OpenStream,
    _slot: Option<Slot>,
}

/// What a caller is entitled to at this moment.
struct Entitlement {
    desk: Arc<Desk>,
    trust: Arc<TrustState>,
    /// At least one, in the order of the list.
    registrations: Vec<Registration>,
}

/// What follows for a stream.
enum Outlook<T> {
    /// A message, and whose identities with whose certificates it shows.
    Message(T, Vec<Shown>),
    /// Certificates are on their way.
    Wait,
}

impl Call {
    /// Sends a message whenever it would differ from the last, until the caller
    /// must be refused; returns how.
    async fn run<T: PartialEq + Clone>(
        mut self,
        build: fn(&Entitlement) -> Outlook<T>,
        messages: &mpsc::Sender<Result<T, Status>>,
    ) -> Status {
        let mut changed = self.desk.changed.subscribe();
        let deadline = tokio::time::Instant::now() + FIRST_WAIT;
        let mut last: Option<T> = None;
        loop {
            // Room first, state after it: a slow reader gets the newest.
            let Ok(room) = messages.reserve().await else {
                return Status::cancelled("caller is gone");
            };
            changed.mark_unchanged();
            match self.entitlement().await {
                Err(status) => return status,
                Ok(Some(entitlement)) => match build(&entitlement) {
                    Outlook::Message(message, shown) => {
                        if last.as_ref() == Some(&message) {
                            drop(room);
                        } else {
                            last = Some(message.clone());
                            room.send(Ok(message));
                            // There is room again when the stream took it.
                            if messages.reserve().await.is_err() {
                                return Status::cancelled("caller is gone");
                            }
                        }
                        self.held.took(entitlement.trust.place(), shown);
                    }
                    Outlook::Wait => drop(room),
                },
                Ok(None) => drop(room),
            }
            let rang = if last.is_some() {
                changed.changed().await
            } else {
                match tokio::time::timeout_at(deadline, changed.changed()).await {
                    Ok(rang) => rang,
                    Err(_) => return self.not_ready(),
                }
            };
            if rang.is_err() {
                return Status::unavailable("agent is shutting down");
            }
        }
    }

    /// Attests the caller and finds its identities; `None` before the authority
    /// was heard of.
    async fn entitlement(&mut self) -> Result<Option<Entitlement>, Status> {
        let Some(trust) = self.desk.trust.borrow().clone() else {
            return Ok(None);
        };
        let selectors = self.attest(&trust).await?;
        let registrations: Vec<_> = trust
            .registrations
            .iter()
            .filter(|r| r.matches(&selectors))
            .cloned()
            .collect();
        if registrations.is_empty() {
            let attested: Vec<String> = selectors.iter().map(Selector::to_string).collect();
            self.refuse("no_identity", format!("attested {}", attested.join(" ")));
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        Ok(Some(Entitlement {
            desk: self.desk.clone(),
            trust,
            registrations,
        }))
    }

    /// Gathers the caller's selectors; it must still run the program it ran before.
    async fn attest(&mut self, trust: &TrustState) -> Result<Vec<Selector>, Status> {
        // Hashing costs; it is done where a registration asks for it.
        let with_digest = trust
            .registrations
            .iter()
            .flat_map(|r| r.selectors.iter())
            .any(|s| matches!(s, Selector::Sha256(_)));
        let outcome = match &*self.caller {
            Ok(process) => process.attest(with_digest, &self.desk.digests).await,
            Err(error) => {
                self.refuse("attestation_failed", error.to_string());
                return Err(unattested());
            }
        };
        let attested = outcome.map_err(|error| {
            self.refuse("attestation_failed", error.to_string());
            unattested()
        })?;
        let attested = match &self.attested {
            None => attested,
            Some(before) => before.renewed(attested).ok_or_else(|| {
                self.refuse("attestation_changed", "it runs another program now".into());
                unattested()
            })?,
        };
        let selectors = attested.selectors.clone();
        self.attested = Some(attested);
        Ok(selectors)
    }

    fn refuse(&self, reason: &'static str, detail: String) {
        let who = match &*self.caller {
            Ok(process) => process.to_string(),
            Err(_) => "unknown process".into(),
        };
        self.refusals
            .note(&self.desk, reason, format!("{who}: {detail}"));
    }

    /// Why the first message did not come in time.
    fn not_ready(&self) -> Status {
        let error = self.desk.keepers().values().find_map(|k| k.error());
        match error {
            Some(error) => tracing::warn!(error, "workload waits in vain for its certificate"),
            None => tracing::warn!("workload waits in vain for the authority"),
        }
        Status::new(Code::Unavailable, "identity is not available yet")
    }
}

fn unattested() -> Status {
    Status::unavailable("caller could not be attested")
}

/// The answer of FetchX509SVID. It waits until every identity has a certificate:
/// one that is missing from a message counts as withdrawn.
fn svids(entitlement: &Entitlement) -> Outlook<X509svidResponse> {
    let bundle = concatenated(&entitlement.trust.bundle.roots);
    let mut hints = std::collections::HashSet::new();
    let now_us = entitlement.desk.now_us();
    // Every keeper is asked before any is waited for, so that all start at once.
    let kept: Vec<_> = entitlement
        .registrations
        .iter()
        .map(|r| (r, entitlement.desk.keeper(r).ask(now_us)))
        .collect();
    let mut shown = Vec::with_capacity(kept.len());
    let svids: Option<Vec<X509svid>> = kept
        .into_iter()
        .map(|(registration, svid)| {
            let svid = svid?;
            shown.push((svid.id.clone(), issuer_of(&svid)));
            // Hints must be unique in a message; the first on the list keeps its.
            let hint = Some(&registration.hint).filter(|h| hints.insert(h.as_str()));
            Some(X509svid {
                spiffe_id: svid.id.to_string(),
                x509_svid: concatenated(&svid.chain),
                x509_svid_key: svid.key.to_vec(),
                bundle: bundle.clone(),
                hint: hint.cloned().unwrap_or_default(),
            })
        })
        .collect();
    svids.map_or(Outlook::Wait, |svids| {
        let message = X509svidResponse {
            svids,
            crl: Vec::new(),
            federated_bundles: HashMap::new(),
        };
        Outlook::Message(message, shown)
    })
}

/// The answer of FetchX509Bundles, keyed by the trust domain's SPIFFE ID.
fn bundles(entitlement: &Entitlement) -> Outlook<X509BundlesResponse> {
    let trust = &entitlement.trust;
    let domain = format!("spiffe://{}", trust.bundle.trust_domain);
    let message = X509BundlesResponse {
        crl: Vec::new(),
        bundles: HashMap::from([(domain, concatenated(&trust.bundle.roots))]),
    };
    let holders = entitlement.registrations.iter();
    let shown = holders.map(|r| (r.spiffe_id.clone(), None)).collect();
    Outlook::Message(message, shown)
}

fn concatenated(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|c| c.iter().copied())
        .collect()
}
