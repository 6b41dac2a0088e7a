//! What a request asks, understood and within its limits.

use std::{str::FromStr, time::Duration};

use axum::extract::{Query, Request};
use http::{Method, StatusCode, Uri, header::CONTENT_TYPE};
use palisade_audit::{index::ROWS_MAX, query::TOP_MAX};
use palisade_mesh::diagnostic::Diagnostic;
use palisade_pdp::readers::ReadAction;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    super::{
        Facets, Gaps, Reveal, Search, Tail, Timeline, Wanted, reports, saved::SavedQuery,
        tiles::TileAsked,
    },
    problem::Fault,
    routes::BODY_LEN_MAX,
};

/// How long a caller may take to send its body.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// Where the records are that are asked for by id.
const RECORDS: &str = "/v1/audit/records/";
/// Where saved queries are asked for by name.
const SAVED: &str = "/v1/audit/saved/";
/// Where reports are asked for by name.
const REPORTS: &str = "/v1/audit/reports/";
/// The time a report is about where nothing is said.
const PERIOD_DEFAULT: &str = "last:30d";
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
    Alerts,
    BeginVerification,
    Checkpoint,
    Export(Export),
    Facets(Facets),
    Forget(String),
    Gaps(Gaps),
    Holds,
    Proof(Wanted),
    Report(ReportAsked),
    Reports,
    Reveal(Reveal),
    Save(SavedQuery),
    Saved,
    Search(Search),
    Show(String),
    Tail(Tail),
    Tile(TileAsked),
    Timeline(Timeline),
    Verification,
}

/// A report.
#[derive(Debug)]
pub(super) struct ReportAsked {
    pub(super) name: String,
    pub(super) period: String,
    pub(super) scope: String,
    pub(super) format: ReportFormat,
    /// Of CSV, which table.
    pub(super) table: Option<usize>,
}

/// What the file of a report is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ReportFormat {
    Csv,
    Html,
    #[default]
    Json,
    Oscal,
    Pdf,
    Xlsx,
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
struct EntryParameter {
    entry: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportParameters {
    #[serde(default = "period_default")]
    period: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    format: ReportFormat,
    table: Option<usize>,
    reason: Option<String>,
}

fn period_default() -> String {
    PERIOD_DEFAULT.to_owned()
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
            ReadAction::Alerts => {
                let NoParameters {} = parameters(&uri)?;
                Asked::Alerts
            }
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
            ReadAction::Holds => {
                let NoParameters {} = parameters(&uri)?;
                Asked::Holds
            }
            // It is answered before anything is read.
            ReadAction::Metrics => return Err(Fault::malformed("bug: metrics have no question")),
            ReadAction::Proof => {
                let EntryParameter { entry } = parameters(&uri)?;
                Asked::Proof(Wanted {
                    id: whole_id(&uri)?,
                    entry,
                })
            }
            ReadAction::Reports => match last_of(&uri, REPORTS) {
                None => {
                    let NoParameters {} = parameters(&uri)?;
                    Asked::Reports
                }
                Some(name) => {
                    let read: ReportParameters = parameters(&uri)?;
                    why = read.reason;
                    Asked::Report(ReportAsked {
                        name,
                        period: read.period,
                        scope: read.scope,
                        format: read.format,
                        table: read.table,
                    })
                }
            },
            ReadAction::Reveal => {
                let ReasonParameter { reason } = parameters(&uri)?;
                Asked::Reveal(Reveal {
                    id: whole_id(&uri)?,
                    reason,
                })
            }
            ReadAction::Saved => {
                let name = last_of(&uri, SAVED);
                match (request.method(), name) {
                    (&Method::PUT, Some(name)) => {
                        let QueryParameter { q } = body(request).await?;
                        Asked::Save(SavedQuery { name, query: q })
                    }
                    (&Method::DELETE, Some(name)) => {
                        let NoParameters {} = parameters(&uri)?;
                        Asked::Forget(name)
                    }
                    _ => {
                        let NoParameters {} = parameters(&uri)?;
                        Asked::Saved
                    }
                }
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
            ReadAction::Tiles => {
                let NoParameters {} = parameters(&uri)?;
                let path = uri.path().strip_prefix("/tile/").unwrap_or_default();
                let none = || Fault::malformed(format!("`{path}` is no tile of C2SP tlog-tiles"));
                Asked::Tile(TileAsked::parse(path).ok_or_else(none)?)
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
            ReadAction::Verify => {
                let NoParameters {} = parameters(&uri)?;
                match *request.method() {
                    Method::POST => Asked::BeginVerification,
                    _ => Asked::Verification,
                }
            }
        };
        Ok(Self { asked, reason: why })
    }
}

impl Asked {
    /// Whether what is answered is about the log as a whole, and not some rows of it.
    pub(super) fn is_of_the_whole(&self) -> bool {
        match self {
            Self::Alerts
            | Self::BeginVerification
            | Self::Holds
            | Self::Report(_)
            | Self::Verification => true,
            asked => asked.is_a_copy(),
        }
    }

    /// Whether what is answered is records as they are hashed, one after the other.
    pub(super) fn is_a_copy(&self) -> bool {
        matches!(self, Self::Tile(asked) if asked.level.is_none())
    }

    /// The query in it.
    pub(super) fn query(&mut self) -> Option<&mut String> {
        match self {
            Self::Export(asked) => Some(&mut asked.q),
            Self::Facets(asked) => Some(&mut asked.query),
            Self::Gaps(asked) => Some(&mut asked.query),
            Self::Report(asked) => Some(&mut asked.scope),
            Self::Search(asked) => Some(&mut asked.query),
            Self::Tail(asked) => Some(&mut asked.query),
            Self::Timeline(asked) => Some(&mut asked.query),
            _ => None,
        }
    }

    /// What of it is recorded where it is not let; queries as `told` has them.
    pub(super) fn told(&self, told: impl Fn(&str) -> String) -> String {
        match self {
            Self::Alerts
            | Self::BeginVerification
            | Self::Checkpoint
            | Self::Holds
            | Self::Reports
            | Self::Saved
            | Self::Verification => String::new(),
            Self::Export(asked) => told(&asked.q),
            Self::Facets(asked) => told(&asked.query),
            Self::Forget(name) => format!("@{name}"),
            Self::Gaps(asked) => told(&asked.query),
            Self::Proof(asked) => format!("id:{}", asked.id),
            Self::Report(asked) => reports::told(&asked.name, &asked.period, &told(&asked.scope)),
            Self::Reveal(asked) => format!("id:{}", asked.id),
            Self::Save(asked) => told(&asked.query),
            Self::Search(asked) => told(&asked.query),
            Self::Show(id) => format!("id:{id}"),
            Self::Tail(asked) => told(&asked.query),
            Self::Tile(asked) => asked.to_string(),
            Self::Timeline(asked) => told(&asked.query),
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
    let rest = path.strip_prefix(RECORDS).unwrap_or_default();
    let id = rest.split('/').next().unwrap_or_default();
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

/// What stands behind `before` in the path; nothing, where it is not there. Names of our own
/// have no character that is encoded there.
fn last_of(uri: &Uri, before: &str) -> Option<String> {
    uri.path().strip_prefix(before).map(str::to_owned)
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
