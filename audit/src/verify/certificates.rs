//! Completeness of the fleet: what the authority has issued against who has signed heads.
//!
//! Every certificate has a record of the authority before it leaves, and every part that
//! keeps a spool signs heads with the certificate that it has. So a certificate with which
//! nothing was ever signed belongs to somebody of whom the log has nothing, and heads by one that
//! was never issued to somebody whom the authority does not know. The record has a digest of the
//! certificate: anybody can make another one with the same name and number.

use std::collections::HashMap;

use palisade_mesh::{diagnostic::Severity, spiffe_id::SpiffeId, wire::record::Credential};
use prost::Message as _;

use super::{
    CertificateReport, CertificatesReport, FINDINGS_MAX, Finding, FindingKind, StreamReport,
};
use crate::{
    checkpoint::domain,
    envelope::{CREDENTIAL, EnvelopeRef, RecordPeek, STREAM_HEADS},
    heads::Signer,
    merkle::Hash,
    stream::StreamKey,
};

/// Certificates that are compared; of a log with more, those beyond are counted only.
const COMPARED_MAX: usize = 1 << 20;
/// How much earlier than it is issued a certificate can begin, and how long the authority
/// must have been heard beyond that: its record has then come, or is missing in its stream.
const HEARD_US: i64 = 70_000_000;
/// How long after its issue a certificate may have signed nothing: heads come every 10 s,
/// and travel.
const SETTLE_US: i64 = 60_000_000;
/// Longest time that a certificate of an authority is valid, in seconds, with how much earlier
/// than it is issued it can begin: one that is valid for longer is not an authority's.
const VALID_MAX_S: i64 = 24 * 3600 + HEARD_US / 1_000_000;
/// The authority's word for a certificate that it has issued.
const ISSUED: &str = "issued";

/// Whose certificate, and its serial number.
type Key = (String, Box<[u8]>);

/// What was issued and what has signed.
#[derive(Default)]
pub(super) struct Certificates {
    authority: Option<SpiffeId>,
    issued: HashMap<Key, Issued>,
    signers: HashMap<Key, Vec<Used>>,
    /// Certificates that have signed.
    used: usize,
    /// Heads by others, which were too many.
    uncounted: u64,
    beyond: u64,
    /// Event times of the first and the last record of the authority.
    heard: Option<(i64, i64)>,
    /// Records of certificates were dropped.
    dropped: bool,
    last_received_us: i64,
}

struct Issued {
    leaf: u64,
    time_us: i64,
    received_us: i64,
    not_after_s: i64,
    /// Digest of the certificate; none where the record is of before there were any.
    certificate: Option<Hash>,
}

impl Issued {
    fn is(&self, used: &Used) -> bool {
        self.certificate
            .is_none_or(|issued| issued == used.certificate)
    }
}

/// A certificate with which heads were signed.
struct Used {
    certificate: Hash,
    not_before_s: i64,
    not_after_s: i64,
    /// How many, and how many of them came after its end.
    heads: u64,
    late: u64,
    /// The first of them, as a finding.
    first: Finding,
}

impl Used {
    /// Whether its record would be in a log that has heard of the authority from one moment
    /// until the other.
    fn is_due(&self, (from_us, until_us): (i64, i64)) -> bool {
        let begins_us = self.not_before_s.saturating_mul(1_000_000);
        let valid_s = self.not_after_s.saturating_sub(self.not_before_s);
        valid_s > VALID_MAX_S
            || (begins_us >= from_us && begins_us.saturating_add(HEARD_US) <= until_us)
    }
}

impl Certificates {
    /// Of the log that this key is of: its trust domain says who the authority is.
    pub(super) fn of(&mut self, origin: &str) {
        let authority = domain(origin).map(|domain| format!("spiffe://{domain}/palisade/ca"));
        self.authority = authority.and_then(|id| SpiffeId::parse(&id).ok());
    }

    /// Notes that a record of this class was dropped.
    pub(super) fn dropped(&mut self, class: u32) {
        self.dropped |= class == CREDENTIAL;
    }

    /// Takes in a record at `leaf`.
    pub(super) fn observe(&mut self, leaf: u64, envelope: &EnvelopeRef<'_>, peek: &RecordPeek<'_>) {
        self.last_received_us = self.last_received_us.max(envelope.received_us);
        if !matches!(peek.class, CREDENTIAL | STREAM_HEADS) {
            return;
        }
        let reporter = StreamKey::decode(envelope.stream).map(|key| key.reporter);
        if reporter.is_none() || reporter != self.authority {
            return;
        }
        let (first, last) = self.heard.unwrap_or((peek.time_us, peek.time_us));
        self.heard = Some((first.min(peek.time_us), last.max(peek.time_us)));
        if peek.class != CREDENTIAL {
            return;
        }
        let Ok(credential) = Credential::decode(peek.body) else {
            return;
        };
        if credential.verb != ISSUED {
            return;
        }
        if self.issued.len() >= COMPARED_MAX {
            self.beyond += 1;
            return;
        }
        let issued = Issued {
            leaf,
            time_us: peek.time_us,
            received_us: envelope.received_us,
            not_after_s: credential.not_after_s,
            certificate: credential.certificate.as_slice().try_into().ok(),
        };
        let key = (credential.spiffe_id, credential.serial.into());
        // The first record of it says when it had to be heard of.
        self.issued.entry(key).or_insert(issued);
    }

