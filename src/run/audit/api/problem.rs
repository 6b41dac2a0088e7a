//! What goes wrong, as a caller is told: problem details (RFC 9457) with our codes.

use axum::{body::Body, response::Response};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::{apis::Busy, readers::NotGranted};
use serde::Serialize;

use super::request_id::RequestId;
use crate::control::api::Problem;

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) told: Box<Diagnostic>,
}

/// Problem details. `type` names the code, so that programs need nothing else.
#[derive(Debug, Serialize)]
struct Details<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<At>,
    request_id: &'a str,
}

/// Bytes of the query that are meant.
#[derive(Debug, Serialize)]
struct At {
    offset: usize,
    len: usize,
}

impl Fault {
    pub(super) fn new(status: StatusCode, told: Diagnostic) -> Self {
        Self {
            status,
            told: Box::new(told),
        }
    }

    pub(super) fn unproven() -> Self {
        let told = Diagnostic::error(7904, "the caller has proven nothing").help(
            "present an X.509-SVID of the trust domain, or a bearer token of `audit.api.tokens`",
        );
        Self::new(StatusCode::UNAUTHORIZED, told)
    }

    pub(super) fn ended() -> Self {
        let told = Diagnostic::error(7904, "the caller's certificate or token has ended")
            .help("connect with a new one");
        Self::new(StatusCode::UNAUTHORIZED, told)
    }

    pub(super) fn barred(reason: &str) -> Self {
        let told = Diagnostic::error(7905, "the caller is barred by the kill list").cause(reason);
        Self::new(StatusCode::FORBIDDEN, told)
    }

    pub(super) fn denied(refused: &NotGranted) -> Self {
        let told = Diagnostic::error(7906, "the caller may not read this");
        let told = match refused.policies.as_slice() {
            [] => told.cause("no reader policy permits it"),
            some => told.cause(format!("forbidden by {}", some.join(", "))),
        };
        let told = told.help("ask whoever runs the audit service: `audit.api.policy`");
        Self::new(StatusCode::FORBIDDEN, told)
    }

    pub(super) fn no_route(status: StatusCode) -> Self {
        let told = Diagnostic::error(7907, "there is no such route")
            .help("what there is: GET /v1/openapi.json");
        Self::new(status, told)
    }

    pub(super) fn malformed(cause: impl Into<String>) -> Self {
        let told = Diagnostic::error(7908, "the request is not understood")
            .cause(cause)
            .help("what it may have: GET /v1/openapi.json");
        Self::new(StatusCode::BAD_REQUEST, told)
    }

    pub(super) fn beyond(what: &str, max: u64) -> Self {
        let told = Diagnostic::error(7909, format!("`{what}` is from 1 to {max}"))
            .help("go through pages: the `cursor` of one leads to the next");
        Self::new(StatusCode::BAD_REQUEST, told)
    }

    pub(super) fn tails(max: usize) -> Self {
        let told = Diagnostic::error(7910, format!("more than {max} tails are being followed"))
            .help("try again when another one has ended, or raise `audit.api.tails`");
        Self::new(StatusCode::TOO_MANY_REQUESTS, told)
    }

    pub(super) fn reporting() -> Self {
        let told = Diagnostic::error(7910, "another report is being made")
            .cause("one is made at a time, those of schedules among them")
            .help("try again when it is done; a report of a shorter period is done sooner");
        Self::new(StatusCode::TOO_MANY_REQUESTS, told)
    }

    pub(super) fn late(what: &str) -> Self {
        let told = Diagnostic::error(7911, format!("{what} took too long"))
            .help("narrow the time with `since:` and `until:`");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, told)
    }

    pub(super) fn too_many(rows: u64, max: u64) -> Self {
        let told = Diagnostic::error(7912, format!("an export has at most {max} records"))
            .cause(format!("this one would have {rows}"))
            .help("narrow the time and take several, or raise `audit.api.export_rows`");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, told)
    }

    pub(super) fn unknown(id: &str) -> Self {
        let told = Diagnostic::error(
            7913,
            format!("there is no record `{id}` that the caller may see"),
        )
        .help("a record is found a moment after it arrived; ids are whole here, 26 characters");
        Self::new(StatusCode::NOT_FOUND, told)
    }

    pub(super) fn of_the_whole(seen: &str) -> Self {
        let told = Diagnostic::error(7914, "this is about the whole log").cause(format!(
            "the caller may see `{seen}` alone, and this cannot be kept to it"
        ));
        let told = told.help("it is for readers whose policy has `@rows(\"*\")`");
        Self::new(StatusCode::FORBIDDEN, told)
    }

    /// The answer to the request `request`.
    pub(super) fn response(&self, request: &RequestId) -> Response {
        let told = &self.told;
        let details = Details {
            r#type: format!("urn:palisade:problem:{}", told.code),
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &told.message,
            code: told.code.to_string(),
            cause: told.cause.as_deref(),
            help: told.help.as_deref(),
            at: told.location.as_ref().map(|at| At {
                offset: at.offset,
                len: at.len,
            }),
            request_id: request.as_str(),
        };
        let body = serde_json::to_vec(&details).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, kind);
        let (name, value) = match self.status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => (RETRY_AFTER, "1"),
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer"),
            _ => return response,
        };
        headers.insert(name, HeaderValue::from_static(value));
        response
    }
}

impl From<Busy> for Fault {
    fn from(busy: Busy) -> Self {
        let told = match busy {
            Busy::InFlight(max) => format!("more than {max} requests of this caller are in flight"),
            Busy::Rate(max) => format!("this caller sends more than {max} requests a second"),
        };
        let told = Diagnostic::error(7910, told).help("wait for answers, then ask again");
        Self::new(StatusCode::TOO_MANY_REQUESTS, told)
    }
}

impl From<Diagnostic> for Fault {
    fn from(told: Diagnostic) -> Self {
        let status = match told.code.0 {
            7111 | 7801 | 7915 | 7920 => StatusCode::NOT_FOUND,
            7100..=7199 | 7207 | 7210 | 7565 | 7802 | 7805 | 7922 | 7923 => StatusCode::BAD_REQUEST,
            7808 | 7810 | 7811 => StatusCode::UNPROCESSABLE_ENTITY,
            7910 => StatusCode::TOO_MANY_REQUESTS,
            7209 | 7581 | 7584 | 7592 | 7593 | 7901 | 9101 | 9102 | 9103 => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, told)
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Diagnostic::from(problem).into()
    }
}
