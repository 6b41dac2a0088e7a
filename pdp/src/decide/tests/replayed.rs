//! Recorded decisions, made again under another revision.

use palisade_mesh::decision::Decision;

use super::super::{
    Lacking, PATH_LEN_MAX, Past, Replay,
    testing::{Ask, NOW_US, STRANGER, WEB, snapshot},
};

/// What a record of `ask` under `policies` says.
struct Kept {
    ask: Ask,
    service: String,
    decision: std::sync::Arc<Decision>,
}

impl Kept {
    fn new(policies: &str, ask: Ask) -> Self {
        let snapshot = snapshot(policies);
        let decision = ask.ask(&snapshot, |q| snapshot.engine().decide(q)).decision;
        let service = ask.ask(&snapshot, |q| q.service.id.to_string());
        Self {
            ask,
            service,
            decision,
        }
    }

    fn past(&self) -> Past<'_> {
        Past {
            time_us: self.ask.now_us,
            principal: self.ask.connection.peer.id.as_str(),
            proven: true,
            service: &self.service,
            method: self.ask.request.method.as_str(),
            host: &self.ask.request.host,
            path: &self.ask.request.path,
            source_ip: "10.1.2.3",
            source_port: 40_000,
            context_json: &self.decision.context_json,
            covered: &[],
        }
    }

    /// Reason and policies of the decision under `policies`, or what is lacking.
    fn again(&self, policies: &str) -> Result<String, Lacking> {
        let mut replay = Replay::new(snapshot(policies));
        let told = |again: Result<std::sync::Arc<Decision>, std::sync::Arc<Lacking>>| {
            again
                .map(|d| format!("{} {}", d.verdict.reason(), d.determining.join(" ")))
                .map_err(|why| (*why).clone())
        };
        let first = told(replay.decide(&self.past()));
        assert_eq!(told(replay.decide(&self.past())), first, "remembered");
        assert!(replay.evaluated() <= 1);
        first
    }
}

const PERMIT: &str = r#"@id("p") permit (principal is Workload, action, resource);"#;

fn get(path: &str) -> Ask {
    Ask::new(WEB, "GET", "orders", path)
}

