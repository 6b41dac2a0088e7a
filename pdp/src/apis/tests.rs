//! The APIs at their own doors, without sockets: who is answered what.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use palisade_mesh::{
    clock::Clock,
    kill::{Entry, KillList, Target},
    link::{Gate, Link, LinkAction, LinkRefused},
    spiffe_id::{SpiffeId, TrustDomain},
    svid::Peer,
    wire::record::{Decision, Flip, Verdict, record::Body as Of},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{
    Caller, Desk, DeskConfig, Limits, Underway, authzen,
    force::Force,
    inquiry::{self, Lines, Misread, Raw, Stated},
    judged::{Judged, judge},
    stage::Case,
};
use crate::{
    author::{self, sample},
    decide::{
        Snapshot,
        testing::{Ask, BATCH, FOREIGNER, NOW_US, WEB, compiled, snapshot},
    },
    publish::rollout::{Evidence, Name, Phase, Plan, Rollout, Seen, Step, Target as Whose},
    testing::Records,
};

mod masks;

const POLICIES: &str = "@id(\"read\") permit (principal, action in Action::\"http\", resource);";

/// Lets everybody do everything, and keeps what was asked.
#[derive(Default)]
struct Open(Mutex<Vec<(LinkAction, Option<String>)>>);

impl Gate for Open {
    fn ask(&self, link: &Link<'_>) -> Result<(), LinkRefused> {
        let service = link.about.and_then(|about| about.service);
        let asked = (link.action, service.map(str::to_owned));
        self.0.lock().unwrap().push(asked);
        Ok(())
    }
}

/// A desk, its gate, its records, and the kill list that it is shown.
struct Office {
    desk: Desk,
    gate: Arc<Open>,
    records: Records,
    barred: Arc<Mutex<Arc<KillList>>>,
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn list(targets: Vec<Target>) -> Arc<KillList> {
    let entries = targets.into_iter().map(|target| Entry {
        id: ulid::Ulid::nil(),
        target,
        reason: String::new(),
        author: String::new(),
        created_us: 0,
        expires_us: None,
    });
    let domain = TrustDomain::parse("acme.test").unwrap();
    Arc::new(KillList::new(domain, 1, 0, entries.collect()).unwrap())
}

fn office() -> Office {
    let (gate, records) = (Arc::<Open>::default(), Records::default());
    let barred = Arc::new(Mutex::new(list(Vec::new())));
    let shown = barred.clone();
    let desk = Desk::new(DeskConfig {
        gate: gate.clone(),
        records: Box::new(records.clone()),
        reporter: id("spiffe://acme.test/palisade/pdp"),
        demo: false,
        kill_list: Box::new(move || shown.lock().unwrap().clone()),
        clock: Clock::manual(jiff::Timestamp::from_microsecond(NOW_US).unwrap()),
        limits: Limits {
            in_flight: 2,
            questions_per_s: 1000,
        },
        by_reference: false,
    });
    desk.put(snapshot(POLICIES), None);
    Office {
        desk,
        gate,
        records,
        barred,
    }
}

impl Office {
    /// The caller of every test: a gateway.
    fn caller(&self) -> Caller {
        self.desk.caller(&Peer {
            id: id("spiffe://acme.test/ns/edge/sa/gateway"),
            serial: Arc::from([7_u8]),
            not_before_s: 0,
            not_after_s: i64::MAX,
        })
    }

