//! The sources of a repository, and what is known of each: what it has, what of it is in
//! force, what is wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    place::SILENCE,
    wire::policy::{File, Release, Revision, SignedBundle},
};
use smol_str::SmolStr;
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    assembly::{Assembly, Has},
    compose::unheard,
    listed::{Comes, Listed, listed},
    origin::{Given, Origin, Word},
    source::SourceConfig,
};
use crate::{
    author::{Contributor, Texts, files},
    compiled::Compiled,
};

/// How a source stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name; empty for the repository itself.
    pub name: String,
    /// Where it is.
    pub place: String,
    /// The revision that it has, as it last said.
    pub wanted: String,
    /// The revision of it that is in force; empty when there is none.
    pub has: String,
    /// Since when, microseconds since the Unix epoch.
    pub since_us: Option<i64>,
    /// When it last answered, microseconds since the Unix epoch.
    pub heard_us: Option<i64>,
    /// When it counts as silent, if it does not answer before; no clock that jumps moves it.
    pub silent_at: Instant,
    /// What keeps it from being read.
    pub fault: Option<Fault>,
    /// What keeps its newest revision from being put in force.
    pub refused: Option<Fault>,
    /// The revision before the one that it has, where that does not follow it.
    pub rewritten: Option<String>,
    /// Who signed what it has.
    pub signer: Option<String>,
}

/// Something that is wrong with a source.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What.
    pub diagnostics: Vec<Diagnostic>,
    /// Since when, microseconds since the Unix epoch.
    pub since_us: i64,
}

/// Every source, by name; the repository itself has none.
#[derive(Debug)]
pub(crate) struct Parts {
    config: SourceConfig,
    words: mpsc::Sender<Word>,
    clock: Clock,
    parts: BTreeMap<SmolStr, Part>,
    /// What the newest commit of the repository has beside it, by source.
    beside: BTreeMap<SmolStr, Result<Given, Diagnostic>>,
    /// How many origins there were.
    origins: u64,
}

#[derive(Debug)]
struct Part {
    contributor: Option<Contributor>,
    /// Whether its content comes with the repository's.
    with_repository: bool,
    /// What is in force of it.
    good: Option<Arc<Texts>>,
    /// What it has instead; judged already where it was refused.
    newest: Option<(Arc<Texts>, String)>,
    /// Whether `newest` is to be judged.
    fresh: bool,
    spoke: bool,
    poll: Duration,
    standing: Standing,
    /// Who follows it, and by which number its words are known.
    task: Option<(u64, AbortHandle)>,
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.task {
            task.abort();
        }
    }
}

impl Parts {
    /// Begins to follow the repository itself.
    ///
    /// # Errors
    /// When it cannot be followed at all.
    pub(crate) fn new(
        config: SourceConfig,
        words: mpsc::Sender<Word>,
        clock: Clock,
    ) -> Result<Self, Diagnostic> {
        let mut parts = Self {
            config,
            words,
            clock,
            parts: BTreeMap::new(),
            beside: BTreeMap::new(),
            origins: 0,
        };
        let mut part = parts.part(None);
        part.task = Some(parts.begin(None)?);
        parts.parts.insert(SmolStr::default(), part);
        Ok(parts)
    }

    /// Takes note of what a source said. What it was followed by before may have spoken last,
    /// of another place or by other signers: that is not heard.
    pub(crate) fn hear(&mut self, mut word: Word) {
        let part = self.parts.get(&word.name);
        let follower = part.and_then(|part| part.task.as_ref());
        if follower.is_none_or(|(origin, _)| *origin != word.origin) {
            return;
        }
        if !word.name.is_empty() {
            return self.note(word);
        }
        let given = word.given.as_mut().ok().and_then(Option::as_mut);
        let beside = given.map(Given::beside);
        let (wanted, fault) = (word.wanted.clone(), word.given.as_ref().err().cloned());
        self.note(word);
        match beside {
            Some(beside) => {
                self.beside = beside;
                self.give_beside();
            }
            None => self.heard_beside(wanted.as_deref(), fault),
        }
    }

