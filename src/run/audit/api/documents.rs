//! Reports over the API: which there are, and one in the format that was asked for.

use std::path::Path;

use axum::response::{IntoResponse as _, Response};
use http::{
    HeaderValue,
    header::{CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use palisade_audit::report::{KINDS, Report};
use serde_json::{Value, json};

use super::{
    super::{AuditRole, RunReport, reads::Reader},
    asked::{ReportAsked, ReportFormat},
    problem::Fault,
};
use crate::cli::report::files::{self, Format};

/// Every report that can be made.
pub(super) fn kinds() -> Value {
    let kinds = KINDS.iter().map(|kind| {
        json!({
            "name": kind.name,
            "title": kind.title,
            "question": kind.question,
            "controls": kind.controls,
        })
    });
    json!({ "reports": kinds.collect::<Vec<_>>() })
}

/// A report, as a file.
pub(super) async fn report(
    role: AuditRole,
    reader: Reader,
    asked: ReportAsked,
) -> Result<Response, Fault> {
    let run = RunReport {
        name: asked.name,
        period: asked.period,
        scope: asked.scope,
        to: String::new(),
    };
    let made = role.clone().report(reader, run).await?.0;
    let (made, _) = role.joined(made).await?;
    let (format, table) = (asked.format, asked.table);
    let file = tokio::task::spawn_blocking(move || file(&made, format, table)).await;
    let (name, bytes) = file.map_err(|e| super::super::broken(&e.to_string()))??;
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind(format)));
    // A page is for a file, and runs nothing where it is shown all the same.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let nothing =
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:");
    headers.insert(CONTENT_SECURITY_POLICY, nothing);
    // The name is one of a report's own and of its tables, which have no quotes.
    if let Ok(named) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, named);
    }
    Ok(response)
}

fn file(
    report: &Report,
    format: ReportFormat,
    table: Option<usize>,
) -> Result<(String, Vec<u8>), Fault> {
    let (ending, form) = match format {
        ReportFormat::Csv => ("csv", Format::Csv),
        ReportFormat::Html => ("html", Format::Html),
        ReportFormat::Json => ("json", Format::Json),
        ReportFormat::Oscal => ("oscal.json", Format::Oscal),
        ReportFormat::Pdf => ("pdf", Format::Pdf),
        ReportFormat::Xlsx => ("xlsx", Format::Xlsx),
    };
    if table.is_some() && format != ReportFormat::Csv {
        return Err(Fault::malformed("`table` is for `format=csv` alone"));
    }
    let name = format!("{}.{ending}", report.name);
    let files = files::contents(report, Path::new(&name), form)?;
    let tables = files.len();
    let file = files.into_iter().nth(table.unwrap_or_default());
    let (path, bytes) = file.ok_or_else(|| {
        Fault::malformed(format!(
            "the report has the tables 0 to {}",
            tables.saturating_sub(1)
        ))
    })?;
    Ok((path.display().to_string(), bytes))
}

fn kind(format: ReportFormat) -> &'static str {
    match format {
        ReportFormat::Csv => "text/csv; charset=utf-8",
        ReportFormat::Html => "text/html; charset=utf-8",
        ReportFormat::Json | ReportFormat::Oscal => "application/json",
        ReportFormat::Pdf => "application/pdf",
        ReportFormat::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    }
}
