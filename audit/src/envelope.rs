//! The bytes of a leaf, written and read without copying.
//!
//! A leaf is a `palisade.audit.v1.Envelope`. The generated type owns its parts;
//! appending and verifying handle millions a second, so here the same encoding is
//! written from borrowed parts and read back as borrowed parts.

mod decision;

pub use decision::DecisionRef;
use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

/// Version of the envelope.
pub const VERSION: u32 = 1;

/// Random bytes in every leaf.
pub const SALT_LEN: usize = 16;

/// Longest leaf, in bytes: entry bundles of C2SP tlog-tiles carry 16-bit lengths.
pub const LEAF_LEN_MAX: usize = u16::MAX as usize;

/// Longest record, in bytes. With the longest SPIFFE ID and every other field
/// it still fits [`LEAF_LEN_MAX`].
pub const RECORD_LEN_MAX: usize = 61 * 1024;

/// The parts of an `Envelope`, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeRef<'a> {
    /// [`VERSION`].
    pub version: u32,
    /// Encoded `StreamId`.
    pub stream: &'a [u8],
    /// Number in the stream.
    pub sequence: u64,
    /// Time of receipt, microseconds since the Unix epoch.
    pub received_us: i64,
    /// [`SALT_LEN`] random bytes.
    pub salt: &'a [u8],
    /// Encoded `Record`, without its disclosures.
    pub record: &'a [u8],
    /// Encoded `Sealed`; empty where the record covers nothing that can be opened.
    pub sealed: &'a [u8],
}

impl<'a> EnvelopeRef<'a> {
    /// Appends the encoding to `buf`, byte for byte as the generated type has it.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        varint(1, self.version.into(), buf);
        encode_key(2, WireType::LengthDelimited, buf);
        encode_varint(self.stream.len() as u64, buf);
        buf.extend_from_slice(self.stream);
        varint(3, self.sequence, buf);
        varint(4, self.received_us as u64, buf);
        bytes(5, self.salt, buf);
        bytes(6, self.record, buf);
        bytes(7, self.sealed, buf);
    }

    /// Reads an encoded envelope; `None` when it is none or has another version.
    pub fn decode(mut buf: &'a [u8]) -> Option<Self> {
        let mut envelope = Self {
            version: 0,
            stream: &[],
            sequence: 0,
            received_us: 0,
            salt: &[],
            record: &[],
            sealed: &[],
        };
        while let Some((tag, value)) = field(&mut buf)? {
            match (tag, value) {
                (1, Value::Varint(v)) => envelope.version = u32::try_from(v).ok()?,
                (2, Value::Bytes(b)) => envelope.stream = b,
                (3, Value::Varint(v)) => envelope.sequence = v,
                (4, Value::Varint(v)) => envelope.received_us = v as i64,
                (5, Value::Bytes(b)) => envelope.salt = b,
                (6, Value::Bytes(b)) => envelope.record = b,
                (7, Value::Bytes(b)) => envelope.sealed = b,
                _ => return None,
            }
        }
        (envelope.version == VERSION).then_some(envelope)
    }
}

/// Reads the envelope that starts `buf`, whatever follows it, and its length: the
/// record is its last field, or what is sealed of it. For a frame whose length cannot be
/// trusted. What follows can look like something sealed, so both are given where both can
/// be.
pub(crate) fn decode_prefix(buf: &[u8]) -> Vec<(EnvelopeRef<'_>, usize)> {
    let mut rest = buf;
    loop {
        match field(&mut rest) {
            Some(Some((6, _))) => break,
            Some(Some(_)) => {}
            _ => return Vec::new(),
        }
    }
    let without = buf.len() - rest.len();
    let sealed = matches!(field(&mut rest), Some(Some((7, Value::Bytes(_)))));
    let with = sealed.then(|| buf.len() - rest.len());
    let read = |len| Some((EnvelopeRef::decode(buf.get(..len)?)?, len));
    with.into_iter().chain([without]).filter_map(read).collect()
}

/// What can be told of a record without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordPeek<'a> {
    /// ULID bytes, as they are.
    pub id: &'a [u8],
    /// Event time, microseconds since the Unix epoch, on the reporter's clock.
    pub time_us: i64,
    /// Field number of the body in `record.proto`; 0 for none.
    pub class: u32,
    /// Encoded body.
    pub body: &'a [u8],
    /// How many bytes of it heads and leaves are about: all but its disclosures.
    pub attested: usize,
    /// Whether something was taken out of it.
    pub covered: bool,
}

/// Field numbers of bodies in `record.proto`.
const BODIES: std::ops::RangeInclusive<u32> = 16..=59;
/// Field number of the covers.
const COVERS: u32 = 60;
/// Field number of the disclosures.
const DISCLOSURES: u32 = 61;

/// The bytes of an encoded record that heads and leaves are about.
pub(crate) fn attested(record: &[u8]) -> &[u8] {
    let len = RecordPeek::new(record).map_or(record.len(), |peek| peek.attested);
    record.get(..len).unwrap_or(record)
}

