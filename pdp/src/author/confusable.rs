//! Characters that show one thing and are another (PLS1141).
//!
//! Reviews are of what is shown. A character that turns the direction of text (CVE-2021-42574),
//! one that cannot be seen, a letter of another script in the middle of a word (Unicode
//! Technical Standard 39, section 5), or a look-alike of `/` in a path: each of them makes a text
//! that says something else than its reader sees. Cedar looks at the strings of conditions; here
//! are comments, annotations, the other files, and their names.
//!
//! Whoever makes a revision is told. One that is in force stays: it was taken with these texts.

use std::ops::Range;

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::policy::File,
    yaml::{Source, Span},
};
use unicode_security::{mixed_script::AugmentedScriptSet, skeleton};

use super::{
    DIAGNOSTICS_MAX, codes, files,
    yaml::{Node, Value, parse},
};

mod compared;
mod strings;

/// Annotations and keys with sentences for people, which may name things of other scripts as
/// they please.
const PROSE: &[&str] = &["deny_message", "description", "name"];

/// What is wrong with one place of a file.
struct Doubt {
    at: Range<usize>,
    diagnostic: Diagnostic,
}

/// Looks through all texts and their names. Those that are ASCII cost one pass over their bytes.
pub(super) fn refuse(texts: &[File], found: &mut Vec<Diagnostic>) {
    let is_plain = |file: &&File| file.path.is_ascii() && file.text.is_ascii();
    for file in texts.iter().filter(|file| !is_plain(file)) {
        look(&Source::new(file.path.as_str(), file.text.as_str()), found);
    }
}

/// Looks through one text and its name, for what is not told yet.
pub(super) fn look(source: &Source, found: &mut Vec<Diagnostic>) {
    if !source.path.is_ascii() {
        found.extend(of_path(&source.path).map(|d| d.at(source.line(1))));
    }
    if source.text.is_ascii() {
        return;
    }
    let mut doubts = hidden(&source.text);
    match source.path.ends_with(".cedar") || source.path.ends_with(files::SCHEMA) {
        true => {
            let strings = strings::of(&source.text);
            let names = strings.iter().filter(|s| !s.is_prose(PROSE));
            doubts.extend(names.filter(|s| s.annotation.is_some()).filter_map(|s| {
                let text = source.text.get(s.span.clone())?;
                mixed(text, s.span.start)
            }));
            doubts.extend(compared::look(source, &strings));
        }
        false => doubts.extend(scalars(source).into_iter().filter_map(|span| {
            let text = source.slice(span);
            mixed(text, span.start)
        })),
    }
    tell(source, doubts, found);
}

/// Tells what nothing at the same place was told of.
fn tell(source: &Source, doubts: Vec<Doubt>, found: &mut Vec<Diagnostic>) {
    for Doubt { at, diagnostic } in doubts {
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
    let doubt = hidden(path).into_iter().next().or_else(|| mixed(path, 0));
    let mut diagnostic = match doubt {
        Some(doubt) => doubt.diagnostic,
        None => {
            let suspect = |c: &char| !c.is_alphanumeric() || is_fullwidth(*c);
            let mut suspects = path.chars().filter(suspect);
            let (c, plain) = suspects.find_map(|c| Some((c, lookalike(c)?)))?;
            looks_like(c, plain)
                .cause("two files that look the same would not be the same")
                .help(format!("write `{plain}`"))
        }
    };
    let shown: String = path.chars().map(escaped).collect();
    diagnostic.message = format!("name of the file `{shown}`: {}", diagnostic.message);
    Some(diagnostic)
}

/// Characters that nobody sees, each run of them once.
fn hidden(text: &str) -> Vec<Doubt> {
    let mut doubts: Vec<Doubt> = Vec::new();
    let mut before = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        // A byte order mark is what some editors begin a file with.
        let is_start = at == 0 && c == '\u{feff}';
        if c.is_ascii() || is_start || !is_ignorable(c) {
            before = Some(c);
            continue;
        }
        let (mut end, mut run) = (at + c.len_utf8(), vec![c]);
        while let Some((i, c)) = chars.next_if(|(_, c)| is_ignorable(*c)) {
            end = i + c.len_utf8();
            run.push(c);
        }
        let after = chars.peek().map(|(_, c)| *c);
        if !joins(before, &run, after) {
            doubts.push(Doubt {
                at: at..end,
                diagnostic: unseen(&run),
            });
        }
        if doubts.len() > DIAGNOSTICS_MAX {
            break;
        }
    }
    doubts
}

/// Whether a run of joiners and variation selectors shapes what stands around it, as in emoji
/// and in the scripts of Persian and Hindi. Beside ASCII they shape nothing.
fn joins(before: Option<char>, run: &[char], after: Option<char>) -> bool {
    let shapes = |c: &char| matches!(c, '\u{180b}'..='\u{180d}' | '\u{fe00}'..='\u{fe0f}');
    let joiner = |c: &char| matches!(c, '\u{200c}' | '\u{200d}');
    let foreign = |c: Option<char>| c.is_some_and(|c| !c.is_ascii());
    match run {
        [one] if shapes(one) => foreign(before),
        [one] if joiner(one) => foreign(before) && foreign(after),
        [one, two] if shapes(one) && joiner(two) => foreign(before) && foreign(after),
        _ => false,
    }
}

