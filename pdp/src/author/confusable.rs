//! Characters that show one thing and are another (PLS1141).
//!
//! Reviews are of what is shown. A character that turns the direction of text (CVE-2021-42574),
//! one that cannot be seen, a break of a line that is shown as none, a letter of another script in
//! the middle of a word (Unicode
//! Technical Standard 39, section 5), or a look-alike of `/` in a path: each of them makes a text
//! that says something else than its reader sees. Cedar looks at the strings of conditions; here
//! are comments, annotations, the other files, and their names.
//!
//! Whoever makes a revision is told. One that is in force stays: it was taken with these texts.

use std::{collections::BTreeSet, ops::Range};

use palisade_mesh::{
    diagnostic::{Diagnostic, Severity},
    wire::policy::{Contribution, File},
    yaml::{Source, Span},
};
use unicode_security::{MixedScript, skeleton};

use super::{
    DIAGNOSTICS_MAX, codes, files,
    yaml::{Node, Value, parse},
};

mod compared;
mod strings;
mod unseen;
mod words;

use unseen::Zone;
use words::mixed;

/// Annotations and keys with sentences for people, which may name things of other scripts as
/// they please.
const PROSE: &[&str] = &["deny_message", "description", "name"];

/// Keys of maps whose own keys are names that the author gives.
const FREE: &[&str] = &["groups", "labels"];

/// What is wrong with one place of a file.
struct Doubt {
    at: Range<usize>,
    diagnostic: Diagnostic,
    /// Whether people alone read what stands there.
    in_prose: bool,
}

impl Doubt {
    fn new(at: Range<usize>, diagnostic: Diagnostic) -> Self {
        Self {
            at,
            diagnostic,
            in_prose: false,
        }
    }
}

/// What of a text is only warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spared {
    Nothing,
    Prose,
    All,
}

/// Looks through all texts and their names. Those that are ASCII cost one pass over their bytes.
///
/// Nothing of it keeps the changes of others from being in force. What a source has in its comments
/// and sentences is an error where the source itself is checked, and a warning here; so is all
/// that those sources have which are in force as they are (`in_force`, the repository's own name
/// is empty): they were taken with these texts.
pub(super) fn refuse(
    texts: &[File],
    sources: &[Contribution],
    in_force: &BTreeSet<String>,
    found: &mut Vec<Diagnostic>,
) {
    let spared = |path: &str| {
        let of = sources.iter().map(|source| source.name.as_str());
        let is_in = |name: &&str| path.strip_prefix(*name).is_some_and(|p| p.starts_with('/'));
        let name = of.filter(|name| !name.is_empty()).find(is_in);
        match name {
            name if in_force.contains(name.unwrap_or_default()) => Spared::All,
            Some(_) => Spared::Prose,
            None => Spared::Nothing,
        }
    };
    // What the compiler tells everybody is a mistake for those who can mend it.
    for known in found.iter_mut().filter(|d| d.code.0 == codes::CONFUSABLE) {
        let file = known.location.as_ref().map_or("", |at| &at.file);
        if spared(file) != Spared::All {
            known.severity = Severity::Error;
        }
    }
    let is_plain = |file: &&File| file.path.is_ascii() && unseen::is_plain(&file.text);
    for file in texts.iter().filter(|file| !is_plain(file)) {
        let source = Source::new(file.path.as_str(), file.text.as_str());
        look_at(&source, spared(&file.path), found);
    }
}

/// Looks through one text and its name, for what is not told yet.
pub(super) fn look(source: &Source, found: &mut Vec<Diagnostic>) {
    look_at(source, Spared::Nothing, found);
}

/// The string in `span` of Cedar text that Cedar means where it calls the expression there
/// confusable: the last one in it that could be. None where its characters are written as escapes.
pub(super) fn string_in(text: &str, span: Range<usize>) -> Option<Span> {
    let part = text.get(span.clone())?;
    let strings = strings::of(part).strings.into_iter();
    let is_it = |at: &Range<usize>| {
        let text = part.get(at.clone()).unwrap_or_default();
        !text.is_single_script() || text.chars().any(unseen::turns)
    };
    let at = strings.map(|string| string.span).rfind(is_it)?;
    // With its quotation marks.
    Some(Span::new(span.start + at.start - 1, at.len() + 2))
}

