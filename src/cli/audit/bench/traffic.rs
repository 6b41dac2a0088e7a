//! The requests of a mesh, made up from a seed: who calls whom how often, and how it ends.
//!
//! The graph is that of services, not of chance: a caller knows at most eight services and
//! four operations of each, some callers and some operations are far busier than others,
//! and few requests are denied. The same seed gives the same records.

use std::sync::Arc;

use palisade_audit::stream::StreamKey;
use palisade_mesh::{
    spiffe_id::{SpiffeId, TrustDomain},
    wire::record::{
        AuditMode, Decision, Outcome, Peer, Record, Verdict, Versions, outcome::End, record::Body,
    },
};
use ulid::Ulid;

/// The first moment, 2026-01-01T00:00:00Z, microseconds since the Unix epoch.
pub(super) const BEGINS_US: i64 = 1_767_225_600_000_000;
/// The time that all requests are spread over, microseconds: thirty days.
pub(super) const SPAN_US: i64 = 30 * 86_400_000_000;
/// The same as a report names it.
pub(super) const PERIOD: &str = "2026-01-01..2026-01-30";
/// Whose log it is.
pub(super) const DOMAIN: &str = "bench.test";

const CALLERS: u64 = 400;
const SERVICES: u64 = 60;
const SERVICES_OF_A_CALLER: u64 = 8;
const OPERATIONS: u64 = 12;
const OPERATIONS_OF_A_CALLER: u64 = 4;
const NAMESPACES: [&str; 6] = ["shop", "pay", "ship", "data", "ops", "web"];
const METHODS: [&str; 4] = ["GET", "GET", "POST", "DELETE"];
/// Longest time from a decision to its outcome, microseconds.
const LATENCY_MAX_US: u64 = 400_000;

/// Makes records up.
pub(super) struct Traffic {
    seed: u64,
    requests: u64,
    callers: Vec<Caller>,
    services: Vec<Service>,
}

/// A workload, its certificate and where it calls from.
struct Caller {
    id: String,
    serial: Vec<u8>,
    address: String,
}

/// A service with the proxy before it, which reports.
struct Service {
    id: String,
    host: String,
    stream: Arc<StreamKey>,
    operations: Vec<Operation>,
}

struct Operation {
    resource: String,
    method: &'static str,
    route: String,
    policy: String,
}

/// One request, before it is a record.
struct Call {
    id: u128,
    time_us: i64,
    caller: usize,
    service: usize,
    operation: usize,
    verdict: Verdict,
    dice: Dice,
}

impl Traffic {
    /// So many requests of the mesh that `seed` stands for. Each leaves a decision and an
    /// outcome.
    pub(super) fn new(seed: u64, requests: u64, domain: &TrustDomain) -> Option<Self> {
        let services = (0..SERVICES).map(|n| Service::new(n, domain));
        let callers = (0..CALLERS).map(|n| Caller::new(seed, n, domain));
        Some(Self {
            seed,
            requests: requests.max(1),
            services: services.collect::<Option<_>>()?,
            callers: callers.collect::<Option<_>>()?,
        })
    }

    /// Record `n` from 0, and the stream of whoever reports it: the decision of request
    /// `n / 2`, or its outcome.
    pub(super) fn record(&self, n: u64) -> Option<(Arc<StreamKey>, Record)> {
        let mut call = self.call(n / 2);
        let service = self.services.get(call.service)?;
        let caller = self.callers.get(call.caller)?;
        let operation = service.operations.get(call.operation)?;
        let latency_us = 400 + call.dice.below(LATENCY_MAX_US) / (1 + call.dice.below(60));
        let (time_us, body) = if n.is_multiple_of(2) {
            let decision = decided(&mut call, caller, service, operation);
            (call.time_us, Body::Decision(decision))
        } else {
            let ended = call.time_us.saturating_add_unsigned(latency_us);
            let outcome = ended_with(&mut call, latency_us, caller, service);
            (ended, Body::Outcome(outcome))
        };
        let record = Record {
            id: call.id.to_be_bytes().to_vec(),
            time_us,
            reporter: service.stream.reporter.to_string(),
            mode: AuditMode::Spool.into(),
            demo: false,
            body: Some(body),
            ..Record::default()
        };
        Some((service.stream.clone(), record))
    }

    /// The time of record `n`, from which the clock of the log follows.
    pub(super) fn time_us(&self, n: u64) -> i64 {
        let part = u128::from(n / 2) * SPAN_US.unsigned_abs() as u128 / u128::from(self.requests);
        let part = i64::try_from(part).unwrap_or(SPAN_US).min(SPAN_US - 1);
        BEGINS_US.saturating_add(part)
    }

