//! Characters that nobody sees, those that turn the direction of text, and breaks of lines that
//! are shown as none, or the reverse.

use std::ops::Range;

use palisade_mesh::diagnostic::Diagnostic;

use super::{Doubt, point};
use crate::author::{DIAGNOSTICS_MAX, codes};

/// What a part of a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    /// Read by people alone: comments, descriptions, messages. Whatever a script needs is in order.
    Prose,
    /// Names and values, which may be shaped as their script demands.
    Name,
    /// Read by the engine: code, what conditions compare, ids, names of files.
    Compared,
}

/// Whether `text` has nothing but characters of ASCII that are shown, and breaks of lines.
pub(super) fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_shown = |(i, byte): (usize, &u8)| match byte {
        b'\t' | b'\n' | b' '..=b'~' => true,
        b'\r' => bytes.get(i + 1) == Some(&b'\n'),
        _ => false,
    };
    bytes.iter().enumerate().all(is_shown)
}

/// What is wrong with the part of `text` at `span`.
pub(super) fn look(text: &str, span: Range<usize>, zone: Zone) -> Vec<Doubt> {
    let part = text.get(span.clone()).unwrap_or_default();
    if is_plain(part) {
        return Vec::new();
    }
    let mut doubts = runs(part, span.start == 0, zone);
    if zone == Zone::Prose {
        doubts.extend(unbalanced(part));
    }
    let rest = text.get(span.end..).unwrap_or_default();
    doubts.extend(breaks(part, rest.starts_with('\n')));
    doubts.sort_by_key(|doubt| doubt.at.start);
    doubts.truncate(DIAGNOSTICS_MAX + 1);
    for doubt in &mut doubts {
        doubt.at = span.start + doubt.at.start..span.start + doubt.at.end;
        doubt.in_prose = zone == Zone::Prose;
    }
    doubts
}

/// Characters that nobody sees, each run of them once.
fn runs(text: &str, is_first: bool, zone: Zone) -> Vec<Doubt> {
    let is_unseen = |c: char| is_ignorable(c) && !(zone == Zone::Prose && turns(c));
    let mut doubts: Vec<Doubt> = Vec::new();
    let mut before = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        // A byte order mark is what some editors begin a file with.
        let is_start = is_first && at == 0 && c == '\u{feff}';
        if is_start || !is_unseen(c) {
            before = Some(c);
            continue;
        }
        let (mut end, mut run) = (at + c.len_utf8(), vec![c]);
        while let Some((i, c)) = chars.next_if(|(_, c)| is_unseen(*c)) {
            end = i + c.len_utf8();
            run.push(c);
        }
        let after = chars.peek().map(|(_, c)| *c);
        let is_in_order = match zone {
            Zone::Prose => is_of_script(before, &run, after),
            Zone::Name => joins(before, &run, after) || is_flag(before, &run),
            Zone::Compared => false,
        };
        if !is_in_order {
            doubts.push(Doubt::new(at..end, unseen(&run)));
        }
    }
    doubts
}

/// Whether a run of joiners and variation selectors shapes what stands around it, as in emoji
/// and in the scripts of Persian and Hindi. Between letters of ASCII they shape nothing.
fn joins(before: Option<char>, run: &[char], after: Option<char>) -> bool {
    let joiner = |c: &char| matches!(c, '\u{200c}' | '\u{200d}');
    let foreign = |c: Option<char>| c.is_some_and(|c| !c.is_ascii());
    let keycap = after == Some('\u{20e3}');
    match run {
        [one] if selects(*one) => foreign(before) || keycap,
        [one] if joiner(one) => foreign(before) && foreign(after),
        [one, two] if selects(*one) && joiner(two) => foreign(before) && foreign(after),
        _ => false,
    }
}

