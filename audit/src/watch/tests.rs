//! What the watch makes of heads.

use palisade_mesh::{
    spiffe_id::SpiffeId,
    wire::record::{Credential, Head, Heads, Record, StreamHeads, record::Body},
};
use prost::Message as _;

use ulid::Ulid;

use super::{
    held::HELD_BYTES_EACH_MAX,
    seen::{BOOTS_PER_REPORTER_MAX, TRIES},
    *,
};
use crate::{
    envelope::RecordPeek,
    heads::Statement,
    log::{LogOptions, Pending},
    stream::StreamKey,
    testing::{REPORTER, Speaker, TestSigner, append, decision, options, unsign},
};

struct Bench {
    dir: tempfile::TempDir,
    log: Log,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: LogOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(jiff::Timestamp::now());
        let log = Log::open(dir.path(), options, clock.clone()).unwrap();
        Self { dir, log, clock }
    }

    fn watch(&self) -> Watch {
        Watch::new(self.log.clone(), self.clock.clone())
    }

    /// Appends, and reads it.
    async fn hear(&self, watch: &Watch, records: Vec<Pending>) {
        append(&self.log, records).await;
        watch.catch_up().unwrap();
    }
}

fn faults(watch: &Watch) -> Vec<String> {
    let (faults, _) = watch.faults();
    faults.into_iter().map(|fault| fault.what).collect()
}

fn silent(watch: &Watch) -> Vec<String> {
    let silent = watch.silent().into_iter();
    silent.map(|silent| silent.boot).collect()
}

/// Somebody who holds a proxy's spool and not its key cannot speak for it.
#[tokio::test]
async fn heads_that_nobody_has_signed_are_no_sign_of_life() {
    let bench = Bench::new();
    let watch = bench.watch();
    let (mut web, mut next) = (Speaker::new(1), Speaker::new(2));
    next.previous = Some(web.boot);
    bench.hear(&watch, vec![web.heads()]).await;
    assert_eq!((faults(&watch).len(), silent(&watch).len()), (0, 0));
    for _ in 0..4 {
        bench.clock.advance(HEADS_EVERY);
        let forged: fn(&mut StreamHeads) = unsign;
        bench
            .hear(&watch, vec![web.heads_with(|_| {}, forged)])
            .await;
    }
    assert_eq!(silent(&watch), [web.boot.to_string()]);
    assert!(faults(&watch)[0].contains("was never sent"));
    // Nor can somebody name it as the one before.
    let forged = next.heads_with(|_| {}, |signed| signed.signature.clear());
    bench.hear(&watch, vec![forged]).await;
    assert!(silent(&watch).contains(&web.boot.to_string()));
    next.forget();
    bench.hear(&watch, vec![next.heads()]).await;
    assert!(silent(&watch).is_empty(), "{:?}", silent(&watch));
}

/// Trusts nobody.
struct Nobody;

impl Roots for Nobody {
    fn hold(&self, _: &[Vec<u8>], _: i64) -> Result<(), String> {
        Err("unknown issuer".into())
    }
}

/// Trusts what is held at a moment up to this one.
struct Until(i64);

impl Roots for Until {
    fn hold(&self, _: &[Vec<u8>], at_s: i64) -> Result<(), String> {
        match at_s <= self.0 {
            true => Ok(()),
            false => Err("it has ended".into()),
        }
    }
}

/// A certificate that somebody made for himself is none of the mesh's, also one that has
/// ended: that is held against the roots as of its end.
#[tokio::test]
async fn certificates_of_other_roots_are_named() {
    let bench = Bench::new();
    let watch = bench.watch();
    watch.trust(Arc::new(Nobody));
    let mut web = Speaker::new(1);
    bench.hear(&watch, vec![web.heads()]).await;
    let told = faults(&watch);
    assert!(
        told.len() == 1 && told[0].contains("not of the mesh's roots"),
        "{told:?}"
    );
    let old = |boot| {
        let mut old = Speaker::new(boot);
        old.signer = TestSigner::until(REPORTER, boot, 2001);
        old
    };
    bench.hear(&watch, vec![old(2).heads()]).await;
    assert_eq!(faults(&watch).len(), 2);
    bench.clock.advance(HEADS_EVERY);
    let watch = bench.watch();
    // The year 2001 begins then.
    watch.trust(Arc::new(Until(978_307_200)));
    bench.hear(&watch, vec![old(3).heads()]).await;
    assert_eq!(faults(&watch), Vec::<String>::new());
}

