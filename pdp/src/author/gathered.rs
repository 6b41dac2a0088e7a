//! The texts of a repository, as they were read from folders, commits and bundles.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    wire::policy::{Bundle, Contribution, File, SignedBundle},
};
use prost::Message;

use super::{
    Contributor, Loaded, Provenance, Shared, any_error, codes, confusable, contributors, draft,
    files, finish, lint, loaded, on_own_stack, received,
};
use crate::{
    bundle::texts,
    compiled::{Absent, Compiled},
};

/// Why what is on no folder of this host is not there.
pub(crate) const NOT_ASKED: &str = "nobody was asked for it";

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
                own.lacks(&contributor, NOT_ASKED);
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

/// The files of a repository as they were read, not yet compiled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Texts {
    pub(crate) files: Vec<File>,
    pub(crate) git_revision: String,
    pub(crate) found: Vec<Diagnostic>,
    pub(crate) provenance: Provenance,
    pub(super) contributions: Vec<Contribution>,
    /// Names of the sources, the repository's own is empty, whose texts are in force as they are
    /// here.
    pub(crate) in_force: BTreeSet<String>,
    /// Sources that it lists and that were not read.
    pub(crate) absent: Vec<Absent>,
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

    /// Notes that a source is not among them, for it was not read.
    pub(crate) fn lacks(&mut self, contributor: &Contributor, why: &str) {
        self.absent.push(Absent {
            source: contributor.name.to_string(),
            place: contributor.written.clone(),
            why: why.to_owned(),
        });
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
        self.compile_with(None)
    }

    /// Compiles them, with what other compilations have worked out already.
    pub(crate) fn compile_with(self, shared: Option<Shared>) -> Loaded {
        if let Some(signed) = self.signed {
            return received(signed.bundle.clone(), None, shared);
        }
        let Self {
            files,
            git_revision,
            mut found,
            provenance,
            contributions,
            in_force,
            absent,
            ..
        } = self;
        found.extend(absent.iter().map(Absent::told));
        if files.is_empty() {
            return finish(None, found);
        }
        let mut loaded = loaded(on_own_stack(move || {
            let draft = draft(&files, None, shared.as_ref(), &mut found);
            // What is only compared becomes no revision by that; a base that has such a policy
            // must not keep its correction from being compared with it.
            if shared.is_none() {
                confusable::refuse(&files, &contributions, &in_force, &mut found);
                if let Some(draft) = &draft {
                    lint::impossible::refuse(draft, &mut found);
                }
            }
            let draft = draft.filter(|_| !any_error(&found));
            let sealed = draft.map(|mut draft| {
                draft.credit(&provenance);
                let seal = draft.assemble(files, git_revision, contributions)?;
                Ok(draft.sealed(seal))
            });
            match sealed.transpose() {
                Ok(compiled) => finish(compiled, found),
                Err(diagnostic) => finish(None, vec![diagnostic]),
            }
        }));
        if let Some(compiled) = &mut loaded.compiled {
            compiled.absent = absent;
        }
        loaded
    }
}
