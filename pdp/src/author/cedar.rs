//! Cedar's diagnostics in our words: on the named file, with policy ids,
//! without long lists of expected tokens.

use cedar_policy::{CedarSchemaError, ParseErrors, SchemaWarning};
use miette::Diagnostic as Report;
use palisade_mesh::{
    diagnostic::{Diagnostic, Location, did_you_mean},
    yaml::{Source, Span},
};

use super::codes;

/// Most expected tokens that are worth telling.
const EXPECTED_MAX: usize = 3;

/// The entity and the tag of `ENTITY.getTag(TAG)`; each may hold such a text itself.
pub(super) fn tag_read(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut open, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => in_string = !in_string,
            '(' if !in_string => {
                open = if depth == 0 { at } else { open };
                depth += 1;
            }
            ')' if !in_string => depth = depth.checked_sub(1)?,
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
    }
    let entity = text.get(..open)?.trim_end().strip_suffix(".getTag")?;
    let tag = text.get(open + 1..)?.strip_suffix(')')?;
    (depth == 0).then_some((entity, tag))
}

/// Everything that keeps a policy file from parsing.
pub(crate) fn of_parse(errors: &ParseErrors, source: &Source) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = errors
        .iter()
        .map(|e| of_syntax(of_report(codes::CEDAR_SYNTAX, e, source), source))
        .collect();
    found.dedup_by(|a, b| a.location == b.location && a.message == b.message);
    found
}

/// Says what is meant where Cedar says what its lexer saw.
fn of_syntax(mut diagnostic: Diagnostic, source: &Source) -> Diagnostic {
    if let Some(effect) = diagnostic.message.strip_prefix("invalid policy effect: ") {
        let effect = effect.trim_matches('`').to_owned();
        diagnostic.message = format!("`{effect}` is neither `permit` nor `forbid`");
        diagnostic.label = did_you_mean(&effect, ["permit", "forbid"])
            .map(|near| format!("did you mean `{near}`?"));
        diagnostic.help = Some("a policy begins with `permit (` or `forbid (`".to_owned());
    }
    if diagnostic.message == "invalid token"
        && let Some(line) = open_string(&source.text)
    {
        diagnostic.message = "a string is not closed".to_owned();
        diagnostic.location = Some(source.line(line));
        diagnostic.help = Some("close it with `\"` on the same line".to_owned());
    }
    if diagnostic.help.is_none() {
        let help = "a policy is `permit (principal, action, resource) when { … };`: see that each bracket is closed and a `;` ends it";
        diagnostic.help = Some(help.to_owned());
    }
    diagnostic
}

/// The first line, from one, with a quotation mark that no other closes: strings may
/// span lines in Cedar, but hardly any does.
fn open_string(text: &str) -> Option<usize> {
    let is_open = |line: &str| {
        let mut open = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if open => drop(chars.next()),
                '"' => open = !open,
                '/' if !open && chars.peek() == Some(&'/') => return false,
                _ => {}
            }
        }
        open
    };
    text.lines().position(is_open).map(|line| line + 1)
}

/// Everything that keeps a schema file from parsing.
pub(crate) fn of_schema(error: &CedarSchemaError, source: &Source) -> Vec<Diagnostic> {
    let mut found = vec![of_report(codes::SCHEMA, error, source)];
    let related = error.related().into_iter().flatten();
    found.extend(related.map(|r| of_report(codes::SCHEMA, r, source)));
    found
}

/// A warning about a schema file.
pub(crate) fn of_schema_warning(warning: &SchemaWarning, source: &Source) -> Diagnostic {
    let mut diagnostic = of_report(codes::SCHEMA, warning, source);
    diagnostic.severity = palisade_mesh::diagnostic::Severity::Warning;
    diagnostic
}

/// One report of Cedar: message, place, label, help.
pub(crate) fn of_report(code: u16, report: &dyn Report, source: &Source) -> Diagnostic {
    let message = report.to_string();
    let mut diagnostic = Diagnostic::error(code, lower_first(&message));
    let label = report.labels().and_then(|mut labels| labels.next());
    let expected = label.as_ref().and_then(|l| l.label()).map(condensed);
    diagnostic.label = expected.flatten();
    if let Some(help) = report.help() {
        diagnostic.help = Some(without_policy(&help.to_string()).to_owned());
    } else if message.starts_with("unexpected end of input") {
        diagnostic.help = Some("a policy ends with `;`, and every bracket is closed".to_owned());
    }
    diagnostic.location = label.map(|l| source.span(end_fits(source, l.offset(), l.len())));
    if diagnostic.location.is_none() {
        diagnostic.location = Some(source.line(1));
    }
    diagnostic
}

/// The first place that a report marks.
pub(crate) fn first_label(report: &dyn Report, source: &Source) -> Option<Location> {
    let label = report.labels()?.next()?;
    Some(source.span(end_fits(source, label.offset(), label.len())))
}

/// A place at the end of the file is moved to the last character that shows.
fn end_fits(source: &Source, offset: usize, len: usize) -> Span {
    let visible = source.text.trim_end().len();
    if offset >= visible {
        return Span::new(visible.saturating_sub(1), 1);
    }
    Span::new(offset, len.max(1))
}

/// `expected a, b, c, d, …` becomes what is most likely meant, or nothing.
fn condensed(label: &str) -> Option<String> {
    let Some(list) = label.strip_prefix("expected ") else {
        return Some(label.to_owned());
    };
    let list = list.replace(", or ", ", ").replace(" or ", ", ");
    let tokens: Vec<_> = list.split(", ").collect();
    if tokens.len() <= EXPECTED_MAX {
        return Some(label.to_owned());
    }
    let likely = ["`;`", "`)`", "`]`", "`}`", "`,`", "`&&`", "`permit`"];
    let likely: Vec<_> = likely
        .into_iter()
        .filter(|l| tokens.contains(l))
        .take(2)
        .collect();
    match likely.as_slice() {
        [] => None,
        some => Some(format!(
            "perhaps {} is missing before this",
            some.join(" or ")
        )),
    }
}

/// Without the part that names the policy: we tell that ourselves.
pub(crate) fn without_policy(message: &str) -> &str {
    message
        .strip_prefix("for policy `")
        .and_then(|rest| rest.split_once('`'))
        .map_or(message, |(_, rest)| {
            rest.trim_start_matches([',', ':']).trim_start()
        })
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if chars.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().collect::<String>() + chars.as_str()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_expected_tokens_are_condensed() {
        assert_eq!(
            condensed("expected `)` or `,`").as_deref(),
            Some("expected `)` or `,`")
        );
        assert_eq!(
            condensed("expected `!=`, `&&`, `)`, `*`, `+`, or `-`").as_deref(),
            Some("perhaps `)` or `&&` is missing before this")
        );
        assert_eq!(condensed("expected `*`, `+`, `-`, or `<`"), None);
    }

    #[test]
    fn a_string_that_is_open_is_found_on_its_line() {
        assert_eq!(open_string("a \"b\"\n// it's \"\nc \"d;\n"), Some(3));
        assert_eq!(open_string("a \"\\\"\" // \""), None);
    }

    #[test]
    fn the_policy_is_told_once() {
        assert_eq!(
            without_policy("for policy `p1`, attribute `x` not found"),
            "attribute `x` not found"
        );
        assert_eq!(without_policy("something else"), "something else");
    }
}
