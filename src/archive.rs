//! A log in a folder, opened to be read and asked: a copy, a backup, what an evidence
//! package has, or the log of a mesh that runs.
//!
//! The index is made anew in a folder of its own, which goes with it.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use palisade_audit::{
    index::{BucketSpan, Options, Store, StoreError},
    log::{Log, LogOptions, whose},
    report::{Checked, package::Package},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use ulid::Ulid;

use crate::run::audit::{reports, store_of};

/// A log in a folder.
pub(crate) struct Archive {
    log: Log,
    // Before the folder that it writes to.
    store: Store,
    dir: PathBuf,
    clock: Clock,
    _index: Scratch,
}

/// A folder that is removed at the end.
struct Scratch(PathBuf);

impl Archive {
    /// Opens the log in `dir`, or in the folder `log` there, and makes its index.
    ///
    /// # Errors
    /// `PLS7809` when it cannot be read, or its index not be made.
    pub(crate) async fn open(dir: &Path) -> Result<Self, Diagnostic> {
        let inner = dir.join("log");
        let dir = if inner.is_dir() {
            inner
        } else {
            dir.to_owned()
        };
        let failed = |why: &dyn std::fmt::Display| unreadable(&dir, &why.to_string());
        let clock = Clock::system();
        let options = LogOptions {
            read_only: true,
            ..LogOptions::new(whose(&dir).map_err(|e| failed(&e))?)
        };
        let log = Log::open(&dir, options, clock.clone()).map_err(|e| failed(&e))?;
        let index = Scratch::new().map_err(|e| failed(&e))?;
        let store = store_of(&log, &index.0, &clock, BucketSpan::Month).map_err(|e| failed(&e))?;
        store.flush().await.map_err(|e| failed(&e))?;
        Ok(Self {
            log,
            store,
            dir,
            clock,
            _index: index,
        })
    }

    /// What reports are made from.
    pub(crate) fn desk(&self) -> reports::Desk<'_> {
        reports::Desk {
            store: &self.store,
            log: &self.log,
            dir: &self.dir,
            now_us: self.clock.now_us(),
        }
    }

    /// The folder of the log.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Makes the report of a package again, from an index over its records that goes with it.
///
/// # Errors
/// `PLS7809` when the index cannot be made, and what is wrong with the report's head.
pub(crate) async fn checked(package: &Package) -> Result<Checked, Diagnostic> {
    let failed = |why: &dyn std::fmt::Display| {
        Diagnostic::error(7809, "the records of the package cannot be searched")
            .cause(why.to_string())
            .help("see that there is room in the folder for temporary files")
    };
    let (index, clock) = (Scratch::new().map_err(|e| failed(&e))?, Clock::system());
    let options = Options {
        bucket: BucketSpan::Month,
        ..Options::default()
    };
    let store = Store::open(package.source(), &index.0, clock.clone(), options);
    let store = store.map_err(|e| failed(&e))?;
    store.flush().await.map_err(|e| failed(&e))?;
    package.check(&store, clock.now_us()).map_err(|e| match e {
        StoreError::Query(mistake) => *mistake,
        e => failed(&e),
    })
}

/// What to say where the index cannot answer.
pub(crate) fn unanswered(dir: &Path, error: StoreError) -> Diagnostic {
    match error {
        StoreError::Query(mistake) => *mistake,
        error => unreadable(dir, &error.to_string()),
    }
}

fn unreadable(dir: &Path, cause: &str) -> Diagnostic {
    Diagnostic::error(
        7809,
        format!("the log in `{}` cannot be read", dir.display()),
    )
    .cause(cause)
    .help("name the folder of a log, or of a copy: it has a public key, a checkpoint and segments")
}

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let name = format!("palisade-index-{}", Ulid::generate());
        let dir = std::env::temp_dir().join(name);
        // The index has what the log has: it is for nobody else.
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
