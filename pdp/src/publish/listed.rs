//! What a repository lists beside itself, and where that is: a folder or file that `palisade.yaml`
//! names by a path starts where the repository itself is, be that a folder of this host or a
//! folder of a commit.

use std::path::{Component, Path};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, GitAt, Place},
};
use smol_str::SmolStr;

use super::{SourceConfig, codes};
use crate::author::{Contributor, contributors};

/// A source, and how its content comes here.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) contributor: Contributor,
    pub(super) comes: Comes,
}

/// How the content of a source comes here.
#[derive(Debug)]
pub(super) enum Comes {
    /// It is followed where it is.
    ByItself,
    /// With the repository, whose commit has it: what moves from the one to the other is at no
    /// time in neither, and whoever must sign the one has signed both.
    WithRepository,
    /// Not at all, and why.
    Never(Diagnostic),
}

impl Comes {
    pub(super) fn is_with_repository(&self) -> bool {
        matches!(self, Self::WithRepository)
    }
}

/// The sources that the settings `text` of the repository at the place of `config` list.
pub(super) fn listed(text: &str, config: &SourceConfig) -> Vec<Listed> {
    match &config.place.at {
        At::Folder(folder) => {
            let all = contributors(text, folder).into_iter();
            all.map(|contributor| Listed {
                contributor,
                comes: Comes::ByItself,
            })
            .collect()
        }
        At::Git(root) => {
            let all = contributors(text, Path::new("")).into_iter();
            all.map(|contributor| in_git(contributor, root, &config.place))
                .collect()
        }
        // A bundle is whole as it is.
        At::File(_) | At::Https(_) | At::Oci(_) => Vec::new(),
    }
}

/// The folders of the repository at `root` that its settings `text` name, by source.
pub(super) fn folders_beside(text: &str, root: &GitAt) -> Vec<(SmolStr, String)> {
    let all = contributors(text, Path::new("")).into_iter();
    all.filter_map(|named| match &named.place.at {
        At::Folder(path) if path.is_relative() => Some((named.name, joined(&root.subdir, path)?)),
        _ => None,
    })
    .collect()
}

fn in_git(mut contributor: Contributor, root: &GitAt, place: &Place) -> Listed {
    let comes = match &contributor.place.at {
        At::Folder(path) if path.is_relative() => match joined(&root.subdir, path) {
            Some(subdir) => {
                let at = At::Git(GitAt {
                    subdir,
                    ..root.clone()
                });
                contributor.place = Place {
                    at,
                    ..place.clone()
                };
                Comes::WithRepository
            }
            None => Comes::Never(misplaced(
                &contributor,
                "the path leads out of the repository",
            )),
        },
        At::File(path) if path.is_relative() => Comes::Never(misplaced(
            &contributor,
            "bundles are read from this host, a server or a registry",
        )),
        _ => Comes::ByItself,
    };
    Listed { contributor, comes }
}

/// A folder of a repository from its root; nothing where `path` leads out of it.
fn joined(subdir: &str, path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = subdir.split('/').filter(|part| !part.is_empty()).collect();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn misplaced(contributor: &Contributor, why: &str) -> Diagnostic {
    let (name, written) = (&contributor.name, &contributor.written);
    Diagnostic::error(
        codes::BESIDE_GIT,
        format!("source `{name}` cannot be at `{written}`"),
    )
    .cause(format!("the repository is read from git, and {why}"))
    .help("name a folder of the same repository, an absolute path of the PDP's host, or another kind of source")
}
