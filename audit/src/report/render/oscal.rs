//! A report as OSCAL assessment results (NIST, OSCAL 1.2.1), for programs that manage
//! controls.
//!
//! What a report shows becomes observations. A finding says `satisfied` or not and nothing
//! between, so there is one only for a test that Palisade makes itself and that has two
//! ends; whether a control is met is the assessor's to judge.
//!
//! Nothing is drawn by lot: every UUID follows from the log, the root of the checkpoint and the
//! content of the report, and so do the bytes. When the report was made is no part of that,
//! unless it has a section that describes the whole log as it was then
//! ([`Section::momentary`]): what that shows was collected when the report was made, and is dated so;
//! everything else was collected when the checkpoint was signed. The version of the program is
//! a part of it always.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value, json};

use self::uuid::Uuids;
use super::{NOTHING, RenderError, rows_shown, visible};
use crate::report::model::{Figure, Report, Section};

mod uuid;

/// The version of OSCAL that is written.
const OSCAL: &str = "1.2.1";

/// What our properties are named under; it is a name and no address.
const NAMESPACE: &str = "urn:palisade:oscal";

/// A test of ours with two ends.
struct Test {
    /// What it is called as an objective.
    target: &'static str,
    /// What holds where it was passed.
    title: &'static str,
    /// The result as sections put it, passed and failed; no other test has these words.
    ends: [&'static str; 2],
}

const INTACT: Test = Test {
    target: "palisade-log-intact",
    title: "The log is what was signed",
    ends: ["intact", "NOT INTACT"],
};

const INDEXED: Test = Test {
    target: "palisade-index-same",
    title: "The index counts what the log has",
    ends: ["the same", "NOT THE SAME"],
};

const NO_PLAN: &str = "There is no assessment plan. The evidence is not gathered at an appointment: the mesh records every \
    decision as it is made, and the report was made from these records for the period that its result names. OSCAL demands a \
    reference to a plan; this resource stands in its place.";

const CONTROLS: &str = "The controls that the report names as what it is evidence for, in the numbers of their frameworks. A \
    `control-id` is that text with `-` for whatever a token of OSCAL may not contain. No catalogue is imported: the texts of the \
    controls are not here.";

/// The test that the head of a report has the result of, and what holds where it was passed.
const COMPLETE: (&str, &str) = (
    "palisade-period-complete",
    "No numbered record of the period is missing, as far as the log knows",
);

/// Figures that say of how much it is not known that it is all there.
const DOUBTS: [&str; 2] = [NOT_COMPLETE, "one-sided requests"];

/// The one of them that only a reading of the whole log gives.
const NOT_COMPLETE: &str = "streams that are not complete";

const JUDGE: &str = "A test that Palisade makes of its own records, and no objective of a framework. Whether a control is met is \
    the assessor's to judge.";

const LIMITS: &str = "What the log cannot show, by section; somebody else has to bring it. Evidence supports the test of a \
    control and never is compliance by itself.";

/// The document of a report.
///
/// # Errors
/// When it cannot be written.
pub fn to_oscal(report: &Report) -> Result<Vec<u8>, RenderError> {
    let uuids = Uuids::of(report)?;
    let header = &report.header;
    let metadata = json!({
        "title": line(&report.title),
        "last-modified": header.checkpoint.time,
        "version": header.checkpoint.size.to_string(),
        "oscal-version": OSCAL,
        "props": props(&[
            ("report", &report.name),
            ("program", &header.program),
        ]),
    });
    let demo = header
        .demo
        .then_some("The records are those of a demo mesh.");
    let metadata = having(metadata, "remarks", demo);
    let document = json!({ "assessment-results": {
        "uuid": uuids.document(),
        "metadata": metadata,
        "import-ap": { "href": uuids.link("no-plan") },
        "results": [result(report, &uuids)],
        "back-matter": { "resources": resources(report, &uuids) },
    }});
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn result(report: &Report, uuids: &Uuids) -> Value {
    let header = &report.header;
    let mark = &header.checkpoint;
    let mut observations = vec![completeness(report, uuids)];
    let mut findings = Vec::from_iter(complete(report, uuids));
    for (i, section) in report.sections.iter().enumerate() {
        observations.push(observation(report, uuids, i, section));
        findings.extend(finding(uuids, i, section));
    }
    observations.extend(limits(report, uuids));
    let scope = match header.scope.as_str() {
        "" => "every decision",
        scope => scope,
    };
    let result = json!({
        "uuid": uuids.named("result"),
        "title": line(&report.title),
        "description": line(&report.question),
        "start": header.from,
        "end": header.to,
        "props": props(&[
            ("log", &header.log),
            ("scope", scope),
            ("records", &header.records.to_string()),
            ("decisions", &header.decisions.to_string()),
            ("rows-of-evidence", &header.rows.to_string()),
            ("checkpoint-size", &mark.size.to_string()),
            ("checkpoint-root", &mark.root),
            ("checkpoint-signed", &mark.time),
        ]),
        "reviewed-controls": { "description": CONTROLS, "control-selections": controls(report) },
        "observations": observations,
        "remarks": LIMITS,
    });
    having(result, "findings", some(findings))
}

/// One selection for each control, so that it stands there as its framework has it.
fn controls(report: &Report) -> Vec<Value> {
    let controls = &report.header.controls;
    let selection = |control: &String| {
        json!({
            "description": line(control),
            "include-controls": [{ "control-id": token(control) }],
        })
    };
    match controls.is_empty() {
        true => vec![json!({ "description": "The report names no control." })],
        false => controls.iter().map(selection).collect(),
    }
}

/// Whether the records are all there, in words.
fn completeness(report: &Report, uuids: &Uuids) -> Value {
    let header = &report.header;
    let mut said = vec![match header.complete {
        true => "Everything that the log should have in the period was considered.".to_owned(),
        false => "The period lacks records.".to_owned(),
    }];
    if header.records == 0 {
        said.push(NOTHING.to_owned());
    }
    let begins = header.begins.iter();
    said.extend(begins.map(|begins| {
        format!(
            "The log begins at {begins}, after the period does: before that, nothing was recorded."
        )
    }));
    said.extend(header.lacks.iter().map(|lack| format!("- {}", line(lack))));
    said.extend(doubts(report).map(|(section, figure)| {
        let (title, what) = (line(&section.title), &figure.label);
        format!("- {what}: {}, see {title}", line(&figure.value))
    }));
    if !is_read(report) {
        said.push(
            "The log was not read as a whole for this report: what ends early there is not known."
                .to_owned(),
        );
    }
    json!({
        "uuid": uuids.named("completeness"),
        "title": "Completeness of the records",
        "description": said.join("\n"),
        "props": props(&[("complete", if header.complete { "yes" } else { "no" })]),
        "methods": ["EXAMINE"],
        "collected": header.checkpoint.time,
    })
}

/// What sections say that may not all be there.
fn doubts(report: &Report) -> impl Iterator<Item = (&Section, &Figure)> {
    let all = report.sections.iter().flat_map(|section| {
        let figures = section.figures.iter();
        figures.map(move |figure| (section, figure))
    });
    all.filter(|(_, figure)| DOUBTS.contains(&figure.label.as_str()) && figure.value != "0")
}

/// Whether a section rests on a reading of the whole log, and has counted its streams.
fn is_read(report: &Report) -> bool {
    let mut figures = report.sections.iter().flat_map(|s| &s.figures);
    figures.any(|figure| figure.label == NOT_COMPLETE)
}

/// The same as a finding, where it is plain. A period that the log does not reach back to, of
/// which there is nothing, or of which a section says that some may be lost, is neither; nor is
/// one where the log was not read.
fn complete(report: &Report, uuids: &Uuids) -> Option<Value> {
    let header = &report.header;
    let reaches = header.records > 0 && header.begins.is_none();
    let told = reaches && is_read(report) && doubts(report).next().is_none();
    if header.complete && !told {
        return None;
    }
    Some(found(uuids, COMPLETE, header.complete, "completeness"))
}

/// What a section shows.
fn observation(report: &Report, uuids: &Uuids, i: usize, section: &Section) -> Value {
    let mut shown = Vec::new();
    for control in &section.controls {
        shown.push(prop("control", control));
    }
    for figure in &section.figures {
        let shows = prop(&token(&figure.label), &figure.value);
        shown.push(having(shows, "remarks", Some(line(&figure.label))));
    }
    if let Some(table) = &section.table {
        shown.push(prop("rows", &table.total.to_string()));
        shown.push(prop("rows-in-the-report", &table.rows.len().to_string()));
    }
    let shown: Vec<Value> = shown.into_iter().filter(|p| p["value"] != "").collect();
    let observation = json!({
        "uuid": uuids.named(&of_section(i, section)),
        "title": line(&section.title),
        "description": lines(&section.narrative),
        "methods": ["EXAMINE"],
        "collected": collected(report, section),
        "relevant-evidence": [evidence(uuids, section)],
    });
    let observation = having(observation, "props", some(shown));
    having(observation, "remarks", remarks(section))
}

/// When what a section shows was gathered.
fn collected<'r>(report: &'r Report, section: &Section) -> &'r str {
    match section.momentary {
        true => &report.header.made,
        false => &report.header.checkpoint.time,
    }
}

