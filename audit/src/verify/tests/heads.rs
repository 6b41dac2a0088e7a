//! What reporters sign about their streams, and what nobody has signed.

use palisade_mesh::{
    diagnostic::Severity,
    spiffe_id::TrustDomain,
    wire::record::{Credential, Reached, Record, StreamHeads, record::Body},
};
use prost::Message as _;

use super::*;
use crate::{
    heads::{CERTIFICATES_EVERY, STREAMS_MAX},
    testing::{REPORTER, Speaker, TestSigner, append, decision, open_log, unsign},
};

/// Severity and words of what is found.
fn found(report: &VerifyReport) -> Vec<(Severity, String)> {
    let findings = report.findings.iter();
    findings.map(|f| (f.severity, f.what.clone())).collect()
}

async fn verified(records: Vec<Pending>) -> VerifyReport {
    let dir = tempfile::tempdir().unwrap();
    let log = open_log(&dir);
    append(&log, records).await;
    log.close();
    check(&dir)
}

/// Changes a byte of a decision's path.
fn altered(mut pending: Pending) -> Pending {
    let mut bytes = pending.record.to_vec();
    let at = bytes.windows(8).position(|w| w == b"/orders/").unwrap();
    bytes[at + 1] = b'O';
    pending.record = bytes.into();
    pending
}

/// The certificate comes with the first heads of a boot, and again later.
#[tokio::test]
async fn heads_of_an_honest_log_are_no_finding() {
    let mut web = Speaker::new(1);
    let mut records = Vec::new();
    for n in 0..2 * CERTIFICATES_EVERY {
        if n % CERTIFICATES_EVERY == 0 {
            web.forget();
        }
        records.extend(web.decides(0, 3));
        records.push(web.heads());
    }
    let report = verified(records).await;
    assert_eq!(found(&report), []);
    assert_eq!(
        report
            .streams
            .iter()
            .map(|s| s.missing.len())
            .sum::<usize>(),
        0
    );
}

/// Whoever can write a spool has no key: what he makes of the heads promises nothing, and
/// is named.
#[tokio::test]
async fn heads_that_nobody_has_signed_are_found() {
    let spoil = |after: fn(&mut StreamHeads)| async move {
        let mut web = Speaker::new(1);
        let mut records = web.decides(0, 3);
        records.push(web.heads());
        records.extend(web.decides(0, 2).into_iter().map(altered));
        records.push(web.heads_with(|heads| heads.streams[0].last_sequence += 7, after));
        let report = verified(records).await;
        let missing = report
            .streams
            .iter()
            .map(|s| s.missing.len())
            .sum::<usize>();
        assert_eq!(
            (found(&report).len(), missing),
            (1, 0),
            "{:?}",
            found(&report)
        );
        found(&report)[0].clone()
    };
    let (severity, what) = spoil(unsign).await;
    assert_eq!(severity, Severity::Error);
    assert!(what.contains("was never sent"), "{what}");
    let (severity, what) = spoil(|signed| signed.signature.clear()).await;
    assert_eq!(severity, Severity::Error);
    assert!(what.contains("not by the certificate"), "{what}");
    // One that is sent beside is not the one that is named.
    let (severity, what) = spoil(|signed| {
        signed.certificates = vec![vec![1; 40]];
    })
    .await;
    assert_eq!(severity, Severity::Error);
    assert!(what.contains("not the one that it names"), "{what}");
}

/// A certificate that somebody slips in knocks nobody's out.
#[tokio::test]
async fn heads_after_forged_ones_are_still_compared() {
    let mut web = Speaker::new(1);
    let mut records = web.decides(0, 3);
    records.push(web.heads());
    records.push(web.heads_with(
        |_| {},
        |signed| {
            let junk = vec![1; 40];
            signed.certificate = crate::merkle::sha256(&junk).to_vec();
            signed.certificates = vec![junk];
        },
    ));
    records.extend(web.decides(0, 2).into_iter().map(altered));
    records.push(web.heads());
    let report = verified(records).await;
    let found = found(&report);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].1.contains("not by the certificate"), "{found:?}");
    assert!(found[1].1.contains("records 4 to 5"), "{found:?}");
}

/// Where the record that had the certificate did not come, that is said, once; and not for
/// longer than until it must have been sent again.
#[tokio::test]
async fn a_certificate_that_was_lost_is_no_forgery_until_it_is_due() {
    let lacking = |unknown: u32| async move {
        let mut web = Speaker::new(1);
        let mut records = web.decides(0, 3);
        drop(web.heads());
        for _ in 0..unknown {
            records.extend(web.decides(0, 1));
            records.push(web.heads());
        }
        web.forget();
        records.extend(web.decides(0, 2).into_iter().map(altered));
        records.push(web.heads());
        found(&verified(records).await)
    };
    let told = lacking(CERTIFICATES_EVERY).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].0, Severity::Warning);
    assert!(told[0].1.contains("cannot be checked"), "{told:?}");
    assert!(
        told[1]
            .1
            .contains("are not those that their reporter signed")
    );
    let told = lacking(CERTIFICATES_EVERY + 1).await;
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[1].0, Severity::Error);
    assert!(told[1].1.contains("was never sent"), "{told:?}");
}