/// What came before a start of ours was believed by who ran then; what is signed with it now is
/// held against the roots of now, be the certificate sent again or not.
#[tokio::test]
async fn certificates_of_before_a_start_are_held_against_the_roots_too() {
    for (roots, expected) in [
        (Arc::new(Nobody) as Arc<dyn Roots>, 1),
        (Arc::new(Until(i64::MAX)), 0),
    ] {
        let bench = Bench::new();
        let mut web = Speaker::new(1);
        append(&bench.log, vec![web.heads()]).await;
        bench.clock.advance(HEADS_EVERY);
        let watch = bench.watch();
        watch.trust(roots);
        watch.catch_up().unwrap();
        assert_eq!(faults(&watch), Vec::<String>::new());
        bench.hear(&watch, vec![web.heads()]).await;
        assert_eq!(faults(&watch).len(), expected, "{:?}", faults(&watch));
    }
}

const AUTHORITY: &str = "spiffe://acme.test/palisade/ca";

/// The authority's word for a certificate.
fn issued(number: u64, by: &str, signer: &TestSigner) -> Pending {
    let reporter = SpiffeId::parse(by).unwrap();
    let issued = Credential {
        verb: "issued".into(),
        certificate: signer.digest().to_vec(),
        ..Credential::default()
    };
    let record = Record {
        reporter: by.into(),
        body: Some(Body::Credential(issued)),
        ..decision(0)
    };
    Pending {
        stream: Arc::new(StreamKey {
            reporter,
            boot: Ulid::from_parts(1, 1),
            worker: 0,
        }),
        sequence: number,
        record: record.encode_to_vec().into(),
    }
}

/// A certificate that was refused stays so, whatever is signed with it: the authority's record
/// of it alone clears that, and then it is believed.
#[tokio::test]
async fn a_late_record_of_a_certificate_clears_it_and_nothing_else_does() {
    let bench = Bench::new();
    let watch = bench.watch();
    watch.trust(Arc::new(Nobody));
    let mut web = Speaker::new(1);
    bench.hear(&watch, vec![web.heads()]).await;
    for n in 0..4 {
        bench.clock.advance(HEADS_EVERY);
        if n == 2 {
            web.forget();
        }
        bench.hear(&watch, vec![web.heads()]).await;
    }
    assert_eq!(faults(&watch).len(), 1, "{:?}", faults(&watch));
    assert_eq!(silent(&watch), [web.boot.to_string()]);
    // Neither somebody else's word, nor the authority's for another one.
    let other = TestSigner::new(REPORTER, 9);
    let records = vec![
        issued(1, REPORTER, &web.signer),
        issued(1, AUTHORITY, &other),
    ];
    bench.hear(&watch, records).await;
    assert_eq!(faults(&watch).len(), 1);
    let records = vec![issued(2, AUTHORITY, &web.signer)];
    bench.hear(&watch, records).await;
    assert_eq!(faults(&watch), Vec::<String>::new());
    bench.hear(&watch, vec![web.heads()]).await;
    let told = (faults(&watch), silent(&watch));
    assert_eq!(told, (vec![], vec![]));
    // What was signed meanwhile is compared by now.
    assert_eq!(watch.uncompared(), 0);
}

/// Two records of a start and what it signs of them; the first is altered on its way where it is
/// said so.
fn two_and_heads(web: &mut Speaker, altered: bool) -> Vec<Pending> {
    let mut records = web.decides(0, 2);
    if altered {
        records[0].record = decision(9).encode_to_vec().into();
    }
    records.push(web.heads());
    records
}

