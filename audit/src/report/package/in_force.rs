//! When the revisions of a package were in force: what the PDP recorded of it, also where that was
//! at another time than the period of the report.
//!
//! A record names the revision that it was decided under, and anybody could bring one along that
//! decides so. That it was in force is known from the log alone, so a package has those records, too.

use std::collections::BTreeSet;

use palisade_mesh::{
    snapshot::Digest,
    wire::record::{Admin, PolicyChange, Versions},
};
use prost::Message as _;

use super::records::Records;
use crate::{
    envelope::{EnvelopeRef, RecordPeek},
    index::StoreError,
    log::Log,
    merkle::Hash,
    report::Evidence,
};

/// The file of these records, each with its proof.
pub(super) const FILE: &str = "records/in-force.jsonl";
/// What is asked for them, of the PDP alone: nobody else puts revisions of the mesh in force.
const QUERIES: [&str; 2] = [
    "class:policy_change verb:activated",
    "class:admin verb:rollout_*",
];
/// Most of such records that are looked at.
const LOOKED_AT_MAX: usize = 100_000;

/// The records of when these revisions came into force, when others took their place, and when
/// they were rolled out, as far as they are not among `known`.
pub(super) fn of_log(
    evidence: &Evidence<'_>,
    log: &Log,
    (revisions, known): (&BTreeSet<Hash>, &Records),
) -> Result<Vec<u8>, StoreError> {
    let going = evidence.going();
    let mut entries = BTreeSet::new();
    let of_pdp = evidence.of_part("pdp");
    for query in QUERIES {
        let query = format!("{query} {of_pdp}");
        entries.extend(evidence.entries_ever(&query, LOOKED_AT_MAX)?);
    }
    for (entry, _) in known.leaves() {
        entries.remove(&entry);
    }
    let mut told = BTreeSet::new();
    for entry in entries {
        going.ask()?;
        let leaf = log.leaf(entry)?;
        if is_about(&leaf, revisions) {
            told.insert(entry);
        }
    }
    let (_, lines) = Records::of_log(going, log, told, evidence.mark().size)?;
    Ok(lines)
}

/// Whether a leaf tells when one of these revisions was in force.
fn is_about(leaf: &[u8], revisions: &BTreeSet<Hash>) -> bool {
    let envelope = EnvelopeRef::decode(leaf);
    let Some(peek) = envelope.and_then(|envelope| RecordPeek::new(envelope.record)) else {
        return false;
    };
    let is_one = |versions: Option<&Versions>| {
        let digest = versions.and_then(|v| Hash::try_from(v.policy_digest.as_slice()).ok());
        digest.is_some_and(|digest| revisions.contains(&digest))
    };
    match peek.class_name() {
        "policy_change" => PolicyChange::decode(peek.body)
            .is_ok_and(|change| is_one(change.before.as_ref()) || is_one(change.after.as_ref())),
        "admin" => Admin::decode(peek.body).is_ok_and(|admin| {
            let mut names = revisions.iter().map(|digest| Digest(*digest).short());
            names.any(|name| admin.object.ends_with(&format!("({name})")))
        }),
        _ => false,
    }
}
