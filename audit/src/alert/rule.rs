//! What a rule asks for, as it is written and as it is understood.

use std::borrow::Cow;

use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};
use serde::{Deserialize, Serialize};

use crate::{
    item::Item,
    merkle::{hex, sha256},
    query::{FIELDS, Field, PSEUDONYM, Query, field::Value},
};

/// Most rules.
pub const RULES_MAX: usize = 64;
/// Largest threshold: so many times of each group are in memory.
pub const THRESHOLD_MAX: u64 = 1000;
/// Groups of one rule that are counted, and that are quiet; beyond, the one whose last record
/// is oldest, or whose quiet ends first, is forgotten.
pub const GROUPS_MAX: usize = 1000;
/// Times that one rule holds: with a threshold above 50 fewer groups are counted.
pub const TIMES_MAX: u64 = 50_000;
/// Longest value that a group is named by, bytes; a longer one is cut, with a hash of it all.
pub const GROUP_LEN_MAX: usize = 256;
/// Longest window and longest cool-down, microseconds: 31 days.
pub const WINDOW_MAX_US: i64 = 31 * 24 * 3600 * 1_000_000;
/// Longest name of a rule, bytes.
pub const NAME_LEN_MAX: usize = 64;
/// Beginning of the names of rules that need no configuration.
pub const BUILT_IN: &str = "palisade-";

/// How bad it is that a rule is met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
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

impl Severity {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A rule, understood.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    pub(super) query: Query,
    pub(super) threshold: u64,
    pub(super) window_us: i64,
    pub(super) cooldown_us: i64,
    by: Option<&'static Field>,
}

/// A rule as it is written.
#[derive(Debug, Clone)]
pub struct RuleText<'t> {
    /// Its name.
    pub name: &'t str,
    /// What it asks for; its time is that of the window.
    pub query: &'t str,
    /// From how many records on it is met.
    pub threshold: u64,
    /// Within how long, microseconds.
    pub window_us: i64,
    /// How long it is quiet after it was met, microseconds.
    pub cooldown_us: i64,
    /// The field whose values are counted apart.
    pub by: Option<&'t str>,
    /// How bad it is.
    pub severity: Severity,
}

impl Rule {
    /// Understands a rule.
    ///
    /// # Errors
    /// `PLS7931`, with what is wrong with it.
    pub fn new(text: &RuleText<'_>) -> Result<Self, Diagnostic> {
        let bad = |cause: String| {
            Diagnostic::error(
                7931,
                format!("the alert rule `{}` cannot be used", text.name),
            )
            .cause(cause)
        };
        if !is_name(text.name) {
            return Err(bad(format!(
                "a name has 1 to {NAME_LEN_MAX} letters, digits, `-` and `_`"
            )));
        }
        let query = Query::parse(text.query).map_err(|d| bad(d.message))?;
        if query.stage().is_some() || query.names_a_time() {
            return Err(bad("its query has a summary or a time of its own".into())
                .help("the rule's `threshold` and `window` say how many within how long"));
        }
        if !query.names().is_empty() {
            return Err(
                bad("its query names a person, whom each alert would name".into()).help(PSEUDONYM),
            );
        }
        if !(1..=THRESHOLD_MAX).contains(&text.threshold) {
            return Err(bad(format!(
                "its threshold is {}, allowed are 1 to {THRESHOLD_MAX}",
                text.threshold
            )));
        }
        let of_time = |us: i64| (0..=WINDOW_MAX_US).contains(&us);
        if text.window_us == 0 || !of_time(text.window_us) || !of_time(text.cooldown_us) {
            return Err(bad(
                "its window is 0, or a time is longer than 31 days".into()
            ));
        }
        let by = text.by.map(|name| field(name).map_err(bad)).transpose()?;
        Ok(Self {
            name: text.name.to_owned(),
            severity: text.severity,
            query,
            threshold: text.threshold,
            window_us: text.window_us,
            cooldown_us: text.cooldown_us,
            by,
        })
    }

    /// The query as it was written.
    pub fn query(&self) -> &str {
        self.query.text()
    }

    /// The threshold and the window in microseconds.
    pub fn bounds(&self) -> (u64, i64) {
        (self.threshold, self.window_us)
    }

    /// The field whose values are counted apart.
    pub fn by(&self) -> Option<&'static str> {
        self.by.map(|field| field.name)
    }

    /// What another rule of this name has otherwise: its counts are of another question.
    pub(super) fn fingerprint(&self) -> String {
        let Self {
            threshold,
            window_us,
            cooldown_us,
            ..
        } = self;
        let by = self.by().unwrap_or_default();
        let text = format!(
            "{}\n{threshold} {window_us} {cooldown_us} {by}",
            self.query()
        );
        hex(&sha256(text.as_bytes()))
    }

    pub(super) fn group_of(&self, item: &Item) -> String {
        let mut group = String::new();
        if let Some(field) = self.by {
            field.values(item, &mut |value| {
                if group.is_empty() {
                    group = match value {
                        Value::Text(text) => text.to_owned(),
                        Value::Number(number) => number.to_string(),
                        Value::Ip(ip) => ip.to_string(),
                        Value::Id(id) => ulid::Ulid::from(id).to_string(),
                        Value::Trace(trace) => hex(&trace),
                    };
                }
            });
        }
        bounded(&group).into_owned()
    }

    /// How many groups are counted at a time.
    pub(super) fn groups_max(&self) -> usize {
        let groups = TIMES_MAX / self.threshold.max(1);
        usize::try_from(groups)
            .unwrap_or(GROUPS_MAX)
            .clamp(1, GROUPS_MAX)
    }
}

/// A value as the name of a group. A caller chooses how long what it is called is, and what
/// is recorded of it has to have room.
pub(super) fn bounded(value: &str) -> Cow<'_, str> {
    if value.len() <= GROUP_LEN_MAX {
        return value.into();
    }
    let head = value.get(..value.floor_char_boundary(GROUP_LEN_MAX));
    let digest = hex(&sha256(value.as_bytes()));
    let hash = digest.get(..16).unwrap_or_default();
    format!("{}…{hash}", head.unwrap_or_default()).into()
}

/// Whether a rule, a target or a schedule can have this name.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(plain)
}

fn field(name: &str) -> Result<&'static Field, String> {
    Field::find(name).ok_or_else(|| {
        match did_you_mean(name, FIELDS.iter().map(|field| field.name)) {
            Some(near) => format!("there is no field `{name}`; did you mean `{near}`?"),
            None => format!("there is no field `{name}`"),
        }
    })
}
