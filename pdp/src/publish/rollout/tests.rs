//! The machine by its table: every phase, every limit, from both sides.

use std::{collections::BTreeSet, time::Duration};

use palisade_mesh::{snapshot::Digest, spiffe_id::SpiffeId};

use super::*;

mod apis;

const S: i64 = 1_000_000;

fn name(sequence: u64) -> Name {
    Name {
        digest: Digest::of(&sequence.to_be_bytes()),
        sequence,
    }
}

fn proxy(service: &str) -> Proxy {
    Proxy {
        identity: SpiffeId::parse(&format!("spiffe://x.test/{service}")).unwrap(),
        instance: service.to_owned(),
        services: vec![format!("shop/{service}")],
        apis: false,
        returns: true,
        enforces: 1,
        tries: 0,
        refused: None,
    }
}

/// Shadow for 10 s, `orders` for 20 s, everybody and watched for 30 s; a phase waits
/// 100 s longer for decisions, 5 s for proxies; paused for at most 50 s; 10 decisions.
fn plan() -> Plan {
    let secs = Duration::from_secs;
    Plan {
        shadow: Some(secs(10)),
        every: 1,
        steps: vec![Step {
            target: Target::Services(BTreeSet::from(["shop/orders".to_owned()])),
            last: secs(20),
        }],
        watch: secs(30),
        patience: secs(100),
        ready_within: secs(5),
        pause_limit: secs(50),
        gates: Gates {
            min_decisions: 10,
            ..Gates::default()
        },
    }
}

/// Two proxies and what they tell; they do what they are told, unless a test says otherwise.
struct World {
    now_us: i64,
    rollout: Rollout,
    proxies: Vec<Proxy>,
    /// Proxies that are gone.
    away: Vec<Proxy>,
    evidence: Evidence,
    obedient: bool,
}

impl World {
    fn new(plan: Plan) -> Self {
        let proxies = vec![proxy("orders"), proxy("web")];
        let evidence = Evidence::default();
        let seen = Seen {
            now_us: 0,
            proxies: &proxies,
            away: &[],
            evidence: &evidence,
        };
        Self {
            now_us: 0,
            rollout: Rollout::begin(plan, name(1), name(2), "uid 7", &seen),
            proxies,
            away: Vec::new(),
            evidence,
            obedient: true,
        }
    }

    /// Until a moment, second by second, with ten decisions of each revision in each.
    fn until(&mut self, second: i64) -> &mut Self {
        while self.now_us < second * S {
            self.now_us += S;
            self.evidence.flips.evaluated += 10;
            if self.proxies.iter().any(|p| p.enforces == 2) {
                self.evidence.new.decided += 10;
            }
            self.look();
        }
        self
    }

    /// The same without any decision.
    fn idle_until(&mut self, second: i64) -> &mut Self {
        while self.now_us < second * S {
            self.now_us += S;
            self.look();
        }
        self
    }

    fn look(&mut self) -> &mut Self {
        if self.obedient {
            self.obey();
        }
        let seen = Seen {
            now_us: self.now_us,
            proxies: &self.proxies,
            away: &self.away,
            evidence: &self.evidence,
        };
        while self.rollout.step(&seen) {}
        if self.rollout.owes_restoring() {
            self.rollout.restored_as(3);
        }
        self
    }

    fn obey(&mut self) {
        let number = |which| match which {
            Which::Baseline => 1,
            Which::Candidate => 2,
        };
        for proxy in &mut self.proxies {
            let wanted = self.rollout.wanted(proxy.seat(), &proxy.services);
            proxy.enforces = match self.rollout.restored {
                Some(restored) => restored,
                None => number(wanted),
            };
            proxy.tries = self.rollout.tried(wanted).map_or(0, number);
        }
    }

    fn at(&mut self, second: i64) -> &mut Self {
        self.until(second)
    }

    fn is(&mut self, word: &str) -> &mut Self {
        assert_eq!(self.rollout.word(), word, "{:?}", self.rollout.turns);
        self
    }

    fn why(&self) -> &Why {
        self.rollout.stopped().unwrap()
    }

