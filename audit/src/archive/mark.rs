//! The mark of an archive: by it the log knows that the place is the one that it has used.
//!
//! A mount point whose disk is not mounted is a folder like any other, and another bucket or
//! prefix takes objects as readily. So the first use leaves an object there with an identity
//! that was drawn for this log, and the log keeps the same beside its segments. Nothing is put,
//! deleted, or let go of here where the place does not have it.
//!
//! A copy of the log's folder has its mark, too. So the mark has a turn, drawn anew by each run
//! before it puts or deletes, and the place where the folder lies. Who has another turn than the
//! archive, or lies in another place than the turn was drawn in, is a copy, or has one that was
//! used since: it reads, and does no more until a person says that it is the one that counts.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use aws_lc_rs::rand;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Why, away::Refused, store::Store};
use crate::{files, merkle};

/// File in the folder of a log that has its mark, and the last part of the object's name.
pub(crate) const MARK: &str = "archive.mark";

/// File in the folder of a log that its writer locks.
const LOCK: &str = "lock";

/// Longest mark, in bytes.
const MARK_LEN_MAX: u64 = 4096;

/// A mark; the file beside the log and the object are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// What is drawn, in hexadecimal.
    id: String,
    /// The log: trust domain and id, as objects are named.
    log: String,
    /// The address of the archive when it was used last; empty while it is being made.
    store: String,
    /// What was drawn by the last run that put or deleted, in hexadecimal.
    turn: String,
    /// What a run has drawn that may not have told the archive yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Which folder drew the turn; a copy of it is another.
    folder: String,
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
    /// A file that stays as long as the folder does, and that a copy has anew.
    lock: PathBuf,
    url: String,
}

impl Marks {
    pub(super) fn new(log: &Path, url: &str) -> Self {
        Self {
            file: log.join(MARK),
            lock: log.join(LOCK),
            url: url.to_owned(),
        }
    }

    /// Makes sure that the place is the archive of the log whose objects begin with `log`,
    /// and makes it that if it `may` be a new one.
    pub(super) fn begin(&self, store: &Store, log: &str, may: First) -> Result<(), Refused> {
        let ours = match self.ours(log)? {
            Some(ours) if ours.store == self.url => return self.same(store, &ours).map(drop),
            // What was marked is somewhere else: a copy of it has the mark, too.
            Some(ours) if may == First::Never => {
                self.same(store, &ours)?;
                ours
            }
            None if may == First::Never => return Err(self.unmarked()),
            Some(ours) => ours,
            None => self.drawn(log)?,
        };
        if may == First::May {
            self.create(store, &ours)?;
        }
        self.same(store, &ours)?;
        let store = self.url.clone();
        self.keep(&Mark { store, ..ours })
    }

    /// Makes sure that the place is the archive of this log, which was used before.
    pub(super) fn check(&self, store: &Store, log: &str) -> Result<(), Refused> {
        let ours = self.ours(log)?.ok_or_else(|| self.unmarked())?;
        self.same(store, &ours).map(drop)
    }

    /// As [`Marks::check`], for one that puts or deletes, or lets go of something here: no copy
    /// of the folder has done so since.
    pub(super) fn holds(&self, store: &Store, log: &str) -> Result<(), Refused> {
        let ours = self.ours(log)?.ok_or_else(|| self.unmarked())?;
        let (there, _) = self.same(store, &ours)?;
        self.is_turn(&ours, &there)
    }

    /// Draws the next turn, which makes copies of the folder known as such.
    pub(super) fn take_turn(&self, store: &Store, log: &str) -> Result<(), Refused> {
        let ours = self.ours(log)?.ok_or_else(|| self.unmarked())?;
        let (there, bytes) = self.same(store, &ours)?;
        self.is_turn(&ours, &there)?;
        self.turn(store, ours, there, bytes)
    }

    /// Makes this folder the one that counts, whichever has used the archive since.
    pub(super) fn adopt(&self, store: &Store, log: &str) -> Result<(), Refused> {
        // One that was drawn and is at no place yet is nothing to hold on to.
        let ours = self.ours(log)?.filter(|ours| !ours.store.is_empty());
        let (there, bytes) = match &ours {
            Some(ours) => self.same(store, ours)?,
            None => there(store, log)?,
        };
        if there.log != log {
            return Err(self.another());
        }
        let ours = ours.unwrap_or_else(|| there.clone());
        self.turn(store, ours, there, bytes)
    }

