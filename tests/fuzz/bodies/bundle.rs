//! A policy revision as a proxy receives it. An input is the bytes of a bundle, or a
//! repository written as text: `--- PATH` begins each file. What compiles has an
//! engine that answers like the reference.
//!
//! It is asked what the input asks: a file `questions` has one a line, `CALLER VERB TARGET`
//! and then `NAME=VALUE` for header fields, `from=IP:PORT`, `at=SECONDS` or `anonymous`. It is
//! asked about operations of the input's own catalogue, too, and some things always.

use std::collections::BTreeMap;

use bytes::Bytes;
use palisade_mesh::{catalogue::Catalogue, decision::Pins};
use palisade_pdp::{
    author::{self, Ask},
    decide::Snapshot,
};

/// Checks one input.
pub fn check(bytes: &[u8]) {
    let mut questions = String::new();
    let loaded = match repository(bytes) {
        Some(mut files) => {
            let own = files.remove(QUESTIONS).unwrap_or_default();
            questions = String::from_utf8_lossy(&own).into_owned();
            author::of_files(files.into_iter().collect(), String::new())
        }
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
    let own = questions.lines().filter_map(asked).take(QUESTIONS_MAX);
    let always = ASKED.iter().filter_map(|text| asked(text));
    let asks = own.chain(of_catalogue(snapshot.catalogue())).chain(always);
    let mut connections: BTreeMap<Connection, Pins> = BTreeMap::new();
    let asks: Vec<Ask> = asks.collect();
    // Evaluated, then as it is remembered, and as it is pinned to its connection; and once all
    // that this connection asks is pinned, again, as it is pinned beside the rest.
    let rounds = [&[false, false, true, true][..], &[true, false]];
    for (ask, round) in rounds
        .iter()
        .flat_map(|r| asks.iter().map(move |ask| (ask, *r)))
    {
        let Ok(question) = author::question(snapshot.catalogue(), ask) else {
            continue;
        };
        let question = question.as_question();
        let reference = snapshot.reference(&question);
        let pins = connections.entry(connection(ask)).or_default();
        for pinned in round {
            let answer = match pinned {
                true => engine.decide_on(&question, pins),
                false => engine.decide(&question),
            };
            let decision = answer.decision;
            assert_eq!(decision.verdict, reference.verdict, "{ask:?}");
            assert_eq!(decision.determining, reference.determining, "{ask:?}");
            assert_eq!(decision.errors, reference.errors, "{ask:?}");
        }
    }
}

/// What is the same for every request of a connection: who calls, from where, and whether TLS
/// proved it.
type Connection = (String, Option<String>, bool);

fn connection(ask: &Ask) -> Connection {
    (ask.principal.clone(), ask.source.clone(), ask.anonymous)
}

/// The file of an input that says what is asked.
const QUESTIONS: &str = "questions";
/// Most questions of an input's own.
const QUESTIONS_MAX: usize = 64;
/// Services, and operations of each, that are asked about.
const SERVICES_MAX: usize = 6;

/// What is asked whatever the input is.
const ASKED: &[&str] = &[
    "web GET orders/orders/42",
    "web POST orders/orders/42/refund x-change-id=CHG-1",
    "reports GET payments/cards/7 x-change-id=1",
    "orders POST payments/payments",
    "spiffe://elsewhere.test/ns/shop/sa/web POST orders/",
];

/// A question in one line.
fn asked(line: &str) -> Option<Ask> {
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let mut ask = Ask {
        principal: words.next()?,
        verb: words.next()?,
        target: words.next()?,
        now_us: 1_800_000_000_000_000,
        ..Ask::default()
    };
    for word in words {
        match word.split_once('=') {
            Some(("from", source)) => ask.source = Some(source.to_owned()),
            Some(("at", seconds)) => {
                ask.now_us = seconds.parse::<i64>().ok()?.saturating_mul(1_000_000);
            }
            Some((name, value)) => ask.headers.push((name.to_owned(), value.to_owned())),
            None => ask.anonymous |= word == "anonymous",
        }
    }
    Some(ask)
}

/// Each of the first services asks for the first operations of each.
fn of_catalogue(catalogue: &Catalogue) -> Vec<Ask> {
    let services = || catalogue.services().iter().take(SERVICES_MAX);
    let mut all = Vec::new();
    for caller in services().filter_map(|s| s.identities.first()) {
        for service in services() {
            let Some(host) = service.hosts.first() else {
                continue;
            };
            for operation in service.operations.iter().take(SERVICES_MAX) {
                let path = operation.template.as_str().replace(['{', '}', '*'], "");
                let method = operation.methods.first().map_or("GET", |m| m.as_str());
                all.extend(asked(&format!("{caller} {method} http://{host}{path}")));
            }
        }
    }
    all
}

fn repository(bytes: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let text = std::str::from_utf8(bytes).ok()?.strip_prefix("--- ")?;
    let file = |part: &str| {
        let (path, text) = part.split_once('\n').unwrap_or((part, ""));
        (path.to_owned(), text.as_bytes().to_vec())
    };
    Some(text.split("\n--- ").map(file).collect())
}
