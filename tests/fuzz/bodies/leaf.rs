//! A leaf of the audit log and the record in it: the readers of an envelope and of a
//! decision agree, and whatever a reporter sends can be shown and asked about.

use palisade_audit::{
    envelope::{DecisionRef, EnvelopeRef, RecordPeek},
    item::Item,
    query::Query,
    row::Row,
    source::Entry,
};
use palisade_mesh::wire::{
    audit::Envelope,
    record::{Record, record::Body},
};
use prost::Message as _;

/// Checks one input, as a leaf and as a record.
pub fn check(bytes: &[u8]) {
    if let Some(ours) = EnvelopeRef::decode(bytes) {
        let mut encoded = Vec::new();
        ours.encode(&mut encoded);
        assert_eq!(EnvelopeRef::decode(&encoded), Some(ours));
        peek(ours.record);
    }
    if let Ok(theirs) = Envelope::decode(bytes)
        && theirs.encode_to_vec() == bytes
        && theirs.version == palisade_audit::envelope::VERSION
    {
        let ours = EnvelopeRef::decode(bytes).expect("what is encoded canonically is read");
        assert_eq!(ours.sequence, theirs.sequence);
        assert_eq!(ours.received_us, theirs.received_us);
        assert_eq!(ours.record, &theirs.record[..]);
        if let Ok(record) = Record::decode(ours.record) {
            show(theirs, record);
        }
    }
    peek(bytes);
    if let Ok(record) = Record::decode(bytes) {
        if record.encode_to_vec() == bytes {
            decide(bytes, &record);
        }
        show(Envelope::default(), record);
    }
}

fn peek(record: &[u8]) {
    if let Some(peek) = RecordPeek::new(record) {
        assert!(!peek.class_name().is_empty());
        let _ = peek.closes_stream();
    }
}

/// A replay reads what the generated type does.
fn decide(bytes: &[u8], record: &Record) {
    let ours = DecisionRef::of_record(bytes);
    let Some(Body::Decision(theirs)) = &record.body else {
        return assert_eq!(ours, None);
    };
    let ours = ours.expect("what is encoded canonically is read");
    assert_eq!(ours.time_us, record.time_us);
    assert_eq!(ours.verdict, theirs.verdict());
    assert_eq!(ours.policies, theirs.policies);
    assert_eq!(ours.context_json, theirs.context_json);
}

fn show(envelope: Envelope, record: Record) {
    let item = Item::new(Entry {
        index: 0,
        envelope,
        record,
    });
    let row = Row::new(&item);
    assert!(row.values().count() > 0);
    let _ = (row.time(), row.compact(), item.decision_id());
    for query in [
        "decision:allow",
        "principal:**web OR path:/a* OR latency:>1ms",
    ] {
        let query = Query::parse(query).expect("both are queries");
        let _ = query.matches(&item);
    }
}
