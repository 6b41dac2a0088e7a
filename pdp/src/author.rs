//! Policy authoring: from a repository to one validated, reproducible bundle.
//!
//! Reading a folder only gathers its texts into a [`Bundle`]; what they mean is
//! decided by [`compile`] alone, which is also what a proxy runs on the bytes it
//! receives. So there is one compiler, and preview equals enforcement. Every
//! mistake of every file is reported at once, as a [`Diagnostic`] with a code of
//! [`codes`].
//!
//! ```text
//! files ─► Bundle ─► settings ─► services, entities ─► schema ─► policies ─► Compiled
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use palisade_mesh::{
    catalogue::Catalogue,
    diagnostic::{Diagnostic, Severity},
    snapshot::Digest,
    spiffe_id::SpiffeId,
    wire::policy::{Bundle, Contribution, File, SignedBundle},
    yaml::Source,
};
use prost::Message;
use smol_str::SmolStr;

use crate::{
    bundle::{self, BASE, Opened, manifest, scope::Concern, slice, texts},
    compiled::{Compiled, Coverage, PolicyInfo},
};

mod assemble;
pub(crate) mod cedar;
mod check;
pub mod codes;
mod entities;
mod facts;
pub(crate) mod files;
pub mod fmt;
mod impossible;
mod invariants;
mod kin;
mod known;
pub mod lint;
pub mod narrow;
mod nesting;
mod places;
mod policies;
pub(crate) mod provenance;
mod question;
mod remit;
#[cfg(test)]
pub(crate) mod sample;
mod schema;
mod services;
mod settings;
mod store;
pub mod suggest;
pub mod tests;
mod yaml;

pub use nesting::{BRACKETS_MAX, OPERATORS_MAX};
pub use places::Places;
pub use policies::{ID_LEN_MAX, MESSAGE_LEN_MAX};
pub use question::{Ask, OwnedQuestion, principal, question, request};
pub use schema::generated as generated_schema;
pub use services::{NAME_LEN_MAX, OPERATIONS_MAX};
pub use settings::{
    TIMEOUT_DEFAULT, TIMEOUT_MAX,
    sources::{Contributor, SOURCES_MAX, contributors},
};

pub(crate) use provenance::Provenance;
pub(crate) use store::uid;

use entities::{Overlay, People};
use policies::{Policies, Read};
use remit::Remit;
use services::Declared;

/// Longest file of a repository, in bytes.
pub const FILE_LEN_MAX: usize = 1 << 20;
/// Most files of a repository.
pub const FILES_MAX: usize = 20_000;
/// Most bytes of all files together.
pub const REPOSITORY_LEN_MAX: usize = 32 << 20;
/// Most policies of a repository.
pub const POLICIES_MAX: usize = 20_000;

/// Most diagnostics that are told; the rest follow from a hostile or wholly broken
/// repository.
pub const DIAGNOSTICS_MAX: usize = 1_000;
/// Diagnostics after which nothing is suggested any more, because looking for what
/// was meant costs more than everything else.
const SUGGESTIONS_MAX: usize = 200;

/// Stack of the thread that compiles: Cedar's parser and validator recurse, and
/// this is ample for what [`nesting`] lets through, also in a debug build.
const STACK_LEN: usize = 256 << 20;

/// What loading gave.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The compiled repository; `None` if any diagnostic is an error.
    pub compiled: Option<Compiled>,
    /// Everything there is to say, by file and line.
    pub diagnostics: Vec<Diagnostic>,
}

/// Loads the repository in `dir`: reads its files, and those of the sources that it lists
/// in folders, and compiles them.
///
/// Blocks on disk and CPU; call it outside an async worker.
pub fn load(dir: &Path) -> Loaded {
    Gathered::read(dir).together().compile()
}

/// A repository in a folder, and those of its sources that are folders, too.
pub(crate) struct Gathered {
    /// The repository itself.
    pub(crate) own: Texts,
    /// Who contributes, from where, and what.
    pub(crate) folders: Vec<(Contributor, PathBuf, Texts)>,
}

impl Gathered {
    /// Reads the files of the repository in `dir`, and of the folders that it lists.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut own = Texts::read(dir);
        let mut folders = Vec::new();
        for contributor in contributors(own.settings(), dir) {
            let Some(folder) = contributor.place.folder().map(Path::to_owned) else {
                own.found.push(elsewhere(&contributor));
                continue;
            };
            let mut texts = Texts::contributed(&folder);
            texts.demand_content();
            folders.push((contributor, folder, texts));
        }
        Self { own, folders }
    }

    /// All of it as one repository.
    pub(crate) fn together(self) -> Texts {
        let mut texts = self.own;
        for (contributor, _, other) in &self.folders {
            texts.add(contributor, other);
        }
        texts
    }
}

