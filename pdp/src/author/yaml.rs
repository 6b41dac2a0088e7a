//! Readers of YAML trees that report every mistake instead of the first.

pub(crate) use palisade_mesh::yaml::{Entry, Node, Value};
use palisade_mesh::{
    diagnostic::{Diagnostic, did_you_mean},
    yaml::{self, Codes, Source, Span},
};

use super::codes;

/// The codes of a repository's files.
const CODES: Codes = Codes {
    duplicate_key: codes::DUPLICATE_KEY,
    syntax: codes::YAML_SYNTAX,
    too_deep: codes::TOO_DEEP,
};

/// Parses a file. A syntax error is reported and gives `None`; doubled keys are
/// reported and the first one is kept.
pub(crate) fn parse(source: &Source, found: &mut Vec<Diagnostic>) -> Option<Node> {
    yaml::parse(source, CODES, found)
}

/// A key that no map of its kind has, as it was told.
pub(crate) struct Unknown<'d> {
    /// What it stands in, such as `an operation`.
    pub(crate) place: &'d str,
    /// The key that it is like.
    pub(crate) near: Option<&'d str>,
}

impl<'d> Unknown<'d> {
    /// Of what [`Reader::fields`] told; `None` where it is about something else.
    pub(crate) fn of(told: &'d Diagnostic) -> Option<Self> {
        if told.code.0 != codes::UNKNOWN_KEY {
            return None;
        }
        let (_, place) = told.message.rsplit_once("` in ")?;
        let near = told.label.as_deref().and_then(|l| l.split('`').nth(1));
        Some(Self { place, near })
    }
}

/// Reads nodes of one file and gathers what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source,
    pub(crate) found: &'a mut Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a Source, found: &'a mut Vec<Diagnostic>) -> Self {
        Self { source, found }
    }

    /// Reports `diagnostic` at `span`.
    pub(crate) fn report(&mut self, diagnostic: Diagnostic, span: Span) {
        self.found.push(diagnostic.at(self.source.span(span)));
    }

    /// The entries of a map whose keys are all in `known`; others are reported.
    pub(crate) fn fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &'static [&'static str],
    ) -> Option<Fields<'n>> {
        let entries = self.map(node, what)?;
        for entry in entries.iter().filter(|e| !known.contains(&e.key.as_str())) {
            let mut diagnostic = Diagnostic::error(
                codes::UNKNOWN_KEY,
                format!("unknown key `{}` in {what}", entry.key),
            )
            .help(format!("known keys: {}", known.join(", ")));
            if let Some(near) = did_you_mean(&entry.key, known.iter().copied()) {
                diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
            }
            self.report(diagnostic, entry.key_span);
        }
        Some(Fields {
            entries,
            span: entries.first().map_or(node.span, |e| e.key_span),
        })
    }

    /// The entries of a map with free keys.
    pub(crate) fn map<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            _ => {
                self.wrong_kind(node, what, "a map");
                None
            }
        }
    }

    /// A text that is not empty.
    pub(crate) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(text) if !text.trim().is_empty() => Some(text),
            _ => {
                self.wrong_kind(node, what, "a text");
                None
            }
        }
    }

    /// The items of a list.
    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.wrong_kind(node, what, "a list");
                None
            }
        }
    }

    /// The texts of a list, with their places; a single text is a list of one.
    pub(crate) fn texts<'n>(&mut self, node: &'n Node, what: &str) -> Vec<(&'n str, Span)> {
        if let Value::Scalar(text) = &node.value {
            return vec![(text, node.span)];
        }
        let items = self.list(node, what).unwrap_or_default();
        items
            .iter()
            .filter_map(|item| Some((self.text(item, what)?, item.span)))
            .collect()
    }

    /// The entry of `choices` that the text names.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        node: &Node,
        what: &str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let mut diagnostic =
            Diagnostic::error(codes::INVALID_VALUE, format!("{what} cannot be `{text}`"))
                .help(format!("one of: {}", names.join(", ")));
        if let Some(near) = did_you_mean(text, names) {
            diagnostic = diagnostic.label(format!("did you mean `{near}`?"));
        }
        self.report(diagnostic, node.span);
        None
    }

    /// Reports that `key` must be there.
    pub(crate) fn missing(&mut self, span: Span, what: &str, key: &str, example: &str) {
        self.report(
            Diagnostic::error(codes::MISSING_KEY, format!("{what} lacks `{key}`"))
                .help(format!("add `{example}`")),
            span,
        );
    }

    fn wrong_kind(&mut self, node: &Node, what: &str, wanted: &str) {
        self.report(
            Diagnostic::error(codes::WRONG_KIND, format!("{what} must be {wanted}"))
                .label(format!("this is {}", node.kind()))
                .help(match wanted {
                    "a list" => "write `[a, b]`, or each item on a line of its own after `- `",
                    "a map" => "write `key: value`, each on a line of its own",
                    _ => "write one value, without brackets; put quotes around it if it holds `:` or `#`",
                }),
            node.span,
        );
    }
}

