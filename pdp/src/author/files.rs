//! From a folder to the files of a bundle: which are read, in which order,
//! within which limits.
//!
//! Only paths and texts enter, sorted by path, so the same tree gives the same
//! bytes on every machine. Links are not followed: what is outside the folder is
//! not part of the revision.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use palisade_mesh::{diagnostic::Diagnostic, wire::policy::File};

use super::{FILE_LEN_MAX, FILES_MAX, REPOSITORY_LEN_MAX, codes};

/// The file that makes a folder a policy repository.
pub(crate) const SETTINGS: &str = "palisade.yaml";
/// The team's additions to the schema.
pub(crate) const SCHEMA: &str = "schema.cedarschema";
/// Deepest folder that is searched.
const FOLDERS_MAX: usize = 16;

/// Which files of which folder are read.
pub(crate) struct Kind {
    folder: &'static str,
    extensions: &'static [&'static str],
}

const SERVICES: Kind = Kind {
    folder: "services",
    extensions: &["yaml", "yml"],
};
const POLICIES: Kind = Kind {
    folder: "policies",
    extensions: &["cedar"],
};
const ENTITIES: Kind = Kind {
    folder: "entities",
    extensions: &["yaml", "yml"],
};
const INVARIANTS: Kind = Kind {
    folder: "invariants",
    extensions: &["cedar"],
};
/// Tests are part of the repository, not of the bundle: engines do not run them.
pub(crate) const TESTS: Kind = Kind {
    folder: "tests",
    extensions: &["yaml", "yml", "json"],
};

/// What tables share; no tables themselves.
pub(crate) const FIXTURES: &str = "tests/fixtures/";

/// Folders that are no name of a source, for files of a bundle stand in them.
pub(crate) const FOLDERS: [&str; 5] = ["services", "policies", "entities", "tests", "invariants"];

/// The source that a file of a bundle is from, empty for the repository itself, and its
/// path there.
pub(crate) fn source_of(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some((first, rest)) if !FOLDERS.contains(&first) => (first, rest),
        _ => ("", path),
    }
}

/// Whether `path` of a repository is of this kind.
fn is_of(path: &str, kind: &Kind) -> bool {
    path.strip_prefix(kind.folder)
        .is_some_and(|rest| rest.starts_with('/'))
        && kind
            .extensions
            .iter()
            .any(|e| path.rsplit_once('.').is_some_and(|(_, x)| x == *e))
}

/// What a file of a bundle is for.
pub(crate) fn is_service(path: &str) -> bool {
    is_of(source_of(path).1, &SERVICES)
}

pub(crate) fn is_policy(path: &str) -> bool {
    is_of(source_of(path).1, &POLICIES)
}

pub(crate) fn is_entities(path: &str) -> bool {
    is_of(source_of(path).1, &ENTITIES)
}

pub(crate) fn is_invariant(path: &str) -> bool {
    is_of(source_of(path).1, &INVARIANTS)
}

/// Whether a file at `path` of a repository goes into its bundle.
pub(crate) fn is_read(path: &str) -> bool {
    is_contributed(path) || matches!(path, SETTINGS | SCHEMA)
}

/// Whether a file at `path` of a repository goes into a bundle that it contributes to.
pub(crate) fn is_contributed(path: &str) -> bool {
    let kinds = [SERVICES, POLICIES, ENTITIES, INVARIANTS];
    let deep = path.split('/').count() > FOLDERS_MAX + 2;
    let hidden = path.split('/').any(|part| part.starts_with('.'));
    kinds.iter().any(|kind| is_of(path, kind)) && !deep && !hidden
}

/// Reads every file of a repository that goes into its bundle.
pub(crate) fn read(dir: &Path, found: &mut Vec<Diagnostic>) -> Vec<File> {
    if dir.join(SETTINGS).is_file() {
        return read_all(dir, found);
    }
    found.push(no_repository(&dir.display().to_string()));
    Vec::new()
}

/// Files that were read elsewhere, as [`read`] gives those of a folder.
pub(crate) fn gathered(files: Vec<(String, Vec<u8>)>) -> (Vec<File>, Vec<Diagnostic>) {
    let (mut read, mut found) = (Vec::new(), Vec::new());
    let mut files: Vec<_> = files
        .into_iter()
        .filter(|(path, _)| is_read(path))
        .collect();
    files.sort_unstable();
    if !files.iter().any(|(path, _)| path == SETTINGS) {
        found.push(no_repository("what was read"));
        return (read, found);
    }
    for (path, bytes) in files {
        match text(&path, bytes) {
            Ok(text) => read.push(File { path, text }),
            Err(diagnostic) => found.push(diagnostic),
        }
    }
    (read, found)
}

/// As [`read`], also where there are no settings.
pub(crate) fn read_all(dir: &Path, found: &mut Vec<Diagnostic>) -> Vec<File> {
    let names = names(dir, &[SERVICES, POLICIES, ENTITIES, INVARIANTS], found);
    read_files(dir, names, found)
}

