//! What a recorded decision was asked, for an engine that is to make it again; or why the record
//! does not tell.

use palisade_audit::envelope::DecisionRef;
use palisade_mesh::wire::record::Verdict;
use palisade_pdp::decide::{Lacking, PATH_LEN_MAX, Past};

/// What a record says was asked.
///
/// # Errors
/// Why it tells of no decision that could be made again.
pub(crate) fn asked<'r>(record: &'r DecisionRef<'r>) -> Result<Past<'r>, Unfit> {
    match unfit(record) {
        Some(why) => Err(why),
        None => Ok(past(record)),
    }
}

/// Why a record tells of no decision that could be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It was refused before any policy was asked.
    Refused,
    /// The record has no verdict.
    NoVerdict,
    /// No policy was in force.
    NoPolicy,
    /// A value that no policy can be asked about was not recorded.
    NotEncodable,
    /// It was not enforced.
    Shadow,
    /// The context was not recorded.
    NoContext,
}

impl Unfit {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused before any policy was asked",
            Self::NoVerdict => "the record has no verdict",
            Self::NoPolicy => "no policy was in force",
            Self::NotEncodable => "a value that no policy can be asked about was not recorded",
            Self::Shadow => "it was not enforced (a shadow decision)",
            Self::NoContext => "the context was not recorded",
        }
    }

    /// Whether a policy decides about such a request nevertheless.
    pub(crate) fn is_unknown(self) -> bool {
        matches!(self, Self::NoContext)
    }
}

/// The record as a replay takes it.
pub(crate) fn past<'r>(record: &'r DecisionRef<'r>) -> Past<'r> {
    Past {
        time_us: record.time_us,
        principal: record.principal,
        proven: !record.serial.is_empty(),
        service: record.service,
        method: record.method,
        host: record.host,
        path: record.path,
        source_ip: record.source_ip,
        source_port: record.source_port,
        context_json: record.context_json,
        covered: &record.covered,
    }
}

/// What a record lacks, in words.
pub(crate) fn words(why: &Lacking) -> String {
    match why {
        Lacking::Fields(paths) => format!("the record lacks {}", paths.join(", ")),
        Lacking::Path => format!(
            "the path was not recorded whole: it has more than {PATH_LEN_MAX} bytes, or is masked"
        ),
        Lacking::Service => "the candidate has no such service".to_owned(),
        Lacking::Unreadable => "it is no decision record as this version writes them".to_owned(),
    }
}

/// Why a record tells of no decision that could be made again, if it does not.
fn unfit(record: &DecisionRef<'_>) -> Option<Unfit> {
    match (record.verdict, record.reason) {
        (Verdict::Refused, _) => Some(Unfit::Refused),
        (Verdict::Unspecified, _) => Some(Unfit::NoVerdict),
        (_, "no_snapshot" | "stale_snapshot") => Some(Unfit::NoPolicy),
        (_, "not_encodable") => Some(Unfit::NotEncodable),
        _ if !record.enforced => Some(Unfit::Shadow),
        _ if record.context_json.is_empty() => Some(Unfit::NoContext),
        _ => None,
    }
}