fn look_at(source: &Source, spared: Spared, found: &mut Vec<Diagnostic>) {
    if !source.path.is_ascii() {
        let of_path = of_path(&source.path).map(|d| Diagnostic {
            severity: match spared {
                Spared::All => Severity::Warning,
                _ => d.severity,
            },
            ..d.at(source.line(1))
        });
        found.extend(of_path);
    }
    if unseen::is_plain(&source.text) {
        return;
    }
    let mut doubts = match source.path.ends_with(".cedar") || source.path.ends_with(files::SCHEMA) {
        true => of_cedar(source),
        false => of_yaml(source),
    };
    let is_spared = |doubt: &Doubt| match spared {
        Spared::All => true,
        Spared::Prose => doubt.in_prose,
        Spared::Nothing => false,
    };
    for doubt in doubts.iter_mut().filter(|d| is_spared(d)) {
        doubt.diagnostic.severity = Severity::Warning;
    }
    tell(source, doubts, found);
}

fn of_cedar(source: &Source) -> Vec<Doubt> {
    let strings::Parts { strings, comments } = strings::of(&source.text);
    let zone = |s: &strings::Text<'_>| match s.annotation {
        Some(name) if PROSE.contains(&name) => Zone::Prose,
        None | Some("id") => Zone::Compared,
        Some(_) => Zone::Name,
    };
    let comments = comments.into_iter().map(|at| (at, Zone::Prose));
    let of_strings = strings.iter().map(|s| (s.span.clone(), zone(s)));
    let mut doubts = hidden(source, comments.chain(of_strings).collect(), Zone::Compared);
    let names = strings.iter().filter(|s| s.annotation.is_some());
    let names = names.filter(|s| zone(s) != Zone::Prose);
    doubts.extend(names.filter_map(|s| {
        let text = source.text.get(s.span.clone())?;
        mixed(&without_escapes(text), s.span.start)
    }));
    doubts.extend(compared::look(source, &strings));
    doubts
}

/// What does not parse is told elsewhere, and with it what its parser takes for no text.
fn of_yaml(source: &Source) -> Vec<Doubt> {
    let scalars = scalars(source);
    let zones = scalars
        .iter()
        .map(|(span, zone)| (span.start..span.start + span.len, *zone));
    let mut doubts = hidden(source, zones.collect(), Zone::Prose);
    let refused = |text: &str| text.chars().any(|c| c.is_ascii_control() && c != '\r');
    doubts.retain(|d| !source.text.get(d.at.clone()).is_some_and(refused));
    let names = scalars.iter().filter(|(_, zone)| *zone == Zone::Name);
    doubts.extend(names.filter_map(|(span, _)| {
        let text = source.slice(*span);
        match text.starts_with('"') {
            true => mixed(&without_escapes(text), span.start),
            false => mixed(text, span.start),
        }
    }));
    doubts
}

/// The same, with spaces in place of each `\` and the character after it, which is no letter.
fn without_escapes(text: &str) -> String {
    let mut escaped = false;
    let plain = text.chars().map(|c| {
        let is_part = escaped || c == '\\';
        escaped = c == '\\' && !escaped;
        if is_part && c.is_ascii() { ' ' } else { c }
    });
    plain.collect()
}

/// What is not seen in these parts of a text, and in the `rest` of it.
fn hidden(source: &Source, mut zones: Vec<(Range<usize>, Zone)>, rest: Zone) -> Vec<Doubt> {
    let text = &*source.text;
    zones.sort_by_key(|(at, _)| at.start);
    let mut doubts = Vec::new();
    let mut from = 0;
    for (at, zone) in zones {
        if at.start < from {
            continue;
        }
        doubts.extend(unseen::look(text, from..at.start, rest));
        from = at.end;
        doubts.extend(unseen::look(text, at, zone));
    }
    doubts.extend(unseen::look(text, from..text.len(), rest));
    doubts
}

