//! Who has signed heads, and what becomes of those that nobody has.
//!
//! Heads count for something only where the reporter has signed them: as a promise, as a
//! digest of records, as a sign of life. They name the record that carries them, so that a
//! copy elsewhere says nothing. Their certificate comes with the first heads of a boot and again
//! later; heads whose certificate is not known are believed in nothing, and they are excused
//! only where the record that had it is one that is not here.

use std::collections::BTreeSet;

use palisade_mesh::{
    svid::{Peer, verify_signed},
    wire::record::{Head, Heads, StreamHeads},
};
use prost::Message as _;
use ulid::Ulid;

use super::{HeadSignature, HeadSigner};
use crate::{
    envelope::{RecordPeek, STREAM_HEADS},
    merkle::{Hash, sha256},
    stream::StreamKey,
};

/// What the signed bytes begin with.
const PREFIX: &[u8] = b"palisade stream heads v2\n";

/// Heads after which the certificates are sent again: a log that begins anew needs them.
pub(crate) const CERTIFICATES_EVERY: u32 = 30;

/// Most streams that one record of heads may be about; what is said of more says nothing.
pub const STREAMS_MAX: usize = 2048;

#[cfg(test)]
thread_local! {
    /// Signatures that were checked.
    static CHECKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The record that carries heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// In which stream.
    pub(crate) stream: &'a StreamKey,
    /// Its number there.
    pub(crate) sequence: u64,
}

/// Signed heads, as a record has them.
pub(crate) struct Statement {
    signed: StreamHeads,
    /// What is signed.
    pub(crate) heads: Heads,
}

impl Statement {
    /// Reads the heads of a record, if it has any.
    pub(crate) fn read(peek: &RecordPeek<'_>) -> Option<Self> {
        if peek.class != STREAM_HEADS {
            return None;
        }
        let signed = StreamHeads::decode(peek.body).ok()?;
        let heads = Heads::decode(signed.heads.as_slice()).ok()?;
        Some(Self { signed, heads })
    }

    /// Signs `heads`; certificates are left out when the log has them already, which
    /// `known` says by the digest of the leaf.
    pub(crate) fn sign(
        heads: &Heads,
        signer: &dyn HeadSigner,
        known: Option<Hash>,
    ) -> Option<(StreamHeads, Hash)> {
        let heads = heads.encode_to_vec();
        let HeadSignature {
            scheme,
            signature,
            certificates,
        } = signer.sign(&message(&heads))?;
        let leaf = sha256(certificates.first()?);
        let signed = StreamHeads {
            heads,
            scheme: scheme.into(),
            signature,
            certificate: leaf.to_vec(),
            certificates: match known == Some(leaf) {
                true => Vec::new(),
                false => certificates,
            },
        };
        Some((signed, leaf))
    }

