//! What a worker keeps of each open connection: whether it is busy, what is
//! asked of it, and when it must end.
//!
//! No connection has a timer of its own. A worker sweeps its connections twice
//! a second, which is precise enough for limits of seconds and costs nothing
//! per request.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use http::{HeaderValue, Response, header::CONNECTION};
use palisade_mesh::svid::{Foundation, Peer, PeerFacts};

use crate::{config::Limits, respond::Refusal};

mod crowd;
mod observed;

pub(crate) use crowd::{Connections, Place};
pub(crate) use observed::{Bytes, FirstRead, Observed};

/// What a connection is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// Finish what is in flight, take nothing new.
    Finish,
    /// End now.
    Cut,
}

/// One waiting task, woken when there is something to look at.
#[derive(Default)]
pub(crate) struct Wake(RefCell<Option<Waker>>);

impl Wake {
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut slot = self.0.borrow_mut();
        if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.0.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// How a connection is steered and what it is doing.
pub(crate) struct Control {
    order: Cell<Order>,
    wake: Wake,
    in_flight: Cell<u32>,
    asked_to_finish: Cell<Option<Instant>>,
    idle_since: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    bytes: Arc<Bytes>,
    kind: Kind,
    opened: Instant,
    begun: Cell<bool>,
    /// Requests so far, and those of them that the peer took back at once.
    requests: Cell<u32>,
    taken_back: Cell<u32>,
    /// When to close gracefully, seconds since the Unix epoch.
    finish_at_s: i64,
    /// When nothing may be decided any more, seconds since the Unix epoch.
    end_at_s: i64,
    /// What the peer's identity rests on.
    proof: Option<Rc<Proof>>,
    /// Why nothing may be decided any more, although the certificate has not ended.
    revoked: Cell<Option<Revocation>>,
    /// The snapshot under which the peer was last looked up among the barred.
    epoch: Cell<u64>,
    /// Whether the next sweep cuts the connection.
    cut_due: Cell<bool>,
}

/// A peer's identity and what it rests on, for as long as a connection is open.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) peer: Peer,
    pub(crate) foundation: Arc<Foundation>,
}

impl Proof {
    /// By what the peer can be barred.
    pub(crate) fn facts(&self) -> PeerFacts<'_> {
        PeerFacts {
            peer: &self.peer,
            foundation: &self.foundation,
        }
    }
}

/// Why a peer may hold no connection any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revocation {
    /// The bundle has lost the root that its chain rests on.
    Untrusted,
    /// The policy bars it, for this reason.
    Barred(&'static str),
}

/// What runs on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP/1.1, which reads heads one at a time, so a slow one can be told.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes after an upgrade; there is no request to wait for.
    Tunnel,
}

/// Requests that a peer may take back within [`TAKEN_BACK_WITHIN`]; after more than
/// these, and more than half of all, its connection is cut. A caller whose deadlines
/// pass gives up later than that.
const TAKEN_BACK_MAX: u32 = 500;
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(1);

/// Time a connection without any request so far is left alone by a drain: its
/// first request may be on its way.
const FRESH: Duration = Duration::from_millis(250);

/// Time an idle HTTP/1.1 connection that is to finish waits for one more request,
/// whose answer says that it is the last: this protocol has no other farewell, and
/// to close in silence is to lose the request that is on its way.
const LINGER: Duration = Duration::from_millis(400);

/// Longest lead with which a connection is closed before its certificate ends.
const FINISH_LEAD_MAX_S: i64 = 10;

impl Control {
    /// For a connection whose peer's certificate is valid between the two
    /// times; it closes gracefully a tenth of that before the end, at most
    /// ten seconds, so that a request on its way is not refused.
    pub(crate) fn new(bytes: Arc<Bytes>, kind: Kind, not_before_s: i64, not_after_s: i64) -> Self {
        let lead = ((not_after_s.saturating_sub(not_before_s)) / 10).clamp(0, FINISH_LEAD_MAX_S);
        Self {
            order: Cell::new(Order::Serve),
            wake: Wake::default(),
            in_flight: Cell::new(0),
            asked_to_finish: Cell::new(None),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            bytes,
            kind,
            opened: Instant::now(),
            begun: Cell::new(false),
            requests: Cell::new(0),
            taken_back: Cell::new(0),
            finish_at_s: not_after_s.saturating_sub(lead),
            end_at_s: not_after_s,
            proof: None,
            revoked: Cell::new(None),
            epoch: Cell::new(0),
            cut_due: Cell::new(false),
        }
    }

