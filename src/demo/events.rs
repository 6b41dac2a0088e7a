//! What the demo tells beside decisions: revisions, rejections, renewals.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_ca::Agent;
use palisade_pdp::publish::State;

use crate::{
    render::{self, GOOD, WARN, paint, snippet},
    run::pdp::PdpRole,
};

/// How long to wait for every proxy to have a new revision before telling of it.
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// How often proxies are looked at meanwhile.
const ACK_LOOK: Duration = Duration::from_millis(20);

/// Follows what happens between decisions.
pub(super) struct Notes {
    agent: Arc<Agent>,
    ends: BTreeMap<String, i64>,
    renewed: u64,
    told: u64,
    sequence: u64,
}

impl Notes {
    /// Starts while revision `sequence` is in force.
    pub(super) fn new(agent: Arc<Agent>, sequence: u64) -> Self {
        let mut notes = Self {
            agent,
            ends: BTreeMap::new(),
            renewed: 0,
            told: 0,
            sequence,
        };
        notes.look();
        notes
    }

    /// Counts certificates that were renewed since the last look.
    pub(super) fn look(&mut self) {
        for identity in self.agent.identities() {
            let ends = identity.not_after_s;
            let known = self.ends.insert(identity.spiffe_id.to_string(), ends);
            if known.is_some_and(|known| known != 0 && known != ends) {
                self.renewed += 1;
            }
        }
    }

    /// The end of the line over the rows.
    pub(super) fn summary(&self) -> String {
        let renewed = render::count(self.renewed, "certificate", "certificates");
        format!("{renewed} renewed")
    }

    /// Lines to print for a new state of the policy folder.
    pub(super) async fn policy(&mut self, state: &State, pdp: &PdpRole) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(rejected) = &state.rejected
            && self.told != u64::try_from(rejected.at_us).unwrap_or_default()
        {
            self.told = u64::try_from(rejected.at_us).unwrap_or_default();
            lines.extend(rejected.diagnostics.iter().map(snippet::render));
            let kept = state.current.as_ref().map_or(0, |c| c.sequence());
            lines.push(paint(
                WARN,
                format!("  the edit was rejected; revision {kept} stays in force"),
            ));
        }
        if let Some(current) = &state.current
            && current.sequence() != self.sequence
        {
            self.sequence = current.sequence();
            lines.push(self.applied(pdp).await);
        }
        lines
    }

    async fn applied(&self, pdp: &PdpRole) -> String {
        let started = Instant::now();
        loop {
            let proxies = pdp.distribution.proxies();
            let there = proxies
                .iter()
                .filter(|p| p.acked_sequence >= self.sequence)
                .count();
            if there == proxies.len() || started.elapsed() > ACK_TIMEOUT {
                let took = started.elapsed().as_secs_f64();
                return format!(
                    "  {} revision {} is in force on {there}/{} proxies, {took:.2} s after it compiled",
                    paint(GOOD, "✓"),
                    self.sequence,
                    proxies.len()
                );
            }
            tokio::time::sleep(ACK_LOOK).await;
        }
    }
}
