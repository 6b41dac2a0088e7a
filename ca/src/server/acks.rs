//! Who holds which trust state: what agents have acknowledged.
//!
//! An agent is *live* until the longest life of a certificate has passed since it
//! was last heard: until then something it handed out may be in use, after that
//! nothing is. A rotation waits for every live agent, and for every workload that
//! has a stream open there. The Workload API has no acknowledgement, so a workload
//! counts as having a state when its stream took the message; a moment is left for
//! it to put that to use. Workloads that fetch once and hang up are not seen.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use palisade_mesh::wire::ca::Acknowledgement;

use crate::{authority::KeyId, registration::REGISTRATIONS_MAX};

/// Most agents that are kept track of.
pub const AGENTS_MAX: usize = 10_000;
/// Longest name of an agent, in bytes.
pub const AGENT_NAME_LEN_MAX: usize = 256;
/// How long agents may take to come back after the authority was away, longer than
/// their longest pause between attempts: until then silence is no consent.
pub(crate) const RETURN: Duration = Duration::from_secs(15);
/// How long the last one to take a trust state is given to put it to use; a process on
/// a starved machine needs seconds for what takes milliseconds.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);

/// Why an acknowledgement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// More agents than any mesh of ours has.
    #[error("too many agents")]
    TooMany,
    /// Larger than anything an agent of ours sends.
    #[error("acknowledgement exceeds its limits")]
    TooLarge,
}

/// An agent and what it has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentStanding {
    /// Its name.
    pub name: String,
    /// Epoch of the trust state it holds.
    pub epoch: u64,
    /// Sequence of the trust state it holds.
    pub sequence: u64,
    /// When it was last heard, microseconds since the Unix epoch.
    pub heard_us: i64,
    /// Identities that workloads hold a stream for.
    pub holders: Vec<HolderStanding>,
}

/// An identity in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderStanding {
    /// Whose.
    pub spiffe_id: String,
    /// Open streams.
    pub streams: u32,
    /// Sequence of the oldest trust state that one of them took.
    pub sequence: u64,
    /// Intermediates that signed the certificates they took.
    pub issuers: Vec<KeyId>,
}

/// Somebody that a rotation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The agent.
    pub agent: String,
    /// The workload; none when it is the agent itself.
    pub spiffe_id: Option<String>,
    /// When its agent was last heard, microseconds since the Unix epoch.
    pub heard_us: i64,
}

/// The acknowledgements, of one process; agents send theirs again every few seconds.
pub(crate) struct Acks {
    agents: Mutex<BTreeMap<String, Entry>>,
    started_us: i64,
    live_us: i64,
}

struct Entry {
    standing: AgentStanding,
    /// When what it has acknowledged last changed.
    changed_us: i64,
}

impl Acks {
    /// None yet; `live` is how long after its last word an agent is live.
    pub(crate) fn new(now_us: i64, live: Duration) -> Self {
        Self {
            agents: Mutex::default(),
            started_us: now_us,
            live_us: micros(live),
        }
    }

    /// Takes the word of an agent.
    pub(crate) fn take(&self, ack: Acknowledgement, now_us: i64) -> Result<(), AckError> {
        if ack.agent.len() > AGENT_NAME_LEN_MAX || ack.holders.len() > REGISTRATIONS_MAX {
            return Err(AckError::TooLarge);
        }
        let mut agents = self.agents();
        agents.retain(|_, e| e.standing.heard_us + self.live_us > now_us);
        if agents.len() >= AGENTS_MAX && !agents.contains_key(&ack.agent) {
            return Err(AckError::TooMany);
        }
        let standing = AgentStanding {
            name: ack.agent.clone(),
            epoch: ack.epoch,
            sequence: ack.bundle_sequence,
            heard_us: now_us,
            holders: ack.holders.into_iter().map(Into::into).collect(),
        };
        let before = agents.get(&ack.agent);
        let same = before.filter(|e| {
            let mut dated = e.standing.clone();
            dated.heard_us = now_us;
            dated == standing
        });
        let changed_us = same.map_or(now_us, |e| e.changed_us);
        agents.insert(
            ack.agent,
            Entry {
                standing,
                changed_us,
            },
        );
        Ok(())
    }

    /// Waits no longer for an agent.
    pub(crate) fn forget(&self, agent: &str) {
        self.agents().remove(agent);
    }

    /// Every live agent, by name.
    pub(crate) fn list(&self, now_us: i64) -> Vec<AgentStanding> {
        let agents = self.agents();
        let live = agents.values().filter(|e| self.is_live(e, now_us));
        live.map(|e| e.standing.clone()).collect()
    }

    /// Who does not hold the trust state of this place yet.
    pub(crate) fn lacking(&self, place: (u64, u64), now_us: i64) -> Vec<Missing> {
        self.missing(now_us, |agent, holder| {
            let sequence = holder.map_or(agent.sequence, |h| h.sequence);
            (agent.epoch, sequence) < place
        })
    }

    /// Who still shows a certificate of one of these, or has not heard of it.
    pub(crate) fn showing(
        &self,
        issuers: &HashSet<KeyId>,
        place: (u64, u64),
        now_us: i64,
    ) -> Vec<Missing> {
        self.missing(now_us, |agent, holder| match holder {
            None => (agent.epoch, agent.sequence) < place,
            Some(holder) => holder.issuers.iter().any(|i| issuers.contains(i)),
        })
    }