    async fn post(&self, caller: Caller, path: &str, asked: &Value) -> (StatusCode, String) {
        let mut request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(asked.to_string()))
            .unwrap();
        request.extensions_mut().insert(caller);
        let answer = authzen::router(&self.desk, Arc::default(), "https")
            .oneshot(request)
            .await
            .unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn answer(&self, path: &str, asked: &Value) -> Value {
        let (status, body) = self.post(self.caller(), path, asked).await;
        assert_eq!(status, StatusCode::OK, "{asked}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

const EVALUATION: &str = "/access/v1/evaluation";
const SUBJECTS: &str = "/access/v1/search/subject";

fn list_orders(subject: &str) -> Value {
    json!({
        "subject": { "type": "workload", "id": subject },
        "action": { "name": "GET" },
        "resource": { "type": "operation", "id": "shop/orders/list" },
    })
}

/// Who is on the kill list is refused whoever asserts it, and no search lists it.
#[tokio::test]
async fn a_killed_identity_is_refused_to_whoever_asks_about_it() {
    let office = office();
    let allowed = office.answer(EVALUATION, &list_orders(WEB)).await;
    assert_eq!(allowed["decision"], true, "{allowed}");
    let found = office.answer(SUBJECTS, &list_orders("")).await;
    let listed = |found: &Value, who: &str| found["results"].to_string().contains(who);
    assert!(listed(&found, WEB) && listed(&found, BATCH), "{found}");

    *office.barred.lock().unwrap() = list(vec![Target::Identity(id(WEB))]);
    let barred = office.answer(EVALUATION, &list_orders(WEB)).await;
    assert_eq!(barred["decision"], false, "{barred}");
    assert_eq!(barred["context"]["reason"], "identity_killed", "{barred}");
    let last = office.records.0.lock().unwrap().last().cloned().unwrap();
    let Some(Of::Decision(decision)) = last.body else {
        panic!("{last:?}");
    };
    assert_eq!(decision.reason, "identity_killed");
    assert_eq!(decision.principal.unwrap().spiffe_id, WEB);
    let found = office.answer(SUBJECTS, &list_orders("")).await;
    assert!(!listed(&found, WEB) && listed(&found, BATCH), "{found}");
    let resources = json!({
        "subject": { "type": "workload", "id": WEB }, "action": { "name": "GET" },
        "resource": { "type": "operation" },
    });
    let found = office
        .answer("/access/v1/search/resource", &resources)
        .await;
    assert_eq!(found["results"], json!([]), "{found}");

    // And whoever is on it itself is told nothing.
    *office.barred.lock().unwrap() = list(vec![Target::Serial([7].into())]);
    let (status, body) = office
        .post(office.caller(), EVALUATION, &list_orders(WEB))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    assert!(body.contains("serial_killed"), "{body}");
}

/// A certificate that an Envoy passes on is one that the kill list can name.
#[test]
fn a_killed_certificate_is_refused_to_whoever_passes_it_on() {
    let force = Force::new(snapshot(POLICIES), false);
    let judged = |serial: u8| {
        let raw = Raw {
            method: "GET",
            host: "orders",
            target: "/orders",
            headers: Lines {
                map: HeaderMap::new(),
                complete: true,
                joined: false,
            },
        };
        let stated = Stated {
            serial: Arc::from([serial]),
            now_us: NOW_US,
            ..Stated::default()
        };
        let inquiry = inquiry::request(force.catalogue(), id(WEB), raw, stated).unwrap();
        judge(
            inquiry,
            &force,
            &list(vec![Target::Serial([7].into())]),
            NOW_US,
        )
        .reason
    };
    assert_eq!(judged(7), "serial_killed");
    assert_eq!(judged(8), "permitted");
}

/// No listener of the mesh would let it in, whatever policies say about everybody.
#[tokio::test]
async fn a_subject_of_another_trust_domain_is_nobody_here() {
    let office = office();
    let answer = office.answer(EVALUATION, &list_orders(FOREIGNER)).await;
    assert_eq!(answer["decision"], false, "{answer}");
    assert_eq!(answer["context"]["reason"], "no_principal", "{answer}");
}

/// What callers can have lie about here is bounded before a byte of it is read.
#[tokio::test]
async fn a_request_has_a_seat_before_its_message_is_read() {
    let office = office();
    let caller = office.caller();
    let (mut http, mut grpc) = (HeaderMap::new(), HeaderMap::new());
    http.insert("x-request-id", "9".parse().unwrap());
    grpc.insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
    let first = office.desk.enter(Some(&caller), &http).unwrap();
    let _second = office.desk.enter(Some(&caller), &grpc).unwrap();
    let refused = office.desk.enter(Some(&caller), &http).unwrap_err();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["x-request-id"], "9");
    let refused = office.desk.enter(Some(&caller), &grpc).unwrap_err();
    assert_eq!(refused.headers()["grpc-status"], "8", "{refused:?}");
    drop(first);
    assert!(office.desk.enter(Some(&caller), &http).unwrap().is_some());
    // Whoever has proven nothing has nothing read by gRPC, and HTTP tells where to begin.
    let refused = office.desk.enter(None, &grpc).unwrap_err();
    assert_eq!(refused.headers()["grpc-status"], "16", "{refused:?}");
    assert!(office.desk.enter(None, &http).unwrap().is_none());
}

#[tokio::test]
async fn a_token_that_was_taken_away_is_none_on_an_open_connection_either() {
    let office = office();
    let good = Arc::new(AtomicBool::new(true));
    let held = good.clone();
    let client = id("spiffe://acme.test/palisade/client/ci");
    let caller = office
        .desk
        .client(&client, move || held.load(Ordering::Relaxed));
    let asked = list_orders(WEB);
    let (status, body) = office.post(caller.clone(), EVALUATION, &asked).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    good.store(false, Ordering::Relaxed);
    let (status, body) = office.post(caller, EVALUATION, &asked).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
}

/// Whichever way a service is named, those who permit searches learn which one it is.
#[tokio::test]
async fn a_search_is_about_its_service_however_that_is_written() {
    for (kind, named) in [
        ("operation", "shop/orders/list"),
        ("operation", "acme.test/shop/orders/list"),
        ("service", "shop/orders"),
        ("service", "orders"),
        ("url", "http://orders/orders"),
        ("url", "http://ORDERS:8080?x=/web"),
    ] {
        let office = office();
        let asked = json!({
            "subject": { "type": "workload" }, "action": { "name": "GET" },
            "resource": { "type": kind, "id": named },
        });
        office.post(office.caller(), SUBJECTS, &asked).await;
        let asked = office.gate.0.lock().unwrap().clone();
        let orders = Some("acme.test/shop/orders".to_owned());
        assert_eq!(asked, [(LinkAction::Search, orders)], "{named}");
    }
}

/// An action that is a method, by itself or by a mapping, is not overruled beside it.
#[tokio::test]
async fn a_method_that_contradicts_the_action_is_refused() {
    let office = office();
    for (kind, id) in [("service", "orders"), ("operation", "shop/orders/list")] {
        for (method, expected) in [("GET", 200), ("get", 200), ("DELETE", 400)] {
            let asked = json!({
                "subject": { "type": "workload", "id": WEB },
                "action": { "name": "GET", "properties": { "method": method } },
                "resource": { "type": kind, "id": id, "properties": { "path": "/orders" } },
            });
            let (status, body) = office.post(office.caller(), EVALUATION, &asked).await;
            assert_eq!(status, expected, "{kind} {method}: {body}");
        }
    }
}

/// `null` says nothing, and nothing that was said is left out in silence.
#[tokio::test]
async fn what_is_not_said_of_a_connection_is_not_known() {
    let office = office();
    let unproven = "@id(\"u\") permit (principal, action, resource) \
                    unless { context.tls.mtls };";
    office.desk.put(snapshot(unproven), None);
    let with = |context: Value| {
        let mut asked = list_orders(WEB);
        asked["context"] = context;
        asked
    };
    for (context, expected) in [
        (json!({ "tls": { "mtls": false } }), 200),
        (json!({ "tls": { "mtls": null } }), 503),
        (json!({ "tls": {} }), 503),
        (
            json!({ "tls": { "mtls": true }, "source": { "port": 1 } }),
            400,
        ),
        (
            json!({ "tls": { "mtls": true }, "source": { "ip": "10.0.0.1", "port": 1 } }),
            200,
        ),
    ] {
        let (status, body) = office
            .post(office.caller(), EVALUATION, &with(context.clone()))
            .await;
        assert_eq!(status, expected, "{context}: {body}");
    }
}

const OPEN: &str = "@id(\"open\") permit (principal, action, resource);";
const CLOSED: &str = "@id(\"closed\") forbid (principal, action, resource);";

/// A rollout of number 8 over number 7 that begins with `plan`, and its candidate.
fn begin(office: &Office, plan: Plan) -> (Arc<Snapshot>, Rollout) {
    let (before, next) = (snapshot(OPEN), Snapshot::new(compiled(CLOSED), 8).unwrap());
    let name = |snapshot: &Snapshot| Name {
        digest: snapshot.versions().policy,
        sequence: snapshot.versions().sequence,
    };
    let rollout = Rollout::begin(plan, name(&before), name(&next), "test", &SEEN);
    let of = underway(&before, &next, &rollout);
    office.desk.put(before, of);
    (next, rollout)
}

fn underway(
    baseline: &Arc<Snapshot>,
    candidate: &Arc<Snapshot>,
    rollout: &Rollout,
) -> Option<Underway> {
    Some(Underway {
        baseline: baseline.clone(),
        candidate: candidate.clone(),
        rollout: rollout.clone(),
    })
}

static NOTHING: std::sync::LazyLock<Evidence> = std::sync::LazyLock::new(Evidence::default);
static SEEN: std::sync::LazyLock<Seen<'static>> = std::sync::LazyLock::new(|| Seen {
    now_us: NOW_US,
    proxies: &[],
    away: &[],
    evidence: &NOTHING,
});

fn reserve(subject: &str) -> Value {
    json!({
        "subject": { "type": "workload", "id": subject },
        "action": { "name": "grpc:call" },
        "resource": { "type": "operation", "id": "shop/inventory/reserve" },
    })
}

impl Office {
    /// Asks, and what the record of the answer has.
    async fn recorded(&self, asked: &Value) -> (bool, Decision) {
        let answer = self.answer(EVALUATION, asked).await;
        let last = self.records.0.lock().unwrap().last().cloned().unwrap();
        let Some(Of::Decision(decision)) = last.body else {
            panic!("{last:?}");
        };
        (answer["decision"] == true, decision)
    }
}

/// Number that decided, and numbers, verdicts and flips of what was tried beside it.
fn said(decision: &Decision) -> (u64, Vec<(u64, Verdict, Flip)>) {
    let number = decision.versions.as_ref().map_or(0, |v| v.policy_sequence);
    let tried = decision.shadows.iter();
    let tried = tried.map(|s| (s.policy_sequence, s.verdict(), s.flip()));
    (number, tried.collect())
}

/// An answer about a service comes from the revision that its proxies enforce, and its record
/// has what the other one said.
#[tokio::test]
async fn an_answer_during_a_rollout_is_what_proxies_enforce() {
    let office = office();
    let shadowed = Plan {
        every: 2,
        ..Plan::default()
    };
    begin(&office, shadowed);
    let denied = (8, Verdict::Forbidden, Flip::NewlyDenied);
    let was_allowed = (7, Verdict::Allow, Flip::NewlyDenied);
    let (allowed, decision) = office.recorded(&list_orders(WEB)).await;
    assert!(allowed);
    assert_eq!(said(&decision), (7, vec![denied]));
    assert_eq!(decision.shadows[0].policies, ["closed"]);
    // One in two is put to both.
    let (_, decision) = office.recorded(&list_orders(WEB)).await;
    assert_eq!(said(&decision), (7, vec![]));
    assert_eq!(office.desk.counts().tried, 1);
    assert_eq!(office.desk.counts().newly_denied, 1);

    let canary = |target| Plan {
        shadow: None,
        steps: vec![Step {
            target,
            last: Duration::from_secs(60),
        }],
        ..Plan::default()
    };
    let orders = Whose::parse("svc=shop/orders").unwrap();
    let (next, mut rollout) = begin(&office, canary(orders));
    let (allowed, decision) = office.recorded(&list_orders(WEB)).await;
    assert!(!allowed);
    assert_eq!(said(&decision), (8, vec![was_allowed]));
    let (allowed, decision) = office.recorded(&reserve(WEB)).await;
    assert!(allowed);
    assert_eq!(said(&decision), (7, vec![denied]));
    // Several at once, and a search about one service, the same.
    let both = json!({ "evaluations": [list_orders(WEB), reserve(WEB)] });
    let answer = office.answer("/access/v1/evaluations", &both).await;
    let decisions = ["0", "1"].map(|i| &answer["evaluations"][i.parse::<usize>().unwrap()]);
    assert_eq!(decisions.map(|d| d["decision"] == true), [false, true]);
    let found = office.answer(SUBJECTS, &list_orders("")).await;
    assert_eq!(found["results"], json!([]), "{found}");
    let found = office.answer(SUBJECTS, &reserve("")).await;
    assert_ne!(found["results"], json!([]), "{found}");

    // From `full` on, for all of them.
    rollout.promote("test", &SEEN).unwrap();
    let of = || underway(&snapshot(OPEN), &next, &rollout);
    office.desk.put(snapshot(OPEN), of());
    let (allowed, decision) = office.recorded(&reserve(WEB)).await;
    assert!(!allowed);
    assert_eq!(said(&decision), (8, vec![was_allowed]));
    // Also once it is in force, and what was there before is not.
    office.desk.put(next.clone(), of());
    let (allowed, decision) = office.recorded(&reserve(WEB)).await;
    assert!(!allowed);
    assert_eq!(said(&decision), (8, vec![was_allowed]));
    // Everybody's share is ours, too.
    begin(&office, canary(Whose::parse("100%").unwrap()));
    let (allowed, decision) = office.recorded(&reserve(WEB)).await;
    assert!(!allowed);
    assert_eq!(said(&decision), (8, vec![was_allowed]));
    // Without a rollout nothing is beside.
    office.desk.put(snapshot(OPEN), None);
    let (allowed, decision) = office.recorded(&reserve(WEB)).await;
    assert!(allowed);
    assert_eq!(said(&decision), (7, vec![]));
}

/// A service that only the new revision knows is answered about by it as soon as it decides about
/// that service, as its proxies do; before that, there is no such service.
#[tokio::test]
async fn what_only_a_canary_knows_is_answered_by_it() {
    let (office, dir) = (office(), sample::copy());
    let load = |number| Snapshot::new(author::load(dir.path()).compiled.unwrap(), number).unwrap();
    let before = load(7);
    let quotes = "service: shop/quotes\nidentities: [ns/shop/sa/quotes]\nhosts: [quotes]\noperations:\n  - { name: list, match: GET /quotes }\n";
    sample::write(dir.path(), "services/quotes.yaml", quotes);
    let policy = "@id(\"quotes\")\npermit (principal, action, resource in Service::\"demo.test/shop/quotes\");\n";
    sample::write(dir.path(), "policies/quotes.cedar", policy);
    let next = load(8);
    let name = |snapshot: &Snapshot| Name {
        digest: snapshot.versions().policy,
        sequence: snapshot.versions().sequence,
    };
    let plan = Plan {
        steps: vec![Step {
            target: Whose::parse("svc=shop/quotes").unwrap(),
            last: Duration::from_secs(60),
        }],
        ..Plan::default()
    };
    let mut rollout = Rollout::begin(plan, name(&before), name(&next), "test", &SEEN);
    office
        .desk
        .put(before.clone(), underway(&before, &next, &rollout));
    let asked = |id: &str| {
        json!({
            "subject": { "type": "workload", "id": id },
            "action": { "name": "GET" },
            "resource": { "type": "operation", "id": "shop/quotes/list" },
            "context": { "tls": { "mtls": true } },
        })
    };
    let web = asked("spiffe://demo.test/ns/shop/sa/web");
    let (status, _) = office.post(office.caller(), EVALUATION, &web).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "nobody has it yet");
    let (status, _) = office.post(office.caller(), SUBJECTS, &asked("")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    while !matches!(rollout.phase, Phase::Canary(_)) {
        rollout.promote("test", &SEEN).unwrap();
    }
    office
        .desk
        .put(before.clone(), underway(&before, &next, &rollout));
    let (allowed, decision) = office.recorded(&web).await;
    assert!(allowed);
    assert_eq!(said(&decision).0, 8);
    let found = office.answer(SUBJECTS, &asked("")).await;
    assert_ne!(found["results"], json!([]), "{found}");
}

/// What the candidate does not understand any more is stopped by it: that is a flip, and what
/// neither understands is none.
#[tokio::test]
async fn what_a_canary_does_not_understand_any_more_is_newly_denied() {
    let (office, dir) = (office(), sample::copy());
    let quotes = |name: &str| {
        format!(
            "service: shop/quotes\nidentities: [ns/shop/sa/quotes]\nhosts: [quotes]\noperations:\n  - {{ name: {name}, match: GET /quotes }}\n"
        )
    };
    let policy = "@id(\"quotes\")\npermit (principal, action, resource in Service::\"demo.test/shop/quotes\");\n";
    sample::write(dir.path(), "policies/quotes.cedar", policy);
    let load = |name: &str, number| {
        sample::write(dir.path(), "services/quotes.yaml", &quotes(name));
        Snapshot::new(author::load(dir.path()).compiled.unwrap(), number).unwrap()
    };
    let (before, next) = (load("list", 7), load("all", 8));
    let name = |snapshot: &Snapshot| Name {
        digest: snapshot.versions().policy,
        sequence: snapshot.versions().sequence,
    };
    let plan = Plan {
        shadow: None,
        steps: vec![Step {
            target: Whose::parse("svc=shop/quotes").unwrap(),
            last: Duration::from_secs(60),
        }],
        ..Plan::default()
    };
    let rollout = Rollout::begin(plan, name(&before), name(&next), "test", &SEEN);
    let of = underway(&before, &next, &rollout);
    office.desk.put(before, of);
    let asked = |operation: &str| {
        json!({
            "subject": { "type": "workload", "id": "spiffe://demo.test/ns/shop/sa/web" },
            "action": { "name": "GET" },
            "resource": { "type": "operation", "id": format!("shop/quotes/{operation}") },
            "context": { "tls": { "mtls": true } },
        })
    };
    let tried = |office: &Office| {
        let flips = office.desk.standing().asked.unwrap().flips;
        (flips.evaluated, flips.newly_denied, flips.newly_allowed)
    };
    for (operation, status, expected) in [
        ("list", StatusCode::BAD_REQUEST, (1, 1, 0)),
        ("nothing", StatusCode::BAD_REQUEST, (1, 1, 0)),
        ("all", StatusCode::OK, (2, 1, 1)),
    ] {
        let asked = asked(operation);
        let (found, body) = office.post(office.caller(), EVALUATION, &asked).await;
        assert_eq!(found, status, "{operation}: {body}");
        assert_eq!(tried(&office), expected, "{operation}");
    }
}

/// An engine that breaks off while it decides is as much an error as one that is tried.
#[tokio::test]
async fn a_candidate_that_breaks_off_while_it_decides_is_counted() {
    let office = office();
    let canary = Plan {
        shadow: None,
        steps: Vec::new(),
        ..Plan::default()
    };
    begin(&office, canary);
    let stage = office.desk.stage().unwrap();
    let errors = || stage.standing().2.unwrap().flips.errors;
    let case = || Case::of(Some(&stage), Box::new(|_| Err(Misread::words("none"))));
    let broken = |case: Case<'_>| {
        let decide = || case.watched(|| panic!("an engine breaks off"));
        catch_unwind(AssertUnwindSafe(decide)).is_err()
    };
    assert!(broken(case()));
    assert_eq!(errors(), 1);
    // That of the revision before is nobody's fault here.
    begin(&office, Plan::default());
    let stage = office.desk.stage().unwrap();
    let case = Case::of(Some(&stage), Box::new(|_| Err(Misread::words("none"))));
    assert!(broken(case));
    let errors = stage.standing().2.unwrap().flips.errors;
    assert_eq!(errors, 1, "of the same pair as before");
}

