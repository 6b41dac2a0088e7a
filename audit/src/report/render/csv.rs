//! One CSV file for each table of a report, after one that says what it covers.

use ::csv::{Terminator, WriterBuilder};

use super::{NO_ROWS, NOTHING, RenderError, visible};
use crate::{
    export::neutral,
    report::model::{Header, Report},
};

/// The files of a report: name and content, the first with what it covers.
///
/// # Errors
/// When a table cannot be written.
pub fn to_csv(report: &Report) -> Result<Vec<(String, Vec<u8>)>, RenderError> {
    let of_report = |what: &str, text: &str| ["report", what, text].map(str::to_owned).to_vec();
    let mut about = vec![
        of_report("report", &report.title),
        of_report("question", &report.question),
    ];
    let nothing = report.header.records == 0;
    if nothing {
        about.push(of_report("no records", NOTHING));
    }
    about.extend(facts(report));
    for section in &report.sections {
        let line =
            |what: &str, text: &str| vec![section.id.clone(), what.to_owned(), text.to_owned()];
        about.push(line("title", &section.title));
        about.push(line("controls", &section.controls.join(", ")));
        about.push(line("narrative", &section.narrative));
        about.extend(section.queries.iter().map(|query| line("query", query)));
        let commands = section.commands.iter();
        about.extend(commands.map(|command| line("command", command)));
        about.extend(
            section
                .figures
                .iter()
                .map(|figure| line(&figure.label, &figure.value)),
        );
        about.extend(
            section
                .cannot_show
                .iter()
                .map(|what| line("cannot show", what)),
        );
    }
    let head = ["section", "what", "value"].map(str::to_owned).to_vec();
    let mut files = vec![(
        "about.csv".to_owned(),
        table(std::iter::once(head).chain(about))?,
    )];
    for (i, section) in report.sections.iter().enumerate() {
        if let Some(shown) = &section.table {
            let head = shown
                .columns
                .iter()
                .map(|column| column.name.clone())
                .collect();
            let mut none = vec![String::new(); shown.columns.len()];
            if let Some(first) = none.first_mut() {
                // Each file is passed on by itself.
                *first = match nothing {
                    true => format!("{NO_ROWS} {NOTHING}"),
                    false => NO_ROWS.to_owned(),
                };
            }
            let none = shown.rows.is_empty().then_some(none);
            let rows = shown.rows.iter().cloned().chain(none);
            let rows = std::iter::once(head).chain(rows);
            files.push((
                format!("{:02}-{}.csv", i + 1, file_name(&section.id)),
                table(rows)?,
            ));
        }
    }
    Ok(files)
}

/// What a report covers, as lines of section, name and value.
pub(super) fn facts(report: &Report) -> Vec<Vec<String>> {
    let line = |what: &str, text: String| vec!["report".to_owned(), what.to_owned(), text];
    facts_of(report)
        .into_iter()
        .map(|(what, text)| line(what, text))
        .collect()
}

/// What a report covers, as names and values.
pub(super) fn facts_of(report: &Report) -> Vec<(&'static str, String)> {
    let Header {
        log,
        from,
        to,
        scope,
        made,
        records,
        decisions,
        rows,
        checkpoint,
        complete,
        lacks,
        begins,
        demo,
        controls,
        program,
    } = &report.header;
    let mut facts = vec![
        ("log", log.clone()),
        ("period from", from.clone()),
        ("period to (exclusive)", to.clone()),
        (
            "scope",
            if scope.is_empty() {
                "every decision".to_owned()
            } else {
                scope.clone()
            },
        ),
        ("records in the period", records.to_string()),
        ("decisions in scope", decisions.to_string()),
        ("rows of evidence", rows.to_string()),
        (
            "log range",
            format!("records 0 to {}", checkpoint.size.saturating_sub(1)),
        ),
        ("checkpoint root", checkpoint.root.clone()),
        ("checkpoint signed", checkpoint.time.clone()),
        ("complete", if *complete { "yes" } else { "no" }.to_owned()),
    ];
    if let Some(begins) = begins {
        let told = format!("{begins}, after the period does: before that, nothing was recorded");
        facts.push(("log begins", told));
    }
    facts.extend(lacks.iter().map(|lack| ("lacks", lack.clone())));
    if !controls.is_empty() {
        facts.push(("controls", controls.join(", ")));
    }
    if *demo {
        facts.push(("demo", "the records are those of a demo mesh".to_owned()));
    }
    facts.push(("made", made.clone()));
    facts.push(("made by", program.clone()));
    facts
}

fn table(rows: impl Iterator<Item = Vec<String>>) -> Result<Vec<u8>, RenderError> {
    let mut out = Vec::new();
    {
        let mut writer = WriterBuilder::new()
            .terminator(Terminator::CRLF)
            .from_writer(&mut out);
        for row in rows {
            writer.write_record(row.iter().map(|cell| neutral(&visible(cell)).into_owned()))?;
        }
        writer.flush().map_err(::csv::Error::from)?;
    }
    Ok(out)
}

/// A section's name as part of a file's.
pub(super) fn file_name(id: &str) -> String {
    let fits = |c: char| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') => c,
        _ => '-',
    };
    id.chars().map(fits).collect()
}
