//! Section `pdp.rollout`: how each new revision goes to the proxies.

use std::time::Duration;

use serde::Deserialize;

use super::optional_lifetime;

/// Section `pdp.rollout`. What is not written is as in `Plan::default`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSection {
    /// How long all proxies try a revision beside what they enforce; `0s` for not at all.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub shadow: Option<Duration>,
    /// One decision in this many is put to both.
    pub every: Option<u32>,
    /// Who enforces it before the others, step by step.
    pub canary: Option<Vec<CanaryStep>>,
    /// How long all proxies are watched before it is complete.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub watch: Option<Duration>,
    /// How much longer than planned a phase may wait for decisions.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub patience: Option<Duration>,
    /// How long proxies have for taking a revision, and for going back.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub ready_within: Option<Duration>,
    /// How long it may be paused.
    #[serde(default, deserialize_with = "optional_lifetime")]
    pub pause_limit: Option<Duration>,
    /// Decisions that a phase must have seen.
    pub min_decisions: Option<u64>,
    /// What halts it.
    #[serde(default)]
    pub abort_on: AbortSection,
}

/// One step of `pdp.rollout.canary`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryStep {
    /// Proxies of these services, `NAMESPACE/NAME`.
    pub services: Option<Vec<String>>,
    /// Or so many of all, such as `25%`.
    pub share: Option<String>,
    /// For how long, at least.
    #[serde(default, rename = "for", deserialize_with = "optional_lifetime")]
    pub last: Option<Duration>,
}

/// Section `pdp.rollout.abort_on`: counts such as `5`, shares such as `0.1%`, or `off`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbortSection {
    /// Requests that passed before and are stopped now.
    pub newly_denied: Option<String>,
    /// Requests that were stopped before and pass now.
    pub newly_allowed: Option<String>,
    /// Requests that were decided before and are undecided now.
    pub newly_undecided: Option<String>,
    /// Engines that failed.
    pub errors: Option<String>,
    /// How far the share of 5xx may lie above that of the old revision.
    pub server_errors: Option<String>,
    /// How many times as long as before the p99 may be.
    pub p99: Option<String>,
}

#[cfg(feature = "full")]
mod plan {
    use palisade_mesh::diagnostic::Diagnostic;
    use palisade_pdp::publish::{
        codes::ROLLOUT_PLAN,
        rollout::{Gates, Plan, Step, Target, Threshold},
    };

    use super::{AbortSection, CanaryStep, Duration, RolloutSection};

    impl RolloutSection {
        /// The plan that it means.
        ///
        /// # Errors
        /// Everything that is wrong with it; each begins with the key.
        pub fn plan(&self) -> Result<Plan, Vec<Diagnostic>> {
            let usual = Plan::default();
            let mut found = Vec::new();
            let steps = match &self.canary {
                None => usual.steps.clone(),
                Some(steps) => steps
                    .iter()
                    .filter_map(|step| step.read().map_err(|d| found.push(d)).ok())
                    .collect(),
            };
            let gates = self.abort_on.gates(&mut found);
            let plan = Plan {
                shadow: match self.shadow {
                    Some(Duration::ZERO) => None,
                    shadow => shadow.or(usual.shadow),
                },
                every: self.every.unwrap_or(usual.every),
                steps,
                watch: self.watch.unwrap_or(usual.watch),
                patience: self.patience.unwrap_or(usual.patience),
                ready_within: self.ready_within.unwrap_or(usual.ready_within),
                pause_limit: self.pause_limit.unwrap_or(usual.pause_limit),
                gates: Gates {
                    min_decisions: self.min_decisions.unwrap_or(usual.gates.min_decisions),
                    ..gates
                },
            };
            found.extend(plan.check());
            match found.is_empty() {
                true => Ok(plan),
                false => Err(found),
            }
        }
    }

    impl CanaryStep {
        fn read(&self) -> Result<Step, Diagnostic> {
            let target = match (&self.services, &self.share) {
                (Some(names), None) if !names.is_empty() => {
                    Some(Target::Services(names.iter().cloned().collect()))
                }
                (None, Some(share)) => Target::parse(share),
                _ => None,
            };
            let target = target.ok_or_else(|| {
                Diagnostic::error(
                    ROLLOUT_PLAN,
                    "`canary` has a step that names neither services nor a share",
                )
                .help("each step has one of the two: `services: [shop/orders]`, or `share: 25%`")
            })?;
            Ok(Step {
                target,
                last: self.last.unwrap_or(Duration::from_secs(600)),
            })
        }
    }