/// Where the rows of a section are, and how to ask for them again.
fn evidence(uuids: &Uuids, section: &Section) -> Value {
    let rows = section.table.as_ref().map_or_else(
        || "it has no table".to_owned(),
        |table| rows_shown(table.rows.len(), table.total),
    );
    let evidence = json!({
        "href": uuids.link("report"),
        "description": format!("The section `{}` of the report: {rows}.", line(&section.id)),
    });
    let asked = [
        ("The queries that it rests on:", &section.queries),
        ("The commands that show it:", &section.commands),
    ];
    let asked = asked.into_iter().filter(|(_, asked)| !asked.is_empty());
    let asked: Vec<String> = asked
        .map(|(head, asked)| {
            let asked: Vec<String> = asked.iter().map(|a| format!("    {}", line(a))).collect();
            format!("{head}\n\n{}", asked.join("\n"))
        })
        .collect();
    having(
        evidence,
        "remarks",
        some(asked).map(|asked| asked.join("\n\n")),
    )
}

/// What has to be known of a section beside what it shows.
fn remarks(section: &Section) -> Option<String> {
    let mut said = Vec::new();
    if section.momentary {
        said.push("It describes the whole log as it was when the report was made.".to_owned());
    }
    if section.of_policies {
        said.push("It is what policies were asked for: the log does not bear it out.".to_owned());
    }
    if !section.cannot_show.is_empty() {
        said.push("What this cannot show:\n".to_owned());
        said.extend(
            section
                .cannot_show
                .iter()
                .map(|what| format!("- {}", lines(what))),
        );
    }
    some(said).map(|said| said.join("\n"))
}

