//! What a report's formats keep, and what they keep away.

use super::{
    model::{Cell, CellKind, Chart, Column, Figure, Header, Mark, Point, Shape, Table},
    *,
};

/// What a caller may have chosen.
const BAD: &str =
    "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u{202E}\u{1b}[31m";

pub(super) fn sample(text: &str) -> Report {
    let column = |name: &str, kind| Column {
        name: name.to_owned(),
        kind,
    };
    let cell = |cell: &str| -> Cell { cell.to_owned() };
    Report {
        format: FORMAT,
        name: "denials".into(),
        title: "Denied attempts".into(),
        question: "Who?".into(),
        header: Header {
            log: "palisade/acme.test".into(),
            from: "2026-11-01T00:00:00.000000Z".into(),
            to: "2026-11-20T12:00:00.000000Z".into(),
            scope: text.to_owned(),
            made: "2026-11-20T12:00:01.000000Z".into(),
            records: 1_204_118,
            decisions: 600_000,
            rows: 2,
            checkpoint: Mark {
                size: 2_000_000,
                root: "AAAA".into(),
                time: "2026-11-20T12:00:00.000000Z".into(),
                note: "palisade/acme.test\n2000000\nAAAA\n\n— palisade/acme.test abcd\n".into(),
            },
            complete: false,
            lacks: vec![text.to_owned()],
            begins: None,
            demo: true,
            controls: vec!["PCI DSS 10.2.1.4".into()],
            program: "palisade 0.1.0".into(),
        },
        sections: vec![Section {
            id: "164.308(a)(5)/x".into(),
            title: format!("Denied {text}"),
            controls: vec!["PCI DSS 10.2.1.4".into()],
            narrative: text.to_owned(),
            queries: vec![format!("path:\"{text}\"")],
            figures: vec![Figure {
                label: text.to_owned(),
                value: "12345".into(),
            }],
            chart: Some(Chart {
                title: text.to_owned(),
                shape: Shape::Bars,
                series: vec![text.to_owned()],
                points: vec![Point {
                    label: text.to_owned(),
                    values: vec![7],
                }],
            }),
            table: Some(Table {
                columns: vec![
                    column("principal", CellKind::Text),
                    column("count", CellKind::Number),
                    column("first", CellKind::Time),
                    column("verdict", CellKind::Blank),
                ],
                rows: vec![
                    vec![
                        cell(text),
                        cell("12345"),
                        cell("2026-11-20T12:00:00.000000Z"),
                        cell(""),
                    ],
                    vec![
                        cell("=1+1"),
                        cell("18446744073709551615"),
                        cell("never"),
                        cell(""),
                    ],
                ],
                total: 500,
            }),
            listing: Some(text.to_owned()),
            cannot_show: vec![text.to_owned()],
            momentary: false,
            of_policies: false,
        }],
    }
}

#[test]
fn a_page_runs_nothing_and_loads_nothing_whatever_is_in_it() {
    let page = to_html(&sample(BAD)).unwrap();
    assert_eq!(page.matches("<script").count(), 1, "only the report itself");
    assert!(!page.contains("<img"), "{page}");
    assert!(!page.contains('\u{202E}') && !page.contains('\u{1b}'));
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    for loads in ["src=\"", "url(", "@import", "href=\"http", "style=\""] {
        let outside = page.split(check::EMBEDDED).next().unwrap();
        assert!(!outside.contains(loads), "{loads}");
    }
    assert!(page.contains("12,345") && page.contains("2 of 500 rows"));
    assert!(page.contains("Not complete"));
}

#[test]
fn the_report_inside_a_page_is_the_report() {
    let report = sample(BAD);
    assert_eq!(read(&to_html(&report).unwrap()).unwrap(), report);
    assert_eq!(
        read(&serde_json::to_string(&report).unwrap()).unwrap(),
        report
    );
    let code = |text: &str| read(text).unwrap_err().code.0;
    assert_eq!(code("<html></html>"), 7803);
    assert_eq!(code("{}"), 7803);
    for other in [FORMAT - 1, FORMAT + 1] {
        assert_eq!(code(&format!("{{\"format\": {other}}}")), 7804);
    }
    assert_eq!(code(&format!("{{\"format\": {FORMAT}}}")), 7803);
}

