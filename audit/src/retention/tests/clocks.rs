//! When a record is over, by clocks that were behind, were ahead, or have leapt.

use super::*;

/// A clock that was behind for a while makes no record older than those before it.
#[test]
fn a_record_is_no_older_than_those_before_it() {
    let mut stage = Stage::new();
    stage.clock.advance(100 * DAY);
    stage.request("/a", 200);
    stage.clock.set_back(90 * DAY);
    stage.request("/behind", 200);
    stage.clock.advance(90 * DAY);
    stage.clock.advance(59 * DAY);
    stage.fill();
    assert_eq!(stage.run().records(), 0);
    stage.clock.advance(2 * DAY);
    assert_eq!(stage.run().records(), 4);
}

/// A clock that was far ahead for a while, and was put right, keeps nothing for longer than
/// what it stamped.
#[test]
fn a_clock_that_was_ahead_does_not_keep_what_follows() {
    let mut stage = Stage::new();
    stage.request("/before", 200);
    stage.clock.advance(1000 * DAY);
    stage.request("/ahead", 200);
    stage.clock.set_back(1000 * DAY);
    for n in 0..6 {
        stage.request(&format!("/after/{n}"), 200);
    }
    stage.clock.advance(59 * DAY);
    stage.fill();
    assert_eq!(stage.run().records(), 0);
    stage.clock.advance(2 * DAY);
    assert_eq!(stage.run().records(), 14);
    assert_eq!(stage.paths()[0], "/ahead", "its own time is not over");
    assert_eq!(stage.paths()[1..], ["/new"; 8]);
}

/// Records go by the same clock as runs: while there are some, it has not leapt.
#[test]
fn a_run_that_was_kept_waiting_for_long_is_no_leap() {
    let mut stage = Stage::new();
    stage.request("/old", 200);
    let ledger = &mut Ledger::new(stage.log());
    let periods = usual();
    let go = |stage: &Stage, ledger: &mut Ledger| {
        stage.signed();
        let mut turn = || {
            Ok(Turn {
                holds: Vec::new(),
                guard: None,
            })
        };
        let run = Run {
            sure: false,
            ..stage.plan(&periods)
        };
        let done = run.go(ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
        done.map(|done| done.records()).map_err(|told| told.code.0)
    };
    assert_eq!(go(&stage, ledger), Ok(0));
    for _ in 0..4 {
        stage.clock.advance(20 * DAY);
        stage.fill();
    }
    assert!(go(&stage, ledger).unwrap() > 0, "80 days after the last");
    // A run vouches for it, too, where there are no records.
    stage.clock.advance(20 * DAY);
    assert!(go(&stage, ledger).is_ok());
    stage.clock.advance(20 * DAY);
    assert!(go(&stage, ledger).is_ok());
    stage.clock.advance(32 * DAY);
    assert_eq!(go(&stage, ledger), Err(7578));
}

fn periods_of_admin() -> Periods {
    periods(&[("admin", "100 years")])
}

/// On both sides of the limit, after a run and in a log of which nothing is known.
#[test]
fn a_clock_that_has_leapt_drops_nothing_until_somebody_has_looked() {
    let mut stage = Stage::new();
    stage.request("/old", 200);
    for _ in 0..3 {
        stage.clock.advance(31 * DAY);
        stage.fill();
    }
    let periods = usual();
    let go = |stage: &Stage, ledger: &mut Ledger, sure: bool| {
        let mut turn = || {
            Ok(Turn {
                holds: Vec::new(),
                guard: None,
            })
        };
        let run = Run {
            sure,
            ..stage.plan(&periods)
        };
        let go_on = &mut |_| ControlFlow::Continue(());
        let done = run.go(ledger, &mut turn, go_on);
        done.map(|done| done.records()).map_err(|told| told.code.0)
    };
    let ledger = &mut Ledger::new(stage.log());
    assert_eq!(go(&stage, ledger, false), Ok(18), "31 days at a time");
    stage.clock.advance(31 * DAY + Duration::from_secs(1));
    stage.fill();
    assert_eq!(go(&stage, ledger, false), Err(7578));
    let unknown = &mut Ledger::new(stage.log());
    assert_eq!(go(&stage, unknown, false), Err(7578), "between two records");
    let preview = Run {
        dry: true,
        sure: false,
        ..stage.plan(&periods)
    };
    let mut turn = || {
        Ok(Turn {
            holds: Vec::new(),
            guard: None,
        })
    };
    let seen = preview.go(unknown, &mut turn, &mut |_| ControlFlow::Continue(()));
    assert!(seen.unwrap().records() > 0);
    assert!(go(&stage, ledger, true).unwrap() > 0);
    assert_eq!(go(&stage, ledger, false), Ok(0), "it vouches for the clock");
    // Nothing is due, and still no run vouches for such a clock but one that is told to.
    stage.clock.advance(32 * DAY);
    let of_admin = periods_of_admin();
    let unasked = Run {
        sure: false,
        ..stage.plan(&of_admin)
    };
    let told = unasked.go(ledger, &mut turn, &mut |_| ControlFlow::Continue(()));
    assert_eq!(told.unwrap_err().code.0, 7578);
}
