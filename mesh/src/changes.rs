//! Telling many tasks that something they follow has changed.
//!
//! Policy and identity are swapped behind a pointer, which a task reads when a
//! request makes it look. What must react although no request arrives (an open
//! connection whose peer is trusted no more) waits here instead. Nothing is
//! handed over but the fact; whoever waited reads the newest state.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// The end that tells; clones tell the same followers.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

/// The end that waits.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    seen: u64,
}

impl Changes {
    /// Wakes every follower; to be called after the new state is in place.
    pub fn tell(&self) {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.0.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// A follower of the changes from now on.
    pub fn follow(&self) -> Follower {
        Follower {
            shared: self.0.clone(),
            seen: self.0.count.load(Ordering::SeqCst),
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Ready when something has changed since the last time it was ready.
    /// Several changes may be told as one.
    pub fn poll_changed(&mut self, cx: &Context<'_>) -> Poll<()> {
        {
            let mut waiting = self.shared.lock();
            if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
        }
        let count = self.shared.count.load(Ordering::SeqCst);
        if std::mem::replace(&mut self.seen, count) == count {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Resolves when something has changed since the last time it did.
    pub async fn changed(&mut self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_follower_is_woken_once_and_sees_a_change_it_did_not_wait_for() {
        let changes = Changes::default();
        let (mut early, woken) = (changes.follow(), Arc::new(Woken::default()));
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        assert_eq!(early.poll_changed(&cx), Poll::Pending);
        assert_eq!(early.poll_changed(&cx), Poll::Pending);
        changes.tell();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(early.poll_changed(&cx), Poll::Ready(()));
        assert_eq!(early.poll_changed(&cx), Poll::Pending);
        let mut late = changes.follow();
        assert_eq!(late.poll_changed(&cx), Poll::Pending);
        changes.tell();
        changes.tell();
        assert_eq!(late.poll_changed(&cx), Poll::Ready(()));
        assert_eq!(late.poll_changed(&cx), Poll::Pending);
    }
}
