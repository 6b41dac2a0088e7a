//! The mark of an archive: by it the log knows that the place is the one that it has used.
//!
//! A mount point whose disk is not mounted is a folder like any other, and another bucket or
//! prefix takes objects as readily. So the first use leaves an object there with an identity
//! that was drawn for this log, and the log keeps the same beside its segments. Nothing is put,
//! deleted, or let go of here where the place does not have it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Why, away::Refused, store::Store};
use crate::{files, merkle};

/// File in the folder of a log that has its mark, and the last part of the object's name.
pub(crate) const MARK: &str = "archive.mark";

/// Longest mark, in bytes.
const MARK_LEN_MAX: u64 = 4096;

/// A mark; the file beside the log and the object are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// What is drawn, in hexadecimal.
    id: String,
    /// The log: trust domain and id, as objects are named.
    log: String,
    /// The address of the archive when it was used last.
    store: String,
}

/// Whether a place that has no mark may be given one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// No segment is in an archive: the place may be a new one.
    May,
    /// Some are, and they are where the mark is.
    Never,
}

/// Where the mark of a log is kept.
pub(super) struct Marks {
    file: PathBuf,
    url: String,
}

impl Marks {
    pub(super) fn new(log: &Path, url: &str) -> Self {
        Self {
            file: log.join(MARK),
            url: url.to_owned(),
        }
    }

    /// Makes sure that the place is the archive of the log whose objects begin with `log`,
    /// and makes it that if it `may` be a new one.
    pub(super) fn begin(&self, store: &Store, log: &str, may: First) -> Result<(), Refused> {
        let ours = self.ours(log)?;
        match &ours {
            Some(ours) if ours.store == self.url => return self.same(store, ours),
            // What was marked is somewhere else: a copy of it has the mark, too.
            Some(ours) if may == First::Never => self.same(store, ours)?,
            None if may == First::Never => {}
            ours => self.create(store, log, ours.as_ref())?,
        }
        let there = there(store, log)?;
        if there.log != log || ours.is_some_and(|ours| ours.id != there.id) {
            return Err(self.another());
        }
        let now = Mark {
            store: self.url.clone(),
            ..there
        };
        self.keep(&now)
    }

    /// Makes sure that the place is the archive of this log, which was used before.
    pub(super) fn check(&self, store: &Store, log: &str) -> Result<(), Refused> {
        match self.ours(log)? {
            Some(ours) => self.same(store, &ours),
            None => {
                let cause = format!("`{}` is not there, by which it is known", MARK);
                Err((Why::Foreign, cause))
            }
        }
    }

    fn same(&self, store: &Store, ours: &Mark) -> Result<(), Refused> {
        match there(store, &ours.log) {
            Ok(there) if (&there.id, &there.log) == (&ours.id, &ours.log) => Ok(()),
            Ok(_) => Err(self.another()),
            Err((Why::Missing, _)) => {
                let (url, name) = (&self.url, name(&ours.log));
                let cause = format!(
                    "`{url}` has no `{name}`: a disk that is not mounted, or another place"
                );
                Err((Why::Foreign, cause))
            }
            Err(refused) => Err(refused),
        }
    }

    fn create(&self, store: &Store, log: &str, ours: Option<&Mark>) -> Result<(), Refused> {
        let id = match ours {
            Some(ours) => ours.id.clone(),
            None => {
                let mut id = [0; 16];
                rand::fill(&mut id).map_err(|_| local("no random numbers can be had"))?;
                merkle::hex(&id)
            }
        };
        let mark = Mark {
            id,
            log: log.to_owned(),
            store: self.url.clone(),
        };
        store.create(&name(log), encoded(&mark)?)
    }

    /// What is kept beside the log; nothing where it has used no archive.
    fn ours(&self, log: &str) -> Result<Option<Mark>, Refused> {
        let told = |what: String| local(&format!("`{}`: {what}", self.file.display()));
        let mark: Mark = match fs::read(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(told(e.to_string())),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| told(e.to_string()))?,
        };
        match mark.log == log {
            true => Ok(Some(mark)),
            false => Err(told("it is of another log".into())),
        }
    }

    fn keep(&self, mark: &Mark) -> Result<(), Refused> {
        let written = files::replace(&self.file, &encoded(mark)?, files::Sync::Yes);
        written.map_err(|e| local(&format!("`{}`: {e}", self.file.display())))
    }

    fn another(&self) -> Refused {
        let cause = format!("`{}` has the mark of another log or archive", self.url);
        (Why::Foreign, cause)
    }
}

fn there(store: &Store, log: &str) -> Result<Mark, Refused> {
    let bytes = match store.get(&name(log), MARK_LEN_MAX) {
        Err((Why::Altered, _)) => Bytes::new(),
        got => got?,
    };
    serde_json::from_slice(&bytes).map_err(|_| {
        let cause = format!("`{}` is no mark of an archive", name(log));
        (Why::Foreign, cause)
    })
}

fn name(log: &str) -> String {
    format!("{log}/{MARK}")
}

fn encoded(mark: &Mark) -> Result<Bytes, Refused> {
    let bytes = serde_json::to_vec(mark).map_err(|e| local(&e.to_string()))?;
    Ok(bytes.into())
}

fn local(what: &str) -> Refused {
    (Why::Local, what.to_owned())
}
