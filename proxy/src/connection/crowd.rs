//! All open connections of a worker: how many there are, and orders to each.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::Instant,
};

use super::{Control, Order, Wake};
use crate::{config::Limits, telemetry::Gauges};

/// The open connections of one worker.
pub(crate) struct Connections {
    open: Cell<usize>,
    gauges: Arc<Gauges>,
    steered: RefCell<Vec<Weak<Control>>>,
    /// The last order to all, for those that join later.
    standing: Cell<Order>,
    changed: Wake,
}

/// One place among the open connections; given back on drop.
pub(crate) struct Place(Rc<Connections>);

impl Connections {
    /// None yet; `gauges` shows how many there are.
    pub(crate) fn new(gauges: Arc<Gauges>) -> Rc<Self> {
        Rc::new(Self {
            open: Cell::new(0),
            gauges,
            steered: RefCell::default(),
            standing: Cell::new(Order::Serve),
            changed: Wake::default(),
        })
    }

    fn set_open(&self, open: usize) {
        self.open.set(open);
        self.gauges.connections.set(open as u64);
    }

    /// Connections that hold a place, those in a handshake included.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Takes a place.
    pub(crate) fn enter(self: &Rc<Self>) -> Place {
        self.set_open(self.open.get() + 1);
        Place(self.clone())
    }

    /// Puts a connection under the sweep.
    pub(crate) fn steer(&self, control: &Rc<Control>) {
        // A handshake may have ended after a drain began.
        control.give(self.standing.get());
        self.steered.borrow_mut().push(Rc::downgrade(control));
    }

    /// Gives every connection an order.
    pub(crate) fn give_all(&self, order: Order) {
        self.standing.set(order);
        for control in self.steered.borrow().iter().filter_map(Weak::upgrade) {
            control.give(order);
        }
    }

    /// Every connection under the sweep.
    pub(crate) fn all(&self) -> Vec<Rc<Control>> {
        let steered = self.steered.borrow();
        steered.iter().filter_map(Weak::upgrade).collect()
    }

    /// Applies time to every connection and forgets those that are gone;
    /// `closed` is told why one was closed.
    pub(crate) fn sweep(
        &self,
        now: Instant,
        now_s: i64,
        limits: &Limits,
        mut closed: impl FnMut(&'static str),
    ) {
        self.steered
            .borrow_mut()
            .retain(|weak| match weak.upgrade() {
                Some(control) => {
                    if let Some(reason) = control.sweep(now, now_s, limits) {
                        closed(reason);
                    }
                    true
                }
                None => false,
            });
    }

    /// Resolves when no connection is left.
    pub(crate) async fn gone(&self) {
        std::future::poll_fn(|cx| {
            self.changed.register(cx);
            match self.open.get() {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set_open(self.0.open.get().saturating_sub(1));
        self.0.changed.wake();
    }
}
