//! Text that attackers choose, through every form in which records are read: what shows it obeys
//! nothing of it, and nothing of it is lost.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::Stdio,
};

use palisade_mesh::{
    clock::Clock,
    spiffe_id::TrustDomain,
    wire::{
        audit::{Batch, StreamId, ingest_client::IngestClient},
        record::{AuthnFailure, Call, Decision, Outcome, Peer, Record, Verdict, record::Body},
    },
};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};
use prost::Message as _;
use serde_json::{Value, json};
use support::{
    Home, LIMIT, Running, alerted, alerts_to, authority::Authority, free_port, lone, said, wait_for,
};
use tokio_stream::StreamExt as _;

const REPORTER: &str = "spiffe://acme.test/ns/shop/sa/orders";

/// For terminals, spreadsheets, browsers, readers of lines, and readers of types.
const HOSTILE: [&str; 23] = [
    "esc\u{1b}[2J\u{1b}]0;title\u{7}",
    "csi\u{9b}2J",
    "del\u{7f}",
    "turned\u{202e}gpj.exe",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "-->]]></style></svg><b>",
    "<r><t>a</t></r>",
    "&lt;b&gt;&#60;",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@x",
    "\t=tab",
    " =blank",
    "cells;=1+1",
    "\r\n=lines",
    "a\r\nSet-Cookie: b=c",
    "over\rwritten",
    "nul\u{0}inside",
    "true",
    "null",
    "`backticks` {{7*7}} ${x} %s",
];

/// The fields of a decision that have such a text.
const OF_DECISION: [&str; 9] = [
    "principal",
    "service",
    "action",
    "resource",
    "method",
    "host",
    "path",
    "route",
    "reason",
];

/// What is asked for everything that was sent.
const ALL: &str = "class:* reporter:orders last:1h";

/// An audit service that takes records from anybody of its trust domain.
struct Desk {
    home: Home,
    authority: Authority,
    address: std::net::SocketAddr,
    audit: Running,
}

impl Desk {
    fn start(of_audit: impl Fn(&Home) -> String) -> Self {
        let home = Home::new();
        let address = free_port();
        let authority = lone::configure_at(&home, address, &of_audit(&home));
        let audit = lone::start(&home);
        Self {
            home,
            authority,
            address,
            audit,
        }
    }

    /// One to which everything was sent, and that has all of it for whoever asks.
    fn filled() -> Self {
        let desk = Self::start(|_| String::new());
        desk.send();
        desk.rows(ALL, HOSTILE.len() * bodies("").len());
        desk
    }

    /// Sends the records as any workload can.
    fn send(&self) {
        let records = HOSTILE.iter().flat_map(|text| bodies(text));
        let records = (1..).zip(records).map(|(n, body)| record(n, body).into());
        let batch = Batch {
            stream: Some(StreamId {
                reporter: REPORTER.into(),
                boot: vec![1; 16],
                worker: 0,
            }),
            first_sequence: 1,
            records: records.collect(),
        };
        let last = u64::try_from(batch.records.len()).unwrap();
        let leaf = self.authority.leaf("ns/shop/sa/orders");
        let identity = self.authority.trusting(&leaf);
        let expected = TrustDomain::parse("acme.test").unwrap().role("audit");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let channel = palisade::net::tls::channel(self.address, &expected, &identity);
            let batches = tokio_stream::iter([batch]).chain(tokio_stream::pending());
            let pushed = IngestClient::new(channel).push(batches).await;
            let mut acks = pushed.unwrap().into_inner();
            while let Some(ack) = acks.message().await.unwrap() {
                assert_eq!(ack.refused, "");
                // A report is of what is signed.
                if ack.checkpointed == last {
                    break;
                }
            }
        });
    }

    /// What a query finds, once it is as many.
    fn rows(&self, query: &str, count: usize) -> Vec<Value> {
        wait_for(query, LIMIT, || {
            let rows = self.home.rows(query)?;
            (rows.len() == count).then_some(rows)
        })
    }

    /// What a command prints where there are colours, without those: nothing in it does anything
    /// to a terminal.
    fn shown(&self, args: &[&str]) -> String {
        let command = self
            .home
            .palisade(args)
            .args(["--color", "always"])
            .output();
        let command = command.unwrap();
        // Whatever `check` finds, it has looked.
        assert!(
            args == ["check"] || command.status.success(),
            "{args:?}: {}",
            said(&command)
        );
        let shown = without_styles(&said(&command));
        inert(&shown);
        shown
    }
}

