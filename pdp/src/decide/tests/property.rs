//! Random policies, callers and requests: the engine, cold and cached, says what
//! Cedar's own authorizer says about the whole set.

use cedar_policy::{ValidationMode, Validator};
use http::HeaderValue;
use proptest::{prelude::*, sample::select};

use palisade_mesh::decision::{Decision, Pins, Undecided, Verdict};

use self::{
    condition::condition,
    vocabulary::{Dice, Vocabulary},
};
use super::super::{
    Given, May, Past, Replay, Snapshot, oracle,
    testing::{
        Ask, BATCH, FOREIGNER, ORDERS, STRANGER, WEB, catalogue, compiled, compiled_in, snapshot,
    },
};
use crate::{
    bundle::scope::{self, Concern},
    compiled::Coverage,
};

mod condition;
mod vocabulary;

const PRINCIPALS: [&str; 12] = [
    "principal",
    "principal",
    r#"principal == Workload::"spiffe://acme.test/ns/shop/sa/web""#,
    r#"principal == Workload::"spiffe://acme.test/ns/shop/sa/nobody""#,
    r#"principal == Unregistered::"spiffe://acme.test/ns/shop/sa/stranger""#,
    r#"principal in Service::"acme.test/shop/orders""#,
    r#"principal in Namespace::"acme.test/shop""#,
    r#"principal in TrustDomain::"acme.test""#,
    r#"principal in TrustDomain::"evil.test""#,
    r#"principal in Group::"missing""#,
    "principal is Unregistered",
    r#"principal is Workload in Group::"staff""#,
];
const ACTIONS: [&str; 8] = [
    "action",
    "action",
    r#"action == Action::"GET""#,
    r#"action == Action::"orders:refund""#,
    r#"action in Action::"http:write""#,
    r#"action in Action::"call""#,
    r#"action in [Action::"http:read", Action::"grpc:call"]"#,
    "action in []",
];
const RESOURCES: [&str; 9] = [
    "resource",
    "resource",
    r#"resource == Operation::"acme.test/shop/orders/refund""#,
    r#"resource == Service::"acme.test/shop/orders""#,
    r#"resource in Service::"acme.test/shop/orders""#,
    r#"resource in Service::"acme.test/shop/missing""#,
    r#"resource in TrustDomain::"acme.test""#,
    "resource is Operation",
    r#"resource is Service in Namespace::"acme.test/shop""#,
];
pub(crate) fn policy() -> impl Strategy<Value = String> {
    (
        select(vec![
            "forbid",
            "permit",
            "permit",
            r#"@mode("shadow") permit"#,
            r#"@expires("2026-11-20T15:40:00Z") permit"#,
        ]),
        select(&PRINCIPALS[..]),
        select(&ACTIONS[..]),
        select(&RESOURCES[..]),
        proptest::collection::vec((select(vec!["when", "unless"]), condition()), 0..3),
    )
        .prop_map(|(effect, principal, action, resource, conditions)| {
            let conditions: String = conditions
                .iter()
                .map(|(kind, condition)| format!(" {kind} {{ {condition} }}"))
                .collect();
            format!("{effect} ({principal}, {action}, {resource}){conditions};")
        })
}

pub(crate) fn ask() -> impl Strategy<Value = Ask> {
    let target = select(vec![
        ("GET", "orders", "/orders"),
        ("GET", "orders", "/orders/42"),
        ("GET", "orders", "/orders/42?q"),
        ("POST", "orders", "/orders/42/refund"),
        ("DELETE", "orders", "/elsewhere"),
        ("GET", "web", "/?q"),
        ("POST", "inventory", "/shop.v1.Stock/Reserve"),
        ("POST", "inventory", "/shop.v1.Stock/Other"),
    ]);
    let other = "spiffe://acme.test/ns/shop/sa/other";
    let caller = select(vec![WEB, ORDERS, BATCH, STRANGER, other, FOREIGNER]);
    let change: Vec<&[u8]> = vec![b"", b"CHG-1", b"other", b"\xff"];
    let roles: Vec<&[u8]> = vec![b"", b"viewer, agent", b"\xff"];
    let time = select(vec!["15:30:00.2", "15:30:00.7", "15:50:00", "16:10:00"]);
    let source = select(vec!["10.1.2.3:40000", "10.1.2.3:40001", "192.0.2.1:50000"]);
    (
        target,
        caller,
        select(change),
        select(roles),
        time,
        source,
        any::<bool>(),
    )
        .prop_map(
            |((method, host, target), caller, change, roles, time, source, sni)| {
                let mut ask =
                    Ask::new(caller, method, host, target).at(&format!("2026-11-20T{time}Z"));
                if !change.is_empty() {
                    ask = ask.header("x-change-id", change);
                }
                if !roles.is_empty() {
                    ask = ask.header("x-roles", roles);
                }
                ask.connection.source = source.parse().expect("constant");
                ask.connection.tls.sni = sni.then(|| "orders".into());
                ask
            },
        )
}

