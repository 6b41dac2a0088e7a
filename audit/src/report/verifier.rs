//! The page that checks an evidence package in a browser: one file that loads nothing.
//!
//! It is written by hand in JavaScript and shares nothing with the code that makes packages,
//! so that one mistake does not hide the other. The files below `verifier/` are put into one
//! page, whose policy (CSP) lets it run these scripts and nothing else, and reach nobody.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

const PAGE: &str = include_str!("verifier/page.html");
const STYLE: &str = include_str!("verifier/page.css");
/// In the order in which they are read.
const SCRIPT: &str = concat!(
    include_str!("verifier/tree.js"),
    include_str!("verifier/note.js"),
    include_str!("verifier/package.js"),
    include_str!("verifier/page.js"),
);

/// The page.
pub(super) fn page() -> String {
    let hash = |text: &str| BASE64.encode(digest(&SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    PAGE.replacen("{policy}", &policy, 1)
        .replacen("{style}", STYLE, 1)
        .replacen("{script}", SCRIPT, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_reaches_nobody() {
        let page = page();
        for part in [STYLE, SCRIPT, "default-src 'none'"] {
            assert_eq!(page.matches(part).count(), 1);
        }
        assert!(!SCRIPT.contains("</script"), "it would end there");
        // What makes markup of text, runs it, or asks somebody else.
        for word in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "fetch(",
            "XMLHttpRequest",
            "WebSocket",
            "import(",
            "http://",
            "https://",
            " src=",
            " href=",
        ] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