/// What is called `name` has no settings.
pub(crate) fn no_repository(name: &str) -> Diagnostic {
    Diagnostic::error(
        codes::NOT_A_REPOSITORY,
        format!("`{name}` is not a policy repository"),
    )
    .cause(format!("it has no `{SETTINGS}`"))
    .help(format!(
        "point to the folder that holds `{SETTINGS}`, or create one with `trust_domain: acme.test`"
    ))
}

/// Paths of all files of a repository that is in order, tests too, sorted.
pub(crate) fn all(dir: &Path) -> Vec<String> {
    let mut all = names(
        dir,
        &[SERVICES, POLICIES, ENTITIES, INVARIANTS, TESTS],
        &mut Vec::new(),
    );
    all.sort_unstable();
    all
}

/// Paths of the settings, the schema and the files of these kinds.
fn names(dir: &Path, kinds: &[Kind], found: &mut Vec<Diagnostic>) -> Vec<String> {
    let single = [SETTINGS, SCHEMA].into_iter();
    let mut names: Vec<String> = single
        .filter(|name| dir.join(name).is_file())
        .map(str::to_owned)
        .collect();
    for kind in kinds {
        names.extend(names_of(dir, kind, found));
    }
    names
}

/// Reads every file of one kind.
pub(crate) fn read_kind(dir: &Path, kind: &Kind, found: &mut Vec<Diagnostic>) -> Vec<File> {
    let names = names_of(dir, kind, found);
    read_files(dir, names, found)
}

fn read_files(dir: &Path, mut names: Vec<String>, found: &mut Vec<Diagnostic>) -> Vec<File> {
    names.sort_unstable();
    if names.len() > FILES_MAX {
        found.push(too_large(format!(
            "it has {} files, the limit is {FILES_MAX}",
            names.len()
        )));
        return Vec::new();
    }
    let mut files = Vec::with_capacity(names.len());
    let mut total = 0;
    for path in names {
        match read_file(&dir.join(&path), &path) {
            Ok(text) => {
                total += text.len();
                files.push(File { path, text });
            }
            Err(diagnostic) => found.push(diagnostic),
        }
        if total > REPOSITORY_LEN_MAX {
            found.push(too_large(format!(
                "its texts exceed {} MiB",
                REPOSITORY_LEN_MAX >> 20
            )));
            break;
        }
    }
    files
}

pub(crate) fn too_large(cause: String) -> Diagnostic {
    Diagnostic::error(
        codes::REPOSITORY_TOO_LARGE,
        "policy repository is too large",
    )
    .cause(cause)
    .help("split it by trust domain, or move files that are no policy elsewhere")
}

/// Reads one text file within its limit; `name` is what the user calls it.
pub(crate) fn read_file(path: &Path, name: &str) -> Result<String, Diagnostic> {
    let unreadable = |e: std::io::Error| unreadable(name, &e);
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX) + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    text(name, bytes)
}

/// The text of a file within its limit.
pub(crate) fn text(name: &str, bytes: Vec<u8>) -> Result<String, Diagnostic> {
    check_len(name, bytes.len())?;
    String::from_utf8(bytes).map_err(|e| {
        let line = e
            .as_bytes()
            .iter()
            .take(e.utf8_error().valid_up_to())
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        Diagnostic::error(codes::NOT_UTF8, format!("`{name}` is not UTF-8 text"))
            .cause(format!("line {line} holds other bytes"))
            .help("save the file as UTF-8")
    })
}

/// Refuses a text of more than [`FILE_LEN_MAX`] bytes.
pub(crate) fn check_len(name: &str, len: usize) -> Result<(), Diagnostic> {
    if len <= FILE_LEN_MAX {
        return Ok(());
    }
    Err(
        Diagnostic::error(codes::FILE_TOO_LARGE, format!("`{name}` is too large"))
            .cause(format!("a file may have {FILE_LEN_MAX} bytes"))
            .help("split it into several files; all of the folder are read"),
    )
}

pub(crate) fn unreadable(name: &str, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(codes::UNREADABLE, format!("`{name}` cannot be read"))
        .cause(error.to_string())
        .help("check that it exists and that this user may read it")
}

/// Relative paths of the files of one kind, `/` as separator.
fn names_of(dir: &Path, kind: &Kind, found: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![(dir.join(kind.folder), kind.folder.to_owned(), 0)];
    if !dir.join(kind.folder).is_dir() {
        return names;
    }
    while let Some((path, name, depth)) = folders.pop() {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => {
                found.push(unreadable(&name, &error));
                continue;
            }
        };
        for entry in entries.flatten() {
            let file_name = entry.file_name();
            let Some(file_name) = file_name.to_str().filter(|n| !n.starts_with('.')) else {
                continue;
            };
            let relative = format!("{name}/{file_name}");
            let Ok(kind_of) = entry.file_type() else {
                continue;
            };
            if kind_of.is_dir() && depth < FOLDERS_MAX {
                folders.push((entry.path(), relative, depth + 1));
            } else if kind_of.is_file() && is_of(&relative, kind) {
                names.push(relative);
            }
            if names.len() > FILES_MAX {
                return names;
            }
        }
    }
    names
}

