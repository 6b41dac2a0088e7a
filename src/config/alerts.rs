//! Sections `audit.deliver` and `audit.alerts`: what is looked for in the log as it grows,
//! and whom it is brought to.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "full")]
use http::Uri;
#[cfg(feature = "full")]
use palisade_audit::alert::{BUILT_IN, RULES_MAX, Rule, RuleText, Severity, is_name};
#[cfg(feature = "full")]
use palisade_mesh::diagnostic::Diagnostic;
use serde::Deserialize;

/// Most targets.
#[cfg(feature = "full")]
const TARGETS_MAX: usize = 16;
/// Longest time that one delivery may take.
#[cfg(feature = "full")]
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// One of `audit.deliver`: exactly one of `webhook` and `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverSection {
    /// Its name, for alerts and schedules.
    pub name: String,
    /// Address that gets a POST of JSON, `https://…`; `http://` on this host only.
    pub webhook: Option<String>,
    /// File with the secret that its messages are signed with. Default: they are not signed.
    pub secret: Option<PathBuf>,
    /// Roots that its TLS certificate is under. Default: the system's.
    pub ca: Option<PathBuf>,
    /// A program and its arguments, which gets JSON on its standard input; no shell.
    pub exec: Option<Vec<String>>,
    /// How long one delivery may take. Default: 10 s.
    #[serde(default = "default_timeout", deserialize_with = "super::lifetime")]
    pub timeout: Duration,
}

/// One of `audit.alerts`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertSection {
    /// Its name.
    pub name: String,
    /// What it asks for, without a time.
    pub query: String,
    /// From how many records on it is met. Default: 1.
    #[serde(default = "default_threshold")]
    pub threshold: u64,
    /// Within how long. Default: 5 min.
    #[serde(default = "default_window", deserialize_with = "super::lifetime")]
    pub window: Duration,
    /// How long it is quiet after it was met. Default: 1 h.
    #[serde(default = "default_cooldown", deserialize_with = "super::lifetime")]
    pub cooldown: Duration,
    /// The field whose values are counted apart. Default: none.
    pub by: Option<String>,
    /// How bad it is. Default: `medium`.
    #[serde(default)]
    pub severity: SeverityWord,
    /// Names of targets. Default: all.
    pub deliver: Option<Vec<String>>,
}

/// How bad it is that a rule is met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeverityWord {
    /// Worth a look some day.
    Low,
    /// Worth a look.
    #[default]
    Medium,
    /// Somebody should look now.
    High,
    /// Somebody has to look now.
    Critical,
}

impl DeliverSection {
    /// Makes its paths start at `base`.
    pub(super) fn resolve(&mut self, base: &Path) {
        let files = self.secret.iter_mut().chain(&mut self.ca);
        files.for_each(|file| *file = base.join(&*file));
    }
}

#[cfg(feature = "full")]
impl DeliverSection {
    /// The address of its webhook.
    ///
    /// # Errors
    /// `PLS7935` for one that is none, or that is not spoken to in the clear.
    pub fn uri(&self) -> Result<Option<Uri>, Diagnostic> {
        let Some(text) = &self.webhook else {
            return Ok(None);
        };
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let authority = uri.as_ref().and_then(Uri::authority);
        if authority.is_some_and(|a| a.as_str().contains('@')) {
            return Err(self.wrong(
                "its `webhook` has a name or a password in it, which would not be sent".into(),
            ));
        }
        let usable = uri.filter(|uri| match uri.scheme_str() {
            Some("https") => true,
            Some("http") => uri.host().is_some_and(crate::net::web::is_this_host),
            _ => false,
        });
        usable.map(Some).ok_or_else(|| {
            self.wrong("its `webhook` is no `https://` address, nor `http://` on this host".into())
        })
    }

    fn wrong(&self, cause: String) -> Diagnostic {
        let name = &self.name;
        Diagnostic::error(7935, format!("nothing can be delivered to `{name}`"))
            .cause(cause)
            .help("give it a name, and one of `webhook: https://…` and `exec: [/PROGRAM, …]`")
    }

    fn check(&self) -> Option<Diagnostic> {
        let both = (&self.webhook, &self.exec);
        let cause = match both {
            _ if !is_name(&self.name) => {
                "its name has other characters than letters, digits, `-` and `_`"
            }
            (Some(_), Some(_)) => "it has `webhook` and `exec`",
            (None, None) => "it has neither `webhook` nor `exec`",
            (None, Some(_)) if self.secret.is_some() || self.ca.is_some() => {
                "`secret` and `ca` are for a webhook"
            }
            (None, Some(argv)) if argv.first().is_none_or(|program| !program.starts_with('/')) => {
                "`exec` does not begin with the whole path of a program"
            }
            _ if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX => {
                "its `timeout` is 0 or more than 5 minutes"
            }
            _ => return self.uri().err(),
        };
        Some(self.wrong(cause.to_owned()))
    }
}

#[cfg(feature = "full")]
impl AlertSection {
    /// The rule.
    ///
    /// # Errors
    /// `PLS7931` when it cannot be used.
    pub fn rule(&self) -> Result<Rule, Diagnostic> {
        let us = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        Rule::new(&RuleText {
            name: &self.name,
            query: &self.query,
            threshold: self.threshold,
            window_us: us(self.window),
            cooldown_us: us(self.cooldown),
            by: self.by.as_deref(),
            severity: match self.severity {
                SeverityWord::Low => Severity::Low,
                SeverityWord::Medium => Severity::Medium,
                SeverityWord::High => Severity::High,
                SeverityWord::Critical => Severity::Critical,
            },
        })
    }
}