fn record(number: u64, body: Body) -> Vec<u8> {
    let record = Record {
        id: u128::from(number).to_be_bytes().to_vec(),
        time_us: Clock::system().now_us(),
        reporter: REPORTER.into(),
        body: Some(body),
        ..Record::default()
    };
    record.encode_to_vec()
}

/// A record of each class that a workload may leave, and into which somebody can write.
fn bodies(text: &str) -> [Body; 4] {
    let owned = || text.to_owned();
    let decision = Decision {
        verdict: Verdict::NotPermitted.into(),
        reason: owned(),
        principal: Some(Peer {
            spiffe_id: owned(),
            ..Peer::default()
        }),
        service: owned(),
        action: owned(),
        resource_id: owned(),
        method: owned(),
        host: owned(),
        path: owned(),
        route: owned(),
        policies: vec![owned(), "second".into()],
        context_json: json!({ "user_agent": text, text: [[text], { text: text }] }).to_string(),
        ..Decision::default()
    };
    let failure = AuthnFailure {
        reason: "no_certificate".into(),
        claimed_id: owned(),
        listener: "inbound".into(),
        detail: owned(),
        ..AuthnFailure::default()
    };
    let call = Call {
        service: owned(),
        method: owned(),
        path: owned(),
        upstream: owned(),
        error: owned(),
        ..Call::default()
    };
    let outcome = Outcome {
        service: owned(),
        principal: owned(),
        upstream: owned(),
        error: owned(),
        ..Outcome::default()
    };
    [
        Body::Decision(decision),
        Body::AuthnFailure(failure),
        Body::Call(call),
        Body::Outcome(outcome),
    ]
}

/// Takes out the sequences that set a colour or a weight, which are ours.
fn without_styles(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match rest.strip_prefix('m') {
            Some(rest) => out.push_str(rest),
            None => out.extend(["\u{1b}[", part]),
        }
    }
    out
}

/// That a text moves, turns and hides nothing.
fn inert(shown: &str) {
    let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    if let Some(at) = shown.find(steers) {
        let begin = shown.floor_char_boundary(at.saturating_sub(80));
        panic!("{:?}", &shown[begin..]);
    }
}

/// The longest part of a text that everything shows as it is.
fn core(text: &str) -> &str {
    let parts = text.split(|c: char| c.is_control() || c == '\u{202e}' || c == '`');
    parts.max_by_key(|part| part.len()).unwrap().trim()
}

/// That every text is in what is shown.
fn has_all(shown: &str, what: &str) {
    for text in HOSTILE {
        assert!(shown.contains(core(text)), "{what}: {text:?}: {shown}");
    }
}

/// The decision, the refusal or whatever else has `text` in this field.
fn found<'r>(rows: &'r [Value], class: &str, field: &str, text: &str) -> &'r Value {
    let mut rows = rows.iter();
    let found = rows.find(|row| row["class"] == class && row[field] == text);
    found.unwrap_or_else(|| panic!("no {class} with {field} {text:?}"))
}

/// That rows are whole: each text is in each field that it was written to, unchanged.
fn are_whole(rows: &[Value]) {
    for text in HOSTILE {
        let decision = found(rows, "decision", "path", text);
        for field in OF_DECISION {
            assert_eq!(decision[field], text, "{field}: {decision:#}");
        }
        assert_eq!(decision["policy"], json!([text, "second"]));
        let context = json!({ "user_agent": text, text: [[text], { text: text }] });
        assert_eq!(decision["context"], context);
        let failure = found(rows, "authn_failure", "claimed", text);
        assert_eq!(failure["detail"], text);
        let call = found(rows, "call", "path", text);
        for field in ["service", "method", "sent_to", "unanswered"] {
            assert_eq!(call[field], text, "{field}: {call:#}");
        }
        let outcome = found(rows, "outcome", "upstream", text);
        assert_eq!(outcome["error"], text);
    }
}

