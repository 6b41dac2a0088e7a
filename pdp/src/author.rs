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

use std::{collections::BTreeMap, path::Path, sync::Arc, thread};

use bytes::Bytes;
use palisade_mesh::{
    catalogue::Catalogue,
    diagnostic::{Diagnostic, Severity},
    snapshot::Digest,
    wire::policy::{Bundle, Contribution, File, PolicySource},
    yaml::Source,
};
use prost::Message;
use smol_str::SmolStr;

use crate::compiled::{Compiled, PolicyInfo};

mod cedar;
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

/// Features of the bundle format that this compiler understands.
pub const FEATURES: &[&str] = &["cedar-4", "catalogue-1"];

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
    let mut texts = Texts::read(dir);
    for contributor in contributors(texts.settings(), dir) {
        match contributor.place.folder() {
            Some(folder) => texts.add(&contributor, &Texts::contributed(folder)),
            None => texts.found.push(elsewhere(&contributor)),
        }
    }
    texts.compile()
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

/// Compiles files that were read elsewhere, such as those of a commit; `git_revision` is that
/// commit. Files that are no part of a repository are left out.
///
/// Blocks on CPU; call it outside an async worker.
pub fn of_files(files: Vec<(String, Vec<u8>)>, git_revision: String) -> Loaded {
    let (files, found) = files::gathered(files);
    Texts::of(git_revision, files, found).compile()
}

/// Whether a repository has a file at `path` that becomes part of a revision.
pub fn is_part(path: &str) -> bool {
    files::is_read(path)
}

/// The files of a repository as they were read, not yet compiled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    pub(crate) files: Vec<File>,
    pub(crate) git_revision: String,
    pub(crate) found: Vec<Diagnostic>,
    pub(crate) provenance: Provenance,
    contributions: Vec<Contribution>,
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

    /// Of files that were read elsewhere, sorted by path.
    pub(crate) fn of(git_revision: String, files: Vec<File>, found: Vec<Diagnostic>) -> Self {
        Self {
            files,
            git_revision,
            found,
            ..Self::default()
        }
    }

    /// Of a bundle that was compiled before; who changed what is not known any more.
    fn of_bundle(bundle: Bundle) -> Self {
        Self {
            contributions: bundle.contributions,
            ..Self::of(bundle.git_revision, bundle.files, Vec::new())
        }
    }

    /// The text of `palisade.yaml`; empty where there is none.
    pub(crate) fn settings(&self) -> &str {
        let mut files = self.files.iter();
        let file = files.find(|f| f.path == files::SETTINGS);
        file.map_or("", |f| f.text.as_str())
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
            place: contributor.place.to_string(),
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

    /// The bundle as far as it is known before it is compiled.
    fn into_bundle(self) -> (Bundle, Provenance, Vec<Diagnostic>) {
        let bundle = Bundle {
            files: self.files,
            git_revision: self.git_revision,
            features: FEATURES.iter().map(|f| (*f).to_owned()).collect(),
            contributions: self.contributions,
            ..Bundle::default()
        };
        (bundle, self.provenance, self.found)
    }

    pub(crate) fn compile(self) -> Loaded {
        let (mut bundle, provenance, mut found) = self.into_bundle();
        if bundle.files.is_empty() {
            return finish(None, found);
        }
        loaded(on_own_stack(move || {
            let draft = draft(&bundle, None, &mut found);
            let compiled = draft.filter(|_| !any_error(&found)).map(|draft| {
                let mut info = draft.info();
                for info in info.values_mut() {
                    let change = provenance.of(info);
                    info.commit = change.map(|c| c.commit.clone());
                    info.author = change.map(|c| c.author.clone());
                }
                bundle.trust_domain = draft.trust_domain.as_str().to_owned();
                bundle.sources = sources(&info);
                draft.sealed(info, Bytes::from(bundle.encode_to_vec()))
            });
            finish(compiled, found)
        }))
    }
}

/// Compiles an encoded [`Bundle`] as it was received, without touching a disk.
///
/// Blocks on CPU; call it outside an async worker.
pub fn compile(bytes: Bytes) -> Loaded {
    let bundle = match Bundle::decode(bytes.clone()) {
        Ok(bundle) => bundle,
        Err(error) => {
            let diagnostic = Diagnostic::error(codes::BUNDLE_BROKEN, "this is no policy bundle")
                .cause(error.to_string())
                .help("fetch it again; if it stays so, rebuild it from its repository");
            return finish(None, vec![diagnostic]);
        }
    };
    let mut found = unknown_features(&bundle);
    if !found.is_empty() {
        return finish(None, found);
    }
    loaded(on_own_stack(move || {
        let draft = draft(&bundle, None, &mut found);
        if let Some(draft) = &draft
            && draft.trust_domain.as_str() != bundle.trust_domain
        {
            found.push(
                Diagnostic::error(codes::BUNDLE_BROKEN, "bundle contradicts itself").cause(
                    format!(
                        "it is labelled `{}`, its settings say `{}`",
                        bundle.trust_domain, draft.trust_domain
                    ),
                ),
            );
        }
        let compiled = draft.filter(|_| !any_error(&found)).map(|draft| {
            let mut infos = draft.info();
            for source in &bundle.sources {
                if let Some(info) = infos.get_mut(source.policy_id.as_str()) {
                    info.commit = not_empty(&source.commit);
                    info.author = not_empty(&source.author);
                }
            }
            draft.sealed(infos, bytes)
        });
        finish(compiled, found)
    }))
}

