//! Every answer that is ours: one table from the reason to what the caller sees.
//!
//! HTTP callers get problem details (RFC 9457), gRPC callers a trailers-only
//! response (gRPC over HTTP/2, "Responses"). The caller learns little, the
//! record learns all, the decision id joins them. Each refusal carries
//! `palisade-refused`, which our own proxies never retry and no breaker counts.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use palisade_mesh::{
    canonical,
    decision::{Decision, Verdict},
};
use serde::Serialize;
use smol_str::SmolStr;

use crate::{
    body::ResponseBody,
    headers::{DECISION_ID, HeaderFault, REFUSED},
};

/// Seconds after which an undecided or overloaded caller may come back.
const RETRY_AFTER_S: u16 = 1;

/// Why we answer a request ourselves, other than by a decision on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    AuditUnavailable,
    BodyMalformed,
    BodyTooLarge,
    CertificateEnded,
    EngineFailed,
    HeadTooLarge,
    HeaderRepeated,
    HeaderUnknown,
    HeaderUnderscore,
    HostUnknown,
    NoEndpoint,
    NoSnapshot,
    OperationUnknown,
    Overloaded,
    PeerBarred,
    PeerIdentity,
    PeerRefusedUs,
    PeerUntrusted,
    ServiceUnknown,
    SnapshotStale,
    StreamAge,
    TransferCoding,
    UpgradeUnsupported,
    UpstreamFailed,
    UpstreamTimeout,
    UpstreamUnreachable,
}

impl Fault {
    /// Status, reason word, and what the caller is told.
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::AuditUnavailable => (
                503,
                "audit_unavailable",
                "The request cannot be recorded at the moment.",
            ),
            Self::BodyMalformed => (
                400,
                "body_malformed",
                "The request body is not framed as HTTP demands.",
            ),
            Self::BodyTooLarge => (413, "body_too_large", "The request body exceeds its limit."),
            Self::CertificateEnded => (
                503,
                "certificate_ended",
                "The caller's certificate has ended; connect again with a new one.",
            ),
            Self::EngineFailed => (
                503,
                "engine_failed",
                "The request could not be decided at the moment.",
            ),
            Self::HeadTooLarge => (
                431,
                "head_too_large",
                "The request has more header fields than allowed.",
            ),
            Self::HeaderRepeated => (
                400,
                "header_repeated",
                "A header field that must occur once occurs more often.",
            ),
            Self::HeaderUnknown => (
                503,
                "header_unknown",
                "The policy reads a header field that was not kept of this request.",
            ),
            Self::HeaderUnderscore => (
                400,
                "header_underscore",
                "A header field's name has an underscore; write it with a hyphen.",
            ),
            Self::HostUnknown => (404, "host_unknown", "No service of the mesh has this host."),
            Self::NoEndpoint => (
                503,
                "no_endpoint",
                "The service has no endpoint at the moment.",
            ),
            Self::NoSnapshot => (503, "no_snapshot", "No policy has arrived yet."),
            Self::OperationUnknown => (
                404,
                "operation_unknown",
                "The service declares no such operation.",
            ),
            Self::Overloaded => (503, "overloaded", "Too many requests are in flight."),
            Self::PeerBarred => (403, "peer_barred", "The caller is barred."),
            Self::PeerIdentity => (
                502,
                "peer_identity",
                "The endpoint did not prove the identity of the service.",
            ),
            Self::PeerRefusedUs => (502, "peer_identity", "The peer refused our identity."),
            Self::PeerUntrusted => (
                403,
                "peer_untrusted",
                "The caller's certificate rests on an authority that is trusted no more.",
            ),
            Self::ServiceUnknown => (
                503,
                "service_unknown",
                "The policy in force does not know this service.",
            ),
            Self::SnapshotStale => (
                503,
                "snapshot_stale",
                "The policy in force is older than allowed and has not been confirmed.",
            ),
            Self::StreamAge => (
                503,
                "stream_age",
                "The stream has reached its greatest age; open it again.",
            ),
            Self::TransferCoding => (
                400,
                "transfer_coding",
                "The request's transfer coding is not supported.",
            ),
            Self::UpgradeUnsupported => (
                501,
                "upgrade_unsupported",
                "This upgrade is not supported here.",
            ),
            Self::UpstreamFailed => (
                502,
                "upstream_failed",
                "The application ended the connection before it answered.",
            ),
            Self::UpstreamTimeout => (
                504,
                "upstream_timeout",
                "The application did not answer in time.",
            ),
            Self::UpstreamUnreachable => (
                502,
                "upstream_unreachable",
                "The application cannot be reached.",
            ),
        }
    }

    /// The constant word for records and metrics.
    pub(crate) fn reason(self) -> &'static str {
        self.row().1
    }
}

