//! What an engine is built from: a policy repository that has been parsed,
//! strictly validated and given its digest.

use std::{collections::BTreeMap, sync::Arc};

use palisade_mesh::{catalogue::Catalogue, snapshot::Digest, spiffe_id::TrustDomain};
use smol_str::SmolStr;

/// A policy repository after parsing and strict validation.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The trust domain that the repository is written for.
    pub trust_domain: TrustDomain,
    /// The generated vocabulary with the team's additions.
    pub schema: cedar_policy::Schema,
    /// Every policy; its `PolicyId` is its `@id`.
    pub policies: cedar_policy::PolicySet,
    /// The whole entity store of the revision, and the action entities of the schema.
    pub entities: cedar_policy::Entities,
    /// Services, their identities, hosts and operations.
    pub catalogue: Arc<Catalogue>,
    /// What is known of each policy, by its id.
    pub info: BTreeMap<SmolStr, PolicyInfo>,
    /// The encoded `palisade_mesh::wire::policy::Bundle`.
    pub bundle: bytes::Bytes,
    /// Digest of `bundle`.
    pub digest: Digest,
}

/// What is known of one policy beside its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyInfo {
    /// Its `@id`.
    pub id: SmolStr,
    /// Whether it is a `permit`; else it is a `forbid`.
    pub permit: bool,
    /// File in the repository, `/` as separator.
    pub file: Arc<str>,
    /// First line, from 1.
    pub first_line: usize,
    /// Last line.
    pub last_line: usize,
    /// Its text, as written.
    pub text: Arc<str>,
    /// `@owner`.
    pub owner: Option<SmolStr>,
    /// `@deny_message`: the author's words for a caller who is denied.
    pub deny_message: Option<SmolStr>,
    /// `@help_url`: the author's link for a caller who is denied.
    pub help_url: Option<SmolStr>,
    /// `@expires` in microseconds since the Unix epoch; on permits only.
    pub expires_us: Option<i64>,
    /// `@mode("shadow")`: evaluated and recorded, not enforced; on permits only.
    pub shadow: bool,
    /// Commit that last changed it, where known.
    pub commit: Option<SmolStr>,
    /// Who wrote that commit, where known.
    pub author: Option<SmolStr>,
}
