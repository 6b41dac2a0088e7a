//! `policy test --update`: writes into each row which policies decide it.
//!
//! Only rows whose outcome is as expected, and whose cases are all decided by the same
//! policies: anything else is for a person to look at. The rest of the file stays as it
//! is, byte by byte.

use std::{collections::BTreeMap, ops::Range, path::Path};

use palisade_mesh::{
    diagnostic::Diagnostic,
    yaml::{Node, Source, Value},
};
use smol_str::SmolStr;

use super::{Case, Decide, Expected};
use crate::author::{fmt, yaml::parse};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Updated {
    /// Rows that name other policies than before.
    pub rows: usize,
    /// Rows that were left, because their cases are decided by different policies, or
    /// otherwise than expected.
    pub left: usize,
}

/// Writes the determining policies of `cases` into the tables of the repository in `dir`.
///
/// # Errors
/// The first file that cannot be written; those before it are.
pub fn update(dir: &Path, cases: &[Case], decider: &mut dyn Decide) -> Result<Updated, Diagnostic> {
    let mut updated = Updated::default();
    let mut rows: BTreeMap<(String, usize), Vec<&Case>> = BTreeMap::new();
    for case in cases {
        let key = (case.location.file.to_string(), case.location.offset);
        rows.entry(key).or_default().push(case);
    }
    let mut found = Vec::new();
    for source in super::sources(dir, &mut found) {
        let mut edits = Vec::new();
        let own = rows.iter().filter(|((file, _), _)| *file == *source.path);
        for ((_, offset), cases) in own {
            match decided_by(cases, decider) {
                None => updated.left += 1,
                Some(ids) if cases.iter().all(|c| is_same(c, &ids)) => {}
                Some(ids) => edits.extend(edit(&source, *offset, &ids)),
            }
        }
        updated.rows += edits.len();
        let mut text = source.text.to_string();
        for (span, new) in edits.iter().rev() {
            text.replace_range(span.clone(), new);
        }
        if !edits.is_empty() {
            fmt::replace(&dir.join(&*source.path), &text)
                .map_err(|error| fmt::unwritten(&source.path, &error))?;
        }
    }
    Ok(updated)
}

fn is_same(case: &Case, ids: &[SmolStr]) -> bool {
    case.policies.as_ref().is_some_and(|own| own.iter().eq(ids))
}

/// The policies that decide every one of `cases`, sorted.
fn decided_by(cases: &[&Case], decider: &mut dyn Decide) -> Option<Vec<SmolStr>> {
    let mut all: Option<Vec<SmolStr>> = None;
    for case in cases {
        let decision = decider.decide(case).decision;
        let mut ids = decision.determining.clone();
        ids.sort_unstable();
        let as_expected = case.expected.is_met_by(Expected::of(decision.verdict));
        if !as_expected || all.as_ref().is_some_and(|other| *other != ids) {
            return None;
        }
        all = Some(ids);
    }
    all
}

/// The edit of the row that begins at `offset`.
fn edit(source: &Source, offset: usize, ids: &[SmolStr]) -> Option<(Range<usize>, String)> {
    let root = parse(source, &mut Vec::new())?;
    let Value::Map(entries) = root.value else {
        return None;
    };
    let tests = entries.iter().find(|e| e.key == "tests")?;
    let Value::List(rows) = &tests.value.value else {
        return None;
    };
    let fields = rows.iter().find_map(|row| match &row.value {
        Value::Map(fields) if fields.first().is_some_and(|f| f.key_span.start == offset) => {
            Some(fields)
        }
        _ => None,
    })?;
    let list = format!("[{}]", ids.join(", "));
    if let Some(policies) = fields.iter().find(|f| f.key == "policies") {
        return Some((span_of(source, &policies.value), list));
    }
    let expect = fields.iter().find(|f| f.key == "expect")?;
    let end = expect.value.span.start + expect.value.span.len;
    let line = source
        .text
        .get(..expect.key_span.start)?
        .rsplit('\n')
        .next()?;
    // In a row on one line, in braces, the key follows on it.
    let text = match line.trim_start().trim_start_matches("- ").is_empty() {
        true => format!("\n{}policies: {list}", " ".repeat(line.len())),
        false => format!(", policies: {list}"),
    };
    Some((end..end, text))
}

/// Where a list or a text stands. A list of lines has no end of its own: it ends with its
/// last item.
fn span_of(source: &Source, node: &Node) -> Range<usize> {
    let end_of = |node: &Node| node.span.start + node.span.len;
    let (start, end) = (node.span.start, end_of(node));
    let text = source.text.get(start..).unwrap_or_default();
    match &node.value {
        Value::List(items) if !text.starts_with('[') => {
            start..items.last().map_or(end, end_of).max(end)
        }
        _ => start..end,
    }
}
