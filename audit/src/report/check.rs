//! Makes a report again and compares.

use std::cmp::Ordering;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT, Header, Kind, Report, Section,
    evidence::program,
    lacks::{self, Missing},
    model::Mark,
    to_html,
};
use crate::{
    checkpoint::Checkpoint,
    index::StoreError,
    item::AHEAD_MAX_US,
    log::Log,
    merkle::{Hash, verify_consistency},
    report::{Evidence, Period, run},
};

mod sections;

/// Differences that are told; more are counted.
const DIFFERENCES_MAX: usize = 50;
/// Characters of a line of a page that are told.
const LINE_MAX: usize = 300;

/// The mark before the report in an HTML page.
pub(super) const EMBEDDED: &str = "<script type=\"application/json\" id=\"report\">";

/// What came of making a report again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checked {
    /// Whether the log still begins with what the report's checkpoint signed, and the
    /// checkpoint is the log's own.
    pub checkpoint: bool,
    /// Figures, points and rows that were made again.
    pub compared: u64,
    /// What is not the same.
    pub differences: Vec<Difference>,
    /// Differences that are not told.
    pub more: u64,
    /// Sections that describe the log as it was then, of which only the texts were compared.
    pub momentary: Vec<String>,
    /// What of these is not as it was then: `log` has what is so now.
    #[serde(default)]
    pub moved: Vec<Difference>,
    /// What else was not compared, and why.
    #[serde(default)]
    pub not_compared: Vec<String>,
}

/// Something of a report that the log does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The section.
    pub section: String,
    /// What of it.
    pub what: String,
    /// In the report.
    pub report: String,
    /// By the log.
    pub log: String,
}

impl Checked {
    /// Whether the report says what the log says.
    pub fn holds(&self) -> bool {
        self.checkpoint && self.differences.is_empty() && self.more == 0
    }
}

/// Reads a report from a JSON file or from an HTML page that has it inside.
///
/// # Errors
/// `PLS7803` when there is none in it, `PLS7804` when a version with another form of
/// reports wrote it.
pub fn read(text: &str) -> Result<Report, Diagnostic> {
    let inside = match text.split_once(EMBEDDED) {
        Some((_, rest)) => rest.split_once("</script>").map_or(rest, |(json, _)| json),
        None => text,
    };
    let none = |why: String| {
        Diagnostic::error(7803, "this is not a report")
            .cause(why)
            .help("verify the JSON or the HTML file; PDF, XLSX, CSV and OSCAL are for reading")
    };
    let value: serde_json::Value = serde_json::from_str(inside).map_err(|e| none(e.to_string()))?;
    if let Some(format) = value.get("format").and_then(serde_json::Value::as_u64) {
        let program = value.pointer("/header/program");
        is_current(format, program.and_then(serde_json::Value::as_str))?;
    }
    serde_json::from_value(value).map_err(|e| none(e.to_string()))
}

/// Refuses what a program with another form of reports made: to compare that with what this
/// one makes tells nothing of the log.
///
/// # Errors
/// `PLS7804`.
pub(super) fn is_current(format: u64, program: Option<&str>) -> Result<(), Diagnostic> {
    let age = match format.cmp(&u64::from(FORMAT)) {
        Ordering::Equal => return Ok(()),
        Ordering::Greater => "newer",
        Ordering::Less => "older",
    };
    let by = program.unwrap_or("another version of palisade");
    Err(Diagnostic::error(
        7804,
        format!("the report has format {format}, {age} than {FORMAT}"),
    )
    .cause(format!("it was made by {by}; nothing of it was compared"))
    .help("verify it with the version of palisade that made it"))
}

