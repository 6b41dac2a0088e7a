//! The query language of the log: qualifiers, ranges, wildcards and time
//! bounds, as in `decision:deny principal:spiffe://acme.test/ns/shop/** last:24h`.
//!
//! A query is read once, into a tree that the index, the tail and the linear
//! scan all evaluate. Printing it gives its canonical spelling, which reads back
//! as the same query unless it has become longer than a query may be. The reference
//! page is `docs/reference/audit-query.md`.

use std::{fmt, str::FromStr as _, sync::Arc};

use palisade_mesh::diagnostic::{Diagnostic, Location};

use crate::{item::Item, privacy::Pseudonym};

pub mod field;
mod parse;
mod pattern;
mod rows;
mod stage;
pub(crate) mod time;
mod value;

pub use field::{FIELDS, Field, Kind};
pub use pattern::Pattern;
pub use rows::RowFilter;
pub use stage::{BY_MAX, STEPS_MAX, Sort, SortKey, Stage, Summary, TOP_DEFAULT, TOP_MAX};
pub use time::{Bound, Limits, Window};
pub use value::{DIGEST_PREFIX_MIN, Demand, ID_PREFIX_MIN, IdPrefix, Network};

pub(crate) use value::mapped;

/// Longest query, bytes.
pub const QUERY_LEN_MAX: usize = 4096;
/// Deepest nesting of parentheses and negations.
pub const QUERY_DEPTH_MAX: usize = 32;
/// Most `field:value` tests in a query.
pub const QUERY_TESTS_MAX: usize = 128;

/// What to do about a query that is kept where everybody reads it, and names a person.
pub const PSEUDONYM: &str =
    "name the pseudonym that an answer shows, `subject:` and its characters";

/// The field that has persons.
pub(crate) const SUBJECT: &str = "subject";

/// The field that says whether a decision's outcome is known.
pub(crate) const ENDED: &str = "ended";
/// The field that says where it is.
pub(crate) const OUTCOME_ENTRY: &str = "outcome_entry";

/// Reads a length of time as queries write it (`30s`, `5m`, `1h`), microseconds; `None`
/// for anything else, and for none at all.
pub fn length_us(text: &str) -> Option<i64> {
    match Bound::read_last(text)? {
        Bound::Ago(us) if us > 0 => Some(us),
        _ => None,
    }
}

/// A query, understood.
#[derive(Debug, Clone)]
pub struct Query {
    filter: Expr,
    since: Option<Bound>,
    until: Option<Bound>,
    stage: Option<Stage>,
    text: Arc<str>,
    /// What its reader may see.
    rows: RowFilter,
    /// Where the time bounds stand in the text.
    bounds_span: (usize, usize),
    /// Where the summary stands in the text.
    stage_span: (usize, usize),
}