/// Field number of a certificate issued, rotated or refused in `record.proto`.
pub(crate) const CREDENTIAL: u32 = 21;
/// Field number of a decision in `record.proto`.
pub(crate) const DECISION: u32 = 16;
/// Field number of an outcome in `record.proto`.
#[cfg(feature = "index")]
pub(crate) const OUTCOME: u32 = 17;
/// Field number of what the log says about itself in `record.proto`.
pub(crate) const LOG_LIFECYCLE: u32 = 24;
/// Field number of a call in `record.proto`.
pub(crate) const CALL: u32 = 31;
/// Field number of signed heads in `record.proto`.
pub(crate) const STREAM_HEADS: u32 = 32;
/// Field number of a spool event in `record.proto`.
pub(crate) const SPOOL_EVENT: u32 = 30;
/// Field number of a stream head in `record.proto`.
const STREAM_HEAD: u32 = 25;
/// Field number of an erasure in `record.proto`.
const ERASURE: u32 = 26;
/// Field number of what an operator did in `record.proto`.
pub(crate) const ADMIN: u32 = 20;

/// Whether no record of a class is ever dropped: the check of the log rests on it.
pub(crate) fn is_always_kept(class: u32) -> bool {
    matches!(class, LOG_LIFECYCLE | STREAM_HEAD | ERASURE | STREAM_HEADS)
}

impl<'a> RecordPeek<'a> {
    /// Looks at an encoded record; `None` when it is not protobuf, has two bodies, which
    /// readers would take for different things, or something follows its disclosures.
    pub fn new(mut record: &'a [u8]) -> Option<Self> {
        let len = record.len();
        let mut peek = Self {
            attested: len,
            ..Self::default()
        };
        let mut at = 0;
        while let Some((tag, value)) = field(&mut record)? {
            match (tag, value) {
                (DISCLOSURES, _) => peek.attested = peek.attested.min(at),
                _ if peek.attested < len => return None,
                (1, Value::Bytes(id)) => peek.id = id,
                (2, Value::Varint(v)) => peek.time_us = v as i64,
                (COVERS, _) => peek.covered = true,
                (tag, Value::Bytes(_)) if BODIES.contains(&tag) && peek.class != 0 => return None,
                (tag, Value::Bytes(body)) if BODIES.contains(&tag) => {
                    (peek.class, peek.body) = (tag, body);
                }
                _ => {}
            }
            at = len - record.len();
        }
        Some(peek)
    }

    /// Whether it ends its stream.
    pub fn closes_stream(&self) -> bool {
        if self.class != STREAM_HEAD {
            return false;
        }
        let mut body = self.body;
        let mut closes = false;
        while let Some(Some((tag, value))) = field(&mut body) {
            if let (2, Value::Varint(v)) = (tag, value) {
                closes = v != 0;
            }
        }
        closes
    }

    /// The body's name in `record.proto`.
    pub fn class_name(&self) -> &'static str {
        class_name(self.class)
    }
}

/// The name of the body with the field number `class` in `record.proto`.
pub fn class_name(class: u32) -> &'static str {
    match class {
        DECISION => "decision",
        17 => "outcome",
        18 => "rejudgement",
        19 => "authn_failure",
        20 => "admin",
        21 => "credential",
        22 => "policy_change",
        23 => "audit_read",
        LOG_LIFECYCLE => "log_lifecycle",
        STREAM_HEAD => "stream_head",
        ERASURE => "erasure",
        SPOOL_EVENT => "spool_event",
        CALL => "call",
        STREAM_HEADS => "stream_heads",
        36 => "alert",
        _ => "unknown",
    }
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Takes one field off `buf`: `Some(None)` at its end, `None` when malformed.
#[inline]
fn field<'a>(buf: &mut &'a [u8]) -> Option<Option<(u32, Value<'a>)>> {
    if buf.is_empty() {
        return Some(None);
    }
    let key = u32::try_from(take_varint(buf)?).ok()?;
    let tag = Some(key >> 3).filter(|tag| *tag != 0)?;
    let fixed = match WireType::try_from(u64::from(key & 7)).ok()? {
        WireType::Varint => return Some(Some((tag, Value::Varint(take_varint(buf)?)))),
        WireType::LengthDelimited => {
            let len = usize::try_from(take_varint(buf)?).ok()?;
            let (value, rest) = buf.split_at_checked(len)?;
            *buf = rest;
            return Some(Some((tag, Value::Bytes(value))));
        }
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    *buf = buf.get(fixed..)?;
    Some(Some((tag, Value::Fixed)))
}

/// Takes a varint off `buf`. Nearly all have one byte: every key here, and most lengths.
#[inline]
fn take_varint(buf: &mut &[u8]) -> Option<u64> {
    match buf.split_first() {
        Some((&byte, rest)) if byte < 0x80 => {
            *buf = rest;
            Some(byte.into())
        }
        _ => decode_varint(buf).ok(),
    }
}

// Proto3 leaves fields out that hold their default.
fn varint(tag: u32, value: u64, buf: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, buf);
        encode_varint(value, buf);
    }
}

