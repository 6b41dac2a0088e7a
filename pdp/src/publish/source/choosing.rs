//! Which of the newest content is taken: all of it, or what is good of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use palisade_mesh::diagnostic::Diagnostic;
use smol_str::SmolStr;
use tokio::task::spawn_blocking;

use super::Source;
use crate::{
    author::{self, Texts},
    publish::{
        assembly::Assembly,
        proving::{Prove, Tried, proved},
    },
};

/// What became of the newest content of the sources.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) tried: Option<Tried>,
    /// Whose newest content is in it.
    pub(super) taken: BTreeSet<SmolStr>,
    /// Of whom nothing is in it any more.
    pub(super) left_out: BTreeSet<SmolStr>,
    pub(super) refused: BTreeMap<SmolStr, Vec<Diagnostic>>,
}

impl Outcome {
    fn with(&self, name: &SmolStr) -> BTreeSet<SmolStr> {
        let mut with = self.taken.clone();
        with.insert(name.clone());
        with
    }

    /// Whose content is not tried together with the newest of `name`.
    fn without(&self, name: &SmolStr) -> BTreeSet<SmolStr> {
        let others = self.left_out.iter().filter(|other| *other != name);
        others.cloned().collect()
    }

    fn take(&mut self, tried: Tried, with: BTreeSet<SmolStr>) {
        self.tried = Some(tried);
        self.left_out.retain(|name| !with.contains(name));
        self.refused.retain(|name, _| !with.contains(name));
        self.taken = with;
    }
}

/// What finds out; it needs nothing of the task that owns the source, which goes on meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Chooser {
    assembly: Assembly,
    prove: Option<Arc<dyn Prove>>,
}

impl Source {
    /// What finds out about what the sources have now.
    pub(super) fn chooser(&self) -> Chooser {
        Chooser {
            assembly: self.parts.assembly(),
            prove: self.prove.clone(),
        }
    }
}

impl Chooser {
    /// Looks for the most of `pending` that is good together: all of it, or else one source
    /// after the other, the repository itself first. What one commit of the repository has is
    /// never taken apart: a `forbid` that it moves would be in neither place.
    pub(super) async fn choose(self, pending: BTreeSet<SmolStr>) -> Outcome {
        let mut outcome = Outcome::default();
        let all = self.compile(&pending, &outcome.left_out).await;
        if all.loaded.compiled.is_some() {
            outcome.take(all, pending);
            return outcome;
        }
        if let (1, Some(only)) = (pending.len(), pending.first()) {
            self.judge(only, all, &mut outcome).await;
            return outcome;
        }
        loop {
            let before = outcome.taken.len();
            for name in &pending {
                if !outcome.taken.contains(name) {
                    let with = outcome.with(name);
                    let tried = self.compile(&with, &outcome.without(name)).await;
                    self.judge(name, tried, &mut outcome).await;
                }
            }
            if outcome.taken.len() == before || outcome.taken.len() == pending.len() {
                return outcome;
            }
        }
    }

    /// Takes the newest content of `name`, or refuses it, by what came of it together with
    /// what was taken before.
    async fn judge(&self, name: &SmolStr, tried: Tried, outcome: &mut Outcome) {
        let with = outcome.with(name);
        if tried.loaded.compiled.is_some() {
            return outcome.take(tried, with);
        }
        let loaded = tried.loaded;
        // What a source may say is the repository's to decide: where it says less than
        // before, a source that says too much cannot hold it up.
        let beyond = match name.is_empty() {
            true => self.assembly.beyond_remit(&loaded.diagnostics),
            false => BTreeSet::new(),
        };
        if !beyond.is_empty() {
            let narrowed = self.compile(&with, &beyond).await;
            if narrowed.loaded.compiled.is_some() {
                outcome.take(narrowed, with);
                for source in beyond {
                    let found = of_source(&loaded.diagnostics, &source);
                    outcome.taken.remove(&source);
                    outcome.refused.insert(source.clone(), found);
                    outcome.left_out.insert(source);
                }
                return;
            }
        }
        if !loaded.diagnostics.is_empty() {
            outcome.refused.insert(name.clone(), loaded.diagnostics);
        }
    }

    async fn compile(&self, newest: &BTreeSet<SmolStr>, without: &BTreeSet<SmolStr>) -> Tried {
        let lacks = self.assembly.lacks(newest);
        if !lacks.is_empty() {
            return Tried::refused(lacks.to_vec());
        }
        let Some(texts) = self.assembly.assemble(newest, without) else {
            return Tried::default();
        };
        self.load(texts).await
    }

    /// Compiles texts, and has their invariants proved where nobody else could have.
    async fn load(&self, texts: Texts) -> Tried {
        let prover = self.prove.clone().filter(|_| texts.signed.is_none());
        let loading = spawn_blocking(move || proved(texts.compile(), prover.as_deref()));
        loading.await.unwrap_or_default()
    }

    /// The same of a bundle that nobody has signed.
    pub(super) async fn load_bundle(&self, bundle: Bytes) -> Tried {
        let prover = self.prove.clone();
        let loading =
            spawn_blocking(move || proved(author::compile_new(bundle), prover.as_deref()));
        loading.await.unwrap_or_default()
    }

    /// The same of all that the sources have, put together; a folder is read anew.
    pub(super) async fn load_newest(&self, folder: Option<PathBuf>) -> Tried {
        let (newest, none) = (self.assembly.with_newest(), BTreeSet::new());
        if let Some(dir) = folder
            && let Ok(fresh) = spawn_blocking(move || Texts::read(&dir)).await
            && !self.assembly.is_known(&fresh)
        {
            let texts = self.assembly.assemble_over(&fresh, &newest, &none);
            return self.load(texts).await;
        }
        self.compile(&newest, &none).await
    }
}

/// Those that are about files of `source`.
fn of_source(found: &[Diagnostic], source: &str) -> Vec<Diagnostic> {
    let own = |d: &&Diagnostic| {
        let at = d.location.as_ref();
        at.is_some_and(|at| author::files::source_of(&at.file).0 == source)
    };
    found.iter().filter(own).cloned().collect()
}
