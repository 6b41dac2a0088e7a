//! Records in bulk: who takes them out, and in what form.

use palisade_audit::export::ParquetFile;

use super::*;

/// `audit:read` lets nobody past a policy that was written against exports, and shows no
/// cases.
#[tokio::test]
async fn records_as_they_are_hashed_are_an_export() {
    let service = Service::ready().await;
    let office = service.office();
    let entries = "/tile/entries/000.p/3";
    let reply = service.ask(&office, Some(CLERK), "GET", entries).await;
    reply.is_problem(403, "PLS7906");
    assert!(reply.text().contains("clerks-export-nothing"), "{reply:?}");
    service.get(&office, CLERK, "/tile/0/000.p/3").await;
    let holds = "/v1/audit/holds";
    let reply = service.ask(&office, Some(CLERK), "GET", holds).await;
    reply.is_problem(403, "PLS7906");
    service.get(&office, AUDITOR, entries).await;
}

/// What a Parquet file has before its footer, and the footer.
fn halves(file: &[u8]) -> (&[u8], &[u8]) {
    let (rest, magic) = file.split_last_chunk::<4>().unwrap();
    assert_eq!(magic, b"PAR1");
    let (rest, len) = rest.split_last_chunk::<4>().unwrap();
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap();
    rest.split_at(rest.len() - len)
}

/// The columns are those of the rows that a search gives, and the file says what was asked.
#[tokio::test]
async fn an_export_as_parquet_has_the_rows_of_a_search() {
    let service = Service::ready().await;
    let office = service.office();
    let at = "/v1/audit/export?q=class:decision&format=parquet";
    let reply = service.get(&office, AUDITOR, at).await;
    assert_eq!(
        reply.header("content-type"),
        "application/vnd.apache.parquet"
    );
    let (columns, footer) = halves(reply.body.as_ref().unwrap());
    let mut made = ParquetFile::new(Vec::new()).unwrap();
    for row in service.rows("class:decision").await {
        made.row(row.as_object().unwrap()).unwrap();
    }
    let made = made.finish(&[]).unwrap();
    assert_eq!(columns, halves(&made).0);
    let footer = String::from_utf8_lossy(footer);
    for fact in ["palisade.query", "class:decision", "palisade.complete"] {
        assert!(footer.contains(fact), "{fact}: {footer}");
    }
}
