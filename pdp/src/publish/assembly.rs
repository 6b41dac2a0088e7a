//! Putting together what the sources have: a copy of one moment, which can be looked at beside
//! the task that follows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use palisade_mesh::diagnostic::Diagnostic;
use smol_str::SmolStr;

use super::bundled::Vouched;
use crate::author::{Texts, codes, contributors, files};

/// What every source has, by name; the repository itself has none.
#[derive(Debug, Clone)]
pub(crate) struct Assembly {
    texts: BTreeMap<SmolStr, Has>,
    /// What the newest commit of the repository should have beside it, and lacks.
    lacks: Vec<Diagnostic>,
}

/// What one source has.
#[derive(Debug, Clone)]
pub(crate) struct Has {
    /// What is in force of it.
    pub(crate) good: Option<Arc<Texts>>,
    /// What it has instead, if it is followed by itself.
    pub(crate) newest: Option<Arc<Texts>>,
    /// What the newest commit of the repository has of it: chosen with the repository, or not
    /// at all.
    pub(crate) committed: Option<Arc<Texts>>,
    /// Whether that commit names another place for it, or other signers: what is new of the old
    /// ones is not taken with it.
    pub(crate) moves: bool,
}

impl Assembly {
    pub(crate) fn new(texts: BTreeMap<SmolStr, Has>, lacks: Vec<Diagnostic>) -> Self {
        Self { texts, lacks }
    }

    /// Names of those whose newest content is not in force; what a commit of the repository
    /// has goes by the repository's.
    pub(crate) fn with_newest(&self) -> BTreeSet<SmolStr> {
        let own = self.texts.iter().filter(|(_, has)| has.newest.is_some());
        let mut names: BTreeSet<_> = own.map(|(name, _)| name.clone()).collect();
        if self.texts.values().any(|has| has.committed.is_some()) {
            names.insert(SmolStr::default());
        }
        names
    }

    /// What keeps those in `newest` from being taken, whatever is in them: a commit that names
    /// what it does not have is no more whole than half of one.
    pub(crate) fn lacks(&self, newest: &BTreeSet<SmolStr>) -> &[Diagnostic] {
        if newest.contains("") {
            &self.lacks
        } else {
            &[]
        }
    }

    /// Whether these are the texts that the repository itself is known to have.
    pub(crate) fn is_known(&self, texts: &Texts) -> bool {
        let root = self.of("", &self.with_newest());
        root.is_some_and(|root| root.fingerprint() == texts.fingerprint())
    }

    /// The repository with all that contribute to it: of those in `newest` what they have
    /// now, of the others what is in force, of those in `without` nothing.
    pub(crate) fn assemble(
        &self,
        newest: &BTreeSet<SmolStr>,
        without: &BTreeSet<SmolStr>,
    ) -> Option<Texts> {
        let root = self.of("", newest)?;
        Some(self.assemble_over(root, newest, without))
    }

    /// As [`Assembly::assemble`], with `root` as the repository itself.
    pub(crate) fn assemble_over(
        &self,
        root: &Texts,
        newest: &BTreeSet<SmolStr>,
        without: &BTreeSet<SmolStr>,
    ) -> Texts {
        let mut texts = root.clone();
        if texts.signed.is_some() {
            return texts;
        }
        for contributor in contributors(root.settings(), Path::new("")) {
            let name = contributor.name.as_str();
            if let Some(other) = self.of(name, newest).filter(|_| !without.contains(name)) {
                texts.add(&contributor, other);
            }
        }
        texts
    }

    /// What a source has, or what of it is in force.
    fn of(&self, name: &str, newest: &BTreeSet<SmolStr>) -> Option<&Texts> {
        let has = self.texts.get(name)?;
        let committed = has.committed.as_ref().filter(|_| newest.contains(""));
        let is_own = newest.contains(name) && !(has.moves && newest.contains(""));
        let own = has.newest.as_ref().filter(|_| is_own);
        let texts = committed.or(own).or(has.good.as_ref());
        texts.map(|texts| &**texts)
    }

    /// The sources whose files hold all of the errors in `found`, if each of them is that a
    /// source says more than it may. One whose content is of the repository's commit is no such
    /// source: that commit could have mended it.
    pub(crate) fn beyond_remit(&self, found: &[Diagnostic]) -> BTreeSet<SmolStr> {
        let errors = found.iter().filter(|d| d.is_error());
        let culprits: Option<BTreeSet<SmolStr>> = errors
            .map(|d| {
                let file = &d.location.as_ref()?.file;
                let (source, _) = files::source_of(file);
                let beyond = (codes::FOREIGN_SERVICE..=codes::FOREIGN_FILE).contains(&d.code.0);
                let has = self.texts.get(source).filter(|has| has.committed.is_none());
                has.filter(|_| beyond).map(|_| source.into())
            })
            .collect();
        culprits.unwrap_or_default()
    }

    /// What others have signed about the repository, as it is with those in `newest`.
    pub(crate) fn vouched(&self, newest: &BTreeSet<SmolStr>) -> Vouched {
        self.of("", newest).map(Vouched::of).unwrap_or_default()
    }
}