/// Everything that the log cannot show, as an observation: remarks are easily passed over.
fn limits(report: &Report, uuids: &Uuids) -> Option<Value> {
    let mut said = Vec::new();
    for section in report.sections.iter().filter(|s| !s.cannot_show.is_empty()) {
        said.push(format!("\n{}:\n", line(&section.title)));
        said.extend(
            section
                .cannot_show
                .iter()
                .map(|what| format!("- {}", lines(what))),
        );
    }
    if said.is_empty() {
        return None;
    }
    Some(json!({
        "uuid": uuids.named("limits"),
        "title": "What this report cannot show",
        "description": format!("{LIMITS}\n{}", said.join("\n")),
        "methods": ["EXAMINE"],
        "collected": report.header.checkpoint.time,
    }))
}

/// A finding where a section has the result of a test with two ends.
fn finding(uuids: &Uuids, i: usize, section: &Section) -> Option<Value> {
    let result = section.figures.iter().find(|f| f.label == "result")?;
    let position = |test: &Test| test.ends.iter().position(|end| *end == result.value);
    let mut tests = [INTACT, INDEXED].into_iter();
    let (end, test) = tests.find_map(|test| Some((position(&test)?, test)))?;
    let named = (test.target, test.title);
    Some(found(uuids, named, end == 0, &of_section(i, section)))
}