    /// Checks who has signed, with the certificate that comes with it or one that is `known`
    /// by its digest. It came in the record `at`.
    pub(crate) fn check<'c>(
        &self,
        at: Place<'_>,
        known: impl FnOnce(&[u8]) -> Option<&'c [u8]>,
    ) -> Signature {
        let Self { signed, heads } = self;
        let stream = at.stream;
        if heads.streams.len() + heads.earlier.len() > STREAMS_MAX {
            return Signature::Wrong("it is about too many streams");
        }
        let sent = signed.certificates.first().map(Vec::as_slice);
        let Some(by) = sent.or_else(|| known(&signed.certificate)) else {
            return Signature::Unknown;
        };
        let certificate = sha256(by);
        if certificate.as_slice() != signed.certificate {
            return Signature::Wrong("its certificate is not the one that it names");
        }
        #[cfg(test)]
        CHECKED.with(|checked| checked.set(checked.get() + 1));
        let scheme = u16::try_from(signed.scheme).unwrap_or_default();
        let peer = verify_signed(by, scheme, &message(&signed.heads), &signed.signature);
        let about = heads.reporter == stream.reporter.as_str()
            && heads.boot.as_slice() == stream.boot.to_bytes();
        let here = (heads.worker, heads.sequence) == (stream.worker, at.sequence);
        match peer {
            Err(_) => Signature::Wrong("the signature is not by the certificate"),
            Ok(peer) if peer.id != stream.reporter => {
                Signature::Wrong("the certificate is somebody else's")
            }
            Ok(_) if !about => Signature::Wrong("it is about other streams than its own"),
            Ok(_) if !here => Signature::Wrong("it was signed for another record"),
            Ok(peer) => Signature::Holds(Signer { peer, certificate }),
        }
    }

    /// How many signatures this thread has checked.
    #[cfg(all(test, feature = "index"))]
    pub(crate) fn checked() -> u64 {
        CHECKED.get()
    }

    /// The certificate that comes with it, if it is the one that it names.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        let sent = self.signed.certificates.first()?;
        (sha256(sent).as_slice() == self.signed.certificate).then_some(sent)
    }

    /// The certificate that it names, by its digest.
    pub(crate) fn named(&self) -> Option<Hash> {
        self.signed.certificate.as_slice().try_into().ok()
    }

    /// Bytes that it takes to keep it.
    pub(crate) fn len(&self) -> usize {
        let certificates = self.signed.certificates.iter().map(Vec::len);
        let streams = self.heads.streams.len() + self.heads.earlier.len();
        512 + 64 * streams + 2 * self.signed.heads.len() + certificates.sum::<usize>()
    }

    /// The certificates that come with it, leaf first.
    #[cfg(feature = "index")]
    pub(crate) fn certificates(&self) -> &[Vec<u8>] {
        &self.signed.certificates
    }

    /// What it says of each stream of its boot, which has the stream `own`.
    pub(crate) fn streams(&self, own: &StreamKey) -> impl Iterator<Item = (StreamKey, &Head)> {
        let streams = self.heads.streams.iter();
        streams.map(|head| (own.of_worker(head.worker), head))
    }

    /// How far it says that streams of earlier starts are.
    pub(crate) fn reached(&self, own: &StreamKey) -> impl Iterator<Item = (StreamKey, u64)> {
        self.heads.earlier.iter().filter_map(|reached| {
            let stream = StreamKey {
                boot: ulid(&reached.boot)?,
                ..own.of_worker(reached.worker)
            };
            Some((stream, reached.last_sequence))
        })
    }

    /// How far it says that streams are, those of earlier starts first.
    pub(crate) fn promised(&self, own: &StreamKey) -> impl Iterator<Item = (StreamKey, u64)> {
        let streams = self.streams(own);
        let streams = streams.map(|(stream, head)| (stream, head.last_sequence));
        self.reached(own).chain(streams)
    }

    /// The starts that it names as earlier ones than that of its stream `own`.
    pub(crate) fn earlier(&self, own: &StreamKey) -> BTreeSet<Ulid> {
        let reached = self.heads.earlier.iter();
        let named = reached.map(|reached| &reached.boot);
        named
            .chain([&self.heads.previous_boot])
            .filter_map(|boot| ulid(boot))
            .filter(|boot| *boot != own.boot)
            .collect()
    }
}

/// Whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signer {
    /// Whom the certificate names.
    pub(crate) peer: Peer,
    /// SHA-256 of the certificate.
    pub(crate) certificate: Hash,
}

/// What is to be thought of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    /// The reporter has signed it, with this certificate.
    Holds(Signer),
    /// Its certificate is not known: it says nothing.
    Unknown,
    /// The reporter has not signed it.
    Wrong(&'static str),
}

fn ulid(bytes: &[u8]) -> Option<Ulid> {
    Some(Ulid::from_bytes(bytes.try_into().ok()?))
}

fn message(heads: &[u8]) -> Vec<u8> {
    [PREFIX, heads].concat()
}
