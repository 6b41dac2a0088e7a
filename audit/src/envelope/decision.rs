//! A decision record, read in place.

use palisade_mesh::wire::record::Verdict;

use super::{COVERS, DECISION, EnvelopeRef, RecordPeek, Value, field};

/// What a decision record says, borrowed from its bytes: for whoever goes through
/// hundreds of thousands a second. Absent fields have the defaults of proto3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionRef<'a> {
    /// ULID, 16 bytes.
    pub id: &'a [u8],
    /// Event time, microseconds since the Unix epoch, on the reporter's clock.
    pub time_us: i64,
    /// The outcome.
    pub verdict: Verdict,
    /// Why, as a constant word.
    pub reason: &'a str,
    /// SPIFFE ID of the caller.
    pub principal: &'a str,
    /// Serial number of the caller's certificate; empty when none was proven.
    pub serial: &'a [u8],
    /// Cedar action id.
    pub action: &'a str,
    /// Cedar resource type.
    pub resource_type: &'a str,
    /// Cedar resource id.
    pub resource_id: &'a str,
    /// Service id.
    pub service: &'a str,
    /// Method.
    pub method: &'a str,
    /// Host.
    pub host: &'a str,
    /// Canonical path without the query, cut at 1 KiB.
    pub path: &'a str,
    /// Ids of the determining policies.
    pub policies: Vec<&'a str>,
    /// SHA-256 of the policy bundle.
    pub policy_digest: &'a [u8],
    /// Number of the revision.
    pub policy_sequence: u64,
    /// False for a shadow decision.
    pub enforced: bool,
    /// Address of the caller.
    pub source_ip: &'a str,
    /// Port of the caller.
    pub source_port: u32,
    /// What was read of the context.
    pub context_json: &'a str,
    /// The decision API that was asked; empty for what a proxy decided.
    pub api: &'a str,
    /// Fields that were taken out of it because they are personal; what it does not have of
    /// them is not known.
    pub covered: Vec<&'a str>,
}

impl<'a> DecisionRef<'a> {
    /// Reads a leaf of the log; `None` when it is no decision, or is damaged.
    pub fn of_leaf(leaf: &'a [u8]) -> Option<Self> {
        Self::of_record(EnvelopeRef::decode(leaf)?.record)
    }

    /// Reads an encoded record; `None` when it is no decision, or is damaged.
    pub fn of_record(record: &'a [u8]) -> Option<Self> {
        let peek = RecordPeek::new(record)?;
        if peek.class != DECISION {
            return None;
        }
        let mut decision = Self {
            id: peek.id,
            time_us: peek.time_us,
            ..Self::default()
        };
        if peek.covered {
            decision.covered = covered(record)?;
        }
        let mut body = peek.body;
        while let Some((tag, value)) = field(&mut body)? {
            decision.set(tag, &value)?;
        }
        Some(decision)
    }