    fn call(&self, request: u64) -> Call {
        let mut dice = Dice::new(self.seed, request);
        let time_us = self.time_us(request.saturating_mul(2));
        let ms = u64::try_from(time_us / 1000).unwrap_or_default();
        let random = u128::from(dice.next()) << 16 | u128::from(request & 0xffff);
        let caller = dice.skewed(CALLERS);
        let verdict = match dice.below(1000) {
            0..965 => Verdict::Allow,
            965..990 => Verdict::NotPermitted,
            990..998 => Verdict::Forbidden,
            _ => Verdict::Undecided,
        };
        // Whoever is denied reaches for something that is not its own.
        let known = 1 + caller % SERVICES_OF_A_CALLER;
        let (service, operation) = match verdict {
            Verdict::NotPermitted => (dice.below(SERVICES), dice.below(OPERATIONS)),
            _ => {
                let service = (caller * 7 + dice.skewed(known) * 11) % SERVICES;
                let operation = dice.skewed(OPERATIONS_OF_A_CALLER);
                (service, (caller + operation * 5) % OPERATIONS)
            }
        };
        let at = |n: u64| usize::try_from(n).unwrap_or_default();
        Call {
            id: Ulid::from_parts(ms, random).0,
            time_us,
            caller: at(caller),
            service: at(service),
            operation: at(operation),
            verdict,
            dice,
        }
    }
}

impl Service {
    fn new(n: u64, domain: &TrustDomain) -> Option<Self> {
        let namespace = namespace(n)?;
        let reporter = domain.id(&format!("ns/{namespace}/sa/svc-{n:02}")).ok()?;
        let id = format!("{domain}/{namespace}/svc-{n:02}", domain = domain.as_str());
        let ms = u64::try_from(BEGINS_US / 1000).unwrap_or_default();
        let operation = |o: u64| {
            let method = METHODS.get(usize::try_from(o).ok()? % METHODS.len())?;
            Some(Operation {
                resource: format!("{id}#op-{o:02}"),
                method,
                route: format!("/v1/things-{o:02}/{{id}}"),
                policy: format!("{namespace}-svc-{n:02}-{}", o / 4),
            })
        };
        Some(Self {
            operations: (0..OPERATIONS).map(operation).collect::<Option<_>>()?,
            host: format!("svc-{n:02}.{namespace}"),
            stream: Arc::new(StreamKey {
                reporter,
                boot: Ulid::from_parts(ms, u128::from(n) + 1),
                worker: 0,
            }),
            id,
        })
    }
}

impl Caller {
    fn new(seed: u64, n: u64, domain: &TrustDomain) -> Option<Self> {
        let id: SpiffeId = domain
            .id(&format!("ns/{}/sa/caller-{n:03}", namespace(n)?))
            .ok()?;
        let mut dice = Dice::new(seed, u64::MAX - n);
        let serial = [dice.next().to_be_bytes(), dice.next().to_be_bytes()].concat();
        Some(Self {
            id: id.to_string(),
            serial,
            address: format!("10.{}.{}.{}", 1 + n / 250, n % 250, 1 + dice.below(250)),
        })
    }
}

fn namespace(n: u64) -> Option<&'static str> {
    let at = usize::try_from(n).ok()? % NAMESPACES.len();
    NAMESPACES.get(at).copied()
}

fn decided(call: &mut Call, caller: &Caller, service: &Service, operation: &Operation) -> Decision {
    let (reason, policies, status) = match call.verdict {
        Verdict::Forbidden => ("forbidden", vec!["guard-rails".to_owned()], 403),
        Verdict::NotPermitted => ("no_permit", Vec::new(), 403),
        Verdict::Undecided => ("no_snapshot", Vec::new(), 503),
        _ => ("permitted", vec![operation.policy.clone()], 0),
    };
    let dice = &mut call.dice;
    // Seven of ten callers send a trace.
    let traced = dice.below(10) < 7;
    Decision {
        verdict: call.verdict.into(),
        reason: reason.to_owned(),
        principal: Some(Peer {
            spiffe_id: caller.id.clone(),
            serial: caller.serial.clone(),
            not_after_s: call.time_us / 1_000_000 + 1800,
        }),
        action: operation.method.to_owned(),
        resource_type: "Operation".to_owned(),
        resource_id: operation.resource.clone(),
        service: service.id.clone(),
        method: operation.method.to_owned(),
        host: service.host.clone(),
        path: operation
            .route
            .replace("{id}", &dice.below(50_000).to_string()),
        route: operation.route.clone(),
        policies,
        versions: Some(Versions {
            policy_digest: vec![9; 32],
            policy_sequence: 1 + u64::try_from((call.time_us - BEGINS_US) / (SPAN_US / 20))
                .unwrap_or(0),
            discovery: 3,
            kill_list: 1,
        }),
        decision_ns: 150 + dice.below(6000) / (1 + dice.below(12)),
        cached: dice.below(5) > 0,
        enforced: true,
        source_ip: caller.address.clone(),
        source_port: u32::try_from(32_768 + dice.below(28_000)).unwrap_or_default(),
        trace_id: if traced { dice.bytes(16) } else { Vec::new() },
        span_id: if traced { dice.bytes(8) } else { Vec::new() },
        context_json: "{\"tls\":{\"mtls\":true}}".to_owned(),
        status,
        ..Decision::default()
    }
}

