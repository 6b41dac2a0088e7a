//! How a proxy ends, in phases under one deadline.
//!
//! 1. Readiness fails and the PDP is told; it withdraws the endpoint.
//! 2. When the endpoints without ours have come back, or after a short bound, the
//!    proxy stops accepting; clients are told to go elsewhere.
//! 3. What is in flight finishes. At the deadline the rest is cut, and recorded as such.
//! 4. Records are flushed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_mesh::wire::policy::{Announcement, Endpoints};

use super::Core;

/// Longest wait for the PDP to withdraw the endpoint: nobody should wait for one that
/// does not answer.
const WITHDRAW_MAX: Duration = Duration::from_secs(2);
/// How long connections are still accepted after that: the others have been told as
/// late as we were.
const SETTLE: Duration = Duration::from_millis(200);

/// Drains the proxy; `again` resolves when nobody wants to wait any longer.
pub(super) async fn drain(core: &Core, deadline: Duration, again: impl Future<Output = ()>) {
    let until = Instant::now() + deadline;
    let running = core.running();
    tracing::info!(?deadline, "draining");
    let in_order = async {
        running.leave();
        withdraw(core, until).await;
        let left = until.saturating_duration_since(Instant::now());
        let report = running.drain(left).await;
        core.generations_gone().await;
        report
    };
    let report = tokio::select! {
        report = in_order => report,
        () = again => {
            tracing::warn!("told to end a second time, cutting what is left");
            let generations = core.generations();
            for generation in &generations {
                generation.stop().await;
            }
            core.generations_gone().await;
            return;
        }
    };
    if report.cut > 0 {
        tracing::warn!(cut = report.cut, "connections were cut at the deadline");
    }
    tracing::info!(cut = report.cut, flushed = report.flushed, "drained");
}

/// Has our endpoint withdrawn, if there is a PDP that told others of it.
async fn withdraw(core: &Core, until: Instant) {
    let own = core.announced();
    let Some(subscribed) = core.subscribed.as_ref() else {
        return;
    };
    if own.is_empty() || !subscribed.state.borrow().connected {
        return;
    }
    subscribed.tell.status();
    let bound = WITHDRAW_MAX.min(until.saturating_duration_since(Instant::now()));
    let told = await_endpoints(core, bound, |wire| !own.iter().any(|a| names(wire, a))).await;
    if told {
        let settle = SETTLE.min(until.saturating_duration_since(Instant::now()));
        tokio::time::sleep(settle).await;
    } else {
        tracing::warn!("endpoint was not withdrawn in time, others may still come");
    }
}

/// Waits until the endpoints of the mesh satisfy `wanted`; false when they do not in
/// time.
pub(super) async fn await_endpoints(
    core: &Core,
    bound: Duration,
    mut wanted: impl FnMut(&Endpoints) -> bool,
) -> bool {
    let Some(subscribed) = core.subscribed.as_ref() else {
        return true;
    };
    let mut known = subscribed.endpoints.clone();
    let seen = known.wait_for(|wire: &Arc<Endpoints>| wanted(wire));
    matches!(tokio::time::timeout(bound, seen).await, Ok(Ok(_)))
}

/// Whether the endpoints hold what was announced.
pub(super) fn names(wire: &Endpoints, announced: &Announcement) -> bool {
    wire.endpoints.iter().any(|e| {
        let service = e.service.split_once('/').map(|(_, name)| name);
        e.address == announced.address && service == Some(&*announced.service)
    })
}
