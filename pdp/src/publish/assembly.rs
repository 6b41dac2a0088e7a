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
}

/// What one source has.
#[derive(Debug, Clone)]
pub(crate) struct Has {
    /// What is in force of it.
    pub(crate) good: Option<Arc<Texts>>,
    /// What it has instead.
    pub(crate) newest: Option<Arc<Texts>>,
}

impl Assembly {
    pub(crate) fn new(texts: BTreeMap<SmolStr, Has>) -> Self {
        Self { texts }
    }

    /// Names of those whose newest content is not in force.
    pub(crate) fn with_newest(&self) -> BTreeSet<SmolStr> {
        let newest = self.texts.iter().filter(|(_, has)| has.newest.is_some());
        newest.map(|(name, _)| name.clone()).collect()
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
        let mut texts = self.assemble_over(root, newest, without);
        if self.is_in_force("", newest) {
            texts.in_force.insert(String::new());
        }
        Some(texts)
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
                if self.is_in_force(name, newest) {
                    texts.in_force.insert(name.to_owned());
                }
            }
        }
        texts
    }

    /// Whether what is in force of a source is taken, and nothing newer.
    fn is_in_force(&self, name: &str, newest: &BTreeSet<SmolStr>) -> bool {
        let has = self.texts.get(name);
        has.is_some_and(|has| has.newest.is_none() || !newest.contains(name))
    }

    /// What a source has, or what of it is in force.
    fn of(&self, name: &str, newest: &BTreeSet<SmolStr>) -> Option<&Texts> {
        let has = self.texts.get(name)?;
        let new = has.newest.as_ref();
        let texts = new.filter(|_| newest.contains(name)).or(has.good.as_ref());
        texts.map(|texts| &**texts)
    }

    /// The sources whose files hold all of the errors in `found`, if each of them is that a
    /// source says more than it may.
    pub(crate) fn beyond_remit(&self, found: &[Diagnostic]) -> BTreeSet<SmolStr> {
        let errors = found.iter().filter(|d| d.is_error());
        let culprits: Option<BTreeSet<SmolStr>> = errors
            .map(|d| {
                let file = &d.location.as_ref()?.file;
                let (source, _) = files::source_of(file);
                let beyond = (codes::FOREIGN_SERVICE..=codes::FOREIGN_FILE).contains(&d.code.0);
                (beyond && self.texts.contains_key(source)).then(|| source.into())
            })
            .collect();
        culprits.unwrap_or_default()
    }

    /// What others have signed about the repository, as it is with those in `newest`.
    pub(crate) fn vouched(&self, newest: &BTreeSet<SmolStr>) -> Vouched {
        self.of("", newest).map(Vouched::of).unwrap_or_default()
    }
}
