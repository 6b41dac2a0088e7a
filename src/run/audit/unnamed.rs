//! Texts that are recorded for good, reasons and names of files: they must name nobody whom
//! they are about.

use std::rc::Rc;

use palisade_audit::{
    privacy::{MARK, PSEUDONYM_LEN, Pseudonym},
    query::Query,
};
use palisade_mesh::diagnostic::Diagnostic;

use super::{AuditRole, Reader};

/// Longest reason, in bytes.
const REASON_LEN_MAX: usize = 500;
/// Shortest name, in bytes, that is found within other words, too.
const NAME_LEN_CLEAR: usize = 5;
/// Bytes of a pseudonym as it is written: what it begins with, and two digits for each of its own.
const WRITTEN_LEN: usize = MARK.len() + 2 * PSEUDONYM_LEN;
/// Most words, and signs between them, of a name that is looked for by its pseudonym.
const PARTS_MAX: usize = 24;

/// Whom a question is about.
#[derive(Debug, Default)]
pub(super) struct About {
    /// By name.
    pub(super) names: Vec<String>,
    /// By pseudonym.
    pub(super) persons: Vec<Pseudonym>,
}

impl About {
    /// Whom a text is about: the names in it, where it is a query, and all pseudonyms.
    pub(super) fn of(text: &str) -> Self {
        let names = Query::parse(text).map_or_else(|_| Vec::new(), |query| query.names());
        let from = text.match_indices(MARK).map(|(at, _)| at);
        let read = |at: usize| text.get(at..at + WRITTEN_LEN)?.parse().ok();
        Self {
            names,
            persons: from.filter_map(read).collect(),
        }
    }
}

impl AuditRole {
    /// A reason as it may be recorded.
    ///
    /// # Errors
    /// `PLS7565` for one that is none, or names whom it is about.
    pub(super) fn reason(&self, text: &str, about: &About) -> Result<String, Diagnostic> {
        let reason = reason(text)?;
        self.names_none_of(&reason, about)?;
        Ok(reason)
    }

    /// Refuses a reader whose reason, or name of a file, names somebody whom it asks about.
    ///
    /// # Errors
    /// `PLS7565`.
    pub(super) fn unnamed(&self, reader: &Reader, query: &str) -> Result<(), Diagnostic> {
        let about = About::of(query);
        reader
            .kept()
            .iter()
            .try_for_each(|text| self.names_none_of(text, &about))
    }

    /// Refuses a text that is to be recorded and names somebody whom it is about: as that
    /// name was given, or as one that the pseudonym is of.
    ///
    /// # Errors
    /// `PLS7565`.
    pub(super) fn names_none_of(&self, text: &str, about: &About) -> Result<(), Diagnostic> {
        nameless(text, &about.names)?;
        if about.persons.is_empty() {
            return Ok(());
        }
        let is_one = |name: &str| about.persons.contains(&self.vault.pseudonym(name));
        let lower = text.to_lowercase();
        let found = phrases(text).any(is_one) || (lower != text && phrases(&lower).any(is_one));
        match found {
            false => Ok(()),
            true => Err(named()),
        }
    }
}

/// A reason as it may be recorded.
///
/// # Errors
/// `PLS7565` for one that is none.
pub(super) fn reason(text: &str) -> Result<String, Diagnostic> {
    let text = text.trim();
    if text.is_empty() || text.len() > REASON_LEN_MAX || text.contains(char::is_control) {
        return Err(
            Diagnostic::error(7565, "there is no reason that can be recorded")
                .cause(format!("a reason is a line of 1 to {REASON_LEN_MAX} bytes"))
                .help("say why, for whoever reads the log later: --reason 'request 4711 of 3 May'"),
        );
    }
    Ok(text.to_owned())
}

/// Refuses a text that is to be recorded and names somebody, however it is written.
pub(crate) fn nameless(text: &str, names: &[String]) -> Result<(), Diagnostic> {
    let text = text.to_lowercase();
    let is_in = |name: &String| {
        let name = name.to_lowercase();
        let mut found = text.match_indices(&name);
        !name.is_empty()
            && found.any(|(at, _)| name.len() >= NAME_LEN_CLEAR || is_word(&text, at, name.len()))
    };
    match names.iter().any(is_in) {
        false => Ok(()),
        true => Err(named()),
    }
}