/// A record takes as much of a caller's words as it has room for.
#[tokio::test]
async fn a_search_with_endless_words_leaves_a_record_that_is_not() {
    let office = office();
    let asked = json!({
        "subject": { "type": "workload", "id": WEB },
        "action": { "name": "x".repeat(70_000) },
        "resource": { "type": "operation" },
    });
    let path = "/access/v1/search/resource";
    office.post(office.caller(), path, &asked).await;
    let records = office.records.0.lock().unwrap();
    let searched = records.iter().filter_map(|record| match &record.body {
        Some(Of::AuditRead(read)) => read.searched.as_ref(),
        _ => None,
    });
    let longest = searched.map(|s| s.action.len().max(s.resource_id.len()));
    let longest = longest.max().expect("a search is recorded");
    assert!(longest > 0 && longest <= 1024, "{longest}");
}

/// One query finds what was decided and what was searched for: the words are the same.
#[tokio::test]
async fn a_search_is_recorded_in_the_words_of_a_decision() {
    let office = office();
    let mut asked = list_orders("");
    asked["action"]["name"] = "get".into();
    office.answer(SUBJECTS, &asked).await;
    let last = office.records.0.lock().unwrap().last().cloned().unwrap();
    let Some(Of::AuditRead(read)) = last.body else {
        panic!("{last:?}");
    };
    assert_eq!(read.searched.unwrap().action, "GET");
}