    /// Notes who has signed heads that were read now; `finding` is about them, without words.
    pub(super) fn signed(&mut self, signer: &Signer, finding: Finding) {
        let Signer { peer, certificate } = signer;
        // What was received before them was not received after them.
        let late = u64::from(self.last_received_us / 1_000_000 > peer.not_after_s);
        let key = (peer.id.to_string(), Box::from(&*peer.serial));
        let used = self.signers.entry(key).or_default();
        let mut known = used.iter_mut();
        if let Some(used) = known.find(|used| used.certificate == *certificate) {
            (used.heads, used.late) = (used.heads + 1, used.late + late);
            return;
        }
        if self.used >= COMPARED_MAX {
            self.uncounted += 1;
            return;
        }
        self.used += 1;
        used.push(Used {
            certificate: *certificate,
            not_before_s: peer.not_before_s,
            not_after_s: peer.not_after_s,
            heads: 1,
            late,
            first: Finding {
                kind: FindingKind::Certificate,
                ..finding
            },
        });
    }

    /// What there is to say, and heads by certificates that were never issued. Where some
    /// records were `unread`, what is not here may be among these.
    pub(super) fn report(
        self,
        streams: &[StreamReport],
        unread: bool,
    ) -> (CertificatesReport, Vec<Finding>) {
        let mut findings = self.others();
        let (foreign, unrecorded) = self.unrecorded(streams, unread);
        findings.extend(foreign);
        findings.sort_by_key(|finding| finding.leaf);
        let mut report = CertificatesReport {
            beyond: self.beyond,
            unrecorded,
            ..CertificatesReport::default()
        };
        let reporting: std::collections::HashSet<&str> =
            self.signers.keys().map(|(id, _)| id.as_str()).collect();
        let mut without = Vec::new();
        for (key, issued) in &self.issued {
            let (spiffe_id, serial) = key;
            // Parts of the mesh in the log's own process keep no spool, and sign nothing.
            let id = SpiffeId::parse(spiffe_id);
            if !id.is_ok_and(|id| !id.is_reserved()) {
                continue;
            }
            report.issued += 1;
            let used = self.signers.get(key);
            if used.is_some_and(|used| used.iter().any(|used| issued.is(used))) {
                report.signed += 1;
            } else if self.last_received_us - issued.received_us < SETTLE_US {
                report.settling += 1;
            } else if unread {
                report.unknown += 1;
            } else {
                without.push(CertificateReport {
                    spiffe_id: spiffe_id.clone(),
                    serial: hex(serial),
                    entry: issued.leaf,
                    issued: at(issued.time_us),
                    not_after: at(issued.not_after_s.saturating_mul(1_000_000)),
                    reports: reporting.contains(spiffe_id.as_str()),
                });
            }
        }
        without.sort_by(|a, b| (&a.spiffe_id, a.entry).cmp(&(&b.spiffe_id, b.entry)));
        report.silent = u64::try_from(without.len()).unwrap_or(u64::MAX);
        without.truncate(FINDINGS_MAX);
        report.without = without;
        (report, findings)
    }

    /// Heads by certificates that have name and number of an issued one, and are another.
    fn others(&self) -> Vec<Finding> {
        let of_key = |(key, used): (&Key, &Vec<Used>)| {
            let issued = self.issued.get(key)?;
            let other = used.iter().find(|used| !issued.is(used))?;
            let (id, serial) = (&key.0, hex(&key.1));
            let what = format!(
                "heads of {id} are signed with a certificate {serial} that is not the one that the authority has issued by this number: somebody made it"
            );
            Some(Finding {
                what,
                ..other.first.clone()
            })
        };
        self.signers.iter().filter_map(of_key).collect()
    }

    /// Heads by certificates that the authority has not recorded, where it is known that it
    /// would have; and how many rest on others that it has not.
    fn unrecorded(&self, streams: &[StreamReport], unread: bool) -> (Vec<Finding>, u64) {
        let judges = !unread && !self.dropped && self.beyond == 0;
        let heard = self.heard.filter(|_| judges);
        let (mut findings, mut count) = (Vec::new(), self.uncounted);
        let signers = self.signers.iter();
        for (key, used) in signers.filter(|(key, _)| !self.issued.contains_key(*key)) {
            let due = |used: &&Used| heard.is_some_and(|heard| used.is_due(heard));
            let others = used.iter().filter(|used| !due(used));
            count += others.map(|used| used.heads).sum::<u64>();
            if let Some(used) = used.iter().find(due) {
                findings.push(self.foreign(key, used, streams));
                continue;
            }
            let late = used.iter().find(|used| used.late > 0);
            findings.extend(
                late.filter(|_| heard.is_some())
                    .map(|used| late_heads(key, used)),
            );
        }
        (findings, count)
    }