impl From<HeaderFault> for Fault {
    fn from(fault: HeaderFault) -> Self {
        match fault {
            HeaderFault::Repeated => Self::HeaderRepeated,
            HeaderFault::TransferCoding => Self::TransferCoding,
            HeaderFault::Underscore => Self::HeaderUnderscore,
        }
    }
}

/// An answer of ours, not yet in the form of a caller's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    detail: Cow<'static, str>,
    help: Option<SmolStr>,
    /// Whether the connection is closed after it: what follows on it cannot be
    /// trusted, or must not be decided.
    pub(crate) close: bool,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let (status, reason, detail) = fault.row();
        Self {
            status,
            reason,
            detail: Cow::Borrowed(detail),
            help: None,
            close: matches!(
                fault,
                Fault::BodyMalformed
                    | Fault::BodyTooLarge
                    | Fault::CertificateEnded
                    | Fault::PeerBarred
                    | Fault::PeerUntrusted
                    | Fault::TransferCoding
            ),
        }
    }
}

impl From<canonical::Refusal> for Refusal {
    fn from(refusal: canonical::Refusal) -> Self {
        Self {
            status: refusal.status(),
            reason: refusal.reason(),
            detail: Cow::Owned(format!("The request is refused: {refusal}.")),
            help: None,
            close: false,
        }
    }
}

impl Refusal {
    /// The answer to a request that was not allowed.
    pub(crate) fn of_decision(decision: &Decision) -> Self {
        let (status, neutral) = match decision.verdict {
            Verdict::Undecided(_) => (503, "The request could not be decided at the moment."),
            _ => (403, "The caller may not do this."),
        };
        let told =
            decision.verdict == Verdict::Forbidden || decision.verdict == Verdict::NotPermitted;
        Self {
            status,
            reason: decision.verdict.reason(),
            detail: match &decision.deny_message {
                Some(message) if told => Cow::Owned(message.to_string()),
                _ => Cow::Borrowed(neutral),
            },
            help: decision.help_url.clone().filter(|_| told),
            close: false,
        }
    }

    /// That the peer is barred, for a reason of the one who bars.
    pub(crate) fn of_bar(reason: &'static str) -> Self {
        Self {
            reason,
            ..Fault::PeerBarred.into()
        }
    }