/// A difference of engine and reference that could not be recorded is recorded later.
#[tokio::test]
async fn a_difference_that_no_record_took_is_recorded_once_one_does() {
    let office = office();
    let mut broken = snapshot(OPEN);
    Arc::get_mut(&mut broken).unwrap().lose("open");
    office.desk.put(broken, None);
    for _ in 0..200 {
        office.answer(EVALUATION, &list_orders(WEB)).await;
    }
    let (_, found) = office.desk.self_checks()[0];
    assert!(found.mismatched > 0, "{found:?}");
    let told = |office: &Office| {
        let records = office.records.0.lock().unwrap();
        let admins = records
            .iter()
            .filter(|r| matches!(&r.body, Some(Of::Admin(_))));
        admins.count()
    };
    office.records.1.store(true, Ordering::Relaxed);
    office.desk.record_differences();
    assert_eq!(told(&office), 0);
    office.records.1.store(false, Ordering::Relaxed);
    office.desk.record_differences();
    assert_eq!(told(&office), 1);
    office.desk.record_differences();
    assert_eq!(told(&office), 1);
}

/// What is found while the last answers are given under a revision that was replaced is recorded,
/// too; what nobody is answered by any more is let go then.
#[tokio::test]
async fn a_difference_under_a_revision_that_goes_is_recorded() {
    let office = office();
    let told = || -> Vec<String> {
        let records = office.records.0.lock().unwrap();
        let bodies = records.iter().filter_map(|record| record.body.clone());
        let admins = bodies.filter_map(|body| match body {
            Of::Admin(admin) => Some(admin.object),
            _ => None,
        });
        admins.collect()
    };
    let mut broken = snapshot(OPEN);
    Arc::get_mut(&mut broken).unwrap().lose("open");
    office.desk.put(broken.clone(), None);
    let answering = office.desk.stage();
    let next = Snapshot::new(compiled(CLOSED), 8).unwrap();
    office.desk.put(next, None);
    let ask = Ask::new(WEB, "GET", "orders", "/orders");
    ask.ask(&broken, |q| broken.engine().with_self_check(1).decide(q));
    assert_eq!(broken.self_check().mismatched, 1);
    office.desk.record_differences();
    assert_eq!(told(), ["revision 7"]);
    ask.ask(&broken, |q| broken.engine().with_self_check(1).decide(q));
    drop(answering);
    office.desk.close();
    assert_eq!(told(), ["revision 7"; 2]);
    assert_eq!(Arc::strong_count(&broken), 1, "it is let go");
}