/// Heads of a certificate that nobody stands for wait until it is recorded that it was issued,
/// and are compared then, each with its own records: no more than what was altered is named.
#[tokio::test]
async fn heads_are_compared_once_it_is_recorded_that_their_certificate_was_issued() {
    for altered in [false, true] {
        let bench = Bench::new();
        let watch = bench.watch();
        watch.trust(Arc::new(Nobody));
        let mut web = Speaker::new(1);
        for is_second in [false, true] {
            let records = two_and_heads(&mut web, altered && is_second);
            bench.hear(&watch, records).await;
        }
        assert_eq!(faults(&watch).len(), 1, "{:?}", faults(&watch));
        assert!(faults(&watch)[0].contains("not of the mesh's roots"));
        let records = vec![issued(1, AUTHORITY, &web.signer)];
        bench.hear(&watch, records).await;
        let told = faults(&watch);
        match altered {
            true => assert!(told.len() == 1 && told[0].contains("3..=4"), "{told:?}"),
            false => assert_eq!(told, Vec::<String>::new()),
        }
        assert_eq!(watch.uncompared(), 0);
    }
}

/// Heads that overtake those with their certificate wait for these, be there roots to hold it
/// against or not.
#[tokio::test]
async fn heads_are_compared_once_their_certificate_has_come() {
    for (altered, roots) in [(false, false), (true, false), (false, true), (true, true)] {
        let bench = Bench::new();
        let watch = bench.watch();
        if roots {
            watch.trust(Arc::new(Until(i64::MAX)));
        }
        let mut web = Speaker::new(1);
        let certificate = web.heads();
        let records = two_and_heads(&mut web, altered);
        bench.hear(&watch, records).await;
        assert_eq!(faults(&watch), Vec::<String>::new());
        bench.hear(&watch, vec![certificate]).await;
        let told = faults(&watch);
        match altered {
            true => assert!(told.len() == 1 && told[0].contains("1..=2"), "{told:?}"),
            false => assert_eq!(told, Vec::<String>::new()),
        }
        assert_eq!(watch.uncompared(), 0);
    }
}

/// Trusts who comes with an issuer, whoever that is.
struct Chained;

impl Roots for Chained {
    fn hold(&self, chain: &[Vec<u8>], _: i64) -> Result<(), String> {
        match chain.len() > 1 {
            true => Ok(()),
            false => Err("unknown issuer".into()),
        }
    }
}

/// What waits until it is recorded that its certificate was issued is not looked at before that,
/// however often another start signs with the same one.
#[tokio::test]
async fn heads_that_wait_are_not_checked_with_those_of_another_start() {
    let bench = Bench::new();
    let watch = bench.watch();
    watch.trust(Arc::new(Chained));
    let (mut web, mut other) = (Speaker::new(1), Speaker::new(2));
    let chained = |signed: &mut StreamHeads| signed.certificates.push(vec![1]);
    bench
        .hear(&watch, vec![web.heads_with(|_| {}, chained)])
        .await;
    assert_eq!(faults(&watch), Vec::<String>::new());
    std::mem::swap(&mut web.signer, &mut other.signer);
    for n in 0..5 {
        let records = two_and_heads(&mut other, n == 3);
        bench.hear(&watch, records).await;
    }
    let told = faults(&watch);
    assert!(
        told.len() == 1 && told[0].contains("not of the mesh's roots"),
        "{told:?}"
    );
    std::mem::swap(&mut web.signer, &mut other.signer);
    for _ in 0..3 {
        let before = Statement::checked();
        bench.hear(&watch, vec![web.heads()]).await;
        assert_eq!(Statement::checked() - before, 1);
    }
    assert_eq!((faults(&watch).len(), watch.uncompared()), (1, 0));
    let records = vec![issued(1, AUTHORITY, &web.signer)];
    bench.hear(&watch, records).await;
    let told = faults(&watch);
    assert!(told.len() == 1 && told[0].contains("7..=8"), "{told:?}");
    assert_eq!(watch.uncompared(), 0);
}

