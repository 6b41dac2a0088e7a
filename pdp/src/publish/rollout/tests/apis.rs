//! The decision APIs as a place where revisions are enforced: alone, and beside proxies.

use super::*;

fn apis() -> Proxy {
    Proxy {
        identity: SpiffeId::parse("spiffe://x.test/palisade/pdp").unwrap(),
        instance: INSTANCE.to_owned(),
        services: vec!["shop/orders".to_owned(), "shop/web".to_owned()],
        apis: true,
        ..proxy("any")
    }
}

fn share(share: u32) -> Plan {
    let steps = vec![Step {
        target: Target::Share(share),
        last: Duration::from_secs(20),
    }];
    Plan { steps, ..plan() }
}

fn is_in(world: &World, who: &Proxy) -> bool {
    let rollout = &world.rollout;
    rollout.wanted(who.seat(), &who.services) == Which::Candidate
}

/// They answer about every service, so they are in every canary of services.
#[test]
fn apis_alone_take_a_rollout_through_every_phase() {
    let mut world = World::new(plan());
    world.proxies = vec![apis()];
    world.at(1).is("shadow").at(11);
    assert!(matches!(world.rollout.phase, Phase::Canary(0)));
    world.at(12);
    assert_eq!((world.proxies[0].enforces, world.proxies[0].tries), (2, 1));
    world.at(31).is("full").at(61).is("completed");
}

/// They are alone in a share where no proxy came in time, and it begins then.
#[test]
fn apis_are_alone_in_a_share_once_no_proxy_came() {
    for of in [1, 10_000] {
        let mut world = World::new(share(of));
        world.proxies = vec![apis()];
        world.at(11).at(15);
        let word = world.rollout.word();
        assert!(
            world.rollout.taken.is_empty() && !world.rollout.ready,
            "{word}"
        );
        world.at(17);
        assert_eq!(world.proxies[0].enforces, 2);
        world
            .at(35)
            .is(&word)
            .at(36)
            .is("full")
            .at(66)
            .is("completed");
    }
}

/// Who may be asked nothing is not the one that a share has at least.
#[test]
fn a_share_has_a_proxy_where_one_is_connected() {
    let mut world = World::new(share(1));
    world.proxies.push(apis());
    world.at(12).is("canary 1 (0.01%)");
    let proxies = world.proxies[..2].iter();
    assert_eq!(proxies.filter(|p| is_in(&world, p)).count(), 1);
}

/// One at least is one, and not everybody who stands before it.
#[test]
fn the_one_that_a_share_has_at_least_makes_it_no_larger() {
    let mut world = World::new(share(1));
    world.proxies = vec![apis(), proxy("web")];
    world.at(12).is("canary 1 (0.01%)");
    assert!(is_in(&world, &world.proxies[1]));
    assert_eq!(world.rollout.share, 1);
    let more: Vec<Proxy> = (0..100).map(|n| proxy(&format!("p{n}"))).collect();
    let more_of_it = more.iter().filter(|p| is_in(&world, p)).count();
    assert!(more_of_it <= 1, "{more_of_it} of 100 in 0.01%");
    // It is part of it as long as the rollout lasts, also for the next start.
    let text = serde_json::to_string(&world.rollout).unwrap();
    world.rollout = serde_json::from_str(&text).unwrap();
    assert!(is_in(&world, &world.proxies[1]));
}

/// Questions say nothing about proxies: those have to have decided themselves.
#[test]
fn answers_are_no_decisions_of_proxies() {
    let mut world = World::new(plan());
    world.proxies.push(apis());
    world.at(11).is("canary 1 (shop/orders)");
    world.evidence.asked.new.decided += 100_000;
    world.idle_until(40).is("canary 1 (shop/orders)");
    assert_eq!(world.rollout.seen_of_needed(&world.evidence), (0, 10));
    world.at(42).is("full");
}

/// Where the proxies of a service are gone, the APIs do not stand for them.
#[test]
fn apis_do_not_stand_for_proxies_that_are_away() {
    let mut world = World::new(plan());
    world.proxies = vec![apis()];
    world.away = vec![proxy("orders"), proxy("web")];
    world.at(11).is("canary 1 (shop/orders)").at(16);
    let why = world.rollout.stopped().unwrap();
    assert_eq!(why.text, "these are not connected: orders");
}

/// A rollout that begins before anybody is there takes in who comes.
#[test]
fn a_share_that_nobody_was_in_takes_who_comes() {
    let first = Plan {
        shadow: None,
        ..share(1)
    };
    let mut world = World::new(first.clone());
    world.proxies.clear();
    let seen = Seen {
        now_us: 0,
        proxies: &[],
        away: &[],
        evidence: &world.evidence,
    };
    world.rollout = Rollout::begin(first, name(1), name(2), "uid 7", &seen);
    world.proxies = vec![apis()];
    world.at(2).is("canary 1 (0.01%)");
    assert!(!is_in(&world, &world.proxies[0]), "a proxy may still come");
    world.proxies.push(proxy("web"));
    world.at(3);
    assert!(is_in(&world, &world.proxies[1]));
    world.at(21).is("full");
}

/// Proxies go on counting over a restart of the PDP; what the APIs had counted is gone, and is
/// not waited for a second time.
#[test]
fn a_restart_forgets_what_the_apis_have_counted_and_nothing_else() {
    let mut world = World::new(plan());
    world.proxies = vec![apis()];
    world.at(1).is("shadow");
    world.rollout.mark = 30;
    world.rollout.mark_of_apis = 60;
    let evidence = |evaluated, asked| Evidence {
        flips: Flips {
            evaluated: evaluated - asked,
            ..Flips::default()
        },
        asked: Questions {
            flips: Flips {
                evaluated: asked,
                ..Flips::default()
            },
            ..Questions::default()
        },
        ..Evidence::default()
    };
    let seen = |world: &World, evidence: &Evidence| world.rollout.seen_of_needed(evidence).0;
    assert_eq!(seen(&world, &evidence(95, 62)), 5);
    world.rollout.restarted(world.now_us);
    assert_eq!(seen(&world, &evidence(30, 0)), 0);
    assert_eq!(seen(&world, &evidence(33, 3)), 3);
}
