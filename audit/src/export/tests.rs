//! What the formats keep, and what they keep away.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    index::tests::fake::{Log, any_records},
    item::Item,
    row::Row,
    source::Source,
};

fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

fn decision(more: Value) -> Object {
    let mut row = object(json!({
        "time": "2026-11-20T12:00:00.000001Z",
        "class": "decision",
        "decision": "not_permitted",
        "reason": "no_permit",
        "principal": "spiffe://acme.test/ns/shop/sa/web",
        "service": "acme.test/shop/orders",
        "action": "orders:refund",
        "method": "POST",
        "path": "/orders/42/refund",
        "status": 403,
        "policy": ["a", "b"],
        "enforced": true,
        "entry": 7,
    }));
    row.extend(object(more));
    row
}

fn read_csv(bytes: &[u8]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = ::csv::Reader::from_reader(bytes);
    let head = reader.headers().unwrap().iter().map(String::from).collect();
    let rows = reader
        .records()
        .map(|r| r.unwrap().iter().map(String::from).collect())
        .collect();
    (head, rows)
}

/// What a caller chooses never becomes a formula.
#[test]
fn a_cell_that_a_spreadsheet_would_compute_is_a_text() {
    for bad in [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "＝1+1",
        "＠SUM(A1)",
    ] {
        let mut out = Vec::new();
        write_csv_head(&mut out).unwrap();
        write_csv(&decision(json!({ "host": bad, "path": bad })), &mut out).unwrap();
        let (head, rows) = read_csv(&out);
        for name in ["host", "path"] {
            let at = head.iter().position(|h| h == name).unwrap();
            assert_eq!(rows[0][at], format!("'{bad}"));
        }
    }
    assert_eq!(neutral("/orders=1"), "/orders=1");
    assert_eq!(neutral(""), "");
    // Where a `;` begins the next cell.
    assert_eq!(neutral("/x;=1+1;b; @c"), "/x;'=1+1;b;' @c");
    assert_eq!(neutral("a; b=1"), "a; b=1");
}

#[test]
fn csv_keeps_what_needs_quotes() {
    let odd = "a,\"b\"\r\nc";
    let mut out = Vec::new();
    write_csv_head(&mut out).unwrap();
    write_csv(&decision(json!({ "host": odd })), &mut out).unwrap();
    let (head, rows) = read_csv(&out);
    let cell = |name: &str| &rows[0][head.iter().position(|h| h == name).unwrap()];
    assert_eq!(cell("host"), odd);
    assert_eq!(cell("policy"), "a; b");
    assert_eq!(cell("status"), "403");
    assert_eq!(cell("trace"), "");
    assert!(out.ends_with(b"\r\n"));
}

#[test]
fn a_decision_is_an_ocsf_event_of_class_6003() {
    let event = ocsf_event(&decision(json!({}))).unwrap();
    assert_eq!(event["class_uid"], 6003);
    assert_eq!(event["type_uid"], 600_301);
    assert_eq!(event["time"], 1_795_176_000_000_i64);
    assert_eq!(
        (&event["action_id"], &event["disposition_id"]),
        (&json!(2), &json!(26))
    );
    assert_eq!(event["actor"]["authorizations"][1]["policy"]["uid"], "b");
    assert_eq!(event["unmapped"]["palisade"]["entry"], 7);
    let of = |verdict: &str, enforced: bool| {
        let row = decision(json!({ "decision": verdict, "enforced": enforced }));
        let event = ocsf_event(&row).unwrap();
        (
            event["action_id"].as_u64(),
            event["disposition_id"].as_u64(),
            event["status_id"].as_u64(),
        )
    };
    assert_eq!(of("allow", true), (Some(1), Some(1), Some(1)));
    assert_eq!(of("forbidden", true), (Some(2), Some(2), Some(2)));
    assert_eq!(of("undecided", true), (Some(2), Some(27), Some(2)));
    assert_eq!(of("not_permitted", false), (Some(3), Some(17), Some(1)));
    assert!(ocsf_event(&object(json!({ "class": "admin" }))).is_none());
}

#[test]
fn row_groups_end_where_they_are_full() {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let mut file = ParquetFile::new(Vec::new()).unwrap();
    for _ in 0..=GROUP_ROWS {
        file.row(&decision(json!({}))).unwrap();
    }
    let bytes = file
        .finish(&[("palisade.query", "last:1h".into())])
        .unwrap();
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let meta = reader.metadata();
    let rows: Vec<i64> = meta.row_groups().iter().map(|g| g.num_rows()).collect();
    assert_eq!(rows, [GROUP_ROWS as i64, 1]);
    let facts = meta.file_metadata().key_value_metadata().unwrap();
    assert!(facts.iter().any(|f| f.key == "palisade.query"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Every value of every class of record has its column and comes back out of Parquet.
    #[test]
    fn no_value_of_a_row_is_without_a_column(records in any_records()) {
        use ::parquet::{file::reader::{FileReader, SerializedFileReader}, record::Field};
        let log = Log::new();
        for record in records {
            log.append(record);
        }
        let rows: Vec<Object> = log
            .scan(0)
            .map(|entry| object(serde_json::to_value(Row::new(&Item::new(entry.unwrap()))).unwrap()))
            .collect();
        let mut file = ParquetFile::new(Vec::new()).unwrap();
        for row in &rows {
            for name in row.keys() {
                prop_assert!(columns().any(|column| column.name == name), "{name}");
            }
            file.row(row).unwrap();
        }
        let bytes = bytes::Bytes::from(file.finish(&[]).unwrap());
        let reader = SerializedFileReader::new(bytes).unwrap();
        let mut read = 0;
        for (row, written) in reader.get_row_iter(None).unwrap().zip(&rows) {
            let row = row.unwrap();
            for (name, field) in row.get_column_iter() {
                match (field, written.get(name)) {
                    (Field::Null, None) => {}
                    (Field::Bool(b), Some(Value::Bool(w))) => prop_assert_eq!(b, w),
                    (Field::ULong(n), Some(w)) => prop_assert_eq!(Some(*n), w.as_u64()),
                    (Field::Str(t), Some(Value::String(w))) => prop_assert_eq!(t, w),
                    (Field::Str(t), Some(w)) => prop_assert_eq!(t, &w.to_string()),
                    (Field::ListInternal(l), Some(Value::Array(w))) => {
                        prop_assert_eq!(l.elements().len(), w.len());
                    }
                    (Field::TimestampMicros(us), Some(Value::String(w))) => {
                        let time: jiff::Timestamp = w.parse().unwrap();
                        prop_assert_eq!(*us, time.as_microsecond());
                    }
                    (found, expected) => prop_assert!(false, "{}: {:?} for {:?}", name, found, expected),
                }
            }
            read += 1;
        }
        prop_assert_eq!(read, rows.len());
    }
}
