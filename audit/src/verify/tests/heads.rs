//! What reporters sign about their streams, and what nobody has signed.

use palisade_mesh::{
    diagnostic::Severity,
    spiffe_id::TrustDomain,
    wire::record::{Credential, Head, Heads, Reached, Record, StreamHeads, record::Body},
};
use prost::Message as _;

use super::{super::signers::WAITING_BYTES_EACH_MAX, *};
use crate::{
    envelope::RecordPeek,
    heads::{CERTIFICATES_EVERY, STREAMS_MAX, Statement},
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
/// longer than until it must have been sent again. When it is, all of them are compared.
#[tokio::test]
async fn a_certificate_that_was_lost_is_no_forgery_until_it_is_due() {
    let lacking = |unknown: u32, again: bool| async move {
        let mut web = Speaker::new(1);
        drop(web.heads());
        let mut records: Vec<Pending> = web.decides(0, 1).into_iter().map(altered).collect();
        for _ in 0..unknown {
            records.push(web.heads());
            records.extend(web.decides(0, 1));
        }
        if again {
            web.forget();
            records.push(web.heads());
        }
        found(&verified(records).await)
    };
    let told = lacking(CERTIFICATES_EVERY, false).await;
    assert_eq!((told.len(), told[0].0), (1, Severity::Warning), "{told:?}");
    assert!(told[0].1.contains("cannot be checked"), "{told:?}");
    let told = lacking(CERTIFICATES_EVERY + 1, false).await;
    assert_eq!((told.len(), told[1].0), (2, Severity::Error), "{told:?}");
    assert!(told[1].1.contains("was never sent"), "{told:?}");
    let told = lacking(CERTIFICATES_EVERY, true).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("records 1 to 1"), "{told:?}");
}

/// The record with the certificate comes late: what was signed before it came counts, and no
/// number is left out by the end.
#[tokio::test]
async fn a_certificate_may_come_after_the_heads_that_it_is_for() {
    let mut web = Speaker::new(1);
    let first = web.heads();
    let mut records: Vec<Pending> = web.decides(0, 2).into_iter().map(altered).collect();
    records.extend([web.heads(), first]);
    let told = found(&verified(records).await);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("records 1 to 2"), "{told:?}");
}

/// Who leaves a number out for a while, so that what he made of the heads is excused, fills it
/// in vain: it is judged by what is missing in the end.
#[tokio::test]
async fn a_number_that_comes_late_excuses_nothing() {
    let mut web = Speaker::new(1);
    let mut records = vec![web.heads()];
    let late = web.heads();
    records.extend([web.heads_with(|_| {}, unsign), late]);
    let told = found(&verified(records.clone()).await);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, Severity::Error);
    assert!(told[0].1.contains("was never sent"), "{told:?}");
    records.pop();
    let told = found(&verified(records).await);
    assert_eq!((told.len(), told[0].0), (1, Severity::Warning), "{told:?}");
}

/// What is not signed moves nothing: neither what is compared, nor what is awaited.
#[tokio::test]
async fn heads_that_nobody_has_signed_blind_no_stream() {
    for last in [2, u64::MAX - 1, u64::MAX] {
        let mut web = Speaker::new(1);
        let mut records = vec![web.heads()];
        let far = |heads: &mut Heads| {
            heads.streams = vec![Head {
                first_sequence: 1,
                last_sequence: last,
                ..Head::default()
            }];
        };
        records.push(web.heads_with(far, unsign));
        records.push(web.heads_with(far, |signed| signed.signature.clear()));
        records.extend(web.decides(0, 2).into_iter().map(altered));
        records.push(web.heads());
        let told = found(&verified(records).await);
        assert_eq!(told.len(), 3, "{told:?}");
        let compared = told.iter().filter(|f| f.1.contains("records 1 to 2"));
        assert_eq!(compared.count(), 1, "{told:?}");
    }
}

/// The order in which records and heads come is nobody's to choose: they are compared by number.
#[tokio::test]
async fn records_are_compared_whatever_comes_first() {
    let mut web = Speaker::new(1);
    let certificate = web.heads();
    let one: Vec<Pending> = web.decides(0, 2).into_iter().map(altered).collect();
    let first = web.heads();
    let two = web.decides(0, 2);
    let second = web.heads();
    let (certificate, first, second) = ([certificate], [first], [second]);
    let orders: [[&[Pending]; 5]; 4] = [
        [&certificate, &two, &one, &first, &second],
        [&first, &second, &one, &two, &certificate],
        [&second, &two, &first, &certificate, &one],
        [&one, &two, &certificate, &second, &first],
    ];
    for order in orders {
        let report = verified(order.concat()).await;
        let told = found(&report);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Severity::Error);
        assert!(told[0].1.contains("records 1 to 2"), "{told:?}");
    }
}