/// On both sides of the limit; who has many waiting leaves the others their room, and what waits
/// when its start is over is counted.
#[tokio::test]
async fn so_many_heads_of_a_reporter_wait_for_their_certificate() {
    const STREAMS: u32 = 2000;
    let bench = Bench::new();
    let watch = bench.watch();
    watch.trust(Arc::new(Nobody));
    let mut web = Speaker::new(1);
    let many = |heads: &mut Heads| {
        let of_worker = |worker| Head {
            worker,
            first_sequence: 1,
            last_sequence: 1,
            ..Head::default()
        };
        heads.streams = (0..STREAMS).map(of_worker).collect();
    };
    let (mut bytes, mut waiting) = (0, 0);
    loop {
        let heads = web.heads_with(many, |_| {});
        let peek = RecordPeek::new(&heads.record).unwrap();
        bytes += Statement::read(&peek).unwrap().len();
        bench.hear(&watch, vec![heads]).await;
        if bytes > HELD_BYTES_EACH_MAX {
            break;
        }
        waiting += u64::from(STREAMS);
        assert_eq!(watch.uncompared(), 0);
    }
    assert!(waiting > 0);
    assert_eq!(watch.uncompared(), u64::from(STREAMS));
    let mut api = Speaker::of("spiffe://acme.test/ns/shop/sa/api", 3);
    bench.hear(&watch, vec![api.heads_with(many, |_| {})]).await;
    assert_eq!(watch.uncompared(), u64::from(STREAMS));
    let mut next = Speaker::new(2);
    next.previous = Some(web.boot);
    let records = vec![issued(1, AUTHORITY, &next.signer), next.heads()];
    bench.hear(&watch, records).await;
    assert_eq!(watch.uncompared(), u64::from(STREAMS) + waiting);
}

/// On both sides of the limit: who names many streams leaves the others theirs.
#[tokio::test]
async fn so_many_streams_of_a_reporter_are_followed() {
    let bench = Bench::new();
    let watch = bench.watch();
    let mut web = Speaker::new(1);
    let mut names = |workers: std::ops::Range<u32>, last_sequence: u64| {
        let named = |heads: &mut Heads| {
            let named = workers.map(|worker| Head {
                worker,
                first_sequence: 1,
                last_sequence,
                ..Head::default()
            });
            heads.streams = named.collect();
        };
        web.heads_with(named, |_| {})
    };
    // The one that they come in is one, too.
    let most = 1 << 14;
    let parts = (0..8).map(|n| n * 2048..((n + 1) * 2048).min(most - 1));
    let records = parts.map(|workers| names(workers, 0)).collect();
    bench.hear(&watch, records).await;
    assert_eq!(watch.uncompared(), 0);
    bench.hear(&watch, vec![names(most - 1..most + 1, 1)]).await;
    assert_eq!(watch.uncompared(), 2);
}

/// What comes in another order is compared; what is too much is told.
#[tokio::test]
async fn the_watch_compares_by_number() {
    let bench = Bench::new();
    let watch = bench.watch();
    let mut web = Speaker::new(1);
    let certificate = web.heads();
    let mut records = web.decides(0, 3);
    let mut bytes = records[0].record.to_vec();
    let at = bytes.windows(8).position(|w| w == b"/orders/").unwrap();
    bytes[at + 1] = b'O';
    records[0].record = bytes.into();
    let heads = web.heads();
    records.rotate_left(1);
    bench.hear(&watch, vec![certificate, heads]).await;
    assert_eq!(faults(&watch), Vec::<String>::new());
    bench.hear(&watch, records).await;
    let told = faults(&watch);
    assert!(told.len() == 1 && told[0].contains("1..=3"), "{told:?}");
    assert_eq!(watch.uncompared(), 0);
    // Unsigned heads move nothing.
    let far = |heads: &mut Heads| heads.streams[0].last_sequence = u64::MAX;
    bench.hear(&watch, vec![web.heads_with(far, unsign)]).await;
    let told = faults(&watch).len();
    let mut records = web.decides(0, 1);
    records[0].record = decision(9).encode_to_vec().into();
    records.push(web.heads());
    bench.hear(&watch, records).await;
    assert_eq!(faults(&watch).len(), told + 1);
}