fn forbid(condition: &str) -> String {
    format!(r#"{PERMIT} @id("f") forbid (principal, action, resource) when {{ {condition} }};"#)
}

#[test]
fn what_the_record_tells_is_read_newly_without_a_guess() {
    let kept = Kept::new(PERMIT, get("/orders/42"));
    assert_eq!(kept.decision.context_json, "{}");
    for (condition, expected) in [
        (r#"context.http.path like "/orders/*""#, "forbidden f"),
        (r#"context.http.path like "/admin/*""#, "permitted p"),
        (r#"context.http.method == "GET""#, "forbidden f"),
        (r#"context.http.host == "orders""#, "forbidden f"),
        (
            r#"context.source.ip.isInRange(ip("10.0.0.0/8"))"#,
            "forbidden f",
        ),
        ("context.source.port == 40000", "forbidden f"),
        ("context.time.hour == 15", "forbidden f"),
        ("context.tls.mtls", "forbidden f"),
        ("context has user", "permitted p"),
    ] {
        assert_eq!(
            kept.again(&forbid(condition)).as_deref(),
            Ok(expected),
            "{condition}"
        );
    }
}

#[test]
fn what_the_record_lacks_is_named() {
    let kept = Kept::new(PERMIT, get("/orders/42?x=1"));
    for (condition, path) in [
        ("context.http has query", "context.http.query"),
        (
            r#"context.http.headers has "x-roles""#,
            "context.http.headers.x-roles",
        ),
        ("context.tls has sni", "context.tls.sni"),
    ] {
        let lacking = Lacking::Fields(vec![path.to_owned()]);
        assert_eq!(kept.again(&forbid(condition)), Err(lacking), "{condition}");
    }
    let mut unproven = kept.past();
    unproven.proven = false;
    let mut replay = Replay::new(snapshot(&forbid("context.tls.mtls")));
    assert!(replay.decide(&unproven).is_err());
}

#[test]
fn an_absent_value_that_was_read_is_known_to_be_absent() {
    let reads = forbid(r#"context.http.headers has "x-change-id" && context.http.query == "q""#);
    let kept = Kept::new(&reads, get("/orders/42"));
    let asks = forbid(r#"!(context.http.headers has "x-change-id")"#);
    assert_eq!(kept.again(&asks).as_deref(), Ok("forbidden f"));
}

#[test]
fn a_request_is_what_the_candidate_says_it_is() {
    let kept = Kept::new(PERMIT, Ask::new(WEB, "POST", "orders", "/orders/42/refund"));
    let by_action = r#"@id("r") permit (principal, action == Action::"orders:refund", resource);"#;
    assert_eq!(kept.again(by_action).as_deref(), Ok("permitted r"));
    let mut gone = kept.past();
    gone.service = "acme.test/shop/gone";
    let mut replay = Replay::new(snapshot(PERMIT));
    assert_eq!(
        replay.decide(&gone).unwrap_err().as_ref(),
        &Lacking::Service
    );
}

/// Where no request is like another, answers are no longer kept; they are no others.
#[test]
fn answers_are_kept_only_where_that_pays() {
    let asked = |path: &str, replay: &mut Replay, kept: &Kept| {
        let again = replay.decide(&Past {
            path,
            ..kept.past()
        });
        again.unwrap().verdict.is_allow()
    };
    let kept = Kept::new(PERMIT, get("/orders/42"));
    let policies = forbid(r#"context.http.path like "*7""#);
    let mut different = Replay::new(snapshot(&policies));
    for n in 0..4000 {
        let path = format!("/orders/{n}");
        assert_eq!(asked(&path, &mut different, &kept), n % 10 != 7, "{path}");
    }
    assert_eq!(different.evaluated(), 4000);
    let before = different.evaluated();
    (0..100).for_each(|_| _ = asked("/orders/1", &mut different, &kept));
    let anew = different.evaluated() - before;
    assert!((90..100).contains(&anew), "{anew} of 100");
    let mut alike = Replay::new(snapshot(&policies));
    for n in 0..4000 {
        let path = format!("/orders/{}", n % 50);
        assert_eq!(asked(&path, &mut alike, &kept), n % 10 != 7, "{path}");
    }
    assert_eq!(alike.evaluated(), 50);
}

#[test]
fn a_path_is_whole_up_to_the_limit() {
    let path = |len: usize| format!("/orders/{}", "a".repeat(len - "/orders/".len()));
    let whole = Kept::new(PERMIT, get(&path(PATH_LEN_MAX)));
    assert!(whole.again(PERMIT).is_ok());
    let cut = Kept::new(PERMIT, get(&path(PATH_LEN_MAX + 1)));
    assert_eq!(cut.again(PERMIT), Err(Lacking::Path));
}

#[test]
fn the_moment_is_the_records_own() {
    let expires =
        r#"@id("e") @expires("2026-11-20T15:40:00Z") permit (principal, action, resource);"#;
    let mut replay = Replay::new(snapshot(expires));
    let kept = Kept::new(PERMIT, get("/orders/42"));
    let mut verdicts = Vec::new();
    for minutes in [0, 5, 15, 0] {
        let mut past = kept.past();
        past.time_us = NOW_US + minutes * 60 * 1_000_000;
        verdicts.push(replay.decide(&past).unwrap().verdict.is_allow());
    }
    assert_eq!(verdicts, [true, true, false, true]);
}

#[test]
fn like_records_are_evaluated_once_and_unlike_ones_apart() {
    let by_path = forbid(r#"context.http.path like "/orders/1*""#);
    let mut replay = Replay::new(snapshot(&by_path));
    let mut forbidden = 0;
    for n in [1, 2, 1, 12, 2, 1] {
        let kept = Kept::new(PERMIT, get(&format!("/orders/{n}")));
        let decision = replay.decide(&kept.past()).unwrap();
        forbidden += usize::from(decision.verdict.reason() == "forbidden");
    }
    assert_eq!((forbidden, replay.evaluated()), (4, 3));
}

#[test]
fn a_stranger_is_replayed_as_one() {
    let kept = Kept::new(PERMIT, Ask::new(STRANGER, "GET", "orders", "/orders/42"));
    assert_eq!(kept.again(PERMIT).as_deref(), Ok("no_permit "));
    let mut nobody = kept.past();
    nobody.principal = "nobody";
    let mut replay = Replay::new(snapshot(PERMIT));
    assert_eq!(
        replay.decide(&nobody).unwrap_err().as_ref(),
        &Lacking::Unreadable
    );
}

/// What was taken out of a record because it is personal is not known, whatever the rest
/// of the record seems to say of it.
#[test]
fn what_was_taken_out_is_not_known() {
    let kept = Kept::new(PERMIT, get("/orders/42"));
    let again = |covered: &[&str], path: &str, policies: &str| {
        let past = Past {
            covered,
            path,
            ..kept.past()
        };
        let mut replay = Replay::new(snapshot(policies));
        let again = replay.decide(&past);
        again
            .map(|decision| decision.verdict.is_allow())
            .map_err(|why| (*why).clone())
    };
    let lacks = |path: &str| Err(Lacking::Fields(vec![path.to_owned()]));
    let by_user = forbid("context has user");
    let by_source = forbid(r#"context.source.ip.isInRange(ip("10.0.0.0/8"))"#);
    let whole = "/orders/42";
    assert_eq!(again(&[], whole, &by_user), Ok(true));
    assert_eq!(again(&["user"], whole, &by_user), lacks("context.user"));
    assert_eq!(again(&["user"], whole, &by_source), Ok(false));
    assert_eq!(
        again(&["source_ip"], whole, &by_source),
        lacks("context.source.ip")
    );
    assert_eq!(again(&["path"], "", PERMIT), Err(Lacking::Path));
    assert_eq!(again(&["path"], whole, PERMIT), Err(Lacking::Path));
    assert_eq!(again(&[], "", PERMIT), Err(Lacking::Path));
}