/// A copy of genuine heads elsewhere, be it of another worker's, keeps nothing from being
/// compared, and is named.
#[tokio::test]
async fn heads_count_in_the_record_that_they_were_signed_for() {
    let mut web = Speaker::new(1);
    let certificate = web.heads();
    let altered: Vec<Pending> = web.decides(0, 2).into_iter().map(altered).collect();
    let genuine = web.heads();
    for (worker, sequence) in [(77, genuine.sequence), (Speaker::OWN, genuine.sequence + 1)] {
        let copy = Pending {
            stream: Arc::new(web.stream(worker)),
            sequence,
            ..genuine.clone()
        };
        let mut records = vec![certificate.clone(), copy];
        records.extend(altered.clone());
        records.push(genuine.clone());
        let told = found(&verified(records).await);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].1.contains("it was signed for another record"),
            "{told:?}"
        );
        assert!(told[1].1.contains("records 1 to 2"), "{told:?}");
    }
}

/// Heads of an earlier version are signed by nobody, and no trouble.
#[tokio::test]
async fn heads_of_an_earlier_version_are_not_signed() {
    let mut web = Speaker::new(1);
    let signer = TestSigner::new(REPORTER, 1);
    let earlier = |signed: &mut StreamHeads| {
        let message = [&b"palisade stream heads v1\n"[..], &signed.heads].concat();
        let made = crate::heads::HeadSigner::sign(&signer, &message).unwrap();
        signed.certificate = signer.digest().to_vec();
        signed.certificates = made.certificates;
        signed.signature = made.signature;
    };
    let place = |heads: &mut Heads| (heads.worker, heads.sequence) = (0, 0);
    let records = vec![web.heads_with(place, earlier)];
    let told = found(&verified(records).await);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1.contains("not by the certificate"), "{told:?}");
}

/// What a reporter signed twice, and differently, is compared once, and the other told.
#[tokio::test]
async fn what_was_signed_and_not_compared_is_counted() {
    let mut web = Speaker::new(1);
    let mut records = vec![web.heads()];
    records.extend(web.decides(0, 4));
    records.push(web.heads());
    let again = |heads: &mut Heads| {
        heads.streams = vec![Head {
            first_sequence: 2,
            last_sequence: 3,
            ..Head::default()
        }];
    };
    records.push(web.heads_with(again, |_| {}));
    let told = found(&verified(records).await);
    assert_eq!((told.len(), told[0].0), (1, Severity::Warning), "{told:?}");
    assert!(told[0].1.starts_with("1 stretches"), "{told:?}");
    // Of what is missing it is told that it is missing.
    let mut web = Speaker::new(1);
    let mut records = vec![web.heads()];
    records.extend(web.decides(0, 4).split_off(1));
    records.push(web.heads());
    let report = verified(records).await;
    assert_eq!(found(&report), []);
    assert!(!report.complete());
}

/// On both sides of the limit: streams and starts that only heads name cost no more than this.
#[tokio::test]
async fn so_many_names_are_looked_at() {
    let names = crate::stream::STREAMS_PER_REPORTER_MAX as u32;
    let of = |count: u32| async move {
        let (mut before, mut web) = (Speaker::new(9), Speaker::new(1));
        // One of which something is here is none of these.
        let mut records = before.decides(0, 1);
        web.previous = Some(before.boot);
        let workers: Vec<u32> = (0..count).collect();
        for workers in workers.chunks(STREAMS_MAX) {
            let named = |heads: &mut Heads| {
                let named = workers.iter().map(|worker| Head {
                    worker: *worker,
                    ..Head::default()
                });
                heads.streams = named.collect();
            };
            records.push(web.heads_with(named, |_| {}));
        }
        let report = verified(records).await;
        let streams = report.streams.iter().filter(|s| s.reporter == REPORTER);
        (found(&report), streams.count() as u32)
    };
    assert_eq!(of(names).await, (vec![], names + 2));
    let (told, streams) = of(names + 1).await;
    assert_eq!(streams, names + 2);
    assert_eq!((told.len(), told[0].0), (1, Severity::Warning), "{told:?}");
    assert!(told[0].1.contains("was not looked at"), "{told:?}");
}

/// On both sides of the limit: heads beyond it are not checked, and nobody is accused for them.
#[tokio::test]
async fn so_many_bytes_of_heads_wait_for_their_certificate() {
    let of = |more: usize| async move {
        let mut web = Speaker::new(1);
        let mut heads = || {
            let many = |heads: &mut Heads| {
                let named = (0..1000).map(|worker| Head {
                    worker,
                    digest: vec![7; 32],
                    ..Head::default()
                });
                heads.streams = named.collect();
            };
            web.heads_with(many, unsign)
        };
        let first = heads();
        let statement = Statement::read(&RecordPeek::new(&first.record).unwrap());
        let fit = WAITING_BYTES_EACH_MAX / statement.unwrap().len();
        let mut records = vec![first];
        records.extend((1..fit + more).map(|_| heads()));
        let told = found(&verified(records).await).into_iter();
        told.filter(|(_, what)| what.contains("were not checked"))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(0).await, []);
    let told = of(1).await;
    assert_eq!((told.len(), told[0].0), (1, Severity::Warning), "{told:?}");
    assert!(told[0].1.starts_with("1 records"), "{told:?}");
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
                let more = (1..count as u32).map(|worker| Head {
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