fn named() -> Diagnostic {
    Diagnostic::error(7565, "the reason or the file's name names the person")
        .cause("it is recorded, and the name would be kept for years")
        .help("name the request instead: --reason 'request 4711 of 3 May'")
}

/// What in a text can be a name: words with what joins them, as in `alice@example.org`.
fn phrases(text: &str) -> impl Iterator<Item = &str> {
    let mut cuts = vec![0];
    let mut before: Option<char> = None;
    for (at, c) in text.char_indices() {
        let goes_on = c.is_alphanumeric() && before.is_some_and(char::is_alphanumeric);
        if at > 0 && !goes_on {
            cuts.push(at);
        }
        before = Some(c);
    }
    cuts.push(text.len());
    let many = cuts.len();
    let cuts: Rc<[usize]> = cuts.into();
    (0..many).flat_map(move |from| {
        let ends = from + 1..many.min(from + 1 + PARTS_MAX);
        let cuts = cuts.clone();
        ends.filter_map(move |to| text.get(*cuts.get(from)?..*cuts.get(to)?))
    })
}

/// Whether a short name stands by itself, not within another word.
fn is_word(text: &str, at: usize, len: usize) -> bool {
    let (before, rest) = text.split_at(at);
    let after = rest.get(len..).unwrap_or_default();
    let joins = |c: char| c.is_alphanumeric();
    !before.ends_with(joins) && !after.starts_with(joins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_names_nobody() {
        let check = |text: &str, name: &str, expected: bool| {
            let told = nameless(text, &[name.to_owned()]);
            assert_eq!(told.is_ok(), expected, "{text}: {name}");
        };
        check("request 4711", "alice@example.org", true);
        check("Alice@Example.ORG asked", "alice@example.org", false);
        check("to/of-alice@example.org.jsonl", "alice@example.org", false);
        check("the ticket", "t", true);
        check("ticket of T", "t", false);
        check("anna asked", "anna", false);
        check("hannah asked", "anna", true);
        check("anything", "", true);
    }

    #[test]
    fn a_reason_has_its_limits() {
        let code = |text: &str| reason(text).map_err(|told| told.code.0);
        assert_eq!(code(" x "), Ok("x".into()));
        assert_eq!(
            code(&"x".repeat(REASON_LEN_MAX)),
            Ok("x".repeat(REASON_LEN_MAX))
        );
        assert_eq!(code(&"x".repeat(REASON_LEN_MAX + 1)), Err(7565));
        assert_eq!(code(" "), Err(7565));
        assert_eq!(code("a\nb"), Err(7565));
    }

    #[test]
    fn whom_a_text_is_about_is_read_from_it() {
        let person = "p-00112233445566778899aabbccddeeff";
        for text in [
            format!("subject:{person} class:*"),
            format!("case 7 (class:* subject:{person} of all times)"),
        ] {
            let about = About::of(&text);
            assert_eq!(about.persons, [person.parse().unwrap()], "{text}");
            assert!(about.names.is_empty());
        }
        let about = About::of("subject:alice@example.org path:/p-0011");
        assert_eq!(about.names, ["alice@example.org"]);
        assert!(about.persons.is_empty());
    }

    #[test]
    fn a_name_is_found_wherever_it_stands() {
        let has = |text: &str, name: &str| phrases(text).any(|phrase| phrase == name);
        assert!(has(
            "request of alice@example.org, 3 May",
            "alice@example.org"
        ));
        assert!(has("/tmp/alice@example.org.jsonl", "alice@example.org"));
        assert!(has("Zoë Müller asked", "Zoë Müller"));
        assert!(has("from 2001:db8::7", "2001:db8::7"));
        assert!(has("bob", "bob"));
        assert!(!has("bobby", "bob"));
        assert_eq!(phrases("").filter(|phrase| !phrase.is_empty()).count(), 0);
        let longest = "a.".repeat(PARTS_MAX / 2);
        assert!(has(&format!("x {longest}"), &longest));
        let longer = format!("{longest}b");
        assert!(!has(&format!("x {longer}"), &longer));
    }
}
