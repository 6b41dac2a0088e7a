//! Documents by the terms of a column.

use std::sync::Arc;

use tantivy::{
    DocId, Score, SegmentReader, TantivyError,
    columnar::StrColumn,
    postings::TermInfo,
    query::{
        BitSetDocSet, ConstScorer, EmptyScorer, EnableScoring, Explanation, Query, Scorer, Weight,
    },
    schema::{Field as Column, IndexRecordOption},
};

use super::names::NameCache;
use crate::query::Pattern;

/// Finds documents by the terms of a column, asking each the very question that
/// [`Expr::matches`] asks a record.
#[derive(Debug, Clone)]
pub(super) struct TermsQuery {
    /// Name of the field, under which its values may be in a column, too.
    pub(super) name: &'static str,
    pub(super) column: Column,
    pub(super) matching: Match,
}

/// Which terms.
#[derive(Debug, Clone)]
pub(super) enum Match {
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

    /// Of each text of a segment's column, in their order, whether it is one of them.
    pub(super) fn accepted(
        &self,
        reader: &SegmentReader,
        column: Column,
        texts: &StrColumn,
    ) -> tantivy::Result<Vec<bool>> {
        // The terms of a column are its texts, but for those that are too long.
        if let Self::Name(pattern, names) = self
            && let Some(names) = names.of(reader, column)?
            && names.len() == texts.num_terms()
        {
            return Ok(names.accepted(pattern));
        }
        let mut accepted = Vec::with_capacity(texts.num_terms());
        let mut stream = texts.dictionary().stream()?;
        while stream.advance() {
            accepted.push(self.accepts(stream.key()));
        }
        Ok(accepted)
    }

    /// Whether it is one of them.
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

impl TermsQuery {
    /// The terms of a segment.
    pub(super) fn found(&self, reader: &SegmentReader) -> tantivy::Result<Vec<TermInfo>> {
        self.matching.find(reader, self.column)
    }

    /// The documents that have one of the terms `found`.
    pub(super) fn listed(
        &self,
        reader: &SegmentReader,
        found: &[TermInfo],
        boost: Score,
    ) -> tantivy::Result<Box<dyn Scorer>> {
        let inverted = reader.inverted_index(self.column)?;
        if found.is_empty() {
            return Ok(Box::new(EmptyScorer));
        }
        // One term is read as far as it is needed; several are gathered first.
        if let [only] = found {
            let postings = inverted.read_postings_from_terminfo(only, IndexRecordOption::Basic)?;
            return Ok(Box::new(ConstScorer::new(postings, boost)));
        }
        let mut documents = tantivy::BitSet::with_max_value(reader.max_doc());
        for info in found {
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
}

impl Weight for TermsQuery {
    fn scorer(&self, reader: &SegmentReader, boost: Score) -> tantivy::Result<Box<dyn Scorer>> {
        self.listed(reader, &self.found(reader)?, boost)
    }

    fn explain(&self, _: &SegmentReader, _: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument("not scored".into()))
    }
}
