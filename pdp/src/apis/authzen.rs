//! OpenID AuthZEN Authorization API 1.0, the binding of HTTP and JSON.
//!
//! | AuthZEN | here |
//! |---|---|
//! | subject of type `workload` | the principal: a SPIFFE ID or a service by name |
//! | action | a method, `grpc:call`, or a business action |
//! | resource of type `operation`, `service`, `url` | the operation, the service, or the request's own address |
//! | context, `properties` | what policies may read; anything else is refused |
//!
//! Callers who have other words for these get them mapped, both ways ([`Mapping`]).
//!
//! A denial is 200 with `decision: false`. What could not be decided is no denial: 503.
//! A question in a batch that means nothing here, or could not be decided, is
//! `decision: false` with an `error` (section "Errors" of the Access Evaluations API);
//! alone it is 400 or 503.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER, WWW_AUTHENTICATE},
};
use palisade_mesh::canonical::canonical_host;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Caller, MESSAGE_LEN_MAX,
    desk::{Desk, NoAnswer},
};
use crate::apis::codes::{MALFORMED, NO_API, NO_HOST, NOT_JSON, SLOW, TOO_LONG, UNPROVEN};

mod evaluate;
mod mapping;
mod names;
mod once;
mod page;
mod pattern;
mod search;
mod words;

pub use mapping::{
    ActionRule, Mapping, RULES_MAX, ResourceRule, SubjectRule, Target, WORD_LEN_MAX,
};
pub use names::Names;
pub use page::{PAGE_DEFAULT, PAGE_MAX};

use once::Once;
use page::Pages;
use search::Kind;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a caller may take to send its message.
const MESSAGE_WAIT: Duration = Duration::from_secs(10);

/// What every handler has.
#[derive(Clone)]
struct Office {
    desk: Desk,
    names: Arc<Names>,
    pages: Pages,
    scheme: &'static str,
}

/// The API. Questions must carry their [`Caller`] as an extension, or are answered with
/// 401; `names` says what their words mean, `scheme` how the listener is reached.
pub fn router(desk: &Desk, names: Arc<Names>, scheme: &'static str) -> Router {
    let office = Office {
        desk: desk.clone(),
        names,
        pages: Pages::default(),
        scheme,
    };
    Router::new()
        .route("/.well-known/authzen-configuration", get(metadata))
        .route("/access/v1/evaluation", post(evaluation))
        .route("/access/v1/evaluations", post(evaluations))
        .route("/access/v1/search/subject", post(subjects))
        .route("/access/v1/search/resource", post(resources))
        .route("/access/v1/search/action", post(actions))
        .fallback(async || {
            let see = "/.well-known/authzen-configuration";
            let text = format!("PLS{NO_API}: there is no such API; see {see}");
            (StatusCode::NOT_FOUND, text)
        })
        .layer(middleware::from_fn(identified))
        .with_state(office)
}

/// The request's identifier is the answer's, whatever the answer.
async fn identified(request: Request, next: Next) -> Response {
    let id = request.headers().get(REQUEST_ID).cloned();
    echo(id.as_ref(), next.run(request).await)
}

fn echo(id: Option<&HeaderValue>, mut response: Response) -> Response {
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response
}

/// Why a request as a whole has no answer.
#[derive(Debug)]
struct Fault(StatusCode, String);

impl Fault {
    fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

/// The answer to a request that is not let in.
pub(super) fn refused(why: NoAnswer, headers: &HeaderMap) -> Response {
    echo(headers.get(REQUEST_ID), Fault::from(why).into_response())
}

impl From<NoAnswer> for Fault {
    fn from(why: NoAnswer) -> Self {
        let status = match why {
            NoAnswer::Barred(_) | NoAnswer::Refused(_) => StatusCode::FORBIDDEN,
            NoAnswer::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            NoAnswer::Ended => StatusCode::UNAUTHORIZED,
            NoAnswer::Unrecorded => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, why.to_string())
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        let (name, value) = match self.0 {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => (RETRY_AFTER, "1"),
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer"),
            _ => return response,
        };
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
        response
    }
}

type Answer = Result<Response, Fault>;

async fn evaluation(State(office): State<Office>, request: Request) -> Answer {
    let (caller, asked) = read(request).await?;
    evaluate::single(&office.desk, &office.names, &caller, asked)
        .await
        .map(json)
}

async fn evaluations(State(office): State<Office>, request: Request) -> Answer {
    let (caller, asked) = read(request).await?;
    evaluate::several(&office.desk, &office.names, &caller, asked).await
}

async fn subjects(State(office): State<Office>, request: Request) -> Answer {
    searched(office, request, Kind::Subject).await
}

async fn resources(State(office): State<Office>, request: Request) -> Answer {
    searched(office, request, Kind::Resource).await
}

async fn actions(State(office): State<Office>, request: Request) -> Answer {
    searched(office, request, Kind::Action).await
}

async fn searched(office: Office, request: Request, kind: Kind) -> Answer {
    let (caller, asked) = read(request).await?;
    let found = search::search(
        &office.desk,
        &office.names,
        &office.pages,
        &caller,
        (kind, asked),
    );
    found.await.map(json)
}

/// Where everything is, for whoever knows the address alone.
async fn metadata(State(office): State<Office>, request: Request) -> Answer {
    let authority = request
        .uri()
        .authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| request.headers().get(HOST)?.to_str().ok())
        .filter(|text| canonical_host(text).is_ok())
        .ok_or_else(|| Fault::bad(format!("PLS{NO_HOST}: the request names no host")))?;
    let base = format!("{}://{authority}", office.scheme);
    Ok(json(json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{base}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{base}/access/v1/search/resource"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    })))
}

/// Reads a message of JSON, within its limits of length and time.
async fn read<T: DeserializeOwned>(request: Request) -> Result<(Caller, T), Fault> {
    let (parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| {
        let how = "present an X.509-SVID or a bearer token";
        let text = format!("PLS{UNPROVEN}: the caller has proven nothing; {how}");
        Fault(StatusCode::UNAUTHORIZED, text)
    })?;
    let is_json = parts.headers.get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value.as_bytes().split(|b| *b == b';').next();
        essence.is_some_and(|e| e.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    });
    if !is_json {
        return Err(Fault(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("PLS{NOT_JSON}: the content type must be `application/json`"),
        ));
    }
    let reading = axum::body::to_bytes(body, MESSAGE_LEN_MAX);
    let bytes = tokio::time::timeout(MESSAGE_WAIT, reading)
        .await
        .map_err(|_| {
            let late = format!("PLS{SLOW}: the message took longer than 10 s");
            Fault(StatusCode::REQUEST_TIMEOUT, late)
        })?
        .map_err(|error| {
            let long = std::error::Error::source(&error)
                .is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
            match long {
                true => Fault(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("PLS{TOO_LONG}: the message is longer than 1 MiB; ask in several"),
                ),
                false => Fault::bad(format!("PLS{MALFORMED}: the message broke off: {error}")),
            }
        })?;
    let malformed = |error: serde_json::Error| {
        Fault::bad(format!(
            "PLS{MALFORMED}: the message is not understood: {error}"
        ))
    };
    serde_json::from_slice::<Once>(&bytes).map_err(malformed)?;
    let asked = serde_json::from_slice(&bytes).map_err(malformed)?;
    Ok((caller, asked))
}

fn json<T: Serialize>(answer: T) -> Response {
    axum::Json(answer).into_response()
}
