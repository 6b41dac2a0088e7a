//! The gate of the control links in this process: Cedar decides, and what it refuses is
//! recorded and can be seen in `check`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use palisade_audit::ingest::{Barring, Doubt};
use palisade_mesh::{
    clock::Clock,
    decision::DecisionIds,
    diagnostic::Diagnostic,
    kill::Subject,
    link::{Gate, Link, LinkRefused},
    sink::RecordStream,
    spiffe_id::SpiffeId,
    svid::Peer,
    wire::record::{AuditMode, AuthnFailure, Record, record::Body},
};
use palisade_pdp::links::Links;
use tokio::sync::watch;

use crate::{
    config::Config,
    control::{
        api::{Fact, FactState},
        status::ago,
    },
    net::kill::Held,
};

/// Code of a refused link.
const LINK_REFUSED: u16 = 4130;
/// Code of a record about somebody else's service.
const OTHER_SERVICE: u16 = 4132;
/// Code of a peer that is on the kill list.
const BARRED: u16 = 4412;
/// How long the same refusal of the same peer is not recorded again: whoever is
/// refused comes back every few seconds.
const QUIET_US: i64 = 60_000_000;
/// Peers and refusals that are remembered.
const REMEMBERED_MAX: usize = 1024;
/// How long a refusal is shown.
const SHOWN_US: i64 = 3_600_000_000;
/// Worker number of the gate's own records.
pub(super) const OWN_WORKER: u32 = 0x4741_5445;

/// The gate of one part.
pub(super) struct LinkGate {
    links: Links,
    reporter: SpiffeId,
    demo: bool,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    records: Box<dyn RecordStream>,
    ids: DecisionIds,
    last_us: BTreeMap<(String, String), i64>,
    shown: VecDeque<(i64, u16, String)>,
}

/// The policies that the configuration names, beside the built-in ones.
pub(super) fn policies(config: &Config) -> Result<Links, Vec<Diagnostic>> {
    match &config.links {
        Some(folder) => Links::with_folder(folder),
        None => Ok(Links::default()),
    }
}

impl LinkGate {
    /// The gate of the part `reporter`, which leaves its records in `records`.
    pub(super) fn new(
        config: &Config,
        reporter: SpiffeId,
        records: Box<dyn RecordStream>,
        clock: &Clock,
    ) -> Result<Arc<Self>, Vec<Diagnostic>> {
        Ok(Arc::new(Self {
            links: policies(config)?,
            reporter,
            demo: config.demo,
            clock: clock.clone(),
            state: Mutex::new(State {
                records,
                ids: DecisionIds::new(),
                last_us: BTreeMap::new(),
                shown: VecDeque::new(),
            }),
        }))
    }

    /// What was refused lately, for `check`.
    pub(super) fn check(&self) -> Vec<Fact> {
        let now_us = self.clock.now_us();
        let state = self.state();
        let lately = state.shown.iter().filter(|(at, ..)| now_us - at < SHOWN_US);
        let fact = |(at, code, text): &(i64, u16, String)| {
            Fact::not_ok("links", FactState::Warning, *code, text.clone())
                .cause(format!("last {}", ago(&self.clock, *at)))
                .fix("see who it is: palisade audit search class:authn_failure")
        };
        lately.map(fact).collect()
    }