/// What of the HTML page `text` is not what the report inside it says; nothing for a page
/// that is the very one of `report`, and for JSON, which has no page.
///
/// # Errors
/// `PLS7803` when the page cannot be made again.
pub fn page(text: &str, report: &Report) -> Result<Option<Difference>, Diagnostic> {
    if !text.contains(EMBEDDED) {
        return Ok(None);
    }
    let differs = |report: &str, log: &str| Difference {
        section: "page".to_owned(),
        what: "what people see".to_owned(),
        report: report.to_owned(),
        log: log.to_owned(),
    };
    let here = program();
    if report.header.program != here {
        return Ok(Some(differs(
            &format!("made by {}", report.header.program),
            &format!("this is {here}: the page itself was not compared, its report was"),
        )));
    }
    let again = to_html(report).map_err(|e| {
        Diagnostic::error(7803, "the page of the report cannot be made again").cause(e.to_string())
    })?;
    if again == text {
        return Ok(None);
    }
    let (mut said, mut found) = (text.lines(), again.lines());
    loop {
        match (said.next(), found.next()) {
            (None, None) => return Ok(Some(differs("other line ends", "the page of the report"))),
            (said, found) if said == found => {}
            (said, found) => {
                let short = |line: Option<&str>| -> String {
                    line.unwrap_or("absent").chars().take(LINE_MAX).collect()
                };
                return Ok(Some(differs(&short(said), &short(found))));
            }
        }
    }
}

/// Makes `report` again and compares every number and row.
///
/// # Errors
/// `PLS7817` for a report that was made from other records than there are now. When the store
/// cannot answer, or the report has a period or a checkpoint that cannot be read.
pub fn check<'a>(
    report: &Report,
    log: &Log,
    evidence: impl FnOnce(Period, &Checkpoint) -> Result<Evidence<'a>, StoreError>,
) -> Result<Checked, StoreError> {
    is_current(report.format.into(), Some(&report.header.program))?;
    let period = period_of(&report.header)?;
    let (checkpoint, signed) = checkpoint(&report.header.checkpoint, log)?;
    let evidence = evidence(period, &checkpoint)?;
    let mut checked = match remade(report, &evidence) {
        // Whatever it says that it lacks, it is not of this log.
        Err(StoreError::Query(told)) if !signed && lacks::is_unlike(&told) => Checked::default(),
        remade => remade?,
    };
    checked.made(&report.header, evidence.now_us());
    Ok(Checked {
        checkpoint: signed,
        ..checked
    })
}

/// What a report that this log made covers: its checkpoint and its period.
///
/// # Errors
/// `PLS7802` or `PLS7803` for a head that cannot be read.
pub fn covered(report: &Report, log: &Log) -> Result<(Checkpoint, Period), StoreError> {
    let (checkpoint, _) = checkpoint(&report.header.checkpoint, log)?;
    Ok((checkpoint, period_of(&report.header)?))
}

/// The period that the head of a report names.
pub(super) fn period_of(header: &Header) -> Result<Period, Diagnostic> {
    let bounds = format!("since:{} until:{}", header.from, header.to);
    Period::read(&bounds, i64::MAX / 2)
}

/// Makes `report` again from `evidence` and compares; its checkpoint is not looked at.
pub(super) fn remade(report: &Report, evidence: &Evidence<'_>) -> Result<Checked, StoreError> {
    Ok(compared(report, evidence)?.0)
}