    /// Gives the sources beside the repository what its newest commit has of them, and nothing
    /// of an older one. One that is followed elsewhere goes on so until that commit is in force.
    fn give_beside(&mut self) {
        for part in self.parts.values_mut().filter(|part| part.with_repository) {
            part.newest = None;
            part.standing.refused = None;
        }
        for Listed { contributor, comes } in self.newly_listed() {
            let Some(given) = self.beside.get(&contributor.name).cloned() else {
                continue;
            };
            let known = self.parts.get(&contributor.name);
            if !comes.is_with_repository() || known.is_some_and(|part| !part.with_repository) {
                continue;
            }
            if known.is_none() {
                let part = self.part_of(&contributor, &comes);
                self.parts.insert(contributor.name.clone(), part);
            }
            self.note(Word::of_beside(&contributor.name, given));
        }
    }

    /// What the repository's newest content lists, while that is not in force.
    fn newly_listed(&self) -> Vec<Listed> {
        let root = self.parts.get("").and_then(|part| part.newest.as_ref());
        let named = root.map(|(texts, _)| listed(texts.settings(), &self.config));
        named.unwrap_or_default()
    }

    /// The repository has nothing new, or cannot be read, and so nobody beside it.
    fn heard_beside(&mut self, wanted: Option<&str>, fault: Option<Diagnostic>) {
        let beside = self.parts.iter().filter(|(_, part)| part.with_repository);
        let names: Vec<SmolStr> = beside.map(|(name, _)| name.clone()).collect();
        for name in names {
            let lacks = || self.beside.get(&name).and_then(|given| given.clone().err());
            let fault = fault.clone().or_else(lacks);
            self.note(Word {
                name,
                origin: 0,
                wanted: wanted.map(str::to_owned),
                given: fault.map_or(Ok(None), Err),
            });
        }
    }

    fn note(&mut self, word: Word) {
        let now_us = self.clock.now_us();
        let Some(part) = self.parts.get_mut(&word.name) else {
            return;
        };
        part.spoke = true;
        let standing = &mut part.standing;
        if word.wanted.is_some() || word.given.is_ok() {
            standing.heard_us = Some(now_us);
            standing.silent_at = Instant::now() + part.poll + SILENCE;
        }
        if let Some(wanted) = word.wanted {
            standing.wanted = wanted;
        }
        let since_us = standing.fault.as_ref().map_or(now_us, |f| f.since_us);
        standing.fault = None;
        match word.given {
            Ok(None) => {}
            Ok(Some(given)) => part.give(given),
            Err(diagnostic) => {
                if since_us == now_us {
                    tracing::warn!(source = %word.name, %diagnostic, "policy source cannot be read");
                }
                standing.fault = Some(Fault {
                    diagnostics: vec![diagnostic],
                    since_us,
                });
            }
        }
    }

    /// Whether every source has said something.
    pub(crate) fn all_spoke(&self) -> bool {
        self.parts.values().all(|p| p.spoke)
    }

    /// What keeps those from being read that have no content at all.
    pub(crate) fn absent(&self) -> Vec<Diagnostic> {
        let absent = self.parts.values().filter(|p| p.newest.is_none());
        absent
            .flat_map(|part| match &part.standing.fault {
                Some(fault) => fault.diagnostics.clone(),
                None => vec![unheard(&part.standing.place)],
            })
            .collect()
    }

    /// Names of those whose newest content is not in force, when any of it is yet to be
    /// judged: what was refused may be good beside what is new. What a commit of the repository
    /// has goes by the repository's name.
    pub(crate) fn pending(&self) -> BTreeSet<SmolStr> {
        if !self.parts.values().any(|p| p.fresh) {
            return BTreeSet::new();
        }
        self.assembly().with_newest()
    }

    /// What every source has now.
    pub(crate) fn assembly(&self) -> Assembly {
        let listed = self.newly_listed();
        let (mut committed, moving) = (self.committed(&listed), self.moving(&listed));
        let mut has = |name: &SmolStr, part: &Part| {
            let newest = part.newest.as_ref().filter(|_| !part.with_repository);
            Has {
                good: part.good.clone(),
                newest: newest.map(|(texts, _)| texts.clone()),
                committed: committed.remove(name).map(|(texts, _)| texts),
                moves: moving.contains(name),
            }
        };
        let texts = self.parts.iter();
        let texts = texts.map(|(name, part)| (name.clone(), has(name, part)));
        Assembly::new(texts.collect(), self.lacks(listed))
    }