/// What does not fit together in rules and targets.
#[cfg(feature = "full")]
pub fn check(alerts: &[AlertSection], deliver: &[DeliverSection]) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = deliver.iter().filter_map(DeliverSection::check).collect();
    found.extend(alerts.iter().filter_map(|alert| alert.rule().err()));
    let ours = alerts.iter().filter(|a| a.name.starts_with(BUILT_IN));
    found.extend(ours.map(|alert| {
        let what = format!("the alert rule `{}` cannot be used", alert.name);
        Diagnostic::error(7931, what)
            .cause(format!(
                "`{BUILT_IN}…` are rules that need no configuration"
            ))
            .help("give it another name")
    }));
    let known = |name: &String| deliver.iter().any(|target| target.name == *name);
    for alert in alerts {
        let wanted = alert.deliver.iter().flatten();
        found.extend(wanted.filter(|name| !known(name)).map(|name| {
            let what = format!("the alert rule `{}` cannot be used", alert.name);
            Diagnostic::error(7931, what)
                .cause(format!("`audit.deliver` has no `{name}`"))
                .help("name one of its targets, or leave `deliver` out for all of them")
        }));
    }
    let twice = |mut names: Vec<&str>| {
        names.sort_unstable();
        let pair = names.windows(2).find(|pair| pair.first() == pair.last());
        pair.and_then(|pair| pair.first())
            .map(|name| (*name).to_owned())
    };
    let rules = twice(alerts.iter().map(|a| a.name.as_str()).collect());
    let targets = twice(deliver.iter().map(|d| d.name.as_str()).collect());
    found.extend(rules.map(|name| {
        Diagnostic::error(7931, format!("the alert rule `{name}` is there twice"))
            .help("give each rule a name of its own")
    }));
    found.extend(targets.map(|name| {
        Diagnostic::error(7935, format!("the target `{name}` is there twice"))
            .help("give each target a name of its own")
    }));
    if alerts.len() > RULES_MAX {
        found.push(
            Diagnostic::error(7931, format!("there are more than {RULES_MAX} alert rules"))
                .help("let one rule count the values of a field apart: `by`"),
        );
    }
    if deliver.len() > TARGETS_MAX {
        found.push(
            Diagnostic::error(7935, format!("there are more than {TARGETS_MAX} targets"))
                .help("let one of them pass on to the others"),
        );
    }
    found
}

fn default_threshold() -> u64 {
    1
}

fn default_window() -> Duration {
    Duration::from_secs(300)
}

fn default_cooldown() -> Duration {
    Duration::from_secs(3600)
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

#[cfg(all(test, feature = "full"))]
mod tests {
    use crate::config::{Config, layers::Overrides};

    fn codes(audit: &str) -> Vec<u16> {
        let text = format!("trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n{audit}");
        let found = Config::parse("m.yaml", &text).err().unwrap_or_default();
        found.iter().map(|d| d.code.0).collect()
    }

    #[test]
    fn targets_and_rules_are_checked_before_anything_starts() {
        let target = |rest: &str| format!("  deliver:\n    - name: ops\n{rest}");
        let hook = |url: &str| target(&format!("      webhook: {url}\n"));
        assert_eq!(codes(&hook("https://hooks.acme.test/p")), [0_u16; 0]);
        assert_eq!(codes(&hook("http://127.0.0.1:9/p")), [0_u16; 0]);
        assert_eq!(codes(&hook("http://hooks.acme.test/p")), [7935]);
        assert_eq!(codes(&hook("https://ana:pw@hooks.acme.test/p")), [7935]);
        assert_eq!(codes(&target("      exec: [/bin/true, a]\n")), [0_u16; 0]);
        assert_eq!(codes(&target("      exec: [true]\n")), [7935]);
        assert_eq!(codes(&target("      exec: []\n")), [7935]);
        assert_eq!(codes(&target("")), [7935]);
        assert_eq!(
            codes(&target("      exec: [/bin/true]\n      secret: s\n")),
            [7935]
        );
        assert_eq!(
            codes(&target("      exec: [/bin/true]\n      timeout: 300s\n")),
            [0_u16; 0]
        );
        assert_eq!(
            codes(&target("      exec: [/bin/true]\n      timeout: 301s\n")),
            [7935]
        );
        let alert =
            |rest: &str| format!("  alerts:\n    - name: a\n      query: decision:deny\n{rest}");
        assert_eq!(codes(&alert("")), [0_u16; 0]);
        assert_eq!(codes(&alert("      threshold: 0\n")), [7931]);
        assert_eq!(codes(&alert("      by: nobody\n")), [7931]);
        assert_eq!(codes(&alert("      deliver: [ops]\n")), [7931]);
        assert_eq!(
            codes(&alert("    - name: a\n      query: decision:deny\n")),
            [7931]
        );
        assert_eq!(codes(&alert("      severity: bad\n")), [8003]);
        let named = |name: &str| {
            codes(&format!(
                "  alerts:\n    - name: {name}\n      query: decision:deny\n"
            ))
        };
        assert_eq!(named("palisade-gap"), [7931]);
        assert_eq!(named("palisade"), [0_u16; 0]);
    }

    /// Whoever has the address of a webhook may write there.
    #[test]
    fn targets_are_not_shown() {
        let text = "trust_domain: acme.test\naudit:\n  listen: 127.0.0.1:0\n  deliver:\n    - name: ops\n      webhook: https://hooks.acme.test/T0KEN\n";
        let (_, shown) = Config::parse_over("m.yaml", text, &Overrides::default()).unwrap();
        let targets = shown.iter().find(|each| each.path == "audit.deliver");
        assert_eq!(targets.unwrap().value, "(hidden)");
    }
}