/// `ask`, and it again with each single thing changed that a policy may read: an
/// answer that is remembered for one must not be given to another.
pub(crate) fn with_variants(ask: Ask) -> Vec<Ask> {
    let changes: [fn(&mut Ask); 15] = [
        |_| {},
        |a| a.request.query = Some("r".into()),
        |a| a.request.query = None,
        |a| a.connection.tls.sni = Some("other".into()),
        |a| a.connection.tls.alpn = None,
        |a| a.connection.tls.mtls = false,
        |a| a.connection.source.set_port(65_535),
        |a| a.connection.source.set_ip([198, 51, 100, 7].into()),
        |a| a.connection.tls.version = "1.2",
        |a| a.request.path = "/orders/43".into(),
        |a| drop(a.headers.remove("x-change-id")),
        |a| drop(a.headers.remove("x-roles")),
        |a| append(a, "x-roles", "agent"),
        |a| append(a, "x-change-id", "CHG-1"),
        |a| a.now_us += 30 * 60 * 1_000_000,
    ];
    let changed = changes.iter().map(|change| {
        let mut ask = ask.clone();
        change(&mut ask);
        ask
    });
    changed.collect()
}

fn append(ask: &mut Ask, name: &'static str, value: &'static str) {
    ask.headers.append(name, HeaderValue::from_static(value));
}

fn is_strict(snapshot: &Snapshot) -> bool {
    let compiled = snapshot.compiled();
    let validator = Validator::new(compiled.schema.clone());
    let result = validator.validate(&compiled.policies, ValidationMode::Strict);
    result.validation_passed()
}

/// A decision without the moment at which it was made: of two moments between which nothing
/// expires, either may be the one that is remembered.
fn timeless(decision: &Decision) -> Decision {
    let mut decision = decision.clone();
    if let Some(rest) = decision.context_json.strip_prefix("{\"decided_us\":") {
        let rest = rest.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        decision.context_json = format!("{{{}", rest.trim_start_matches(',')).into();
    }
    decision
}

