//! A log in a folder, opened to be read and asked: a copy, a backup, what an evidence
//! package has, or the log of a mesh that runs.
//!
//! The index is made anew in a folder of its own, which goes with it.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_audit::{
    going::{Ended, Going},
    index::{BucketSpan, Options, Store, StoreError},
    log::{Log, LogOptions, whose},
    report::{Checked, package::Package},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use ulid::Ulid;

use crate::{
    cli::report::attending,
    render::progress::{Far, Progress},
    run::audit::{reports, store_of},
};

/// A log in a folder.
pub(crate) struct Archive {
    log: Log,
    // Before the folder that it writes to.
    store: Store,
    dir: PathBuf,
    clock: Clock,
    index: Scratch,
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
        // Ctrl-C is heard before there is anything that it would leave behind.
        attending::ask()?;
        let failed = |why: &dyn std::fmt::Display| unreadable(&dir, &why.to_string());
        let clock = Clock::system();
        let options = LogOptions {
            read_only: true,
            ..LogOptions::new(whose(&dir).map_err(|e| failed(&e))?)
        };
        let log = Log::open(&dir, options, clock.clone()).map_err(|e| failed(&e))?;
        let index = Scratch::new().map_err(|e| failed(&e))?;
        let store =
            store_of(&log, &index.0, &clock, BucketSpan::Month, None).map_err(|e| failed(&e))?;
        indexed(&store).await?.map_err(|e| failed(&e))?;
        let (of, now_us) = (log.clone(), clock.now_us());
        let finding = move |going: &Going| of.find_gaps(going, now_us);
        let found = apart(
            &index.0,
            "what is missing from the log is looked for",
            finding,
        );
        found.await?.map_err(Ended::diagnostic)?;
        Ok(Self {
            log,
            store,
            dir,
            clock,
            index,
        })
    }

    /// What reports are made from.
    pub(crate) fn desk(&self) -> reports::Desk<'_> {
        self.desk_with(&self.store)
    }

    fn desk_with<'a>(&'a self, store: &'a Store) -> reports::Desk<'a> {
        reports::Desk {
            store,
            log: &self.log,
            dir: &self.dir,
            now_us: self.clock.now_us(),
        }
    }

    /// Has the desk work, which is called `what`, until it is done or its user ends it.
    ///
    /// # Errors
    /// `PLS7809` when the index cannot answer, `PLS7812` when it was interrupted, and what
    /// is wrong with the question.
    pub(crate) async fn working<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&reports::Desk<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Diagnostic> {
        let archive = self.clone();
        let working = move |going: &Going| {
            let store = archive.store.heeding(going);
            work(&archive.desk_with(&store))
        };
        let done = apart(&self.index.0, what, working).await?;
        done.map_err(|error| match error {
            StoreError::Query(mistake) => *mistake,
            error => unreadable(&self.dir, &error.to_string()),
        })
    }
}

/// Makes the report of a package again, from an index over its records that goes with it.
///
/// # Errors
/// `PLS7809` when the index cannot be made, `PLS7812` when it was interrupted, and what is
/// wrong with the report's head.
pub(crate) async fn checked(package: &Arc<Package>) -> Result<Checked, Diagnostic> {
    attending::ask()?;
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
    indexed(&store).await?.map_err(|e| failed(&e))?;
    let package = package.clone();
    let checking = move |going: &Going| package.check(&store.heeding(going), clock.now_us());
    let checked = apart(&index.0, "the report is made again", checking);
    checked.await?.map_err(|e| match e {
        StoreError::Query(mistake) => *mistake,
        e => failed(&e),
    })
}

/// Does `work` apart, and removes the folder `index` when the user ends it.
async fn apart<T: Send + 'static>(
    index: &Path,
    what: &'static str,
    work: impl FnOnce(&Going) -> T + Send + 'static,
) -> Result<T, Diagnostic> {
    let done = attending::apart(what, attending::interrupted, work).await;
    if done.is_err() {
        let _ = std::fs::remove_dir_all(index);
    }
    done
}

/// Waits until the index has all of its log, tells a terminal how far it is, and ends with
/// Ctrl-C: then what was made goes with its folder.
///
/// # Errors
/// `PLS7812` when it was interrupted.
async fn indexed(store: &Store) -> Result<Result<(), StoreError>, Diagnostic> {
    let mut line = Progress::begin();
    let far = |line: &mut Progress| {
        let status = store.status();
        line.tell(Far {
            records: status.searchable,
            of: Some(status.log_len),
            by: None,
        });
    };
    let user = attending::user();
    tokio::select! {
        done = line.during(store.flush(), far) => Ok(done),
        () = user.gone() => Err(attending::interrupted()),
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
