//! A repository that was read: what its files declare, before a bundle is made of them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use palisade_mesh::{
    catalogue::Catalogue,
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Bundle, Contribution, File},
    yaml::Source,
};
use prost::Message;
use smol_str::SmolStr;

use super::{
    FILES_MAX, Provenance, REPOSITORY_LEN_MAX, assemble, check, codes,
    entities::{self, Overlay, People},
    files, invariants, known,
    policies::{Parsed, Policies, Read},
    remit::{self, Remit},
    schema,
    services::{self, Declared},
    settings,
    shared::Shared,
    store,
    yaml::Unknown,
};
use crate::{
    bundle::{self, BASE, MASKS, manifest},
    compiled::{Compiled, Coverage, PolicyInfo},
};

/// A repository that was read, before its bundle is sealed.
pub(super) struct Draft {
    pub(super) trust_domain: TrustDomain,
    pub(super) schema: cedar_policy::Schema,
    pub(super) policies: cedar_policy::PolicySet,
    pub(super) entities: cedar_policy::Entities,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) invariants: BTreeMap<SmolStr, PolicyInfo>,
    pub(super) parts: Parts,
}

/// What files declared, with the places that are not part of a bundle.
pub(super) struct Parts {
    pub(super) read: BTreeMap<SmolStr, Read>,
    pub(super) declared: Vec<Declared>,
    pub(super) people: People,
    pub(super) settings: Source,
}

/// The bundle of a draft, and what is known of it.
pub(super) struct Seal {
    pub(super) bundle: Bytes,
    pub(super) digest: Digest,
    pub(super) git_revision: String,
    pub(super) coverage: Coverage,
}

impl Seal {
    pub(super) fn of(compiled: &Compiled) -> Self {
        Self {
            bundle: compiled.bundle.clone(),
            digest: compiled.digest,
            git_revision: compiled.git_revision.clone(),
            coverage: compiled.coverage.clone(),
        }
    }
}

impl Draft {
    /// Notes who last changed which policy.
    pub(super) fn credit(&mut self, provenance: &Provenance) {
        for read in self.parts.read.values_mut() {
            let change = provenance.of(&read.info);
            read.info.commit = change.map(|c| c.commit.clone());
            read.info.author = change.map(|c| c.author.clone());
        }
    }

    /// What an engine must know of. A build that does not know masks would record what they
    /// leave out.
    fn features(&self) -> Vec<String> {
        let masks = self.catalogue.has_masks().then_some(&MASKS);
        let needed = BASE.iter().chain(masks);
        needed.map(|f| (*f).to_owned()).collect()
    }

    /// The bundle of a draft that was read from these files.
    pub(super) fn assemble(
        &self,
        files: Vec<File>,
        git_revision: String,
        contributions: Vec<Contribution>,
    ) -> Result<Seal, Diagnostic> {
        let mut bundle = Bundle {
            trust_domain: self.trust_domain.as_str().to_owned(),
            files: assemble::without_policies(files, &self.parts.read),
            git_revision,
            features: self.features(),
            groups: assemble::groups(&self.parts.read),
            contributions,
            old_proofs: Vec::new(),
        };
        let digest = manifest::digest(&mut bundle).map_err(bundle::broken)?;
        Ok(Seal {
            bundle: bundle.encode_to_vec().into(),
            digest,
            git_revision: bundle.git_revision,
            coverage: Coverage::Whole,
        })
    }

    pub(super) fn sealed(self, seal: Seal) -> Compiled {
        self.parted(seal).0
    }

    /// The compiled repository, and what it leaves behind.
    pub(super) fn parted(self, seal: Seal) -> (Compiled, Parts) {
        let info = self.parts.read.iter();
        let info = info.map(|(id, read)| (id.clone(), read.info.clone()));
        let compiled = Compiled {
            trust_domain: self.trust_domain,
            git_revision: seal.git_revision,
            schema: self.schema,
            policies: self.policies,
            entities: self.entities,
            catalogue: self.catalogue,
            info: info.collect(),
            invariants: self.invariants,
            digest: seal.digest,
            bundle: seal.bundle,
            coverage: seal.coverage,
            absent: Vec::new(),
        };
        (compiled, self.parts)
    }
}