/// What an item must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// All of these; empty means everything.
    All(Vec<Expr>),
    /// One of these.
    Any(Vec<Expr>),
    /// Not this.
    Not(Box<Expr>),
    /// A field has a value that meets a demand.
    Test(&'static Field, Demand),
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// A diagnostic of the range `PLS7101` to `PLS7109` that marks the place in
    /// the text.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        parse::query(text)
    }

    /// The query as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is to be done with the matching records, when not to list them.
    pub fn stage(&self) -> Option<&Stage> {
        self.stage.as_ref()
    }

    /// Whether it says itself how far back it asks.
    pub fn names_its_beginning(&self) -> bool {
        self.since.is_some()
    }

    /// Whether whatever it matches is of one id.
    pub fn names_an_id(&self) -> bool {
        let is_id = |expr: &Expr| matches!(expr, Expr::Test(_, Demand::Id(_)));
        match &self.filter {
            Expr::All(parts) => parts.iter().any(is_id),
            one => is_id(one),
        }
    }

    /// Where its time begins and ends, at the moment `now_us`, as far as it says that.
    pub fn bounds(&self, now_us: i64) -> (Option<i64>, Option<i64>) {
        let since = self.since.map(|bound| bound.start(now_us));
        (since, self.until.map(|bound| bound.end(now_us)))
    }

    /// Its text within `window`, which does not move on with the clock.
    pub fn told_within(&self, window: Window) -> String {
        self.between(window).to_string()
    }

    /// Persons that it names; a pseudonym is no name.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.filter.visit(&mut |field, demand| {
            if let (SUBJECT, Demand::Text(pattern)) = (field.name, demand) {
                names.extend(name_in(pattern).map(str::to_owned));
            }
        });
        names
    }

    /// The same of any time.
    #[must_use]
    pub fn without_time(&self) -> Self {
        Self {
            since: None,
            until: None,
            bounds_span: (0, 0),
            ..self.clone()
        }
    }

    /// The same within `window`.
    #[must_use]
    pub fn between(&self, window: Window) -> Self {
        Self {
            since: Some(Bound::At(window.from_us)),
            until: Some(Bound::At(window.to_us)),
            bounds_span: (0, 0),
            ..self.clone()
        }
    }

    /// What of it is also `other`; times and summary stay its own.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            filter: Expr::all(vec![self.filter.clone(), other.filter.clone()]),
            ..self.clone()
        }
    }

    /// What of it stands before an entry of the log.
    #[must_use]
    pub fn before(&self, entry: u64) -> Self {
        self.at_entries(0, entry.saturating_sub(1))
    }

    /// What of it stands at an entry of the log, or after it.
    #[must_use]
    pub fn from(&self, entry: u64) -> Self {
        self.at_entries(entry, u64::MAX)
    }

    /// What of it stands at these entries of the log, both ends included.
    fn at_entries(&self, from: u64, to: u64) -> Self {
        let there = Field::find("entry").map(|field| Expr::Test(field, Demand::Range(from, to)));
        let parts = there.into_iter().chain([self.filter.clone()]);
        Self {
            filter: Expr::all(parts.collect()),
            ..self.clone()
        }
    }

    /// The same, whatever is said of outcomes at or behind an entry of the log: a decision
    /// that has such a one is as one that has none. Its text is that of what it has become.
    #[must_use]
    pub fn ended_before(&self, entry: u64) -> Self {
        let Some(field) = Field::find(OUTCOME_ENTRY) else {
            return self.clone();
        };
        let later = Expr::Test(field, Demand::Range(entry, u64::MAX));
        self.becoming(self.filter.ended_but(&later))
    }

    /// The same with another filter, and the text of that.
    fn becoming(&self, filter: Expr) -> Self {
        if filter == self.filter {
            return self.clone();
        }
        let other = Self {
            filter,
            bounds_span: (0, 0),
            stage_span: (0, 0),
            ..self.clone()
        };
        Self {
            text: other.to_string().into(),
            ..other
        }
    }

    /// Whether it says itself from when or until when it asks.
    pub fn names_a_time(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    /// The same records, summed up in another way.
    #[must_use]
    pub fn summed_up(&self, stage: Stage) -> Self {
        Self {
            stage: Some(stage),
            stage_span: (0, 0),
            ..self.clone()
        }
    }

    /// Refuses a timeline that has too many steps for `window`.
    ///
    /// # Errors
    /// `PLS7112`.
    pub(crate) fn check_steps(&self, step_us: i64, window: Window) -> Result<(), Diagnostic> {
        let length = window.to_us.saturating_sub(window.from_us);
        let steps = length / step_us.max(1);
        if steps <= STEPS_MAX {
            return Ok(());
        }
        let message = format!("a timeline has at most {STEPS_MAX} steps, this one {steps}");
        let step = time::step_for(length, STEPS_MAX);
        Err(Diagnostic::error(7112, message)
            .at(self.location(self.stage_span))
            .help(format!(
                "shorten the time, or take longer steps: `timeline {}`",
                time::length(step)
            )))
    }

    /// The time it asks about, at the moment `now_us`.
    ///
    /// # Errors
    /// `PLS7105` when it ends before it begins, `PLS7106` when it is longer than
    /// `limits` allow.
    pub fn window(&self, now_us: i64, limits: &Limits) -> Result<Window, Diagnostic> {
        time::window(self.since, self.until, now_us, limits)
            .map_err(|bad| bad.tell(self.location(self.bounds_span)))
    }

    /// The time of a page, as a cursor has it: no longer than a query's.
    ///
    /// # Errors
    /// As [`Query::window`].
    pub fn page_window(
        &self,
        of_cursor: Window,
        now_us: i64,
        limits: &Limits,
    ) -> Result<Window, Diagnostic> {
        of_cursor
            .checked(now_us, limits)
            .map_err(|bad| bad.tell(self.location(self.bounds_span)))
    }

    /// What an item must be, including the class that is meant when none is
    /// named: decisions, unless a field is named that decisions lack. Includes what its
    /// reader may see.
    pub fn filter(&self) -> Expr {
        self.rows.within(self.asked())
    }

    /// What an item must be by what was written alone.
    fn asked(&self) -> Expr {
        let mut about_decisions = true;
        let mut named = |field: &Field| {
            about_decisions &= field.name != "class" && field.of_decisions();
        };
        self.filter.visit(&mut |field, _| named(field));
        let by = self.stage.iter().flat_map(|stage| stage.summary.by());
        by.for_each(|field| named(field));
        match Field::find("class") {
            Some(class) if about_decisions => Expr::all(vec![
                Expr::Test(class, Demand::Word("decision")),
                self.filter.clone(),
            ]),
            _ => self.filter.clone(),
        }
    }

    /// Whether it asks for every decision of a time.
    pub fn is_of_time_alone(&self) -> bool {
        let all = matches!(&self.filter, Expr::All(parts) if parts.is_empty());
        all && self.rows.text().is_none()
    }

    /// The same query, kept to the rows that its reader may see. Answers to it say so.
    #[must_use]
    pub fn restricted_to(&self, rows: &RowFilter) -> Self {
        Self {
            rows: rows.clone(),
            ..self.clone()
        }
    }

    /// The same query, with persons by their pseudonyms where it has them by name. Its
    /// text is that of what it has become: whoever records it names nobody.
    #[must_use]
    pub fn naming(&self, pseudonym: &dyn Fn(&str) -> Pseudonym) -> Self {
        self.becoming(self.filter.naming(pseudonym))
    }

    /// What of this query is about one person, within `window`.
    #[must_use]
    pub fn about(&self, person: &Pseudonym, window: Window) -> Self {
        let of_person = Field::find(SUBJECT).map(|field| {
            let pattern = Pattern::literal(person.to_string());
            Expr::Test(field, Demand::Text(pattern))
        });
        Self {
            filter: Expr::all(Vec::from_iter(
                of_person.into_iter().chain([self.filter.clone()]),
            )),
            stage: None,
            stage_span: (0, 0),
            ..self.between(window)
        }
    }

    /// What its rows are kept to beside what was asked; none where that is nothing.
    pub fn kept_to(&self) -> Option<&Arc<str>> {
        self.rows.text()
    }

    /// Whether `item` is what is asked for, apart from its time.
    pub fn matches(&self, item: &Item) -> bool {
        self.filter().matches(item)
    }

    /// Whether `item` may be what is asked for, apart from its time: for a decision whose
    /// outcome is not at hand, with some outcome.
    pub(crate) fn may_match(&self, item: &Item) -> bool {
        let ends = item.decision().is_some() && item.outcome.is_none();
        let test = |field: &'static Field, demand: &Demand| {
            let own = !(ends && field.of_endings());
            own.then(|| Expr::Test(field, demand.clone()).matches(item))
        };
        self.filter().settled(&test) != Some(false)
    }

    /// Whether a record of `class` may be what is asked for.
    pub(crate) fn may_match_class(&self, class: &'static str) -> bool {
        let test = |field: &'static Field, demand: &Demand| match field.name {
            "class" => Some(demand.accepts(field.kind, field::Value::Text(class))),
            _ if !field.classes.contains(&class) => Some(false),
            _ => None,
        };
        self.filter().settled(&test) != Some(false)
    }

    /// A place in the text.
    fn location(&self, (from, to): (usize, usize)) -> Location {
        Location::span("query", Arc::clone(&self.text), from, to - from)
    }
}