    fn turn(&self, store: &Store, ours: Mark, there: Mark, bytes: Bytes) -> Result<(), Refused> {
        let (turn, folder) = (drawn()?, self.folder()?);
        // Kept first: after a crash between the two it is known as ours.
        self.keep(&Mark {
            turn: there.turn.clone(),
            next: Some(turn.clone()),
            folder: folder.clone(),
            store: self.url.clone(),
            ..ours
        })?;
        let now = Mark {
            turn,
            next: None,
            folder,
            store: self.url.clone(),
            ..there
        };
        store.exchange_for(&name(&now.log), bytes, encoded(&now)?)?;
        self.keep(&now)
    }

    /// Whether what is kept here has the turn that is `there`, and was drawn by this folder.
    fn is_turn(&self, ours: &Mark, there: &Mark) -> Result<(), Refused> {
        let same = ours.turn == there.turn || ours.next.as_ref() == Some(&there.turn);
        let cause = match (same, ours.folder == self.folder()?) {
            (true, true) => return Ok(()),
            (false, _) => "another copy of the log's folder has put or deleted there since",
            (true, false) => "the log's folder is a copy of the one that uses it",
        };
        let cause = format!("`{}`: {cause}; see: palisade audit archive adopt", self.url);
        Err((Why::Foreign, cause))
    }

    /// What is there, if it is the mark of this archive.
    fn same(&self, store: &Store, ours: &Mark) -> Result<(Mark, Bytes), Refused> {
        match there(store, &ours.log) {
            Ok((there, bytes)) if (&there.id, &there.log) == (&ours.id, &ours.log) => {
                Ok((there, bytes))
            }
            Ok((there, _)) if there.log == ours.log => Err(self.drawn_twice(ours)),
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

    /// A mark for a log that has none. It is kept before the place is made the log's: after a
    /// crash between the two it is made so by the next.
    fn drawn(&self, log: &str) -> Result<Mark, Refused> {
        let mark = Mark {
            id: drawn()?,
            log: log.to_owned(),
            store: String::new(),
            turn: drawn()?,
            next: None,
            folder: self.folder()?,
        };
        self.keep(&mark)?;
        Ok(mark)
    }

    fn create(&self, store: &Store, ours: &Mark) -> Result<(), Refused> {
        let mark = Mark {
            store: self.url.clone(),
            ..ours.clone()
        };
        store.create(&name(&mark.log), encoded(&mark)?)
    }

    /// What tells this folder from a copy of it: the lock of the log, and when it was made.
    fn folder(&self) -> Result<String, Refused> {
        let told = |e: io::Error| local(&format!("`{}`: {e}", self.lock.display()));
        let metadata = fs::metadata(&self.lock).map_err(told)?;
        // Not every file system knows when.
        let made = metadata.created().ok();
        let made = made.and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let made = made.map_or(0, |made| made.as_nanos());
        Ok(format!("{}-{made}", metadata.ino()))
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

    fn unmarked(&self) -> Refused {
        let cause = format!(
            "`{MARK}` is not beside the log, by which it is known; if `{}` is the log's, say so: palisade audit archive adopt",
            self.url
        );
        (Why::Foreign, cause)
    }

    /// What beside the log is not what the place has, though both are of this log.
    fn drawn_twice(&self, ours: &Mark) -> Refused {
        let url = &self.url;
        let way_out = match ours.store.is_empty() {
            true => "if that is the log's, say so",
            false => "if that is the log's, remove the one beside it, and say so",
        };
        let cause = format!(
            "`{url}` has a mark of this log that is not the `{MARK}` beside it: {way_out}: palisade audit archive adopt"
        );
        (Why::Foreign, cause)
    }

    fn another(&self) -> Refused {
        let cause = format!("`{}` has the mark of another log or archive", self.url);
        (Why::Foreign, cause)
    }
}

fn there(store: &Store, log: &str) -> Result<(Mark, Bytes), Refused> {
    let bytes = match store.get(&name(log), MARK_LEN_MAX) {
        Err((Why::Altered, _)) => Bytes::new(),
        got => got?,
    };
    let mark = serde_json::from_slice(&bytes).map_err(|_| {
        let cause = format!("`{}` is no mark of an archive", name(log));
        (Why::Foreign, cause)
    })?;
    Ok((mark, bytes))
}

fn drawn() -> Result<String, Refused> {
    let mut drawn = [0; 16];
    rand::fill(&mut drawn).map_err(|_| local("no random numbers can be had"))?;
    Ok(merkle::hex(&drawn))
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
