//! From a query to what tantivy is asked.
//!
//! The plan finds everything that matches. Where a column holds less than the
//! value (ids, trace ids) it may find more, and says so: then every hit is
//! compared with the record in the log.

use std::{ops::Bound, sync::Arc};

use tantivy::{
    DocId, Score, SegmentReader, TantivyError, Term,
    postings::TermInfo,
    query::{
        AllQuery, BitSetDocSet, BooleanQuery, ConstScorer, EmptyQuery, EmptyScorer, EnableScoring,
        ExistsQuery, Explanation, Occur, Query, RangeQuery, Scorer, TermQuery, Weight,
    },
    schema::{Field as Column, IndexRecordOption},
};

use super::{
    names::NameCache,
    schema::{ID, Layout, TRACE, id_column, trace_column},
};
use crate::query::{Demand, Expr, Field, Kind, Pattern, field::DENIALS};

/// What tantivy is asked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) query: Box<dyn Query>,
    /// Whether every hit is a match.
    pub(super) exact: bool,
    /// What a match is.
    pub(super) filter: Expr,
}

impl Plan {
    pub(super) fn new(layout: &Layout, names: &Arc<NameCache>, filter: Expr) -> Self {
        let mut compiler = Compiler {
            layout,
            names,
            exact: true,
        };
        let query = compiler.expr(&filter, false);
        Self {
            query,
            exact: compiler.exact,
            filter,
        }
    }
}

struct Compiler<'a> {
    layout: &'a Layout,
    names: &'a Arc<NameCache>,
    exact: bool,
}

impl Compiler<'_> {
    /// Pushes negations down to the tests, where it is known what a test finds.
    fn expr(&mut self, expr: &Expr, negated: bool) -> Box<dyn Query> {
        match (expr, negated) {
            (Expr::Not(inner), _) => self.expr(inner, !negated),
            (Expr::All(parts), false) | (Expr::Any(parts), true) => self.all(parts, negated),
            (Expr::Any(parts), false) | (Expr::All(parts), true) => self.any(parts, negated),
            (Expr::Test(field, demand), false) => self.test(field, demand).query,
            (Expr::Test(..), true) => {
                let mut clauses = vec![must(Box::new(AllQuery))];
                clauses.extend(self.excluded(expr));
                Box::new(BooleanQuery::new(clauses))
            }
        }
    }

    fn all(&mut self, parts: &[Expr], negated: bool) -> Box<dyn Query> {
        let mut clauses = Vec::with_capacity(parts.len() + 1);
        for part in parts {
            match (part, negated) {
                (Expr::Test(..), true) => clauses.extend(self.excluded(part)),
                (Expr::Not(inner), false) if matches!(**inner, Expr::Test(..)) => {
                    clauses.extend(self.excluded(inner));
                }
                _ => clauses.push(must(self.expr(part, negated))),
            }
        }
        if !clauses.iter().any(|(occur, _)| *occur == Occur::Must) {
            clauses.push(must(Box::new(AllQuery)));
        }
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
        found.exact.then_some((Occur::MustNot, found.query))
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
                    query: between(
                        Term::from_field_u64(self.layout.id, low),
                        Term::from_field_u64(self.layout.id, high),
                    ),
                    // A short prefix begins and ends on whole column values.
                    exact: low != high,
                }
            }
            Demand::Trace(trace) => {
                let term = Term::from_field_u64(self.layout.trace, trace_column(*trace));
                Found {
                    query: between(term.clone(), term),
                    exact: false,
                }
            }
            Demand::Exists => {
                let name = if field.kind == Kind::Id { ID } else { TRACE };
                Found::exactly(Box::new(ExistsQuery::new(name.into(), false)))
            }
            _ => Found::exactly(Box::new(EmptyQuery)),
        }
    }
}

/// What a test finds.
struct Found {
    query: Box<dyn Query>,
    exact: bool,
}

impl Found {
    fn exactly(query: Box<dyn Query>) -> Self {
        Self { query, exact: true }
    }
}