    /// What the newest commit of the repository has beside it, by source, while it is not in
    /// force: also of one that is followed elsewhere until then.
    fn committed(&self, listed: &[Listed]) -> BTreeMap<SmolStr, (Arc<Texts>, String)> {
        let beside = self.parts.iter().filter(|(_, part)| part.with_repository);
        let beside = beside.filter_map(|(name, part)| Some((name.clone(), part.newest.clone()?)));
        let mut committed: BTreeMap<_, _> = beside.collect();
        for Listed { contributor, comes } in listed {
            let given = self.beside.get(&contributor.name);
            if let Some(Ok(given)) = given.filter(|_| comes.is_with_repository()) {
                let new = || (Arc::new(given.texts.clone()), given.revision.clone());
                committed
                    .entry(contributor.name.clone())
                    .or_insert_with(new);
            }
        }
        committed
    }

    /// Sources that are followed elsewhere than the newest commit of the repository lists them, or
    /// by other signers.
    fn moving(&self, listed: &[Listed]) -> BTreeSet<SmolStr> {
        let moving = listed.iter().filter(|Listed { contributor, .. }| {
            let part = self.parts.get(&contributor.name);
            part.is_some_and(|part| !part.with_repository && !part.is_of(contributor))
        });
        moving
            .map(|listed| listed.contributor.name.clone())
            .collect()
    }

    /// What the newest commit of the repository names beside it, and does not have.
    fn lacks(&self, listed: Vec<Listed>) -> Vec<Diagnostic> {
        let lacks = listed
            .into_iter()
            .filter_map(|Listed { contributor, comes }| match comes {
                Comes::ByItself => None,
                Comes::WithRepository => self.beside.get(&contributor.name)?.clone().err(),
                Comes::Never(why) => Some(why),
            });
        lacks.collect()
    }

    /// Notes whose newest content is in force now, and of whom nothing is.
    pub(crate) fn take(
        &mut self,
        taken: &BTreeSet<SmolStr>,
        left_out: &BTreeSet<SmolStr>,
        now_us: i64,
    ) {
        let (mut committed, moving) = match taken.contains("") {
            true => {
                let listed = self.newly_listed();
                (self.committed(&listed), self.moving(&listed))
            }
            false => (BTreeMap::new(), BTreeSet::new()),
        };
        for (name, part) in &mut self.parts {
            part.fresh = false;
            if let Some(new) = committed.remove(name) {
                part.newest = None;
                part.put_in_force(new, now_us);
            } else if taken.contains(name)
                && let Some(new) = part.newest.take()
                && !moving.contains(name)
            {
                part.put_in_force(new, now_us);
            }
            if left_out.contains(name) {
                part.newest = part.newest.take().or_else(|| {
                    let has = part.standing.has.clone();
                    part.good.clone().map(|texts| (texts, has))
                });
                part.good = None;
                part.standing.has.clear();
                part.standing.since_us = None;
            }
            // Nothing is left to be refused.
            if part.newest.is_none() {
                part.standing.refused = None;
            }
        }
    }

    /// Notes what was refused. What keeps the repository's commit from being taken keeps what
    /// it has of others, too.
    pub(crate) fn refuse(&mut self, refused: BTreeMap<SmolStr, Vec<Diagnostic>>, now_us: i64) {
        for (name, diagnostics) in refused {
            if name.is_empty() {
                let beside = self.parts.values_mut().filter(|part| part.with_repository);
                let waiting = beside.filter(|part| part.newest.is_some());
                waiting.for_each(|part| part.refuse(diagnostics.clone(), now_us));
            }
            if let Some(part) = self.parts.get_mut(&name) {
                part.refuse(diagnostics, now_us);
            }
        }
    }

    /// Has everything that is not in force judged again with the next word.
    pub(crate) fn try_again(&mut self) {
        let pending = self.parts.values_mut().filter(|p| p.newest.is_some());
        pending.for_each(|p| p.fresh = true);
    }

    /// Has everything judged again with the next word, also what is in force.
    pub(crate) fn judge_again(&mut self) {
        for part in self.parts.values_mut() {
            let again = part.good.clone().map(|t| (t, part.standing.has.clone()));
            part.newest = part.newest.take().or(again);
            part.fresh = part.newest.is_some();
        }
    }

