//! What came of requests since a rollout began, added up over proxies and restarts.

use std::collections::BTreeMap;

use palisade_mesh::{
    spread,
    wire::policy::{Health, Status, Trial},
};

use super::{Asked, Name};

/// Starts of proxies whose counts are remembered; the smallest keys are forgotten
/// beyond it, which only makes gates wait longer.
const BOOTS_MAX: usize = 20_000;

/// As many requests say what the baseline is like since the rollout began: then nothing older
/// counts, for a quiet night is no measure of a busy morning. With fewer, everything does that
/// it has decided in the processes that are there.
const RECENT_MIN: u64 = 1_000;

/// What came of requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evidence {
    /// What one revision changes against the other, on proxies.
    pub flips: Flips,
    /// Requests decided by the candidate.
    pub new: Load,
    /// Requests decided by the baseline, on the proxies of the same services; where there are
    /// a thousand of them, those since the rollout began.
    pub old: Load,
    /// What came of questions to the decision APIs.
    pub asked: Questions,
}

impl Evidence {
    /// What one revision changes against the other, on proxies and for who asks.
    pub fn all_flips(&self) -> Flips {
        let mut all = self.flips;
        all += self.asked.flips;
        all
    }
}

/// Questions to the decision APIs. Who asks forwards nothing through them, and how long an
/// answer takes there says nothing about proxies: they are compared with themselves. Nor do many
/// questions say that few flips are few of the requests of proxies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Questions {
    /// What one revision changes against the other.
    pub flips: Flips,
    /// Decided by the candidate.
    pub new: Load,
    /// Decided by the baseline, as of proxies.
    pub old: Load,
}

/// What trying one revision beside the other has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flips {
    /// Requests put to both.
    pub evaluated: u64,
    /// Stopped before and passed now.
    pub newly_allowed: u64,
    /// Passed before and stopped now.
    pub newly_denied: u64,
    /// Decided before and undecided now.
    pub newly_undecided: u64,
    /// Engines that failed.
    pub errors: u64,
}

impl std::ops::AddAssign for Flips {
    fn add_assign(&mut self, more: Self) {
        self.evaluated += more.evaluated;
        self.newly_allowed += more.newly_allowed;
        self.newly_denied += more.newly_denied;
        self.newly_undecided += more.newly_undecided;
        self.errors += more.errors;
    }
}

/// Requests under one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Load {
    /// Decided.
    pub decided: u64,
    /// Forwarded and ended.
    pub ended: u64,
    /// Of these, answered with 5xx.
    pub server_errors: u64,
    /// How long decisions took, by the buckets of [`spread`].
    pub decision_times: Vec<u64>,
    /// How long requests took, by the buckets of [`spread`].
    pub request_times: Vec<u64>,
}

impl Load {
    fn of(health: &Health) -> Self {
        let mut load = Self {
            decided: health.decided,
            ended: health.ended,
            server_errors: health.server_errors,
            ..Self::default()
        };
        spread::add(&mut load.decision_times, &health.decision_times);
        spread::add(&mut load.request_times, &health.request_times);
        load
    }

    fn add(&mut self, more: &Self) {
        self.decided += more.decided;
        self.ended += more.ended;
        self.server_errors += more.server_errors;
        spread::add(&mut self.decision_times, &more.decision_times);
        spread::add(&mut self.request_times, &more.request_times);
    }

    /// What came after `first`.
    fn since(&self, first: &Self) -> Self {
        Self {
            decided: self.decided.saturating_sub(first.decided),
            ended: self.ended.saturating_sub(first.ended),
            server_errors: self.server_errors.saturating_sub(first.server_errors),
            decision_times: spread::since(&self.decision_times, &first.decision_times),
            request_times: spread::since(&self.request_times, &first.request_times),
        }
    }
}

/// What the baseline did: in all, and when the rollout was first told of it.
#[derive(Debug, Clone, Default)]
struct Course {
    first: Load,
    last: Load,
}

impl Course {
    fn from(first: Load) -> Self {
        Self {
            last: first.clone(),
            first,
        }
    }

    fn add(&mut self, more: &Self) {
        self.first.add(&more.first);
        self.last.add(&more.last);
    }