/// A folder of a git work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkTree {
    /// The repository.
    pub(crate) git_dir: PathBuf,
    /// The commit that is checked out.
    pub(crate) commit: String,
    /// Path of the folder in it, with a `/` behind it unless it is the root.
    pub(crate) prefix: String,
}

/// The work tree that `dir` is in, read from `.git` so that no program is run.
pub(crate) fn work_tree(dir: &Path) -> Option<WorkTree> {
    let dir = dir.canonicalize().ok()?;
    let root = dir.ancestors().find(|d| d.join(".git").exists())?;
    let mut git_dir = root.join(".git");
    if git_dir.is_file() {
        let text = fs::read_to_string(&git_dir).ok()?;
        git_dir = root.join(text.strip_prefix("gitdir:")?.trim());
    }
    let commit = checked_out(&git_dir)?;
    let inside = dir.strip_prefix(root).ok()?.to_str()?;
    let prefix = match inside {
        "" => String::new(),
        inside => format!("{inside}/"),
    };
    Some(WorkTree {
        git_dir,
        commit,
        prefix,
    })
}

fn checked_out(git: &Path) -> Option<String> {
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let head = head.trim();
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else {
        return is_commit(head).then(|| head.to_owned());
    };
    let common = fs::read_to_string(git.join("commondir"))
        .map_or_else(|_| git.to_owned(), |c| git.join(c.trim()));
    let direct = [git, &common]
        .iter()
        .find_map(|d| fs::read_to_string(d.join(name)).ok());
    if let Some(commit) = direct {
        return is_commit(commit.trim()).then(|| commit.trim().to_owned());
    }
    let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| {
        let (commit, reference) = line.split_once(' ')?;
        (reference == name && is_commit(commit)).then(|| commit.to_owned())
    })
}

/// Whether a text is the id of a commit (SHA-1 or SHA-256).
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, bytes: &[u8]) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn files_come_sorted_and_only_those_that_are_meant() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "palisade.yaml",
            "policies/z.cedar",
            "policies/team/a.cedar",
            "policies/.hidden.cedar",
            "policies/notes.md",
            "services/b.yml",
            "services/a.yaml",
            "tests/t.yaml",
            "README.md",
        ] {
            write(dir.path(), name, b"x");
        }
        let mut found = Vec::new();
        let files = read(dir.path(), &mut found);
        let names: Vec<_> = files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            names,
            [
                "palisade.yaml",
                "policies/team/a.cedar",
                "policies/z.cedar",
                "services/a.yaml",
                "services/b.yml",
            ]
        );
        assert!(found.is_empty());
    }

    #[test]
    fn a_file_has_a_limit_on_both_sides_and_must_be_utf_8() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "full", &vec![b'a'; FILE_LEN_MAX]);
        write(dir.path(), "over", &vec![b'a'; FILE_LEN_MAX + 1]);
        write(dir.path(), "latin1", b"one\ncaf\xe9");
        let code = |name: &str| read_file(&dir.path().join(name), name).map_err(|d| d.code.0);
        assert!(code("full").is_ok());
        assert_eq!(code("over").unwrap_err(), codes::FILE_TOO_LARGE);
        assert_eq!(code("latin1").unwrap_err(), codes::NOT_UTF8);
        assert_eq!(code("absent").unwrap_err(), codes::UNREADABLE);
    }

    #[test]
    fn a_folder_without_settings_is_no_repository() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = Vec::new();
        read(dir.path(), &mut found);
        assert_eq!(found[0].code.0, codes::NOT_A_REPOSITORY);
    }

    #[test]
    fn the_checked_out_commit_is_found_loose_packed_and_detached() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("policies");
        write(dir.path(), ".git/HEAD", b"ref: refs/heads/main\n");
        fs::create_dir_all(&inner).unwrap();
        let git_revision = |dir: &Path| {
            let tree = work_tree(dir)?;
            assert_eq!(tree.prefix, "policies/");
            Some(tree.commit)
        };
        assert_eq!(git_revision(&inner), None);
        let packed = format!("# pack-refs\n{commit} refs/heads/main\n");
        write(dir.path(), ".git/packed-refs", packed.as_bytes());
        assert_eq!(git_revision(&inner).as_deref(), Some(commit));
        write(dir.path(), ".git/refs/heads/main", commit.as_bytes());
        assert_eq!(git_revision(&inner).as_deref(), Some(commit));
        write(dir.path(), ".git/HEAD", commit.as_bytes());
        assert_eq!(git_revision(&inner).as_deref(), Some(commit));
    }
}