    /// Whether nobody is missing, and has not been for a moment.
    pub(crate) fn is_settled(&self, missing: &[Missing], now_us: i64) -> bool {
        let quiet =
            |since_us: i64, span: Duration| !(0..micros(span)).contains(&(now_us - since_us));
        let agents = self.agents();
        let mut live = agents.values().filter(|e| self.is_live(e, now_us));
        missing.is_empty()
            && quiet(self.started_us, RETURN)
            && live.all(|e| quiet(e.changed_us, SETTLE))
    }

    fn missing(
        &self,
        now_us: i64,
        lacks: impl Fn(&AgentStanding, Option<&HolderStanding>) -> bool,
    ) -> Vec<Missing> {
        let agents = self.agents();
        let mut missing = Vec::new();
        for Entry { standing, .. } in agents.values().filter(|e| self.is_live(e, now_us)) {
            let who = |spiffe_id| Missing {
                agent: standing.name.clone(),
                spiffe_id,
                heard_us: standing.heard_us,
            };
            if lacks(standing, None) {
                missing.push(who(None));
            }
            let late = standing.holders.iter().filter(|h| lacks(standing, Some(h)));
            missing.extend(late.map(|h| who(Some(h.spiffe_id.clone()))));
        }
        missing
    }

    fn is_live(&self, entry: &Entry, now_us: i64) -> bool {
        entry.standing.heard_us + self.live_us > now_us
    }

    fn agents(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<palisade_mesh::wire::ca::Holder> for HolderStanding {
    fn from(holder: palisade_mesh::wire::ca::Holder) -> Self {
        Self {
            spiffe_id: holder.spiffe_id,
            streams: holder.streams,
            sequence: holder.bundle_sequence,
            issuers: holder
                .issuers
                .iter()
                .filter_map(|id| KeyId::from_slice(id))
                .collect(),
        }
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::ca::Holder;

    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn ack(agent: &str, sequence: u64, held: &[(u64, u8)]) -> Acknowledgement {
        Acknowledgement {
            agent: agent.into(),
            epoch: 1,
            bundle_sequence: sequence,
            holders: held
                .iter()
                .map(|(sequence, issuer)| Holder {
                    spiffe_id: format!("spiffe://acme.test/{issuer}"),
                    streams: 1,
                    bundle_sequence: *sequence,
                    issuers: vec![vec![*issuer; 20]],
                })
                .collect(),
        }
    }

    #[test]
    fn agents_and_workloads_are_waited_for_by_name() {
        let acks = Acks::new(0, HOUR);
        let now = 100 * SECOND;
        acks.take(ack("a", 5, &[(5, 1), (4, 2)]), now).unwrap();
        acks.take(ack("b", 4, &[]), now).unwrap();
        let missing = acks.lacking((1, 5), now);
        let names: Vec<_> = missing
            .iter()
            .map(|m| (m.agent.as_str(), m.spiffe_id.as_deref()))
            .collect();
        assert_eq!(names, [("a", Some("spiffe://acme.test/2")), ("b", None)]);
        assert!(!acks.is_settled(&missing, now + HOUR.as_micros() as i64 / 2));
        assert!(acks.lacking((1, 4), now).is_empty());
        // A later epoch is another state, whatever its sequence.
        assert_eq!(acks.lacking((2, 1), now).len(), 4);
        let old = HashSet::from([KeyId::from_slice(&[2; 20]).unwrap()]);
        assert_eq!(acks.showing(&old, (1, 4), now).len(), 1);
        assert_eq!(acks.showing(&old, (1, 5), now).len(), 2);
    }

    #[test]
    fn an_agent_is_live_as_long_as_its_certificates() {
        let acks = Acks::new(0, HOUR);
        acks.take(ack("a", 1, &[]), 0).unwrap();
        let end = HOUR.as_micros() as i64;
        assert_eq!(acks.lacking((1, 2), end - 1).len(), 1);
        assert!(acks.lacking((1, 2), end).is_empty());
        assert!(acks.list(end).is_empty());
    }

    #[test]
    fn silence_after_a_start_and_a_fresh_word_are_no_consent() {
        let acks = Acks::new(0, HOUR);
        assert!(!acks.is_settled(&[], 15 * SECOND - 1));
        assert!(acks.is_settled(&[], 15 * SECOND));
        acks.take(ack("a", 1, &[]), 20 * SECOND).unwrap();
        assert!(!acks.is_settled(&[], 25 * SECOND - 1));
        assert!(acks.is_settled(&[], 25 * SECOND));
        // The same word again is nothing new.
        acks.take(ack("a", 1, &[]), 25 * SECOND).unwrap();
        assert!(acks.is_settled(&[], 25 * SECOND));
    }

    #[test]
    fn names_holders_and_agents_are_bounded() {
        let acks = Acks::new(0, HOUR);
        let long = "x".repeat(AGENT_NAME_LEN_MAX);
        assert_eq!(acks.take(ack(&long, 1, &[]), 0), Ok(()));
        assert_eq!(
            acks.take(ack(&format!("{long}x"), 1, &[]), 0),
            Err(AckError::TooLarge)
        );
        for n in 1..AGENTS_MAX {
            acks.take(ack(&n.to_string(), 1, &[]), 0).unwrap();
        }
        assert_eq!(acks.take(ack("more", 1, &[]), 0), Err(AckError::TooMany));
        assert_eq!(acks.take(ack("1", 2, &[]), 0), Ok(()));
        let much = Acknowledgement {
            holders: vec![Holder::default(); REGISTRATIONS_MAX + 1],
            ..ack("1", 2, &[])
        };
        assert_eq!(acks.take(much, 0), Err(AckError::TooLarge));
    }
}
