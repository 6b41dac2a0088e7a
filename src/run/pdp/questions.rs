//! What `can` and `why` ask: a request that may come, and one that was decided.

use palisade_mesh::{
    catalogue::Catalogue, clock::Clock, diagnostic::Diagnostic, spiffe_id::SpiffeId,
};
use palisade_pdp::{
    author::{self, Ask},
    compiled::Absent,
    decide::{Explanation, Snapshot},
};
use serde::{Deserialize, Serialize};

/// A question of `can`, as it is asked of the running mesh.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Can {
    /// Who.
    pub principal: String,
    /// Does what.
    pub verb: String,
    /// To what.
    pub target: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Address of the caller.
    pub source: Option<String>,
    /// When, microseconds since the Unix epoch; now where nothing is said.
    pub now_us: Option<i64>,
}

/// The answer of `can`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CanAnswer {
    /// The request as it was understood.
    pub understood: String,
    /// Verdict and reasons.
    pub explanation: Explanation,
    /// Sources that the revision lacks; none of one that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Absent>,
}

impl Can {
    /// Answers under `snapshot`.
    ///
    /// # Errors
    /// Everything about the question that is not understood.
    pub fn answer(&self, snapshot: &Snapshot, clock: &Clock) -> Result<CanAnswer, Vec<Diagnostic>> {
        let question = author::question(
            snapshot.catalogue(),
            &Ask {
                principal: self.principal.clone(),
                verb: self.verb.clone(),
                target: self.target.clone(),
                on: None,
                headers: self.headers.clone(),
                source: self.source.clone(),
                anonymous: false,
                now_us: self.now_us.unwrap_or_else(|| clock.now_us()),
            },
        )?;
        Ok(CanAnswer {
            understood: question.understood(),
            explanation: snapshot.explain(&question.as_question()),
            absent: snapshot.compiled().absent.clone(),
        })
    }
}

/// Whether an identity is a service; nothing where there is no such service.
pub(super) fn is_service(
    catalogue: &Catalogue,
    identity: &SpiffeId,
    service: &str,
) -> Option<bool> {
    let mut services = catalogue.services().iter();
    let named = services.find(|s| s.id.as_str() == service)?;
    Some(named.identities.contains(identity))
}

/// What a decision record says, as far as a replay needs it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded {
    /// SPIFFE ID of the caller.
    pub principal: String,
    /// Cedar action.
    pub action: String,
    /// Cedar resource type.
    pub resource_type: String,
    /// Cedar resource id.
    pub resource_id: String,
    /// What the policies read of the context.
    pub context_json: String,
    /// Digest of the revision it was decided under.
    pub revision: String,
    /// SPIFFE ID of whoever says so.
    #[serde(default)]
    pub reporter: String,
    /// The service that it is about; empty where the request matched none.
    #[serde(default)]
    pub service: String,
}

/// An explained record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// Whether it was explained under the very revision that decided.
    pub exact: bool,
    /// Whether its reporter is the service that it is about, or the PDP, which is asked about
    /// every one; nothing where the revision has no such service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_the_service: Option<bool>,
    /// Verdict and reasons.
    pub explanation: Explanation,
}

impl Recorded {
    /// Explains the record under `snapshot`, which is the revision that decided where that is
    /// `exact`.
    ///
    /// # Errors
    /// When the record is malformed.
    pub fn explained(&self, snapshot: &Snapshot, exact: bool) -> Result<Explained, Diagnostic> {
        Ok(Explained {
            exact,
            by_the_service: self.is_by_the_service(snapshot.catalogue()),
            explanation: self.explain(snapshot)?,
        })
    }

    fn is_by_the_service(&self, catalogue: &Catalogue) -> Option<bool> {
        let reporter = SpiffeId::parse(&self.reporter).ok()?;
        if reporter == catalogue.trust_domain().role("pdp") {
            return Some(true);
        }
        is_service(catalogue, &reporter, &self.service)
    }

    fn explain(&self, snapshot: &Snapshot) -> Result<Explanation, Diagnostic> {
        snapshot
            .explain_recorded(
                &self.principal,
                &self.action,
                &self.resource_type,
                &self.resource_id,
                &self.context_json,
            )
            .map_err(|error| {
                Diagnostic::error(6003, "this record cannot be explained")
                    .cause(error.to_string())
                    .help("see it as it is: palisade audit show ID")
            })
    }
}
