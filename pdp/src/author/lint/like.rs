//! Patterns that match more, or less, than they look like.

use palisade_mesh::diagnostic::Diagnostic;

use super::{Edit, Finding, Policy, Study};
use crate::{
    author::codes,
    decide::{Glob, Node, Term, written},
};

/// Every pattern of every policy, with what it is applied to.
fn patterns(study: &Study) -> impl Iterator<Item = (&Policy, &Node, &Node, &Glob)> {
    study.policies.iter().flat_map(|policy| {
        let nodes = policy.conditions.iter().flat_map(|c| c.node.all());
        nodes.filter_map(move |node| match &node.term {
            Term::Like(of, glob) => Some((policy, node, &**of, glob)),
            _ => None,
        })
    })
}

pub(super) fn everything(study: &Study, findings: &mut Vec<Finding>) {
    for (policy, node, _, _) in patterns(study).filter(|(.., glob)| glob.is_everything()) {
        let diagnostic = Diagnostic::warning(
            codes::LIKE_EVERYTHING,
            format!(
                "policy `{}`: `{}` is true for every text",
                policy.id,
                written(node)
            ),
        )
        .label("matches everything")
        .cause("a pattern of `*` alone restricts nothing")
        .help("leave it out; to ask whether the attribute is there, use `has`")
        .at(study.at(policy, Some(&node.span)));
        findings.push(diagnostic.into());
    }
}

pub(super) fn exact(study: &Study, findings: &mut Vec<Finding>) {
    for (policy, node, of, _) in patterns(study).filter(|(.., glob)| glob.is_exact()) {
        let diagnostic = Diagnostic::warning(
            codes::LIKE_EXACT,
            format!(
                "policy `{}`: a pattern without `*` is an equality",
                policy.id
            ),
        )
        .label("no `*` in it")
        .cause("whoever reads `like` expects more to match than does")
        .help("write `==`, or add the `*` that was meant: palisade policy lint --fix writes `==`")
        .at(study.at(policy, Some(&node.span)));
        let edit = as_equality(study, policy, node, of);
        findings.push(Finding { diagnostic, edit });
    }
}

/// `a like "b"` as `a == "b"`; an escaped `*` is another text there.
fn as_equality(study: &Study, policy: &Policy, node: &Node, of: &Node) -> Option<Edit> {
    let source = &study.read(policy).source;
    let between = source.text.get(of.span.end..node.span.end)?;
    let at = of.span.end + between.find("like")?;
    (!between.contains("\\*")).then(|| Edit {
        file: source.path.clone(),
        span: at..at + "like".len(),
        text: "==".to_owned(),
    })
}

pub(super) fn unanchored(study: &Study, findings: &mut Vec<Finding>) {
    let of_path = |of: &Node| matches!(&of.term, Term::Path(p) if p == "context.http.path");
    for (policy, node, of, glob) in patterns(study) {
        let prefix = glob.prefix();
        if !of_path(of) || glob.is_everything() || prefix.starts_with('/') {
            continue;
        }
        let cause = match prefix.as_str() {
            "" => "it matches at any depth, also where a caller puts the text into a longer path",
            _ => "a path always begins with `/`, so it matches none",
        };
        let diagnostic = Diagnostic::warning(
            codes::LIKE_UNANCHORED,
            format!(
                "policy `{}`: pattern for a path does not begin with `/`",
                policy.id
            ),
        )
        .label("begins anywhere")
        .cause(cause)
        .help("write the whole beginning, such as `\"/admin/*\"`; better, name the operation")
        .at(study.at(policy, Some(&node.span)));
        findings.push(diagnostic.into());
    }
}