/// Name and serial number of a certificate are in every decision; its key nobody else has.
#[tokio::test]
async fn another_certificate_of_the_same_name_and_number_is_found() {
    let with = |digest: fn(&TestSigner) -> Vec<u8>, forged: bool| async move {
        let mut web = Speaker::new(1);
        let issued = Credential {
            verb: "issued".into(),
            spiffe_id: REPORTER.into(),
            serial: vec![1],
            certificate: digest(&web.signer),
            ..Credential::default()
        };
        let authority = TrustDomain::parse("acme.test").unwrap().role("ca");
        let record = Record {
            reporter: authority.to_string(),
            body: Some(Body::Credential(issued)),
            ..decision(0)
        };
        let mut records = vec![Pending {
            stream: Arc::new(StreamKey {
                reporter: authority,
                ..web.stream(0)
            }),
            sequence: 1,
            record: record.encode_to_vec().into(),
        }];
        if forged {
            web.signer = TestSigner::new(REPORTER, 1);
        }
        records.push(web.heads());
        let report = verified(records).await;
        let certificates = &report.certificates;
        (found(&report), certificates.issued, certificates.signed)
    };
    let digest = |signer: &TestSigner| signer.digest().to_vec();
    assert_eq!(with(digest, false).await, (vec![], 1, 1));
    let (found, _, signed) = with(digest, true).await;
    assert_eq!((found.len(), signed), (1, 0), "{found:?}");
    assert_eq!(found[0].0, Severity::Error);
    assert!(found[0].1.contains("somebody made it"), "{found:?}");
    // A record of before there were digests has name and number alone.
    assert_eq!(with(|_| Vec::new(), true).await, (vec![], 1, 1));
}

/// Replicas of a service have one name, and a clock can be set back: which start is over says
/// the one that follows it, not the time.
#[tokio::test]
async fn a_start_is_over_when_another_one_names_it() {
    let (mut first, mut replica, mut next) = (Speaker::new(5), Speaker::new(9), Speaker::new(2));
    next.previous = Some(first.boot);
    let mut records = Vec::new();
    for start in [&mut first, &mut replica] {
        records.extend(start.decides(0, 2));
        records.push(start.heads());
    }
    let over = |report: &VerifyReport| {
        let streams = report.streams.iter();
        let ours = streams.filter(|s| s.reporter == REPORTER && s.worker == 0);
        ours.map(|s| (s.boot.clone(), s.superseded))
            .collect::<Vec<_>>()
    };
    let (one, other) = (first.boot.to_string(), replica.boot.to_string());
    let report = verified(records.clone()).await;
    assert_eq!(
        over(&report),
        [(one.clone(), false), (other.clone(), false)]
    );
    assert!(report.complete());
    // Before both by the clock, after the first by its word.
    records.extend(next.decides(0, 2));
    records.push(next.heads());
    let report = verified(records).await;
    let last = next.boot.to_string();
    assert_eq!(over(&report), [(last, false), (one, true), (other, false)]);
    assert!(!report.complete());
}

/// What a start that was killed had on its disk is told by the next one.
#[tokio::test]
async fn what_an_earlier_start_left_is_missed() {
    let with = |earlier: bool, here: u64| async move {
        let (mut first, mut second) = (Speaker::new(1), Speaker::new(2));
        let mut records = first.decides(3, 5);
        records.truncate(here as usize);
        let boot = first.boot.to_bytes().to_vec();
        second.previous = Some(first.boot);
        records.push(second.heads_with(
            |heads| {
                let reached = Reached {
                    boot,
                    worker: 3,
                    last_sequence: 5,
                };
                heads.earlier.extend(earlier.then_some(reached));
            },
            |_| {},
        ));
        let report = verified(records).await;
        assert_eq!(found(&report), []);
        let missing = report.streams.iter().flat_map(|s| &s.missing);
        let missing = missing
            .map(|range| (range.from, range.to))
            .collect::<Vec<_>>();
        (missing, report.absent.len(), report.complete())
    };
    assert_eq!(with(true, 2).await, (vec![(3, 5)], 0, false));
    assert_eq!(with(true, 0).await, (vec![(1, 5)], 1, false));
    // Heads of before have the name alone.
    assert_eq!(with(false, 0).await, (vec![], 1, false));
}

/// On both sides of the limit.
#[tokio::test]
async fn heads_are_of_so_many_streams() {
    let of = |count: usize| async move {
        let mut web = Speaker::new(1);
        let mut records = web.decides(0, 3);
        records.push(web.heads_with(
            |heads| {
                let more = (1..count as u32).map(|worker| palisade_mesh::wire::record::Head {
                    worker,
                    ..Default::default()
                });
                heads.streams.extend(more);
            },
            |_| {},
        ));
        found(&verified(records).await)
    };
    assert_eq!(of(STREAMS_MAX).await, []);
    let told = of(STREAMS_MAX + 1).await;
    assert!(told[0].1.contains("too many streams"), "{told:?}");
}
