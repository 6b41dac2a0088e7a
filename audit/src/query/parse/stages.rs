//! Reads what stands after `|`.

use palisade_mesh::diagnostic::{Diagnostic, did_you_mean};

use super::{Parsed, Parser, Span};
use crate::query::{
    field::Field,
    length_us,
    stage::{BY_MAX, Sort, SortKey, Stage, Summary, TOP_DEFAULT, TOP_MAX},
};

/// The words a stage begins with.
const STAGES: &[&str] = &["count", "first", "last", "timeline", "sort", "top"];

/// What has been read of the stages so far.
#[derive(Default)]
struct Draft {
    summary: Option<Summary>,
    sort: Option<Sort>,
    top: Option<usize>,
}

impl Parser {
    /// The stages, and where the summary among them stands.
    pub(super) fn stages(&mut self) -> Parsed<Option<(Stage, Span)>> {
        let mut draft = Draft::default();
        let mut at = (0, 0);
        loop {
            self.skip_space();
            if self.done() {
                break;
            }
            let start = self.at;
            if !self.eat('|') {
                return Err(self
                    .error(7101, "nothing opens this parenthesis", (start, start + 1))
                    .help("remove `)`"));
            }
            self.skip_space();
            let start = self.at;
            let word = self.name();
            let span = (start, self.at.max(start + 1));
            match word.as_str() {
                "count" | "first" | "last" | "timeline" => {
                    if draft.summary.is_some() {
                        return Err(self.error(7109, "a query is summed up once", span));
                    }
                    draft.summary = Some(self.summary(&word)?);
                    at = (start, self.at);
                }
                "sort" => self.sort(&mut draft, span)?,
                "top" => self.top(&mut draft, span)?,
                _ => return Err(self.no_stage(&word, span)),
            }
        }
        Ok(draft.summary.map(|summary| {
            let stage = Stage {
                summary,
                sort: draft.sort,
                top: draft.top.unwrap_or(TOP_DEFAULT),
            };
            (stage, at)
        }))
    }

    fn summary(&mut self, word: &str) -> Parsed<Summary> {
        match word {
            "count" => Ok(Summary::Count { by: self.by()? }),
            "timeline" => self.timeline(),
            _ => self.first_last(word),
        }
    }

    /// `first`, `last` or both; they are always told together.
    fn first_last(&mut self, first_word: &str) -> Parsed<Summary> {
        self.skip_space();
        if self.eat(',') {
            self.skip_space();
            let start = self.at;
            let word = self.name();
            if !matches!(word.as_str(), "first" | "last") || word == first_word {
                let span = (start, self.at.max(start + 1));
                return Err(self
                    .error(7109, "`first` and `last` stand together", span)
                    .help("as in `| first, last by principal, route`"));
            }
        }
        self.skip_space();
        let start = self.at;
        let by = self.by()?;
        match by.is_empty() {
            false => Ok(Summary::FirstLast { by }),
            true => Err(self
                .error(7109, "`first, last` needs fields", (start, start + 1))
                .help("as in `| first, last by principal, route`")),
        }
    }