/// Compiles a repository once more, with other entities. Its bundle, and so its digest,
/// stay what they were: only tests ask for this.
fn with_entities(compiled: &Compiled, overlay: Overlay) -> Loaded {
    let (bytes, mut found) = (compiled.bundle.clone(), Vec::new());
    let Ok(bundle) = Bundle::decode(bytes.clone()) else {
        return compile(bytes);
    };
    loaded(on_own_stack(move || {
        let draft = draft(&bundle, Some(&overlay), &mut found);
        let compiled = draft.filter(|_| !any_error(&found)).map(|draft| {
            let info = draft.info();
            draft.sealed(info, bytes)
        });
        finish(compiled, found)
    }))
}

/// The files of a revision, by path.
pub fn texts_of(compiled: &Compiled) -> Vec<(Arc<str>, Arc<str>)> {
    let bundle = Bundle::decode(&*compiled.bundle).unwrap_or_default();
    let files = bundle.files.into_iter();
    files.map(|f| (f.path.into(), f.text.into())).collect()
}

/// A folder without them is no repository; a bundle may come from elsewhere.
fn without_settings() -> Diagnostic {
    Diagnostic::error(codes::BUNDLE_BROKEN, "this is no policy bundle")
        .cause(format!("it has no `{}`", files::SETTINGS))
        .help("fetch it again; if it stays so, rebuild it from its repository")
}

fn unknown_features(bundle: &Bundle) -> Vec<Diagnostic> {
    let known = |f: &&String| !FEATURES.contains(&f.as_str());
    bundle
        .features
        .iter()
        .filter(known)
        .map(|feature| {
            Diagnostic::error(
                codes::FEATURE_UNKNOWN,
                format!("bundle needs the feature `{feature}`, which this build lacks"),
            )
            .cause("a feature that is not understood could be one that forbids")
            .help("upgrade this part before the policy repository uses the feature")
        })
        .collect()
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

impl Draft {
    fn info(&self) -> BTreeMap<SmolStr, PolicyInfo> {
        let read = self.parts.read.iter();
        read.map(|(id, read)| (id.clone(), read.info.clone()))
            .collect()
    }

    fn sealed(self, info: BTreeMap<SmolStr, PolicyInfo>, bundle: Bytes) -> Compiled {
        self.parted(info, bundle).0
    }

    /// The compiled repository, and what it leaves behind.
    fn parted(self, info: BTreeMap<SmolStr, PolicyInfo>, bundle: Bytes) -> (Compiled, Parts) {
        let compiled = Compiled {
            trust_domain: self.trust_domain,
            schema: self.schema,
            policies: self.policies,
            entities: self.entities,
            catalogue: self.catalogue,
            info,
            invariants: self.invariants,
            digest: Digest::of(&bundle),
            bundle,
        };
        (compiled, self.parts)
    }
}

/// Compiles the texts; goes on after a mistake as far as it makes sense.
fn draft(bundle: &Bundle, overlay: Option<&Overlay>, found: &mut Vec<Diagnostic>) -> Option<Draft> {
    let files = sources_of(bundle, found);
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
fn sources_of(bundle: &Bundle, found: &mut Vec<Diagnostic>) -> Vec<Source> {
    let total: usize = bundle.files.iter().map(|f| f.text.len()).sum();
    if bundle.files.len() > FILES_MAX || total > REPOSITORY_LEN_MAX {
        found.push(files::too_large(format!(
            "it has {} files of {total} bytes; the limits are {FILES_MAX} and {REPOSITORY_LEN_MAX}",
            bundle.files.len()
        )));
        return Vec::new();
    }
    let mut sources = Vec::with_capacity(bundle.files.len());
    for file in &bundle.files {
        match files::check_len(&file.path, file.text.len()) {
            Ok(()) => sources.push(Source::new(file.path.as_str(), file.text.as_str())),
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    sources
}

fn sources(info: &BTreeMap<SmolStr, PolicyInfo>) -> Vec<PolicySource> {
    let line = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let text = |text: &Option<SmolStr>| text.as_deref().unwrap_or_default().to_owned();
    info.values()
        .map(|info| PolicySource {
            policy_id: info.id.to_string(),
            file: info.file.to_string(),
            first_line: line(info.first_line),
            last_line: line(info.last_line),
            commit: text(&info.commit),
            author: text(&info.author),
        })
        .collect()
}

fn not_empty(text: &str) -> Option<SmolStr> {
    (!text.is_empty()).then(|| text.into())
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
