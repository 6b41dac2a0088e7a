//! A policy revision as a proxy receives it. An input is the bytes of a bundle, or a
//! repository written as text: `--- PATH` begins each file. What compiles has an
//! engine that answers like the reference.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_pdp::{
    author::{self, Ask},
    decide::Snapshot,
};

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let loaded = match repository(bytes) {
        Some(files) => author::of_files(files, String::new()),
        None => author::compile(Bytes::copy_from_slice(bytes)),
    };
    let errors = loaded.diagnostics.iter().filter(|d| d.is_error()).count();
    assert_eq!(loaded.compiled.is_none(), errors > 0);
    for diagnostic in &loaded.diagnostics {
        let told = diagnostic.to_string();
        assert!(
            !told.contains("did not finish") && !told.contains("bug:"),
            "{told}"
        );
    }
    let Some(compiled) = loaded.compiled else {
        return;
    };
    let again = author::compile(compiled.bundle.clone()).compiled;
    assert_eq!(again.map(|again| again.digest), Some(compiled.digest));
    let snapshot = Snapshot::new(compiled, 1).expect("what compiles has an engine");
    let mut engine = snapshot.engine();
    for (principal, verb, target, headers) in ASKED {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let ask = Ask {
            principal: (*principal).into(),
            verb: (*verb).into(),
            target: (*target).into(),
            headers: headers.collect(),
            now_us: 1_800_000_000_000_000,
            ..Ask::default()
        };
        let Ok(question) = author::question(snapshot.catalogue(), &ask) else {
            continue;
        };
        let reference = snapshot.reference(&question.as_question());
        // Evaluated, and then as it is remembered.
        for _ in 0..2 {
            let answer = engine.decide(&question.as_question()).decision;
            assert_eq!(answer.verdict, reference.verdict);
            assert_eq!(answer.determining, reference.determining);
            assert_eq!(answer.errors, reference.errors);
        }
    }
}

/// Who asks for what, with which header fields.
type Asked = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const ASKED: &[Asked] = &[
    ("web", "GET", "orders/orders/42", &[]),
    (
        "web",
        "POST",
        "orders/orders/42/refund",
        &[("x-change-id", "CHG-1")],
    ),
    (
        "reports",
        "GET",
        "payments/cards/7",
        &[("x-change-id", "1")],
    ),
    ("orders", "POST", "payments/payments", &[]),
    (
        "spiffe://elsewhere.test/ns/shop/sa/web",
        "POST",
        "orders/",
        &[],
    ),
];

fn repository(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let text = std::str::from_utf8(bytes).ok()?.strip_prefix("--- ")?;
    let file = |part: &str| {
        let (path, text) = part.split_once('\n').unwrap_or((part, ""));
        (path.to_owned(), text.as_bytes().to_vec())
    };
    let files: BTreeMap<String, Vec<u8>> = text.split("\n--- ").map(file).collect();
    Some(files.into_iter().collect())
}