    fn foreign(&self, (id, serial): &Key, used: &Used, streams: &[StreamReport]) -> Finding {
        let authority = self.authority.as_ref().map(SpiffeId::as_str);
        let mut of_authority = streams
            .iter()
            .filter(|s| Some(s.reporter.as_str()) == authority);
        let is_whole = of_authority.all(|s| s.missing.is_empty());
        let serial = hex(serial);
        let (severity, why) = match is_whole {
            true => (Severity::Error, ""),
            false => (Severity::Warning, "; records of the authority are missing"),
        };
        let what = format!(
            "heads of {id} are signed with certificate {serial}, which the authority has not recorded{why}"
        );
        Finding {
            severity,
            what,
            ..used.first.clone()
        }
    }
}

/// Heads by a certificate that may have been issued before the log, which came when it was over:
/// who signs says himself when that was.
fn late_heads((id, serial): &Key, used: &Used) -> Finding {
    let (serial, late) = (hex(serial), used.late);
    Finding {
        severity: Severity::Warning,
        what: format!(
            "{late} heads of {id} came after the end of certificate {serial}, whose issue is not in the log: they were long on their way, the clock of the log was ahead, or somebody made it"
        ),
        ..used.first.clone()
    }
}

/// As certificates are shown everywhere.
fn hex(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us)
        .unwrap_or_default()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::stored::about;

    /// What was not read may have what is not here: nobody is named for that.
    #[test]
    fn where_not_all_was_read_nobody_is_named() {
        let found = |unread| {
            let mut certificates = Certificates::default();
            certificates.of(&crate::checkpoint::origin("acme.test"));
            certificates.heard = Some((0, i64::MAX));
            certificates.last_received_us = i64::MAX;
            let key = |name: &str| (format!("spiffe://acme.test/{name}"), Box::from([1_u8]));
            let issued = Issued {
                leaf: 3,
                time_us: 0,
                received_us: 0,
                not_after_s: 9,
                certificate: None,
            };
            certificates.issued.insert(key("web"), issued);
            let used = Used {
                certificate: [1; 32],
                not_before_s: 1,
                not_after_s: 2,
                heads: 5,
                late: 0,
                first: about(FindingKind::Certificate, "", ""),
            };
            certificates.signers.insert(key("orders"), vec![used]);
            let (report, findings) = certificates.report(&[], unread);
            let told = (report.silent, report.unknown);
            (told, findings.len(), report.unrecorded)
        };
        assert_eq!(found(false), ((1, 0), 1, 0));
        assert_eq!(found(true), ((0, 1), 0, 5));
    }

    /// On both sides of each limit: what begins before the log is not known to be made by
    /// somebody, and is counted; what no authority would have issued is.
    #[test]
    fn what_the_log_cannot_know_of_is_counted_and_the_rest_named() {
        const FROM_S: i64 = 1_000_000;
        let found = |not_before_s: i64, not_after_s: i64, received_s: i64| {
            let mut certificates = Certificates::default();
            certificates.of(&crate::checkpoint::origin("acme.test"));
            certificates.heard = Some((FROM_S * 1_000_000, i64::MAX));
            let signer = Signer {
                peer: crate::testing::peer("spiffe://acme.test/web", not_after_s),
                certificate: [1; 32],
            };
            let mut signer = signer;
            signer.peer.not_before_s = not_before_s;
            for _ in 0..3 {
                let finding = about(FindingKind::Heads, "", "");
                certificates.last_received_us = received_s * 1_000_000;
                certificates.signed(&signer, finding);
            }
            let (report, findings) = certificates.report(&[], false);
            let severities: Vec<_> = findings.iter().map(|f| f.severity).collect();
            (severities, report.unrecorded)
        };
        let named = (vec![Severity::Error], 0);
        assert_eq!(found(FROM_S, FROM_S + 60, FROM_S), named);
        assert_eq!(found(FROM_S - 1, FROM_S + 60, FROM_S), (vec![], 3));
        let before_s = FROM_S - 3600;
        let valid = |valid_s| found(before_s, before_s + valid_s, FROM_S);
        assert_eq!(valid(VALID_MAX_S), (vec![], 3));
        assert_eq!(valid(VALID_MAX_S + 1), named);
        // Whoever made one says that it was signed in its time; it comes when that is over.
        let end_s = FROM_S + 60;
        assert_eq!(found(FROM_S - 1, end_s, end_s), (vec![], 3));
        let late = (vec![Severity::Warning], 3);
        assert_eq!(found(FROM_S - 1, end_s, end_s + 1), late);
    }
}