fn ended_with(call: &mut Call, latency_us: u64, caller: &Caller, service: &Service) -> Outcome {
    let dice = &mut call.dice;
    let allowed = call.verdict == Verdict::Allow;
    let status = match call.verdict {
        Verdict::Allow => match dice.below(100) {
            0..94 => 200,
            94..97 => 404,
            97..99 => 500,
            _ => 503,
        },
        Verdict::Undecided => 503,
        _ => 403,
    };
    Outcome {
        status,
        end: End::Completed.into(),
        bytes_in: dice.below(900),
        bytes_out: dice.below(20_000),
        duration_us: latency_us,
        service: service.id.clone(),
        principal: caller.id.clone(),
        upstream: match allowed {
            true => "127.0.0.1:9000".to_owned(),
            false => String::new(),
        },
        ..Outcome::default()
    }
}

/// Numbers that look like chance and follow from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, n: u64) -> Self {
        let mut dice = Self(seed);
        let first = dice.next();
        Self(first ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to before `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// The same, small numbers more often: a quarter of all come from the first sixteenth.
    fn skewed(&mut self, end: u64) -> u64 {
        let part = self.below(1 << 16);
        (part * part * end.max(1)) >> 32
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_be_bytes());
        words.flatten().take(len).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn traffic(seed: u64) -> Traffic {
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        Traffic::new(seed, 20_000, &domain).unwrap()
    }

    fn decisions(traffic: &Traffic) -> impl Iterator<Item = Decision> {
        (0..40_000)
            .step_by(2)
            .filter_map(|n| match traffic.record(n).unwrap().1.body {
                Some(Body::Decision(decision)) => Some(decision),
                _ => None,
            })
    }

    #[test]
    fn a_seed_gives_the_same_records_and_another_one_others() {
        let (a, b, c) = (traffic(1), traffic(1), traffic(2));
        for n in 0..100 {
            assert_eq!(a.record(n).unwrap(), b.record(n).unwrap());
            assert_ne!(a.record(n).unwrap().1, c.record(n).unwrap().1);
        }
    }

    /// The graph is one of services: bounded for each caller, and mostly allowed.
    #[test]
    fn callers_know_few_services_and_are_seldom_denied() {
        let traffic = traffic(7);
        let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut used: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        let mut denied = 0;
        for decision in decisions(&traffic) {
            let caller = decision.principal.unwrap().spiffe_id;
            if decision.verdict != i32::from(Verdict::Allow) {
                denied += 1;
                continue;
            }
            let of_service = (caller.clone(), decision.service.clone());
            known.entry(caller).or_default().insert(decision.service);
            used.entry(of_service)
                .or_default()
                .insert(decision.resource_id);
        }
        assert!((400..1000).contains(&denied), "{denied} of 20,000");
        assert!(known.len() > 300, "{} callers", known.len());
        assert!(known.values().all(|services| services.len() <= 8));
        assert!(known.values().any(|services| services.len() >= 6));
        assert!(used.values().all(|operations| operations.len() <= 4));
    }

    #[test]
    fn requests_are_spread_over_the_whole_time_and_outcomes_follow() {
        let traffic = traffic(3);
        assert_eq!(traffic.time_us(0), BEGINS_US);
        let last = traffic.time_us(39_999);
        assert!(last < BEGINS_US + SPAN_US && last > BEGINS_US + SPAN_US - 1_000_000_000);
        for n in (0..40_000).step_by(2) {
            let (decision, outcome) = (traffic.record(n).unwrap(), traffic.record(n + 1).unwrap());
            assert_eq!(decision.0, outcome.0, "one reporter");
            assert_eq!(decision.1.id, outcome.1.id);
            assert!(decision.1.time_us < outcome.1.time_us);
        }
    }
}
