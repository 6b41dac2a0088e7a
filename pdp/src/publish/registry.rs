//! Which proxies are there, what they run and when they were last heard.

use std::collections::{BTreeMap, BTreeSet};

use palisade_mesh::{
    snapshot::Digest,
    spiffe_id::SpiffeId,
    wire::policy::{Ack, Hello, Nack, Status},
};

use super::rollout::Seat;
use crate::bundle::WAY_BACK;

/// Most proxies that are remembered, connected or not.
pub const PROXIES_MAX: usize = 10_000;
/// Most instances of one identity that are remembered: one workload must not be able
/// to crowd out the proxies of all others.
pub const INSTANCES_MAX: usize = 1_000;
/// How long a proxy is remembered after its stream ended, in microseconds.
const REMEMBERED_US: i64 = 3_600_000_000;
/// Longest text of a proxy that is remembered.
const TEXT_LEN_MAX: usize = 1_024;

/// A revision that a proxy refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nacked {
    /// Its number.
    pub sequence: u64,
    /// Code of the proxy's diagnostic.
    pub code: String,
    /// Its message.
    pub message: String,
}

/// What is known of one proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyStatus {
    /// Who it proved to be.
    pub identity: SpiffeId,
    /// What it calls itself.
    pub instance: String,
    /// ULID of its start, 16 bytes.
    pub boot: Vec<u8>,
    /// Its build.
    pub build: String,
    /// Whether it can be taken back to a lower number, where the signers of the higher said so.
    pub returns: bool,
    /// Whether its stream is open.
    pub connected: bool,
    /// Number of the revision it has acknowledged; 0 for none.
    pub acked_sequence: u64,
    /// Digest of that revision.
    pub acked: Option<Digest>,
    /// The revision it refused, until it accepts a newer one.
    pub nack: Option<Nacked>,
    /// Its last status.
    pub status: Option<Status>,
    /// When it was last heard, microseconds since the Unix epoch.
    pub last_seen_us: i64,
    /// Why announcements of it were refused.
    pub refused: Vec<String>,
    /// How far its clock was ahead of ours at its last status, microseconds.
    pub clock_ahead_us: Option<i64>,
    /// Other processes of the same identity and instance that are connected.
    pub rivals: usize,
    connection: u64,
    /// Open streams of those processes.
    older: BTreeSet<u64>,
}

impl ProxyStatus {
    /// Who it is, to a rollout.
    pub fn seat(&self) -> Seat<'_> {
        Seat {
            identity: &self.identity,
            instance: &self.instance,
            returns: self.returns,
        }
    }
}

/// Whether a proxy says that it can be taken back to a lower number.
pub(crate) fn returns(hello: &Hello) -> bool {
    hello.features.iter().any(|f| f == WAY_BACK)
}

type Key = (SpiffeId, String);

/// All proxies, by identity and instance.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    proxies: BTreeMap<Key, ProxyStatus>,
}

/// There is no room for another proxy.
#[derive(Debug)]
pub(crate) struct Full;

impl Registry {
    pub(crate) fn snapshot(&self) -> Vec<ProxyStatus> {
        self.proxies.values().cloned().collect()
    }

    /// Notes a proxy that said hello on `connection`.
    pub(crate) fn hello(
        &mut self,
        identity: &SpiffeId,
        hello: &Hello,
        connection: u64,
        now_us: i64,
    ) -> Result<Key, Full> {
        self.proxies
            .retain(|_, p| p.connected || now_us - p.last_seen_us < REMEMBERED_US);
        let key = (identity.clone(), cut(&hello.instance));
        if !self.proxies.contains_key(&key) {
            let own = (identity.clone(), String::new())..;
            let own = self
                .proxies
                .range(own)
                .take_while(|(k, _)| k.0 == *identity);
            if own.clone().count() >= INSTANCES_MAX {
                let gone = own.clone().find(|(_, p)| !p.connected);
                let gone = gone.map(|(key, _)| key.clone()).ok_or(Full)?;
                self.proxies.remove(&gone);
            } else if self.proxies.len() >= PROXIES_MAX {
                let gone = self.proxies.iter().find(|(_, p)| !p.connected);
                let gone = gone.map(|(key, _)| key.clone()).ok_or(Full)?;
                self.proxies.remove(&gone);
            }
        }
        let older = match self.proxies.remove(&key) {
            // The same process has a new stream before we missed the old one.
            Some(before) if before.boot == hello.boot => before.older,
            Some(mut before) if before.connected => {
                before.older.insert(before.connection);
                before.older
            }
            Some(before) => before.older,
            None => BTreeSet::new(),
        };
        let status = ProxyStatus {
            clock_ahead_us: None,
            rivals: older.len(),
            older,
            identity: identity.clone(),
            instance: key.1.clone(),
            boot: hello.boot.iter().copied().take(16).collect(),
            build: cut(&hello.build),
            returns: returns(hello),
            connected: true,
            acked_sequence: hello.have_sequence,
            acked: Digest::from_slice(&hello.have_sha256),
            nack: None,
            status: None,
            last_seen_us: now_us,
            refused: Vec::new(),
            connection,
        };
        self.proxies.insert(key.clone(), status);
        Ok(key)
    }