/// On a terminal everything of a record is seen, and nothing of it is obeyed; as JSON it is what it
/// was, and a terminal bears that, too.
#[test]
fn a_terminal_shows_what_was_written_and_obeys_none_of_it() {
    let mut desk = Desk::filled();
    let all = desk.rows(ALL, HOSTILE.len() * bodies("").len());
    are_whole(&all);
    let search = ["audit", "search", ALL, "-n", "1000"];
    let shown = desk.shown(&search);
    has_all(&shown, "search");
    for row in &all {
        let id = row["id"].as_str().unwrap();
        assert!(shown.contains(id), "{id}: {shown}");
    }
    let as_json = |args: &[&str]| -> Value {
        let shown = desk.shown(&[args, &["-o", "json"]].concat());
        serde_json::from_str(shown.split_once('\n').unwrap().1).unwrap()
    };
    are_whole(as_json(&search)["rows"].as_array().unwrap());
    for text in HOSTILE {
        let id = found(&all, "decision", "path", text)["id"]
            .as_str()
            .unwrap();
        let shown = desk.shown(&["audit", "show", id]);
        assert!(
            shown.matches(core(text)).count() > OF_DECISION.len(),
            "{shown}"
        );
        let told = as_json(&["audit", "show", id]);
        assert_eq!(told["rows"][0]["path"], text);
    }
    for by in ["principal", "service", "claimed", "host"] {
        let summary = format!("{ALL} | count by {by} | top 100");
        has_all(&desk.shown(&["audit", "search", &summary]), by);
    }
    assert!(desk.audit.end().success());
}

/// Records that are followed as they arrive.
#[test]
fn a_terminal_that_follows_the_log_obeys_nothing_in_it() {
    let mut desk = Desk::start(|_| String::new());
    let count = (HOSTILE.len() * bodies("").len()).to_string();
    let follow = |file: &str, more: &[&str]| {
        let out = File::create(desk.home.path(file)).unwrap();
        let args = ["audit", "tail", "class:* reporter:orders", "-n", &count];
        let mut command = desk.home.palisade(&[&args[..], more].concat());
        let command = command.args(["--color", "always"]).stdout(out);
        command.stderr(Stdio::inherit()).spawn().unwrap()
    };
    let mut tails = [follow("shown", &[]), follow("lines", &["-o", "json"])];
    // Each says in the log that it has begun.
    desk.rows("class:audit_read verb:tail last:1h", tails.len());
    desk.send();
    for tail in &mut tails {
        let ended = wait_for("the last record", LIMIT, || tail.try_wait().unwrap());
        assert!(ended.success());
    }
    let read = |file: &str| without_styles(&fs::read_to_string(desk.home.path(file)).unwrap());
    let (shown, lines) = (read("shown"), read("lines"));
    inert(&shown);
    inert(&lines);
    has_all(&shown, "tail");
    assert_eq!(shown.lines().count().to_string(), count);
    let rows = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    are_whole(&rows.collect::<Vec<_>>());
    assert!(desk.audit.end().success());
}

/// Every file has every record; in the one for spreadsheets no cell begins a formula.
#[test]
fn exports_keep_every_text_and_compute_none() {
    let mut desk = Desk::filled();
    let export = |name: &str| {
        let done = desk.home.json(&["audit", "export", ALL, "--to", name]);
        let left_out = HOSTILE.len() * (bodies("").len() - 1);
        let left_out = if name.ends_with("ocsf") { left_out } else { 0 };
        assert_eq!(done["left_out"], left_out, "{done}");
        let all = HOSTILE.len() * bodies("").len();
        assert_eq!(done["records"], all - left_out, "{done}");
        desk.home.path(name)
    };
    let lines = |file: &Path| -> Vec<Value> {
        let lines = BufReader::new(File::open(file).unwrap()).lines();
        lines
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .collect()
    };
    are_whole(&lines(&export("all.jsonl")));
    are_events(&lines(&export("all.ocsf")));
    is_table(&export("all.csv"));
    are_columns(&export("all.parquet"));
    assert!(desk.audit.end().success());
}