fn elsewhere(contributor: &Contributor) -> Diagnostic {
    let (name, place) = (&contributor.name, &contributor.place);
    let mut diagnostic = Diagnostic::warning(
        codes::SOURCE_ELSEWHERE,
        format!("what source `{name}` contributes is not seen here"),
    )
    .cause(format!(
        "it is at `{place}`, and nothing is fetched for this"
    ))
    .help(
        "the PDP puts all sources together; a check-out beside this one can be named as `folder:`",
    );
    diagnostic.severity = Severity::Note;
    diagnostic
}

/// Paths of the files that a repository consists of, tests too, sorted.
pub fn files_of(dir: &Path) -> Vec<String> {
    files::all(dir)
}

/// Compiles files that were read elsewhere; `git_revision` is the commit they are of, or
/// empty. Files that are no part of a repository are left out.
///
/// Blocks on CPU; call it outside an async worker.
pub fn of_files(files: Vec<(String, Vec<u8>)>, git_revision: String) -> Loaded {
    let (files, found) = files::gathered(files);
    Texts::of(git_revision, files, found).compile()
}

/// The files of a repository as they were read, not yet compiled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    pub(crate) files: Vec<File>,
    pub(crate) git_revision: String,
    pub(crate) found: Vec<Diagnostic>,
    pub(crate) provenance: Provenance,
    contributions: Vec<Contribution>,
    /// The bundle that it came as: it is taken as it is, or what was signed would not be
    /// what is in force.
    pub(crate) signed: Option<Arc<SignedBundle>>,
}

impl Texts {
    /// Reads the repository in `dir`.
    pub(crate) fn read(dir: &Path) -> Self {
        let mut found = Vec::new();
        let files = files::read(dir, &mut found);
        let commit = files::work_tree(dir).map(|t| t.commit).unwrap_or_default();
        Self::of(commit, files, found)
    }

    /// Reads what the folder `dir` contributes to a repository elsewhere.
    pub(crate) fn contributed(dir: &Path) -> Self {
        let mut found = Vec::new();
        if let Err(error) = std::fs::read_dir(dir) {
            found.push(files::unreadable(&dir.display().to_string(), &error));
        }
        let files = files::read_all(dir, &mut found);
        let commit = files::work_tree(dir).map(|t| t.commit).unwrap_or_default();
        Self::of(commit, files, found)
    }

    /// The sources that files under their names are from.
    pub(crate) fn contributions(&self) -> &[Contribution] {
        &self.contributions
    }

    /// Of files that were read elsewhere, sorted by path.
    pub(crate) fn of(git_revision: String, files: Vec<File>, found: Vec<Diagnostic>) -> Self {
        Self {
            files,
            git_revision,
            found,
            ..Self::default()
        }
    }

    /// Of the bundle of what was compiled before; `None` where it is not in order.
    pub(crate) fn of_compiled(compiled: &Compiled) -> Option<Self> {
        let bundle = Bundle::decode(compiled.bundle.clone()).ok()?;
        Self::of_bundle(bundle).ok()
    }

    /// A bundle that is taken as it is.
    pub(crate) fn whole(signed: SignedBundle) -> Self {
        Self {
            signed: Some(Arc::new(signed)),
            ..Self::default()
        }
    }

    /// Of a whole bundle.
    ///
    /// # Errors
    /// When its policies do not make files.
    pub(crate) fn of_bundle(bundle: Bundle) -> Result<Self, String> {
        let policies = texts::of_policies(&bundle)?;
        let provenance = Provenance::of_bundle(&bundle);
        let mut files = bundle.files;
        files.extend(policies);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some((twice, _)) = files
            .iter()
            .zip(files.iter().skip(1))
            .find(|(a, b)| a.path == b.path)
        {
            return Err(format!("`{}` is in it twice", twice.path));
        }
        let mut git_revision = bundle.git_revision;
        if !files::is_commit(&git_revision) {
            git_revision.clear();
        }
        Ok(Self {
            provenance,
            contributions: bundle.contributions,
            ..Self::of(git_revision, files, Vec::new())
        })
    }

    /// The text of `palisade.yaml`; empty where there is none.
    pub(crate) fn settings(&self) -> &str {
        let mut files = self.files.iter();
        let file = files.find(|f| f.path == files::SETTINGS);
        file.map_or("", |f| f.text.as_str())
    }