/// Tells what nothing at the same place was told of.
fn tell(source: &Source, doubts: Vec<Doubt>, found: &mut Vec<Diagnostic>) {
    for Doubt { at, diagnostic, .. } in doubts {
        if found.len() > DIAGNOSTICS_MAX {
            return;
        }
        let overlaps = |d: &Diagnostic| {
            d.code.0 == codes::CONFUSABLE
                && d.location.as_ref().is_some_and(|there| {
                    there.file == source.path
                        && there.offset < at.end
                        && at.start < there.offset + there.len
                })
        };
        if !found.iter().any(overlaps) {
            found.push(diagnostic.at(source.span(Span::new(at.start, at.len()))));
        }
    }
}

/// What is wrong with the name of a file.
fn of_path(path: &str) -> Option<Diagnostic> {
    let unseen = unseen::look(path, 0..path.len(), Zone::Compared);
    let doubt = unseen.into_iter().next().or_else(|| mixed(path, 0));
    let mut diagnostic = match doubt {
        Some(doubt) => doubt.diagnostic.help("give the file another name"),
        None => {
            // Signs of other scripts are in order, unless they divide names or are letters.
            let misleads = |c: char, plain: char| {
                "/.:\\".contains(plain) && !c.is_alphanumeric()
                    || is_fullwidth(c) && plain.is_ascii_alphanumeric()
            };
            let mut all = path.chars().filter_map(|c| Some((c, lookalike(c)?)));
            let (c, plain) = all.find(|(c, plain)| misleads(*c, *plain))?;
            looks_like(c, plain)
                .cause("two files that look the same would not be the same")
                .help(format!("write `{plain}`"))
        }
    };
    let shown: String = path.chars().map(escaped).collect();
    diagnostic.message = format!("name of the file `{shown}`: {}", diagnostic.message);
    Some(diagnostic)
}

/// An ASCII character as wide as those of Chinese.
fn is_fullwidth(c: char) -> bool {
    matches!(c, '\u{ff01}'..='\u{ff5e}')
}

/// The ASCII character that `c` is taken for. Letters and digits that look like a mere stroke, ring
/// or dot may be meant as any of several.
fn lookalike(c: char) -> Option<char> {
    if is_fullwidth(c) {
        return char::from_u32(u32::from(c) - 0xfee0);
    }
    let mut buffer = [0; 4];
    let mut shown = skeleton(c.encode_utf8(&mut buffer));
    let first = shown.next().filter(|_| !c.is_ascii())?;
    let is_vague = c.is_alphanumeric() && "lIO.'|".contains(first);
    (first.is_ascii() && shown.next().is_none() && !is_vague).then_some(first)
}

fn looks_like(c: char, plain: char) -> Diagnostic {
    Diagnostic::error(
        codes::CONFUSABLE,
        format!("`{c}` ({}) looks like `{plain}`", point(c)),
    )
}

/// A character that cannot be mistaken for another: ASCII as it is, all else by its number.
fn escaped(c: char) -> String {
    match c.is_ascii() {
        true => c.to_string(),
        false => c.escape_unicode().to_string(),
    }
}

/// A character by its number: `U+202E`.
fn point(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// Where keys and values of a YAML file stand, and what they are for; nothing of one that does
/// not parse, which is told elsewhere.
fn scalars(source: &Source) -> Vec<(Span, Zone)> {
    let mut spans = Vec::new();
    if let Some(root) = parse(source, &mut Vec::new()) {
        below(&root, false, &mut spans);
    }
    spans
}

/// `free` says that the keys of a map are names that its author gave.
fn below(node: &Node, free: bool, spans: &mut Vec<(Span, Zone)>) {
    match &node.value {
        Value::Null => {}
        Value::Scalar(_) => spans.push((node.span, Zone::Name)),
        Value::List(items) => items.iter().for_each(|item| below(item, false, spans)),
        Value::Map(entries) => {
            for entry in entries {
                let key = entry.key.as_str();
                spans.push((entry.key_span, Zone::Name));
                match &entry.value.value {
                    Value::Scalar(_) if !free && PROSE.contains(&key) => {
                        spans.push((entry.value.span, Zone::Prose));
                    }
                    _ => below(&entry.value, !free && FREE.contains(&key), spans),
                }
            }
        }
    }
}
