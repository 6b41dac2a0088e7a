//! Cuts the log back to its last whole record, keeping what is cut off.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use palisade_mesh::clock::Clock;

use super::Cut;
use crate::{files, segment, stream::new_ulid};

/// Directory of what was cut off or moved aside.
pub(crate) const EVIDENCE: &str = "evidence";

/// Pieces of evidence kept; the oldest go first.
pub(crate) const EVIDENCE_MAX: usize = 64;

/// Ends the log at `cut`; gives what was done, in words. `firsts` loses the
/// segments that are gone.
pub(super) fn cut(
    dir: &Path,
    firsts: &mut Vec<u64>,
    cut: &Cut,
    clock: &Clock,
) -> io::Result<String> {
    let evidence = dir.join(EVIDENCE);
    files::create_dir(&evidence)?;
    let stamp = new_ulid(clock);
    let mut bytes = 0;
    // From the end, so that a crash in between leaves a log that is still whole.
    while let Some(&first) = firsts.last() {
        let path = dir.join(segment::relative(first));
        let keep_head = first == cut.segment && cut.offset > 0;
        if first < cut.segment || keep_head {
            break;
        }
        bytes += fs::metadata(&path)?.len();
        fs::rename(&path, evidence.join(format!("{stamp}-{first:020}.seg")))?;
        firsts.pop();
    }
    if cut.offset > 0 {
        let path = dir.join(segment::relative(cut.segment));
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(cut.offset))?;
        file.read_to_end(&mut tail)?;
        bytes += tail.len() as u64;
        let kept = evidence.join(format!("{stamp}-{:020}.cut", cut.leaf));
        files::replace(&kept, &tail, files::Sync::Yes)?;
        file.set_len(cut.offset)?;
        file.sync_all()?;
    }
    files::sync_dir(&dir.join(segment::DIR))?;
    files::sync_dir(&evidence)?;
    prune(&evidence)?;
    let Cut { leaf, what, .. } = cut;
    Ok(format!("{bytes} bytes cut off at record {leaf}: {what}"))
}

/// Removes the oldest evidence beyond [`EVIDENCE_MAX`]; names begin with a ULID.
fn prune(evidence: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(evidence)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    names.sort();
    for path in names.iter().rev().skip(EVIDENCE_MAX) {
        fs::remove_file(path)?;
    }
    Ok(())
}
