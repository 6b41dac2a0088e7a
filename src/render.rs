//! How things look on a terminal: colours, tables, snippets; or as JSON.

use std::{
    fmt::Display,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use anstyle::{AnsiColor, Style};
use palisade_mesh::diagnostic::{Diagnostic, Severity};
use serde::Serialize;

use crate::cli::Exit;

#[cfg(feature = "full")]
pub(crate) mod access;
#[cfg(feature = "full")]
pub(crate) mod alerts;
#[cfg(feature = "full")]
pub(crate) mod benchmark;
#[cfg(feature = "full")]
pub(crate) mod comparison;
#[cfg(feature = "full")]
pub(crate) mod explanation;
#[cfg(feature = "full")]
pub(crate) mod faithful;
#[cfg(feature = "full")]
pub(crate) mod gaps;
#[cfg(feature = "full")]
pub(crate) mod impact;
#[cfg(feature = "full")]
pub(crate) mod measured;
#[cfg(feature = "full")]
pub(crate) mod progress;
#[cfg(feature = "full")]
pub(crate) mod records;
#[cfg(feature = "full")]
pub(crate) mod report;
#[cfg(feature = "full")]
pub(crate) mod reports;
#[cfg(feature = "full")]
pub(crate) mod reviews;
pub(crate) mod screen;
pub mod snippet;
#[cfg(feature = "full")]
pub(crate) mod suggestion;
#[cfg(feature = "full")]
pub(crate) mod summaries;
pub mod table;
#[cfg(feature = "full")]
pub(crate) mod unused;

/// For whom to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// People.
    Human,
    /// Programs.
    Json,
}

/// Green: allowed, in order.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Red: denied, wrong.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Yellow: will become wrong.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// Grey: less important.
pub const DIM: Style = Style::new().dimmed();
/// Bold.
pub const STRONG: Style = Style::new().bold();
/// Cyan: names to copy.
pub const NAME: Style = AnsiColor::Cyan.on_default();

/// `text` in a style; colours disappear where the output is no terminal.
pub fn paint(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// `text` in bold.
pub fn strong(text: impl Display) -> String {
    paint(STRONG, text)
}

/// Whether the reader of standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Prints a line to standard output. A closed pipe ends quietly, see [`closed`].
pub fn line(text: &str) {
    if writeln!(anstream::stdout(), "{text}").is_err() {
        CLOSED.store(true, Ordering::Relaxed);
    }
}

/// Whether nobody reads standard output any more, as after `| head`: what runs until it
/// is told to end should end.
pub fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Prints what to do next, on a terminal only: commands with a word about each, which is
/// left out where it does not fit.
pub fn next(steps: &[(String, &str)]) {
    let Some(width) = screen::width() else {
        return;
    };
    let room = width.saturating_sub("next  ".len());
    let fits = |(command, what): &&(String, &str)| command.len() + what.len() + 3 <= room;
    let longest = steps.iter().filter(fits).map(|(c, _)| c.len()).max();
    for (i, step) in steps.iter().enumerate() {
        let (command, what) = step;
        let word = paint(NAME, if i == 0 { "next" } else { "    " });
        let pad = longest.unwrap_or(0).max(command.len());
        if pad + what.len() + 3 <= room {
            line(&format!("{word}  {command:<pad$}   {}", paint(DIM, what)));
        } else {
            line(&format!("{word}  {command}"));
        }
    }
}

/// Prints a named fact of several parts, broken between parts where the terminal is
/// narrow.
pub fn fact(name: &str, parts: &[String]) {
    const INDENT: usize = 10;
    let room = screen::width().unwrap_or(usize::MAX).saturating_sub(INDENT);
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + part.chars().count() + 3 <= room => {
                line.push_str(" · ");
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    for (i, text) in lines.iter().enumerate() {
        let name = if i == 0 { name } else { "" };
        line(&format!("{}  {text}", paint(NAME, format!("{name:<8}"))));
    }
}

/// Prints a line to standard error.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Prints a value as JSON, one document.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&snippet::inert(&text)),
        Err(error) => note(&format!("error: value cannot be written as JSON: {error}")),
    }
}

/// Prints diagnostics in the asked form: snippets to standard error, or a JSON
/// document `{"diagnostics": […]}` to standard output.
pub fn diagnostics(output: Output, diagnostics: &[Diagnostic]) {
    if output == Output::Json {
        return json(&serde_json::json!({ "diagnostics": diagnostics }));
    }
    for diagnostic in diagnostics {
        note(&snippet::render(diagnostic));
    }
}

/// Prints one diagnostic and gives the exit code that goes with it.
pub fn failure(output: Output, diagnostic: &Diagnostic, exit: Exit) -> Exit {
    diagnostics(output, std::slice::from_ref(diagnostic));
    exit
}

/// As [`failure`], with the exit code that the diagnostic's own code says.
pub fn failed(output: Output, diagnostic: &Diagnostic) -> Exit {
    failure(output, diagnostic, Exit::of(diagnostic))
}

/// The word and style of a severity.
pub(crate) fn severity(severity: Severity) -> (Style, &'static str) {
    match severity {
        Severity::Error => (BAD, "error"),
        Severity::Note => (NAME, "note"),
        Severity::Warning => (WARN, "warning"),
    }
}

/// `1 policy`, `2 policies`.
pub fn count(n: impl TryInto<u64>, one: &str, many: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    let word = if n == 1 { one } else { many };
    format!("{} {word}", thousands(n))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hexadecimal digits as bytes; `None` for anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    let pairs = digits.as_chunks::<2>().0;
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// `1204118` as `1,204,118`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration as people say it: `850 ms`, `12 s`, `5 min`, `3 h`, `9 d`.
pub fn duration(duration: std::time::Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_and_durations_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_204_118), "1,204,118");
        assert_eq!(count(1_usize, "policy", "policies"), "1 policy");
        assert_eq!(count(0_u64, "policy", "policies"), "0 policies");
        assert_eq!(duration(Duration::from_millis(850)), "850 ms");
        assert_eq!(duration(Duration::from_secs(300)), "5 min");
    }
}
