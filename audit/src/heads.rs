//! Heads of streams, signed by who reports them.
//!
//! Every ten seconds, whether there is something new or not, a spool says how far each
//! of its streams is and what the records since the last time hash to, signed with the
//! reporter's SVID. So a record that was withheld, altered or reordered between the
//! reporter and the log is told from one that was never written, by the reporter's own
//! word and long after; and a reporter that says nothing any more is missed.

use aws_lc_rs::digest::{Context, SHA256};
use palisade_mesh::wire::record::Head;

use crate::{buffer::Chunk, envelope::attested};

mod certified;
mod signed;

pub(crate) use certified::Certified;
pub use signed::STREAMS_MAX;
pub(crate) use signed::{CERTIFICATES_EVERY, Signatory, Signature, Signer, Statement};

/// Signs with the SVID of a reporter.
pub trait HeadSigner: Send + Sync {
    /// Signs `message`; `None` when there is nothing to sign with.
    fn sign(&self, message: &[u8]) -> Option<HeadSignature>;
}

/// Knows the trust bundle of the mesh.
pub trait Roots: Send + Sync {
    /// Whether a chain of DER certificates, leaf first, rests on it now; else why not.
    ///
    /// # Errors
    /// In words.
    fn hold(&self, chain: &[Vec<u8>]) -> Result<(), String>;
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

    /// Whether the record that is numbered `sequence` is the one that follows, with nothing
    /// missing since the last head.
    #[cfg(feature = "index")]
    pub(crate) fn is_followed_by(&self, sequence: u64) -> bool {
        self.whole && self.next == sequence
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
