//! Policy revisions that a PDP gives to be kept beside the log.

use std::time::Duration;

use bytes::Bytes;
use palisade_mesh::{spiffe_id::SpiffeId, svid::Peer, wire::audit::RevisionPart};
use tonic::{Status, Streaming};

use crate::{merkle::Hash, policies::BUNDLE_LEN_MAX};

/// Longest part of a bundle, in bytes; a message has room for little more.
pub const PART_LEN_MAX: usize = 1 << 20;

/// How long a bundle may take to arrive: one is taken in at a time.
pub(super) const ARRIVAL_MAX: Duration = Duration::from_secs(60);

/// Whoever keeps policy revisions, and knows what one is.
pub trait Keep: Send + Sync {
    /// Whether `peer` may give revisions.
    fn takes_from(&self, peer: &SpiffeId) -> bool;

    /// Whether the revision is kept, as it was given. Blocks on the disk.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn has(&self, digest: &Hash) -> Result<bool, Unkept>;

    /// Keeps a revision. Blocks on the disk.
    ///
    /// # Errors
    /// [`Unkept`].
    fn keep(&self, digest: &Hash, bundle: Bytes) -> Result<(), Unkept>;
}

/// Why a revision is not kept.
#[derive(Debug, thiserror::Error)]
pub enum Unkept {
    /// It never will be: it is not what its digest says.
    #[error("it is not the revision of its digest: {0}")]
    Other(String),
    /// This version cannot tell, and a later one could.
    #[error("this version does not understand it: {0}")]
    NotUnderstood(String),
    /// The disk did not take it, or give it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<Unkept> for Status {
    fn from(why: Unkept) -> Self {
        match why {
            Unkept::Other(_) => Self::invalid_argument(why.to_string()),
            Unkept::NotUnderstood(_) => Self::failed_precondition(why.to_string()),
            Unkept::Io(_) => Self::unavailable(why.to_string()),
        }
    }
}

/// What a peer is told whose certificate has run out since it connected.
pub(super) const EXPIRED: &str = "the peer's certificate has expired";

/// Who asks, if they may give revisions and their certificate is valid at `now_s`.
pub(super) fn giver<'r>(
    keep: &dyn Keep,
    peer: Option<&'r Peer>,
    now_s: i64,
) -> Result<&'r Peer, Status> {
    let peer =
        peer.ok_or_else(|| Status::unauthenticated("the connection has proven no identity"))?;
    if peer.not_after_s < now_s {
        return Err(Status::unauthenticated(EXPIRED));
    }
    match keep.takes_from(&peer.id) {
        true => Ok(peer),
        false => Err(Status::permission_denied(
            "policy revisions are taken from the PDP alone",
        )),
    }
}

pub(super) fn digest(bytes: &[u8]) -> Result<Hash, Status> {
    bytes
        .try_into()
        .map_err(|_| Status::invalid_argument("a digest has 32 bytes"))
}

/// Puts the parts of a bundle together.
pub(super) async fn whole(mut parts: Streaming<RevisionPart>) -> Result<(Hash, Bytes), Status> {
    let (mut named, mut bundle) = (None, Vec::new());
    while let Some(part) = parts.message().await? {
        if named.is_none() {
            named = Some(digest(&part.digest)?);
        }
        if bundle.len() + part.bundle.len() > BUNDLE_LEN_MAX {
            let most = format!("a revision has at most {BUNDLE_LEN_MAX} bytes");
            return Err(Status::invalid_argument(most));
        }
        bundle.extend_from_slice(&part.bundle);
    }
    let named = named.ok_or_else(|| Status::invalid_argument("no part has come"))?;
    Ok((named, bundle.into()))
}
