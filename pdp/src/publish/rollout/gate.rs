//! The limits that a rollout may not exceed.

use std::{fmt, time::Duration};

use palisade_mesh::spread;
use serde::{Deserialize, Serialize};

use super::{Evidence, Flips, Load};

/// Requests on each side from which on latencies are compared.
const COMPARED_MIN: u64 = 1_000;
/// What a slower p99 must come to before its ratio counts: below it is noise.
const REQUEST_NOISE: Duration = Duration::from_millis(10);
/// The same of decisions.
const DECISION_NOISE: Duration = Duration::from_micros(100);

/// How much is too much: more than so many, or more than a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// More than this many.
    Count(u64),
    /// More than this many of a million.
    Ppm(u32),
}

impl Threshold {
    /// Reads `5` or `0.1%`, which tells ten-thousandths of a percent apart.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(percent) = text.trim().strip_suffix('%') else {
            return text.trim().parse().ok().map(Self::Count);
        };
        let (whole, part) = percent
            .trim()
            .split_once('.')
            .unwrap_or((percent.trim(), ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 4 || !digits(whole) || !digits(part) {
            return None;
        }
        let ppm: u32 = format!("{whole}{part:0<4}").parse().ok()?;
        (ppm <= 1_000_000).then_some(Self::Ppm(ppm))
    }

    /// Whether `count` of `total` is too much, where shares are taken of at least `least`:
    /// one of the first ten is no tenth of all.
    fn is_exceeded(self, count: u64, total: u64, least: u64) -> bool {
        match self {
            Self::Count(limit) => count > limit,
            Self::Ppm(ppm) => {
                let of = u128::from(total.max(least).max(1));
                u128::from(count) * 1_000_000 > u128::from(ppm) * of
            }
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Ppm(ppm) => {
                let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
                write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

/// The limits. One that is absent is not looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gates {
    /// Requests that passed before and are stopped now.
    pub newly_denied: Option<Threshold>,
    /// Requests that were stopped before and pass now.
    pub newly_allowed: Option<Threshold>,
    /// Requests that were decided before and are undecided now.
    pub newly_undecided: Option<Threshold>,
    /// Engines that failed.
    pub errors: Option<Threshold>,
    /// How far the share of 5xx may lie above that of the old revision.
    pub server_errors: Option<Threshold>,
    /// How many times the p99 of the old revision that of the new one may be, in percent.
    pub p99_percent: Option<u32>,
    /// Decisions that a phase must have seen before it may end well.
    pub min_decisions: u64,
}

impl Default for Gates {
    /// Newly denied 0.1 %, nothing newly undecided, no failing engine, 1 % more 5xx, p99
    /// twice as long; 100 decisions.
    fn default() -> Self {
        Self {
            newly_denied: Some(Threshold::Ppm(1_000)),
            newly_allowed: None,
            newly_undecided: Some(Threshold::Count(0)),
            errors: Some(Threshold::Count(0)),
            server_errors: Some(Threshold::Ppm(10_000)),
            p99_percent: Some(200),
            min_decisions: 100,
        }
    }
}

/// How a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Too much: the rollout halts.
    Exceeded,
    /// Within its limit.
    Holds,
    /// There is nothing to compare yet.
    Unknown,
}

/// What one gate sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Its name, as in the configuration.
    pub gate: String,
    /// What it sees, in words.
    pub value: String,
    /// Its limit, in words.
    pub limit: String,
    /// How it stands.
    pub standing: Standing,
}

impl Gates {
    /// How every gate stands.
    pub fn read(&self, evidence: &Evidence) -> Vec<Reading> {
        let of_flips = |gate, limit, count| self.flips(gate, limit, count, evidence);
        let readings = [
            of_flips("newly_denied", self.newly_denied, |f: &Flips| {
                f.newly_denied
            }),
            of_flips("newly_allowed", self.newly_allowed, |f: &Flips| {
                f.newly_allowed
            }),
            of_flips("newly_undecided", self.newly_undecided, |f: &Flips| {
                f.newly_undecided
            }),
            of_flips("errors", self.errors, |f: &Flips| f.errors),
            self.server_errors(&evidence.old, &evidence.new),
            self.p99(
                "p99",
                &evidence.old,
                &evidence.new,
                |l| &l.request_times,
                REQUEST_NOISE,
            ),
            self.decision_p99(evidence),
        ];
        readings.into_iter().flatten().collect()
    }

    /// Of proxies, of the decision APIs, and of both: many questions make no share of few requests
    /// smaller, nor the other way round.
    fn flips(
        &self,
        gate: &str,
        limit: Option<Threshold>,
        count: fn(&Flips) -> u64,
        evidence: &Evidence,
    ) -> Option<Reading> {
        let limit = limit?;
        let all = evidence.all_flips();
        let groups = [
            (all, ""),
            (evidence.flips, " by proxies"),
            (evidence.asked.flips, " by the decision APIs"),
        ];
        let is_exceeded =
            |flips: &Flips| limit.is_exceeded(count(flips), flips.evaluated, self.min_decisions);
        let exceeded = groups.into_iter().find(|(flips, _)| is_exceeded(flips));
        let (flips, by) = exceeded.unwrap_or((all, ""));
        Some(Reading {
            gate: gate.to_owned(),
            value: format!("{} of {}{by}", count(&flips), flips.evaluated),
            limit: limit.to_string(),
            standing: match (exceeded, all.evaluated) {
                (Some(_), _) => Standing::Exceeded,
                (None, 0) => Standing::Unknown,
                (None, _) => Standing::Holds,
            },
        })
    }

    fn server_errors(&self, old: &Load, new: &Load) -> Option<Reading> {
        let limit = self.server_errors?;
        // What the old revision's share would come to among as many requests.
        let total = new.ended.max(self.min_decisions);
        let usual = u128::from(old.server_errors) * u128::from(total);
        let usual = usual / u128::from(old.ended.max(1));
        let more = new
            .server_errors
            .saturating_sub(u64::try_from(usual).unwrap_or(u64::MAX));
        let exceeded = limit.is_exceeded(more, new.ended, self.min_decisions);
        Some(Reading {
            gate: "server_errors".to_owned(),
            value: format!(
                "{} of {}, before {} of {}",
                new.server_errors, new.ended, old.server_errors, old.ended
            ),
            limit: match limit {
                Threshold::Count(_) => format!("{limit} more"),
                Threshold::Ppm(_) => format!("{limit} more of all"),
            },
            standing: match (exceeded, new.ended) {
                (true, _) => Standing::Exceeded,
                (false, 0) => Standing::Unknown,
                (false, _) => Standing::Holds,
            },
        })
    }

    /// Of proxies, or of the decision APIs where those say more.
    fn decision_p99(&self, evidence: &Evidence) -> Option<Reading> {
        let of = |old, new| {
            self.p99(
                "decision_p99",
                old,
                new,
                |l| &l.decision_times,
                DECISION_NOISE,
            )
        };
        let proxies = of(&evidence.old, &evidence.new)?;
        let apis = of(&evidence.asked.old, &evidence.asked.new)?;
        let says_more = match proxies.standing {
            Standing::Exceeded => false,
            Standing::Holds => apis.standing == Standing::Exceeded,
            Standing::Unknown => apis.standing != Standing::Unknown,
        };
        Some(if says_more { apis } else { proxies })
    }

    fn p99(
        &self,
        gate: &str,
        old: &Load,
        new: &Load,
        times: fn(&Load) -> &Vec<u64>,
        noise: Duration,
    ) -> Option<Reading> {
        let percent = self.p99_percent?;
        let enough = |load: &Load| times(load).iter().sum::<u64>() >= COMPARED_MIN;
        let p99 = |load: &Load| spread::quantile(times(load), 99).filter(|_| enough(load));
        let (was, is) = (p99(old), p99(new));
        let limit = was.map(|was| was * percent / 100);
        let exceeded = match (is, was, limit) {
            (Some(is), Some(was), Some(limit)) => is > limit && is - was > noise,
            _ => false,
        };
        let told = |p99: Option<Duration>| p99.map_or("unknown".to_owned(), |p| format!("{p:.1?}"));
        Some(Reading {
            gate: gate.to_owned(),
            value: format!("{}, before {}", told(is), told(was)),
            limit: format!("{} times that", f64::from(percent) / 100.0),
            standing: match (exceeded, is.and(was)) {
                (true, _) => Standing::Exceeded,
                (false, None) => Standing::Unknown,
                (false, Some(_)) => Standing::Holds,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::rollout::Questions;

    #[test]
    fn thresholds_are_counts_or_shares() {
        let check = |text: &str, expected| assert_eq!(Threshold::parse(text), expected, "{text}");
        check("5", Some(Threshold::Count(5)));
        check("0.1%", Some(Threshold::Ppm(1_000)));
        check("100%", Some(Threshold::Ppm(1_000_000)));
        check("0.0001 %", Some(Threshold::Ppm(1)));
        check(" 2% ", Some(Threshold::Ppm(20_000)));
        for wrong in [
            "",
            "%",
            ".5%",
            "100.0001%",
            "0.00001%",
            "-1",
            "1e3",
            "+1%",
            "4294967297%",
        ] {
            check(wrong, None);
        }
        for text in ["7", "0.1%", "12.5%", "0.0001%", "0%", "100%"] {
            assert_eq!(Threshold::parse(text).unwrap().to_string(), text);
        }
    }

    fn standing(gates: &Gates, evidence: &Evidence, gate: &str) -> Option<Standing> {
        let readings = gates.read(evidence);
        readings.iter().find(|r| r.gate == gate).map(|r| r.standing)
    }

    /// Each limit from both sides.
    #[test]
    fn flips_exceed_a_limit_one_above_it() {
        let check = |limit, count, evaluated, expected| {
            let gates = Gates {
                newly_denied: limit,
                min_decisions: 1_000,
                ..Gates::default()
            };
            let flips = Flips {
                evaluated,
                newly_denied: count,
                ..Flips::default()
            };
            let evidence = Evidence {
                flips,
                ..Evidence::default()
            };
            let found = standing(&gates, &evidence, "newly_denied");
            assert_eq!(found, expected, "{limit:?} {count}/{evaluated}");
        };
        let share = Some(Threshold::Ppm(1_000));
        check(share, 10, 10_000, Some(Standing::Holds));
        check(share, 11, 10_000, Some(Standing::Exceeded));
        // Before there are enough, of as many as there will be.
        check(share, 1, 1, Some(Standing::Holds));
        check(share, 2, 2, Some(Standing::Exceeded));
        check(Some(Threshold::Count(5)), 5, 5, Some(Standing::Holds));
        check(Some(Threshold::Count(5)), 6, 6, Some(Standing::Exceeded));
        check(Some(Threshold::Count(0)), 0, 0, Some(Standing::Unknown));
        check(None, 1_000, 1_000, None);
    }

    /// A hundred thousand questions make no tenth of a proxy's requests a small share, and a
    /// proxy's requests none of the questions.
    #[test]
    fn no_group_washes_out_the_flips_of_the_other() {
        let flips = |newly_denied, evaluated| Flips {
            evaluated,
            newly_denied,
            ..Flips::default()
        };
        for (proxies, apis, expected) in [
            (flips(50, 500), flips(0, 100_000), Standing::Exceeded),
            (flips(0, 100_000), flips(50, 500), Standing::Exceeded),
            (flips(0, 500), flips(0, 100_000), Standing::Holds),
            (flips(0, 0), flips(0, 1), Standing::Holds),
        ] {
            let evidence = Evidence {
                flips: proxies,
                asked: Questions {
                    flips: apis,
                    ..Questions::default()
                },
                ..Evidence::default()
            };
            let found = standing(&Gates::default(), &evidence, "newly_denied");
            assert_eq!(found, Some(expected), "{proxies:?} {apis:?}");
        }
    }

    #[test]
    fn server_errors_count_beyond_the_usual() {
        let check = |old: (u64, u64), new: (u64, u64), expected| {
            let load = |(errors, ended)| Load {
                server_errors: errors,
                ended,
                ..Load::default()
            };
            let evidence = Evidence {
                old: load(old),
                new: load(new),
                ..Evidence::default()
            };
            let found = standing(&Gates::default(), &evidence, "server_errors");
            assert_eq!(found, Some(expected), "{old:?} {new:?}");
        };
        check((0, 0), (0, 0), Standing::Unknown);
        check((0, 1_000), (10, 1_000), Standing::Holds);
        check((0, 1_000), (11, 1_000), Standing::Exceeded);
        check((50, 1_000), (60, 1_000), Standing::Holds);
        check((50, 1_000), (61, 1_000), Standing::Exceeded);
        check((0, 1_000), (1, 1), Standing::Holds);
        check((0, 1_000), (2, 2), Standing::Exceeded);
    }

    #[test]
    fn latency_is_compared_where_both_sides_have_enough_and_differ_by_more_than_noise() {
        let check = |old: (u64, u64), new: (u64, u64), expected| {
            let load = |(count, ms)| {
                let mut times = vec![0; spread::BUCKETS];
                times[spread::bucket(Duration::from_millis(ms))] = count;
                Load {
                    request_times: times,
                    ..Load::default()
                }
            };
            let evidence = Evidence {
                old: load(old),
                new: load(new),
                ..Evidence::default()
            };
            let found = standing(&Gates::default(), &evidence, "p99");
            assert_eq!(found, Some(expected), "{old:?} {new:?}");
        };
        check((1_000, 20), (1_000, 45), Standing::Exceeded);
        check((1_000, 20), (1_000, 38), Standing::Holds);
        check((999, 20), (1_000, 45), Standing::Unknown);
        check((1_000, 20), (999, 45), Standing::Unknown);
        check((1_000, 1), (1_000, 9), Standing::Holds);
    }

    /// What the APIs take is compared with what they took, and whoever says more is told.
    #[test]
    fn decisions_of_the_apis_are_compared_with_their_own() {
        let check = |proxies: (u64, u64), apis: (u64, u64), expected| {
            let load = |ms| {
                let mut decision_times = vec![0; spread::BUCKETS];
                decision_times[spread::bucket(Duration::from_millis(ms))] =
                    u64::from(ms > 0) * 1_000;
                Load {
                    decision_times,
                    ..Load::default()
                }
            };
            let evidence = Evidence {
                old: load(proxies.0),
                new: load(proxies.1),
                asked: Questions {
                    old: load(apis.0),
                    new: load(apis.1),
                    ..Questions::default()
                },
                ..Evidence::default()
            };
            let found = standing(&Gates::default(), &evidence, "decision_p99");
            assert_eq!(found, Some(expected), "{proxies:?} {apis:?}");
        };
        check((0, 0), (0, 0), Standing::Unknown);
        check((0, 0), (5, 6), Standing::Holds);
        check((0, 0), (5, 20), Standing::Exceeded);
        check((5, 6), (5, 20), Standing::Exceeded);
        check((5, 20), (5, 6), Standing::Exceeded);
        check((5, 6), (0, 20), Standing::Holds);
    }
}