impl PartialEq for Query {
    /// Queries are equal when they mean the same, however they were written.
    fn eq(&self, other: &Self) -> bool {
        self.filter == other.filter
            && self.rows == other.rows
            && self.since == other.since
            && self.until == other.until
            && self.stage == other.stage
    }
}

impl Expr {
    /// All of `parts`, without needless nesting.
    pub fn all(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::All(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.len() {
            1 => flat.swap_remove(0),
            _ => Self::All(flat),
        }
    }

    /// One of `parts`, without needless nesting.
    pub fn any(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::Any(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.len() {
            1 => flat.swap_remove(0),
            _ => Self::Any(flat),
        }
    }

    /// Not `inner`.
    #[expect(clippy::should_implement_trait, reason = "not an operator on values")]
    pub fn not(inner: Self) -> Self {
        match inner {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// Whether `item` is so.
    pub fn matches(&self, item: &Item) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(item)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(item)),
            Self::Not(inner) => !inner.matches(item),
            Self::Test(field, demand) => {
                let mut hit = false;
                field.values(item, &mut |value| {
                    hit = hit || demand.accepts(field.kind, value);
                });
                hit
            }
        }
    }

    /// Whether it is so, as far as `test` can tell of its tests; `None` where that depends on
    /// one of which it cannot.
    fn settled(&self, test: &dyn Fn(&'static Field, &Demand) -> Option<bool>) -> Option<bool> {
        // Of parts, one that is `deciding` decides, and one that is open leaves it open.
        let parts = |parts: &[Self], deciding: bool| {
            let mut open = false;
            for part in parts {
                match part.settled(test) {
                    Some(truth) if truth == deciding => return Some(deciding),
                    Some(_) => {}
                    None => open = true,
                }
            }
            (!open).then_some(!deciding)
        };
        match self {
            Self::All(all) => parts(all, false),
            Self::Any(any) => parts(any, true),
            Self::Not(inner) => inner.settled(test).map(|truth| !truth),
            Self::Test(field, demand) => test(field, demand),
        }
    }

    /// The same, where what is said of endings is not said of those that are `later`.
    fn ended_but(&self, later: &Self) -> Self {
        let all = |parts: &[Self]| parts.iter().map(|part| part.ended_but(later)).collect();
        match self {
            Self::All(parts) => Self::all(all(parts)),
            Self::Any(parts) => Self::any(all(parts)),
            Self::Not(inner) => Self::not(inner.ended_but(later)),
            Self::Test(field, Demand::Word("false")) if field.name == ENDED => {
                Self::any(vec![self.clone(), later.clone()])
            }
            // Whether it is known is said of every decision of a proxy.
            Self::Test(field, Demand::Exists) if field.name == ENDED => self.clone(),
            Self::Test(field, _) if field.of_endings() => {
                Self::all(vec![self.clone(), Self::not(later.clone())])
            }
            Self::Test(..) => self.clone(),
        }
    }

    /// The same, with persons by pseudonym.
    fn naming(&self, pseudonym: &dyn Fn(&str) -> Pseudonym) -> Self {
        let all = |parts: &[Self]| parts.iter().map(|part| part.naming(pseudonym)).collect();
        match self {
            Self::All(parts) => Self::All(all(parts)),
            Self::Any(parts) => Self::Any(all(parts)),
            Self::Not(inner) => Self::Not(Box::new(inner.naming(pseudonym))),
            Self::Test(field, Demand::Text(pattern)) if field.name == SUBJECT => {
                let pattern = name_in(pattern).map_or_else(
                    || pattern.clone(),
                    |name| Pattern::literal(pseudonym(name).to_string()),
                );
                Self::Test(field, Demand::Text(pattern))
            }
            Self::Test(field, demand) => Self::Test(field, demand.clone()),
        }
    }

    /// Looks at every test.
    pub(crate) fn visit(&self, look: &mut impl FnMut(&'static Field, &Demand)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.visit(look)),
            Self::Not(inner) => inner.visit(look),
            Self::Test(field, demand) => look(field, demand),
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut part = |f: &mut fmt::Formatter<'_>, text: &dyn fmt::Display| {
            if !std::mem::take(&mut first) {
                f.write_str(" ")?;
            }
            text.fmt(f)
        };
        match &self.filter {
            Expr::All(parts) if parts.is_empty() => {}
            // Bounds stand beside it, so an alternative needs its parentheses.
            filter @ Expr::Any(_) if self.since.or(self.until).is_some() => {
                part(f, &format_args!("({filter})"))?;
            }
            filter => part(f, filter)?,
        }
        if let Some(since) = &self.since {
            part(f, &format_args!("since:{since}"))?;
        }
        if let Some(until) = &self.until {
            part(f, &format_args!("until:{until}"))?;
        }
        if let Some(stage) = &self.stage {
            part(f, &format_args!("| {stage}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nested = |part: &Self| matches!(part, Self::All(_) | Self::Any(_));
        match self {
            Self::All(parts) => join(f, parts, " "),
            // A conjunction binds tighter, and parentheses that were not written could
            // nest deeper than a query may.
            Self::Any(parts) => join(f, parts, " OR "),
            Self::Not(inner) if nested(inner) => write!(f, "-({inner})"),
            Self::Not(inner) => write!(f, "-{inner}"),
            Self::Test(field, demand) => {
                write!(f, "{}:", field.name)?;
                demand.write(field.kind, f)
            }
        }
    }
}

/// The name of a person that a pattern of subjects is.
fn name_in(pattern: &Pattern) -> Option<&str> {
    let name = pattern.as_literal()?;
    Pseudonym::from_str(name).is_err().then_some(name)
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Expr], between: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(between)?;
        }
        match part {
            Expr::Any(_) => write!(f, "({part})")?,
            _ => write!(f, "{part}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod reference;
#[cfg(test)]
pub(crate) mod tests;