    /// For a connection whose peer has proved its identity.
    pub(crate) fn proven(bytes: Arc<Bytes>, kind: Kind, proof: Rc<Proof>) -> Self {
        let (from_s, to_s) = (proof.peer.not_before_s, proof.peer.not_after_s);
        Self {
            proof: Some(proof),
            ..Self::new(bytes, kind, from_s, to_s)
        }
    }

    /// For a connection whose peer has no certificate.
    pub(crate) fn endless(bytes: Arc<Bytes>, kind: Kind) -> Self {
        Self::new(bytes, kind, 0, i64::MAX)
    }

    /// Whether the connection speaks HTTP/1.1.
    pub(crate) fn is_http1(&self) -> bool {
        self.kind == Kind::Http1
    }

    /// Whether the peer's certificate has ended.
    pub(crate) fn has_ended(&self, now_us: i64) -> bool {
        now_us / 1_000_000 >= self.end_at_s
    }

    /// End of the peer's certificate, microseconds since the Unix epoch.
    pub(crate) fn end_us(&self) -> i64 {
        self.end_at_s.saturating_mul(1_000_000)
    }

    /// What the peer's identity rests on; none where it has none.
    pub(crate) fn proof(&self) -> Option<&Rc<Proof>> {
        self.proof.as_ref()
    }

    /// Why nothing may be decided any more.
    pub(crate) fn revoked(&self) -> Option<Revocation> {
        self.revoked.get()
    }

    /// From now on nothing is decided on this connection; it takes nothing new.
    pub(crate) fn revoke(&self, why: Revocation) {
        if self.revoked.get().is_none() {
            self.revoked.set(Some(why));
            self.begun.set(true);
            self.give(Order::Finish);
        }
    }

    /// Whether the peer has to be looked up among the barred, once per snapshot.
    pub(crate) fn enters(&self, epoch: u64) -> bool {
        self.epoch.replace(epoch) != epoch
    }

    /// The order in force; registers the task for the next one.
    pub(crate) fn poll_order(&self, cx: &Context<'_>) -> Order {
        self.wake.register(cx);
        match self.order.get() {
            Order::Finish if self.awaits_a_last(Instant::now()) => Order::Serve,
            order => order,
        }
    }

    fn awaits_a_last(&self, now: Instant) -> bool {
        if self.in_flight.get() > 0 {
            return false;
        }
        let fresh = !self.begun.get() && now.saturating_duration_since(self.opened) < FRESH;
        let asked = self.asked_to_finish.get().unwrap_or(now);
        fresh || (self.is_http1() && now.saturating_duration_since(asked) < LINGER)
    }

    pub(crate) fn order(&self) -> Order {
        self.order.get()
    }

    /// Gives an order; a milder one than is in force is ignored.
    pub(crate) fn give(&self, order: Order) {
        if order > self.order.get() {
            self.order.set(order);
            self.asked_to_finish.set(Some(Instant::now()));
            self.wake.wake();
        }
    }

    /// Gives `refusal` its answer; ends the connection if what follows on it cannot be
    /// trusted.
    pub(crate) fn refuse<B>(&self, refusal: &Refusal, mut answer: Response<B>) -> Response<B> {
        if refusal.close {
            self.give(Order::Finish);
            if self.is_http1() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
        }
        answer
    }

    /// Notes that a request has begun.
    pub(crate) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.head_since.set(None);
        self.begun.set(true);
        if self.order.get() == Order::Finish {
            // It is the last one, and its answer should say so.
            self.wake.wake();
        }
        self.requests.set(self.requests.get().saturating_add(1));
    }

    /// Notes that the peer gave a request up after `lived`, without an answer.
    pub(crate) fn taken_back(&self, lived: Duration) {
        if lived < TAKEN_BACK_WITHIN {
            self.taken_back.set(self.taken_back.get().saturating_add(1));
            if self.is_abused() {
                self.give(Order::Cut);
            }
        }
    }

    /// Whether the peer mostly asks for what it does not want (rapid reset, T80).
    pub(crate) fn is_abused(&self) -> bool {
        let back = self.taken_back.get();
        back > TAKEN_BACK_MAX && back > self.requests.get() / 2
    }

    /// Notes that a request has ended.
    pub(crate) fn end(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.idle_since.set(now);
        self.bytes.clear();
    }

    /// Applies time to the connection; says why it was closed, if it was.
    pub(crate) fn sweep(&self, now: Instant, now_s: i64, limits: &Limits) -> Option<&'static str> {
        if self.order.get() == Order::Serve && now_s >= self.finish_at_s {
            self.give(Order::Finish);
            return Some("certificate_end");
        }
        if now_s >= self.end_at_s {
            // What is in flight has been ended, too, for its caller has no identity
            // any more; it has until the next sweep to say so.
            if self.in_flight.get() == 0 || self.cut_due.replace(true) {
                self.give(Order::Cut);
            }
            return None;
        }
        if self.kind == Kind::Tunnel || self.in_flight.get() > 0 {
            return None;
        }
        if self.order.get() == Order::Finish {
            // A fresh connection was left alone when the order was given.
            self.wake.wake();
        }
        if self.kind == Kind::Http1 && self.bytes.seen() {
            let since = self.head_since.get().unwrap_or(now);
            self.head_since.set(Some(since));
            if now.saturating_duration_since(since) >= limits.header_read_timeout {
                self.give(Order::Cut);
                return Some("header_timeout");
            }
        }
        let idle = now.saturating_duration_since(self.idle_since.get());
        if idle >= limits.idle_timeout && self.order.get() == Order::Serve {
            self.give(Order::Finish);
            return Some("idle");
        }
        // A peer that ignores the farewell holds no more than this.
        if idle >= limits.idle_timeout.saturating_add(FAREWELL) {
            self.give(Order::Cut);
        }
        None
    }
}

