//! Words with letters of two scripts.

use palisade_mesh::diagnostic::Diagnostic;
use unicode_security::{mixed_script::AugmentedScriptSet, skeleton};

use super::{Doubt, point};
use crate::author::codes;

/// The first word of `text` with letters of two scripts; `offset` is where the text begins.
pub(super) fn mixed(text: &str, offset: usize) -> Option<Doubt> {
    if text.is_ascii() {
        return None;
    }
    let mut from = 0;
    while let Some(start) = text.get(from..)?.find(char::is_alphanumeric) {
        let start = from + start;
        let rest = text.get(start..)?;
        let len = rest.find(|c: char| !c.is_alphanumeric());
        let word = rest.get(..len.unwrap_or(rest.len()))?;
        if let Some((at, c)) = odd_letter(word).filter(|_| !is_unit(word)) {
            let at = offset + start + at;
            return Some(Doubt::new(at..at + c.len_utf8(), of_two_scripts(word, c)));
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

/// Whether a word is one as `μs`, `kΩ` or `β版`: one Greek letter that looks like no Latin one
/// before or after Latin letters, or Greek letters among those of Chinese, Japanese and Korean.
fn is_unit(word: &str) -> bool {
    let (greek, latin) = (AugmentedScriptSet::from('α'), AugmentedScriptSet::from('a'));
    let is = |c: char, script: AugmentedScriptSet| {
        let mut shared = AugmentedScriptSet::from(c);
        shared.intersect_with(script);
        !shared.is_empty()
    };
    // Digits are of every script.
    let letters = || word.chars().filter(|c| c.is_alphabetic());
    let mut others = letters().filter(|c| !is(*c, greek));
    let among_han = |c: char| {
        let own = AugmentedScriptSet::from(c);
        own.hanb || own.jpan || own.kore
    };
    if others.clone().all(among_han) {
        return true;
    }
    let mut signs = letters().filter(|c| is(*c, greek));
    let (Some(sign), None) = (signs.next(), signs.next()) else {
        return false;
    };
    let mut buffer = [0; 4];
    let shown = skeleton(sign.encode_utf8(&mut buffer)).any(|c| c.is_ascii());
    let at_an_end = [letters().next(), letters().next_back()].contains(&Some(sign));
    at_an_end && !shown && others.all(|c| is(c, latin))
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
