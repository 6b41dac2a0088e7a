//! A policy repository after parsing and strict validation.
//!
//! The compiler makes it, the engine is built from it. Nothing in it refers to
//! the folder it came from, except to say where a policy stands.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use palisade_mesh::{
    catalogue::{Catalogue, ServiceId},
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::Bundle,
};
use prost::Message;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{
    author::{codes, files},
    bundle::manifest,
    decide::world::{SERVICE, uid},
};

/// A policy repository after parsing and strict validation; what an engine is built from.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The trust domain whose workloads are governed.
    pub trust_domain: TrustDomain,
    /// Commit of the repository, or empty.
    pub git_revision: String,
    /// The whole schema.
    pub schema: cedar_policy::Schema,
    /// Every policy; its `PolicyId` is its `@id`.
    pub policies: cedar_policy::PolicySet,
    /// The whole entity store of the revision: `TrustDomain`, `Namespace`, `Service`,
    /// `Operation`, `Workload`, `Group` and `User` entities, and the action entities
    /// of the schema.
    pub entities: cedar_policy::Entities,
    /// Services, identities, operations and declared headers.
    pub catalogue: Arc<Catalogue>,
    /// What is known of each policy beside its meaning, by policy id.
    pub info: BTreeMap<SmolStr, PolicyInfo>,
    /// What must never become possible, by id: statements in the form of a `forbid`, that no
    /// engine enforces.
    pub invariants: BTreeMap<SmolStr, PolicyInfo>,
    /// Encoded `palisade_mesh::wire::policy::Bundle`.
    pub bundle: Bytes,
    /// Digest of `bundle`.
    pub digest: Digest,
    /// What can be decided with it.
    pub coverage: Coverage,
    /// Sources of the repository that are not in it, because whoever read it did not have them.
    /// What is true of it may be false of the whole: nothing is proved of it.
    pub absent: Vec<Absent>,
}

/// A source that is not in what was compiled, though the repository lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// Its name.
    pub source: String,
    /// Where it is, as the repository writes it.
    pub place: String,
    /// Why it is not there.
    pub why: String,
}

impl Absent {
    /// That it is not there, and how to have it there.
    pub fn told(&self) -> Diagnostic {
        let Self { source, place, why } = self;
        Diagnostic::warning(
            codes::SOURCE_ELSEWHERE,
            format!("what source `{source}` contributes is not here"),
        )
        .cause(format!(
            "it is at `{place}`, and {why}; what is said here is of a part of the revision, of which nothing counts as proved"
        ))
        .help(format!(
            "--fetch asks for it as a PDP does; --checkout {source}=DIR takes it from a folder"
        ))
    }
}

/// What can be decided with a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// Everything: no policy is left out.
    Whole,
    /// Requests for this service alone; where there is none, nothing.
    Service(Option<ServiceId>),
}

impl Coverage {
    /// Whether every policy that can concern `service` is there.
    pub fn has(&self, service: &ServiceId) -> bool {
        match self {
            Self::Whole => true,
            Self::Service(own) => own.as_ref() == Some(service),
        }
    }
}

impl Compiled {
    /// Digest of the bundle without the files of `entities/`: two revisions that
    /// share it differ in nothing but their entities. None when the bundle cannot
    /// be read.
    pub fn rules_digest(&self) -> Option<Digest> {
        let mut bundle = Bundle::decode(&*self.bundle).ok()?;
        bundle.files.retain(|f| !files::is_entities(&f.path));
        bundle.git_revision.clear();
        bundle.contributions.clear();
        bundle.features.clear();
        bundle.old_proofs.clear();
        manifest::digest(&mut bundle).ok()
    }

    /// The labels of a service, by key: none of one that is not there.
    pub fn labels(&self, service: &ServiceId) -> BTreeMap<&str, String> {
        let entity = self.entities.get(&uid(SERVICE, service.as_str()));
        let tags = entity.into_iter().flat_map(cedar_policy::Entity::tags);
        let texts = tags.filter_map(|(key, value)| match value {
            Ok(cedar_policy::EvalResult::String(text)) => Some((key, text)),
            _ => None,
        });
        texts.collect()
    }
}

/// What is known of a policy beside its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyInfo {
    /// The policy's `@id`.
    pub id: SmolStr,
    /// Whether it is a `permit`; otherwise a `forbid`.
    pub permit: bool,
    /// File in the repository, `/` as separator.
    pub file: Arc<str>,
    /// First line in the file, annotations included; lines start at 1.
    pub first_line: usize,
    /// Last line in the file.
    pub last_line: usize,
    /// The policy as it was written.
    pub text: Arc<str>,
    /// `@owner`.
    pub owner: Option<SmolStr>,
    /// `@deny_message`: words for a caller who is denied by it.
    pub deny_message: Option<SmolStr>,
    /// `@help_url`: link for a caller who is denied by it.
    pub help_url: Option<SmolStr>,
    /// `@expires`, microseconds since the Unix epoch; permits only.
    pub expires_us: Option<i64>,
    /// `@mode("shadow")`: evaluated and reported, never enforced; permits only.
    pub shadow: bool,
    /// Git commit that last changed it.
    pub commit: Option<SmolStr>,
    /// Author of that commit.
    pub author: Option<SmolStr>,
}
