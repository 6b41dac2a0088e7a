//! CPU time of this process and of what it ran: on a shared machine the figure to trust.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each bench uses its part, and says what it found"
)]

use std::{fs, hint::black_box, time::Instant};

/// Nanoseconds of a tick of the kernel's clock.
const TICK_NS: f64 = 10_000_000.0;

/// Does `work` so many times, and prints what one of them took: CPU time of all threads and
/// of processes that have ended, and wall time. A tick is 10 ms, so the passes should take
/// a second at least.
pub fn cpu<T>(name: &str, passes: u32, mut work: impl FnMut() -> T) {
    drop(black_box(work()));
    let (begun, before) = (Instant::now(), ticks());
    for _ in 0..passes {
        drop(black_box(work()));
    }
    let ms = (ticks() - before) as f64 * TICK_NS / 1e6 / f64::from(passes);
    let wall = begun.elapsed().as_secs_f64() * 1e3 / f64::from(passes);
    println!("cpu {name}: {ms:.1} ms of CPU, {wall:.1} ms of wall time, mean of {passes}");
}

/// User and system time of this process and of its children that were waited for.
fn ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields = rest.split(' ').skip(11).take(4);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}
