//! Heads of streams, signed by who reports them.
//!
//! Every ten seconds, whether there is something new or not, a spool says how far each
//! of its streams is and what the records since the last time hash to, signed with the
//! reporter's SVID. So a record that was withheld, altered or reordered between the
//! reporter and the log is told from one that was never written, by the reporter's own
//! word and long after; and a reporter that says nothing any more is missed.
//!
//! A head speaks of numbers, and is held against the records of these numbers ([`Order`]),
//! whichever of them comes first: who can change the order in which they arrive gains nothing.

use aws_lc_rs::digest::{Context, SHA256};
use palisade_mesh::wire::record::Head;

use crate::{buffer::Chunk, envelope::attested, merkle::sha256};

mod certified;
mod checks;
mod order;
mod signed;

pub(crate) use certified::{CERTIFICATE_LEN_MAX, Certified, long_ago};
pub(crate) use checks::Checks;
pub(crate) use order::{Order, Stretch};
pub use signed::STREAMS_MAX;
pub(crate) use signed::{CERTIFICATES_EVERY, Place, Signature, Signer, Statement};

/// Signs with the SVID of a reporter.
pub trait HeadSigner: Send + Sync {
    /// Signs `message`; `None` when there is nothing to sign with.
    fn sign(&self, message: &[u8]) -> Option<HeadSignature>;
}

/// Knows the trust bundle of the mesh.
pub trait Roots: Send + Sync {
    /// Whether a chain of DER certificates, leaf first, rests on it at `at_s`, seconds since
    /// the Unix epoch; else why not.
    ///
    /// # Errors
    /// In words.
    fn hold(&self, chain: &[Vec<u8>], at_s: i64) -> Result<(), String>;
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

/// The records of a stream since its last head, at the reporter.
pub(crate) struct Running {
    /// Number of the first that the next head is about.
    first: u64,
    /// Number of the record that follows.
    next: u64,
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
            digest: Context::new(&SHA256),
        }
    }

    /// Takes in the records of a chunk. What goes beside them is not in the log.
    pub(crate) fn take_chunk(&mut self, chunk: &Chunk) {
        for record in chunk.records() {
            self.take(attested(&record));
        }
    }

    /// Takes in the record that follows, as the log has it.
    pub(crate) fn take(&mut self, record: &[u8]) {
        self.digest.update(&sha256(record));
        self.next += 1;
    }

    /// The head of what came in since the last one was said.
    pub(crate) fn head(&self, worker: u32) -> Head {
        Head {
            worker,
            first_sequence: self.first,
            last_sequence: self.next - 1,
            digest: self.digest.clone().finish().as_ref().to_vec(),
        }
    }

    /// That head was signed; the next one is about what follows.
    pub(crate) fn said(&mut self) {
        *self = Self::from(self.next);
    }
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
        stream::StreamKey,
    };

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
                authors: vec![author.into()],
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
        let contradicted = |with_values: bool| {
            let mut log = Order::new(16);
            let stream = log.open();
            for (n, record) in (1..).zip(chunk.records()) {
                assert!(attested(&record).len() < record.len());
                let record = match with_values {
                    true => &record,
                    false => attested(&record),
                };
                assert_eq!(log.take(stream, n, record), None);
            }
            log.head(stream, &head, 9).is_some()
        };
        assert!(!contradicted(false));
        assert!(contradicted(true));
    }

    /// A head that could not be signed takes nothing from the next one.
    #[test]
    fn what_was_not_signed_is_in_the_next_head() {
        let mut sender = Running::default();
        sender.take(b"one");
        let unsigned = sender.head(0);
        sender.take(b"two");
        let head = sender.head(0);
        assert_eq!((head.first_sequence, head.last_sequence), (1, 2));
        assert_ne!(unsigned.digest, head.digest);
        sender.said();
        let next = sender.head(0);
        assert_eq!((next.first_sequence, next.last_sequence), (3, 2));
    }
}
