//! Waiting for records to be on disk, for all `strict` requests of a worker
//! together.
//!
//! One *round* is under way at a time: whoever asks meanwhile shares the next, which
//! begins when this one ends. So the log is asked for one fsync per round, however
//! many requests wait, and none of them keeps the worker from serving others.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
};

use palisade_mesh::sink::SinkError;
use tokio::sync::watch;

use crate::worker::Worker;

/// Resolves when everything recorded before it was taken is on disk, or cannot be.
pub(crate) type Ticket = Pin<Box<dyn Future<Output = Result<(), SinkError>>>>;

type Settled = Option<Result<(), SinkError>>;

/// The rounds of one worker.
#[derive(Default)]
pub(crate) struct Settling {
    /// Those who share the next round.
    next: RefCell<Option<watch::Sender<Settled>>>,
    under_way: Cell<bool>,
}

/// Joins the next round.
pub(crate) fn join(worker: &Rc<Worker>) -> Ticket {
    let settling = &worker.settling;
    let mut settled = settling
        .next
        .borrow_mut()
        .get_or_insert_with(|| watch::Sender::new(None))
        .subscribe();
    if !settling.under_way.replace(true) {
        tokio::task::spawn_local(rounds(worker.clone()));
    }
    Box::pin(async move {
        let known = settled.wait_for(Option::is_some).await;
        // A round that was given up kept nothing.
        known.map_or(Err(SinkError::Closed), |known| {
            known.clone().unwrap_or(Err(SinkError::Closed))
        })
    })
}

/// Runs rounds until nobody waits.
async fn rounds(worker: Rc<Worker>) {
    loop {
        // Requests that are ready by now share this round.
        tokio::task::yield_now().await;
        let Some(round) = worker.settling.next.take() else {
            worker.settling.under_way.set(false);
            return;
        };
        let durable = worker.recorder.borrow_mut().durable();
        round.send_replace(Some(durable.await));
    }
}