/// Whether a character is shown as nothing (`Default_Ignorable_Code_Point`): a skeleton leaves
/// those out.
fn is_ignorable(c: char) -> bool {
    !c.is_ascii() && skeleton(c.encode_utf8(&mut [0; 4])).next().is_none()
}

/// Marks of text direction (Unicode Standard Annex 9, section 2).
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn unseen(run: &[char]) -> Diagnostic {
    let mut points: Vec<String> = run.iter().take(3).map(|c| point(*c)).collect();
    if run.len() > points.len() {
        points.push(format!("{} more", run.len() - points.len()));
    }
    let points = points.join(", ");
    match run.iter().any(|c| turns(*c)) {
        true => Diagnostic::error(
            codes::CONFUSABLE,
            format!("the direction of text is turned by {points}"),
        )
        .cause("what is shown stands elsewhere than where it is read, so that a comment can look like policy and policy like a comment")
        .help("delete it: the direction follows from the letters themselves"),
        false => Diagnostic::error(
            codes::CONFUSABLE,
            format!("a character cannot be seen: {points}"),
        )
        .cause("two texts that look the same would not be the same")
        .help("delete it; where a string means it, write it as an escape: `\\u{…}` in Cedar, `\"\\u…\"` in YAML"),
    }
}

/// The first word of `text` with letters of two scripts; `offset` is where the text begins.
fn mixed(text: &str, offset: usize) -> Option<Doubt> {
    if text.is_ascii() {
        return None;
    }
    let mut from = 0;
    while let Some(start) = text.get(from..)?.find(char::is_alphanumeric) {
        let start = from + start;
        let rest = text.get(start..)?;
        let len = rest.find(|c: char| !c.is_alphanumeric());
        let word = rest.get(..len.unwrap_or(rest.len()))?;
        if let Some((at, c)) = odd_letter(word) {
            let at = offset + start + at;
            return Some(Doubt {
                at: at..at + c.len_utf8(),
                diagnostic: of_two_scripts(word, c),
            });
        }
        from = start + word.len();
    }
    None
}

/// The first letter of a word that is of another script than those before it. Latin letters
/// among those of Chinese, Japanese and Korean are usual ("highly restrictive" in UTS 39).
fn odd_letter(word: &str) -> Option<(usize, char)> {
    if word.is_ascii() {
        return None;
    }
    let latin = AugmentedScriptSet::from('a');
    let (mut all, mut others) = (AugmentedScriptSet::default(), AugmentedScriptSet::default());
    for (at, c) in word.char_indices() {
        let own = AugmentedScriptSet::from(c);
        all.intersect_with(own);
        let mut shared = own;
        shared.intersect_with(latin);
        if shared.is_empty() {
            others.intersect_with(own);
        }
        if all.is_empty() && !(others.hanb || others.jpan || others.kore) {
            return Some((at, c));
        }
    }
    None
}

fn of_two_scripts(word: &str, odd: char) -> Diagnostic {
    Diagnostic::error(
        codes::CONFUSABLE,
        format!("`{word}` has letters of two scripts"),
    )
    .label(format!(
        "{} is {}",
        point(odd),
        AugmentedScriptSet::from(odd)
    ))
    .cause("it looks like a word of one script and is another")
    .help(
        "type the word anew in one script; words of two scripts need a space or a `-` between them",
    )
}

/// An ASCII character as wide as those of Chinese.
fn is_fullwidth(c: char) -> bool {
    matches!(c, '\u{ff01}'..='\u{ff5e}')
}

/// The ASCII character that `c` is taken for.
fn lookalike(c: char) -> Option<char> {
    if is_fullwidth(c) {
        return char::from_u32(u32::from(c) - 0xfee0);
    }
    let mut buffer = [0; 4];
    let mut shown = skeleton(c.encode_utf8(&mut buffer));
    let first = shown.next().filter(|_| !c.is_ascii())?;
    (first.is_ascii() && shown.next().is_none()).then_some(first)
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

/// Where keys and values of a YAML file stand that are no prose; nothing of one that does not
/// parse, which is told elsewhere.
fn scalars(source: &Source) -> Vec<Span> {
    let mut spans = Vec::new();
    if let Some(root) = parse(source, &mut Vec::new()) {
        below(&root, &mut spans);
    }
    spans
}

fn below(node: &Node, spans: &mut Vec<Span>) {
    match &node.value {
        Value::Null => {}
        Value::Scalar(_) => spans.push(node.span),
        Value::List(items) => items.iter().for_each(|item| below(item, spans)),
        Value::Map(entries) => {
            for entry in entries {
                spans.push(entry.key_span);
                if !PROSE.contains(&entry.key.as_str()) {
                    below(&entry.value, spans);
                }
            }
        }
    }
}
