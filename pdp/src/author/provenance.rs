//! Who last changed which policy: commit and author, where the source knows them.

use std::{collections::BTreeMap, sync::Arc};

use palisade_mesh::wire::policy::{Bundle, PolicyText};
use smol_str::SmolStr;

use super::files;
use crate::compiled::PolicyInfo;

/// Longest author that is kept, in characters.
const AUTHOR_LEN_MAX: usize = 200;

/// A commit and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) commit: SmolStr,
    pub(crate) author: SmolStr,
    /// When it was committed, seconds since the Unix epoch.
    pub(crate) time_s: i64,
}

/// The last change of each line of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Every change that a line names.
    pub(crate) changes: Vec<Change>,
    /// For each line, which of them.
    pub(crate) of_line: Vec<usize>,
}

/// What is known about the policies of a source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provenance {
    files: BTreeMap<String, Arc<Lines>>,
    policies: BTreeMap<SmolStr, (String, Change)>,
}

impl Provenance {
    /// Of the policies of a bundle that was compiled before.
    pub(crate) fn of_bundle(bundle: &Bundle) -> Self {
        let policies = bundle.groups.iter().flat_map(|g| &g.policies);
        let known = policies.filter(|p| files::is_commit(&p.commit));
        let change = |p: &PolicyText| Change {
            commit: p.commit.as_str().into(),
            author: author(&p.author, ""),
            time_s: 0,
        };
        Self {
            files: BTreeMap::new(),
            policies: known
                .map(|p| (p.policy_id.as_str().into(), (p.file.clone(), change(p))))
                .collect(),
        }
    }

    /// What of it is about the files of one source of a bundle.
    pub(crate) fn of_source(&self, source: &str) -> Self {
        let own = self.policies.iter();
        let own = own.filter_map(|(id, (file, change))| {
            let (of, path) = files::source_of(file);
            (of == source).then(|| (id.clone(), (path.to_owned(), change.clone())))
        });
        Self {
            files: BTreeMap::new(),
            policies: own.collect(),
        }
    }

    /// Adds the lines of `file`.
    pub(crate) fn insert(&mut self, file: String, lines: Arc<Lines>) {
        self.files.insert(file, lines);
    }

    /// Adds what another source knows, its files under `prefix`.
    pub(crate) fn merge(&mut self, prefix: &str, other: &Self) {
        let files = other.files.iter();
        self.files
            .extend(files.map(|(file, lines)| (format!("{prefix}{file}"), lines.clone())));
        let policies = other.policies.iter();
        self.policies.extend(
            policies.map(|(id, (file, change))| {
                (id.clone(), (format!("{prefix}{file}"), change.clone()))
            }),
        );
    }

    /// The last change of any line of the policy.
    pub(crate) fn of(&self, info: &PolicyInfo) -> Option<&Change> {
        let Some(lines) = self.files.get(&*info.file) else {
            // One source knows nothing of another's policies, whatever it calls its own.
            let known = self.policies.get(&info.id);
            let known = known.filter(|(file, _)| **file == *info.file);
            return known.map(|(_, change)| change);
        };
        let own = lines.of_line.get(info.first_line - 1..info.last_line)?;
        let changes = own.iter().filter_map(|i| lines.changes.get(*i));
        changes.max_by(|a, b| (a.time_s, &a.commit).cmp(&(b.time_s, &b.commit)))
    }
}

/// An author as it can be kept and shown.
pub(crate) fn author(name: &str, mail: &str) -> SmolStr {
    let whole = format!("{name} {mail}");
    let shown = whole.trim().chars().filter(|c| !c.is_control());
    shown.take(AUTHOR_LEN_MAX).collect::<String>().into()
}
