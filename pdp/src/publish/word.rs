//! The PDP's last word: when it last said that a proxy runs the newest revision, which one
//! was in force last, and the highest that ever was: another one where it was taken back.
//!
//! The age of a snapshot counts from that word and survives restarts. It is counted
//! by time that nobody can set: how long the machine has been up, sleep included. Over
//! a reboot, where that begins anew, it goes on from the age last written, plus
//! whatever the wall clock has moved on since; a clock that went back adds nothing and
//! takes nothing away. So no clock, wherever it jumps, makes a snapshot younger.

use std::{
    fmt, fs,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{KeptWord, Revision},
};

use super::codes;

/// How often the age is written while it grows.
const WRITE_EVERY: Duration = Duration::from_secs(30);

/// How long the machine has been up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Uptime {
    /// Changes with every boot of the machine.
    boot: String,
    us: u64,
}

/// Tells it.
#[derive(Clone)]
struct Meter(Arc<dyn Fn() -> Uptime + Send + Sync>);

impl Meter {
    fn of(clock: &Clock) -> Self {
        let clock = clock.clone();
        Self(Arc::new(move || match clock.steady_us() {
            Some(us) => Uptime {
                boot: "manual".to_owned(),
                us,
            },
            None => uptime(),
        }))
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

/// From `/proc`. Where it is hidden, each process is a boot of its own.
fn uptime() -> Uptime {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    static START: OnceLock<Instant> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned())
    });
    let seconds = || {
        let text = fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = text.split(' ').next()?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok()
    };
    match (boot, seconds()) {
        (Some(boot), Some(up)) => Uptime {
            boot: boot.clone(),
            us: micros(up),
        },
        _ => Uptime {
            boot: String::new(),
            us: micros(START.get_or_init(Instant::now).elapsed()),
        },
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The word, as it is counted from in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    sequence: u64,
    digest: Digest,
    /// Number and digest of the highest revision that was ever in force.
    highest: (u64, Digest),
    /// Wall clock at the last word, microseconds since the Unix epoch.
    confirmed_us: i64,
    /// Age at `since`, microseconds.
    age_us: u64,
    since: Uptime,
    /// The end of the newest stamp, where stamps are demanded.
    stamp_until_us: Option<i64>,
    /// The least time it can have been at `since`: a stamp told a time, and what has
    /// passed since then is known.
    known_us: i64,
    /// The latest that the wall clock here ever showed.
    seen_us: i64,
}

impl Word {
    fn age_us(&self, now: &Uptime) -> u64 {
        let more = match now.boot == self.since.boot {
            true => now.us.saturating_sub(self.since.us),
            // Only in a process that has changed its mind about the machine.
            false => 0,
        };
        self.age_us.saturating_add(more)
    }

    /// The least time it can be now.
    fn known_us(&self, now: &Uptime) -> i64 {
        let passed = self.age_us(now).saturating_sub(self.age_us);
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        self.known_us.saturating_add(passed)
    }
}

/// A stamp that was good when it came. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) issued_us: i64,
    pub(crate) until_us: i64,
}

/// How old the snapshot in force is; clones are one.
#[derive(Debug, Clone)]
pub struct Freshness {
    clock: Clock,
    meter: Meter,
    word: Arc<Mutex<Option<Word>>>,
    written: Arc<Mutex<Option<Instant>>>,
}

