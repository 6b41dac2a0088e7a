//! Several conditions that all have to hold, of which the rarest one is looked up and the others
//! are asked of what it finds.
//!
//! To look up `service:shop/*` lists every document of each of these services, and a range of a
//! number that no term stands for goes through the whole column. Where another condition finds
//! few documents, it is less to look at the values that these have.

use std::sync::Arc;

use tantivy::{
    DocId, DocSet, Score, SegmentReader, TERMINATED, TantivyError,
    columnar::Column,
    postings::TermInfo,
    query::{EnableScoring, Explanation, Query, Scorer, Weight, intersect_scorers},
};

use super::{
    opened::Opened,
    terms::{Match, TermsQuery},
};

/// About what it costs to list a document of a term, nanoseconds.
const LIST_NS: u64 = 3;
/// About what it costs to look at the value of a document.
const LOOK_NS: u64 = 10;
/// About what it costs to have a column of a segment, and to find its values.
const OPEN_NS: u64 = 2_000;

/// A condition.
#[derive(Debug)]
pub(super) enum Clause {
    /// One that is always looked up.
    Listed(Box<dyn Query>),
    /// Whether a value is one of these terms.
    Terms(TermsQuery),
    /// Whether the number of the field `name` is between `low` and `high`.
    Numbers {
        name: &'static str,
        low: u64,
        high: u64,
        query: Box<dyn Query>,
    },
}

impl Clause {
    /// The condition by itself.
    pub(super) fn listed(self) -> Box<dyn Query> {
        match self {
            Self::Listed(query) | Self::Numbers { query, .. } => query,
            Self::Terms(terms) => Box::new(terms),
        }
    }
}

impl Clone for Clause {
    fn clone(&self) -> Self {
        match self {
            Self::Listed(query) => Self::Listed(query.box_clone()),
            Self::Terms(terms) => Self::Terms(terms.clone()),
            Self::Numbers {
                name,
                low,
                high,
                query,
            } => Self::Numbers {
                name,
                low: *low,
                high: *high,
                query: query.box_clone(),
            },
        }
    }
}

/// Finds what meets every one of some conditions; there is at least one.
#[derive(Debug, Clone)]
pub(super) struct Narrowed {
    clauses: Vec<Clause>,
    opened: Arc<Opened>,
}

impl Narrowed {
    pub(super) fn new(clauses: Vec<Clause>, opened: Arc<Opened>) -> Self {
        Self { clauses, opened }
    }
}

impl Query for Narrowed {
    fn weight(&self, scoring: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        let part = |clause: &Clause| {
            Ok(match clause {
                Clause::Listed(query) => Part::Listed(query.weight(scoring)?),
                Clause::Terms(terms) => Part::Terms(terms.clone()),
                Clause::Numbers {
                    name,
                    low,
                    high,
                    query,
                } => Part::Numbers(name, (*low, *high), query.weight(scoring)?),
            })
        };
        let parts: tantivy::Result<Vec<Part>> = self.clauses.iter().map(part).collect();
        Ok(Box::new(Parts {
            parts: parts?,
            opened: self.opened.clone(),
        }))
    }
}

struct Parts {
    parts: Vec<Part>,
    opened: Arc<Opened>,
}

enum Part {
    Listed(Box<dyn Weight>),
    Terms(TermsQuery),
    Numbers(&'static str, (u64, u64), Box<dyn Weight>),
}

/// What may be asked instead of looked up.
enum Open<'p> {
    Terms(&'p TermsQuery, Vec<TermInfo>),
    Numbers(&'static str, (u64, u64), &'p dyn Weight),
}

impl Weight for Parts {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let (mut listed, mut open) = (Vec::new(), Vec::new());
        for part in &self.parts {
            match part {
                Part::Listed(weight) => listed.push(weight.scorer(reader, boost)?),
                Part::Terms(terms) => {
                    let found = terms.found(reader)?;
                    let documents = found.iter().map(|term| u64::from(term.doc_freq)).sum();
                    open.push((documents, Open::Terms(terms, found)));
                }
                Part::Numbers(name, range, weight) => {
                    let all = u64::from(reader.max_doc());
                    open.push((all, Open::Numbers(name, *range, &**weight)));
                }
            }
        }
        open.sort_by_key(|(documents, _)| *documents);
        let mut tests = Vec::new();
        for (documents, open) in open {
            let rarest = listed.iter().map(|scorer| scorer.cost()).min();
            let asked = rarest.filter(|rarest| is_cheaper(documents, *rarest));
            match asked
                .map(|_| open.test(reader, &self.opened))
                .transpose()?
                .flatten()
            {
                Some(test) => tests.push(test),
                None => listed.push(open.listed(reader, boost)?),
            }
        }
        let listed = intersect_scorers(listed, reader.max_doc());
        Ok(match tests.is_empty() {
            true => listed,
            false => Box::new(Tested::new(listed, tests)),
        })
    }