    fn note(&self, code: u16, peer: &SpiffeId, reason: &str, listener: &str, text: String) {
        let now_us = self.clock.now_us();
        let mut state = self.state();
        let key = (peer.to_string(), reason.to_owned());
        state.shown.retain(|(_, _, shown)| *shown != text);
        state.shown.push_back((now_us, code, text.clone()));
        if state.shown.len() > REMEMBERED_MAX {
            state.shown.pop_front();
        }
        let last_us = state.last_us.get(&key).copied().unwrap_or(i64::MIN);
        if now_us.saturating_sub(last_us) < QUIET_US {
            return;
        }
        if state.last_us.len() >= REMEMBERED_MAX {
            state.last_us.clear();
        }
        state.last_us.insert(key, now_us);
        tracing::warn!(src.id = %peer, listener, text, "control link refused");
        let record = Record {
            id: state.ids.next(now_us).to_bytes().to_vec(),
            time_us: now_us,
            reporter: self.reporter.to_string(),
            mode: AuditMode::Spool.into(),
            demo: self.demo,
            body: Some(Body::AuthnFailure(AuthnFailure {
                reason: reason.to_owned(),
                claimed_id: peer.to_string(),
                listener: listener.to_owned(),
                detail: text,
                ..AuthnFailure::default()
            })),
            ..Record::default()
        };
        if let Err(error) = state.records.append(&record) {
            tracing::error!(%error, "refused link left no record");
        }
        state.records.flush();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate for LinkGate {
    fn ask(&self, link: &Link<'_>) -> Result<(), LinkRefused> {
        self.links.decide(link).inspect_err(|refused| {
            let reason = format!("link_{}", link.action.as_str());
            let part = link.action.part();
            self.note(LINK_REFUSED, link.peer, &reason, part, told(refused, link));
        })
    }

    fn permits(&self, link: &Link<'_>) -> bool {
        self.links.decide(link).is_ok()
    }
}

/// What is recorded of a refused call: also whom it was about.
fn told(refused: &LinkRefused, link: &Link<'_>) -> String {
    let about = link.about.and_then(|about| {
        let subject = about.subject?;
        let service = about.service.unwrap_or("no service of the mesh");
        Some(format!(" ({} about {subject}, {service})", about.api))
    });
    format!("{refused}{}", about.unwrap_or_default())
}

/// Bars whoever is on the kill list from the audit service.
pub(super) struct Bars {
    /// Notes who tried.
    pub(super) gate: Arc<LinkGate>,
    /// The list.
    pub(super) kill: watch::Receiver<Held>,
}

impl Barring for Bars {
    fn barred(&self, peer: &Peer) -> Option<String> {
        let subject = Subject {
            id: &peer.id,
            serial: &peer.serial,
            authorities: &[],
        };
        let list = self.kill.borrow().list.clone();
        let entry = list.bars(&subject, self.gate.clock.now_us())?;
        let reason = entry.target.reason();
        let text = format!(
            "PLS{BARRED}: `{}` may not leave records here: it is barred by the kill list ({reason})",
            peer.id
        );
        self.gate
            .note(BARRED, &peer.id, reason, "audit", text.clone());
        Some(text)
    }
}

/// Which services an identity is; none when nobody here knows the catalogue.
pub(super) type Services = dyn Fn(&SpiffeId, &str) -> Option<bool> + Send + Sync;

/// Marks decisions that name the service of somebody else.
pub(super) struct Doubts {
    /// Notes them.
    pub(super) gate: Arc<LinkGate>,
    /// SPIFFE ID of the PDP.
    pub(super) pdp: SpiffeId,
    /// Knows the catalogue; set once there is one in this process.
    pub(super) services: Arc<std::sync::OnceLock<Box<Services>>>,
}

impl Doubt for Doubts {
    fn decision(&self, reporter: &SpiffeId, service: &str) {
        let known = self.services.get();
        // The decision APIs answer about every service.
        if *reporter == self.pdp {
            return;
        }
        if service.is_empty() || known.and_then(|is| is(reporter, service)) != Some(false) {
            return;
        }
        let text = format!("`{reporter}` reports decisions about `{service}`, which it is not");
        self.gate.note(
            OTHER_SERVICE,
            reporter,
            "record_of_other_service",
            "audit",
            text,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use palisade_mesh::{
        link::LinkAction,
        personal::Mask,
        sink::{Durable, SinkError},
        spiffe_id::TrustDomain,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Records(Arc<Mutex<Vec<Record>>>);

    impl RecordStream for Records {
        fn append_masked(&mut self, record: &Record, _: &Mask) -> Result<(), SinkError> {
            self.0.lock().unwrap().push(record.clone());
            Ok(())
        }

        fn flush(&mut self) {}

        fn durable(&mut self) -> Durable {
            Box::pin(ready(Ok(())))
        }
    }

    fn gate(records: &Records, clock: &Clock) -> Arc<LinkGate> {
        let config = Config::parse("mesh.yaml", "trust_domain: acme.test\n").unwrap();
        let reporter = config.trust_domain.role("pdp");
        LinkGate::new(&config, reporter, Box::new(records.clone()), clock).unwrap()
    }

    fn id(path: &str) -> SpiffeId {
        TrustDomain::parse("acme.test").unwrap().id(path).unwrap()
    }

    /// Whoever is refused comes back every few seconds; the log is not for that.
    #[test]
    fn a_refusal_is_recorded_once_a_minute_and_shown_for_an_hour() {
        let (records, clock) = (Records::default(), Clock::manual(jiff::Timestamp::now()));
        let gate = gate(&records, &clock);
        let peer = id("stranger");
        let link = Link::new(&peer, LinkAction::Subscribe);
        for _ in 0..3 {
            assert!(gate.ask(&link).is_err());
        }
        assert_eq!(records.0.lock().unwrap().len(), 1);
        clock.advance(std::time::Duration::from_secs(60));
        assert!(gate.ask(&link).is_err());
        assert_eq!(records.0.lock().unwrap().len(), 2);
        let facts = gate.check();
        assert_eq!(facts.len(), 1);
        assert_eq!(facts[0].code, Some(LINK_REFUSED));
        clock.advance(std::time::Duration::from_secs(3600));
        assert!(gate.check().is_empty());
    }

    #[test]
    fn a_decision_about_another_s_service_is_noted_where_the_catalogue_is_known() {
        let (records, clock) = (Records::default(), Clock::system());
        let doubts = Doubts {
            gate: gate(&records, &clock),
            pdp: id("palisade/pdp"),
            services: Arc::default(),
        };
        let (web, orders) = (id("ns/shop/sa/web"), "acme.test/shop/orders");
        doubts.decision(&web, orders);
        assert!(doubts.gate.check().is_empty(), "nobody here knows");
        let own = web.clone();
        let is =
            move |who: &SpiffeId, service: &str| Some((*who == own) == service.ends_with("web"));
        assert!(doubts.services.set(Box::new(is)).is_ok());
        doubts.decision(&web, "acme.test/shop/web");
        doubts.decision(&web, "");
        assert!(doubts.gate.check().is_empty());
        doubts.decision(&web, orders);
        assert_eq!(doubts.gate.check()[0].code, Some(OTHER_SERVICE));
    }
}