    /// A source without files is a mistake, not the wish that everything of it be gone.
    pub(crate) fn demand_content(&mut self) {
        if self.found.iter().any(Diagnostic::is_error)
            || self.files.iter().any(|f| files::is_contributed(&f.path))
        {
            return;
        }
        self.found.push(
            Diagnostic::error(codes::SOURCE_EMPTY, "there is nothing that it contributes")
                .cause("it has no file in `services`, `policies` or `entities`")
                .help("see that it is the right folder or reference; take the source out of `palisade.yaml` where it is no more"),
        );
    }

    /// What has no settings is no repository; nothing of it is used.
    pub(crate) fn demand_settings(&mut self, name: &str) {
        if self.settings().is_empty() && !self.found.iter().any(Diagnostic::is_error) {
            self.found.push(files::no_repository(name));
            self.files.clear();
        }
    }

    /// Adds what a source contributes, its files under its name. Its own settings hold where
    /// it is worked on alone, not here.
    pub(crate) fn add(&mut self, contributor: &Contributor, other: &Self) {
        let prefix = format!("{}/", contributor.name);
        let files = other.files.iter();
        let files = files.filter(|f| f.path != files::SETTINGS).map(|f| File {
            path: format!("{prefix}{}", f.path),
            text: f.text.clone(),
        });
        self.files.extend(files);
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.contributions.push(Contribution {
            name: contributor.name.to_string(),
            place: contributor.written.clone(),
            git_revision: other.git_revision.clone(),
        });
        self.found.extend(other.found.iter().cloned().map(|mut d| {
            d.message = format!("source `{}`: {}", contributor.name, d.message);
            d
        }));
        self.provenance.merge(&prefix, &other.provenance);
    }

    /// Tells two states apart, also broken ones.
    pub(crate) fn fingerprint(&self) -> Digest {
        if let Some(signed) = &self.signed {
            return Digest::of(&signed.encode_to_vec());
        }
        let texts = Bundle {
            files: self.files.clone(),
            git_revision: self.git_revision.clone(),
            ..Bundle::default()
        };
        let mut bytes = texts.encode_to_vec();
        for diagnostic in &self.found {
            bytes.extend_from_slice(diagnostic.to_string().as_bytes());
        }
        Digest::of(&bytes)
    }

    pub(crate) fn compile(self) -> Loaded {
        if let Some(signed) = self.signed {
            return compile(signed.bundle.clone());
        }
        let Self {
            files,
            git_revision,
            mut found,
            provenance,
            contributions,
            ..
        } = self;
        if files.is_empty() {
            return finish(None, found);
        }
        loaded(on_own_stack(move || {
            let draft = draft(&files, None, &mut found).filter(|_| !any_error(&found));
            let sealed = draft.map(|mut draft| {
                draft.credit(&provenance);
                let seal = draft.assemble(files, git_revision, contributions)?;
                Ok(draft.sealed(seal))
            });
            match sealed.transpose() {
                Ok(compiled) => finish(compiled, found),
                Err(diagnostic) => finish(None, vec![diagnostic]),
            }
        }))
    }
}

/// Compiles an encoded [`Bundle`], which must be whole, without touching a disk.
///
/// Blocks on CPU; call it outside an async worker.
pub fn compile(bytes: Bytes) -> Loaded {
    received(bytes, None)
}

/// Compiles what a PDP sent to the proxy `own`: a bundle, whole or with those policies
/// left out that cannot concern requests for the service that `own` is.
///
/// Blocks on CPU; call it outside an async worker.
pub fn compile_slice(bytes: Bytes, own: &SpiffeId) -> Loaded {
    received(bytes, Some(own.clone()))
}

fn received(bytes: Bytes, own: Option<SpiffeId>) -> Loaded {
    let opened = bundle::open(&bytes).and_then(|opened| {
        let policies = texts::of_policies(&opened.bundle).map_err(bundle::broken)?;
        Ok((opened, policies))
    });
    let (opened, policies) = match opened {
        Ok(opened) => opened,
        Err(diagnostic) => return finish(None, vec![diagnostic]),
    };
    loaded(on_own_stack(move || {
        let Opened { mut bundle, digest } = opened;
        let mut found = Vec::new();
        let mut files = std::mem::take(&mut bundle.files);
        files.extend(policies);
        let mut draft = draft(&files, None, &mut found);
        let mut coverage = Coverage::Whole;
        if let Some(draft) = &mut draft {
            let fit = assemble::fit(&bundle, draft).map_err(|cause| {
                Diagnostic::error(codes::BUNDLE_BROKEN, "bundle contradicts itself").cause(cause)
            });
            match fit.and_then(|()| covered(&bundle, draft, own.as_ref())) {
                Ok(covered) => coverage = covered,
                Err(diagnostic) => found.push(diagnostic),
            }
        }
        let seal = Seal {
            bundle: bytes,
            digest,
            git_revision: bundle.git_revision,
            coverage,
        };
        let compiled = draft
            .filter(|_| !any_error(&found))
            .map(|draft| draft.sealed(seal));
        finish(compiled, found)
    }))
}

