//! Interrupted at any point, an export goes on to the same file.

use super::*;

const QUERY: &str = "class:decision";

fn page(rows: std::ops::Range<u64>, cursor: Option<&str>) -> Value {
    let row = |n: u64| json!({ "time": "2026-11-20T12:00:00Z", "class": "decision", "entry": n });
    json!({
        "rows": rows.map(row).collect::<Vec<_>>(),
        "cursor": cursor,
        "from": "a", "to": "b", "complete": true, "gaps": [],
    })
}

fn pages() -> [Value; 3] {
    [
        page(0..5, Some("1")),
        page(5..9, Some("2")),
        page(9..11, None),
    ]
}

fn add(part: &mut Part, note: &mut Note, page: &Value) {
    note.turn(page);
    let rows = page["rows"].as_array().unwrap();
    part.add(rows, note).unwrap();
}

fn open(to: &Path, format: Format, resume: bool, overwrite: bool) -> Result<Part, Diagnostic> {
    Part::open(to, QUERY, format, resume, overwrite)
}

fn code(result: Result<Part, Diagnostic>) -> u16 {
    match result {
        Ok(_) => 0,
        Err(told) => told.code.0,
    }
}

/// What an answer lacks is told with the file, under the names that the answer has.
#[test]
fn an_export_names_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let lacks = json!({
        "gaps": [{ "reporter": "r", "first": 3, "last": 4 }],
        "lost": [{ "reporter": "r", "records": 9 }],
        "lost_more": 2,
        "silent": [{ "reporter": "s" }],
    });
    let [mut page, ..] = pages();
    let said = page.as_object_mut().unwrap();
    said.extend(lacks.as_object().unwrap().clone());
    said.extend([
        ("complete".to_owned(), json!(false)),
        ("cursor".to_owned(), Value::Null),
        ("behind".to_owned(), json!(0)),
        ("stalled".to_owned(), Value::Null),
    ]);
    let to = dir.path().join("lacking");
    let mut part = open(&to, Format::Jsonl, false, false).unwrap();
    let mut note = part.note().clone();
    add(&mut part, &mut note, &page);
    let summary = note.summary();
    let facts: std::collections::HashMap<_, _> = note.facts().into();
    let done = part.finish(&note).unwrap();
    for told in [&summary, &done] {
        assert_eq!((&told["gaps"], &told["lacks"]), (&lacks["gaps"], &lacks));
        assert_eq!(told["complete"], false);
    }
    let fact: Value = serde_json::from_str(&facts["palisade.lacks"]).unwrap();
    assert_eq!(fact, lacks);
}

/// A version with another column would put the rest of a table under the wrong names.
#[test]
fn an_export_of_other_columns_is_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("export");
    let mut part = open(&to, Format::Csv, false, false).unwrap();
    let mut note = part.note().clone();
    add(&mut part, &mut note, &pages()[0]);
    drop(part);
    let path = note_of(&to);
    let mut left: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let columns = left["columns"].as_str().unwrap().replace(",node,", ",");
    for columns in [Some(columns), None] {
        left["columns"] = columns.map_or_else(|| json!(""), Value::from);
        fs::write(&path, left.to_string()).unwrap();
        assert_eq!(code(open(&to, Format::Csv, true, false)), 7705);
    }
    assert_eq!(code(open(&to, Format::Csv, false, true)), 0);
}

#[test]
fn an_interrupted_export_goes_on_to_the_same_bytes() {
    for format in [Format::Csv, Format::Jsonl, Format::Ocsf, Format::Parquet] {
        let dir = tempfile::tempdir().unwrap();
        let straight = dir.path().join("straight");
        let mut part = open(&straight, format, false, false).unwrap();
        let mut note = part.note().clone();
        for page in pages() {
            add(&mut part, &mut note, &page);
        }
        let done = part.finish(&note).unwrap();
        assert_eq!(done["records"], 11);

        let broken = dir.path().join("broken");
        let [first, second, third] = pages();
        let mut part = open(&broken, format, false, false).unwrap();
        let mut note = part.note().clone();
        add(&mut part, &mut note, &first);
        // Half a page more, and the end of the process.
        part.file.write_all(b"{\"time\":\"2026").unwrap();
        drop(part);
        assert!(!broken.exists(), "what is not whole has another name");
        assert_eq!(code(open(&broken, format, false, false)), 7704);

        let mut part = open(&broken, format, true, false).unwrap();
        let mut note = part.note().clone();
        assert_eq!(note.cursor.as_deref(), Some("1"));
        add(&mut part, &mut note, &second);
        drop(part);
        let mut part = open(&broken, format, true, false).unwrap();
        let mut note = part.note().clone();
        add(&mut part, &mut note, &third);
        assert!(note.done);
        part.finish(&note).unwrap();
        assert_eq!(
            fs::read(&broken).unwrap(),
            fs::read(&straight).unwrap(),
            "{format:?}"
        );
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "nothing is left beside the files: {left:?}");
    }
}

#[test]
fn nothing_is_overwritten_or_mixed_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("x.jsonl");
    assert_eq!(code(open(&to, Format::Jsonl, true, false)), 7705);
    fs::write(&to, "mine").unwrap();
    assert_eq!(code(open(&to, Format::Jsonl, false, false)), 7703);
    assert_eq!(fs::read(&to).unwrap(), b"mine");

    let mut part = open(&to, Format::Jsonl, false, true).unwrap();
    assert_eq!(
        code(open(&to, Format::Jsonl, false, true)),
        7704,
        "two at once"
    );
    let mut note = part.note().clone();
    add(&mut part, &mut note, &page(0..2, None));
    assert_eq!(
        fs::read(&to).unwrap(),
        b"mine",
        "until the new one is whole"
    );
    drop(part);
    fs::remove_file(&to).unwrap();
    assert_eq!(
        code(open(&to, Format::Csv, true, false)),
        7705,
        "another format"
    );
    let other = Part::open(&to, "class:admin", Format::Jsonl, true, false);
    assert_eq!(code(other), 7705, "another query");
    // Without the note, or with less than it says, nobody knows where to go on.
    let (kept, note_is_at) = (fs::read(note_of(&to)).unwrap(), note_of(&to));
    fs::remove_file(&note_is_at).unwrap();
    assert_eq!(code(open(&to, Format::Jsonl, true, false)), 7705, "no note");
    fs::write(&note_is_at, kept).unwrap();
    let whole = fs::read(part_of(&to)).unwrap();
    fs::write(part_of(&to), &whole[1..]).unwrap();
    assert_eq!(code(open(&to, Format::Jsonl, true, false)), 7705, "cut");
    fs::write(part_of(&to), whole).unwrap();
    let part = open(&to, Format::Jsonl, true, false).unwrap();
    // Somebody else's file came up while it went on.
    fs::write(&to, "theirs").unwrap();
    let note = part.note().clone();
    assert_eq!(part.finish(&note).unwrap_err().code.0, 7703);
    assert_eq!(fs::read(&to).unwrap(), b"theirs");
}

#[test]
fn rows_that_are_no_decision_are_told_where_a_format_has_no_place_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = open(&dir.path().join("x.ocsf"), Format::Ocsf, false, false).unwrap();
    let mut note = part.note().clone();
    let mut mixed = page(0..2, None);
    mixed["rows"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "class": "admin" }));
    add(&mut part, &mut note, &mixed);
    let done = part.finish(&note).unwrap();
    assert_eq!(
        (&done["records"], &done["left_out"]),
        (&json!(2), &json!(1))
    );
}