#[test]
fn a_page_that_is_not_that_of_the_report_inside_is_told() {
    let mut report = sample(BAD);
    report.header.program = evidence::program();
    let told = |text: &str| page(text, &report).unwrap();
    let whole = to_html(&report).unwrap();
    assert_eq!(told(&whole), None);
    assert_eq!(told(&serde_json::to_string(&report).unwrap()), None);
    let forged = told(&whole.replacen("<dd>12,345", "<dd>12,344", 1)).unwrap();
    assert!(forged.report.contains("12,344") && forged.log.contains("12,345"));
    assert!(told(&whole.replace('\n', "\r\n")).is_some());
    assert!(told(&format!("{whole}<p>more")).is_some());
    let other = sample(BAD);
    let of_other = Report {
        header: Header {
            program: "palisade 9999.0.0".into(),
            ..other.header
        },
        ..other
    };
    let text = to_html(&of_other).unwrap();
    let told = page(&text, &of_other).unwrap().unwrap();
    assert!(told.log.contains("not compared"), "{told:?}");
}

#[test]
fn tables_are_csv_files_that_no_spreadsheet_computes() {
    let files = to_csv(&sample(BAD)).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["about.csv", "01-164.308-a--5--x.csv"]);
    let table = String::from_utf8(files[1].1.clone()).unwrap();
    assert!(table.contains("'=1+1"), "{table}");
    let about = String::from_utf8(files[0].1.clone()).unwrap();
    for fact in [
        "checkpoint root",
        "log range",
        "complete,no",
        "query",
        "cannot show",
    ] {
        assert!(about.contains(fact), "{fact}");
    }
}

/// A period in which nothing was recorded is told in every form, in each file and sheet that
/// is passed on by itself; one in which something was, in none.
#[test]
fn a_period_without_records_is_marked_in_every_form() {
    let mut report = sample("text");
    let nothing = "No record at all in this period";
    let forms = |report: &Report| {
        let files = to_csv(report).unwrap().into_iter();
        let mut forms: Vec<(String, bool)> = files
            .map(|(name, bytes)| (name, String::from_utf8(bytes).unwrap().contains(nothing)))
            .collect();
        forms.push((
            "html".to_owned(),
            to_html(report).unwrap().contains(nothing),
        ));
        forms.push((
            "xlsx".to_owned(),
            in_workbook(&to_xlsx(report).unwrap(), nothing),
        ));
        forms
    };
    for (form, marked) in forms(&report) {
        assert!(!marked, "{form}");
    }
    report.header.records = 0;
    report.sections[0].table.as_mut().unwrap().rows.clear();
    let marked = forms(&report);
    assert_eq!(marked.len(), 4, "{marked:?}");
    for (form, marked) in marked {
        assert!(marked, "{form}");
    }
}

/// Whether a text is in a part of a workbook, which is a ZIP file of deflated parts.
fn in_workbook(book: &[u8], text: &str) -> bool {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(book)).unwrap();
    let mut part = archive.by_name("xl/sharedStrings.xml").unwrap();
    let mut all = String::new();
    std::io::Read::read_to_string(&mut part, &mut all).unwrap();
    all.contains(text)
}

#[test]
fn workbooks_and_pdfs_take_any_text() {
    for text in [
        BAD,
        "",
        &"ä".repeat(40_000),
        "日本 \u{1F600}",
        "=HYPERLINK(\"x\")",
    ] {
        let book = to_xlsx(&sample(text)).unwrap();
        assert!(book.starts_with(b"PK"));
        let paper = to_pdf(&sample(text)).unwrap();
        assert!(paper.starts_with(b"%PDF-"));
    }
}

#[test]
fn an_unknown_report_has_a_suggestion() {
    let told = Kind::find("denails").err().unwrap();
    assert_eq!(
        (told.code.0, told.help.as_deref()),
        (7801, Some("did you mean `denials`?"))
    );
    for kind in KINDS {
        assert!(Kind::find(kind.name).is_ok());
    }
}