fn are_events(events: &[Value]) {
    for text in HOSTILE {
        let mut events = events.iter();
        let event = events.find(|event| event["http_request"]["url"]["path"] == text);
        let event = event.unwrap_or_else(|| panic!("no event of {text:?}"));
        for place in [
            "/http_request/url/hostname",
            "/http_request/http_method",
            "/dst_endpoint/hostname",
            "/api/service/uid",
            "/api/operation",
            "/actor/app_uid",
            "/src_endpoint/svc_name",
            "/resources/0/uid",
            "/policy/uid",
            "/status_code",
            "/unmapped/palisade/route",
        ] {
            assert_eq!(
                event.pointer(place),
                Some(&text.into()),
                "{place}: {event:#}"
            );
        }
    }
}

/// That no cell is a formula, and what a reader of the table gets is the text, but for the quote
/// that keeps it one.
fn is_table(file: &Path) {
    let mut reader = csv::Reader::from_path(file).unwrap();
    let head = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let texts = |name: &str| -> BTreeSet<String> {
        let at = head.iter().position(|head| head == name).unwrap();
        rows.iter().map(|row| row[at].replace('\'', "")).collect()
    };
    for row in &rows {
        computes_nothing(row);
    }
    for name in OF_DECISION
        .into_iter()
        .chain(["claimed", "detail", "upstream", "sent_to"])
    {
        let found = texts(name);
        for text in HOSTILE {
            assert!(
                found.contains(&text.replace('\'', "")),
                "{name}: {text:?}: {found:#?}"
            );
        }
    }
}

fn computes_nothing(row: &csv::StringRecord) {
    for part in row.iter().flat_map(|cell| cell.split(';')) {
        let begins = part.trim_start_matches(' ').chars().next();
        assert!(
            !begins.is_some_and(|c| "=+-@\t\r\n".contains(c)),
            "{part:?}: {row:?}"
        );
    }
}

/// The texts of a row.
fn texts_of(row: &Row) -> Value {
    let texts = row
        .get_column_iter()
        .filter_map(|(name, field)| match field {
            Field::Str(text) => Some((name.clone(), Value::from(text.as_str()))),
            _ => None,
        });
    Value::Object(texts.collect())
}

