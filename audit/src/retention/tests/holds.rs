//! What legal holds keep, and what is refused while they are not what was ordered.

use palisade_mesh::{spiffe_id::SpiffeId, wire::record::Peer};

use super::*;

/// What is held stays whatever its class, with what belongs to it; released, it goes.
#[test]
fn a_legal_hold_wins_until_it_is_released() {
    let mut stage = Stage::new();
    for n in 0..3 {
        stage.request(&format!("/held/{n}"), 200);
        stage.request(&format!("/free/{n}"), 500);
    }
    stage.hold("h", "path:/held/**");
    stage.clock.advance(61 * DAY);
    stage.fill();
    let done = stage.run();
    assert_eq!((done.records(), done.held), (6, 6));
    assert_eq!(stage.paths()[..3], ["/held/0", "/held/1", "/held/2"]);
    assert_eq!(stage.count("outcome"), 11);
    assert_eq!(stage.run().records(), 0);
    stage.holds.release("h").unwrap();
    assert_eq!(stage.run().records(), 6);
    assert_eq!(stage.paths(), ["/new"; 8]);
    assert_eq!(stage.check().findings, []);
}

/// A hold about how requests ended keeps decisions, too, though they say nothing of that.
#[test]
fn a_hold_about_outcomes_keeps_the_decisions_that_may_have_had_them() {
    let mut stage = Stage::new();
    stage.request("/a", 500);
    stage.hold("h", "status:>=500 path:/a");
    stage.request("/b", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    stage.run();
    assert_eq!(stage.paths()[..2], ["/a".to_owned(), "/new".into()]);
}

/// What a decision says itself decides, whatever its outcome may say.
#[test]
fn a_hold_by_service_or_caller_keeps_no_decision_of_others() {
    for (query, free) in [
        ("service:shop/held", 1),
        ("principal:spiffe://acme.test/held", 1),
        ("service:shop/held status:>=500", 1),
        ("status:>=500", 0),
    ] {
        let mut stage = Stage::new();
        for name in ["held", "free"] {
            let decision = Decision {
                path: format!("/{name}"),
                service: format!("shop/{name}"),
                principal: Some(Peer {
                    spiffe_id: format!("spiffe://acme.test/{name}"),
                    ..Peer::default()
                }),
                ..Decision::default()
            };
            let id = new_ulid(&stage.clock);
            stage.append(vec![(id, Body::Decision(decision))]);
        }
        stage.hold("h", query);
        stage.clock.advance(61 * DAY);
        stage.fill();
        let done = stage.run();
        assert_eq!((done.records(), done.held), (free, 2 - free), "{query}");
        assert_eq!(stage.paths()[0], "/held", "{query}");
    }
}

/// Records an order of a hold as the audit service does.
fn order(stage: &mut Stage, verb: &str, id: &str, detail: String) {
    let ours = StreamKey {
        reporter: SpiffeId::parse("spiffe://acme.test/palisade/audit").unwrap(),
        boot: new_ulid(&stage.clock),
        worker: 0,
    };
    let admin = Admin {
        verb: verb.into(),
        object: id.into(),
        detail,
        ..Admin::default()
    };
    let (stream, next) = (
        std::mem::replace(&mut stage.stream, ours.into()),
        stage.next,
    );
    stage.next = 1;
    let record = (new_ulid(&stage.clock), Body::Admin(admin));
    stage.append(vec![record]);
    (stage.stream, stage.next) = (stream, next);
}

/// A run of which it is told why it is refused.
fn code(stage: &Stage) -> Result<u64, u16> {
    stage.signed();
    let now_us = stage.clock.now_us();
    let mut turn = || {
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: None,
        })
    };
    let (periods, go_on) = (usual(), &mut |_| ControlFlow::Continue(()));
    let done = stage
        .plan(&periods)
        .go(&mut Ledger::new(stage.log()), &mut turn, go_on);
    done.map(|done| done.records()).map_err(|told| told.code.0)
}