    fn by(&mut self) -> Parsed<Vec<&'static Field>> {
        let mut by = Vec::new();
        if !self.keyword("by") {
            return Ok(by);
        }
        loop {
            let (field, span) = self.countable()?;
            if by.len() == BY_MAX {
                let message = format!("more than {BY_MAX} fields to group by");
                return Err(self
                    .error(7109, message, span)
                    .help("ask for the others in a second query, kept to one group of this one"));
            }
            if by.contains(&field) {
                let message = format!("`{}` is named twice", field.name);
                return Err(self.error(7109, message, span));
            }
            by.push(field);
            self.skip_space();
            if !self.eat(',') {
                return Ok(by);
            }
        }
    }

    fn countable(&mut self) -> Parsed<(&'static Field, Span)> {
        self.skip_space();
        let start = self.at;
        let name = self.name();
        let span = (start, self.at.max(start + 1));
        let field = Field::find(&name).ok_or_else(|| self.unknown_field(&name, span))?;
        match field.countable {
            true => Ok((field, span)),
            false => Err(self.uncountable(field, span)),
        }
    }

    fn timeline(&mut self) -> Parsed<Summary> {
        self.skip_space();
        let start = self.at;
        let word = self.name();
        let step_us = length_us(&word).ok_or_else(|| {
            let span = (start, self.at.max(start + 1));
            self.error(7109, "`timeline` needs a step", span)
                .help("as in `| timeline 5m`")
        })?;
        let by = match self.keyword("by") {
            true => Some(self.countable()?.0),
            false => None,
        };
        self.skip_space();
        if self.peek() == Some(',') {
            let span = (self.at, self.at + 1);
            return Err(self.error(7109, "a timeline is told apart by one field", span));
        }
        Ok(Summary::Timeline { step_us, by })
    }

    fn sort(&mut self, draft: &mut Draft, span: Span) -> Parsed<()> {
        let by = match &draft.summary {
            Some(Summary::Count { by } | Summary::FirstLast { by }) if !by.is_empty() => by.clone(),
            Some(Summary::Timeline { .. }) => {
                return Err(self.error(7109, "a timeline is in the order of time", span));
            }
            _ => return Err(self.nothing_to_choose_from("sort", span)),
        };
        if draft.sort.is_some() {
            return Err(self.error(7109, "groups are sorted once", span));
        }
        if draft.top.is_some() {
            return Err(self
                .error(7109, "`sort` stands after `top`", span)
                .help("write `| sort … | top …`: what is first in the order is kept"));
        }
        self.skip_space();
        let descending = self.eat('-');
        let start = self.at;
        let word = self.name();
        let timed = matches!(draft.summary, Some(Summary::FirstLast { .. }));
        let key = match word.as_str() {
            "count" => Some(SortKey::Count),
            "first" if timed => Some(SortKey::First),
            "last" if timed => Some(SortKey::Last),
            name => by
                .iter()
                .position(|field| field.name == name)
                .and_then(|at| Some(SortKey::Value(at, by.get(at).copied()?))),
        };
        let span = (start, self.at.max(start + 1));
        let key = key.ok_or_else(|| {
            let times: &[&str] = if timed { &["first", "last"] } else { &[] };
            let names = by.iter().map(|field| field.name);
            let names: Vec<&str> = ["count"].into_iter().chain(names).collect();
            let names = [names.as_slice(), times].concat();
            self.error(7109, format!("groups have no `{word}` to sort by"), span)
                .help(format!("they have: {}", names.join(", ")))
        })?;
        draft.sort = Some(Sort { key, descending });
        Ok(())
    }

    fn top(&mut self, draft: &mut Draft, span: Span) -> Parsed<()> {
        match &draft.summary {
            Some(summary) if !summary.by().is_empty() => {}
            _ => return Err(self.nothing_to_choose_from("top", span)),
        }
        if draft.top.is_some() {
            return Err(self.error(7109, "`top` stands once", span));
        }
        self.skip_space();
        let start = self.at;
        let word = self.name();
        let top = word.parse().ok().filter(|n| (1..=TOP_MAX).contains(n));
        draft.top = Some(top.ok_or_else(|| {
            let span = (start, self.at.max(start + 1));
            self.error(7109, "`top` needs a number", span)
                .help(format!("from 1 to {TOP_MAX}, as in `| top 10`"))
        })?);
        Ok(())
    }

    fn nothing_to_choose_from(&self, word: &str, span: Span) -> Diagnostic {
        self.error(7109, format!("`{word}` has no groups to choose from"), span)
            .help(format!(
                "as in `| count by principal | {word} {}`",
                match word {
                    "sort" => "principal",
                    _ => "10",
                }
            ))
    }

    fn no_stage(&self, word: &str, span: Span) -> Diagnostic {
        let known = "`count by FIELD`, `first, last by FIELD`, `timeline 5m by FIELD`, then `sort` and `top`";
        let help = match (word, did_you_mean(word, STAGES.iter().copied())) {
            ("facet" | "facets", _) => "`palisade audit facets` counts several fields apart".into(),
            ("where" | "filter", _) => "write conditions before the first `|`".into(),
            ("limit" | "head", _) => "write `top N`".into(),
            (_, Some(near)) => format!("did you mean `{near}`?"),
            _ => known.to_owned(),
        };
        self.error(7109, format!("`{word}` is not a summary"), span)
            .help(help)
    }
}
