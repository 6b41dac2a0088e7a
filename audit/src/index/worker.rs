//! The thread that owns the indexer: wakes for new records, for commands and
//! for the time of the next commit.

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use tokio::sync::mpsc;

use super::{
    Command, StoreError,
    indexer::{Indexer, Step},
    shared::Shared,
};

/// Wait after a failure before the index is opened again.
const RETRY: Duration = Duration::from_secs(5);

/// Opens the index and starts the thread that keeps it. It ends when `commands`
/// closes.
pub(super) fn start(
    shared: Arc<Shared>,
    dir: PathBuf,
    commands: mpsc::UnboundedReceiver<Command>,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let indexer = Indexer::open(Arc::clone(&shared), dir.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let worker = Worker {
        shared,
        dir,
        indexer: Some(indexer),
    };
    let thread = thread::Builder::new()
        .name("audit-index".into())
        .spawn(move || runtime.block_on(worker.run(commands)))?;
    Ok(thread)
}

/// Wait before the disk is looked at again.
const PRESSED: Duration = Duration::from_secs(1);

struct Worker {
    shared: Arc<Shared>,
    dir: PathBuf,
    /// None after a failure, until it is opened again.
    indexer: Option<Indexer>,
}

impl Worker {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut length = self.shared.source.subscribe();
        let mut follows = true;
        loop {
            length.borrow_and_update();
            let (wait, healthy) = match self.shared.source.pressed() {
                Some(why) => {
                    self.shed(why);
                    (PRESSED, false)
                }
                None => match self.attempt(Indexer::step) {
                    Ok(Step::Again) => (Duration::ZERO, true),
                    Ok(Step::Wait(wait)) => (wait, true),
                    Err(_) => (RETRY, false),
                },
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    // The asker may have gone away.
                    Some(Command::Flush(done)) => {
                        let _ = done.send(self.attempt(Indexer::flush));
                    }
                    Some(Command::Tidy(done)) => {
                        let _ = done.send(self.attempt(Indexer::tidy_up));
                    }
                    None => return,
                },
                changed = length.changed(), if follows && healthy => follows = changed.is_ok(),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Lets the index go until there is room again: open writers would go on
    /// writing. What they held is read from the log once more.
    fn shed(&mut self, why: String) {
        if self.indexer.take().is_some() {
            tracing::warn!(%why, "audit index waits");
        }
        self.shared.write().stalled = Some(why);
    }

    /// Does some work. After a failure the index is opened again: what a writer
    /// held and did not commit is read from the log once more.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Indexer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut indexer = match self.indexer.take() {
            Some(indexer) => indexer,
            None => Indexer::open(Arc::clone(&self.shared), self.dir.clone())?,
        };
        let done = work(&mut indexer);
        match &done {
            Ok(_) => self.indexer = Some(indexer),
            // Nothing is wrong with the index, which says what it waits for in an archive.
            Err(error) if error.is_away() => self.indexer = Some(indexer),
            Err(error) => {
                tracing::error!(%error, "audit index does not get on");
                self.shared.write().stalled = Some(error.to_string());
            }
        }
        done
    }
}

impl Drop for Worker {
    /// However the thread ends, a panic included, searches say so.
    fn drop(&mut self) {
        self.shared.write().stalled = Some(StoreError::Stopped.to_string());
    }
}