fn bytes(tag: u32, value: &[u8], buf: &mut Vec<u8>) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, buf);
        encode_varint(value.len() as u64, buf);
        buf.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::{
        spiffe_id::ID_LEN_MAX,
        wire::{
            audit::{Envelope, Sealed, SealedValue, StreamId},
            record::{Cover, Decision, Disclosure, Record, StreamHead, record::Body},
        },
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn the_encoding_is_the_generated_one(
            reporter in "[a-z/:]{0,40}", worker in any::<u32>(), sequence in any::<u64>(),
            received_us in any::<i64>(), salt in any::<[u8; 16]>(),
            record in prop::collection::vec(any::<u8>(), 0..300),
            ciphertext in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let stream = StreamId { reporter, boot: vec![7; 16], worker };
            let encoded = stream.encode_to_vec();
            let values = vec![SealedValue { ciphertext, ..SealedValue::default() }];
            let sealed = Sealed { values };
            let sealed_bytes = sealed.encode_to_vec();
            let ours = EnvelopeRef {
                version: VERSION, stream: &encoded, sequence, received_us,
                salt: &salt, record: &record, sealed: &sealed_bytes,
            };
            let mut buf = Vec::new();
            ours.encode(&mut buf);
            let theirs = Envelope {
                version: VERSION, stream: Some(stream), sequence, received_us,
                salt: salt.to_vec(), record: record.clone().into(), sealed: Some(sealed),
            };
            prop_assert_eq!(&buf, &theirs.encode_to_vec());
            prop_assert_eq!(EnvelopeRef::decode(&buf), Some(ours));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = EnvelopeRef::decode(&bytes);
            let _ = RecordPeek::new(&bytes).map(|peek| peek.closes_stream());
        }
    }

    #[test]
    fn the_longest_record_fits_a_leaf_with_the_longest_stream_id() {
        let stream = StreamId {
            reporter: "x".repeat(ID_LEN_MAX),
            boot: vec![255; 16],
            worker: u32::MAX,
        };
        let leaf = Envelope {
            version: VERSION,
            stream: Some(stream),
            sequence: u64::MAX,
            received_us: -1,
            salt: vec![1; SALT_LEN],
            record: vec![1; RECORD_LEN_MAX].into(),
            sealed: None,
        };
        assert!(leaf.encoded_len() <= LEAF_LEN_MAX);
    }

    #[test]
    fn disclosures_are_no_part_of_what_is_attested_and_come_last() {
        let mut record = Record {
            id: vec![3; 16],
            body: Some(Body::Decision(Decision::default())),
            covers: vec![Cover::default()],
            ..Record::default()
        };
        let kept = record.encode_to_vec();
        assert_eq!(attested(&kept), kept);
        record.disclosures = vec![Disclosure::default(), Disclosure::default()];
        let whole = record.encode_to_vec();
        assert_eq!(attested(&whole), kept);
        assert_eq!(RecordPeek::new(&whole).unwrap().class_name(), "decision");
        let hidden = [&whole[..], &kept].concat();
        assert_eq!(RecordPeek::new(&hidden), None, "something follows them");
        let twice = Record {
            covers: Vec::new(),
            disclosures: Vec::new(),
            ..Record::decode(&*whole).unwrap()
        };
        let twice = twice.encode_to_vec();
        assert!(RecordPeek::new(&twice).is_some());
        let twice = [&twice[..], &twice].concat();
        assert!(Record::decode(&*twice).is_ok());
        assert_eq!(RecordPeek::new(&twice), None, "which body is it?");
    }

    #[test]
    fn a_damaged_length_is_found_with_and_without_what_is_sealed() {
        for sealed in [&[][..], &[9, 9, 9]] {
            let envelope = EnvelopeRef {
                version: VERSION,
                stream: &[],
                sequence: 4,
                received_us: 5,
                salt: &[1; SALT_LEN],
                record: b"record",
                sealed,
            };
            let mut buf = Vec::new();
            envelope.encode(&mut buf);
            let len = buf.len();
            // What follows looks like no field, or like something sealed.
            for after in [[1, 0, 0, 0], [0x3a, 1, 0, 0]] {
                let bytes = [&buf[..], &after].concat();
                let found = decode_prefix(&bytes);
                assert!(found.contains(&(envelope, len)), "{found:?}");
            }
        }
    }

    #[test]
    fn peeking_names_class_and_closing_head() {
        let record = |body| {
            Record {
                id: vec![3; 16],
                time_us: 5,
                body: Some(body),
                ..Record::default()
            }
            .encode_to_vec()
        };
        let decision = record(Body::Decision(Decision::default()));
        let peek = RecordPeek::new(&decision).unwrap();
        assert_eq!(
            (peek.id, peek.class_name()),
            ([3; 16].as_slice(), "decision")
        );
        assert!(!peek.closes_stream());
        for closed in [false, true] {
            let head = StreamHead {
                last_sequence: 9,
                closed,
            };
            let head = record(Body::StreamHead(head));
            assert_eq!(RecordPeek::new(&head).unwrap().closes_stream(), closed);
        }
    }
}
