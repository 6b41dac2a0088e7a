//! Rules over the log as it grows: so many records that a query asks for, within so long.
//!
//! Pure: records go in, in the order of the log, and what is met comes out. The only clock
//! is the time at which the log received a record, so whoever goes through the same
//! records again finds the same, and nothing that a reporter writes moves it. A firing's id
//! follows from rule, group and record: found again, it is the same.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
};

use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    wire::record::{Alert, Record, record::Body},
};
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
/// Beginning of the names of rules that need no configuration.
pub const BUILT_IN: &str = "palisade-";
/// Verb of the record of a message that was given up. It sets off no rule: what came of an
/// alert that cannot be delivered would be the next one.
pub const UNDELIVERED: &str = "undelivered";
/// Longest window and longest cool-down, microseconds: 31 days.
pub const WINDOW_MAX_US: i64 = 31 * 24 * 3600 * 1_000_000;
/// Open firings that are listed; beyond, the oldest is forgotten here, and stays in the log.
pub const OPEN_MAX: usize = 1000;
/// Longest name of a rule, bytes.
pub const NAME_LEN_MAX: usize = 64;

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
    query: Query,
    threshold: u64,
    window_us: i64,
    cooldown_us: i64,
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
    fn fingerprint(&self) -> String {
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

    fn group_of(&self, item: &Item) -> String {
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
    fn groups_max(&self) -> usize {
        let groups = TIMES_MAX / self.threshold.max(1);
        usize::try_from(groups)
            .unwrap_or(GROUPS_MAX)
            .clamp(1, GROUPS_MAX)
    }
}

/// A value as the name of a group. A caller chooses how long what it is called is, and what
/// is recorded of it has to have room.
fn bounded(value: &str) -> Cow<'_, str> {
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

/// That a rule was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// ULID: of the moment, and the same for the same rule, group and record.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// The group; empty without one.
    pub group: String,
    /// How many records met it, and from how many on it is met.
    pub count: u64,
    /// The threshold.
    pub threshold: u64,
    /// When the first of them was received, microseconds since the Unix epoch.
    pub from_us: i64,
    /// When the last of them was received.
    pub until_us: i64,
    /// What the rule asks for.
    pub query: String,
    /// Index in the log of the last of them.
    pub entry: u64,
}

impl Firing {
    /// The id of a firing.
    fn identify(rule: &str, group: &str, entry: u64, at_us: i64) -> String {
        let text = format!("{rule}\n{group}\n{entry}\n{at_us}");
        let digest = sha256(text.as_bytes());
        let random = digest
            .first_chunk::<16>()
            .map_or(0, |b| u128::from_be_bytes(*b));
        let ms = u64::try_from(at_us / 1000).unwrap_or_default();
        ulid::Ulid::from_parts(ms, random).to_string()
    }

    /// That something which is no record was met: `group`, as it is since `at_us`.
    pub fn of_state(rule: &str, severity: Severity, group: &str, at_us: i64, what: &str) -> Self {
        Self {
            id: Self::identify(rule, group, 0, at_us),
            rule: rule.to_owned(),
            severity,
            group: bounded(group).into_owned(),
            count: 1,
            threshold: 1,
            from_us: at_us,
            until_us: at_us,
            query: what.to_owned(),
            entry: 0,
        }
    }

    /// The record of it, without a reporter.
    pub fn record(&self) -> Record {
        let id = self
            .id
            .parse::<ulid::Ulid>()
            .map(|id| id.to_bytes().to_vec());
        let id = id.unwrap_or_default();
        Record {
            id: id.clone(),
            time_us: self.until_us,
            body: Some(Body::Alert(Alert {
                verb: "fired".to_owned(),
                rule: self.rule.clone(),
                severity: self.severity.as_str().to_owned(),
                group: self.group.clone(),
                count: self.count,
                threshold: self.threshold,
                from_us: self.from_us,
                until_us: self.until_us,
                query: self.query.clone(),
                firing: id,
                entry: self.entry,
                ..Alert::default()
            })),
            ..Record::default()
        }
    }
}

/// An open firing: nobody has answered for it yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its id.
    pub id: String,
    /// The rule.
    pub rule: String,
    /// The severity, as it was recorded.
    pub severity: String,
    /// The group.
    pub group: String,
    /// How many records met it.
    pub count: u64,
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
}

/// What a rule has counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Counts {
    fingerprint: String,
    /// Index of the first record that it is asked about.
    begins: u64,
    /// Times at which records of a group came, the newest last; fewer than the threshold,
    /// and none without one.
    groups: BTreeMap<String, VecDeque<i64>>,
    /// Until when a group is quiet, microseconds since the Unix epoch. Apart from what is
    /// counted, so that many that were met push out none that will be.
    quiet: BTreeMap<String, i64>,
    /// Groups that were forgotten while they were being counted.
    forgotten: u64,
}