/// A pair of revisions that is put there again, for a rejected edit or a renewed stamp, goes
/// on where it was; what was found of its engines stays, and each of them is told about.
#[tokio::test]
async fn a_trial_goes_on_when_it_is_put_there_again() {
    let office = office();
    let every_second = || Plan {
        every: 2,
        ..Plan::default()
    };
    let (next, _) = begin(&office, every_second());
    let (_, decision) = office.recorded(&list_orders(WEB)).await;
    assert_eq!(decision.shadows.len(), 1);
    // Built anew, as an engine that was not kept.
    let (again, mut rollout) = begin(&office, every_second());
    assert!(!Arc::ptr_eq(&next, &again));
    let (_, decision) = office.recorded(&list_orders(WEB)).await;
    assert_eq!(decision.shadows.len(), 0);
    let held = office.desk.holds(&again.versions()).unwrap();
    assert!(Arc::ptr_eq(&next, &held));
    let numbers = |office: &Office| {
        let found = office.desk.self_checks();
        found.iter().map(|(number, _)| *number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&office), [7, 8]);
    // When it comes into force as well.
    while rollout.promote("test", &SEEN).is_ok() {}
    let of = underway(&snapshot(OPEN), &again, &rollout);
    office.desk.put(again.clone(), of);
    let held = office.desk.holds(&again.versions()).unwrap();
    assert!(Arc::ptr_eq(&next, &held));
    assert_eq!(numbers(&office), [8, 7]);
    office.desk.put(snapshot(OPEN), None);
    assert!(office.desk.holds(&again.versions()).is_none());
    assert_eq!(numbers(&office), [7]);
}

/// What permits in shadow mode would have allowed is in the record, as with a proxy.
#[tokio::test]
async fn a_shadow_permit_is_recorded_by_the_apis() {
    let office = office();
    let tried = "@id(\"try\") @mode(\"shadow\") permit (principal, action, resource);";
    office.desk.put(snapshot(tried), None);
    let (allowed, decision) = office.recorded(&list_orders(WEB)).await;
    assert!(!allowed);
    let would = (0, Verdict::Allow, Flip::NewlyAllowed);
    assert_eq!(said(&decision), (7, vec![would]));
    assert_eq!(decision.shadows[0].policies, ["try"]);
}
