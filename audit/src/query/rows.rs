//! Which rows a reader may see: part of every query that is answered to it.

use std::sync::Arc;

use palisade_mesh::diagnostic::Diagnostic;

use super::{Expr, Query};
use crate::item::Item;

/// How every row is written.
const EVERY: &str = "*";

/// What a record must be for a reader to see it.
///
/// Written as a query without time bounds and without a summary, or as `*` for every
/// record. It is taken as it is written: where it names no class, it is about records of
/// every class. A record that lacks a field it asks for is not seen; what it only excludes
/// (`-service:bank/*`) stands beside that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFilter(Option<Kept>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    text: Arc<str>,
    expr: Expr,
}

impl RowFilter {
    /// Every row.
    pub fn everything() -> Self {
        Self(None)
    }

    /// Reads a filter.
    ///
    /// # Errors
    /// As [`Query::parse`]; `PLS7903` for one with time bounds or a summary, and for an
    /// empty one.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        if text.trim() == EVERY {
            return Ok(Self::everything());
        }
        let query = Query::parse(text)?;
        let wrong = |what: &str| {
            Diagnostic::error(7903, format!("a row filter has {what}"))
                .cause(format!("it is `{text}`"))
                .help(
                    "write what a record must be, as in `service:shop/*`, or `*` for every record",
                )
        };
        if query.stage.is_some() {
            return Err(wrong("no summary: it says which rows are seen, not how"));
        }
        if query.since.or(query.until).is_some() {
            return Err(wrong("no time: every query brings its own"));
        }
        if query.is_of_time_alone() {
            return Err(wrong("to say which rows are seen"));
        }
        if !query.names().is_empty() {
            return Err(wrong("no name of a person: it is recorded with every read"));
        }
        if !names_something(&query.filter) {
            return Err(wrong(
                "to say what a record must be, not only what it must not be: every record without that field would be seen",
            ));
        }
        Ok(Self(Some(Kept {
            text: text.trim().into(),
            expr: query.filter,
        })))
    }

    /// What one of `filters` lets be seen; nothing, where there is none.
    pub fn any<'f>(filters: impl IntoIterator<Item = &'f Self>) -> Self {
        let mut kept = Vec::new();
        for filter in filters {
            match &filter.0 {
                None => return Self::everything(),
                // The same grant twice is one.
                Some(one) if kept.contains(&one) => {}
                Some(one) => kept.push(one),
            }
        }
        let texts: Vec<&str> = kept.iter().map(|one| &*one.text).collect();
        let text = match texts.as_slice() {
            [one] => (*one).to_owned(),
            several => format!("({})", several.join(") OR (")),
        };
        Self(Some(Kept {
            text: text.into(),
            expr: Expr::any(kept.iter().map(|one| one.expr.clone()).collect()),
        }))
    }

    /// What both let be seen.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (None, _) => other.clone(),
            (_, None) => self.clone(),
            (Some(a), Some(b)) if a == b => self.clone(),
            (Some(a), Some(b)) => Self(Some(Kept {
                text: format!("({}) ({})", a.text, b.text).into(),
                expr: Expr::all(vec![a.expr.clone(), b.expr.clone()]),
            })),
        }
    }

    /// What it keeps rows to, as a query says it; none where every row is seen.
    pub fn text(&self) -> Option<&Arc<str>> {
        self.0.as_ref().map(|kept| &kept.text)
    }

    /// What an item must be to be `asked` for and to be seen. It stands beside the
    /// question, never within it.
    pub(super) fn within(&self, asked: Expr) -> Expr {
        match &self.0 {
            None => asked,
            Some(kept) => Expr::all(vec![asked, kept.expr.clone()]),
        }
    }

    /// Whether the record may be seen.
    pub fn matches(&self, item: &Item) -> bool {
        self.0.as_ref().is_none_or(|kept| kept.expr.matches(item))
    }
}

/// Whether whatever matches has a value that was asked for.
fn names_something(expr: &Expr) -> bool {
    match expr {
        Expr::All(parts) => parts.iter().any(names_something),
        Expr::Any(parts) => !parts.is_empty() && parts.iter().all(names_something),
        Expr::Not(_) => false,
        Expr::Test(..) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_with_its_reason() {
        for (text, code) in [
            ("", 7903),
            ("last:1h", 7903),
            ("service:shop/* until:now", 7903),
            ("service:shop/* | count", 7903),
            ("-service:bank/*", 7903),
            ("service:shop/* OR -service:bank/*", 7903),
            ("service:", 7101),
            ("servce:shop/*", 7102),
            ("shop", 7103),
            ("subject:alice class:*", 7903),
            ("subject:ali* class:*", 7104),
        ] {
            assert_eq!(RowFilter::parse(text).unwrap_err().code.0, code, "{text}");
        }
        assert_eq!(RowFilter::parse(" * ").unwrap(), RowFilter::everything());
    }

    #[test]
    fn grants_add_up_and_none_is_nothing() {
        let [shop, bank] =
            ["service:shop/*", "service:bank/*"].map(|t| RowFilter::parse(t).unwrap());
        let both = RowFilter::any([&shop, &bank, &shop]);
        assert_eq!(
            both.text().map(|t| &**t),
            Some("(service:shop/*) OR (service:bank/*)")
        );
        assert_eq!(RowFilter::any([&shop]).text(), shop.text());
        let all = RowFilter::everything();
        assert_eq!(RowFilter::any([&shop, &all]), all);
        assert_eq!(shop.and(&all), shop);
        assert_eq!(all.and(&shop), shop);
        assert_eq!(shop.and(&shop), shop);
        assert_eq!(
            shop.and(&bank).text().map(|t| &**t),
            Some("(service:shop/*) (service:bank/*)")
        );
        let none = RowFilter::any([]);
        assert_ne!(none, all, "no grant is no right");
        let query = Query::parse("class:*").unwrap().restricted_to(&none);
        let filter = query.filter();
        let nothing = Expr::any(Vec::new());
        assert!(matches!(filter, Expr::All(parts) if parts.contains(&nothing)));
    }

    /// Whatever is asked, the filter stands beside it and not within it.
    #[test]
    fn no_query_gets_out_of_its_filter() {
        let rows = RowFilter::parse("service:shop/* OR service:bank/*").unwrap();
        for text in [
            "decision:deny",
            "decision:deny OR class:*",
            "-(service:shop/*)",
            "class:* OR -class:*",
            "verb:*",
            "| count by verb",
        ] {
            let query = Query::parse(text).unwrap().restricted_to(&rows);
            let kept = &rows.0.as_ref().unwrap().expr;
            let within = match query.filter() {
                Expr::All(parts) => parts.last() == Some(kept),
                whole => whole == *kept,
            };
            assert!(within, "{text}: {query:?}");
            assert_eq!(query.kept_to(), rows.text());
        }
    }
}