/// How far the rules have read, what they have counted, and what is open.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Book {
    /// Index of the next record to read.
    pub position: u64,
    counts: BTreeMap<String, Counts>,
    open: VecDeque<Open>,
}

impl Book {
    /// One that begins at `position`.
    pub fn at(position: u64) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// Drops the counts of rules that are gone or ask something else now; those that are
    /// new begin at `end`.
    pub fn keep_to(&mut self, rules: &[Rule], end: u64) {
        self.counts.retain(|name, counts| {
            let rule = rules.iter().find(|rule| rule.name == *name);
            rule.is_some_and(|rule| rule.fingerprint() == counts.fingerprint)
        });
        for rule in rules {
            let counts = self.counts.entry(rule.name.clone());
            counts.or_insert_with(|| Counts {
                begins: end,
                ..Counts::of(rule)
            });
        }
    }

    /// Groups of the rule `name` that had to be forgotten while they were being counted.
    pub fn forgotten(&self, name: &str) -> u64 {
        self.counts.get(name).map_or(0, |counts| counts.forgotten)
    }

    /// Reads the next record of the log; what it meets.
    pub fn take(&mut self, rules: &[Rule], item: &Item) -> Vec<Firing> {
        self.position = item.at + 1;
        // What alerts leave behind does not set off others.
        match &item.record.body {
            Some(Body::Alert(alert)) => {
                self.note(alert, item);
                return Vec::new();
            }
            Some(Body::Admin(admin))
                if admin.verb == UNDELIVERED && admin.actor == item.record.reporter =>
            {
                return Vec::new();
            }
            _ => {}
        }
        let met = rules.iter().filter(|rule| rule.query.matches(item));
        met.filter_map(|rule| self.count(rule, item)).collect()
    }

    /// Firings that nobody has answered for, oldest first.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = &Open> {
        self.open.iter()
    }

    /// Counts one record; whether that is enough.
    fn count(&mut self, rule: &Rule, item: &Item) -> Option<Firing> {
        let counts = self
            .counts
            .entry(rule.name.clone())
            .or_insert_with(|| Counts::of(rule));
        if item.at < counts.begins {
            return None;
        }
        let (name, now_us) = (rule.group_of(item), item.received_us);
        if counts.is_quiet(rule, &name, now_us) {
            return None;
        }
        let from_us = counts.reaches(rule, &name, now_us)?;
        counts.hush(rule, &name, now_us);
        Some(Firing {
            id: Firing::identify(&rule.name, &name, item.at, now_us),
            rule: rule.name.clone(),
            severity: rule.severity,
            group: name,
            count: rule.threshold,
            threshold: rule.threshold,
            from_us,
            until_us: now_us,
            query: rule.query().to_owned(),
            entry: item.at,
        })
    }

    fn note(&mut self, alert: &Alert, item: &Item) {
        let Ok(id) = <[u8; 16]>::try_from(alert.firing.as_slice()) else {
            return;
        };
        let id = ulid::Ulid::from_bytes(id).to_string();
        self.open.retain(|open| open.id != id);
        if alert.verb != "fired" {
            return;
        }
        if self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back(Open {
            id,
            rule: alert.rule.clone(),
            severity: alert.severity.clone(),
            group: alert.group.clone(),
            count: alert.count,
            at_us: item.time_us,
        });
    }
}

impl Counts {
    fn of(rule: &Rule) -> Self {
        Self {
            fingerprint: rule.fingerprint(),
            ..Self::default()
        }
    }

    /// Whether a group was met a short time ago. An end that is further away than a
    /// cool-down lasts was set by a clock that was ahead, and holds nothing back.
    fn is_quiet(&mut self, rule: &Rule, name: &str, now_us: i64) -> bool {
        let Some(until_us) = self.quiet.get(name) else {
            return false;
        };
        let left_us = until_us.saturating_sub(now_us);
        let quiet = left_us > 0 && left_us <= rule.cooldown_us;
        if !quiet {
            self.quiet.remove(name);
        }
        quiet
    }

