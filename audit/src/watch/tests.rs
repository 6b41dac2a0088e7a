//! What the watch makes of heads.

use palisade_mesh::wire::record::StreamHeads;

use super::*;
use crate::{
    log::{LogOptions, Pending},
    testing::{REPORTER, Speaker, TestSigner, append, options, unsign},
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
    fn hold(&self, _: &[Vec<u8>]) -> Result<(), String> {
        Err("unknown issuer".into())
    }
}

/// A certificate that somebody made for himself is none of the mesh's; one that has ended
/// is no matter for the roots of today.
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
    let mut old = Speaker::new(2);
    old.signer = TestSigner::until(REPORTER, 2, 2001);
    bench.hear(&watch, vec![old.heads()]).await;
    assert_eq!(faults(&watch).len(), 1);
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