    fn set(&mut self, tag: u32, value: &Value<'a>) -> Option<()> {
        match (tag, value) {
            (1, Value::Varint(v)) => {
                // Cut to its width, as protobuf has it.
                self.verdict = Verdict::try_from(*v as i32).unwrap_or_default();
            }
            (17, Value::Varint(v)) => self.enforced = *v != 0,
            (19, Value::Varint(v)) => self.source_port = *v as u32,
            (3, Value::Bytes(peer)) => self.set_peer(peer)?,
            (14, Value::Bytes(versions)) => self.set_versions(versions)?,
            (12, Value::Bytes(id)) => self.policies.push(text(id)?),
            (_, Value::Bytes(bytes)) => {
                if let Some(place) = self.text_at(tag) {
                    *place = text(bytes)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn text_at(&mut self, tag: u32) -> Option<&mut &'a str> {
        Some(match tag {
            2 => &mut self.reason,
            4 => &mut self.action,
            5 => &mut self.resource_type,
            6 => &mut self.resource_id,
            7 => &mut self.service,
            8 => &mut self.method,
            9 => &mut self.host,
            10 => &mut self.path,
            18 => &mut self.source_ip,
            22 => &mut self.context_json,
            28 => &mut self.api,
            _ => return None,
        })
    }

    fn set_peer(&mut self, mut peer: &'a [u8]) -> Option<()> {
        while let Some(read) = field(&mut peer)? {
            match read {
                (1, Value::Bytes(id)) => self.principal = text(id)?,
                (2, Value::Bytes(serial)) => self.serial = serial,
                _ => {}
            }
        }
        Some(())
    }

    fn set_versions(&mut self, mut versions: &'a [u8]) -> Option<()> {
        while let Some(read) = field(&mut versions)? {
            match read {
                (1, Value::Bytes(digest)) => self.policy_digest = digest,
                (2, Value::Varint(sequence)) => self.policy_sequence = sequence,
                _ => {}
            }
        }
        Some(())
    }
}

/// Names of the fields that were taken out of a record.
fn covered(mut record: &[u8]) -> Option<Vec<&str>> {
    let mut fields = Vec::new();
    while let Some(read) = field(&mut record)? {
        let (COVERS, Value::Bytes(mut cover)) = read else {
            continue;
        };
        while let Some(read) = field(&mut cover)? {
            if let (1, Value::Bytes(name)) = read {
                fields.push(text(name)?);
            }
        }
    }
    Some(fields)
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::record::{
        Cover, Decision, Outcome, Peer, Record, Versions, record::Body,
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn a_decision_reads_as_the_generated_type_does(
            verdict in 0..6_i32, texts in prop::collection::vec("[a-z/:{}]{0,12}", 10),
            policies in prop::collection::vec("[a-z]{0,5}", 0..4),
            (time_us, sequence, port) in (any::<i64>(), any::<u64>(), any::<u32>()),
            (serial, enforced) in (prop::collection::vec(any::<u8>(), 0..5), any::<bool>()),
        ) {
            let text = |i: usize| texts[i].clone();
            let body = Decision {
                verdict,
                reason: text(0),
                principal: Some(Peer { spiffe_id: text(1), serial: serial.clone(), not_after_s: 3 }),
                action: text(2),
                resource_type: text(3),
                resource_id: text(4),
                service: text(5),
                method: text(6),
                host: text(7),
                path: text(8),
                route: "/r".into(),
                policies: policies.clone(),
                versions: Some(Versions { policy_digest: vec![1; 32], policy_sequence: sequence, ..Versions::default() }),
                decision_ns: 7,
                enforced,
                source_ip: "10.0.0.1".into(),
                source_port: port,
                context_json: text(9),
                api: text(0),
                status: 403,
                ..Decision::default()
            };
            let covers = policies.iter().map(|name| Cover { field: name.clone(), ..Cover::default() }).collect();
            let record = Record { id: vec![9; 16], time_us, body: Some(Body::Decision(body)), covers, ..Record::default() };
            let bytes = record.encode_to_vec();
            let read = DecisionRef::of_record(&bytes).unwrap();
            let expected = DecisionRef {
                id: &[9; 16],
                time_us,
                verdict: Verdict::try_from(verdict).unwrap(),
                reason: &texts[0],
                principal: &texts[1],
                serial: &serial,
                action: &texts[2],
                resource_type: &texts[3],
                resource_id: &texts[4],
                service: &texts[5],
                method: &texts[6],
                host: &texts[7],
                path: &texts[8],
                policies: policies.iter().map(String::as_str).collect(),
                policy_digest: &[1; 32],
                policy_sequence: sequence,
                enforced,
                source_ip: "10.0.0.1",
                source_port: port,
                context_json: &texts[9],
                api: &texts[0],
                covered: policies.iter().map(String::as_str).filter(|name| !name.is_empty()).collect(),
            };
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = DecisionRef::of_leaf(&bytes);
            let _ = DecisionRef::of_record(&bytes);
        }
    }

    #[test]
    fn what_is_no_decision_is_none() {
        let body = Some(Body::Outcome(Outcome::default()));
        let record = Record {
            body,
            ..Record::default()
        };
        assert_eq!(DecisionRef::of_record(&record.encode_to_vec()), None);
    }
}
