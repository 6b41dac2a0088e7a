//! `kill -9` again and again, of the audit service and of those who report to it, with
//! everything else that goes wrong with disks and clocks in between.
//!
//! The audit service is the program itself, with an authority and an agent beside it. The
//! reporter is a process of this test ([`reporter`]): the spool and the uplink that a proxy
//! has, without the proxy, which takes too long to start a thousand times. What was
//! acknowledged to it is written to a file of the test's own, and fsynced, before it counts
//! ([`account`]). In the end each of these records is in the log once, and what a lost spool
//! file took along is within the gaps that are told. Whole proxies are killed under requests
//! in [`proxies`].
//!
//! `PALISADE_KILLS_SEED` repeats a run, and `PALISADE_TEST_KEEP` keeps its folder, with what the
//! reporters said in `reporter.log`. The long form:
//!
//! ```text
//! cargo test --release --test kills a_thousand -- --ignored --nocapture --test-threads=1
//! ```

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod account;
mod proxies;
mod reporter;
mod stage;

use stage::{Fault, Stage};
use support::{Home, demo::one_at_a_time};

/// Kills of the short form; each fault comes twice.
const KILLS: u64 = 24;
/// Kills of proxies, and of the audit service beside them, in the short form.
const KILLS_OF_PROXIES: u64 = 14;

/// Numbers that follow from a seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// From 0 to before `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

fn seed() -> u64 {
    let asked = std::env::var("PALISADE_KILLS_SEED");
    let seed = asked.map_or_else(|_| ulid::Ulid::generate().0 as u64, |s| s.parse().unwrap());
    println!("PALISADE_KILLS_SEED={seed}");
    seed
}

/// Kills until `enough` processes have died, at moments that the seed gives.
fn survive(enough: u64) {
    let seed = seed();
    let mut dice = Dice(seed);
    let home = Home::new();
    let mut stage = Stage::start(&home, seed);
    let mut round = 0;
    while stage.kills() < enough || round < Fault::ALL.len() {
        // Each kind comes in turn, so that none is left to chance.
        let fault = Fault::ALL[round % Fault::ALL.len()];
        stage.round(fault, &mut dice);
        round += 1;
    }
    stage.settle();
    stage.saw_everything();
}

#[test]
fn no_kill_and_no_fault_loses_or_repeats_an_acknowledged_record() {
    survive(KILLS);
}

/// Takes some half an hour.
#[test]
#[ignore = "takes long; in release, by name"]
fn a_thousand_kills_lose_and_repeat_nothing() {
    survive(1000);
}

#[test]
fn no_kill_of_a_proxy_loses_or_repeats_an_answered_decision() {
    let _turn = one_at_a_time();
    proxies::survive(KILLS_OF_PROXIES, Dice(seed()));
}

/// Takes some half an hour.
#[test]
#[ignore = "takes long; in release, by name"]
fn a_thousand_kills_of_proxies_lose_and_repeat_nothing() {
    proxies::survive(1000, Dice(seed()));
}