/// Who can write the file of the holds, and has no key, lets nothing go.
#[test]
fn a_file_of_holds_that_is_not_what_was_ordered_lets_nothing_go() {
    let mut stage = Stage::new();
    stage.request("/held", 200);
    stage.request("/free", 200);
    let file = stage.dir.path().join("holds.json");
    let before = std::fs::read(&file).unwrap();
    stage.hold("h", "path:/held");
    let hold = stage.holds.active(stage.clock.now_us()).remove(0);
    order(&mut stage, "hold_added", "h", hold.told(&hold.reason));
    // Who is not the audit service orders nothing.
    let told = Admin {
        verb: "hold_released".into(),
        object: "h".into(),
        ..Admin::default()
    };
    let id = new_ulid(&stage.clock);
    stage.append(vec![(id, Body::Admin(told))]);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let now = std::fs::read(&file).unwrap();
    let narrowed = Hold {
        to_us: Some(1),
        ..hold.clone()
    };
    let narrowed = serde_json::to_vec(&[narrowed]).unwrap();
    for (bytes, told) in [(before, Err(7579)), (narrowed, Err(7579)), (now, Ok(2))] {
        std::fs::write(&file, bytes).unwrap();
        stage.holds = Holds::open(&file, false).unwrap();
        assert_eq!(code(&stage), told);
        assert!(stage.paths().contains(&"/held".into()));
    }
    stage.holds.release("h").unwrap();
    assert_eq!(code(&stage), Err(7579), "nobody has recorded that");
    order(&mut stage, "hold_released", "h", "case closed".into());
    assert_eq!(code(&stage), Ok(2));
    assert_eq!(stage.check().findings, []);
}

#[test]
fn a_hold_that_cannot_be_read_stops_the_run() {
    let mut stage = Stage::new();
    stage.request("/a", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let periods = usual();
    let run = stage.plan(&periods);
    let mut turn = || Err(Diagnostic::error(7567, "hold `h` cannot be read"));
    let told = run.go(&mut Ledger::new(stage.log()), &mut turn, &mut |_| {
        ControlFlow::Continue(())
    });
    assert_eq!(told.unwrap_err().code.0, 7567);
    assert_eq!(stage.count("decision"), 9);
}

/// On both sides of the limit.
#[test]
fn holds_keep_so_many_ids_and_no_more() {
    let mut stage = Stage::new();
    for _ in 0..3 {
        stage.request("/a", 200);
    }
    stage.hold("h", "path:/a");
    let mut kept = Kept {
        holds: stage.holds.held(0).unwrap(),
        ..Kept::default()
    };
    let mut ids = |most| kept.held_ids(stage.log(), most);
    assert_eq!(ids(3).unwrap().len(), 3);
    assert_eq!(ids(2).unwrap_err().code.0, 7575);
}

/// What belongs to a held record may come long after it, and many records later.
#[test]
fn what_belongs_to_a_held_record_is_found_however_late_it_came() {
    let mut stage = Stage::new();
    let id = new_ulid(&stage.clock);
    let decision = Decision {
        path: "/a".into(),
        ..Decision::default()
    };
    stage.append(vec![(id, Body::Decision(decision))]);
    stage.request("/b", 200);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let ended = Ended {
        status: 599,
        ..Ended::default()
    };
    // Its outcome is what the hold is about, and is not over.
    stage.append(vec![(id, Body::Outcome(ended))]);
    stage.hold("h", "class:outcome status:599");
    stage.signed();
    let kept = {
        let mut kept = Kept::default();
        let holds = stage.holds.held(stage.clock.now_us()).unwrap();
        kept.follow(stage.log(), holds).unwrap();
        kept
    };
    assert!(kept.ids.contains(&id.to_bytes()));
    stage.run();
    assert!(stage.paths().contains(&"/a".into()));
    assert!(!stage.paths().contains(&"/b".into()));
}

/// A start learns from them that there must be holds.
#[test]
fn orders_of_holds_are_never_dropped() {
    let mut stage = Stage::new();
    let order = |verb: &str| {
        Body::Admin(Admin {
            verb: verb.into(),
            ..Admin::default()
        })
    };
    for verb in ["hold_added", "kill", "hold_released"] {
        let id = new_ulid(&stage.clock);
        stage.append(vec![(id, order(verb))]);
    }
    stage.clock.advance(301 * DAY);
    stage.fill();
    let done = stage.run();
    assert_eq!(done.dropped.get("admin").map(|d| d.records), Some(1));
    let verbs: Vec<String> = stage
        .log()
        .scan(0)
        .filter_map(|entry| match entry.unwrap().record.body {
            Some(Body::Admin(admin)) if admin.verb != "kill" => Some(admin.verb),
            _ => None,
        })
        .collect();
    assert_eq!(verbs, ["hold_added", "hold_released"]);
}
