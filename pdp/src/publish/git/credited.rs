//! A folder with who last changed its policies, for a bundle that is built from it.

use std::path::Path;

use super::{FolderBlame, codes};
use crate::author::{Gathered, Loaded, Provenance, Texts, files};

/// Loads the repository in `dir` as [`crate::author::load`] does, with commit and author of
/// each policy. They are known for all of a folder's files or for none, so that the same
/// history gives the same bundle everywhere: not in a shallow clone, and not where `git blame`
/// takes too long. `home` is an empty folder for git.
pub async fn load_credited(dir: &Path, home: &Path) -> Loaded {
    let mut gathered = Gathered::read(dir);
    gathered.own.provenance = credit(dir, home, &mut gathered.own).await;
    for (_, folder, texts) in &mut gathered.folders {
        texts.provenance = credit(folder, home, texts).await;
    }
    let compiled = tokio::task::spawn_blocking(move || gathered.together().compile()).await;
    compiled.unwrap_or_default()
}

/// Commit and author of each policy of a folder: of all, or of none.
pub(crate) async fn credit(folder: &Path, home: &Path, texts: &mut Texts) -> Provenance {
    let shallow = |tree: files::WorkTree| tree.git_dir.join("shallow").exists();
    if files::work_tree(folder).is_some_and(shallow) {
        return Provenance::default();
    }
    let before = texts.found.len();
    let mut blame = FolderBlame::patient(home.to_owned());
    let known = blame.of(folder, &texts.files, &mut texts.found).await;
    let of_blame = texts.found.get(before..).unwrap_or_default();
    match of_blame.iter().any(|d| d.code.0 == codes::NO_AUTHORS) {
        true => Provenance::default(),
        false => known,
    }
}