    /// Counts a record of a group; when the first of them came, if these are enough.
    fn reaches(&mut self, rule: &Rule, name: &str, now_us: i64) -> Option<i64> {
        let since_us = now_us.saturating_sub(rule.window_us);
        let full = self.groups.len() >= rule.groups_max();
        if full && !self.groups.contains_key(name) {
            self.forget_oldest(since_us);
        }
        let times = self.groups.entry(name.to_owned()).or_default();
        // Not those of before the window, nor of a clock that was ahead.
        times.retain(|time_us| (since_us..=now_us).contains(time_us));
        times.push_back(now_us);
        let enough = times.len() >= usize::try_from(rule.threshold).unwrap_or(usize::MAX);
        let from_us = times.front().copied().filter(|_| enough)?;
        self.groups.remove(name);
        Some(from_us)
    }

    /// Makes a group quiet, for as long as the rule says.
    fn hush(&mut self, rule: &Rule, name: &str, now_us: i64) {
        if rule.cooldown_us == 0 {
            return;
        }
        if self.quiet.len() >= GROUPS_MAX {
            self.quiet.retain(|_, until_us| *until_us > now_us);
        }
        if self.quiet.len() >= GROUPS_MAX {
            let first = self.quiet.iter().min_by_key(|(_, until_us)| **until_us);
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                self.quiet.remove(&first);
            }
        }
        let until_us = now_us.saturating_add(rule.cooldown_us);
        self.quiet.insert(name.to_owned(), until_us);
    }

    /// Forgets the group whose last record is oldest; that is a loss where it is of the
    /// window.
    fn forget_oldest(&mut self, since_us: i64) {
        let last = |times: &VecDeque<i64>| times.back().copied().unwrap_or(i64::MIN);
        let oldest = self.groups.iter().min_by_key(|(_, times)| last(times));
        if let Some((name, last_us)) = oldest.map(|(name, times)| (name.clone(), last(times))) {
            self.groups.remove(&name);
            self.forgotten += u64::from(last_us >= since_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::{
        audit::Envelope,
        record::{Decision, Peer, Verdict},
    };

    use super::*;
    use crate::source::Entry;

    const S: i64 = 1_000_000;

    fn text<'t>(threshold: u64, window_s: i64, by: Option<&'t str>) -> RuleText<'t> {
        RuleText {
            name: "refusals",
            query: "decision:deny",
            threshold,
            window_us: window_s * S,
            cooldown_us: 60 * S,
            by,
            severity: Severity::High,
        }
    }

    fn denied(at: u64, time_s: i64, principal: &str) -> Item {
        let record = Record {
            time_us: time_s * S,
            body: Some(Body::Decision(Decision {
                verdict: Verdict::NotPermitted.into(),
                principal: Some(Peer {
                    spiffe_id: principal.into(),
                    ..Peer::default()
                }),
                ..Decision::default()
            })),
            ..Record::default()
        };
        of(at, time_s, record)
    }

    fn of(at: u64, time_s: i64, record: Record) -> Item {
        Item::new(Entry {
            index: at,
            envelope: Envelope {
                received_us: time_s * S,
                ..Envelope::default()
            },
            record,
        })
    }

    fn fired(book: &mut Book, rule: &Rule, items: &[(u64, i64, &str)]) -> Vec<(u64, String)> {
        let rules = [rule.clone()];
        let items = items.iter();
        let met = items.flat_map(|(at, s, who)| book.take(&rules, &denied(*at, *s, who)));
        met.map(|firing| (firing.entry, firing.group)).collect()
    }

    #[test]
    fn a_rule_fires_at_its_threshold_within_its_window_and_is_quiet_afterwards() {
        let rule = Rule::new(&text(3, 10, None)).unwrap();
        let mut book = Book::at(0);
        let none = fired(
            &mut book,
            &rule,
            &[(0, 100, "a"), (1, 105, "b"), (2, 111, "c")],
        );
        assert_eq!(none, [], "three, but over eleven seconds");
        assert_eq!(
            fired(&mut book, &rule, &[(3, 115, "d")]),
            [(3, String::new())]
        );
        let quiet: Vec<_> = (4..20).map(|n| (n, 116, "a")).collect();
        assert_eq!(fired(&mut book, &rule, &quiet), []);
        let after = [(20, 175, "a"), (21, 176, "a"), (22, 177, "a")];
        assert_eq!(fired(&mut book, &rule, &after), [(22, String::new())]);
    }

    #[test]
    fn groups_are_counted_apart_and_bounded() {
        let rule = Rule::new(&text(2, 10, Some("principal"))).unwrap();
        let mut book = Book::at(0);
        let met = fired(&mut book, &rule, &[(0, 1, "a"), (1, 2, "b"), (2, 3, "a")]);
        assert_eq!(met, [(2, "a".to_owned())]);
        for n in 0..GROUPS_MAX as u64 + 5 {
            let who = format!("caller-{n}");
            assert_eq!(fired(&mut book, &rule, &[(10 + n, 100, &who)]), []);
        }
        assert_eq!(book.counts["refusals"].groups.len(), GROUPS_MAX);
        // All but the first that was forgotten was being counted; what is quiet is apart.
        assert_eq!(book.forgotten("refusals"), 5);
        assert_eq!(book.counts["refusals"].quiet.len(), 1);
        let rule = Rule::new(&text(THRESHOLD_MAX, 10, Some("principal"))).unwrap();
        let mut book = Book::at(0);
        for n in 0..60 {
            fired(&mut book, &rule, &[(n, 1, &format!("caller-{n}"))]);
        }
        assert_eq!(book.counts["refusals"].groups.len(), 50);
    }

    /// Many that were met do not push out one that is about to be.
    #[test]
    fn what_is_quiet_takes_no_room_of_what_is_counted() {
        let rule = Rule::new(&text(2, 1000, Some("principal"))).unwrap();
        let mut book = Book::at(0);
        assert_eq!(fired(&mut book, &rule, &[(0, 1, "slow")]), []);
        for n in 0..GROUPS_MAX as u64 + 5 {
            let who = format!("caller-{n}");
            let twice = [
                (1 + 2 * n, 100, who.as_str()),
                (2 + 2 * n, 100, who.as_str()),
            ];
            assert_eq!(fired(&mut book, &rule, &twice).len(), 1);
        }
        assert_eq!(book.counts["refusals"].quiet.len(), GROUPS_MAX);
        let met = fired(&mut book, &rule, &[(9000, 101, "slow")]);
        assert_eq!(met, [(9000, "slow".to_owned())]);
    }

    /// A caller with an endless name is one group, and its alert has room in a record.
    #[test]
    fn a_long_value_is_cut_and_told_from_others() {
        let rule = Rule::new(&text(1, 10, Some("principal"))).unwrap();
        let rules = [rule];
        let mut book = Book::at(0);
        let long = "ä".repeat(300);
        let (other, endless) = (format!("{long}x"), "ä".repeat(30_000));
        let met =
            [&long, &other, &endless].map(|who| book.take(&rules, &denied(0, 1, who)).remove(0));
        assert_ne!(met[0].group, met[1].group);
        for firing in &met {
            assert_eq!(firing.group.chars().filter(|c| *c == 'ä').count(), 128);
            assert!(prost::Message::encoded_len(&firing.record()) < 1024);
        }
        assert!(book.take(&rules, &denied(1, 2, &long)).is_empty(), "quiet");
        let fits = "x".repeat(GROUP_LEN_MAX);
        assert_eq!(bounded(&fits), fits.as_str());
    }

    /// A clock that was ahead neither keeps a rule quiet for years nor counts for it.
    #[test]
    fn a_clock_that_is_set_back_does_not_silence() {
        let rule = Rule::new(&text(2, 10, None)).unwrap();
        let mut book = Book::at(0);
        let ahead = [(0, 9_000_000, "a"), (1, 9_000_001, "a")];
        assert_eq!(fired(&mut book, &rule, &ahead).len(), 1);
        assert_eq!(fired(&mut book, &rule, &[(2, 100, "a")]), []);
        let back = fired(&mut book, &rule, &[(3, 101, "a"), (4, 102, "a")]);
        assert_eq!(back, [(3, String::new())]);
        let mut book = Book::at(0);
        let one = [(0, 9_000_000, "a"), (1, 100, "a"), (2, 101, "a")];
        assert_eq!(fired(&mut book, &rule, &one), [(2, String::new())]);
    }

    #[test]
    fn a_new_rule_begins_at_the_end_of_the_log() {
        let rule = Rule::new(&text(1, 10, None)).unwrap();
        let mut book = Book::at(0);
        book.keep_to(std::slice::from_ref(&rule), 5);
        assert_eq!(fired(&mut book, &rule, &[(4, 1, "a")]), []);
        assert_eq!(fired(&mut book, &rule, &[(5, 2, "a")]).len(), 1);
    }

    /// What could not be delivered is recorded; that cannot be delivered either.
    #[test]
    fn what_was_given_up_sets_off_nothing() {
        let rule = Rule::new(&RuleText {
            query: "class:admin",
            ..text(1, 10, None)
        })
        .unwrap();
        let given_up = |reporter: &str| Record {
            reporter: reporter.into(),
            body: Some(Body::Admin(palisade_mesh::wire::record::Admin {
                actor: "spiffe://acme.test/palisade/audit".into(),
                verb: UNDELIVERED.into(),
                ..Default::default()
            })),
            ..Record::default()
        };
        let rules = [rule];
        let mut book = Book::at(0);
        let ours = given_up("spiffe://acme.test/palisade/audit");
        assert_eq!(book.take(&rules, &of(0, 1, ours)), []);
        let theirs = given_up("spiffe://acme.test/ns/shop/sa/web");
        assert_eq!(book.take(&rules, &of(1, 1, theirs)).len(), 1);
    }

    /// A restart goes on from what was kept; gone through again, the same is found.
    #[test]
    fn what_is_kept_and_read_back_goes_on_as_if_nothing_had_been() {
        let rule = Rule::new(&text(3, 10, None)).unwrap();
        let items: Vec<_> = (0..30)
            .map(|n| (n, 100 + 25 * (n as i64 / 3), "a"))
            .collect();
        let whole = fired(&mut Book::at(0), &rule, &items);
        assert!(whole.len() > 2, "{whole:?}");
        for cut in 0..items.len() {
            let mut book = Book::at(0);
            let mut met = fired(&mut book, &rule, &items[..cut]);
            let kept = serde_json::to_string(&book).unwrap();
            let mut book: Book = serde_json::from_str(&kept).unwrap();
            book.keep_to(std::slice::from_ref(&rule), 0);
            assert_eq!(book.position, cut as u64);
            met.extend(fired(&mut book, &rule, &items[cut..]));
            assert_eq!(met, whole, "cut at {cut}");
        }
        let ids = |book: &mut Book| -> Vec<String> {
            let rules = [rule.clone()];
            let items = items.iter();
            let met = items.flat_map(|(at, s, who)| book.take(&rules, &denied(*at, *s, who)));
            met.map(|firing| firing.id).collect()
        };
        assert_eq!(ids(&mut Book::at(0)), ids(&mut Book::at(0)));
    }

    #[test]
    fn a_firing_is_open_until_it_is_acknowledged_and_sets_off_nothing() {
        let rule = Rule::new(&RuleText {
            query: "class:*",
            ..text(1, 10, None)
        })
        .unwrap();
        let rules = [rule];
        let mut book = Book::at(0);
        let met = book.take(&rules, &denied(0, 100, "a"));
        let record = met[0].record();
        assert_eq!(book.take(&rules, &of(1, 200, record.clone())), []);
        let open: Vec<_> = book.open().cloned().collect();
        assert_eq!(open[0].id, met[0].id);
        let Some(Body::Alert(mut ack)) = record.body else {
            unreachable!()
        };
        ack.verb = "acknowledged".into();
        let ack = Record {
            body: Some(Body::Alert(ack)),
            ..Record::default()
        };
        assert_eq!(book.take(&rules, &of(2, 201, ack)), []);
        assert_eq!(book.open().count(), 0);
        for n in 0..OPEN_MAX as u64 + 3 {
            let firing = Firing::of_state("silent", Severity::High, &n.to_string(), 1, "x");
            book.take(&rules, &of(10 + n, 300, firing.record()));
        }
        assert_eq!(book.open().count(), OPEN_MAX);
    }

    #[test]
    fn a_rule_that_cannot_be_met_or_bounded_is_refused() {
        let refused = |text: RuleText<'_>| Rule::new(&text).map(|_| ()).unwrap_err().code.0;
        for (threshold, window_s) in [(0, 1), (THRESHOLD_MAX + 1, 1), (1, 0), (1, 31 * 86400 + 1)] {
            assert_eq!(refused(text(threshold, window_s, None)), 7931);
        }
        assert!(Rule::new(&text(THRESHOLD_MAX, 31 * 86400, None)).is_ok());
        assert_eq!(refused(text(1, 1, Some("principle"))), 7931);
        for query in [
            "decision:deny | count",
            "decision:deny last:1h",
            "decision:deny until:2026-11-29",
            "desision:deny",
            "-subject:alice@example.org",
        ] {
            assert_eq!(
                refused(RuleText {
                    query,
                    ..text(1, 1, None)
                }),
                7931,
                "{query}"
            );
        }
        let of_nobody = RuleText {
            query: "subject:p-00112233445566778899aabbccddeeff",
            ..text(1, 1, None)
        };
        assert!(Rule::new(&of_nobody).is_ok());
        let long = "x".repeat(NAME_LEN_MAX + 1);
        for name in ["", "a b", "a\nb", "ä", &long] {
            assert_eq!(
                refused(RuleText {
                    name,
                    ..text(1, 1, None)
                }),
                7931,
                "{name}"
            );
        }
        let name = &long[1..];
        assert!(
            Rule::new(&RuleText {
                name,
                ..text(1, 1, None)
            })
            .is_ok()
        );
    }
}