impl Freshness {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            meter: Meter::of(&clock),
            clock,
            word: Arc::default(),
            written: Arc::default(),
        }
    }

    /// Time since the PDP last said that this is the newest revision; none before
    /// there is one.
    pub fn age(&self) -> Option<Duration> {
        let now = (self.meter.0)();
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().map(|w| Duration::from_micros(w.age_us(&now)))
    }

    /// Wall clock at that word, microseconds since the Unix epoch.
    pub fn confirmed_us(&self) -> Option<i64> {
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().map(|w| w.confirmed_us)
    }

    /// The highest revision that was ever in force here, and its digest.
    pub(crate) fn highest(&self) -> Option<(u64, Digest)> {
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().map(|w| w.highest)
    }

    /// The revision that was in force last, and its digest: the highest, unless that was taken
    /// back.
    pub(crate) fn last(&self) -> Option<(u64, Digest)> {
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().map(|w| (w.sequence, w.digest))
    }

    /// The end of the newest stamp, microseconds since the Unix epoch, where stamps are
    /// demanded.
    pub fn stamp_until_us(&self) -> Option<i64> {
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().and_then(|w| w.stamp_until_us)
    }

    /// The time by which stamps are judged: the wall clock's, unless stamps have shown
    /// that it is later. A clock that is set back makes no old stamp good.
    pub fn now_us(&self) -> i64 {
        let now = (self.meter.0)();
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let known_us = word.as_ref().map_or(i64::MIN, |w| w.known_us(&now));
        self.clock.now_us().max(known_us)
    }

    /// The time by which ways back are judged: the latest that the wall clock ever showed here,
    /// unless stamps have shown that it is later. Setting it back opens none again.
    pub(crate) fn latest_us(&self) -> i64 {
        let now_us = self.now_us();
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        word.as_ref().map_or(now_us, |w| w.seen_us.max(now_us))
    }

    /// Notes that the PDP calls this revision the newest, and the stamp that proves it.
    pub(crate) fn confirm(&self, sequence: u64, digest: Digest, stamp: Option<Held>) {
        let since = (self.meter.0)();
        let mut word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let known_us = word.as_ref().map_or(i64::MIN, |w| w.known_us(&since));
        let before = word.as_ref().map(|w| w.highest);
        let seen_us = word.as_ref().map_or(i64::MIN, |w| w.seen_us);
        let highest = before.filter(|(n, _)| *n > sequence);
        *word = Some(Word {
            sequence,
            digest,
            highest: highest.unwrap_or((sequence, digest)),
            confirmed_us: self.clock.now_us(),
            age_us: 0,
            since,
            stamp_until_us: stamp.map(|s| s.until_us),
            known_us: stamp.map_or(known_us, |s| s.issued_us.max(known_us)),
            seen_us: seen_us.max(self.clock.now_us()),
        });
    }

    /// Goes on from what was kept.
    pub(crate) fn restore(&self, kept: &KeptWord) {
        let now = (self.meter.0)();
        let same_boot = !now.boot.is_empty() && kept.boot == now.boot && kept.up_us <= now.us;
        let since_written = match same_boot {
            true => now.us.saturating_sub(kept.up_us),
            false => u64::try_from(self.clock.now_us().saturating_sub(kept.written_us))
                .unwrap_or_default(),
        };
        let digest = Digest::from_slice(&kept.sha256).unwrap_or_default();
        let highest = Digest::from_slice(&kept.highest_sha256);
        let highest = highest.map(|digest| (kept.highest_sequence, digest));
        let highest = highest.filter(|(n, _)| *n > kept.sequence);
        let word = Word {
            sequence: kept.sequence,
            digest,
            highest: highest.unwrap_or((kept.sequence, digest)),
            confirmed_us: kept.confirmed_us,
            age_us: kept.age_us.saturating_add(since_written),
            since: now,
            stamp_until_us: kept.stamp_until_us,
            // Over a reboot the wall clock could be wrong, and what is known must not be.
            known_us: match same_boot {
                true => kept
                    .known_us
                    .saturating_add(i64::try_from(since_written).unwrap_or(i64::MAX)),
                false => kept.known_us,
            },
            seen_us: kept.seen_us.max(kept.written_us).max(kept.confirmed_us),
        };
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) = Some(word);
    }

    /// What to keep of it.
    pub(crate) fn to_keep(&self) -> Option<KeptWord> {
        let now = (self.meter.0)();
        let word = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let word = word.as_ref()?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Some(KeptWord {
            sequence: word.sequence,
            sha256: word.digest.0.to_vec(),
            confirmed_us: word.confirmed_us,
            age_us: word.age_us(&now),
            written_us: self.clock.now_us(),
            stamp_until_us: word.stamp_until_us,
            known_us: word.known_us(&now),
            boot: now.boot,
            up_us: now.us,
            highest_sequence: word.highest.0,
            highest_sha256: word.highest.1.0.to_vec(),
            seen_us: word.seen_us.max(self.clock.now_us()),
        })
    }

    /// Whether what is kept lags behind.
    pub(crate) fn is_write_due(&self) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.is_none_or(|at| at.elapsed() >= WRITE_EVERY)
    }
}