    impl AbortSection {
        fn gates(&self, found: &mut Vec<Diagnostic>) -> Gates {
            let mut gates = Gates::default();
            let texts = [
                ("newly_denied", &self.newly_denied),
                ("newly_allowed", &self.newly_allowed),
                ("newly_undecided", &self.newly_undecided),
                ("errors", &self.errors),
                ("server_errors", &self.server_errors),
                ("p99", &self.p99),
            ];
            for (name, text) in texts {
                if let Some(text) = text
                    && let Err(wrong) = set(&mut gates, name, text)
                {
                    found.push(wrong);
                }
            }
            gates
        }
    }

    /// Sets one gate from a text, as the configuration and the command line have it.
    ///
    /// # Errors
    /// When there is no such gate, or the text is no limit.
    pub(crate) fn set(gates: &mut Gates, name: &str, text: &str) -> Result<(), Diagnostic> {
        let wrong = |help: &str| {
            let message = format!("`abort_on.{name}` of a rollout cannot be `{text}`");
            Diagnostic::error(ROLLOUT_PLAN, message).help(help)
        };
        if name == "p99" {
            gates.p99_percent = match text {
                "off" => None,
                text => Some(ratio(text).ok_or_else(|| wrong("give a number such as `1.5`"))?),
            };
            return Ok(());
        }
        let limit = match text {
            "off" => None,
            text => Some(
                Threshold::parse(text)
                    .ok_or_else(|| wrong("give a count such as `5`, or a share such as `0.1%`"))?,
            ),
        };
        let gate = match name {
            "newly_denied" => &mut gates.newly_denied,
            "newly_allowed" => &mut gates.newly_allowed,
            "newly_undecided" => &mut gates.newly_undecided,
            "errors" => &mut gates.errors,
            "server_errors" => &mut gates.server_errors,
            _ => {
                return Err(wrong(
                    "gates: newly_denied, newly_allowed, newly_undecided, errors, server_errors, p99",
                ));
            }
        };
        *gate = limit;
        Ok(())
    }

    /// `1.5` as 150.
    fn ratio(text: &str) -> Option<u32> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
            return None;
        }
        format!("{whole}{part:0<2}").parse().ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_section_without_keys_is_the_usual_plan() {
            assert_eq!(RolloutSection::default().plan().unwrap(), Plan::default());
        }

        #[test]
        fn every_mistake_is_told_with_its_key() {
            let section = RolloutSection {
                canary: Some(vec![CanaryStep {
                    services: None,
                    share: Some("0%".into()),
                    last: None,
                }]),
                watch: Some(Duration::ZERO),
                abort_on: AbortSection {
                    newly_denied: Some("many".into()),
                    p99: Some("fast".into()),
                    ..AbortSection::default()
                },
                ..RolloutSection::default()
            };
            let found = section.plan().unwrap_err();
            let keys: Vec<&str> = found
                .iter()
                .filter_map(|d| d.message.split('`').nth(1))
                .collect();
            assert_eq!(
                keys,
                ["canary", "abort_on.newly_denied", "abort_on.p99", "watch"]
            );
        }

        #[test]
        fn a_gate_is_a_limit_or_off() {
            let check = |name: &str, text: &str, good: bool| {
                let mut gates = Gates::default();
                assert_eq!(set(&mut gates, name, text).is_ok(), good, "{name} {text}");
                gates
            };
            assert_eq!(check("p99", "1.5", true).p99_percent, Some(150));
            assert_eq!(check("p99", "3", true).p99_percent, Some(300));
            assert_eq!(check("p99", "off", true).p99_percent, None);
            assert_eq!(check("newly_denied", "off", true).newly_denied, None);
            assert_eq!(
                check("newly_allowed", "7", true).newly_allowed,
                Some(Threshold::Count(7))
            );
            check("p99", "1.555", false);
            check("newly_denied", "1.5", false);
            check("newly_denide", "1", false);
        }
    }
}

#[cfg(feature = "full")]
pub(crate) use plan::set;