    fn order<T>(&mut self, order: impl FnOnce(&mut Rollout, &Seen<'_>) -> T) -> T {
        let seen = Seen {
            now_us: self.now_us,
            proxies: &self.proxies,
            away: &[],
            evidence: &self.evidence,
        };
        order(&mut self.rollout, &seen)
    }
}

#[test]
fn a_rollout_that_does_no_harm_goes_through_every_phase_in_its_time() {
    let mut world = World::new(plan());
    world.is("planned").at(1).is("shadow");
    assert_eq!(
        world
            .proxies
            .iter()
            .map(|p| (p.enforces, p.tries))
            .collect::<Vec<_>>(),
        [(1, 2), (1, 2)]
    );
    world
        .at(10)
        .is("shadow")
        .at(11)
        .is("canary 1 (shop/orders)");
    world.at(12);
    // The canary tries what was before, so that what changes is still seen.
    assert_eq!(
        world
            .proxies
            .iter()
            .map(|p| (p.enforces, p.tries))
            .collect::<Vec<_>>(),
        [(2, 1), (1, 2)]
    );
    world.at(30).is("canary 1 (shop/orders)").at(31).is("full");
    world.at(32);
    assert!(
        world
            .proxies
            .iter()
            .all(|p| (p.enforces, p.tries) == (2, 1))
    );
    world.at(60).is("full").at(61).is("completed");
    assert!(world.rollout.has_ended() && world.rollout.stopped().is_none());
    assert_eq!(world.rollout.outlook(), None);
    world.at(100).is("completed");
    world.obey();
    assert!(
        world
            .proxies
            .iter()
            .all(|p| (p.enforces, p.tries) == (2, 0))
    );
}

/// Every phase has a limit, and what is told of its end is what happens.
#[test]
fn a_phase_that_lacks_something_ends_at_its_limit_and_not_before() {
    // Nobody tries the candidate.
    let mut world = World::new(plan());
    world.obedient = false;
    let (ends, what) = world.rollout.outlook().unwrap();
    assert_eq!(ends, 5 * S);
    assert!(what.starts_with("it halts"), "{what}");
    world
        .idle_until(4)
        .is("planned")
        .idle_until(5)
        .is("rolled back");
    assert_eq!(world.why().by, Stop::TimedOut);
    assert!(
        world.why().text.contains("orders, web"),
        "{}",
        world.why().text
    );
    assert_eq!(world.rollout.restored, None, "nobody has enforced it");

    // Nobody is there.
    let mut world = World::new(plan());
    world.proxies.clear();
    world.idle_until(5).is("rolled back");
    assert!(
        world.why().text.contains("no proxy"),
        "{}",
        world.why().text
    );

    // No decisions in shadow: 10 s and 100 s of patience, from second 1 on.
    let mut world = World::new(plan());
    world.idle_until(1).is("shadow");
    assert_eq!(world.rollout.outlook().unwrap().0, 111 * S);
    world.idle_until(110).is("shadow");
    world
        .idle_until(111)
        .is("halted")
        .idle_until(112)
        .is("rolled back");
    assert_eq!(
        (world.why().by, world.why().during.as_str()),
        (Stop::TimedOut, "shadow")
    );
    assert_eq!(world.why().text, "only 0 of 10 decisions were seen in time");

    // No decisions of the canary: proxies go back to the old content under a new number.
    let mut world = World::new(plan());
    world.at(11).is("canary 1 (shop/orders)");
    assert_eq!(world.rollout.outlook().unwrap().0, 131 * S);
    world.idle_until(130).is("canary 1 (shop/orders)");
    world
        .idle_until(131)
        .is("halted")
        .idle_until(132)
        .is("rolled back");
    assert_eq!(world.rollout.restored, Some(3));

    // A canary that does not take the candidate.
    let mut world = World::new(plan());
    world.at(11).is("canary 1 (shop/orders)");
    world.obedient = false;
    world
        .at(15)
        .is("canary 1 (shop/orders)")
        .at(16)
        .is("halted");
    assert!(
        world
            .why()
            .text
            .contains("do not have the candidate: orders"),
        "{}",
        world.why().text
    );

    // A halt whose proxies do not come back counts at its limit, and names them.
    world.at(20).is("halted").at(21).is("rolled back");
    let last = world.rollout.turns.last().unwrap();
    assert_eq!(last.why, "still missing: orders, web");
}

/// A phase waits for enough decisions of its own, and not longer.
#[test]
fn a_phase_goes_on_as_soon_as_it_has_seen_enough() {
    let mut world = World::new(plan());
    world.idle_until(40).is("shadow");
    assert_eq!(world.rollout.seen_of_needed(&world.evidence), (0, 10));
    world.evidence.flips.evaluated = 9;
    world.look().is("shadow");
    world.evidence.flips.evaluated = 10;
    world.look().is("canary 1 (shop/orders)");
    world.idle_until(100).is("canary 1 (shop/orders)");
    world.evidence.new.decided = 9;
    world.look().is("canary 1 (shop/orders)");
    world.evidence.new.decided = 10;
    world.look().is("full");
}

/// In every phase in which the candidate is tried or enforced.
#[test]
fn a_gate_halts_it_at_once_and_proxies_are_brought_back() {
    for (second, during, restored) in [
        (5, "shadow", None),
        (15, "canary 1 (shop/orders)", Some(3)),
        (40, "full", Some(3)),
    ] {
        let mut world = World::new(plan());
        world.at(second).is(during);
        let evaluated = world.evidence.flips.evaluated;
        world.evidence.flips.newly_denied = evaluated / 1_000;
        world.look().is(during);
        world.evidence.flips.newly_denied = evaluated / 1_000 + 1;
        world.look().is("halted");
        let why = world.why();
        assert_eq!((why.by, why.during.as_str()), (Stop::Gate, during));
        assert!(why.text.starts_with("newly_denied: 1 of"), "{}", why.text);
        assert_eq!(world.rollout.restored, restored);
        world.look().is("rolled back");
        assert!(
            world
                .proxies
                .iter()
                .all(|p| p.tries == 0 && p.enforces != 2)
        );
        world.at(500).is("rolled back");
    }
}

#[test]
fn a_proxy_that_refuses_the_candidate_halts_it() {
    for second in [0, 5, 15, 40] {
        let mut world = World::new(plan());
        world.at(second);
        world.proxies[1].refused = Some((1, "PLS1: an older one".into()));
        world.look();
        assert!(world.rollout.stopped().is_none(), "another revision");
        world.proxies[1].refused = Some((2, "PLS3012: no".into()));
        world.look();
        assert_eq!(world.why().by, Stop::Refused);
        assert_eq!(world.why().text, "web refused the candidate: PLS3012: no");
    }
}

#[test]
fn a_pause_stops_the_clock_but_no_gate() {
    let mut world = World::new(plan());
    world.at(5).is("shadow");
    world
        .order(|r, seen| r.pause("uid 7", seen.now_us))
        .unwrap();
    assert_eq!(
        world.order(|r, seen| r.pause("uid 7", seen.now_us)),
        Err(OrderError::Paused)
    );
    world.at(25).is("shadow");
    world
        .order(|r, seen| r.resume("uid 7", seen.now_us))
        .unwrap();
    assert_eq!(
        world.order(|r, seen| r.resume("uid 7", seen.now_us)),
        Err(OrderError::Running)
    );
    world
        .at(30)
        .is("shadow")
        .at(31)
        .is("canary 1 (shop/orders)");

    world
        .order(|r, seen| r.pause("uid 7", seen.now_us))
        .unwrap();
    assert_eq!(world.rollout.outlook().unwrap().0, 81 * S);
    world
        .at(80)
        .is("canary 1 (shop/orders)")
        .at(81)
        .is("halted");
    assert_eq!(world.why().by, Stop::TimedOut);
    assert!(
        world.why().text.contains("paused by uid 7"),
        "{}",
        world.why().text
    );

    let mut world = World::new(plan());
    world.at(5);
    world
        .order(|r, seen| r.pause("uid 7", seen.now_us))
        .unwrap();
    world.evidence.flips.newly_undecided = 1;
    world.look().is("halted");
}

#[test]
fn people_may_hurry_it_or_stop_it_until_it_has_ended() {
    let mut world = World::new(plan());
    for word in ["shadow", "canary 1 (shop/orders)", "full", "completed"] {
        world.order(|r, seen| r.promote("uid 7", seen)).unwrap();
        world.is(word);
    }
    assert_eq!(
        world.order(|r, seen| r.promote("uid 7", seen)),
        Err(OrderError::Ended)
    );
    let abort =
        |r: &mut Rollout, seen: &Seen<'_>| r.abort(Stop::Aborted, "aborted", Some("uid 7"), seen);
    assert_eq!(world.order(abort), Err(OrderError::Ended));

    let mut world = World::new(plan());
    world.at(15);
    world.order(abort).unwrap();
    assert_eq!(
        world.order(abort),
        Err(OrderError::Ended),
        "it is on its way back"
    );
    assert_eq!(
        world.order(|r, seen| r.pause("uid 7", seen.now_us)),
        Err(OrderError::Ended)
    );
    world.look().is("halted").look().is("rolled back");
    assert_eq!(world.rollout.restored, Some(3));
}

/// Whoever was there once may go and come back; at the end of its time the phase needs them.
#[test]
fn a_proxy_that_is_away_for_a_while_halts_nothing() {
    let mut world = World::new(plan());
    world.at(12).is("canary 1 (shop/orders)");
    let orders = world.proxies.remove(0);
    world.evidence.new.decided += 100;
    world.at(130).is("canary 1 (shop/orders)");
    world.proxies.insert(0, orders);
    world.look().is("full");

    let mut world = World::new(plan());
    world.at(12);
    world.proxies.remove(0);
    world.evidence.new.decided += 100;
    world.at(131);
    assert_eq!(
        world.why().text,
        "no proxy that it is for is connected, and no decision API answers"
    );
}

/// A restart of the PDP is no fault of the proxies.
#[test]
fn a_restart_gives_proxies_their_time_again() {
    let mut world = World::new(plan());
    world.obedient = false;
    world.now_us = 60 * S;
    world.rollout.restarted(60 * S);
    world.look().is("planned").idle_until(64).is("planned");
    world.idle_until(65).is("rolled back");
    // A phase that has begun well keeps its time.
    let mut world = World::new(plan());
    world.at(5);
    let since_us = world.rollout.since_us;
    world.rollout.restarted(60 * S);
    assert_eq!(world.rollout.since_us, since_us);
}

#[test]
fn a_plan_without_shadow_begins_with_the_canary_and_one_without_steps_with_everybody() {
    let mut world = World::new(Plan {
        shadow: None,
        ..plan()
    });
    world.is("canary 1 (shop/orders)");
    let mut world_of_all = World::new(Plan {
        shadow: None,
        steps: vec![],
        ..plan()
    });
    world_of_all
        .is("full")
        .at(29)
        .is("full")
        .at(30)
        .is("completed");
    world.at(21).is("full");
}

fn share(share: u32) -> Step {
    Step {
        target: Target::Share(share),
        last: Duration::from_secs(1),
    }
}

/// A proxy keeps its place as shares grow, and shares come out as they are asked for.
#[test]
fn shares_grow_by_proxies_that_stay() {
    let proxies: Vec<Proxy> = (0..1_000).map(|n| proxy(&format!("p{n}"))).collect();
    let evidence = Evidence::default();
    let seen = |now_us| Seen {
        now_us,
        proxies: &proxies,
        away: &[],
        evidence: &evidence,
    };
    let plan = Plan {
        shadow: None,
        steps: vec![share(1_000), share(5_000)],
        ..plan()
    };
    let mut rollout = Rollout::begin(plan, name(1), name(2), "uid 7", &seen(0));
    let chosen = |rollout: &Rollout| -> BTreeSet<String> {
        let chosen = proxies
            .iter()
            .filter(|p| rollout.wanted(p.seat(), &p.services) == Which::Candidate);
        chosen.map(|p| p.instance.clone()).collect()
    };
    let tenth = chosen(&rollout);
    assert!((60..140).contains(&tenth.len()), "{}", tenth.len());
    rollout.promote("uid 7", &seen(S)).unwrap();
    let half = chosen(&rollout);
    assert!((430..570).contains(&half.len()), "{}", half.len());
    assert!(half.is_superset(&tenth));
    rollout.promote("uid 7", &seen(S)).unwrap();
    assert_eq!(chosen(&rollout).len(), 1_000);
}

#[test]
fn the_smallest_share_is_one_proxy() {
    for count in [1, 2, 7] {
        let proxies: Vec<Proxy> = (0..count).map(|n| proxy(&format!("p{n}"))).collect();
        let evidence = Evidence::default();
        let seen = Seen {
            now_us: 0,
            proxies: &proxies,
            away: &[],
            evidence: &evidence,
        };
        let plan = Plan {
            shadow: None,
            steps: vec![share(1)],
            ..plan()
        };
        let rollout = Rollout::begin(plan, name(1), name(2), "uid 7", &seen);
        assert_eq!(rollout.targets(&seen).count(), 1, "{count}");
    }
}

/// What is written is what is read, in every phase.
#[test]
fn a_rollout_comes_back_from_its_journal_as_it_was() {
    let mut world = World::new(plan());
    for second in [0, 5, 15, 40, 70] {
        world.at(second);
        assert!(!world.rollout.take_news().is_empty());
        let text = serde_json::to_string(&world.rollout).unwrap();
        let read: Rollout = serde_json::from_str(&text).unwrap();
        assert_eq!(read, world.rollout, "{text}");
    }
    let mut world = World::new(plan());
    world.at(15);
    world.evidence.flips.errors = 1;
    world.look();
    world.rollout.take_news();
    let text = serde_json::to_string(&world.rollout).unwrap();
    assert_eq!(
        serde_json::from_str::<Rollout>(&text).unwrap(),
        world.rollout
    );
}

/// Signers let it be taken back until second 60; proxies need five of that to come back.
fn returning(second: i64) -> World {
    let mut world = World::new(plan());
    world.rollout.back_until_us = Some(60 * S);
    world.at(second);
    world
}

/// A canary is on its way back before its signers' word ends, whatever else it waits for.
#[test]
fn a_canary_goes_back_while_it_may() {
    let mut world = returning(11);
    world.idle_until(12).is("canary 1 (shop/orders)");
    let (ends, what) = world.rollout.outlook().unwrap();
    assert_eq!(ends, 55 * S);
    assert!(what.contains("way back"), "{what}");
    world.idle_until(54).is("canary 1 (shop/orders)");
    world.idle_until(55).is("halted");
    assert_eq!(world.why().by, Stop::TimedOut);
    assert_eq!(world.why().text, "its way back ends");
}

/// Once everybody has it and nothing halts it, it is complete when nobody can go back any more;
/// unless somebody holds it up.
#[test]
fn what_everybody_has_is_watched_no_longer_than_it_may_go_back() {
    let mut world = returning(31);
    world.is("full");
    world.since_full(40 * S);
    assert_eq!(world.rollout.outlook().unwrap().0, 55 * S);
    world.at(54).is("full").at(55).is("completed");

    let mut world = returning(31);
    world.since_full(40 * S);
    world
        .order(|rollout, seen| rollout.pause("uid 7", seen.now_us))
        .unwrap();
    world.at(54).is("full").at(55).is("halted");
    assert!(world.why().text.contains("uid 7"), "{}", world.why().text);

    // The PDP was away: nobody comes back any more, and a gate says so too late.
    let mut world = returning(31);
    world.now_us = 61 * S;
    world.evidence.flips.newly_denied = world.evidence.flips.evaluated;
    let stopped = world.order(|r, seen| r.abort(Stop::Aborted, "", None, seen));
    assert_eq!(stopped, Err(OrderError::NoWayBack));
    world.look().is("completed");
}

/// Something newer finds everybody on it: it is complete, and has not to be undone first.
#[test]
fn what_everybody_has_can_be_completed_and_nothing_else_can() {
    let mut world = returning(15);
    assert!(!world.order(|r, seen| r.complete("newer", seen)));
    world.at(40).is("full");
    assert!(world.order(|r, seen| r.complete("newer", seen)));
    world.is("completed");
}

impl World {
    /// As if it had begun to be watched then.
    fn since_full(&mut self, us: i64) {
        self.rollout.since_us = us;
    }
}
