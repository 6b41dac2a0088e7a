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

/// They answer about every service, so they are in every canary of services, and alone in one
/// of the smallest share.
#[test]
fn apis_alone_take_a_rollout_through_every_phase() {
    for plan in [plan(), share(1)] {
        let mut world = World::new(plan);
        world.proxies = vec![apis()];
        world.at(1).is("shadow").at(11);
        assert!(matches!(world.rollout.phase, Phase::Canary(0)));
        world.at(12);
        assert_eq!((world.proxies[0].enforces, world.proxies[0].tries), (2, 1));
        world.at(31).is("full").at(61).is("completed");
    }
}

/// Who may be asked nothing is not the one that a share has at least.
#[test]
fn a_share_has_a_proxy_where_one_is_connected() {
    let mut world = World::new(share(1));
    world.proxies.push(apis());
    world.at(12).is("canary 1 (0.01%)");
    let proxies = world.proxies[..2].iter();
    assert!(proxies.clone().any(|p| is_in(&world, p)), "nobody is in it");
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
        evidence: &world.evidence,
    };
    world.rollout = Rollout::begin(first, name(1), name(2), "uid 7", &seen);
    world.proxies = vec![apis()];
    world.at(2).is("canary 1 (0.01%)");
    assert!(is_in(&world, &world.proxies[0]));
    world.at(21).is("full");
}

/// Proxies go on counting over a restart of the PDP; what the APIs had counted is gone, and is
/// not waited for a second time.
#[test]
fn a_restart_forgets_what_the_apis_have_counted_and_nothing_else() {
    let mut world = World::new(plan());
    world.proxies.push(apis());
    world.at(1).is("shadow");
    world.rollout.mark = 90;
    world.rollout.mark_of_apis = 60;
    let evidence = |evaluated, asked| Evidence {
        flips: Flips {
            evaluated,
            ..Flips::default()
        },
        asked: Questions {
            evaluated: asked,
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
