//! What shall happen, with a time for everything.

use std::{collections::BTreeSet, fmt, time::Duration};

use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{Gates, SHARES};
use crate::publish::codes;

/// Most steps of a canary.
pub const STEPS_MAX: usize = 16;
/// Longest time of anything in a plan: a week.
pub const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How long all proxies try the candidate beside what they enforce; none to begin
    /// with the canary.
    pub shadow: Option<Duration>,
    /// One decision in this many is put to both revisions.
    pub every: u32,
    /// Who enforces it before the others.
    pub steps: Vec<Step>,
    /// How long all of them are watched before it is complete.
    pub watch: Duration,
    /// How much longer than planned a phase may wait for decisions.
    pub patience: Duration,
    /// How long proxies have for taking a revision, and for going back.
    pub ready_within: Duration,
    /// How long it may be paused.
    pub pause_limit: Duration,
    /// What it may not exceed.
    pub gates: Gates,
}

impl Default for Plan {
    /// Ten minutes of shadow, a tenth and then half of the proxies for ten minutes each,
    /// ten minutes of watching.
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let share = |share| Step {
            target: Target::Share(share),
            last: minutes(10),
        };
        Self {
            shadow: Some(minutes(10)),
            every: 1,
            steps: vec![share(1_000), share(5_000)],
            watch: minutes(10),
            patience: minutes(60),
            ready_within: minutes(2),
            pause_limit: minutes(24 * 60),
            gates: Gates::default(),
        }
    }
}

/// One step of a canary; those before it stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Who.
    pub target: Target,
    /// For how long, at least.
    pub last: Duration,
}

/// Whose proxies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Those of these services, `NAMESPACE/NAME`.
    Services(BTreeSet<String>),
    /// So many ten-thousandths of all, by a stable hash of identity and instance; at
    /// least the one that stands nearest.
    Share(u32),
}

impl Target {
    /// Reads `svc=NAMESPACE/NAME`, several joined by `+`, or a share such as `25%`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(names) = text.strip_prefix("svc=") {
            let names: BTreeSet<String> = names.split('+').map(str::to_owned).collect();
            return (!names.contains("")).then_some(Self::Services(names));
        }
        let percent = text.strip_suffix('%')?;
        let (whole, part) = percent.split_once('.').unwrap_or((percent, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
            return None;
        }
        let share: u32 = format!("{whole}{part:0<2}").parse().ok()?;
        (1..=SHARES).contains(&share).then_some(Self::Share(share))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Services(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                f.write_str(&names.join(", "))
            }
            Self::Share(share) => {
                let text = format!("{}.{:02}", share / 100, share % 100);
                write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

impl Plan {
    /// As far as it goes with a candidate whose number others have given, without a way back:
    /// nobody but they could put the old content in force again under a higher one, so nobody
    /// enforces it before everybody does. None where that leaves nothing.
    pub fn irrevocable(self) -> Option<Self> {
        let shadow = Some(self.shadow?);
        Some(Self {
            shadow,
            steps: Vec::new(),
            watch: Duration::ZERO,
            ..self
        })
    }

    /// The shortest time in which it can be complete, and still be taken back at its end.
    pub fn least(&self) -> Duration {
        let steps: Duration = self.steps.iter().map(|step| step.last).sum();
        self.shadow.unwrap_or_default() + steps + self.watch + self.ready_within
    }

    /// Everything that is wrong with it.
    pub fn check(&self) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        let mut wrong = |message: String, help: &str| {
            found.push(Diagnostic::error(codes::ROLLOUT_PLAN, message).help(help));
        };
        if self.steps.len() > STEPS_MAX {
            wrong(
                format!(
                    "a canary has at most {STEPS_MAX} steps, not {}",
                    self.steps.len()
                ),
                "leave some out; every step includes those before it",
            );
        }
        let times = [
            ("watch", self.watch),
            ("patience", self.patience),
            ("ready_within", self.ready_within),
            ("pause_limit", self.pause_limit),
        ];
        let shadow = self.shadow.map(|time| ("shadow", time));
        let steps = self.steps.iter().map(|step| ("for", step.last));
        for (name, time) in times.into_iter().chain(shadow).chain(steps) {
            if time.is_zero() || time > TIME_MAX {
                wrong(
                    format!("`{name}` of a rollout must be more than nothing and at most 7 days"),
                    "give a time such as `10m`",
                );
            }
        }
        if self.every == 0 {
            wrong(
                "`every` of a rollout must be at least 1".into(),
                "1 is every decision",
            );
        }
        if self.gates.p99_percent.is_some_and(|percent| percent < 100) {
            wrong(
                "`p99` of a rollout must be at least 1".into(),
                "it says how many times as long as before requests may take",
            );
        }
        let shares = self.steps.iter().filter_map(|step| match step.target {
            Target::Share(share) => Some(share),
            Target::Services(_) => None,
        });
        let shares: Vec<u32> = shares.collect();
        if shares.windows(2).any(|pair| pair.first() >= pair.last()) {
            wrong(
                "shares of a canary must grow from step to step".into(),
                "a proxy that has the new revision keeps it, so a step cannot be smaller",
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_services_or_shares() {
        let check = |text: &str, expected| assert_eq!(Target::parse(text), expected, "{text}");
        let services = |names: &[&str]| {
            Some(Target::Services(
                names.iter().map(|n| (*n).to_owned()).collect(),
            ))
        };
        check("svc=shop/orders", services(&["shop/orders"]));
        check("svc=b+a", services(&["a", "b"]));
        check("25%", Some(Target::Share(2_500)));
        check("0.01%", Some(Target::Share(1)));
        check("100%", Some(Target::Share(10_000)));
        for wrong in [
            "", "svc=", "svc=a+", "25", "0%", "100.01%", "1.005%", "-1%", "%",
        ] {
            check(wrong, None);
        }
        for text in ["25%", "0.5%", "100%"] {
            assert_eq!(Target::parse(text).unwrap().to_string(), text);
        }
    }

    /// Each limit from both sides.
    #[test]
    fn a_plan_is_checked_as_a_whole() {
        let check = |change: fn(&mut Plan), mistakes: usize| {
            let mut plan = Plan::default();
            change(&mut plan);
            assert_eq!(plan.check().len(), mistakes, "{:?}", plan.check());
        };
        let step = |share| Step {
            target: Target::Share(share),
            last: Duration::from_secs(1),
        };
        assert_eq!(Plan::default().check(), []);
        check(|p| p.shadow = None, 0);
        check(|p| p.shadow = Some(Duration::ZERO), 1);
        check(|p| p.watch = TIME_MAX, 0);
        check(|p| p.watch = TIME_MAX + Duration::from_secs(1), 1);
        check(|p| p.every = 0, 1);
        check(|p| p.gates.p99_percent = Some(99), 1);
        check(|p| p.gates.p99_percent = Some(100), 0);
        let mut plan = Plan {
            steps: (1..=16).map(step).collect(),
            ..Plan::default()
        };
        assert_eq!(plan.check(), []);
        plan.steps.push(step(17));
        assert_eq!(plan.check().len(), 1);
        plan.steps = vec![step(5), step(5)];
        plan.every = 0;
        assert_eq!(plan.check().len(), 2, "both at once");
    }
}