/// Compiles a repository once more, with other entities. Its bundle, and so its digest,
/// stay what they were: only tests ask for this.
fn with_entities(compiled: &Compiled, overlay: Overlay) -> Loaded {
    let seal = Seal::of(compiled);
    let Some(Texts { files, .. }) = Texts::of_compiled(compiled) else {
        return compile(seal.bundle);
    };
    loaded(on_own_stack(move || {
        let mut found = Vec::new();
        let draft = draft(&files, Some(&overlay), &mut found);
        let compiled = draft
            .filter(|_| !any_error(&found))
            .map(|draft| draft.sealed(seal));
        finish(compiled, found)
    }))
}

/// The files of a revision, by path, as the repository has them.
pub fn texts_of(compiled: &Compiled) -> Vec<(Arc<str>, Arc<str>)> {
    let texts = Texts::of_compiled(compiled).unwrap_or_default();
    let files = texts.files.into_iter();
    files.map(|f| (f.path.into(), f.text.into())).collect()
}

/// What can be decided with the policies that are there.
fn covered(bundle: &Bundle, draft: &Draft, own: Option<&SpiffeId>) -> Result<Coverage, Diagnostic> {
    if !slice::is_slice(bundle) {
        return Ok(Coverage::Whole);
    }
    let own = own.ok_or_else(slice::not_whole)?;
    let service = draft.catalogue.by_identity(own);
    let mut concern = Concern::new(&draft.entities, service.map(|s| &**s));
    slice::check(bundle, &mut concern)?;
    Ok(Coverage::Service(service.map(|s| s.id.clone())))
}

/// A folder without them is no repository; a bundle may come from elsewhere.
fn without_settings() -> Diagnostic {
    bundle::broken(format!("it has no `{}`", files::SETTINGS))
}

/// A repository that was read, before its bundle is sealed.
struct Draft {
    trust_domain: palisade_mesh::spiffe_id::TrustDomain,
    schema: cedar_policy::Schema,
    policies: cedar_policy::PolicySet,
    entities: cedar_policy::Entities,
    catalogue: Arc<Catalogue>,
    invariants: BTreeMap<SmolStr, PolicyInfo>,
    parts: Parts,
}

/// What files declared, with the places that are not part of a bundle.
struct Parts {
    read: BTreeMap<SmolStr, Read>,
    declared: Vec<Declared>,
    people: People,
    settings: Source,
}

/// The bundle of a draft, and what is known of it.
struct Seal {
    bundle: Bytes,
    digest: Digest,
    git_revision: String,
    coverage: Coverage,
}

impl Seal {
    fn of(compiled: &Compiled) -> Self {
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
    fn credit(&mut self, provenance: &Provenance) {
        for read in self.parts.read.values_mut() {
            let change = provenance.of(&read.info);
            read.info.commit = change.map(|c| c.commit.clone());
            read.info.author = change.map(|c| c.author.clone());
        }
    }

    /// The bundle of a draft that was read from these files.
    fn assemble(
        &self,
        files: Vec<File>,
        git_revision: String,
        contributions: Vec<Contribution>,
    ) -> Result<Seal, Diagnostic> {
        let mut bundle = Bundle {
            trust_domain: self.trust_domain.as_str().to_owned(),
            files: assemble::without_policies(files, &self.parts.read),
            git_revision,
            features: BASE.iter().map(|f| (*f).to_owned()).collect(),
            groups: assemble::groups(&self.parts.read),
            contributions,
            proofs: Vec::new(),
        };
        let digest = manifest::digest(&mut bundle).map_err(bundle::broken)?;
        Ok(Seal {
            bundle: bundle.encode_to_vec().into(),
            digest,
            git_revision: bundle.git_revision,
            coverage: Coverage::Whole,
        })
    }

    fn sealed(self, seal: Seal) -> Compiled {
        self.parted(seal).0
    }

    /// The compiled repository, and what it leaves behind.
    fn parted(self, seal: Seal) -> (Compiled, Parts) {
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
        };
        (compiled, self.parts)
    }
}

