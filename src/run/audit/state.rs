//! Files of state beside the log: written whole or not at all, and begun anew where they cannot
//! be read, which is told.

use std::{fs, io, path::Path};

use serde::{Serialize, de::DeserializeOwned};

use crate::control::api::{Fact, FactState};

/// Something that is found lost at the start.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    /// The verb of its record.
    pub(super) verb: &'static str,
    /// What.
    pub(super) object: String,
    /// Why, and what is left of it.
    pub(super) detail: String,
}

/// Verb of the record of a file of state that could not be read.
const STATE_LOST: &str = "state_lost";

impl Lost {
    /// What `check` says of it, until the next start.
    pub(super) fn fact(&self) -> Option<Fact> {
        let text = format!("`{}` could not be read, and began anew", self.object);
        (self.verb == STATE_LOST).then(|| {
            Fact::not_ok("audit", FactState::Warning, 7934, text)
                .cause(self.detail.clone())
                .fix("see what was open or waited in the file that is kept; this is told until the next start")
        })
    }
}

/// Reads what [`keep`] wrote; none where nothing was. What cannot be read is put aside, so
/// that the log starts all the same, and is `lost`.
pub(super) fn read<T: DeserializeOwned>(file: &Path, lost: &mut Vec<Lost>) -> Option<T> {
    let read = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| e.to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => Err(e.to_string()),
    };
    read.map_err(|why| {
        let aside = file.with_extension("json.bad");
        let kept = match fs::rename(file, &aside) {
            Ok(()) => format!("kept as `{}`", aside.display()),
            Err(e) => format!("not kept: {e}"),
        };
        tracing::error!(file = %file.display(), %why, kept, "state is lost");
        lost.push(Lost {
            verb: STATE_LOST,
            object: file.display().to_string(),
            detail: format!("{why}; {kept}"),
        });
    })
    .ok()
}

/// Puts `state` on disk, whole or not at all.
pub(super) fn keep(file: &Path, state: &impl Serialize) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    serde_json::to_writer(&mut out, state)?;
    out.sync_all()?;
    fs::rename(&draft, file)
}