/// Time an idle connection has to close after it was asked to.
const FAREWELL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            ..Limits::default()
        }
    }

    /// T85: a head that dribbles in is cut, one that has not begun is not.
    #[test]
    fn a_slow_head_is_cut_and_silence_is_not() {
        let bytes = Arc::new(Bytes::default());
        let control = Control::endless(bytes.clone(), Kind::Http1);
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(control.sweep(at(9), 0, &limits()), None);
        bytes.note(FirstRead::Data);
        assert_eq!(control.sweep(at(10), 0, &limits()), None);
        assert_eq!(control.sweep(at(19), 0, &limits()), None);
        assert_eq!(control.sweep(at(20), 0, &limits()), Some("header_timeout"));
        assert_eq!(control.order(), Order::Cut);
    }

    /// T80: who takes back what it asked for is cut, who mostly waits is not.
    #[test]
    fn requests_taken_back_at_once_are_bounded() {
        let at_once = Duration::from_millis(999);
        let run = |lived, waited: u32| {
            let control = Control::endless(Arc::default(), Kind::Http2);
            for _ in 0..waited {
                control.begin();
            }
            for _ in 0..=TAKEN_BACK_MAX {
                assert_eq!(control.order(), Order::Serve);
                control.begin();
                control.taken_back(lived);
            }
            control.order()
        };
        assert_eq!(run(at_once, 0), Order::Cut);
        assert_eq!(run(at_once, TAKEN_BACK_MAX - 1), Order::Cut);
        assert_eq!(run(at_once, TAKEN_BACK_MAX + 1), Order::Serve);
        assert_eq!(run(TAKEN_BACK_WITHIN, 0), Order::Serve);
    }

    #[test]
    fn a_busy_connection_is_not_idle() {
        let control = Control::endless(Arc::default(), Kind::Http1);
        let start = Instant::now();
        control.begin();
        assert_eq!(
            control.sweep(start + Duration::from_secs(600), 0, &limits()),
            None
        );
        control.end(start + Duration::from_secs(600));
        assert_eq!(
            control.sweep(start + Duration::from_secs(650), 0, &limits()),
            None
        );
        assert_eq!(
            control.sweep(start + Duration::from_secs(661), 0, &limits()),
            Some("idle")
        );
    }

    /// Invariant 8, the certificate's part: closed gracefully shortly before the
    /// end, and nothing is decided from the end on.
    #[test]
    fn a_connection_ends_with_its_certificate() {
        let control = Control::new(Arc::default(), Kind::Http2, 0, 60);
        let now = Instant::now();
        assert_eq!(control.sweep(now, 53, &limits()), None);
        assert_eq!(control.sweep(now, 54, &limits()), Some("certificate_end"));
        assert_eq!(control.order(), Order::Finish);
        assert!(!control.has_ended(59_999_999));
        assert!(control.has_ended(60_000_000));
        // T102: a request in flight does not keep it open.
        control.begin();
        control.sweep(now, 59, &limits());
        assert_eq!(control.order(), Order::Finish);
        control.sweep(now, 60, &limits());
        assert_eq!(control.order(), Order::Finish, "time to say so");
        control.sweep(now, 60, &limits());
        assert_eq!(control.order(), Order::Cut);
        let idle = Control::new(Arc::default(), Kind::Http2, 0, 60);
        idle.sweep(now, 59, &limits());
        idle.sweep(now, 60, &limits());
        assert_eq!(idle.order(), Order::Cut);
    }
}