/// Whether people who write some script put such a run there. Spellings need few, beside a
/// letter of their own; a long run carries something else.
fn is_of_script(before: Option<char>, run: &[char], after: Option<char>) -> bool {
    let usual = |c: &char| {
        selects(*c)
            || matches!(
                c,
                '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            )
            || matches!(
                c,
                '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{2800}' | '\u{3164}'
            )
    };
    let foreign = |c: Option<char>| c.is_some_and(|c| !c.is_ascii());
    let is_usual = run.iter().all(usual) && (foreign(before) || foreign(after));
    let few = run.len() <= 3 || run.iter().all(|c| *c == '\u{2800}');
    few && is_usual || run == ['\u{ad}'] || is_flag(before, run)
}

/// Selectors of the shape of the character before them: Mongolian, emoji, and Han as in names.
fn selects(c: char) -> bool {
    matches!(c, '\u{180b}'..='\u{180d}' | '\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// The flag of a part of a country: a black flag, and its code in tags (Unicode Technical
/// Standard 51, section C.1).
fn is_flag(before: Option<char>, run: &[char]) -> bool {
    let tag = |c: &char| matches!(c, '\u{e0030}'..='\u{e0039}' | '\u{e0061}'..='\u{e007a}');
    match run {
        [code @ .., '\u{e007f}'] => {
            before == Some('\u{1f3f4}') && code.len() <= 6 && code.iter().all(tag)
        }
        _ => false,
    }
}

/// Whether a character is shown as nothing: those of `Default_Ignorable_Code_Point`, and the
/// blank of braille.
fn is_ignorable(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Marks of text direction (Unicode Standard Annex 9, section 2).
pub(super) fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first mark of direction of each line that is not closed on it, or closes nothing: what it
/// turns would be text that it is not part of.
fn unbalanced(text: &str) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut is_told = false;
    for (at, c) in text.char_indices().chain([(text.len(), '\n')]) {
        let stray = match c {
            '\u{202a}' | '\u{202b}' | '\u{202d}' | '\u{202e}' | '\u{2066}'..='\u{2068}' => {
                open.push((at, c));
                None
            }
            '\u{202c}' | '\u{2069}' => {
                let of_isolate = |opened: char| matches!(opened, '\u{2066}'..='\u{2068}');
                let closed = open.pop_if(|(_, o)| of_isolate(*o) == (c == '\u{2069}'));
                closed.is_none().then_some((at, c))
            }
            _ if ends_line(c) => open.first().copied(),
            _ => None,
        };
        if let Some((at, c)) = stray.filter(|_| !is_told) {
            doubts.push(Doubt::new(at..at + c.len_utf8(), unseen(&[c])));
            is_told = true;
        }
        if ends_line(c) {
            open.clear();
            is_told = false;
        }
    }
    doubts
}

fn ends_line(c: char) -> bool {
    matches!(c, '\n'..='\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Characters that some programs show as the end of a line and others do not, and those that
/// rule a terminal; `ends_before_lf` says that the break of a line follows.
fn breaks(text: &str, ends_before_lf: bool) -> Vec<Doubt> {
    let mut chars = text.char_indices().peekable();
    let mut doubts = Vec::new();
    while let Some((at, c)) = chars.next() {
        let before_lf = match chars.peek() {
            Some((_, next)) => *next == '\n',
            None => ends_before_lf,
        };
        let is_odd = match c {
            '\t' | '\n' => false,
            '\r' => !before_lf,
            _ => c.is_ascii_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}'),
        };
        if is_odd {
            doubts.push(Doubt::new(at..at + c.len_utf8(), odd_break(c)));
        }
    }
    doubts
}

fn odd_break(c: char) -> Diagnostic {
    Diagnostic::error(
        codes::CONFUSABLE,
        format!(
            "{} is not shown alike everywhere",
            point(c)
        ),
    )
    .cause("where it is shown as the end of a line and is none, or the reverse, a comment can look like policy and policy like a comment")
    .help("delete it; end lines with a line feed")
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
        .help("delete it: the direction follows from the letters themselves; in a comment or a sentence, close it on the same line"),
        false => Diagnostic::error(
            codes::CONFUSABLE,
            format!("a character cannot be seen: {points}"),
        )
        .cause("two texts that look the same would not be the same")
        .help("delete it; where a string means it, write it as an escape: `\\u{…}` in Cedar, `\"\\u…\"` in YAML"),
    }
}
