//! Deciding again what is open (invariant 8).
//!
//! Authorization outlives the handshake and the first decision. When another
//! snapshot takes over, each open exchange of the worker is decided again under
//! it; when the bundle loses a root, or the policy bars a peer, the connections
//! that rest on it end, with what is open on them; and each exchange has a time
//! at which it is looked at although nothing changed: the end of the caller's
//! certificate, the next moment at which a clock that the policies read can
//! change the answer, the greatest age of a stream.
//!
//! Each re-judgement leaves a record that the decision's id joins to the others;
//! one that only the clock asked for, and that changed nothing, leaves none.
//! Nothing of this costs an ordinary request more than what it keeps of its
//! question: a change wakes one task of each worker, which does the rest.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
    task::Poll,
    time::Duration,
};

use palisade_mesh::wire::record::{AuditMode, outcome::End};

use crate::{
    connection::{Control, Order, Revocation},
    exchange::{Decided, Due, Exchange},
    inbound::enforce::{self, Asked, Ruling},
    policy::WorkerPolicy,
    recorder::RejudgementFacts,
    respond::{Fault, Refusal},
    worker::Worker,
};

/// Exchanges decided again before requests get their turn.
const BATCH: usize = 32;
/// Time that what is open on a revoked connection has to say that it ended; then
/// the connection is cut.
const FAREWELL: Duration = Duration::from_millis(250);
/// Counts connections that were ended, by reason.
pub(crate) const CLOSED: &str = "palisade_connections_closed_total";
/// Counts re-judgements, by result.
const REJUDGED: &str = "palisade_rejudgements_total";

const CAUSE_TRUST: &str = "trust";
const CAUSE_KILL_LIST: &str = "kill_list";
const CAUSE_DEADLINE: &str = "deadline";

/// Waits for changes of policy and identity, and judges again; never returns.
pub(crate) async fn follow(worker: Rc<Worker>) {
    let mut policy = worker.shared.policy.follow();
    let mut identity = worker.shared.identity.follow();
    loop {
        poll_fn(|cx| {
            // Both, so that both wake this task.
            let changed = [policy.poll_changed(cx), identity.poll_changed(cx)];
            match changed.iter().any(Poll::is_ready) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        revoke(&worker);
        judge_all(&worker).await;
    }
}

/// Ends the connections whose peer is trusted no more, or barred.
fn revoke(worker: &Rc<Worker>) {
    let mut revoked = Vec::new();
    for control in worker.connections.all() {
        let known = control.revoked();
        if let (None, Some(why)) = (known, is_revoked(worker, &control)) {
            control.revoke(why);
            worker.telemetry.event(CLOSED, why.word());
            revoked.push(Rc::downgrade(&control));
        }
    }
    for why in worker.clusters.revoke() {
        worker.telemetry.event(CLOSED, why.word());
    }
    if !revoked.is_empty() {
        tokio::task::spawn_local(cut(revoked));
    }
}

/// Cuts connections after what was open on them had time to say so.
async fn cut(revoked: Vec<Weak<Control>>) {
    tokio::time::sleep(FAREWELL).await;
    for control in revoked.iter().filter_map(Weak::upgrade) {
        control.give(Order::Cut);
    }
}

/// Why the peer of a connection may hold it no longer.
pub(crate) fn is_revoked(worker: &Worker, control: &Control) -> Option<Revocation> {
    let proof = control.proof()?;
    if !worker.shared.identity.trusts(&proof.foundation) {
        return Some(Revocation::Untrusted);
    }
    is_barred(&mut worker.policy.borrow_mut(), control)
}

/// Whether the snapshot in force bars the peer of a connection.
pub(crate) fn is_barred(policy: &mut WorkerPolicy, control: &Control) -> Option<Revocation> {
    let proof = control.proof()?;
    let live = policy.current()?;
    live.barred(&proof.facts()).map(Revocation::Barred)
}

impl Revocation {
    /// The word for metrics.
    fn word(self) -> &'static str {
        match self {
            Self::Untrusted => "peer_untrusted",
            Self::Barred(_) => "peer_barred",
        }
    }

    fn cause(self) -> &'static str {
        match self {
            Self::Untrusted => CAUSE_TRUST,
            Self::Barred(_) => CAUSE_KILL_LIST,
        }
    }

    /// The answer to whoever still asks.
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Untrusted => Fault::PeerUntrusted.into(),
            Self::Barred(reason) => Refusal::of_bar(reason),
        }
    }
}

