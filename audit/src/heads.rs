//! Heads of streams, signed by who reports them.
//!
//! Every ten seconds, whether there is something new or not, a spool says how far each
//! of its streams is and what the records since the last time hash to, signed with the
//! reporter's SVID. So a record that was withheld, altered or reordered between the
//! reporter and the log is told from one that was never written, by the reporter's own
//! word and long after; and a reporter that says nothing any more is missed.

use aws_lc_rs::digest::{Context, SHA256};
use palisade_mesh::{
    svid::{Peer, verify_signed},
    wire::record::{Head, Heads, StreamHeads},
};
use prost::Message as _;

use crate::{
    buffer::Chunk,
    envelope::{RecordPeek, STREAM_HEADS, attested},
    merkle::sha256,
    stream::StreamKey,
};

/// What the signed bytes begin with.
const PREFIX: &[u8] = b"palisade stream heads v1\n";

/// Signs with the SVID of a reporter.
pub trait HeadSigner: Send + Sync {
    /// Signs `message`; `None` when there is nothing to sign with.
    fn sign(&self, message: &[u8]) -> Option<HeadSignature>;
}

/// A signature with an SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSignature {
    /// Number of the scheme, as TLS has it (RFC 8446 section 4.2.3).
    pub scheme: u16,
    /// The signature.
    pub signature: Vec<u8>,
    /// DER certificates, leaf first.
    pub certificates: Vec<Vec<u8>>,
}

/// The records of a stream since its last head, as far as they came in order.
pub(crate) struct Running {
    /// Number of the first that the next head is about.
    first: u64,
    /// Number of the record that is expected.
    next: u64,
    /// Whether every record from `first` on came when it was expected.
    whole: bool,
    digest: Context,
}

impl Default for Running {
    fn default() -> Self {
        Self::from(1)
    }
}

impl Running {
    fn from(first: u64) -> Self {
        Self {
            first,
            next: first,
            whole: true,
            digest: Context::new(&SHA256),
        }
    }

    /// Of a stream whose beginning was not seen.
    #[cfg(feature = "index")]
    pub(crate) fn unknown() -> Self {
        Self {
            whole: false,
            ..Self::default()
        }
    }

    /// Takes in the record that is numbered `sequence`, as the log has it.
    pub(crate) fn take(&mut self, sequence: u64, record: &[u8]) {
        self.whole &= sequence == self.next;
        if self.whole {
            self.update(record);
        }
        self.next = self.next.max(sequence.saturating_add(1));
    }

    /// Passes over the record that is numbered `sequence`, of which it is only known that
    /// it came: the next head cannot be compared.
    pub(crate) fn pass(&mut self, sequence: u64) {
        self.whole = false;
        self.next = self.next.max(sequence.saturating_add(1));
    }

    /// Takes in the records of a chunk. What goes beside them is not in the log.
    pub(crate) fn take_chunk(&mut self, chunk: &Chunk) {
        self.whole &= chunk.first_sequence == self.next;
        for record in chunk.records() {
            self.update(attested(&record));
        }
        self.next = chunk.last_sequence() + 1;
    }

    fn update(&mut self, record: &[u8]) {
        self.digest.update(&(record.len() as u32).to_le_bytes());
        self.digest.update(record);
    }

    /// The head of what came in; the next one is about what follows.
    pub(crate) fn head(&mut self, worker: u32) -> Head {
        let past = std::mem::replace(self, Self::from(self.next));
        Head {
            worker,
            first_sequence: past.first,
            last_sequence: past.next - 1,
            digest: past.digest.finish().as_ref().to_vec(),
        }
    }

    /// Whether `head` is about other records than those that came in, in which case
    /// some of them were changed; what is not known to be so is not said.
    pub(crate) fn contradicts(&mut self, head: &Head) -> bool {
        let next = head.last_sequence.saturating_add(1);
        let same = self.whole && self.first == head.first_sequence && self.next == next;
        let past = std::mem::replace(self, Self::from(next.max(self.next)));
        // What came beyond the head is not in the digest that begins here.
        self.whole = past.next <= next;
        same && past.digest.finish().as_ref() != head.digest
    }
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
        known: Option<[u8; 32]>,
    ) -> Option<(StreamHeads, [u8; 32])> {
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

    /// Checks who has signed. `leaf` is the certificate that the boot used last, and
    /// becomes the one it uses now.
    pub(crate) fn check(&self, stream: &StreamKey, leaf: &mut Vec<u8>) -> Signature {
        let Self { signed, heads } = self;
        if let Some(sent) = signed.certificates.first() {
            leaf.clone_from(sent);
        }
        if sha256(leaf).as_slice() != signed.certificate {
            return Signature::Unknown;
        }
        let scheme = u16::try_from(signed.scheme).unwrap_or_default();
        let peer = verify_signed(leaf, scheme, &message(&signed.heads), &signed.signature);
        let about = heads.reporter == stream.reporter.as_str()
            && heads.boot.as_slice() == stream.boot.to_bytes();
        match peer {
            Err(_) => Signature::Wrong("the signature is not by the certificate"),
            Ok(peer) if peer.id != stream.reporter => {
                Signature::Wrong("the certificate is somebody else's")
            }
            Ok(_) if !about => Signature::Wrong("it is about other streams than its own"),
            Ok(peer) => Signature::Holds(peer),
        }
    }
}