    /// Everything that keeps newest content from being put in force, the repository's first.
    pub(crate) fn refused(&self) -> Vec<Diagnostic> {
        let own = self.parts.values().filter(|part| !part.with_repository);
        let refused = own.filter_map(|part| part.standing.refused.as_ref());
        refused
            .flat_map(|f| f.diagnostics.iter().cloned())
            .collect()
    }

    /// Follows those that the repository lists, and no others.
    pub(crate) fn follow(&mut self) {
        let Some(root) = self.parts.get("") else {
            return;
        };
        let newest = root.newest.as_ref().map(|(texts, _)| texts);
        let Some(texts) = root.good.as_ref().or(newest) else {
            return;
        };
        let listed = listed(texts.settings(), &self.config);
        let named = |name: &SmolStr| listed.iter().any(|l| l.contributor.name == *name);
        // What the newest commit names beside it is judged with it.
        let beside = &self.beside;
        self.parts.retain(|name, part| {
            let is_judged = part.with_repository && beside.contains_key(name);
            name.is_empty() || named(name) || is_judged
        });
        for Listed { contributor, comes } in listed {
            let known = self.parts.get(&contributor.name);
            let is_followed = known.is_some_and(|part| {
                let is_had = part.task.is_some() || part.with_repository;
                is_had && part.is_of(&contributor)
            });
            if is_followed {
                continue;
            }
            let mut part = self.part_of(&contributor, &comes);
            if let Some(known) = self.parts.get_mut(&contributor.name) {
                part.good = known.good.take();
                part.standing.has = std::mem::take(&mut known.standing.has);
                part.standing.since_us = known.standing.since_us;
            }
            // The one before ends first: both would write in one folder.
            self.parts.remove(&contributor.name);
            let begun = match comes {
                Comes::ByItself => self.begin(Some(&contributor)).map(Some),
                Comes::WithRepository => Ok(None),
                Comes::Never(why) => Err(why),
            };
            match begun {
                Ok(Some(task)) => part.task = Some(task),
                Ok(None) => {}
                Err(diagnostic) => {
                    part.spoke = true;
                    part.standing.fault = Some(Fault {
                        diagnostics: vec![diagnostic],
                        since_us: self.clock.now_us(),
                    });
                }
            }
            let with_repository = part.with_repository;
            self.parts.insert(contributor.name.clone(), part);
            let given = self.beside.get(&contributor.name).cloned();
            if let Some(given) = given.filter(|_| with_repository) {
                self.give_followed(&contributor.name, given);
            }
        }
    }

    /// Gives a source that comes with the repository from now on what its commit has of it, which
    /// may be in force with that commit already.
    fn give_followed(&mut self, name: &SmolStr, given: Result<Given, Diagnostic>) {
        let mut word = Word::of_beside(name, given);
        let has = self.parts.get(name).map(|part| &part.standing.has);
        if has.is_some_and(|has| word.wanted.as_ref() == Some(has)) {
            word.given = Ok(None);
        }
        self.note(word);
    }

    /// Takes what is in force from a revision that was kept.
    pub(crate) fn restore(&mut self, compiled: &Compiled, revision: &Revision) {
        if self.config.place.is_bundle() {
            return self.restore_whole(compiled, revision);
        }
        let since_us = revision.issued_us;
        let Some(kept) = Texts::of_compiled(compiled) else {
            return;
        };
        let mut of_source: BTreeMap<&str, Vec<File>> = BTreeMap::new();
        for file in &kept.files {
            let (source, path) = files::source_of(&file.path);
            of_source.entry(source).or_default().push(File {
                path: path.to_owned(),
                text: file.text.clone(),
            });
        }
        let provenance = &kept.provenance;
        let texts = |source: &str, revision: &str, files: Vec<File>| {
            let mut texts = Texts::of(revision.to_owned(), files, Vec::new());
            texts.provenance = provenance.of_source(source);
            Arc::new(texts)
        };
        let root = of_source.remove("").unwrap_or_default();
        if let Some(part) = self.parts.get_mut("") {
            part.good = Some(texts("", &kept.git_revision, root));
            part.restored(&kept.git_revision, since_us);
        }
        let named = listed(kept.settings(), &self.config);
        for contribution in kept.contributions() {
            let name = contribution.name.as_str();
            let Some(listed) = named.iter().find(|l| l.contributor.name == name) else {
                continue;
            };
            let contributor = &listed.contributor;
            let files = of_source.remove(name).unwrap_or_default();
            let mut part = self.part_of(contributor, &listed.comes);
            part.good = Some(texts(name, &contribution.git_revision, files));
            part.restored(&contribution.git_revision, since_us);
            self.parts.insert(name.into(), part);
        }
        self.follow();
    }