/// The known keys of a map.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    /// Where the map begins.
    pub(crate) span: Span,
}

impl<'n> Fields<'n> {
    /// The value under `key`, unless it is empty.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|e| e.key == key && !matches!(e.value.value, Value::Null))
            .map(|e| &e.value)
    }

    /// The value under `key`, also an empty one: for what must not be left out unnoticed.
    pub(crate) fn written(&self, key: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|e| e.key == key);
        entry.map(|e| &e.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use palisade_mesh::yaml::DEPTH_MAX;

    use super::*;

    fn tree(text: &str) -> (Option<Node>, Vec<Diagnostic>) {
        let mut found = Vec::new();
        let node = parse(&Source::new("a.yaml", text), &mut found);
        (node, found)
    }

    /// Numbers and booleans keep the text they were written with.
    #[test]
    fn a_scalar_keeps_its_text_and_its_place() {
        let text = "version: 1.10\nflag: yes\nname: \"a b\"\nn: 007\n";
        let (node, found) = tree(text);
        assert!(found.is_empty());
        let Value::Map(entries) = node.expect("parses").value else {
            panic!("a map");
        };
        let seen: Vec<_> = entries
            .iter()
            .map(|e| match &e.value.value {
                Value::Scalar(s) => (e.key.as_str(), s.as_str(), e.value.span.start),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("version", "1.10", 9),
                ("flag", "yes", 20),
                ("name", "a b", 30),
                ("n", "007", 39),
            ]
        );
        assert_eq!(entries[1].key_span, Span::new(14, 4));
    }

    #[test]
    fn a_doubled_key_is_reported_and_the_rest_is_still_read() {
        let (node, found) = tree("a: 1\nb: 2\na: 3\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].code.0, codes::DUPLICATE_KEY);
        assert_eq!(found[0].location.as_ref().map(|l| l.line), Some(3));
        assert!(node.is_some());
    }

    #[test]
    fn a_syntax_error_has_a_place_and_a_cause() {
        let (node, found) = tree("a: [1, 2\nb: }\n");
        assert!(node.is_none());
        assert_eq!(found[0].code.0, codes::YAML_SYNTAX);
        assert!(found[0].location.is_some() && found[0].cause.is_some());
    }

    #[test]
    fn nesting_is_bounded_on_both_sides() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let (node, found) = tree(&nested(DEPTH_MAX));
        assert!(node.is_some() && found.is_empty(), "{found:?}");
        let (node, found) = tree(&nested(DEPTH_MAX + 1));
        assert!(node.is_none());
        assert_eq!(found[0].code.0, codes::TOO_DEEP);
        // Attack T94: a hostile depth ends quickly, without a crash.
        assert!(tree(&"[".repeat(500_000)).0.is_none());
    }

    #[test]
    fn an_unknown_key_is_met_with_a_suggestion() {
        let source = Source::new("a.yaml", "servce: shop/orders\n");
        let mut found = Vec::new();
        let node = parse(&source, &mut found).expect("parses");
        Reader::new(&source, &mut found).fields(&node, "a service", &["service", "hosts"]);
        assert_eq!(found[0].code.0, codes::UNKNOWN_KEY);
        assert_eq!(found[0].label.as_deref(), Some("did you mean `service`?"));
        assert_eq!(
            found[0].location.as_ref().map(|l| (l.column, l.len)),
            Some((1, 6))
        );
    }

    proptest! {
        /// No text panics, and every place lies within it.
        #[test]
        fn any_text_is_read_or_refused(text in "[-a: \\[\\]{}\"'&*!|>#\n\t\u{e9}0-9]{0,80}") {
            let (_, found) = tree(&text);
            for d in found {
                let at = d.location.expect("located");
                prop_assert!(at.offset + at.len <= text.len());
            }
        }
    }
}
