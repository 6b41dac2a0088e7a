//! Files that are there whole or not at all, and readable by us alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Permission bits of files.
pub(crate) const FILE_MODE: u32 = 0o600;

/// Permission bits of directories.
const DIR_MODE: u32 = 0o700;

/// Whether a change must survive a power cut before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Contents and name are on disk.
    Yes,
    /// The file can be made again.
    No,
}

/// Creates `dir` and its parents.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(dir)
}

/// Creates a file that must not exist yet, for reading and writing.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Replaces the file at `path`: readers see the old contents or the new ones.
pub(crate) fn replace(path: &Path, contents: &[u8], sync: Sync) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = parent.join(name);
    let mut file = match open_truncated(&temporary) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_dir(parent)?;
            open_truncated(&temporary)?
        }
        other => other?,
    };
    file.write_all(contents)?;
    if sync == Sync::Yes {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if sync == Sync::Yes {
        sync_dir(parent)?;
    }
    Ok(())
}

/// Makes created, renamed and removed names durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn open_truncated(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)
}