/// Compiles the texts; goes on after a mistake as far as it makes sense.
pub(super) fn draft(
    files: &[File],
    overlay: Option<&Overlay>,
    shared: Option<&Shared>,
    found: &mut Vec<Diagnostic>,
) -> Option<Draft> {
    let files = sources_of(files, found);
    let turn = shared.map(Shared::turn).unwrap_or_default();
    let parsed = |is: fn(&str) -> bool| {
        let sources: Vec<&Source> = files.iter().filter(|s| is(&s.path)).collect();
        let parsed: Vec<Parsed> = match shared {
            Some(shared) => shared.parsed(&sources, turn),
            None => sources.iter().map(|source| Parsed::of(source)).collect(),
        };
        sources.into_iter().zip(parsed)
    };
    let policies = Policies::of(parsed(files::is_policy), turn, found);
    let invariants = invariants::read(parsed(files::is_invariant), &policies, found);
    let Some(settings_source) = files.iter().find(|s| &*s.path == files::SETTINGS) else {
        found.push(without_settings());
        return None;
    };
    let settings = settings::read(settings_source, found)?;
    remit::check_files(&files, &settings, found);
    check_remits(&policies, &settings, found);
    check_remits(&invariants, &settings, found);
    let before = found.len();
    let mut declared: Vec<Declared> = Vec::new();
    for source in files.iter().filter(|s| files::is_service(&s.path)) {
        let read = services::read(source, &settings, found);
        if let (Some(read), Some(remit)) = (&read, Remit::of(&source.path, &settings)) {
            remit.check_service(read, found);
        }
        declared.extend(read);
    }
    services::check_together(&declared, found);
    let services = Missing::of_services(found.get(before..).unwrap_or_default());
    let before = found.len();
    let mut people = People::default();
    for source in files.iter().filter(|s| files::is_entities(&s.path)) {
        if let Some(remit) = Remit::of(&source.path, &settings) {
            entities::read(source, &settings, &remit, &mut declared, &mut people, found);
        }
    }
    if let Some(overlay) = overlay {
        entities::read_over(overlay, &settings, &mut declared, &mut people, found);
    }
    let groups_missing = Missing::of_entities(found.get(before..).unwrap_or_default()).any;
    if !services.any && !groups_missing {
        // Else the members of what is missing would be reported again.
        entities::check_together(&people, &declared, found);
    }
    let people_broken = Missing::of_entities(found.get(before..).unwrap_or_default()).any;
    if people_broken {
        people = people.without_members();
    }
    let domain = settings.trust_domain.clone();
    let all = declared.iter().map(|d| d.service.clone()).collect();
    let catalogue = Catalogue::new(domain.clone(), all, settings.headers.clone())
        .masking(settings.mask.clone());
    let team = files.iter().find(|s| &*s.path == files::SCHEMA);
    let (schema, schema_digest) = schema::compile(&catalogue, team, found)?;
    for statements in [&policies, &invariants] {
        let under = (&schema, schema_digest);
        check::validate(statements, under, services.actions, found);
    }
    if services.any {
        return None;
    }
    let entities = match store::build(&domain, &declared, &people, &schema) {
        Ok(entities) => entities,
        Err(diagnostic) => {
            found.extend((!people_broken).then_some(diagnostic));
            return None;
        }
    };
    for statements in [&policies, &invariants] {
        known::check(statements, &entities, &domain, groups_missing, found);
    }
    if people_broken || services.actions {
        return None;
    }
    Some(Draft {
        trust_domain: domain,
        schema,
        policies: policies.set,
        entities,
        catalogue: Arc::new(catalogue),
        invariants: invariants::infos(invariants),
        parts: Parts {
            read: policies.read,
            declared,
            people,
            settings: settings_source.clone(),
        },
    })
}

/// What mistakes of files take away, so that whoever names it is not told that it is not there.
struct Missing {
    any: bool,
    /// Business actions, which operations give.
    actions: bool,
}

/// Keys that declare something which others name, by the maps that they stand in.
const DECLARING: &[(&str, &[&str])] = &[
    (services::FILE, &["service", "identities", "operations"]),
    (services::OPERATION, &["name", "match"]),
    (entities::FILE, &["groups", "users"]),
];

impl Missing {
    /// After mistakes in files of services.
    fn of_services(mistakes: &[Diagnostic]) -> Self {
        let actions = |d: &Diagnostic| {
            let key = Unknown::of(d).filter(|key| key.place == services::OPERATION);
            key.is_some_and(|key| key.near.is_none_or(|near| near == "action"))
        };
        let any = mistakes.iter().any(takes_away);
        Self {
            any,
            actions: any || mistakes.iter().any(actions),
        }
    }

    /// After mistakes in files of entities, which declare no actions.
    fn of_entities(mistakes: &[Diagnostic]) -> Self {
        Self {
            any: mistakes.iter().any(takes_away),
            actions: false,
        }
    }
}

/// Whether something is not there for this mistake. A key that nothing reads takes away what it
/// was meant to declare; one that is like no other could have been meant to declare anything, at
/// the top of a file. Of what is declared twice, the first one is kept.
fn takes_away(mistake: &Diagnostic) -> bool {
    let Some(key) = Unknown::of(mistake) else {
        return mistake.is_error() && mistake.code.0 != codes::DECLARED_TWICE;
    };
    let declaring = DECLARING.iter().find(|(place, _)| *place == key.place);
    declaring.is_some_and(|(place, keys)| match key.near {
        Some(near) => keys.contains(&near),
        None => *place != services::OPERATION,
    })
}

/// Each policy is about what its source may speak for.
fn check_remits(policies: &Policies, settings: &settings::Settings, found: &mut Vec<Diagnostic>) {
    for policy in policies.set.policies() {
        if let Some(read) = policies.read.get::<str>(policy.id().as_ref())
            && let Some(remit) = Remit::of(&read.info.file, settings)
        {
            remit.check_policy(policy, read, found);
        }
    }
}

/// The texts of a bundle; what exceeds a limit is refused here too, because a
/// bundle may come from elsewhere than [`load`].
fn sources_of(files: &[File], found: &mut Vec<Diagnostic>) -> Vec<Source> {
    let total: usize = files.iter().map(|f| f.text.len()).sum();
    if files.len() > FILES_MAX || total > REPOSITORY_LEN_MAX {
        found.push(files::too_large(format!(
            "it has {} files of {total} bytes; the limits are {FILES_MAX} and {REPOSITORY_LEN_MAX}",
            files.len()
        )));
        return Vec::new();
    }
    let mut sources = Vec::with_capacity(files.len());
    let mut paths = HashSet::with_capacity(files.len());
    for file in files {
        if !paths.insert(file.path.as_str()) {
            found.push(bundle::broken(format!("`{}` is in it twice", file.path)));
            return Vec::new();
        }
        match files::check_len(&file.path, file.text.len()) {
            Ok(()) => sources.push(Source::new(file.path.as_str(), file.text.as_str())),
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    sources
}

/// A folder without them is no repository; a bundle may come from elsewhere.
fn without_settings() -> Diagnostic {
    bundle::broken(format!("it has no `{}`", files::SETTINGS))
}