    fn explain(&self, _: &SegmentReader, _: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument("not scored".into()))
    }
}

/// Whether it is less to look at `few` documents than to list `many`.
fn is_cheaper(many: u64, few: u64) -> bool {
    many.saturating_mul(LIST_NS) > OPEN_NS.saturating_add(few.saturating_mul(LOOK_NS))
}

impl Open<'_> {
    fn listed(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        match self {
            Self::Terms(terms, found) => terms.listed(reader, found, boost),
            Self::Numbers(_, _, weight) => weight.scorer(reader, boost),
        }
    }

    /// The same as a question about one document; none where no column has the values.
    fn test(&self, reader: &SegmentReader, opened: &Opened) -> tantivy::Result<Option<Test>> {
        let between = |name, (low, high): (u64, u64)| {
            let column = opened.numbers(reader, name)?;
            Ok(column.map(|column| Test::Between(column, low, high)))
        };
        match self {
            Self::Numbers(name, range, _) => between(name, *range),
            Self::Terms(terms, _) => match &terms.matching {
                Match::Numbers(low, high) => between(terms.name, (*low, *high)),
                matching => {
                    let Some(texts) = opened.texts(reader, terms.name)? else {
                        return Ok(None);
                    };
                    let accepted = matching.accepted(reader, terms.column, &texts)?;
                    Ok(Some(Test::Among(texts.ords().clone(), accepted)))
                }
            },
        }
    }
}

/// A question about one document.
enum Test {
    Between(Column<u64>, u64, u64),
    /// Positions of texts in the order of all of them, and which are meant.
    Among(Column<u64>, Vec<bool>),
}

impl Test {
    fn holds(&self, document: DocId) -> bool {
        match self {
            Self::Between(column, low, high) => {
                let mut values = column.values_for_doc(document);
                values.any(|value| (*low..=*high).contains(&value))
            }
            Self::Among(column, accepted) => column.values_for_doc(document).any(|position| {
                let position = usize::try_from(position).ok();
                position.is_some_and(|at| accepted.get(at) == Some(&true))
            }),
        }
    }
}

/// Those of some documents of which each test holds.
struct Tested {
    listed: Box<dyn Scorer>,
    tests: Vec<Test>,
}

impl Tested {
    fn new(listed: Box<dyn Scorer>, tests: Vec<Test>) -> Self {
        let mut tested = Self { listed, tests };
        tested.settle();
        tested
    }

    /// Goes on to the next document of which every test holds, if this is none.
    fn settle(&mut self) -> DocId {
        loop {
            let document = self.listed.doc();
            if document == TERMINATED || self.tests.iter().all(|test| test.holds(document)) {
                return document;
            }
            self.listed.advance();
        }
    }
}

impl DocSet for Tested {
    fn advance(&mut self) -> DocId {
        self.listed.advance();
        self.settle()
    }

    fn seek(&mut self, target: DocId) -> DocId {
        self.listed.seek(target);
        self.settle()
    }

    fn doc(&self) -> DocId {
        self.listed.doc()
    }

    fn size_hint(&self) -> u32 {
        self.listed.size_hint()
    }

    fn cost(&self) -> u64 {
        self.listed.cost()
    }
}

