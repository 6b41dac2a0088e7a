//! The thread that speaks with the store: whoever reads the log blocks on a file, and must
//! be able to do so on any thread.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::{
    sync::{
        Semaphore,
        mpsc::{UnboundedSender, unbounded_channel},
    },
    task::JoinHandle,
};

/// Exchanges that are under way at a time. One with a folder that hangs cannot be ended, and
/// keeps its place until it ends; those who find no place are told that the store does not
/// answer.
const IN_FLIGHT_MAX: usize = 8;

/// How much later than its time it is heard at the latest that a job has not ended.
const GRACE: Duration = Duration::from_secs(5);

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A handle to it; the thread ends with it.
pub(super) struct Courier {
    jobs: UnboundedSender<Job>,
    places: Arc<Semaphore>,
}

/// What can become of a job that is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// It ends: a connection is closed.
    Ends,
    /// It goes on, for what waits in a system call cannot be ended.
    Stays,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// The time was over.
    Late,
    /// The job has panicked, or the thread has ended.
    Ended,
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
                // What hangs in a system call is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            jobs,
            places: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        })
    }

    /// Waits for `ask`, no longer than `limit`, the time until it begins included.
    pub(super) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        late: Late,
        ask: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Silence> {
        let (done, answer) = mpsc::sync_channel(1);
        let places = self.places.clone();
        let in_place = async move {
            let place = places.acquire_owned().await.map_err(|_| Silence::Ended)?;
            let mut work = Work {
                task: tokio::spawn(async move {
                    let answer = ask.await;
                    drop(place);
                    answer
                }),
                late,
            };
            (&mut work.task).await.map_err(|_| Silence::Ended)
        };
        let job = async move {
            let answer = tokio::time::timeout(limit, in_place).await;
            // Nobody waits any more only if the waiting thread has panicked.
            let _ = done.send(answer.unwrap_or(Err(Silence::Late)));
        };
        let sent = self.jobs.send(Box::pin(job));
        sent.map_err(|_| Silence::Ended)?;
        // The thread itself may be kept by a disk.
        match answer.recv_timeout(limit + GRACE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(Silence::Late),
            Err(RecvTimeoutError::Disconnected) => Err(Silence::Ended),
        }
    }
}

/// A job under way.
struct Work<T> {
    task: JoinHandle<T>,
    late: Late,
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        if self.late == Late::Ends {
            self.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What cannot be ended keeps its place, so that no more of it piles up than there are; what
    /// can be ended does not.
    #[test]
    fn what_hangs_keeps_its_place_and_no_more_begin_than_there_are() {
        let courier = Courier::start().unwrap();
        let begun = |late: Late| {
            let begun = Arc::new(AtomicUsize::new(0));
            for _ in 0..IN_FLIGHT_MAX + 4 {
                let count = begun.clone();
                let answer = courier.run(Duration::from_millis(50), late, async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                });
                assert_eq!(answer, Err(Silence::Late));
            }
            begun.load(Ordering::SeqCst)
        };
        assert_eq!(begun(Late::Ends), IN_FLIGHT_MAX + 4);
        assert_eq!(begun(Late::Stays), IN_FLIGHT_MAX);
        assert_eq!(begun(Late::Ends), 0, "all places are taken");
    }
}