    fn of(&mut self, key: &Key, connection: u64, now_us: i64) -> Option<&mut ProxyStatus> {
        let proxy = self.proxies.get_mut(key)?;
        // A newer stream of the same proxy owns the entry by now.
        if proxy.connection != connection {
            return None;
        }
        proxy.last_seen_us = now_us;
        Some(proxy)
    }

    pub(crate) fn ack(&mut self, key: &Key, connection: u64, ack: &Ack, now_us: i64) {
        if let Some(proxy) = self.of(key, connection, now_us) {
            proxy.acked_sequence = ack.sequence;
            proxy.acked = Digest::from_slice(&ack.sha256);
            proxy.nack = None;
        }
    }

    pub(crate) fn nack(&mut self, key: &Key, connection: u64, nack: &Nack, now_us: i64) {
        if let Some(proxy) = self.of(key, connection, now_us) {
            proxy.nack = Some(Nacked {
                sequence: nack.sequence,
                code: cut(&nack.code),
                message: cut(&nack.message),
            });
        }
    }

    pub(crate) fn status(&mut self, key: &Key, connection: u64, status: Status, now_us: i64) {
        if !status.draining {
            self.adopt(key, connection);
        }
        if let Some(proxy) = self.of(key, connection, now_us) {
            proxy.clock_ahead_us = (status.now_us != 0).then(|| status.now_us - now_us);
            proxy.status = Some(status);
        } else if status.draining {
            // A process that was succeeded and finishes what it has is no rival.
            self.older_gone(key, connection);
        }
    }

    pub(crate) fn refused(
        &mut self,
        key: &Key,
        connection: u64,
        reasons: Vec<String>,
        now_us: i64,
    ) {
        if let Some(proxy) = self.of(key, connection, now_us) {
            proxy.refused = reasons;
        }
    }

    pub(crate) fn gone(&mut self, key: &Key, connection: u64, now_us: i64) {
        if let Some(proxy) = self.of(key, connection, now_us) {
            proxy.connected = false;
        } else {
            self.older_gone(key, connection);
        }
    }

    /// The entry is of the process that goes on, though one that ends may have said
    /// hello after it.
    fn adopt(&mut self, key: &Key, connection: u64) {
        let Some(proxy) = self.proxies.get_mut(key) else {
            return;
        };
        let ends = proxy.status.as_ref().is_some_and(|s| s.draining);
        if (ends || !proxy.connected) && proxy.older.remove(&connection) {
            proxy.connection = connection;
            proxy.connected = true;
            proxy.rivals = proxy.older.len();
        }
    }

    fn older_gone(&mut self, key: &Key, connection: u64) {
        if let Some(proxy) = self.proxies.get_mut(key) {
            proxy.older.remove(&connection);
            proxy.rivals = proxy.older.len();
        }
    }
}

