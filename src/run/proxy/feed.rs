//! Policy from a PDP, with what it last said on disk.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use palisade_mesh::{
    clock::Clock,
    diagnostic::Diagnostic,
    svid::Identity,
    wire::policy::{Announcement, Revision, Status},
};
use palisade_pdp::publish::{Freshness, Subscribed, Subscription, SubscriptionConfig};
use palisade_proxy::{PolicySlot, endpoints::Endpoints};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    super::{Role, policy},
    Core,
    barring::Bars,
    beside::InProxy,
};
use crate::{
    config::{Config, ProxySection},
    net::{directory::Whereabouts, kill::Holder, tls},
};

/// How often a status is sent, and with it the snapshot confirmed and the clocks compared, at
/// most: what is wrong is to be told within five seconds.
const STATUS_EVERY: Duration = Duration::from_secs(3);
/// How often the age of the snapshot is looked at, at most.
const AGE_EVERY: Duration = Duration::from_secs(1);

/// Follows the kill list where `connect` leads, for as long as the process runs.
pub(super) fn follow_kill_list(
    parts: &Parts<'_>,
    connect: impl Fn() -> Channel + Send + Sync + 'static,
) {
    let following = parts.holder.clone().follow(connect);
    let stop = parts.stop.clone();
    tokio::spawn(stop.run_until_cancelled_owned(following));
}

/// What a feed works with.
pub(super) struct Parts<'p> {
    pub(super) config: &'p Config,
    pub(super) identity: &'p Identity,
    pub(super) policy: &'p PolicySlot,
    pub(super) bars: &'p Arc<Bars>,
    pub(super) holder: &'p Arc<Holder>,
    pub(super) endpoints: &'p Endpoints,
    pub(super) clock: &'p Clock,
    pub(super) stop: &'p CancellationToken,
}

/// Begins from the disk, then follows a PDP: revisions, endpoints, and the status of
/// `core`, once it is there, in return.
pub(super) async fn pdp(
    parts: &Parts<'_>,
    section: &ProxySection,
    pdp: Whereabouts,
    core: Arc<OnceLock<Arc<Core>>>,
) -> Result<Subscribed, Vec<Diagnostic>> {
    let mut of_subscription =
        SubscriptionConfig::new(&section.instance, parts.config.state_dir.join("policy"));
    of_subscription.clock = parts.clock.clone();
    of_subscription.beside = Some(Arc::new(InProxy {
        slot: parts.policy.clone(),
        own: parts.identity.id(),
        engine: section.engine,
    }));
    of_subscription.trust = section.policy_trust.as_ref().map(policy::trust);
    of_subscription.status_every = STATUS_EVERY.min(section.stale_after / 4);
    let (subscription, subscribed) = Subscription::new(of_subscription).map_err(|d| vec![d])?;
    let expected = parts.config.trust_domain.role(Role::Pdp.as_str());
    let identity = parts.identity.clone();
    let channel = move || tls::channel_to(&pdp, &expected, &identity);
    follow_kill_list(parts, channel.clone());
    let connect = move || {
        let channel = channel();
        async move { Ok::<_, String>(channel) }
    };
    let (bars, own) = (parts.bars.clone(), parts.identity.id());
    let engine = section.engine;
    let apply = move |revision: Revision| {
        let snapshot = policy::of_revision_for(&own, &revision)?;
        bars.put(policy::plugged(snapshot, engine));
        Ok(())
    };
    let restored = subscription.start_from_disk(apply).await;
    apply_age(parts.bars, &subscribed.freshness, section.stale_after);
    let mut known = subscribed.endpoints.clone();
    let put = |table: &Endpoints, wire: &_| table.store(Arc::new(policy::endpoints(wire)));
    put(parts.endpoints, &known.borrow_and_update().clone());
    let (table, stop) = (parts.endpoints.clone(), parts.stop.clone());
    tokio::spawn(async move {
        let follow = async {
            while known.changed().await.is_ok() {
                let wire = known.borrow_and_update().clone();
                put(&table, &wire);
            }
        };
        let status = move || core.get().map_or_else(Status::default, |core| core.wire());
        tokio::select! {
            () = stop.cancelled() => {}
            () = restored.run(connect, status) => {}
            () = follow => {}
        }
    });
    Ok(subscribed)
}

/// Marks the snapshot in force as stale, or as good again.
fn apply_age(bars: &Bars, freshness: &Freshness, limit: Duration) {
    let stale = freshness.age().is_some_and(|age| age > limit);
    match (bars.age(stale), stale) {
        (false, _) => {}
        (true, true) => tracing::error!("policy snapshot is stale, every request is undecided"),
        (true, false) => tracing::info!("policy snapshot is confirmed again"),
    }
}

/// Applies time to the snapshot, for ever.
pub(super) async fn watch_age(core: Arc<Core>) {
    let Some(freshness) = core.subscribed.as_ref().map(|s| s.freshness.clone()) else {
        return;
    };
    loop {
        let limit = core.stale_after();
        apply_age(&core.bars, &freshness, limit);
        tokio::time::sleep(AGE_EVERY.min(limit / 4)).await;
    }
}

/// Has others find this proxy once it can decide: what they sent before that would be
/// refused.
pub(super) async fn announce_when_able(core: Arc<Core>) {
    let Some(subscribed) = &core.subscribed else {
        return;
    };
    let mut revision = subscribed.revision.clone();
    if revision.wait_for(Option::is_some).await.is_ok() {
        subscribed.tell.announce(core.announced());
    }
}

/// What the PDP is told of the inbound listener.
pub(super) fn announcements(
    section: &ProxySection,
    inbound: Option<SocketAddr>,
) -> Vec<Announcement> {
    let inbound = section.inbound.as_ref().zip(inbound);
    inbound
        .map(|(inbound, address)| Announcement {
            service: inbound.service.clone(),
            address: address.to_string(),
        })
        .into_iter()
        .collect()
}