/// So many cases each time; `PROPTEST_CASES` asks for more.
fn config(few: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default.cases,
        None => few,
    };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn engine_says_what_the_reference_says(
        policies in proptest::collection::vec(policy(), 0..12),
        asks in proptest::collection::vec(ask().prop_map(with_variants), 1..4),
    ) {
        let text: String = policies
            .iter()
            .enumerate()
            .map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n"))
            .collect();
        let snapshot = snapshot(&text);
        let mut engine = snapshot.engine().with_self_check(0);
        for round in ["cold", "cached"] {
            for ask in asks.iter().flatten() {
                let answer = ask.ask(&snapshot, |q| engine.decide(q));
                let reference = ask.ask(&snapshot, |q| snapshot.reference(q));
                prop_assert!(
                    oracle::agree(&answer.decision, &reference),
                    "{round}: {ask:?}\nengine {:?}\nreference {reference:?}\n{text}",
                    answer.decision,
                );
                let until = answer.decision.valid_until_us;
                prop_assert!(until.is_none_or(|until| until > ask.now_us));
            }
        }
    }

    /// What is pinned to a connection is what would be decided without, whatever changes from
    /// one request to the next, and whichever revision comes.
    #[test]
    fn a_pinned_answer_is_the_one_that_is_found(
        before in proptest::collection::vec(policy(), 0..8),
        after in proptest::collection::vec(policy(), 0..8),
        asks in proptest::collection::vec(ask(), 1..12),
        sampled in 0..4_u32,
    ) {
        let text = |policies: &[String]| -> String {
            let numbered = policies.iter().enumerate();
            numbered.map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n")).collect()
        };
        let revisions = [text(&before), text(&after)].map(|text| snapshot(&text));
        let mut pins = Pins::default();
        let connection = &asks[0].connection;
        for snapshot in revisions.iter().chain(&revisions) {
            let mut with = snapshot.engine().with_self_check(sampled);
            let mut without = snapshot.engine().with_self_check(0);
            for ask in asks.iter().chain(&asks) {
                let ask = Ask { connection: connection.clone(), ..ask.clone() };
                let pinned = ask.ask(snapshot, |q| with.decide_on(q, &mut pins)).decision;
                let found = ask.ask(snapshot, |q| without.decide(q)).decision;
                prop_assert_eq!(timeless(&pinned), timeless(&found), "{:?}\n{:?}\n{:?}", ask, before, after);
            }
            prop_assert_eq!(snapshot.self_check().mismatched, 0);
        }
    }

    /// An answer about many requests holds for each of them, whatever was left open.
    #[test]
    fn a_survey_holds_for_each_request(
        policies in proptest::collection::vec(policy(), 0..8),
        ask in ask(),
        (clock, known, concrete) in (any::<bool>(), 0..3_usize, any::<bool>()),
    ) {
        let text: String = policies
            .iter()
            .enumerate()
            .map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n"))
            .collect();
        let snapshot = snapshot(&text);
        let decision = ask.ask(&snapshot, |q| snapshot.engine().decide(q)).decision;
        let whole = ask.ask(&snapshot, |q| snapshot.reference(q)).context_json;
        let given = Given {
            now_us: ask.now_us,
            clock,
            onwards: false,
            context_json: [None, Some(decision.context_json.as_str()), Some(&whole)][known],
        };
        let caller = snapshot.caller(&ask.connection.peer.id).expect("in the store");
        let target = match concrete {
            true => ask.ask(&snapshot, |q| {
                let service = snapshot.catalogue().by_id(&q.service.id).expect("its own");
                Some(snapshot.target(service, q.request))
            }),
            false => snapshot.targets().into_iter().find(|t| {
                t.action == decision.action && t.resource_id() == decision.resource_id
            }),
        };
        let Some(target) = target else {
            // A request that is no operation, of a service that answers it with 404.
            return Ok(());
        };
        let survey = snapshot.survey(given).expect("JSON of ours");
        let access = survey.access(&caller, &target);
        if decision.verdict.reason() == "not_encodable" {
            // A header that cannot be read is no part of any context.
            return Ok(());
        }
        if !decision.errors.is_empty() && !is_strict(&snapshot) {
            // A survey takes policies to have passed the validation that a repository has to.
            return Ok(());
        }
        match access.may {
            May::Yes => prop_assert!(decision.verdict.is_allow(), "{access:?} {decision:?}\n{text}"),
            May::No => prop_assert!(!decision.verdict.is_allow(), "{access:?} {decision:?}\n{text}"),
            May::OnlyIf => prop_assert!(known < 2, "nothing is open: {access:?} {whole}\n{text}"),
        }
        if let Some(verdict) = access.verdict {
            prop_assert_eq!(verdict, decision.verdict, "{:?}\n{}", access, text);
            prop_assert!(access.deciding.iter().all(|id| decision.determining.contains(id)));
        }
    }

    /// A recorded decision comes out the same under its own revision, and under another
    /// one either as a request of that moment would have, or not at all.
    #[test]
    fn a_replay_says_what_the_engine_would_have_said(
        before in proptest::collection::vec(policy(), 0..8),
        after in proptest::collection::vec(policy(), 0..8),
        asks in proptest::collection::vec(ask(), 1..4),
    ) {
        let text = |policies: &[String]| -> String {
            let numbered = policies.iter().enumerate();
            numbered.map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n")).collect()
        };
        let (before, after) = (snapshot(&text(&before)), snapshot(&text(&after)));
        let mut own = Replay::new(before.clone());
        let mut other = Replay::new(after.clone());
        for ask in &asks {
            let kept = ask.ask(&before, |q| before.engine().decide(q)).decision;
            if kept.verdict.reason() == "not_encodable" {
                continue;
            }
            let service = ask.ask(&before, |q| q.service.id.to_string());
            let source = ask.connection.source;
            let past = Past {
                time_us: ask.now_us,
                principal: ask.connection.peer.id.as_str(),
                proven: true,
                service: &service,
                method: ask.request.method.as_str(),
                host: &ask.request.host,
                path: &ask.request.path,
                source_ip: &source.ip().to_string(),
                source_port: source.port().into(),
                context_json: &kept.context_json,
                covered: &[],
            };
            let again = own.decide(&past).expect("it recorded what it read");
            prop_assert!(oracle::agree(&again, &kept), "{again:?} {kept:?}");
            let now = ask.ask(&after, |q| after.engine().decide(q)).decision;
            if let Ok(replayed) = other.decide(&past) {
                prop_assert!(oracle::agree(&replayed, &now), "{replayed:?} {now:?}");
            }
        }
    }

    /// A proxy that holds only what can concern its service decides as one that holds
    /// everything.
    #[test]
    fn a_slice_says_what_the_whole_says_about_its_service(
        policies in proptest::collection::vec(policy(), 0..12),
        asks in proptest::collection::vec(ask().prop_map(with_variants), 1..4),
    ) {
        let texts: Vec<String> = policies
            .iter()
            .enumerate()
            .map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n"))
            .collect();
        let whole = snapshot(&texts.concat());
        let mut engine = whole.engine().with_self_check(0);
        for service in whole.catalogue().services() {
            let mut concern = Concern::new(&whole.compiled().entities, Some(service));
            let kept: String = texts
                .iter()
                .filter(|text| {
                    let policy = text.parse::<cedar_policy::Policy>().expect("parsed before");
                    concern.is_of(&scope::of(&policy))
                })
                .cloned()
                .collect();
            let mut part = compiled(&kept);
            part.coverage = Coverage::Service(Some(service.id.clone()));
            let part = Snapshot::new(part, 7).expect("snapshot");
            let mut of_part = part.engine().with_self_check(0);
            for ask in asks.iter().flatten() {
                let asked = whole.catalogue().by_host(&ask.request.host).expect("host");
                let ours = asked.id == service.id;
                let got = ask.ask(&part, |q| of_part.decide(q)).decision;
                if ours {
                    let expected = ask.ask(&whole, |q| engine.decide(q)).decision;
                    prop_assert_eq!(got, expected, "{:?}\n{}", ask, texts.concat());
                } else {
                    prop_assert_eq!(got.verdict, Verdict::Undecided(Undecided::NotServed));
                }
            }
        }
    }

    /// What a decision records is enough to come to it again.
    #[test]
    fn a_recorded_decision_is_explained_as_it_was_made(
        policies in proptest::collection::vec(policy(), 0..8),
        ask in ask(),
    ) {
        let text: String = policies
            .iter()
            .enumerate()
            .map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n"))
            .collect();
        let snapshot = snapshot(&text);
        let decision = ask.ask(&snapshot, |q| snapshot.engine().decide(q)).decision;
        let live = ask.ask(&snapshot, |q| snapshot.explain(q));
        let recall = |json: &str| {
            let caller = ask.connection.peer.id.as_str();
            let (kind, id) = (decision.resource_type, &decision.resource_id);
            snapshot
                .explain_recorded(caller, &decision.action, kind, id, json)
                .expect("a record of ours")
        };
        let recorded = recall(&decision.context_json);
        let whole = ask.ask(&snapshot, |q| snapshot.reference(q)).context_json;
        prop_assert_eq!(&live.reason, decision.verdict.reason());
        let ids: Vec<&str> = live.determining.iter().map(|p| p.id.as_str()).collect();
        prop_assert_eq!(ids, decision.determining.iter().map(|id| id.as_str()).collect::<Vec<_>>());
        if decision.verdict.reason() != "not_encodable" {
            prop_assert_eq!(recorded.verdict, live.verdict, "{}", text);
            prop_assert_eq!(recorded.determining.len(), live.determining.len());
            prop_assert_eq!(recall(&whole).verdict, live.verdict, "{}", whole);
        }
    }
}