/// Whether a kept revision is the one the PDP's last word was about.
pub(crate) fn check(revision: &Revision, word: Option<&KeptWord>) -> Result<(), Diagnostic> {
    let Some(word) = word else {
        return Err(Diagnostic::error(
            codes::WORD_MISSING,
            format!(
                "nothing tells how old the kept policy revision {} is",
                revision.sequence
            ),
        )
        .cause("the file `word.pb` beside it is missing")
        .help("the proxy waits for its PDP; nothing passes until then"));
    };
    if (revision.sequence, &*revision.sha256) == (word.sequence, &*word.sha256) {
        return Ok(());
    }
    Err(Diagnostic::error(
        codes::KEPT_OLDER,
        format!(
            "kept policy revision {} is not the last one that was in force, {}",
            revision.sequence, word.sequence
        ),
    )
    .cause("somebody put an older or another file in its place, or a backup was restored")
    .help("the proxy waits for its PDP; nothing passes until then"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn clock() -> Clock {
        Clock::manual("2026-01-01T00:00:00Z".parse().unwrap())
    }

    fn confirmed(clock: &Clock) -> Freshness {
        let fresh = Freshness::new(clock.clone());
        assert_eq!(fresh.age(), None);
        fresh.confirm(7, Digest::of(b"abc"), None);
        fresh
    }

    /// A clock that jumps neither ages a snapshot nor makes it younger.
    #[test]
    fn only_time_that_passes_ages_a_snapshot() {
        let clock = clock();
        let fresh = confirmed(&clock);
        clock.advance(MINUTE);
        clock.set_back(MINUTE * 10);
        assert_eq!(fresh.age(), Some(MINUTE));
        clock.set_ahead(MINUTE * 30);
        assert_eq!(fresh.age(), Some(MINUTE));
        fresh.confirm(7, Digest::of(b"abc"), None);
        assert_eq!(fresh.age(), Some(Duration::ZERO));
    }

    /// What a stamp told is known for good, also over a restart and a reboot.
    #[test]
    fn a_clock_that_is_set_back_makes_no_stamp_good() {
        let clock = clock();
        let start_us = clock.now_us();
        let minute_us = i64::try_from(MINUTE.as_micros()).unwrap();
        let fresh = confirmed(&clock);
        let held = Held {
            issued_us: start_us,
            until_us: start_us + minute_us,
        };
        fresh.confirm(7, Digest::of(b"abc"), Some(held));
        clock.advance(MINUTE * 2);
        clock.set_back(MINUTE * 10);
        assert_eq!(fresh.now_us(), start_us + 2 * minute_us);
        assert_eq!(fresh.stamp_until_us(), Some(held.until_us));
        // Another word without a newer stamp does not forget the time.
        fresh.confirm(7, Digest::of(b"abc"), Some(held));
        assert_eq!(fresh.now_us(), start_us + 2 * minute_us);
        let mut kept = fresh.to_keep().unwrap();
        for boot in [kept.boot.clone(), "another".to_owned()] {
            kept.boot = boot;
            let second = Freshness::new(clock.clone());
            second.restore(&kept);
            assert_eq!(second.now_us(), start_us + 2 * minute_us);
            assert_eq!(second.stamp_until_us(), Some(held.until_us));
        }
        clock.set_ahead(MINUTE * 60);
        assert_eq!(fresh.now_us(), clock.now_us());
    }

    /// What the wall clock showed once is not over because somebody sets it back.
    #[test]
    fn the_latest_that_the_clock_showed_is_known_over_a_restart() {
        let clock = clock();
        let fresh = confirmed(&clock);
        clock.set_ahead(MINUTE * 60);
        fresh.confirm(7, Digest::of(b"abc"), None);
        let late_us = clock.now_us();
        clock.set_back(MINUTE * 60);
        fresh.confirm(7, Digest::of(b"abc"), None);
        assert!(fresh.now_us() < late_us);
        assert_eq!(fresh.latest_us(), late_us);
        let second = Freshness::new(clock.clone());
        second.restore(&fresh.to_keep().unwrap());
        assert_eq!(second.latest_us(), late_us);
        clock.set_ahead(MINUTE * 61);
        assert_eq!(second.latest_us(), clock.now_us());
    }

    #[test]
    fn the_age_goes_on_over_a_restart_wherever_the_clock_is() {
        let clock = clock();
        let first = confirmed(&clock);
        clock.advance(MINUTE);
        let kept = first.to_keep().unwrap();
        clock.advance(MINUTE);
        clock.set_back(MINUTE * 60);
        let second = Freshness::new(clock.clone());
        second.restore(&kept);
        assert_eq!(second.age(), Some(MINUTE * 2));
        assert_eq!(second.highest(), Some((7, Digest::of(b"abc"))));
    }

    /// What was taken back is not forgotten, also over a restart.
    #[test]
    fn the_highest_is_known_also_when_it_is_not_the_last() {
        let clock = clock();
        let fresh = confirmed(&clock);
        let (seven, six) = ((7, Digest::of(b"abc")), (6, Digest::of(b"old")));
        fresh.confirm(6, six.1, None);
        let second = Freshness::new(clock.clone());
        second.restore(&fresh.to_keep().unwrap());
        for word in [&fresh, &second] {
            assert_eq!((word.last(), word.highest()), (Some(six), Some(seven)));
        }
        second.confirm(8, seven.1, None);
        assert_eq!(second.last(), second.highest());
    }

    /// A reboot with the clock set back takes no age away; one without adds the time
    /// the machine was off.
    #[test]
    fn over_a_reboot_the_wall_clock_can_only_add() {
        let clock = clock();
        let first = confirmed(&clock);
        clock.advance(MINUTE);
        let mut kept = first.to_keep().unwrap();
        kept.boot = "another".to_owned();
        clock.set_ahead(MINUTE * 5);
        let second = Freshness::new(clock.clone());
        second.restore(&kept);
        assert_eq!(second.age(), Some(MINUTE * 6));
        clock.set_back(MINUTE * 60);
        second.restore(&kept);
        assert_eq!(second.age(), Some(MINUTE));
    }

    #[test]
    fn the_machine_tells_how_long_it_is_up() {
        let (one, two) = (uptime(), uptime());
        assert!(one.us > 0 && two.us >= one.us);
        assert_eq!(one.boot, two.boot);
    }

    #[test]
    fn a_kept_revision_must_be_the_last_that_was_in_force() {
        let revision = |sequence| Revision {
            sha256: Digest::of(b"abc").0.to_vec(),
            sequence,
            ..Revision::default()
        };
        let word = confirmed(&clock()).to_keep().unwrap();
        assert!(check(&revision(7), Some(&word)).is_ok());
        let code = |r: &Revision, w| check(r, w).unwrap_err().code.0;
        assert_eq!(code(&revision(6), Some(&word)), codes::KEPT_OLDER);
        assert_eq!(code(&revision(8), Some(&word)), codes::KEPT_OLDER);
        assert_eq!(code(&revision(7), None), codes::WORD_MISSING);
    }
}
