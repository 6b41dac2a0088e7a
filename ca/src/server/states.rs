//! What of trust, registrations and directory each host is told.

use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::watch;

use super::{
    Ca,
    nodes::{Roster, seen_from},
};
use crate::{
    join::{NodeName, NodeRole, refusal::JoinRefusal},
    registration::Registration,
    selector::Selector,
    store::nodes::NodeRow,
    trust::TrustState,
};

/// Which host follows.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// The authority's own.
    Local,
    /// A joined node, and what the mesh's own program shows there.
    Node(NodeName, Vec<Selector>),
}

/// A host's stream of states.
struct Follower {
    place: Place,
    svid_ttl: std::time::Duration,
    on_one_host: bool,
    trust: watch::Receiver<Arc<TrustState>>,
    roster: watch::Receiver<Arc<Roster>>,
    last: Option<TrustState>,
}

impl Ca {
    /// Every state that `place` should have, the present one first, each complete. It
    /// ends with the authority, and with an error when the node may not be told more.
    pub(crate) fn states(
        &self,
        place: Place,
    ) -> impl Stream<Item = Result<TrustState, JoinRefusal>> + Send + use<> {
        let follower = Follower {
            place,
            svid_ttl: self.config.svid_ttl,
            on_one_host: self.nodes.on_one_host(),
            trust: self.trust.subscribe(),
            roster: self.nodes.roster.subscribe(),
            last: None,
        };
        futures_util::stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            match follower.next().await? {
                Ok(state) => Some((Ok(state), Some(follower))),
                Err(refusal) => Some((Err(refusal), None)),
            }
        })
    }
}

impl Follower {
    async fn next(&mut self) -> Option<Result<TrustState, JoinRefusal>> {
        loop {
            let trust = self.trust.borrow_and_update().clone();
            let roster = self.roster.borrow_and_update().clone();
            match self.state(&trust, &roster) {
                Err(refusal) => return Some(Err(refusal)),
                Ok(state) if self.last.as_ref() != Some(&state) => {
                    self.last = Some(state.clone());
                    return Some(Ok(state));
                }
                Ok(_) => {}
            }
            tokio::select! {
                changed = self.trust.changed() => changed.ok()?,
                changed = self.roster.changed() => changed.ok()?,
            }
        }
    }

    /// What this host is told of it all.
    fn state(&self, trust: &TrustState, roster: &Roster) -> Result<TrustState, JoinRefusal> {
        let mut state = TrustState {
            registrations: Vec::new(),
            directory: Vec::new(),
            ..trust.clone()
        };
        let here = |keep: &dyn Fn(&Registration) -> bool| -> Vec<Registration> {
            let all = trust.registrations.iter().filter(|r| keep(r));
            // An agent need not know where else an identity is served.
            all.map(|r| r.clone().on(Vec::new())).collect()
        };
        let seen = |node: &str| seen_from(node, &roster.directory, self.on_one_host);
        match &self.place {
            Place::Local => {
                state.registrations = here(&Registration::is_local);
                state.directory = seen("");
            }
            Place::Node(name, shown) => {
                let node = admitted(roster, name)?;
                if node.roles.contains(&NodeRole::Proxy) {
                    state.registrations = here(&|r| r.is_on(name.as_str()));
                }
                let parts = node
                    .roles
                    .iter()
                    .filter(|r| r.is_part() && !shown.is_empty());
                state.registrations.extend(parts.map(|role| {
                    let domain = &trust.bundle.trust_domain;
                    Registration::for_role(domain, role.as_str(), shown.clone(), self.svid_ttl)
                }));
                state.directory = seen(name.as_str());
            }
        }
        Ok(state)
    }
}

/// The node of this name, if it may be served.
pub(super) fn admitted<'r>(
    roster: &'r Roster,
    name: &NodeName,
) -> Result<&'r NodeRow, JoinRefusal> {
    let node = roster.nodes.get(name);
    let node = node.ok_or_else(|| JoinRefusal::UnknownNode(name.to_string()))?;
    if node.banned_s.is_some() {
        return Err(JoinRefusal::Banned(name.to_string()));
    }
    Ok(node)
}
