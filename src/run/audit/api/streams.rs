//! Answers that are sent while they are made: tails and exports.

use std::{io, pin::Pin, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE, TRAILER},
};
use http_body_util::StreamBody;
use hyper::body::Frame;
use palisade_audit::{
    index::{Coverage, SearchResult},
    query::{Limits, Query},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::{
        AuditRole, blocking, broken,
        reads::{Begun, Reader},
    },
    Caller, Office,
    asked::{Export, Format},
    files::FileBytes,
    problem::Fault,
};

/// Records that are read at once for an export.
const PAGE_ROWS: usize = 1000;
/// How often a tail looks whether its reader is still proven.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const RECORDS: HeaderName = HeaderName::from_static("palisade-records");
const COMPLETE: HeaderName = HeaderName::from_static("palisade-complete");
const RESTRICTED: HeaderName = HeaderName::from_static("palisade-restricted");

const LINES: &str = "application/x-ndjson";
const PARQUET: &str = "application/vnd.apache.parquet";
const CSV: &str = "text/csv; charset=utf-8; header=present";

/// Records as they arrive, until the reader goes, is no longer proven, or has followed
/// for as long as it may; then a last line says which.
pub(super) async fn tail(
    office: &Office,
    caller: Caller,
    reader: &Reader,
    query: &str,
) -> Result<Response, Fault> {
    office.role().records(query)?;
    let place = office.tail_place()?;
    let lines = office
        .role()
        .follow(reader, query)
        .await?
        .map(|line| line.map_err(io::Error::other));
    let end = until(office.clone(), caller);
    let begin = Some((Box::pin(lines), Box::pin(end), place));
    let lines = stream::unfold(begin, |state| async move {
        let (mut lines, mut end, place) = state?;
        tokio::select! {
            line = lines.next() => Some((line?, Some((lines, end, place)))),
            why = &mut end => {
                let last = format!("{}\n", json!({ "ended": why }));
                Some((Ok(Bytes::from(last)), None))
            }
        }
    });
    Ok(typed(Body::from_stream(lines), LINES))
}

/// Resolves when a tail must end; why.
async fn until(office: Office, caller: Caller) -> &'static str {
    let limit = Instant::now() + office.bounds().tail;
    loop {
        tokio::time::sleep_until(limit.min(Instant::now() + LOOK_EVERY)).await;
        if office.present(&caller).is_err() {
            return "the reader is no longer proven";
        }
        if Instant::now() >= limit {
            return "its time is over: ask again";
        }
    }
}

/// All matching records. How many there will be is checked before the first is sent.
pub(super) async fn export(
    office: Office,
    caller: Caller,
    reader: Reader,
    asked: Export,
) -> Result<Response, Fault> {
    let query = reader.sees(&office.role().records(&asked.q)?);
    // An erasure looks later for what was given.
    let window = query.window(office.role().clock.now_us(), &Limits::default())?;
    let told = query.told_within(window);
    let deadline = Instant::now() + office.bounds().export;
    let of = query.clone();
    let (count, first) = office
        .timed(|role| async move {
            role.settled().await;
            let store = role.store.clone();
            let ask = move || Ok((store.count(&of)?, store.search(&of, PAGE_ROWS, None)?));
            Ok(blocking(ask).await?)
        })
        .await?;
    let max = office.bounds().export_rows;
    if count > max {
        office
            .role()
            .reads
            .note(&reader, "export", &told, 0)
            .await?;
        return Err(Fault::too_many(count, max));
    }
    let begun = office.role().reads.begin(&reader, "export", &told).await?;
    let mut headers = HeaderMap::new();
    headers.insert(RECORDS, HeaderValue::from(count));
    headers.insert(COMPLETE, flag(first.coverage.complete));
    headers.insert(RESTRICTED, flag(first.coverage.restricted_to.is_some()));
    let (kind, name) = match asked.format {
        Format::Csv => (CSV, "attachment; filename=\"audit.csv\""),
        Format::Jsonl => (LINES, "attachment; filename=\"audit.jsonl\""),
        Format::Ocsf => (LINES, "attachment; filename=\"audit.ocsf.jsonl\""),
        Format::Parquet => (PARQUET, "attachment; filename=\"audit.parquet\""),
    };
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    // What a later page lacks is not known before it is read.
    headers.insert(TRAILER, HeaderValue::from_static("palisade-complete"));
    let pages = Pages {
        complete: first.coverage.complete,
        office,
        caller,
        query,
        told,
        file: FileBytes::new(asked.format).map_err(|e| broken(&e.to_string()))?,
        next: Some(first),
        ended: false,
        given: 0,
        max,
        begun,
        deadline,
    };
    let body = Body::new(StreamBody::new(stream::try_unfold(pages, Pages::turn)));
    let mut response = typed(body, kind);
    response.headers_mut().extend(headers);
    Ok(response)
}

fn typed(body: Body, kind: &'static str) -> Response {
    let mut response = body.into_response();
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn flag(is: bool) -> HeaderValue {
    HeaderValue::from_static(if is { "true" } else { "false" })
}

/// An export on its way, page by page, as fast as its reader takes them.
struct Pages {
    office: Office,
    caller: Caller,
    query: Query,
    /// The query, as it is recorded.
    told: String,
    file: FileBytes,
    next: Option<SearchResult>,
    /// Whether nothing was lacking so far.
    complete: bool,
    /// Whether the trailer was sent.
    ended: bool,
    /// Records so far.
    given: u64,
    /// Most that may be given.
    max: u64,
    begun: Begun,
    deadline: Instant,
}

type Turned = Result<Option<(Frame<Bytes>, Pages)>, io::Error>;

impl Pages {
    /// The bytes of a page, and what is left. An error cuts the answer, so that nobody
    /// takes a part for the whole.
    fn turn(mut self) -> Pin<Box<dyn Future<Output = Turned> + Send>> {
        Box::pin(async move {
            let Some(page) = self.next.take() else {
                return Ok(self.end());
            };
            let broken = |why: &str| io::Error::other(why.to_owned());
            if Instant::now() >= self.deadline {
                return Err(broken("PLS7911: the export takes too long"));
            }
            if self.office.present(&self.caller).is_err() {
                return Err(broken("PLS7904: the reader is no longer proven"));
            }
            let rows = u64::try_from(page.rows.len()).unwrap_or(u64::MAX);
            self.given = self.given.saturating_add(rows);
            if self.given > self.max {
                return Err(broken("PLS7912: the export has become too long"));
            }
            let mut bytes = self.file.page(&page.rows)?;
            self.begun.gave(page.rows.len());
            self.complete &= page.coverage.complete;
            let Some(cursor) = page.cursor else {
                let coverage = Coverage {
                    complete: self.complete,
                    ..page.coverage
                };
                let end = self.file.end(&self.told, self.given, &coverage)?;
                bytes.extend(end);
                return Ok(Some((Frame::data(bytes.into()), self)));
            };
            let query = self.query.clone();
            let next = |role: AuditRole| async move {
                let ask = move || role.store.search(&query, PAGE_ROWS, Some(cursor));
                Ok(blocking(ask).await?)
            };
            let next = self.office.timed(next).await;
            self.next = Some(next.map_err(|fault| io::Error::other(fault.told))?);
            Ok(Some((Frame::data(bytes.into()), self)))
        })
    }

    /// After the last page: whether something was lacking.
    fn end(mut self) -> Option<(Frame<Bytes>, Self)> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let trailers = HeaderMap::from_iter([(COMPLETE, flag(self.complete))]);
        Some((Frame::trailers(trailers), self))
    }
}