/// Compiles the texts; goes on after a mistake as far as it makes sense.
fn draft(files: &[File], overlay: Option<&Overlay>, found: &mut Vec<Diagnostic>) -> Option<Draft> {
    let files = sources_of(files, found);
    let mut policies = Policies::default();
    for source in files.iter().filter(|s| files::is_policy(&s.path)) {
        policies.read(source, found);
    }
    let of_invariants = files.iter().filter(|s| files::is_invariant(&s.path));
    let invariants = invariants::read(of_invariants, &policies, found);
    let Some(settings_source) = files.iter().find(|s| &*s.path == files::SETTINGS) else {
        found.push(without_settings());
        return None;
    };
    let settings = settings::read(settings_source, found)?;
    remit::check_files(&files, &settings, found);
    check_remits(&policies, &settings, found);
    check_remits(&invariants, &settings, found);
    let before = error_count(found);
    let mut declared: Vec<Declared> = Vec::new();
    for source in files.iter().filter(|s| files::is_service(&s.path)) {
        let read = services::read(source, &settings, found);
        if let (Some(read), Some(remit)) = (&read, Remit::of(&source.path, &settings)) {
            remit.check_service(read, found);
        }
        declared.extend(read);
    }
    let mut people = People::default();
    for source in files.iter().filter(|s| files::is_entities(&s.path)) {
        if let Some(remit) = Remit::of(&source.path, &settings) {
            entities::read(source, &settings, &remit, &mut declared, &mut people, found);
        }
    }
    if let Some(overlay) = overlay {
        entities::read_over(overlay, &settings, &mut declared, &mut people, found);
    }
    services::check_together(&declared, found);
    let services_broken = error_count(found) > before;
    if !services_broken {
        // Else the members of what is missing would be reported again.
        entities::check_together(&people, &declared, found);
    }
    let catalogue_broken = error_count(found) > before;
    let domain = settings.trust_domain.clone();
    let services = declared.iter().map(|d| d.service.clone()).collect();
    let catalogue = Catalogue::new(domain.clone(), services, settings.headers.clone());
    let team = files.iter().find(|s| &*s.path == files::SCHEMA);
    let schema = schema::compile(&catalogue, team, found)?;
    for statements in [&policies, &invariants] {
        check::validate(statements, &schema, catalogue_broken, found);
    }
    if catalogue_broken {
        return None;
    }
    let entities = match store::build(&domain, &declared, &people, &schema) {
        Ok(entities) => entities,
        Err(diagnostic) => {
            found.push(diagnostic);
            return None;
        }
    };
    for statements in [&policies, &invariants] {
        known::check(statements, &entities, &domain, found);
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

fn any_error(found: &[Diagnostic]) -> bool {
    found.iter().any(Diagnostic::is_error)
}

fn error_count(found: &[Diagnostic]) -> usize {
    found.iter().filter(|d| d.is_error()).count()
}

fn finish(compiled: Option<Compiled>, mut found: Vec<Diagnostic>) -> Loaded {
    found.sort_by(|a, b| place(a).cmp(&place(b)));
    if found.len() > DIAGNOSTICS_MAX {
        let more = found.len() - DIAGNOSTICS_MAX;
        found.truncate(DIAGNOSTICS_MAX);
        found.push(
            Diagnostic::error(codes::MORE, format!("{more} more mistakes are not told"))
                .help("mend those above first"),
        );
    }
    Loaded {
        compiled,
        diagnostics: found,
    }
}

fn place(d: &Diagnostic) -> (&str, usize, u16) {
    match &d.location {
        Some(at) => (&at.file, at.offset, d.code.0),
        None => ("", 0, d.code.0),
    }
}

/// Runs `work` on a thread with a stack of [`STACK_LEN`].
fn on_own_stack<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Diagnostic> {
    let running = thread::Builder::new()
        .name("policy-compiler".to_owned())
        .stack_size(STACK_LEN)
        .spawn(work);
    let cause = match running.map(thread::JoinHandle::join) {
        Ok(Ok(made)) => return Ok(made),
        Ok(Err(_)) => "bug: the compiler panicked".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(
        Diagnostic::error(codes::UNREADABLE, "policy compiler did not finish")
            .cause(cause)
            .help("try again; if it stays so, bisect the last change of the repository"),
    )
}

/// What came of compiling, also where it did not come to its end.
fn loaded(made: Result<Loaded, Diagnostic>) -> Loaded {
    made.unwrap_or_else(|diagnostic| finish(None, vec![diagnostic]))
}
