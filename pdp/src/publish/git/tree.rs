//! The texts of a policy repository in one commit, read by git without a check-out.

use std::{collections::BTreeMap, io};

use palisade_mesh::{diagnostic::Diagnostic, wire::policy::File};

use super::{Failure, Git, LOCAL_TIME_MAX, Run};
use crate::author::{FILES_MAX, REPOSITORY_LEN_MAX, files};

/// Longest list of the files of a commit, in bytes.
const LIST_LEN_MAX: usize = 64 << 20;

/// Longest line about one of them.
const ENTRY_LEN_MAX: usize = 1 << 16;

/// Mode of a folder.
pub(super) const FOLDER: &str = "040000";

/// Object ids of the files that belong to a policy repository, by their path in `tree`,
/// which is a commit's or a folder's of one (`COMMIT:FOLDER`).
pub(super) async fn list(git: &Git, tree: &str) -> Result<BTreeMap<String, String>, Failure> {
    let args = ["ls-tree", "-r", "-z", "--full-tree", tree];
    let run = Run::new(args, LOCAL_TIME_MAX, LIST_LEN_MAX);
    git.run(run).await.map(|listed| blobs(&listed))
}

/// Mode and object id of what a commit has at a path; nothing of either where it has nothing.
pub(super) async fn entry(
    git: &Git,
    commit: &str,
    path: &str,
) -> Result<(String, String), Failure> {
    let args = ["ls-tree", "-z", "--full-tree", commit, "--", path];
    let run = Run::new(args, LOCAL_TIME_MAX, ENTRY_LEN_MAX);
    let listed = git.run(run).await?;
    let listed = String::from_utf8_lossy(&listed);
    let head = listed.split('\t').next().unwrap_or_default();
    let mut words = head.split(' ').map(str::to_owned);
    let mode = words.next().unwrap_or_default();
    Ok((mode, words.nth(1).unwrap_or_default()))
}

/// The texts of `blobs`, sorted by path, and what keeps them from being used.
pub(super) async fn texts(
    git: &Git,
    blobs: BTreeMap<String, String>,
) -> Result<(Vec<File>, Vec<Diagnostic>), Failure> {
    if blobs.len() > FILES_MAX {
        let cause = format!("it has {} files, the limit is {FILES_MAX}", blobs.len());
        return Ok((Vec::new(), vec![files::too_large(cause)]));
    }
    let ids: String = blobs.values().map(|id| format!("{id}\n")).collect();
    let limit = REPOSITORY_LEN_MAX + blobs.len() * 100;
    let run = Run::new(["cat-file", "--batch"], LOCAL_TIME_MAX, limit).input(ids.as_bytes());
    let batch = match git.run(run).await {
        Err(Failure::Large) => {
            let cause = format!("its texts exceed {} MiB", REPOSITORY_LEN_MAX >> 20);
            return Ok((Vec::new(), vec![files::too_large(cause)]));
        }
        batch => batch?,
    };
    let damaged = |why: &str| Failure::Io(io::Error::other(why.to_owned()));
    let texts = contents(&batch).ok_or_else(|| damaged("an object is cut short"))?;
    if texts.len() != blobs.len() {
        return Err(damaged("an object is missing"));
    }
    let (mut read, mut found) = (Vec::new(), Vec::new());
    for (path, bytes) in blobs.into_keys().zip(texts) {
        match files::text(&path, bytes.to_vec()) {
            Ok(text) => read.push(File { path, text }),
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    Ok((read, found))
}

/// Paths and object ids of the files that belong to a policy repository (`git ls-tree -z`).
/// Links and other repositories within are none.
fn blobs(listed: &[u8]) -> BTreeMap<String, String> {
    let entries = listed.split(|b| *b == 0);
    entries
        .filter_map(|entry| {
            let (head, path) = std::str::from_utf8(entry).ok()?.split_once('\t')?;
            let mut head = head.split(' ');
            let (mode, _, id) = (head.next()?, head.next()?, head.next()?);
            let wanted = mode.starts_with("100") && files::is_read(path);
            wanted.then(|| (path.to_owned(), id.to_owned()))
        })
        .collect()
}

/// Contents of objects in the order they were asked for (`git cat-file --batch`); none when
/// one is missing, or the answer is cut short.
fn contents(mut batch: &[u8]) -> Option<Vec<&[u8]>> {
    let mut texts = Vec::new();
    while !batch.is_empty() {
        texts.push(object(&mut batch)??);
    }
    Some(texts)
}

/// Takes the next object off the answer of `git cat-file --batch`: its bytes, or nothing
/// where there is no such object. None when the answer is cut short.
pub(super) fn object<'b>(batch: &mut &'b [u8]) -> Option<Option<&'b [u8]>> {
    let end = batch.iter().position(|b| *b == b'\n')?;
    let (head, rest) = batch.split_at_checked(end)?;
    let rest = rest.get(1..)?;
    let head = std::str::from_utf8(head).ok()?;
    if head.ends_with(" missing") {
        *batch = rest;
        return Some(None);
    }
    let len = head.rsplit(' ').next()?.parse().ok()?;
    let (text, rest) = rest.split_at_checked(len)?;
    *batch = rest.strip_prefix(b"\n")?;
    Some(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_policy_repository_are_read() {
        let id = "0".repeat(40);
        let listed = format!(
            "100644 blob {id}\tpalisade.yaml\0100755 blob {id}\tpolicies/a.cedar\0\
             120000 blob {id}\tpolicies/link.cedar\0160000 commit {id}\tpolicies/sub.cedar\0\
             100644 blob {id}\tsrc/main.rs\0100644 blob {id}\tpolicies/.hidden.cedar\0"
        );
        let paths: Vec<String> = blobs(listed.as_bytes()).into_keys().collect();
        assert_eq!(paths, ["palisade.yaml", "policies/a.cedar"]);
    }

    #[test]
    fn a_batch_is_whole_or_nothing() {
        let batch = b"aa blob 3\nabc\nbb blob 0\n\n";
        assert_eq!(contents(batch), Some(vec![&b"abc"[..], &b""[..]]));
        for len in 1..batch.len() {
            let whole = contents(&batch[..len]).is_some_and(|texts| texts.len() == 2);
            assert!(!whole, "{len}");
        }
        assert_eq!(contents(b"aa missing\n"), None);
    }
}
