//! The checkpoints that were signed, one after another in a file that only grows.
//!
//! A write of it can be cut off, by a full disk or with the power. What is left of it
//! was never a checkpoint, and must not become one with the next: it is cut away before more is added.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::recover::HISTORY;
use crate::{files, segment::read_at_most};

/// How far back a whole checkpoint is looked for, in bytes; far more than one has.
const LOOK_BACK: u64 = 64 << 10;

/// Adds a checkpoint to the history of the log in `dir`; of one that cannot be written, nothing
/// stays.
pub(super) fn add(dir: &Path, note: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(files::FILE_MODE)
        .open(dir.join(HISTORY))?;
    let end = end(&file)?;
    let written = file
        .write_all(note.as_bytes())
        .and_then(|()| file.sync_data());
    if written.is_err() {
        // If this fails, too, the next one does it.
        let _ = file.set_len(end);
    }
    written
}

/// Where the next checkpoint goes; what a write left half is cut off.
fn end(file: &File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let from = len.saturating_sub(LOOK_BACK);
    let mut tail = vec![0; usize::try_from(len - from).unwrap_or(0)];
    let read = read_at_most(file, &mut tail, from)?;
    tail.truncate(read);
    let whole = whole(&tail).len() as u64;
    // So much without a checkpoint was not left by a write that was cut off.
    if whole == tail.len() as u64 || (whole == 0 && from > 0) {
        return Ok(len);
    }
    let end = from + whole;
    tracing::warn!(
        bytes = len - end,
        "half a checkpoint is cut off the history"
    );
    file.set_len(end)?;
    Ok(end)
}

/// The history up to its last whole checkpoint; empty where there is none.
///
/// # Errors
/// When it is there and cannot be read.
pub(crate) fn read(dir: &Path) -> io::Result<String> {
    let bytes = match files::read(&dir.join(HISTORY), usize::MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        read => read?,
    };
    // Bytes that are no text make a note that does not verify.
    Ok(String::from_utf8_lossy(whole(&bytes)).into_owned())
}

/// What of a history ends in a whole signature line.
fn whole(history: &[u8]) -> &[u8] {
    let mut end = history.len();
    for line in history.split_inclusive(|byte| *byte == b'\n').rev() {
        if line.ends_with(b"\n") && line.starts_with("\u{2014}".as_bytes()) {
            break;
        }
        end -= line.len();
    }
    history.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOTE: &str = "palisade/acme.test\n7\nAbCd\ntime 1\n\n\u{2014} palisade/acme.test abcd\n";

    /// Cut off anywhere, and written on.
    #[test]
    fn half_a_checkpoint_is_cut_off_before_the_next() {
        for cut in 0..NOTE.len() {
            let dir = tempfile::tempdir().unwrap();
            let torn = [NOTE.as_bytes(), &NOTE.as_bytes()[..cut]].concat();
            fs::write(dir.path().join(HISTORY), torn).unwrap();
            assert_eq!(read(dir.path()).unwrap(), NOTE, "{cut}");
            add(dir.path(), NOTE).unwrap();
            let after = fs::read_to_string(dir.path().join(HISTORY)).unwrap();
            assert_eq!(after, NOTE.repeat(2), "{cut}");
        }
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), NOTE).unwrap();
        assert_eq!(read(dir.path()).unwrap(), NOTE);
    }

    /// What no write of ours leaves is not made away with.
    #[test]
    fn much_that_is_no_checkpoint_stays() {
        let dir = tempfile::tempdir().unwrap();
        let strange = vec![b'x'; LOOK_BACK as usize + 1];
        fs::write(dir.path().join(HISTORY), &strange).unwrap();
        add(dir.path(), NOTE).unwrap();
        let after = fs::read(dir.path().join(HISTORY)).unwrap();
        assert_eq!(after, [&strange[..], NOTE.as_bytes()].concat());
    }
}
