//! From a query to what tantivy is asked.
//!
//! The plan finds everything that matches. Where a column holds less than the
//! value (ids, trace ids) it may find more, and says so: then every hit is
//! compared with the record in the log.

use std::{ops::Bound, sync::Arc};

use tantivy::{
    Term,
    query::{AllQuery, BooleanQuery, EmptyQuery, ExistsQuery, Occur, Query, RangeQuery, TermQuery},
    schema::{Field as Column, IndexRecordOption},
};

use super::{
    names::NameCache,
    narrow::{Clause, Narrowed},
    opened::Opened,
    schema::{ID, Layout, TRACE, id_column, trace_column},
    terms::{Match, TermsQuery},
};
use crate::query::{Demand, Expr, Field, Kind, Pattern, field::DENIALS};

/// What tantivy is asked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) query: Box<dyn Query>,
    /// Whether every hit is a match.
    pub(super) exact: bool,
    /// Whether hits of some condition are asked about others, one by one ([`Narrowed`]), which
    /// costs ten times as much as to list them.
    pub(super) asks: bool,
    /// What a match is.
    pub(super) filter: Expr,
}

impl Plan {
    pub(super) fn new(
        layout: &Layout,
        names: &Arc<NameCache>,
        opened: &Arc<Opened>,
        filter: Expr,
    ) -> Self {
        let mut compiler = Compiler {
            layout,
            names,
            opened,
            exact: true,
            asks: false,
        };
        let query = compiler.expr(&filter, false);
        Self {
            query,
            exact: compiler.exact,
            asks: compiler.asks,
            filter,
        }
    }
}

struct Compiler<'a> {
    layout: &'a Layout,
    names: &'a Arc<NameCache>,
    opened: &'a Arc<Opened>,
    exact: bool,
    asks: bool,
}

impl Compiler<'_> {
    /// Pushes negations down to the tests, where it is known what a test finds.
    fn expr(&mut self, expr: &Expr, negated: bool) -> Box<dyn Query> {
        match (expr, negated) {
            (Expr::Not(inner), _) => self.expr(inner, !negated),
            (Expr::All(parts), false) | (Expr::Any(parts), true) => self.all(parts, negated),
            (Expr::Any(parts), false) | (Expr::All(parts), true) => self.any(parts, negated),
            (Expr::Test(field, demand), false) => self.test(field, demand).clause.listed(),
            (Expr::Test(..), true) => {
                let mut clauses = vec![must(Box::new(AllQuery))];
                clauses.extend(self.excluded(expr));
                Box::new(BooleanQuery::new(clauses))
            }
        }
    }

    fn all(&mut self, parts: &[Expr], negated: bool) -> Box<dyn Query> {
        let (mut demanded, mut excluded) = (Vec::with_capacity(parts.len()), Vec::new());
        for part in parts {
            match (part, negated) {
                (Expr::Test(..), true) => excluded.extend(self.excluded(part)),
                (Expr::Not(inner), false) if matches!(**inner, Expr::Test(..)) => {
                    excluded.extend(self.excluded(inner));
                }
                (Expr::Test(field, demand), false) => {
                    demanded.push(self.test(field, demand).clause);
                }
                _ => demanded.push(Clause::Listed(self.expr(part, negated))),
            }
        }
        if demanded.is_empty() {
            demanded.push(Clause::Listed(Box::new(AllQuery)));
        }
        let is_open = |clause: &Clause| !matches!(clause, Clause::Listed(_));
        self.asks |= demanded.len() > 1 && demanded.iter().any(is_open);
        let narrowed = Narrowed::new(demanded, self.opened.clone());
        let narrowed: Box<dyn Query> = Box::new(narrowed);
        if excluded.is_empty() {
            return narrowed;
        }
        let mut clauses = vec![must(narrowed)];
        clauses.extend(excluded);
        Box::new(BooleanQuery::new(clauses))
    }

    fn any(&mut self, parts: &[Expr], negated: bool) -> Box<dyn Query> {
        if parts.is_empty() {
            return Box::new(EmptyQuery);
        }
        let parts = parts.iter().map(|part| self.expr(part, negated)).collect();
        Box::new(BooleanQuery::union(parts))
    }

    /// The clause that leaves a test's matches out. A test that finds too much
    /// cannot be left out; the log decides about its hits.
    fn excluded(&mut self, test: &Expr) -> Option<(Occur, Box<dyn Query>)> {
        let Expr::Test(field, demand) = test else {
            return None;
        };
        let found = self.test(field, demand);
        let exact = found.exact;
        exact.then(|| (Occur::MustNot, found.clause.listed()))
    }

    fn test(&mut self, field: &Field, demand: &Demand) -> Found {
        let found = self.found(field, demand);
        self.exact &= found.exact;
        found
    }

    fn found(&self, field: &Field, demand: &Demand) -> Found {
        if let Some(column) = self.layout.column(field) {
            return Found::exactly(in_column(field, column, demand, self.names));
        }
        match demand {
            Demand::Id(prefix) => {
                let (low, high) = (id_column(prefix.lowest), id_column(prefix.highest));
                Found {
                    clause: Clause::Listed(between(
                        Term::from_field_u64(self.layout.id, low),
                        Term::from_field_u64(self.layout.id, high),
                    )),
                    // A short prefix begins and ends on whole column values.
                    exact: low != high,
                }
            }
            Demand::Trace(trace) => {
                let term = Term::from_field_u64(self.layout.trace, trace_column(*trace));
                Found {
                    clause: Clause::Listed(between(term.clone(), term)),
                    exact: false,
                }
            }
            Demand::Exists => {
                let name = if field.kind == Kind::Id { ID } else { TRACE };
                Found::exactly(Clause::Listed(Box::new(ExistsQuery::new(
                    name.into(),
                    false,
                ))))
            }
            _ => Found::exactly(Clause::Listed(Box::new(EmptyQuery))),
        }
    }
}