    /// Decisions, and what was forwarded, each since the beginning where that is enough.
    fn load(self) -> Load {
        let recent = self.last.since(&self.first);
        let mut load = self.last;
        if recent.decided >= RECENT_MIN {
            load.decided = recent.decided;
            load.decision_times = recent.decision_times;
        }
        if recent.ended >= RECENT_MIN {
            load.ended = recent.ended;
            load.server_errors = recent.server_errors;
            load.request_times = recent.request_times;
        }
        load
    }
}

/// One start of a proxy, as far as its counts go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Boot {
    /// SPIFFE ID and instance.
    pub(crate) proxy: (String, String),
    /// ULID of the start.
    pub(crate) boot: Vec<u8>,
}

#[derive(Debug, Default)]
struct Told {
    services: Vec<String>,
    /// Under which revision which was tried: the last word of each.
    trials: BTreeMap<(u64, u64), Trial>,
    old: Option<Course>,
    new: Option<Load>,
}

/// Collects what proxies tell. Counts of a start only grow, so the last word of each is
/// all there is to remember, also when the proxy is gone; and the first one, to know what is new.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    told: BTreeMap<Boot, Told>,
    asked: Option<(Asked, Course)>,
}

impl Collected {
    /// Notes what the decision APIs tell of the two revisions.
    pub(crate) fn hear(&mut self, asked: Option<Asked>, (baseline, candidate): (Name, Name)) {
        let is_of = |asked: &Asked| (asked.baseline, asked.candidate) == (baseline, candidate);
        // Once it is stopped there is nothing more to hear.
        let Some(asked) = asked.filter(is_of) else {
            return;
        };
        let before = self.asked.take().filter(|(before, _)| is_of(before));
        let mut course = before.map_or_else(|| Course::from(asked.old.clone()), |(_, old)| old);
        course.last = asked.old.clone();
        self.asked = Some((asked, course));
    }

    /// Notes what a proxy told of the two revisions.
    pub(crate) fn note(
        &mut self,
        boot: Boot,
        services: &[String],
        status: &Status,
        (baseline, candidate): (Name, Name),
    ) {
        if !self.told.contains_key(&boot) && self.told.len() >= BOOTS_MAX {
            self.told.pop_first();
        }
        let told = self.told.entry(boot).or_default();
        told.services = services.to_vec();
        if let Some(trial) = &status.trial {
            let pair = (trial.sequence, trial.beside);
            let (old, new) = (baseline.sequence, candidate.sequence);
            if pair == (old, new) || pair == (new, old) {
                told.trials.insert(pair, trial.clone());
            }
        }
        if let Some(health) = &status.health {
            let is =
                |name: Name| health.sequence == name.sequence && health.sha256 == name.digest.0;
            let load = Load::of(health);
            if is(baseline) {
                let old = told.old.get_or_insert_with(|| Course::from(load.clone()));
                old.last = load;
            } else if is(candidate) {
                told.new = Some(load);
            }
        }
    }

    /// Everything, added up. The baseline's load is that of proxies of services which
    /// the candidate has reached somewhere: others say nothing about it.
    pub(crate) fn evidence(&self) -> Evidence {
        let (mut sum, mut old) = (Evidence::default(), Course::default());
        let reached: Vec<&String> = self
            .told
            .values()
            .filter(|t| t.new.is_some())
            .flat_map(|t| &t.services)
            .collect();
        for told in self.told.values() {
            for trial in told.trials.values() {
                sum.flips.add(trial);
            }
            if let Some(new) = &told.new {
                sum.new.add(new);
            }
            if let Some(course) = &told.old
                && told.services.iter().any(|s| reached.contains(&s))
            {
                old.add(course);
            }
        }
        sum.old = old.load();
        if let Some((asked, old)) = &self.asked {
            sum.asked = Questions {
                flips: asked.flips,
                new: asked.new.clone(),
                old: old.clone().load(),
            };
        }
        sum
    }
}