fn in_column(
    field: &Field,
    column: Column,
    demand: &Demand,
    names: &Arc<NameCache>,
) -> Box<dyn Query> {
    match demand {
        Demand::Exists if field.countable || !field.kind.is_text() => {
            Box::new(ExistsQuery::new(field.name.into(), false))
        }
        Demand::Exists => terms(column, Match::Every),
        Demand::Word("deny") => Box::new(BooleanQuery::union(
            DENIALS.iter().map(|word| term(column, word)).collect(),
        )),
        Demand::Word(word) => term(column, word),
        Demand::Text(pattern) => in_texts(field, column, pattern, names),
        Demand::Range(low, high) if low == high && field.countable => Box::new(TermQuery::new(
            Term::from_field_u64(column, *low),
            IndexRecordOption::Basic,
        )),
        // What can be counted has few values.
        Demand::Range(low, high) if field.countable => terms(column, Match::Numbers(*low, *high)),
        Demand::Range(low, high) => between(
            Term::from_field_u64(column, *low),
            Term::from_field_u64(column, *high),
        ),
        Demand::Network(network) => {
            let (low, high) = network.bounds();
            between(
                Term::from_field_ip_addr(column, low),
                Term::from_field_ip_addr(column, high),
            )
        }
        Demand::Id(_) | Demand::Trace(_) => Box::new(EmptyQuery),
    }
}

fn in_texts(
    field: &Field,
    column: Column,
    pattern: &Pattern,
    names: &Arc<NameCache>,
) -> Box<dyn Query> {
    let by_segments = field.kind == Kind::Name && !pattern.is_whole_name();
    match pattern.as_literal() {
        Some(text) if !by_segments => term(column, text),
        _ if by_segments => terms(column, Match::Name(pattern.clone(), names.clone())),
        _ => terms(column, Match::Whole(pattern.clone())),
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

fn terms(column: Column, matching: Match) -> Box<dyn Query> {
    Box::new(TermsQuery { column, matching })
}

/// Finds documents by the terms of a column, asking each the very question that
/// [`Expr::matches`] asks a record.
#[derive(Debug, Clone)]
struct TermsQuery {
    column: Column,
    matching: Match,
}

#[derive(Debug, Clone)]
enum Match {
    Every,
    Name(Pattern, Arc<NameCache>),
    /// From the first to the last.
    Numbers(u64, u64),
    Whole(Pattern),
}

impl Match {
    /// The terms of a segment that it accepts.
    fn find(&self, reader: &SegmentReader, column: Column) -> tantivy::Result<Vec<TermInfo>> {
        if let Self::Name(pattern, names) = self
            && let Some(names) = names.of(reader, column)?
        {
            return Ok(names.matching(pattern));
        }
        let inverted = reader.inverted_index(column)?;
        let terms = inverted.terms();
        let (mut stream, prefix) = match self {
            Self::Numbers(low, high) => {
                let (low, high) = (low.to_be_bytes(), high.to_be_bytes());
                (terms.range().ge(low).le(high).into_stream()?, &[][..])
            }
            Self::Whole(pattern) => {
                let prefix = pattern.prefix().as_bytes();
                (terms.range().ge(prefix).into_stream()?, prefix)
            }
            Self::Every | Self::Name(..) => (terms.stream()?, &[][..]),
        };
        let mut found = Vec::new();
        while stream.advance() && stream.key().starts_with(prefix) {
            if self.accepts(stream.key()) {
                found.push(stream.value().clone());
            }
        }
        Ok(found)
    }

    fn accepts(&self, term: &[u8]) -> bool {
        let accepts = |matches: &dyn Fn(&str) -> bool| std::str::from_utf8(term).is_ok_and(matches);
        match self {
            Self::Every => accepts(&|_| true),
            Self::Name(pattern, _) => accepts(&|text| pattern.matches_name(text)),
            Self::Numbers(..) => true,
            Self::Whole(pattern) => accepts(&|text| pattern.matches(text)),
        }
    }
}

impl Query for TermsQuery {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for TermsQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let inverted = reader.inverted_index(self.column)?;
        let found = self.matching.find(reader, self.column)?;
        if found.is_empty() {
            return Ok(Box::new(EmptyScorer));
        }
        // One term is read as far as it is needed; several are gathered first.
        if let [only] = found.as_slice() {
            let postings = inverted.read_postings_from_terminfo(only, IndexRecordOption::Basic)?;
            return Ok(Box::new(ConstScorer::new(postings, boost)));
        }
        let mut documents = tantivy::BitSet::with_max_value(reader.max_doc());
        for info in &found {
            let mut block =
                inverted.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
            while !block.docs().is_empty() {
                for document in block.docs() {
                    documents.insert(*document);
                }
                block.advance();
            }
        }
        Ok(Box::new(ConstScorer::new(
            BitSetDocSet::from(documents),
            boost,
        )))
    }

    fn explain(&self, _: &SegmentReader, _: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument("not scored".into()))
    }
}