/// What is to be thought of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signature {
    /// The reporter has signed it, with this certificate.
    Holds(Peer),
    /// Its certificate is not known.
    Unknown,
    /// The reporter has not signed it.
    Wrong(&'static str),
}

fn message(heads: &[u8]) -> Vec<u8> {
    [PREFIX, heads].concat()
}

/// Which streams a record says to be how far, if it is one with heads.
pub(crate) fn promised(stream: &StreamKey, peek: &RecordPeek<'_>) -> Vec<(StreamKey, u64)> {
    let of = |head: &Head| {
        let key = StreamKey {
            worker: head.worker,
            ..stream.clone()
        };
        (key, head.last_sequence)
    };
    Statement::read(peek).map_or(Vec::new(), |s| s.heads.streams.iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use palisade_mesh::{
        clock::Clock,
        wire::record::{PolicyChange, Record, record::Body},
    };

    use super::*;
    use crate::{
        buffer::{Buffer, Limits},
        privacy::{Handling, Personal, Rules},
    };

    fn heads_of(records: &[&[u8]]) -> Head {
        let mut running = Running::default();
        for (n, record) in (1..).zip(records) {
            running.take(n, record);
        }
        running.head(0)
    }

    #[test]
    fn a_changed_or_reordered_record_contradicts_the_head() {
        let head = heads_of(&[b"one", b"two"]);
        let check = |records: &[(u64, &[u8])], contradicts| {
            let mut running = Running::default();
            for (sequence, record) in records {
                running.take(*sequence, record);
            }
            assert_eq!(running.contradicts(&head), contradicts, "{records:?}");
        };
        check(&[(1, b"one"), (2, b"two")], false);
        check(&[(1, b"one"), (2, b"twO")], true);
        check(&[(1, b"two"), (2, b"one")], true);
        // Missing is not changed, and what came out of order is not judged.
        check(&[(1, b"one")], false);
        check(&[(2, b"two"), (1, b"one")], false);
    }

    /// What goes beside records is in no head: the log, which has none of it, agrees.
    #[test]
    fn a_head_is_about_records_without_what_goes_beside_them() {
        let rules = Rules::new([(Personal::Author, Handling::Sealed)]);
        let stream = StreamKey {
            reporter: palisade_mesh::spiffe_id::SpiffeId::parse("spiffe://acme.test/pdp").unwrap(),
            boot: ulid::Ulid::from_parts(1, 1),
            worker: 0,
        };
        let limits = Limits {
            bytes: 1 << 16,
            records: 16,
        };
        let mut buffer = Buffer::new(stream.into(), limits, Clock::system()).covering(rules.into());
        for author in ["alice", "bob"] {
            let change = PolicyChange {
                author: author.into(),
                ..PolicyChange::default()
            };
            let record = Record {
                body: Some(Body::PolicyChange(change)),
                ..Record::default()
            };
            buffer.append(&record).unwrap();
        }
        let chunk = buffer.take().unwrap();
        let mut sender = Running::default();
        sender.take_chunk(&chunk);
        let head = sender.head(0);
        let mut log = Running::default();
        let mut with_values = Running::default();
        for (n, record) in (1..).zip(chunk.records()) {
            assert!(attested(&record).len() < record.len());
            log.take(n, attested(&record));
            with_values.take(n, &record);
        }
        assert!(!log.contradicts(&head));
        assert!(with_values.contradicts(&head));
    }

    #[test]
    fn a_head_after_a_gap_is_judged_again() {
        let mut sender = Running::default();
        sender.take(1, b"one");
        let first = sender.head(0);
        sender.take(2, b"two");
        let second = sender.head(0);
        sender.take(3, b"three");
        let third = sender.head(0);
        let mut log = Running::default();
        // Record 1 never arrives.
        assert!(!log.contradicts(&first));
        log.take(2, b"two");
        assert!(!log.contradicts(&second));
        log.take(3, b"changed");
        assert!(log.contradicts(&third));
    }
}