/// Decides every open exchange again that was not decided under the snapshot in
/// force, and ends those on revoked connections.
async fn judge_all(worker: &Rc<Worker>) {
    let cause = {
        let mut policy = worker.policy.borrow_mut();
        let _ = policy.current();
        policy.cause()
    };
    let open = worker.exchanges.open();
    for batch in open.chunks(BATCH) {
        for exchange in batch.iter().filter_map(Weak::upgrade) {
            let Some(decided) = exchange.decided() else {
                continue;
            };
            let epoch = worker.policy.borrow().epoch();
            if let Some(why) = decided.caller.control.revoked() {
                let ruling = Ruling::refused(why.refusal());
                settle(worker, &exchange, decided, ruling, why.cause());
            } else if decided.epoch.get() != epoch {
                judge(worker, &exchange, decided, cause);
            }
        }
        tokio::task::yield_now().await;
    }
    worker.stir();
}

/// Looks at an exchange whose time has come.
pub(crate) fn look(worker: &Rc<Worker>, exchange: &Rc<Exchange>, due: Due) {
    let Some(decided) = exchange.decided() else {
        exchange.stop(End::Deadline, Fault::StreamAge.into());
        return;
    };
    match due {
        Due::Age => {
            let ruling = Ruling::refused(Fault::StreamAge.into());
            settle(worker, exchange, decided, ruling, CAUSE_DEADLINE);
        }
        Due::Clock => judge(worker, exchange, decided, CAUSE_DEADLINE),
    }
}

/// Decides one exchange again.
fn judge(worker: &Rc<Worker>, exchange: &Rc<Exchange>, decided: &Decided, cause: &'static str) {
    if exchange.is_over() {
        return;
    }
    let now_us = worker.clock.now_us();
    if decided.caller.control.has_ended(now_us) {
        let ruling = Ruling::refused(Fault::CertificateEnded.into());
        return settle(worker, exchange, decided, ruling, CAUSE_DEADLINE);
    }
    // An engine that panics ends one exchange, not this task.
    let ruling = catch_unwind(AssertUnwindSafe(|| decide(worker, decided, now_us)))
        .unwrap_or_else(|_| Ruling::undecided(Fault::EngineFailed));
    settle(worker, exchange, decided, ruling, cause);
}

fn decide(worker: &Worker, decided: &Decided, now_us: i64) -> Ruling {
    let mut policy = worker.policy.borrow_mut();
    let _ = policy.current();
    decided.epoch.set(policy.epoch());
    let live = policy.current();
    // A policy may read what was not kept of this request; nobody can say now what
    // it would have found.
    if let (Some(live), Some(kept)) = (&live, &decided.declared) {
        let is_kept = |name: &str| kept.iter().any(|k| k.name == name);
        if !Rc::ptr_eq(kept, &live.declared) && !live.declared.iter().all(|d| is_kept(&d.name)) {
            return Ruling::undecided(Fault::HeaderUnknown);
        }
    }
    let service = live.as_ref().and_then(|l| l.service.clone());
    let asked = Asked {
        connection: &decided.caller.connection,
        request: &decided.request,
        headers: &decided.headers,
        now_us,
        pins: &decided.caller.pins,
    };
    enforce::rule(&asked, live, service.as_deref())
}

/// Records a ruling on an open exchange, and ends it unless it is allowed.
fn settle(
    worker: &Rc<Worker>,
    exchange: &Rc<Exchange>,
    decided: &Decided,
    ruling: Ruling,
    cause: &'static str,
) {
    if exchange.is_over() {
        return;
    }
    let answer = ruling.answer.as_ref();
    let same = answer.is_some_and(|a| decided.says_the_same(&a.decision));
    decided.hold(answer);
    if cause == CAUSE_DEADLINE && ruling.refusal.is_none() && same {
        return;
    }
    let recorded = note(worker, decided, &ruling, cause);
    match ruling.refusal {
        Some(refusal) => exchange.stop(end_of(&refusal), refusal),
        None if recorded => {}
        None => exchange.stop(End::Rejudged, Fault::AuditUnavailable.into()),
    }
}

/// A time that is over is no judgement on the request.
fn end_of(refusal: &Refusal) -> End {
    let over = [Fault::CertificateEnded, Fault::StreamAge];
    match over.iter().any(|fault| fault.reason() == refusal.reason) {
        true => End::Deadline,
        false => End::Rejudged,
    }
}

/// Records and counts a re-judgement; false when its record is not taken, though
/// its service demands one.
fn note(worker: &Worker, decided: &Decided, ruling: &Ruling, cause: &'static str) -> bool {
    worker.telemetry.event(REJUDGED, ruling.reason);
    let versions = worker.policy.borrow_mut().current().map(|l| l.versions);
    let facts = RejudgementFacts {
        id: decided.id,
        mode: decided.mode,
        verdict: ruling.verdict,
        reason: ruling.reason,
        answer: ruling.answer.as_ref(),
        versions: versions.map(|v| worker.with_discovery(v)),
        cause,
        closed: ruling.refusal.is_some(),
    };
    let now_us = worker.clock.now_us();
    let noted = worker.recorder.borrow_mut().rejudgement(&facts, now_us);
    worker.stir();
    let Err(error) = noted else {
        return true;
    };
    worker.lost_record(&error, decided.mode);
    decided.mode == AuditMode::BestEffort
}