/// A test of ours that was passed or failed, by what is told of it elsewhere.
fn found(uuids: &Uuids, (target, title): (&str, &str), passed: bool, observation: &str) -> Value {
    json!({
        "uuid": uuids.named(&format!("finding {observation}")),
        "title": title,
        "description": JUDGE,
        "target": {
            "type": "objective-id",
            "target-id": target,
            "status": { "state": if passed { "satisfied" } else { "not-satisfied" } },
        },
        "related-observations": [{ "observation-uuid": uuids.named(observation) }],
    })
}

fn of_section(i: usize, section: &Section) -> String {
    format!("section {i} {}", section.id)
}

fn resources(report: &Report, uuids: &Uuids) -> Value {
    json!([
        {
            "uuid": uuids.named("no-plan"),
            "title": "No assessment plan",
            "description": NO_PLAN,
        },
        {
            "uuid": uuids.named("report"),
            "title": "The report with its rows",
            "description": "The report itself. In an evidence package it lies beside this document, with every record that it rests \
                on and the proof of each; elsewhere it is a file of its own, and `palisade report verify` makes it again.",
            "rlinks": [{ "href": "report/report.json", "media-type": "application/json" }],
        },
        {
            "uuid": uuids.named("checkpoint"),
            "title": "The signed checkpoint",
            "description": "A C2SP signed note (tlog-checkpoint): whoever has the log's public key can check it without Palisade.",
            "base64": {
                "filename": "checkpoint",
                "media-type": "text/plain",
                "value": BASE64.encode(&report.header.checkpoint.note),
            },
        },
    ])
}

fn props(all: &[(&str, &str)]) -> Vec<Value> {
    let all = all.iter().map(|(name, value)| prop(name, value));
    all.filter(|prop| prop["value"] != "").collect()
}

fn prop(name: &str, value: &str) -> Value {
    let mut prop = Map::new();
    prop.insert("name".to_owned(), name.into());
    prop.insert("ns".to_owned(), NAMESPACE.into());
    prop.insert("value".to_owned(), line(value).into());
    prop.into()
}

/// An object with one more member, where there is something to put there.
fn having(mut object: Value, name: &str, value: Option<impl Into<Value>>) -> Value {
    if let (Some(members), Some(value)) = (object.as_object_mut(), value) {
        members.insert(name.to_owned(), value.into());
    }
    object
}

/// A list that has something in it: OSCAL has no empty ones.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A text of one line, as values and titles have to be.
fn line(text: &str) -> String {
    visible(text).trim().to_owned()
}

/// A text of several lines.
fn lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

/// A text as a token of OSCAL, which is an XML name without a colon: `HIPAA 164.312(b)` is
/// `HIPAA-164.312-b`.
fn token(text: &str) -> String {
    let mut token = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') => token.push(c),
            _ if token.is_empty() || token.ends_with('-') => {}
            _ => token.push('-'),
        }
    }
    let token = token.trim_end_matches('-');
    match token.starts_with(|c: char| c.is_ascii_alphabetic()) {
        true => token.to_owned(),
        false => format!("_{token}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_is_a_token() {
        for (control, id) in [
            ("PCI DSS 7.2.5.1", "PCI-DSS-7.2.5.1"),
            ("SOC 2 CC6.1", "SOC-2-CC6.1"),
            ("ISO 27001 A.5.18", "ISO-27001-A.5.18"),
            ("HIPAA 164.308(a)(1)(ii)(D)", "HIPAA-164.308-a-1-ii-D"),
            ("12 months kept", "_12-months-kept"),
            ("", "_"),
        ] {
            assert_eq!(token(control), id);
        }
    }
}
