//! What something costs: CPU time, and time on the clock.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Whose CPU time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// That of every thread of this process.
    Process,
    /// That of the thread that asks.
    Thread,
}

/// Time that something took, in the mean of so many times.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Span {
    /// Nanoseconds of CPU.
    pub(crate) cpu_ns: f64,
    /// Nanoseconds on the clock: what other programs took is in it.
    pub(crate) wall_ns: f64,
}

impl Span {
    /// The mean of `n` times that took so long together.
    pub(crate) fn of_each(cpu: Duration, wall: Duration, n: u64) -> Self {
        let n = n.max(1) as f64;
        Self {
            cpu_ns: cpu.as_nanos() as f64 / n,
            wall_ns: wall.as_nanos() as f64 / n,
        }
    }

    /// An `n`th of it.
    pub(crate) fn part(self, n: u64) -> Self {
        let n = n.max(1) as f64;
        Self {
            cpu_ns: self.cpu_ns / n,
            wall_ns: self.wall_ns / n,
        }
    }
}

/// Does it, and says how long one of `n` took.
pub(crate) fn timed<T>(whose: Whose, n: u64, what: impl FnOnce() -> T) -> (T, Span) {
    let (begun, before) = (Instant::now(), cpu(whose));
    let done = what();
    let (cpu, wall) = (cpu(whose).saturating_sub(before), begun.elapsed());
    (done, Span::of_each(cpu, wall, n))
}

/// CPU time so far.
pub(crate) fn cpu(whose: Whose) -> Duration {
    let clock = match whose {
        Whose::Process => ClockId::CLOCK_PROCESS_CPUTIME_ID,
        Whose::Thread => ClockId::CLOCK_THREAD_CPUTIME_ID,
    };
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}