/// What a test finds.
struct Found {
    clause: Clause,
    exact: bool,
}

impl Found {
    fn exactly(clause: impl Into<Clause>) -> Self {
        Self {
            clause: clause.into(),
            exact: true,
        }
    }
}

fn in_column(field: &Field, column: Column, demand: &Demand, names: &Arc<NameCache>) -> Clause {
    let terms = |matching| Clause::Terms(terms(field, column, matching));
    let listed = |query: Box<dyn Query>| Clause::Listed(query);
    match demand {
        Demand::Exists if field.countable || !field.kind.is_text() => {
            listed(Box::new(ExistsQuery::new(field.name.into(), false)))
        }
        Demand::Exists => terms(Match::Every),
        Demand::Word("deny") => listed(Box::new(BooleanQuery::union(
            DENIALS.iter().map(|word| term(column, word)).collect(),
        ))),
        Demand::Word(word) => listed(term(column, word)),
        Demand::Text(pattern) => in_texts(field, column, pattern, names),
        Demand::Range(low, high) if low == high && field.countable => listed(Box::new(
            TermQuery::new(Term::from_field_u64(column, *low), IndexRecordOption::Basic),
        )),
        // What can be counted has few values.
        Demand::Range(low, high) if field.countable => terms(Match::Numbers(*low, *high)),
        Demand::Range(low, high) => Clause::Numbers {
            name: field.name,
            low: *low,
            high: *high,
            query: between(
                Term::from_field_u64(column, *low),
                Term::from_field_u64(column, *high),
            ),
        },
        Demand::Network(network) => {
            let (low, high) = network.bounds();
            listed(between(
                Term::from_field_ip_addr(column, low),
                Term::from_field_ip_addr(column, high),
            ))
        }
        Demand::Id(_) | Demand::Trace(_) => listed(Box::new(EmptyQuery)),
    }
}

fn in_texts(field: &Field, column: Column, pattern: &Pattern, names: &Arc<NameCache>) -> Clause {
    let by_segments = field.kind == Kind::Name && !pattern.is_whole_name();
    match pattern.as_literal() {
        Some(text) if !by_segments => Clause::Listed(term(column, text)),
        _ if by_segments => {
            let matching = Match::Name(pattern.clone(), names.clone());
            Clause::Terms(terms(field, column, matching))
        }
        _ => Clause::Terms(terms(field, column, Match::Whole(pattern.clone()))),
    }
}

fn must(query: Box<dyn Query>) -> (Occur, Box<dyn Query>) {
    (Occur::Must, query)
}

fn term(column: Column, text: &str) -> Box<dyn Query> {
    let term = Term::from_field_text(column, text);
    Box::new(TermQuery::new(term, IndexRecordOption::Basic))
}

fn between(low: Term, high: Term) -> Box<dyn Query> {
    Box::new(RangeQuery::new(Bound::Included(low), Bound::Included(high)))
}

fn terms(field: &Field, column: Column, matching: Match) -> TermsQuery {
    TermsQuery {
        name: field.name,
        column,
        matching,
    }
}
