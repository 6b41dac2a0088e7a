//! `palisade explain`: what a code means, why it comes up, how to mend it. Offline.

use palisade_mesh::diagnostic::{Diagnostic, did_you_mean, program};

use super::{Context, Exit};
use crate::render::{self, Output};

/// The reference page; one `## PLSnnnn title` section for each code.
const CODES: &str = include_str!("../../docs/reference/codes.md");

/// Columns of an explanation where the terminal is not narrower.
const WIDTH_DEFAULT: usize = 90;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Code, such as PLS1103; without one, every code is listed.
    code: Option<String>,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let Some(asked) = &args.code else {
        return list(context);
    };
    let digits = asked.to_uppercase().replace("PLS", "");
    let code = format!("PLS{digits:0>4}");
    match sections().find(|(c, _, _)| *c == code) {
        Some((code, title, body)) => {
            show(context.output, code, title, body);
            Exit::Ok
        }
        None => {
            let near = did_you_mean(&code, sections().map(|(c, _, _)| c));
            let help = near.map_or_else(
                || format!("{} explain lists every code", program()),
                |n| format!("did you mean `{n}`?"),
            );
            let unknown = Diagnostic::error(9110, format!("there is no code `{asked}`")).help(help);
            render::failure(context.output, &unknown, Exit::Failed)
        }
    }
}

fn list(context: &Context) -> Exit {
    if context.output == Output::Json {
        let all: Vec<_> = sections()
            .map(|(code, title, _)| serde_json::json!({ "code": code, "title": title }))
            .collect();
        render::json(&all);
        return Exit::Ok;
    }
    for (code, title, _) in sections() {
        render::line(&format!("{}  {title}", render::paint(render::NAME, code)));
    }
    Exit::Ok
}

fn show(output: Output, code: &str, title: &str, body: &str) {
    if output == Output::Json {
        return render::json(&serde_json::json!({ "code": code, "title": title, "text": body }));
    }
    render::line(&format!(
        "{}  {}\n",
        render::paint(render::NAME, code),
        render::strong(title)
    ));
    let width = render::screen::width()
        .unwrap_or(WIDTH_DEFAULT)
        .min(WIDTH_DEFAULT);
    for paragraph in body.split("\n\n") {
        match paragraph.starts_with("    ") {
            // An example stays as it is.
            true => render::line(&format!("\n{paragraph}\n")),
            false => print_paragraph(paragraph, width),
        }
    }
}

/// Prints `Why: …` or `Fix: …` with its word apart, broken between words.
fn print_paragraph(paragraph: &str, width: usize) {
    let (word, text) = match paragraph.split_once(": ") {
        Some((word @ ("Why" | "Fix"), text)) => (word, text),
        _ => ("", paragraph),
    };
    const INDENT: usize = 5;
    for (i, line) in render::screen::wrap(text, width.saturating_sub(INDENT))
        .iter()
        .enumerate()
    {
        let word = if i == 0 {
            word.to_lowercase()
        } else {
            String::new()
        };
        render::line(&format!(
            "{}  {line}",
            render::paint(render::NAME, format!("{word:<3}"))
        ));
    }
}

/// Title and text of a code's section.
#[cfg(feature = "full")]
pub(crate) fn section(code: &str) -> Option<(&'static str, &'static str)> {
    sections()
        .find(|(c, _, _)| *c == code)
        .map(|(_, title, text)| (title, text))
}

/// Code, title and text of every section, in the order of the page.
fn sections() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    CODES.split("\n## ").skip(1).filter_map(|section| {
        let (head, body) = section.split_once('\n')?;
        let (code, title) = head.split_once(' ')?;
        let body = body.split("\n# ").next().unwrap_or(body);
        Some((code, title, body.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_a_well_formed_unique_code_in_order() {
        let codes: Vec<&str> = sections().map(|(c, _, _)| c).collect();
        assert!(!codes.is_empty());
        assert!(
            codes.iter().all(|c| c.len() == 7 && c.starts_with("PLS")),
            "{codes:?}"
        );
        assert!(codes.is_sorted(), "{codes:?}");
        let mut unique = codes.clone();
        unique.dedup();
        assert_eq!(unique, codes);
    }
}
