//! What has one safe fix, and writing it.
//!
//! A fix is tried in memory first: it is kept where the repository has no error then that
//! it did not have before. Files that were laid out stay so.

use std::{collections::BTreeMap, ops::Range, path::Path};

use palisade_mesh::{diagnostic::Diagnostic, wire::policy::File, yaml::Source};

use super::{Edit, Finding, Options, look};
use crate::{
    author::{Draft, Texts, cedar, codes, fmt},
    decide::{Body, Condition, Kind, Node, Term},
};

/// Rounds of fixing: one fix may bring to light the next mistake of its policy.
const ROUNDS_MAX: usize = 8;

/// Mends what can be mended in the repository in `dir`, which was put together as `texts`; which
/// files, and how often.
pub(super) fn write(
    texts: &mut Texts,
    dir: &Path,
    options: &Options,
) -> Result<Vec<(String, usize)>, Diagnostic> {
    let before = texts.files.clone();
    let mut fixed: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let (findings, _) = look(texts.clone(), dir, options);
        let edits = chosen(&findings);
        if edits.is_empty() {
            break;
        }
        let mut next = texts.clone();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for file in &mut next.files {
            let own: Vec<&Edit> = edits.iter().filter(|e| *e.file == *file.path).collect();
            if !own.is_empty() {
                counts.insert(file.path.clone(), own.len());
                file.text = applied(file, &own);
            }
        }
        let errors = |found: &[Finding]| found.iter().filter(|f| f.diagnostic.is_error()).count();
        let (after, _) = look(next.clone(), dir, options);
        // What compiles at last may have warnings that were not looked for before.
        let better = (errors(&after), after.len()) < (errors(&findings), findings.len());
        if !better {
            break;
        }
        for (file, n) in counts {
            *fixed.entry(file).or_default() += n;
        }
        *texts = next;
    }
    for (old, new) in before.iter().zip(&texts.files) {
        if old.text != new.text {
            fmt::replace(&dir.join(&new.path), &new.text)
                .map_err(|error| fmt::unwritten(&new.path, &error))?;
        }
    }
    Ok(fixed.into_iter().collect())
}

/// The edits of all findings, the last of a file first, none over another.
fn chosen(findings: &[Finding]) -> Vec<Edit> {
    let mut edits: Vec<Edit> = findings.iter().filter_map(|f| f.edit.clone()).collect();
    edits.sort_by(|a, b| (&a.file, a.span.start).cmp(&(&b.file, b.span.start)));
    edits.dedup_by(|later, earlier| {
        later.file == earlier.file
            && later.span.start < earlier.span.end.max(earlier.span.start + 1)
    });
    edits.reverse();
    edits
}

fn applied(file: &File, edits: &[&Edit]) -> String {
    let laid_out = |text: &str| {
        let source = Source::new(file.path.as_str(), text);
        fmt::format(&source).is_ok_and(|formatted| formatted == text)
    };
    let mut text = file.text.clone();
    for edit in edits {
        text.replace_range(edit.span.clone(), &edit.text);
    }
    let source = Source::new(file.path.as_str(), text.as_str());
    match fmt::format(&source) {
        Ok(formatted) if laid_out(&file.text) => formatted,
        _ => text,
    }
}

/// For each diagnostic about an optional attribute that is read unasked the edit that asks
/// first, where one can be had after which a request without the attribute fares no better
/// than before: a permit does not match it, a forbid does.
pub(super) fn guards(draft: &Draft, found: &[Diagnostic]) -> Vec<Option<Edit>> {
    found
        .iter()
        .map(|d| {
            let optional = matches!(d.code.0, codes::FORBID_OPTIONAL | codes::PERMIT_OPTIONAL);
            let at = d.location.as_ref().filter(|_| optional)?;
            let read = draft.parts.read.values().find(|read| {
                let end = read.span.start + read.span.len;
                read.source.path == at.file && (read.span.start..end).contains(&at.offset)
            })?;
            let id = cedar_policy::PolicyId::new(read.info.id.as_str());
            let body = Body::of(draft.policies.policy(&id)?)?;
            let spot = at.offset..at.offset + at.len;
            let tree = body.tree();
            let node = tree.iter().find_map(|c| safe(c, &spot, read.info.permit))?;
            let text = &read.source.text;
            let guard = guard(text.get(spot)?)?;
            Some(asking(text, node, &guard, at.file.clone()))
        })
        .collect()
}

/// `principal has service` for `principal.service`, `a has "b"` for `a["b"]`, and
/// `a.hasTag("b")` for `a.getTag("b")`.
fn guard(access: &str) -> Option<String> {
    if access.ends_with(')') {
        let (of, tag) = cedar::tag_read(access)?;
        return Some(format!("{of}.hasTag({tag})"));
    }
    if let Some(inner) = access.strip_suffix(']') {
        let (of, attribute) = inner.rsplit_once('[')?;
        return Some(format!("{of} has {attribute}"));
    }
    let (of, attribute) = access.rsplit_once('.')?;
    Some(format!("{of} has {attribute}"))
}

/// The smallest part around `spot` that is a truth value by its place, and whose being false
/// keeps a permit from matching, or makes a forbid match.
fn safe<'n>(condition: &'n Condition, spot: &Range<usize>, permit: bool) -> Option<&'n Node> {
    let holds = |n: &Node| n.span.start <= spot.start && spot.end <= n.span.end;
    let mut at = Some(&condition.node).filter(|n| holds(n))?;
    // Whether the policy matches less where `at` is false.
    let mut narrows = condition.kind == Kind::When;
    let mut best = None;
    loop {
        if narrows == permit {
            best = Some(at);
        }
        let parts = match &at.term {
            Term::And(_) | Term::Or(_) => at.children(),
            Term::Not(inner) if inner.span != at.span => {
                narrows = !narrows;
                at.children()
            }
            // Its test decides both ways.
            Term::If(parts) if !parts.first().is_some_and(holds) => at.children(),
            _ => return best,
        };
        match parts.into_iter().find(|part| holds(part)) {
            Some(part) => at = part,
            None => return best,
        }
    }
}

/// The edit that puts `guard` before `node`, in brackets where it is negated.
fn asking(text: &str, node: &Node, guard: &str, file: std::sync::Arc<str>) -> Edit {
    let own = text.get(node.span.clone()).unwrap_or_default();
    let own = match &node.term {
        Term::If(_) | Term::Or(_) => format!("({own})"),
        _ => own.to_owned(),
    };
    let before = text.get(..node.span.start).unwrap_or_default().trim_end();
    let asked = match before.ends_with('!') {
        true => format!("({guard} && {own})"),
        false => format!("{guard} && {own}"),
    };
    Edit {
        file,
        span: node.span.clone(),
        text: asked,
    }
}