impl Scorer for Tested {
    fn score(&mut self) -> Score {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use std::{ops::Bound, sync::Arc};

    use tantivy::{
        Index, TantivyDocument, Term,
        collector::DocSetCollector,
        query::{AllQuery, BooleanQuery, Occur, RangeQuery, TermQuery},
        schema::{
            Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
        },
    };

    use super::*;
    use crate::{index::names::NameCache, query::Pattern};

    const DOCUMENTS: u64 = 60_000;

    /// One of a thousand is rare, one of two is a shop's, one of three is slow.
    struct Stage {
        index: Index,
        rare: Field,
        service: Field,
        status: Field,
        took: Field,
    }

    impl Stage {
        fn new() -> Self {
            let mut schema = Schema::builder();
            let indexing = TextFieldIndexing::default()
                .set_tokenizer("raw")
                .set_index_option(IndexRecordOption::Basic);
            let text = TextOptions::default().set_indexing_options(indexing);
            let rare = schema.add_text_field("rare", text.clone());
            let service = schema.add_text_field("service", text.set_fast("raw"));
            let number = NumericOptions::default().set_fast();
            let status = schema.add_u64_field("status", number.clone().set_indexed());
            let took = schema.add_u64_field("took", number);
            let index = Index::create_in_ram(schema.build());
            let mut writer = index.writer_with_num_threads(1, 64 << 20).unwrap();
            for n in 0..DOCUMENTS {
                let mut document = TantivyDocument::default();
                let word = if n % 1_000 == 7 { "yes" } else { "no" };
                document.add_text(rare, word);
                document.add_text(service, format!("{}/{}", shop(n), n % 40));
                // Some have two, some none.
                if n % 11 == 0 {
                    document.add_text(service, "shop/both");
                }
                if n % 5 != 0 {
                    document.add_u64(status, 500 + n % 7);
                }
                document.add_u64(took, n % 3);
                writer.add_document(document).unwrap();
            }
            writer.commit().unwrap();
            Self {
                index,
                rare,
                service,
                status,
                took,
            }
        }

        fn rare(&self, word: &str) -> Clause {
            let term = Term::from_field_text(self.rare, word);
            Clause::Listed(Box::new(TermQuery::new(term, IndexRecordOption::Basic)))
        }

        fn shops(&self) -> Clause {
            let pattern = Pattern::parse("shop/*");
            Clause::Terms(TermsQuery {
                name: "service",
                column: self.service,
                matching: Match::Name(pattern, Arc::new(NameCache::default())),
            })
        }

        fn statuses(&self) -> Clause {
            Clause::Terms(TermsQuery {
                name: "status",
                column: self.status,
                matching: Match::Numbers(502, 505),
            })
        }

        fn slow(&self) -> Clause {
            let term = Term::from_field_u64(self.took, 2);
            let range = RangeQuery::new(Bound::Included(term.clone()), Bound::Included(term));
            Clause::Numbers {
                name: "took",
                low: 2,
                high: 2,
                query: Box::new(range),
            }
        }

        fn found(&self, query: &dyn Query) -> Vec<u32> {
            let searcher = self.index.reader().unwrap().searcher();
            let found = searcher.search(query, &DocSetCollector).unwrap();
            let mut found: Vec<u32> = found.into_iter().map(|at| at.doc_id).collect();
            found.sort_unstable();
            found
        }

        fn tests_of(&self, clauses: &[Clause]) -> usize {
            let searcher = self.index.reader().unwrap().searcher();
            let scoring = EnableScoring::disabled_from_searcher(&searcher);
            let weight = narrowed(clauses.to_vec()).weight(scoring).unwrap();
            let scorer = weight.scorer(searcher.segment_reader(0), 1.0).unwrap();
            scorer.downcast_ref::<Tested>().map_or(0, |t| t.tests.len())
        }
    }

    fn narrowed(clauses: Vec<Clause>) -> Narrowed {
        Narrowed::new(clauses, Arc::default())
    }

    fn shop(n: u64) -> &'static str {
        if n % 2 == 1 { "shop" } else { "bank" }
    }

    /// Whatever is asked instead of looked up, the same is found.
    #[test]
    fn what_is_asked_of_candidates_is_what_would_have_been_looked_up() {
        let stage = Stage::new();
        let (rare, often) = (stage.rare("yes"), stage.rare("no"));
        let (shops, statuses, slow) = (stage.shops(), stage.statuses(), stage.slow());
        for (clauses, asked) in [
            (vec![rare.clone(), shops.clone()], 1),
            (vec![slow.clone(), rare.clone()], 1),
            (
                vec![shops.clone(), slow.clone(), statuses.clone(), rare.clone()],
                3,
            ),
            (vec![often.clone(), shops.clone()], 0),
            (vec![often, shops.clone(), statuses.clone()], 0),
            (vec![shops.clone()], 0),
            (vec![slow.clone()], 0),
            (vec![shops, slow, stage.rare("nobody")], 2),
        ] {
            let whole = clauses.iter().cloned();
            let whole: Vec<_> = whole.map(|clause| (Occur::Must, clause.listed())).collect();
            let whole = BooleanQuery::new(whole);
            let narrowed = narrowed(clauses.clone());
            let found = stage.found(&narrowed);
            assert_eq!(found, stage.found(&whole), "{clauses:?}");
            assert_eq!(stage.tests_of(&clauses), asked, "{clauses:?}");
            // What is left when they are taken away, for which it is sought in.
            let without = |query: Box<dyn Query>| {
                let all: Box<dyn Query> = Box::new(AllQuery);
                BooleanQuery::new(vec![(Occur::Must, all), (Occur::MustNot, query)])
            };
            let rest = stage.found(&without(Box::new(narrowed)));
            assert_eq!(rest, stage.found(&without(Box::new(whole))), "{clauses:?}");
            assert_eq!((found.len() + rest.len()) as u64, DOCUMENTS);
        }
    }
}