proptest! {
    // A schema is parsed for each.
    #![proptest_config(config(40))]

    /// The same whatever the schema and the entities are: types, hierarchies, attributes of
    /// every kind of type, tags, groups of actions.
    #[test]
    fn engine_says_what_the_reference_says_in_any_vocabulary(
        world in proptest::collection::vec(any::<u8>(), 0..500),
        rolled in proptest::collection::vec(any::<u8>(), 0..300),
        policies in proptest::collection::vec(policy(), 0..3),
        asks in proptest::collection::vec(ask(), 1..4),
    ) {
        let vocabulary = Vocabulary::roll(&mut Dice::new(&world), &catalogue());
        let numbered = policies.iter().enumerate();
        let text: String = numbered.map(|(i, p)| format!("@id(\"p{i:02}\") {p}\n")).collect();
        let text = text + &vocabulary.policies(&mut Dice::new(&rolled), 8);
        let compiled = compiled_in(&vocabulary.schema, vocabulary.entities.clone(), &text);
        let snapshot = Snapshot::new(compiled, 7).expect("snapshot");
        let mut engine = snapshot.engine().with_self_check(0);
        for ask in asks.iter().chain(&asks) {
            let answer = ask.ask(&snapshot, |q| engine.decide(q));
            let reference = ask.ask(&snapshot, |q| snapshot.reference(q));
            prop_assert!(
                oracle::agree(&answer.decision, &reference),
                "{ask:?}\nengine {:?}\nreference {reference:?}\n{}\n{}\n{text}",
                answer.decision,
                vocabulary.schema,
                vocabulary.entities,
            );
        }
    }
}