/// At most [`TEXT_LEN_MAX`] bytes of a text somebody else chose.
pub(crate) fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://demo.test/p{n}")).unwrap()
    }

    fn hello(instance: &str) -> Hello {
        Hello {
            instance: instance.to_owned(),
            ..Hello::default()
        }
    }

    #[test]
    fn the_newest_stream_of_a_proxy_owns_its_entry() {
        let mut registry = Registry::default();
        let key = registry.hello(&id(1), &hello("a"), 1, 0).unwrap();
        registry.hello(&id(1), &hello("a"), 2, 10).unwrap();
        registry.gone(&key, 1, 20);
        assert!(registry.snapshot()[0].connected);
        registry.gone(&key, 2, 30);
        let seen = registry.snapshot();
        assert!(!seen[0].connected && seen[0].last_seen_us == 30);
    }

    /// During an upgrade there are two; the one that ends may even come back last.
    #[test]
    fn a_process_that_ends_is_no_rival_and_does_not_keep_the_entry() {
        let mut registry = Registry::default();
        let of = |boot: u8| Hello {
            boot: vec![boot; 16],
            ..hello("a")
        };
        let told = |draining| Status {
            draining,
            ..Status::default()
        };
        let key = registry.hello(&id(1), &of(1), 1, 0).unwrap();
        registry.hello(&id(1), &of(2), 2, 0).unwrap();
        assert_eq!(registry.snapshot()[0].rivals, 1);
        registry.status(&key, 1, told(true), 0);
        assert_eq!(registry.snapshot()[0].rivals, 0);
        registry.hello(&id(1), &of(1), 3, 0).unwrap();
        registry.status(&key, 3, told(true), 0);
        registry.status(&key, 2, told(false), 0);
        registry.gone(&key, 3, 0);
        let seen = &registry.snapshot()[0];
        assert!(seen.connected && seen.rivals == 0);
        assert_eq!(seen.status, Some(told(false)));
    }

    /// Two processes under one name: only the newest is seen, so the other is told of.
    #[test]
    fn processes_of_the_same_name_are_counted() {
        let mut registry = Registry::default();
        let of = |boot: u8| Hello {
            boot: vec![boot; 16],
            ..hello("a")
        };
        let rivals = |registry: &Registry| registry.snapshot()[0].rivals;
        let key = registry.hello(&id(1), &of(1), 1, 0).unwrap();
        registry.hello(&id(1), &of(1), 2, 0).unwrap();
        registry.gone(&key, 1, 0);
        assert_eq!(rivals(&registry), 0, "one process, two streams");
        registry.hello(&id(1), &of(2), 3, 0).unwrap();
        assert_eq!(rivals(&registry), 1);
        registry.gone(&key, 2, 0);
        assert_eq!(rivals(&registry), 0);
        registry.gone(&key, 3, 0);
        registry.hello(&id(1), &of(3), 4, 0).unwrap();
        assert_eq!(rivals(&registry), 0, "after a restart");
    }

    #[test]
    fn the_registry_is_bounded_and_forgets_only_who_is_gone() {
        let mut registry = Registry::default();
        for n in 0..PROXIES_MAX {
            registry.hello(&id(n), &hello("a"), 1, 0).unwrap();
        }
        assert!(registry.hello(&id(PROXIES_MAX), &hello("a"), 1, 0).is_err());
        assert!(registry.hello(&id(0), &hello("a"), 2, 0).is_ok());
        registry.gone(&(id(5), "a".to_owned()), 1, 0);
        assert!(registry.hello(&id(PROXIES_MAX), &hello("a"), 1, 0).is_ok());
        assert_eq!(registry.snapshot().len(), PROXIES_MAX);
    }

    /// One identity cannot fill the registry; its own gone instances make room.
    #[test]
    fn the_instances_of_one_identity_are_bounded() {
        let mut registry = Registry::default();
        let own = |n: usize| hello(&format!("i{n:05}"));
        for n in 0..INSTANCES_MAX {
            registry.hello(&id(1), &own(n), 1, 0).unwrap();
        }
        assert!(registry.hello(&id(1), &own(INSTANCES_MAX), 1, 0).is_err());
        assert!(registry.hello(&id(1), &own(3), 2, 0).is_ok());
        assert!(registry.hello(&id(2), &own(0), 1, 0).is_ok());
        registry.gone(&(id(1), "i00007".to_owned()), 1, 0);
        assert!(registry.hello(&id(1), &own(INSTANCES_MAX), 1, 0).is_ok());
        assert_eq!(registry.snapshot().len(), INSTANCES_MAX + 1);
    }

    #[test]
    fn a_gone_proxy_is_remembered_for_an_hour_and_texts_are_cut() {
        let mut registry = Registry::default();
        let long = "\u{e9}".repeat(TEXT_LEN_MAX);
        let key = registry.hello(&id(1), &hello(&long), 1, 0).unwrap();
        assert_eq!(key.1.len(), TEXT_LEN_MAX);
        registry.gone(&key, 1, 0);
        registry
            .hello(&id(2), &hello("b"), 2, REMEMBERED_US - 1)
            .unwrap();
        assert_eq!(registry.snapshot().len(), 2);
        registry
            .hello(&id(2), &hello("b"), 2, REMEMBERED_US)
            .unwrap();
        assert_eq!(registry.snapshot().len(), 1);
    }
}
