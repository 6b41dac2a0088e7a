//! The thread that speaks with the store: whoever reads the log blocks on a file, and must
//! be able to do so on any thread.

use std::{future::Future, io, pin::Pin, sync::mpsc};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A handle to it; the thread ends with it.
pub(super) struct Courier {
    jobs: UnboundedSender<Job>,
}

impl Courier {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Each job has somebody who waits for it.
        let (jobs, mut waiting) = unbounded_channel::<Job>();
        std::thread::Builder::new()
            .name("audit-archive".into())
            .spawn(move || {
                runtime.block_on(async move {
                    while let Some(job) = waiting.recv().await {
                        tokio::spawn(job);
                    }
                });
            })?;
        Ok(Self { jobs })
    }

    /// Waits for `ask`; `None` when it has panicked or the thread has ended.
    pub(super) fn run<T: Send + 'static>(
        &self,
        ask: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, answer) = mpsc::sync_channel(1);
        let job = async move {
            // Nobody waits any more only if the waiting thread has panicked.
            let _ = done.send(ask.await);
        };
        self.jobs.send(Box::pin(job)).ok()?;
        answer.recv().ok()
    }
}