    fn restore_whole(&mut self, compiled: &Compiled, revision: &Revision) {
        if let Some(part) = self.parts.get_mut("") {
            let signed = SignedBundle {
                bundle: revision.bundle.clone(),
                content_signatures: revision.content_signatures.clone(),
                release: Some(Release {
                    sequence: revision.sequence,
                    issued_us: revision.issued_us,
                    signatures: revision.release_signatures.clone(),
                    way_back: revision.way_back.clone(),
                }),
                stamp: revision.stamp.clone(),
                attestation: revision.attestation.clone(),
            };
            part.good = Some(Arc::new(Texts::whole(signed)));
            part.restored(&compiled.digest.short(), revision.issued_us);
        }
    }

    /// How each stands, the repository itself first.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        self.parts.values().map(|p| p.standing.clone()).collect()
    }

    fn part(&self, contributor: Option<&Contributor>) -> Part {
        let place = contributor.map_or(&self.config.place, |c| &c.place);
        Part {
            contributor: contributor.cloned(),
            with_repository: false,
            good: None,
            newest: None,
            fresh: false,
            spoke: false,
            poll: place.poll,
            standing: Standing {
                name: contributor.map_or_else(String::new, |c| c.name.to_string()),
                place: place.to_string(),
                wanted: String::new(),
                has: String::new(),
                since_us: None,
                heard_us: None,
                silent_at: Instant::now() + place.poll + SILENCE,
                fault: None,
                refused: None,
                rewritten: None,
                signer: None,
            },
            task: None,
        }
    }

    /// A source that the repository lists. One that comes with it says nothing by itself.
    fn part_of(&self, contributor: &Contributor, comes: &Comes) -> Part {
        let mut part = self.part(Some(contributor));
        part.with_repository = comes.is_with_repository();
        part.spoke = part.with_repository;
        part
    }

    fn begin(
        &mut self,
        contributor: Option<&Contributor>,
    ) -> Result<(u64, AbortHandle), Diagnostic> {
        let name = contributor.map_or_else(SmolStr::default, |c| c.name.clone());
        let place = contributor.map_or(&self.config.place, |c| &c.place);
        let own = contributor.and_then(Contributor::signers);
        let signers = match contributor {
            Some(_) => own.as_deref(),
            None => self.config.signers.as_deref(),
        };
        let folder = if name.is_empty() {
            "repository"
        } else {
            "contributed"
        };
        let home = self
            .config
            .state_dir
            .join("sources")
            .join(folder)
            .join(&*name);
        let origin = Origin::new(name, place, signers, home, &self.config)?;
        self.origins += 1;
        let following = origin.follow(self.origins, self.words.clone());
        Ok((self.origins, tokio::spawn(following).abort_handle()))
    }
}

impl Part {
    fn give(&mut self, given: Given) {
        self.standing.wanted.clone_from(&given.revision);
        self.standing.rewritten = given.rewritten;
        self.standing.signer = given.signer;
        self.newest = Some((Arc::new(given.texts), given.revision));
        self.fresh = true;
    }

    /// Whether it is followed as `contributor` is listed.
    fn is_of(&self, contributor: &Contributor) -> bool {
        let known = self.contributor.as_ref();
        known.is_some_and(|k| k.place == contributor.place && k.signers == contributor.signers)
    }

    fn put_in_force(&mut self, (texts, revision): (Arc<Texts>, String), now_us: i64) {
        self.good = Some(texts);
        self.standing.refused = None;
        if self.standing.has != revision {
            self.standing.has = revision;
            self.standing.since_us = Some(now_us);
        }
    }

    fn refuse(&mut self, diagnostics: Vec<Diagnostic>, now_us: i64) {
        let known = self.standing.refused.as_ref();
        let same = known.filter(|f| f.diagnostics == diagnostics);
        self.standing.refused = Some(Fault {
            since_us: same.map_or(now_us, |f| f.since_us),
            diagnostics,
        });
    }

    fn restored(&mut self, revision: &str, since_us: i64) {
        revision.clone_into(&mut self.standing.has);
        self.standing.since_us = Some(since_us);
    }
}