fn are_columns(file: &Path) {
    let reader = SerializedFileReader::new(File::open(file).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    let rows: Vec<Value> = rows.map(|row| texts_of(&row.unwrap())).collect();
    for text in HOSTILE {
        let decision = found(&rows, "decision", "path", text);
        for field in OF_DECISION {
            assert_eq!(decision[field], text, "{field}: {decision:#}");
        }
        let context: Value = serde_json::from_str(decision["context"].as_str().unwrap()).unwrap();
        assert_eq!(context["user_agent"], text);
        let failure = found(&rows, "authn_failure", "claimed", text);
        assert_eq!(failure["detail"], text);
    }
}

/// Reports in every form, and in short on a terminal.
#[test]
fn reports_show_what_was_written_and_nothing_acts() {
    let mut desk = Desk::filled();
    for kind in ["incident", "denials", "access"] {
        let forms =
            ["html", "csv", "json", "xlsx", "pdf"].map(|form| format!("{kind}/{kind}.{form}"));
        let to = forms.iter().flat_map(|form| ["--to", form]);
        let run = ["report", "run", kind, "--period", "last:1h"];
        fs::create_dir(desk.home.path(kind)).unwrap();
        desk.shown(&run.into_iter().chain(to).collect::<Vec<_>>());
        let file = |form: &str| desk.home.path(&format!("{kind}/{kind}.{form}"));
        is_page(&fs::read_to_string(file("html")).unwrap());
        is_book(&file("xlsx"));
        is_printed(&fs::read(file("pdf")).unwrap());
        are_tables(&desk.home.path(kind));
        let report: Value = serde_json::from_slice(&fs::read(file("json")).unwrap()).unwrap();
        let sections = report["sections"].as_array().unwrap();
        let rows = sections
            .iter()
            .flat_map(|section| section["table"]["rows"].as_array());
        let cells: Vec<&Value> = rows
            .flatten()
            .flat_map(|row| row.as_array().unwrap())
            .collect();
        for text in HOSTILE {
            assert!(
                cells.iter().any(|cell| **cell == text),
                "{kind}: {text:?}: {cells:#?}"
            );
        }
        desk.home
            .says(&["report", "verify", file("html").to_str().unwrap()], 0);
    }
    assert!(desk.audit.end().success());
}

/// That a page has no element of an attacker, and every text.
fn is_page(page: &str) {
    inert(page);
    let (seen, inside) = page.split_once("<script ").unwrap();
    assert!(!inside.contains("<script"), "{inside}");
    for element in ["<script", "<img", "<b>", "<r>", "-->"] {
        assert!(!seen.contains(element), "{element}: {seen}");
    }
    let entities = [
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#38;", "&"),
    ];
    let seen = entities
        .iter()
        .fold(seen.to_owned(), |seen, (entity, c)| seen.replace(entity, c));
    has_all(&seen, "page");
}

/// That a workbook has every text as a text, and no formula.
fn is_book(file: &Path) {
    let mut book = zip::ZipArchive::new(File::open(file).unwrap()).unwrap();
    let mut strings = String::new();
    for at in 0..book.len() {
        let mut part = book.by_index(at).unwrap();
        let (name, mut text) = (part.name().unwrap().into_owned(), String::new());
        part.read_to_string(&mut text).unwrap();
        if name.starts_with("xl/worksheets/sheet") {
            for formula in ["<f>", "<f ", "<hyperlink"] {
                assert!(!text.contains(formula), "{name}: {formula}: {text}");
            }
        }
        if name == "xl/sharedStrings.xml" {
            strings = text;
        }
    }
    assert!(
        !strings.contains('\u{202e}') && !strings.contains("<r>"),
        "{strings}"
    );
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&amp;", "&"),
    ];
    let strings = entities
        .iter()
        .fold(strings, |text, (entity, c)| text.replace(entity, c));
    has_all(&strings, "workbook");
}

/// That nothing in a PDF runs or leads anywhere.
fn is_printed(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(text.starts_with("%PDF-") && text.trim_end().ends_with("%%EOF"));
    for action in ["/JavaScript", "/JS", "/Launch", "/OpenAction", "/URI"] {
        assert!(!text.contains(action), "{action}");
    }
}

/// That the tables of a report have every text, and no formula.
fn are_tables(dir: &Path) {
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|e| e == "csv"));
    let mut all = String::new();
    for file in files {
        let mut reader = csv::ReaderBuilder::new();
        let mut reader = reader
            .flexible(true)
            .has_headers(false)
            .from_path(file)
            .unwrap();
        for row in reader.records().map(Result::unwrap) {
            computes_nothing(&row);
            row.iter().for_each(|cell| all = format!("{all}{cell}\n"));
        }
    }
    inert(&all);
    has_all(&all.replace(";'", ";"), "tables");
}

/// A program that is told of alerts gets each text as it was, as JSON; whoever looks at the alerts
/// is shown all, and nothing of it is obeyed.
#[test]
fn an_alert_brings_the_text_and_does_nothing() {
    let mut desk = Desk::start(|home| {
        alerts_to(&home.path("told"))
            + "  alerts:\n    - { name: seen, query: \"class:decision\", threshold: 1, window: 1h, by: path, severity: high }\n"
    });
    desk.send();
    let told = wait_for("an alert of each", LIMIT, || {
        let told = alerted(&desk.home.path("told"), "seen")?;
        (told.len() == HOSTILE.len()).then_some(told)
    });
    let groups: BTreeSet<&str> = told.iter().map(|t| t["group"].as_str().unwrap()).collect();
    assert_eq!(groups, BTreeSet::from(HOSTILE));
    has_all(&desk.shown(&["audit", "alerts", "list"]), "alerts");
    assert!(
        desk.shown(&["check"])
            .contains(core(HOSTILE[HOSTILE.len() - 1]))
    );
    desk.shown(&["status"]);
    assert!(desk.audit.end().success());
}