/// On both sides of the limit: who is named as over for longer and is heard all the same, is
/// missed when he is not.
#[tokio::test]
async fn a_start_is_excused_by_its_name_for_a_day() {
    let bench = Bench::new();
    let watch = bench.watch();
    let (mut web, mut next) = (Speaker::new(1), Speaker::new(2));
    next.previous = Some(web.boot);
    bench.hear(&watch, vec![web.heads(), next.heads()]).await;
    bench.clock.advance(SILENT_FOR);
    web.forget();
    bench.hear(&watch, vec![next.heads(), web.heads()]).await;
    bench.hear(&watch, vec![next.heads()]).await;
    bench.clock.advance(SILENT_AFTER + HEADS_EVERY);
    assert_eq!(silent(&watch), [next.boot.to_string()]);
    web.forget();
    bench.hear(&watch, vec![next.heads(), web.heads()]).await;
    bench.hear(&watch, vec![next.heads()]).await;
    bench.clock.advance(SILENT_AFTER + HEADS_EVERY);
    bench.hear(&watch, vec![next.heads()]).await;
    assert_eq!(silent(&watch), [web.boot.to_string()]);
}

/// The audit service starts in the middle of a boot, whose first heads it does not read.
#[tokio::test]
async fn a_start_of_ours_accuses_nobody_until_the_certificate_is_due() {
    let bench = Bench::new();
    let mut web = Speaker::new(1);
    append(&bench.log, vec![web.heads()]).await;
    let watch = bench.watch();
    watch.seen().position = bench.log.len();
    for _ in 0..CERTIFICATES_EVERY {
        bench.clock.advance(HEADS_EVERY);
        bench.hear(&watch, vec![web.heads()]).await;
    }
    assert_eq!((faults(&watch), silent(&watch)), (vec![], vec![]));
    assert_eq!(watch.uncompared(), 0);
    bench.clock.advance(HEADS_EVERY);
    bench.hear(&watch, vec![web.heads()]).await;
    assert!(faults(&watch)[0].contains("was never sent"));
    // It must be heard by then, too.
    bench
        .clock
        .advance(UNKNOWN_AFTER - HEADS_EVERY * CERTIFICATES_EVERY);
    assert_eq!(silent(&watch), Vec::<String>::new());
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(silent(&watch), [web.boot.to_string()]);
    web.forget();
    bench.hear(&watch, vec![web.heads()]).await;
    assert_eq!(silent(&watch), Vec::<String>::new());
}

/// On both sides of the limit.
#[tokio::test]
async fn so_many_starts_of_a_reporter_are_watched() {
    let bench = Bench::new();
    let watch = bench.watch();
    let mut all: Vec<Pending> = (1..=BOOTS_PER_REPORTER_MAX as u64 + 1)
        .map(|boot| Speaker::new(boot).heads())
        .collect();
    let last = all.pop().unwrap();
    bench.hear(&watch, all).await;
    assert_eq!(faults(&watch), Vec::<String>::new());
    bench.hear(&watch, vec![last]).await;
    assert!(faults(&watch)[0].contains("more starts at a time"));
}

/// A record that is damaged, or a whole segment, costs what it says, and not the alarms.
#[tokio::test]
async fn what_cannot_be_read_is_stepped_over_and_told() {
    let bench = Bench::with(LogOptions {
        segment_bytes: 4000,
        ..options()
    });
    let mut web = Speaker::new(1);
    for _ in 0..8 {
        append(&bench.log, web.decides(0, 10)).await;
    }
    append(&bench.log, vec![web.heads()]).await;
    bench.log.close();
    let firsts = crate::segment::list(bench.dir.path()).unwrap();
    assert!(firsts.len() > 4, "{firsts:?}");
    let path = |n: usize| bench.dir.path().join(crate::segment::relative(firsts[n]));
    let mut bytes = std::fs::read(path(1)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path(1), bytes).unwrap();
    std::fs::remove_file(path(2)).unwrap();
    let log = Log::open(bench.dir.path(), options(), bench.clock.clone()).unwrap();
    let watch = Watch::new(log.clone(), bench.clock.clone());
    let mut tries = 0;
    while watch.catch_up().is_err() {
        tries += 1;
    }
    assert!(tries < 3 * TRIES, "{tries}");
    let unread = watch.unread().unwrap();
    assert!(
        unread.records > 0 && unread.records < log.len(),
        "{unread:?}"
    );
    bench.clock.advance(SILENT_AFTER + HEADS_EVERY);
    assert_eq!(silent(&watch), [web.boot.to_string()]);
}
