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
            commands: vec![format!("palisade audit gaps {text}")],
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

/// The line that asks again is one command with one word, also for a scope that would end the
/// quotation; a shell says so.
#[test]
fn a_query_to_ask_again_is_one_word_of_a_shell() {
    let query = r#"class:decision (path:"/x';touch forged;'") entry:<7"#;
    let mut report = sample("usual");
    report.sections[0].queries = vec![query.to_owned()];
    let page = to_html(&report).unwrap();
    let (_, line) = page
        .split_once("<summary>Ask again</summary>\n<pre>")
        .unwrap();
    let (line, _) = line.split_once("</pre>").unwrap();
    let line = line
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#60;", "<");
    let words = format!("palisade() {{ printf '%s\\n' \"$#\" \"$3\"; }}\n{line}");
    let said = std::process::Command::new("sh")
        .args(["-c", &words])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said, format!("3\n{query}\n"), "{line}");
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

/// Whether a text is in a cell of a workbook.
fn in_workbook(book: &[u8], text: &str) -> bool {
    cells(book).iter().any(|(_, _, cell)| cell.contains(text))
}

/// The cells of a workbook, which is a ZIP file of XML: sheet, place and what stands there.
/// Read strictly: what is no plain text in the table of strings is no text at all.
fn cells(book: &[u8]) -> Vec<(usize, String, String)> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(book)).unwrap();
    let mut part = |name: &str| {
        let mut part = archive.by_name(name).ok()?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut part, &mut text).unwrap();
        Some(text)
    };
    let strings = part("xl/sharedStrings.xml").unwrap();
    let inside = |text: &str, from: &str, to: &str| -> Option<String> {
        let (_, rest) = text.split_once(from)?;
        Some(rest.split_once(to)?.0.to_owned())
    };
    let plain = |text: &str| {
        assert!(!text.contains(['<', '>']), "markup in a text: {text}");
        let text = text.replace("&lt;", "<").replace("&gt;", ">");
        text.replace("&amp;", "&")
    };
    let strings: Vec<String> = strings
        .split("<si>")
        .skip(1)
        .map(|one| {
            let (text, _) = one.split_once("</si>").unwrap();
            let (tag, text) = text.split_once('>').unwrap();
            assert!(tag.starts_with("<t"), "no plain text: {one}");
            plain(text.strip_suffix("</t>").unwrap())
        })
        .collect();
    let mut found = Vec::new();
    for sheet in 1.. {
        let Some(text) = part(&format!("xl/worksheets/sheet{sheet}.xml")) else {
            return found;
        };
        for cell in text.split("<c r=\"").skip(1) {
            let (place, rest) = cell.split_once('"').unwrap();
            let (tag, rest) = rest.split_once('>').unwrap();
            // A cell that has a format alone.
            let Some(value) = inside(rest, "<v>", "</v>").filter(|_| !tag.ends_with('/')) else {
                continue;
            };
            let shared = tag.contains("t=\"s\"");
            let value = match shared {
                true => strings[value.parse::<usize>().unwrap()].clone(),
                false => value,
            };
            found.push((sheet, place.to_owned(), value));
        }
    }
    found
}

/// Whatever a cell says, it is a text of that cell, and every other one says what it would
/// have said: the strings of a workbook are one list for all of its sheets.
#[test]
fn a_text_in_a_workbook_is_a_text_in_its_cell_and_nowhere_else() {
    let usual = cells(&to_xlsx(&sample("usual")).unwrap());
    assert!(
        usual
            .iter()
            .any(|(_, _, cell)| cell == "18446744073709551615")
    );
    for text in [
        "<r><t>x</t></r></si><si><t>forged</t></si><si><r><t>y</t></r>",
        "<r></r",
        "<r>\u{202E}</r>",
        "<r>&amp;</r>",
        "</t></si><si><t>forged</t></si>",
        "_x003C_r>",
        "=HYPERLINK(\"x\")",
    ] {
        let said = cells(&to_xlsx(&sample(text)).unwrap());
        assert_eq!(said.len(), usual.len(), "{text}");
        // The words of a chart shorten what is long.
        let pairs = said.iter().zip(&usual);
        let pairs = pairs.filter(|(_, (_, _, usual))| !usual.contains("in the bars shown"));
        for ((sheet, place, said), (_, _, usual)) in pairs {
            let (said, usual) = (said.trim_start(), usual.replace("usual", "\0"));
            let shown = render::visible(text).replace("_x003C_", "_x005F_x003C_");
            assert_eq!(said, usual.replace('\0', &shown), "{sheet} {place}");
        }
    }
}

/// A cell has as much as Excel reads, which counts in units of UTF-16, and what is longer says
/// that it is.
#[test]
fn a_text_in_a_workbook_is_clipped_where_excel_ends_it() {
    const MOST: usize = 32_766;
    let longest = |text: &str| {
        let mut cells = cells(&to_xlsx(&sample(text)).unwrap()).into_iter();
        let first = text.chars().next().unwrap();
        let cell = cells.find(|(sheet, _, cell)| {
            *sheet == 2 && cell.len() > 1000 && cell.trim_start().starts_with(first)
        });
        let (_, _, cell) = cell.unwrap();
        (cell.encode_utf16().count(), cell.ends_with('…'))
    };
    assert_eq!(longest(&"a".repeat(MOST)), (MOST, false));
    assert_eq!(longest(&"a".repeat(MOST + 1)), (MOST, true));
    // Two units each, so that one more would not be whole.
    assert_eq!(longest(&"\u{1F600}".repeat(MOST / 2)), (MOST, false));
    let (len, clipped) = longest(&"\u{1F600}".repeat(MOST / 2 + 1));
    assert!(clipped && (MOST - 1..=MOST).contains(&len), "{len}");
    let formatted = |len: usize| format!("<r>{}</r>", "a".repeat(len - 7));
    assert_eq!(longest(&formatted(MOST)), (MOST + 1, false));
    assert_eq!(longest(&formatted(MOST + 1)), (MOST, true));
    // Control characters are spelled out, and are longer then.
    let hidden = format!("aaa{}{}", "\u{1F600}".repeat(15_000), "\u{1}".repeat(2_000));
    assert!(longest(&hidden).1);
}

/// What shows the same again, where no query does, stands in every form.
#[test]
fn a_command_to_ask_again_stands_in_every_form() {
    let command = "palisade audit verify";
    let mut report = sample("usual");
    report.sections[0].queries.clear();
    report.sections[0].commands = vec![command.to_owned()];
    let page = to_html(&report).unwrap();
    let again = format!("<summary>Ask again</summary>\n<pre>{command}</pre>");
    assert!(page.contains(&again), "{page}");
    let about = to_csv(&report).unwrap().remove(0).1;
    let line = format!(",command,{command}\r\n");
    assert!(String::from_utf8(about).unwrap().contains(&line));
    assert!(in_workbook(&to_xlsx(&report).unwrap(), command));
    let results = String::from_utf8(to_oscal(&report).unwrap()).unwrap();
    let remarks = format!("\"remarks\": \"The commands that show it:\\n\\n    {command}\"");
    assert!(results.contains(&remarks), "{results}");
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
