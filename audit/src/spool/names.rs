//! Spool files that lose their name while in use.
//!
//! An open file outlives its name, so nothing would be noticed until the next
//! start, when what was acknowledged as durable would be gone (an administrator
//! who clears a directory, a log rotation that was told too much). So the writer
//! compares name and descriptor, and writes the file anew from the descriptor.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::Arc,
};

use crate::files;

/// Whether `path` still names `file`.
fn is_named(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.ino(), named.dev()) == (ours.ino(), ours.dev())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Gives the first `end` bytes of `file` the name `path` again, if it was lost; a
/// stranger there is moved aside. `None` when it was not lost.
pub(super) fn keep(path: &Path, file: &File, end: u64) -> io::Result<Option<Arc<File>>> {
    if is_named(path, file)? {
        return Ok(None);
    }
    tracing::error!(file = %path.display(), "spool file was removed or replaced while in use");
    let mut contents = vec![0; usize::try_from(end).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut contents, 0)?;
    if path.exists() {
        let mut aside = OsString::from(path);
        aside.push(".replaced");
        fs::rename(path, aside)?;
    }
    let anew = files::replace_open(path, &contents, files::Sync::Yes)?;
    // Its directory may be new as well.
    if let Some(above) = path.parent().and_then(Path::parent) {
        files::sync_dir(above)?;
    }
    Ok(Some(Arc::new(anew)))
}
