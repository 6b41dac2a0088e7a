//! The host at the enrolment door: how it becomes a node, and comes back as one.

use std::time::Duration;

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    spiffe_id::TrustDomain,
    svid::{PeerError, TrustBundle, X509Svid, verify_chain},
    wire::ca::{
        ChallengeRequest, ChallengeResponse, EnrolRequest, NodeCredential, ReturnRequest,
        enrolment_client::EnrolmentClient,
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tonic::{Status, transport::Channel};

use super::{
    super::backoff::{Backoff, FOLLOW_MAX},
    Doors, NodeConfig,
    state::Kept,
};
use crate::{
    join::{
        NodeName,
        proof::{NONCE_LEN, enrol_context, return_context, vouched},
        refusal::code_of,
        sha256,
        token::JoinToken,
    },
    random,
    request::SvidKey,
};

/// How long one exchange at the enrolment door may take.
pub(super) const EXCHANGE_MAX: Duration = Duration::from_secs(15);
/// Code of a token that somebody has spent.
const TOKEN_USED: u16 = 4112;

/// What every exchange with the authority needs.
pub(super) struct Host<'h> {
    pub(super) domain: &'h TrustDomain,
    pub(super) key: &'h SvidKey,
    pub(super) doors: &'h dyn Doors,
    pub(super) clock: &'h Clock,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
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

/// A challenge, and who gave it.
struct Challenged {
    client: EnrolmentClient<Channel>,
    chain: Vec<CertificateDer<'static>>,
    nonce: [u8; NONCE_LEN],
    response: ChallengeResponse,
}

impl Host<'_> {
    /// Until it is a node, or nothing more can be done.
    pub(super) async fn become_node(
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
    pub(super) async fn come_back(&self, kept: &Kept) -> Result<Kept, Failure> {
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

    pub(super) fn credential(&self, kept: &Kept) -> Result<(X509Svid, TrustBundle), PeerError> {
        let chain = kept.chain.iter().cloned().map(Into::into).collect();
        let svid = X509Svid::new(chain, self.key.pkcs8())?;
        let bundle = TrustBundle {
            trust_domain: self.domain.clone(),
            roots: kept.roots(),
        };
        Ok((svid, bundle))
    }

    /// Whether the certificate on disk still serves.
    pub(super) fn is_valid(&self, kept: &Kept) -> bool {
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

pub(super) fn unusable(why: &str) -> Diagnostic {
    Diagnostic::error(4121, "what this node keeps on disk cannot be used").cause(why.to_owned())
}

pub(super) fn der(certificates: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    certificates.iter().map(|c| c.to_vec()).collect()
}
