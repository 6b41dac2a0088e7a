//! What is asked and answered on the local socket.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use palisade_mesh::diagnostic::{Code, Diagnostic, Location, Severity};
use serde::{Deserialize, Serialize};

/// A diagnostic on its way to the command line, with the text of its snippet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    code: u16,
    severity: String,
    message: String,
    label: Option<String>,
    cause: Option<String>,
    help: Option<String>,
    place: Option<Box<Place>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    file: String,
    text: String,
    offset: usize,
    len: usize,
}

impl From<Diagnostic> for Problem {
    fn from(d: Diagnostic) -> Self {
        Self {
            code: d.code.0,
            severity: match d.severity {
                Severity::Error => "error",
                Severity::Note => "note",
                Severity::Warning => "warning",
            }
            .into(),
            message: d.message,
            label: d.label,
            cause: d.cause,
            help: d.help,
            place: d.location.map(|at| {
                Box::new(Place {
                    file: at.file.to_string(),
                    text: at.text.to_string(),
                    offset: at.offset,
                    len: at.len,
                })
            }),
        }
    }
}

impl From<Problem> for Diagnostic {
    fn from(p: Problem) -> Self {
        Self {
            code: Code(p.code),
            severity: match p.severity.as_str() {
                "note" => Severity::Note,
                "warning" => Severity::Warning,
                _ => Severity::Error,
            },
            message: p.message,
            label: p.label,
            cause: p.cause,
            help: p.help,
            location: p
                .place
                .map(|at| Location::span(at.file, at.text, at.offset, at.len)),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(self)).into_response()
    }
}

/// A handler's answer: a value, or what is wrong with the question.
pub type Answer<T> = Result<Json<T>, Problem>;

/// One fact of `palisade check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Heading it stands under: `identity`, `policy`, `proxies`, `audit`.
    pub group: String,
    /// How it stands.
    pub state: FactState,
    /// The fact, in one line.
    pub text: String,
    /// Code, when it is not in order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<u16>,
    /// Why it is not in order.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<String>,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fix: Option<String>,
}

/// Whether a fact is as it should be; what cannot be seen is not called wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactState {
    /// As it should be.
    Ok,
    /// Will stop working, or is unsafe.
    Warning,
    /// Does not work.
    Error,
    /// Cannot be verified from here.
    Unknown,
}

impl Fact {
    /// A fact in order.
    pub fn ok(group: &str, text: impl Into<String>) -> Self {
        Self::new(group, FactState::Ok, text)
    }

    /// Something that cannot be seen from here.
    pub fn unknown(group: &str, text: impl Into<String>) -> Self {
        Self::new(group, FactState::Unknown, text)
    }

    /// A fact that is wrong or will be, with its code.
    pub fn not_ok(group: &str, state: FactState, code: u16, text: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            ..Self::new(group, state, text)
        }
    }

    /// Adds why.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn new(group: &str, state: FactState, text: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            state,
            text: text.into(),
            code: None,
            cause: None,
            fix: None,
        }
    }
}
