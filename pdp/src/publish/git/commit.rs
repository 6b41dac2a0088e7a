//! A commit of the clone that somebody works in.

use std::path::Path;

use palisade_mesh::diagnostic::Diagnostic;

use super::{Failure, Git, LOCAL_TIME_MAX, Run, tree};
use crate::author::{Loaded, Shared, Texts};

/// The commit cannot be read.
const UNREAD: u16 = 2310;

/// Compiles the repository in the folder `dir` as it is in the commit that `reference` names
/// in the clone around it; gives the commit, too. Git is run as the user runs it: a partial
/// clone fetches what it lacks. What other compilations that were given `shared` have worked
/// out is not worked out again.
///
/// # Errors
/// When git is not there, `dir` is in no clone, or the clone lacks the commit.
pub async fn load_commit(
    dir: &Path,
    reference: &str,
    shared: &Shared,
) -> Result<(String, Loaded), Diagnostic> {
    let git = Git::of_user(dir.to_owned());
    let unread = |failure: Failure| unread(reference, &failure);
    let wanted = format!("{reference}^{{commit}}");
    let asked = ["rev-parse", "--verify", "--end-of-options", &wanted];
    let commit = line(&git, asked).await.map_err(unread)?;
    let prefix = line(&git, ["rev-parse", "--show-prefix"]).await;
    let prefix = prefix.map_err(unread)?;
    let folder = format!("{commit}:{}", prefix.trim_end_matches('/'));
    let blobs = tree::list(&git, &folder).await.map_err(unread)?;
    let (files, found) = tree::texts(&git, blobs).await.map_err(unread)?;
    let mut texts = Texts::of(commit.clone(), files, found);
    texts.demand_settings("the commit");
    let shared = shared.clone();
    let compiled = tokio::task::spawn_blocking(move || texts.compile_with(Some(shared))).await;
    Ok((commit, compiled.unwrap_or_default()))
}

/// The one line that git answers.
async fn line<const N: usize>(git: &Git, args: [&str; N]) -> Result<String, Failure> {
    let output = git.run(Run::new(args, LOCAL_TIME_MAX, 1 << 16)).await?;
    let text = String::from_utf8_lossy(&output);
    Ok(text.trim_end_matches('\n').to_owned())
}

fn unread(reference: &str, failure: &Failure) -> Diagnostic {
    Diagnostic::error(UNREAD, format!("`git:{reference}` cannot be read"))
    .cause(failure.cause())
    .help("HEAD must be a folder of a git repository that has the commit; in CI, fetch it: git fetch --depth=1 origin REF")
}
