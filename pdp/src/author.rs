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

use std::{path::Path, sync::Arc, thread};

use bytes::Bytes;
use palisade_mesh::{
    diagnostic::Diagnostic,
    spiffe_id::SpiffeId,
    wire::policy::{Bundle, File},
};

use crate::{
    bundle::{self, Opened, proofs, scope::Concern, slice, texts},
    compiled::{Compiled, Coverage},
};

mod assemble;
pub(crate) mod cedar;
mod check;
pub mod codes;
mod confusable;
mod draft;
mod entities;
mod facts;
pub(crate) mod files;
pub mod fmt;
mod gathered;
mod impossible;
mod invariants;
mod kin;
mod known;
pub mod lint;
mod mask;
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
mod shared;
mod store;
pub mod suggest;
pub mod tests;
mod yaml;

pub use mask::MASK_FIELDS_MAX;
pub use nesting::{BRACKETS_MAX, OPERATORS_MAX};
pub use places::Places;
pub use policies::{ID_LEN_MAX, MESSAGE_LEN_MAX};
pub use question::{Ask, OwnedQuestion, principal, question, request, service_meant};
pub use schema::generated as generated_schema;
pub use services::{NAME_LEN_MAX, OPERATIONS_MAX};
pub use settings::{
    TIMEOUT_DEFAULT, TIMEOUT_MAX,
    sources::{Contributor, SOURCES_MAX, contributors},
};
pub use shared::Shared;

pub(crate) use gathered::{Gathered, NOT_ASKED, Texts};
pub(crate) use provenance::Provenance;
pub(crate) use settings::trust_domain;
pub(crate) use store::uid;

use draft::{Draft, Parts, Seal, draft};
use entities::Overlay;

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

impl Loaded {
    /// Nothing that compiles, and why.
    pub(crate) fn refused(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            compiled: None,
            diagnostics,
        }
    }
}

/// Loads the repository in `dir`: reads its files, and those of the sources that it lists
/// in folders, and compiles them.
///
/// Blocks on disk and CPU; call it outside an async worker.
pub fn load(dir: &Path) -> Loaded {
    Gathered::read(dir).together().compile()
}

/// Loads the repository in `dir` as [`load`] does, with what other compilations that were
/// given `shared` have worked out already.
///
/// Blocks on disk and CPU; call it outside an async worker.
pub fn load_with(dir: &Path, shared: &Shared) -> Loaded {
    let texts = Gathered::read(dir).together();
    texts.compile_with(Some(shared.clone()))
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

/// Compiles an encoded [`Bundle`], which must be whole, without touching a disk.
///
/// Blocks on CPU; call it outside an async worker.
pub fn compile(bytes: Bytes) -> Loaded {
    received(bytes, Of::Taken)
}

/// Compiles an encoded [`Bundle`] as [`compile`] does, for a revision that is to be made of it:
/// what shows one thing and is another is an error then.
///
/// Blocks on CPU; call it outside an async worker.
pub(crate) fn compile_new(bytes: Bytes) -> Loaded {
    received(bytes, Of::New)
}

/// Compiles an encoded [`Bundle`] as [`compile`] does, with what other compilations that were
/// given `shared` have worked out already.
///
/// Blocks on CPU; call it outside an async worker.
pub fn compile_with(bytes: Bytes, shared: &Shared) -> Loaded {
    received(bytes, Of::Compared(shared.clone()))
}

/// Compiles what a PDP sent to the proxy `own`: a bundle, whole or with those policies
/// left out that cannot concern requests for the service that `own` is.
///
/// Blocks on CPU; call it outside an async worker.
pub fn compile_slice(bytes: Bytes, own: &SpiffeId) -> Loaded {
    received(bytes, Of::Sent(own.clone()))
}

/// What a bundle is compiled for.
enum Of {
    /// It is in force, or was.
    Taken,
    /// A PDP sent it to the proxy with this identity.
    Sent(SpiffeId),
    /// It is compared with others, of which this is known.
    Compared(Shared),
    /// Nobody has signed it, and a revision is to be made of it.
    New,
    /// A revision is to be made of it as it was signed.
    Signed,
}

impl Of {
    /// Tells what no revision is made of.
    fn refuse(&self, files: &[File], bundle: &Bundle, found: &mut Vec<Diagnostic>) {
        match self {
            Self::New => confusable::refuse(files, &bundle.contributions, found),
            Self::Signed => confusable::strict(found),
            Self::Taken | Self::Sent(_) | Self::Compared(_) => {}
        }
    }
}

fn received(bytes: Bytes, of: Of) -> Loaded {
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
        let (own, shared) = match &of {
            Of::Sent(own) => (Some(own), None),
            Of::Compared(shared) => (None, Some(shared)),
            Of::Taken | Of::New | Of::Signed => (None, None),
        };
        let mut draft = draft(&files, None, shared, &mut found);
        of.refuse(&files, &bundle, &mut found);
        found.extend(proofs::of_the_format_before(&bundle));
        let mut coverage = Coverage::Whole;
        if let Some(draft) = draft.as_mut().filter(|_| !any_error(&found)) {
            let fit = assemble::fit(&bundle, draft).map_err(|cause| {
                Diagnostic::error(codes::BUNDLE_BROKEN, "bundle contradicts itself").cause(cause)
            });
            match fit.and_then(|()| covered(&bundle, draft, own)) {
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
        let draft = draft(&files, Some(&overlay), None, &mut found);
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

fn any_error(found: &[Diagnostic]) -> bool {
    found.iter().any(Diagnostic::is_error)
}

fn errors_in(found: &[Diagnostic]) -> usize {
    found.iter().filter(|d| d.is_error()).count()
}

fn finish(compiled: Option<Compiled>, mut found: Vec<Diagnostic>) -> Loaded {
    found.sort_by(|a, b| place(a).cmp(&place(b)));
    if found.len() > DIAGNOSTICS_MAX {
        // Errors first; the order within each of the two stays.
        found.sort_by_key(|d| !d.is_error());
        let rest = found.split_off(DIAGNOSTICS_MAX);
        let message = format!("{} more mistakes are not told", rest.len());
        let more = match any_error(&rest) {
            true => Diagnostic::error(codes::MORE, message),
            false => Diagnostic::warning(codes::MORE, message),
        };
        found.sort_by(|a, b| place(a).cmp(&place(b)));
        found.push(more.help("mend those above first"));
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