impl Flips {
    fn add(&mut self, trial: &Trial) {
        self.evaluated += trial.evaluated;
        self.newly_allowed += trial.newly_allowed;
        self.newly_denied += trial.newly_denied;
        self.newly_undecided += trial.newly_undecided;
        self.errors += trial.errors;
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::snapshot::Digest;

    use super::*;

    fn name(sequence: u64) -> Name {
        Name {
            digest: Digest::of(&sequence.to_be_bytes()),
            sequence,
        }
    }

    fn boot(proxy: &str, boot: u8) -> Boot {
        Boot {
            proxy: (format!("spiffe://x.test/{proxy}"), proxy.to_owned()),
            boot: vec![boot],
        }
    }

    fn status(sequence: u64, decided: u64, tries: u64, evaluated: u64) -> Status {
        Status {
            health: Some(Health {
                sha256: name(sequence).digest.0.to_vec(),
                sequence,
                decided,
                request_times: vec![decided],
                ..Health::default()
            }),
            trial: Some(Trial {
                sequence: tries,
                beside: sequence,
                evaluated,
                newly_denied: 1,
                ..Trial::default()
            }),
            ..Status::default()
        }
    }

    #[test]
    fn counts_survive_restarts_of_proxies_and_their_step_to_the_candidate() {
        let mut collected = Collected::default();
        let orders = ["shop/orders".to_owned()];
        let web = ["shop/web".to_owned()];
        let mut note = |b: Boot, services: &[String], status: Status| {
            collected.note(b, services, &status, (name(1), name(2)));
            collected.evidence()
        };
        note(boot("orders", 1), &orders, status(1, 10, 2, 5));
        note(boot("orders", 1), &orders, status(1, 20, 2, 15));
        let seen = note(boot("orders", 2), &orders, status(1, 3, 2, 2));
        assert_eq!((seen.flips.evaluated, seen.flips.newly_denied), (17, 2));
        assert_eq!(
            (seen.new.decided, seen.old.decided),
            (0, 0),
            "nothing to compare"
        );
        // The other way round: it enforces the candidate and tries the baseline.
        let seen = note(boot("orders", 2), &orders, status(2, 7, 1, 7));
        assert_eq!((seen.flips.evaluated, seen.flips.newly_denied), (24, 3));
        assert_eq!((seen.new.decided, seen.old.decided), (7, 23));
        let seen = note(boot("web", 1), &web, status(1, 100, 2, 1));
        assert_eq!(seen.old.decided, 23, "another service");
        let seen = note(boot("orders-2", 1), &orders, status(1, 100, 2, 1));
        assert_eq!((seen.old.decided, seen.old.request_times), (123, vec![123]));
        let seen = note(boot("orders-2", 1), &orders, status(9, 9, 8, 9));
        assert_eq!(seen.old.decided, 123, "other revisions do not count");
    }

    /// Days of the baseline are no measure of this hour, unless there is no other.
    #[test]
    fn the_baseline_is_judged_by_what_it_did_since_the_rollout_began() {
        let orders = ["shop/orders".to_owned()];
        let mut collected = Collected::default();
        let mut note = |of: u8, status: Status| {
            collected.note(boot("orders", of), &orders, &status, (name(1), name(2)));
            let old = collected.evidence().old;
            (old.decided, old.request_times.first().copied())
        };
        note(2, status(2, 5, 1, 5));
        assert_eq!(note(1, status(1, 500_000, 2, 1)), (500_000, Some(500_000)));
        let before = RECENT_MIN - 1;
        let all = 500_000 + before;
        assert_eq!(note(1, status(1, all, 2, 1)), (all, Some(all)));
        // What was forwarded is by itself: nothing of it has ended here.
        let all = 500_000 + RECENT_MIN;
        assert_eq!(note(1, status(1, all, 2, 1)), (RECENT_MIN, Some(all)));

        let asked = |decided: u64| Asked {
            baseline: name(1),
            candidate: name(2),
            flips: Flips::default(),
            old: Load {
                decided,
                decision_times: vec![0, decided],
                ..Load::default()
            },
            new: Load::default(),
        };
        let mut collected = Collected::default();
        for (decided, counted) in [(90_000, 90_000), (90_999, 90_999), (91_000, 1_000)] {
            collected.hear(Some(asked(decided)), (name(1), name(2)));
            let old = collected.evidence().asked.old;
            assert_eq!(
                (old.decided, old.decision_times),
                (counted, vec![0, counted])
            );
        }
    }
}