    /// The trailers of a gRPC answer that has begun already.
    pub(crate) fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        self.put_grpc_status(&mut trailers);
        trailers.insert(REFUSED, HeaderValue::from_static(self.reason));
        trailers
    }

    fn put_grpc_status(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", HeaderValue::from(grpc_status(self.status)));
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&self.detail)) {
            headers.insert("grpc-message", message);
        }
    }

    /// The response, in the form the caller understands.
    pub(crate) fn answer(&self, grpc: bool, id: Option<&HeaderValue>) -> Response<ResponseBody> {
        let mut response = if grpc { self.grpc() } else { self.problem(id) };
        let headers = response.headers_mut();
        headers.insert(REFUSED, HeaderValue::from_static(self.reason));
        if let Some(id) = id {
            headers.insert(DECISION_ID, id.clone());
        }
        if self.status == 503 {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }

    fn problem(&self, id: Option<&HeaderValue>) -> Response<ResponseBody> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let problem = Problem {
            r#type: format!("urn:palisade:problem:{}", self.reason),
            title: status.canonical_reason().unwrap_or_default(),
            status: self.status,
            detail: &self.detail,
            decision_id: id.and_then(|id| id.to_str().ok()),
            help: self.help.as_deref(),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(ResponseBody::full(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }

    fn grpc(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.put_grpc_status(headers);
        response
    }
}

/// An answer to HEAD has no body (RFC 9110 section 9.3.2); hyper sees to that on
/// HTTP/1.1 only.
pub(crate) fn without_body(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    if let ResponseBody::Own(Some(bytes)) = response.body() {
        let length = HeaderValue::from(bytes.len());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        *response.body_mut() = ResponseBody::empty();
    }
    response
}

/// Members of a problem document (RFC 9457 section 3.1), and two of our own.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

/// The gRPC code for a status of ours.
fn grpc_status(status: u16) -> u16 {
    match status {
        400 | 414 => 3,       // INVALID_ARGUMENT
        401 => 16,            // UNAUTHENTICATED
        403 => 7,             // PERMISSION_DENIED
        404 | 501 => 12,      // UNIMPLEMENTED
        408 | 504 => 4,       // DEADLINE_EXCEEDED
        413 | 429 | 431 => 8, // RESOURCE_EXHAUSTED
        _ => 14,              // UNAVAILABLE
    }
}

/// `grpc-message`: everything but printable ASCII, and `%`, is escaped.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, byte| {
            match byte {
                b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
                byte => {
                    // Writing to a string does not fail.
                    let _ = write!(out, "%{byte:02X}");
                }
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use palisade_mesh::decision::Undecided;

    use super::*;

    fn decision(verdict: Verdict, message: Option<&str>) -> Decision {
        Decision {
            verdict,
            action: "GET".into(),
            resource_type: "Operation",
            resource_id: "x".into(),
            determining: vec![],
            errors: vec![],
            shadow_permits: vec![],
            deny_message: message.map(Into::into),
            help_url: message.map(|_| "https://help.test/".into()),
            context_json: "{}".into(),
            valid_until_us: None,
        }
    }

    /// Invariant 2: the four outcomes stay apart on the wire.
    #[test]
    fn outcomes_are_never_folded() {
        for (verdict, status, grpc, retry) in [
            (Verdict::Forbidden, 403, "7", false),
            (Verdict::NotPermitted, 403, "7", false),
            (Verdict::Undecided(Undecided::Stale), 503, "14", true),
        ] {
            let refusal = Refusal::of_decision(&decision(verdict, None));
            let http = refusal.answer(false, None);
            assert_eq!(http.status(), status);
            assert_eq!(http.headers().contains_key(RETRY_AFTER), retry);
            assert_eq!(http.headers()[REFUSED], verdict.reason());
            let rpc = refusal.answer(true, None);
            assert_eq!(
                (rpc.status().as_u16(), &rpc.headers()["grpc-status"]),
                (200, &HeaderValue::from_static(grpc))
            );
        }
    }

    #[test]
    fn the_author_speaks_to_the_denied_but_not_to_the_undecided() {
        let denied = Refusal::of_decision(&decision(
            Verdict::Forbidden,
            Some("Ask the owner: 50 %\u{20ac}"),
        ));
        let rpc = denied.answer(true, None);
        assert_eq!(
            rpc.headers()["grpc-message"],
            "Ask the owner: 50 %25%E2%82%AC"
        );
        assert!(denied.help.is_some());
        let undecided = Refusal::of_decision(&decision(
            Verdict::Undecided(Undecided::ForbidErrored),
            Some("secret"),
        ));
        assert_eq!(
            (undecided.detail.contains("secret"), undecided.help),
            (false, None)
        );
    }
}
