//! A process that reports: the spool and the uplink of a proxy, and numbered decisions.
//!
//! It is this very program, started again with the environment below. What it prints was
//! durable in its spool: `acknowledged FIRST LAST BOOT SEQUENCE`, the last being the number
//! of FIRST in its stream, were there no heads of that stream before it.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use palisade::net::{
    directory::Whereabouts,
    heads::SvidSigner,
    identity::{self, IdentityConfig},
    tls,
};
use palisade_audit::spool::{Spool, SpoolOptions};
use palisade_mesh::{
    clock::Clock,
    sink::RecordSink as _,
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{AuditMode, Decision, Record, Verdict, record::Body},
};
use ulid::Ulid;

use crate::{Dice, account::Account, support::Home};

/// The worker that it reports as.
pub const WORKER: u32 = 0;
/// Below the trust domain.
pub const PATH: &str = "ns/shop/sa/reporter";
/// Where the numbers of a reporter begin, after those of the one before.
pub const APART: u64 = 1_000_000;

const AGENT: &str = "PALISADE_KILLS_AGENT";
const AUDIT: &str = "PALISADE_KILLS_AUDIT";
const DIR: &str = "PALISADE_KILLS_SPOOL";
const FROM: &str = "PALISADE_KILLS_FROM";
const SEED: &str = "PALISADE_KILLS_DICE";
/// Records that share an fsync.
const BATCH: u64 = 8;
/// Batches between two jumps of its clock, in the mean.
const CALM: u64 = 40;

/// The reporter of this test, as the mesh knows it.
pub fn id() -> SpiffeId {
    TrustDomain::parse("demo.test").unwrap().id(PATH).unwrap()
}

/// A running reporter. It is killed when dropped.
pub struct Reporter {
    child: Child,
    reading: Option<JoinHandle<()>>,
}

impl Reporter {
    /// Starts one whose numbers begin with `from`; `account` hears what was acknowledged.
    pub fn start(home: &Home, audit: &str, from: u64, seed: u64, account: &Account) -> Self {
        let mut said = OpenOptions::new();
        let said = said.create(true).append(true);
        let said = said.open(home.path("reporter.log")).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "reporter::child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(AGENT, home.path("state/agent.sock"))
            .env(AUDIT, audit)
            .env(DIR, home.path("spool"))
            .env(FROM, from.to_string())
            .env(SEED, seed.to_string())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let account = account.clone();
        let reading = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(told) = line.strip_prefix("acknowledged ") {
                    account.note(told);
                }
            }
        });
        Self {
            child,
            reading: Some(reading),
        }
    }

    /// `kill -9`. What it had printed before counts, and has been taken in.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
    }
}

/// Files small enough that some are lost before others, and heads often enough that each
/// reporter, which lives for seconds, says some.
pub fn options() -> SpoolOptions {
    SpoolOptions {
        file_bytes: 20_000,
        heads_every: Duration::from_millis(250),
        ..SpoolOptions::default()
    }
}

/// Sends what is in `spool`, through `agent`'s identity, to `audit`; signs heads as a proxy
/// does, so that what the last start had on disk is missed when nothing follows it.
pub async fn uplink(spool: &Arc<Spool>, agent: &Path, audit: &str) {
    let api = IdentityConfig::WorkloadApi(format!("unix://{}", agent.display()));
    let identity = identity::acquire(&api, Some(id()), Clock::system())
        .await
        .unwrap();
    spool.sign_heads(Arc::new(SvidSigner(identity.clone())));
    let place = Whereabouts::At(audit.parse().unwrap());
    let expected = TrustDomain::parse("demo.test").unwrap().role("audit");
    let connect = move || {
        let channel = tls::channel_to(&place, &expected, &identity);
        async move { Ok::<_, std::convert::Infallible>(channel) }
    };
    spool.clone().uplink(connect).await;
}

fn record(n: u64, time_us: i64) -> Record {
    Record {
        id: Ulid::from_parts(n, u128::from(n) + 1).to_bytes().to_vec(),
        time_us,
        reporter: id().to_string(),
        mode: AuditMode::Strict.into(),
        body: Some(Body::Decision(Decision {
            verdict: Verdict::Allow.into(),
            service: "demo.test/shop/reporter".into(),
            path: format!("/n/{n}"),
            enforced: true,
            ..Decision::default()
        })),
        ..Record::default()
    }
}

#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let number = |name: &str| -> u64 { var(name).parse().unwrap() };
    let mut dice = Dice(number(SEED));
    // Its clock is its own: it starts wrong now and then, and jumps.
    let clock = Clock::manual(jiff::Timestamp::now());
    jump(&clock, &mut dice);
    let spool = Spool::open(Path::new(&dir), id(), options(), clock.clone()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sent = spool.clone();
    runtime.spawn(async move {
        uplink(&sent, Path::new(&var(AGENT)), &var(AUDIT)).await;
    });
    let mut stream = spool.open(WORKER);
    let from = number(FROM);
    let mut next = from;
    println!();
    loop {
        if dice.below(CALM) == 0 {
            jump(&clock, &mut dice);
        }
        clock.advance(Duration::from_millis(5));
        for n in next..next + BATCH {
            stream.append(&record(n, clock.now_us())).unwrap();
        }
        runtime.block_on(stream.durable()).unwrap();
        let mut out = std::io::stdout().lock();
        let (last, first_sequence) = (next + BATCH - 1, next - from + 1);
        let boot = spool.boot();
        writeln!(out, "acknowledged {next} {last} {boot} {first_sequence}").unwrap();
        out.flush().unwrap();
        next += BATCH;
    }
}

/// Ten minutes or a day, either way, or not at all.
fn jump(clock: &Clock, dice: &mut Dice) {
    let by = [600, 86_400][dice.below(2) as usize];
    match dice.below(3) {
        0 => clock.set_ahead(Duration::from_secs(by)),
        1 => clock.set_back(Duration::from_secs(by)),
        _ => {}
    }
}
