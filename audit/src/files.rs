//! Files that are there whole or not at all, and readable by us alone.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use nix::fcntl::OFlag;

/// Permission bits of files.
pub(crate) const FILE_MODE: u32 = 0o600;

/// Permission bits of directories.
const DIR_MODE: u32 = 0o700;

/// Times a lock is asked for before giving up: a verifier holds it for an instant,
/// and a process that was just killed may still be going away.
const LOCK_TRIES: u32 = 20;

/// Time between tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

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

/// Opens a file to be read. The folder may be somebody else's, and what lies there no file: a pipe
/// would keep its reader waiting for good, and a device has no end.
///
/// # Errors
/// Those of the file system; `InvalidInput` for what is no file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
    }
}

/// Reads a file of at most so many bytes.
///
/// # Errors
/// As [`open`]; `FileTooLarge` for one that has more.
pub(crate) fn read(path: &Path, len_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    open(path)?.take(most).read_to_end(&mut bytes)?;
    match bytes.len() > len_max {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {len_max} bytes"),
        )),
        false => Ok(bytes),
    }
}

/// As [`read`], of text.
///
/// # Errors
/// `InvalidData` for what is not UTF-8.
pub(crate) fn read_text(path: &Path, len_max: usize) -> io::Result<String> {
    let bytes = read(path, len_max)?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Takes the lock at `path`; `None` when another process holds it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(FILE_MODE)
        .open(path)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Ok(None)
}

/// Whether it is known that nothing is at `path`: what cannot be looked at may be there.
#[cfg(feature = "index")]
pub(crate) fn is_gone(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// Replaces the file at `path`: readers see the old contents or the new ones. Where that
/// fails, nothing of the new ones is left.
pub(crate) fn replace(path: &Path, contents: &[u8], sync: Sync) -> io::Result<()> {
    replace_open(path, contents, sync).map(drop)
}

/// As [`replace`]; gives the file, which is the new one whatever becomes of its name.
pub(crate) fn replace_open(path: &Path, contents: &[u8], sync: Sync) -> io::Result<File> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = parent.join(name);
    let mut file = match create(&temporary) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            create_dir(parent)?;
            create(&temporary)?
        }
        other => other?,
    };
    let written = file.write_all(contents).and_then(|()| match sync {
        Sync::Yes => file.sync_all(),
        Sync::No => Ok(()),
    });
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    if sync == Sync::Yes {
        sync_dir(parent)?;
    }
    Ok(file)
}

/// Makes created, renamed and removed names durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates the file at `path`, or empties it, to be written and read.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Whether only its owner reads the file. A credential of the service manager is root's,
/// in a folder that this service alone can enter.
pub(crate) fn is_private(path: &Path, meta: &fs::Metadata) -> bool {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY");
    let credential = folder.is_some_and(|folder| path.parent() == Some(Path::new(&folder)));
    let loose = match credential && meta.uid() == 0 {
        true => 0o037,
        false => 0o077,
    };
    meta.mode() & loose == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On both sides of the length; and what is no file is neither waited for nor read without end.
    #[test]
    fn a_file_is_read_to_its_length_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |name: &str| read(&dir.path().join(name), 3).map_err(|e| e.kind());
        fs::write(dir.path().join("three"), b"abc").unwrap();
        fs::write(dir.path().join("four"), b"abcd").unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::unistd::mkfifo(&dir.path().join("pipe"), mode).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("endless")).unwrap();
        assert_eq!(kind("three"), Ok(b"abc".to_vec()));
        assert_eq!(kind("four"), Err(io::ErrorKind::FileTooLarge));
        for name in ["folder", "pipe", "endless"] {
            assert_eq!(kind(name), Err(io::ErrorKind::InvalidInput), "{name}");
        }
        assert_eq!(kind("nothing"), Err(io::ErrorKind::NotFound));
    }

    #[test]
    fn what_cannot_be_put_in_place_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"contents", Sync::Yes).is_err());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
}