/// The same, and the report as it is now.
pub(super) fn compared(
    report: &Report,
    evidence: &Evidence<'_>,
) -> Result<(Checked, Report), StoreError> {
    let again = run(Kind::find(&report.name)?, evidence)?;
    let (said, found) = (&report.header.lacks, &again.header.lacks);
    let of_log = evidence.log().is_some();
    if of_log {
        lacks::of_these_records(said, found)?;
    }
    let mut checked = Checked::default();
    checked.header(report, &again);
    let noticed = |gaps: &[Missing<'_>]| evidence.noticed(gaps);
    let made_by = &report.header.program;
    let lacks = lacks::compared(said, made_by, found, noticed)?;
    checked.lacks(&report.header, &lacks);
    if report.header.program != again.header.program {
        checked.not_compared.push(format!(
            "whether a difference is of the log or of the program: {} made it, and this is {}",
            report.header.program, again.header.program
        ));
    }
    checked.at_a_glance(report);
    checked.sections(&report.sections, &again.sections, of_log);
    if of_log {
        checked.moved(&report.sections, &again.sections);
    }
    Ok((checked, again))
}

/// The checkpoint that a report names, and whether this log signed it and still begins
/// with it.
pub(super) fn checkpoint(mark: &Mark, log: &Log) -> Result<(Checkpoint, bool), StoreError> {
    let bad =
        |why: String| Diagnostic::error(7803, "the report's checkpoint cannot be read").cause(why);
    let root = BASE64.decode(&mark.root).map_err(|e| bad(e.to_string()))?;
    let root: Hash = root
        .try_into()
        .map_err(|_| bad("its root is not 32 bytes".to_owned()))?;
    let time = mark
        .time
        .parse()
        .map_err(|e: jiff::Error| bad(e.to_string()))?;
    let named = Checkpoint {
        origin: log.checkpoint().origin,
        size: mark.size,
        root,
        time,
        note: mark.note.clone(),
    };
    let ours = Checkpoint::open(log.verifier(), &mark.note)
        .is_ok_and(|signed| signed.size == mark.size && signed.root == root && signed.time == time);
    let prefix = log.prove_prefix(mark.size).is_ok_and(|(now, proof)| {
        verify_consistency(mark.size, &root, now.size, &now.root, &proof).is_ok()
    });
    Ok((named, ours && prefix))
}

impl Checked {
    /// Compares sections with what came of making them again.
    pub fn compare(&mut self, report: &[Section], again: &[Section]) {
        self.sections(report, again, false);
    }

    /// Compares one thing more.
    pub fn same(&mut self, section: &str, what: &str, report: &str, log: &str) {
        self.compared += 1;
        if report != log && self.differences.len() >= DIFFERENCES_MAX {
            self.more += 1;
        } else if report != log {
            self.differences.push(Difference {
                section: section.to_owned(),
                what: what.to_owned(),
                report: report.to_owned(),
                log: log.to_owned(),
            });
        }
    }

    fn header(&mut self, report: &Report, again: &Report) {
        let (said, found) = (&report.header, &again.header);
        for (what, said, found) in [
            ("records", said.records, found.records),
            ("decisions", said.decisions, found.decisions),
            // Of tables that are compared below; those of momentary sections are of then.
            ("rows", said.rows, report.rows()),
        ] {
            self.same("header", what, &said.to_string(), &found.to_string());
        }
        let begins = |begins: &Option<String>| begins.clone().unwrap_or_default();
        for (what, said, found) in [
            ("format", report.format.to_string(), FORMAT.to_string()),
            ("title", report.title.clone(), again.title.clone()),
            ("question", report.question.clone(), again.question.clone()),
            ("log", said.log.clone(), found.log.clone()),
            ("from", said.from.clone(), found.from.clone()),
            ("to", said.to.clone(), found.to.clone()),
            ("scope", said.scope.clone(), found.scope.clone()),
            ("log begins", begins(&said.begins), begins(&found.begins)),
            ("demo", said.demo.to_string(), found.demo.to_string()),
            (
                "controls",
                said.controls.join("\n"),
                found.controls.join("\n"),
            ),
            (
                "complete",
                said.complete.to_string(),
                said.lacks.is_empty().to_string(),
            ),
        ] {
            self.same("header", what, &said, &found);
        }
    }

    /// Nothing speaks for the moment at which a report was made, but it is not before that of
    /// its checkpoint. One that is ahead is told: the clock that is behind may be this one.
    pub(super) fn made(&mut self, header: &Header, now_us: i64) {
        let us = |time: &str| time.parse::<jiff::Timestamp>().map(|t| t.as_microsecond());
        let (made, signed) = (us(&header.made), us(&header.checkpoint.time));
        let first = signed.map_or(i64::MAX, |us| us.saturating_sub(AHEAD_MAX_US));
        let expected = match made {
            Ok(made) if made >= first => header.made.clone(),
            _ => format!("after the checkpoint, {}", header.checkpoint.time),
        };
        self.same("header", "made", &header.made, &expected);
        if made.is_ok_and(|made| made > now_us.saturating_add(AHEAD_MAX_US)) {
            self.not_compared.push(format!(
                "when it was made: {} is ahead of the clock here",
                header.made
            ));
        }
    }

    /// What was lacking then may have arrived since; what lacks now has to be said.
    fn lacks(&mut self, said: &Header, lacks: &lacks::Compared) {
        let then = match lacks.new.is_empty() {
            true => String::new(),
            false => said.lacks.join("\n"),
        };
        self.same("header", "lacks", &then, &lacks.new.join("\n"));
        if !lacks.over.is_empty() {
            let over = lacks.over.join("; ");
            self.not_compared
                .push(format!("what the report lacked when it was made: {over}"));
        }
        if !lacks.aside.is_empty() {
            let aside = lacks.aside.join("; ");
            self.not_compared.push(format!(
                "what the log lacks at this moment, and changes none of what the report is of: {aside}"
            ));
        }
    }
}
