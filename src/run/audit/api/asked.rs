//! What a request asks, understood and within its limits.

use std::{str::FromStr, time::Duration};

use axum::extract::{Query, Request};
use http::{Method, StatusCode, Uri, header::CONTENT_TYPE};
use palisade_audit::{index::ROWS_MAX, query::TOP_MAX};
use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::readers::ReadAction;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    super::{Facets, Gaps, Reveal, Search, Tail, Timeline},
    problem::Fault,
    routes::BODY_LEN_MAX,
};

/// How long a caller may take to send its body.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// What stands behind the id of what is to be revealed.
const REVEALED: &str = "/revealed";
/// Characters of a whole id.
const ID_LEN: usize = 26;

/// A question, and why it is asked as far as its caller says.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) asked: Asked,
    pub(super) reason: Option<String>,
}

/// What is asked of the log.
#[derive(Debug)]
pub(super) enum Asked {
    Checkpoint,
    Export(Export),
    Facets(Facets),
    Gaps(Gaps),
    Reveal(Reveal),
    Search(Search),
    Show(String),
    Tail(Tail),
    Timeline(Timeline),
}

/// Records as a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    #[serde(default)]
    pub(super) q: String,
    #[serde(default)]
    pub(super) format: Format,
    reason: Option<String>,
}

/// What the file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    Csv,
    #[default]
    Jsonl,
    Ocsf,
    Parquet,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchParameters {
    #[serde(default)]
    q: String,
    limit: Option<usize>,
    cursor: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryParameter {
    #[serde(default)]
    q: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TailParameters {
    #[serde(default)]
    q: String,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FacetsParameters {
    #[serde(default)]
    q: String,
    #[serde(default)]
    by: String,
    top: Option<usize>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimelineParameters {
    #[serde(default)]
    q: String,
    step: Option<String>,
    by: Option<String>,
    top: Option<usize>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonParameter {
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParameters {}

impl Question {
    /// Reads a request for `action`.
    pub(super) async fn read(action: ReadAction, request: Request) -> Result<Self, Fault> {
        let uri = request.uri().clone();
        let mut why = None;
        let asked = match action {
            ReadAction::Checkpoint => {
                let NoParameters {} = parameters(&uri)?;
                Asked::Checkpoint
            }
            ReadAction::Export => {
                let mut asked: Export = parameters(&uri)?;
                why = asked.reason.take();
                Asked::Export(asked)
            }
            ReadAction::Facets => {
                let read: FacetsParameters = parameters(&uri)?;
                why = read.reason;
                let names = read.by.split(',').map(str::trim);
                let names = names.filter(|name| !name.is_empty());
                Asked::Facets(Facets {
                    query: read.q,
                    by: names.map(str::to_owned).collect(),
                    top: within("top", read.top, TOP_MAX)?,
                })
            }
            ReadAction::Gaps => {
                let QueryParameter { q } = parameters(&uri)?;
                Asked::Gaps(Gaps { query: q })
            }
            ReadAction::Reveal => {
                let ReasonParameter { reason } = parameters(&uri)?;
                Asked::Reveal(Reveal {
                    id: whole_id(&uri)?,
                    reason,
                })
            }
            ReadAction::Search => {
                let read: SearchParameters = match *request.method() {
                    Method::POST => body(request).await?,
                    _ => parameters(&uri)?,
                };
                why = read.reason;
                Asked::Search(Search {
                    query: read.q,
                    limit: within("limit", read.limit, ROWS_MAX)?,
                    cursor: read.cursor,
                })
            }
            ReadAction::Show => {
                let NoParameters {} = parameters(&uri)?;
                Asked::Show(whole_id(&uri)?)
            }
            ReadAction::Tail => {
                let read: TailParameters = parameters(&uri)?;
                why = read.reason;
                Asked::Tail(Tail { query: read.q })
            }
            ReadAction::Timeline => {
                let read: TimelineParameters = parameters(&uri)?;
                why = read.reason;
                Asked::Timeline(Timeline {
                    query: read.q,
                    step: read.step,
                    by: read.by,
                    top: within("top", read.top, TOP_MAX)?,
                })
            }
        };
        Ok(Self { asked, reason: why })
    }
}

impl Asked {
    /// What of it is recorded.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Checkpoint => String::new(),
            Self::Export(asked) => asked.q.clone(),
            Self::Facets(asked) => asked.query.clone(),
            Self::Gaps(asked) => asked.query.clone(),
            Self::Reveal(asked) => format!("id:{}", asked.id),
            Self::Search(asked) => asked.query.clone(),
            Self::Show(id) => format!("id:{id}"),
            Self::Tail(asked) => asked.query.clone(),
            Self::Timeline(asked) => asked.query.clone(),
        }
    }
}

fn parameters<T: DeserializeOwned>(uri: &Uri) -> Result<T, Fault> {
    let Query(read) =
        Query::try_from_uri(uri).map_err(|wrong| Fault::malformed(wrong.body_text()))?;
    Ok(read)
}

fn within(name: &str, asked: Option<usize>, max: usize) -> Result<Option<usize>, Fault> {
    match asked {
        Some(n) if !(1..=max).contains(&n) => {
            Err(Fault::beyond(name, u64::try_from(max).unwrap_or(u64::MAX)))
        }
        asked => Ok(asked),
    }
}

/// The beginning of an id could tell a reader of records that it may not see.
fn whole_id(uri: &Uri) -> Result<String, Fault> {
    let path = uri.path();
    let path = path.strip_suffix(REVEALED).unwrap_or(path);
    let id = path.rsplit('/').next().unwrap_or_default();
    match ulid::Ulid::from_str(id) {
        Ok(_) if id.len() == ID_LEN => Ok(id.to_owned()),
        _ => {
            let told = Diagnostic::error(7110, "this is no whole id")
                .cause(format!("an id has {ID_LEN} characters"))
                .help("find it first: GET /v1/audit/search");
            Err(told.into())
        }
    }
}

async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Fault> {
    let is_json = request.headers().get(CONTENT_TYPE).is_some_and(|value| {
        let essence = value.as_bytes().split(|b| *b == b';').next();
        essence.is_some_and(|e| e.trim_ascii().eq_ignore_ascii_case(b"application/json"))
    });
    if !is_json {
        let fault = Fault::malformed("the content type must be `application/json`");
        return Err(Fault {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ..fault
        });
    }
    let reading = axum::body::to_bytes(request.into_body(), BODY_LEN_MAX);
    let bytes = tokio::time::timeout(BODY_WAIT, reading)
        .await
        .map_err(|_| Fault {
            status: StatusCode::REQUEST_TIMEOUT,
            ..Fault::malformed("its body takes longer than 10 s")
        })?
        .map_err(|error| {
            let long = std::error::Error::source(&error)
                .is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
            match long {
                true => Fault {
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    ..Fault::malformed("its body is longer than 64 KiB")
                },
                false => Fault::malformed(format!("its body broke off: {error}")),
            }
        })?;
    serde_json::from_slice(&bytes).map_err(|error| Fault::malformed(error.to_string()))
}
