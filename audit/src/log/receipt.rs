//! What becomes of an appended batch.

use std::sync::Arc;

use tokio::sync::watch;

use super::Checkpoint;

/// A batch that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Records that are new in the log.
    pub accepted: usize,
    /// Records that were in it already.
    pub duplicates: usize,
    /// Every record of the batch has an index below this.
    pub size: u64,
}

/// Why nothing of a batch was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The writer's queue is full.
    #[error("log is busy: too many batches wait")]
    Busy,
    /// The log has been closed.
    #[error("log is closed")]
    Closed,
    /// The disk refused; the log can be read, and later appends try again.
    #[error("log cannot be written: {0}")]
    Io(Arc<str>),
    /// The log was opened for reading.
    #[error("log is open for reading only")]
    ReadOnly,
    /// The batch is beyond a limit.
    #[error("batch is refused: {0}")]
    Refused(Arc<str>),
}

pub(super) type Done = watch::Sender<Option<Result<Appended, AppendError>>>;

/// Resolves when a batch is durable, and again when it is under a checkpoint.
#[derive(Debug, Clone)]
pub struct Receipt {
    done: watch::Receiver<Option<Result<Appended, AppendError>>>,
    checkpoint: watch::Receiver<Arc<Checkpoint>>,
}

pub(super) fn receipt(
    done: Option<Result<Appended, AppendError>>,
    checkpoint: watch::Receiver<Arc<Checkpoint>>,
) -> (Done, Receipt) {
    let (sender, done) = watch::channel(done);
    (sender, Receipt { done, checkpoint })
}

impl Receipt {
    /// Waits until the batch is fsynced.
    ///
    /// # Errors
    /// [`AppendError`] when nothing of it was kept.
    pub async fn durable(&mut self) -> Result<Appended, AppendError> {
        // An error means that the writer is gone; it may have answered before.
        let _ = self.done.wait_for(Option::is_some).await;
        self.result().unwrap_or(Err(AppendError::Closed))
    }

    /// The outcome, if it is known by now.
    pub fn result(&self) -> Option<Result<Appended, AppendError>> {
        self.done.borrow().clone()
    }

    /// Waits until the batch is under a signed checkpoint, and gives that.
    ///
    /// # Errors
    /// [`AppendError`] when nothing was kept, or the log closed without a checkpoint.
    pub async fn checkpointed(&mut self) -> Result<Arc<Checkpoint>, AppendError> {
        let size = self.durable().await?.size;
        self.checkpoint
            .wait_for(|checkpoint| checkpoint.size >= size)
            .await
            .map(|checkpoint| checkpoint.clone())
            .map_err(|_| AppendError::Closed)
    }
}
