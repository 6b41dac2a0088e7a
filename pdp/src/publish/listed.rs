//! What a repository lists beside itself, and where that is: a folder or file that `palisade.yaml`
//! names by a path starts where the repository itself is, be that a folder of this host or a
//! folder of a commit.

use std::path::{Component, Path};

use palisade_mesh::{
    diagnostic::Diagnostic,
    place::{At, GitAt, Place},
};

use super::{SourceConfig, codes};
use crate::author::{Contributor, contributors};

/// Why a source cannot be where the repository says, where that is so.
pub(super) type Listed = (Contributor, Option<Diagnostic>);

/// The sources that the settings `text` of the repository at the place of `config` list.
pub(super) fn listed(text: &str, config: &SourceConfig) -> Vec<Listed> {
    match &config.place.at {
        At::Folder(folder) => contributors(text, folder).into_iter().map(good).collect(),
        At::Git(root) => {
            let all = contributors(text, Path::new("")).into_iter();
            all.map(|named| in_git(named, root, config)).collect()
        }
        // A bundle is whole as it is.
        At::File(_) | At::Https(_) | At::Oci(_) => Vec::new(),
    }
}

fn good(contributor: Contributor) -> Listed {
    (contributor, None)
}

/// A path within a git repository is of that repository, and of its reference: it is asked with
/// the same credentials, and whoever must sign the one must sign the other.
fn in_git(mut contributor: Contributor, root: &GitAt, config: &SourceConfig) -> Listed {
    let place = &contributor.place;
    let path = match &place.at {
        At::Folder(path) if path.is_relative() => path,
        At::File(path) if path.is_relative() => {
            let why = "bundles are read from this host, a server or a registry";
            let fault = elsewhere(&contributor, why);
            return (contributor, Some(fault));
        }
        _ => return good(contributor),
    };
    let Some(subdir) = joined(&root.subdir, path) else {
        let fault = elsewhere(&contributor, "the path leads out of the repository");
        return (contributor, Some(fault));
    };
    let at = At::Git(GitAt {
        subdir,
        ..root.clone()
    });
    contributor.place = Place {
        at,
        poll: place.poll,
        ..config.place.clone()
    };
    let signers = config.signers.iter().flat_map(|text| text.lines());
    contributor.signers = signers.map(str::to_owned).collect();
    good(contributor)
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

fn elsewhere(contributor: &Contributor, why: &str) -> Diagnostic {
    let (name, written) = (&contributor.name, &contributor.written);
    Diagnostic::error(
        codes::BESIDE_GIT,
        format!("source `{name}` cannot be at `{written}`"),
    )
    .cause(format!("the repository is read from git, and {why}"))
    .help("name a folder of the same repository, an absolute path of the PDP's host, or another kind of source")
}
