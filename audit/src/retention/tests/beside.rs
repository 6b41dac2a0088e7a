//! A run while others verify the log, close it, or give orders.

use super::*;

/// Verification of a log that is thinned meanwhile, at each moment of it.
#[test]
fn a_log_that_is_thinned_while_it_is_verified_is_intact() {
    let mut stage = Stage::of_old(60);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let folder = stage.folder();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = stop.clone();
    let verifier = std::thread::spawn(move || {
        let mut reports = 0;
        while !ended.load(std::sync::atomic::Ordering::SeqCst) || reports == 0 {
            let report = verify(&folder, VerifyOptions::default());
            assert_eq!(report.findings, []);
            reports += 1;
        }
    });
    let done = stage.run();
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    verifier.join().unwrap();
    assert_eq!((done.records(), done.faults.len()), (120, 0));
}

/// A log that is closed meanwhile is nobody else's before the segment is in its place.
#[test]
fn a_log_is_locked_until_its_segment_is_in_place() {
    let mut stage = Stage::of_old(6);
    stage.fill();
    let span = stage.log().sealed().remove(1);
    let thinning = Thinning::weigh(stage.log(), span.clone(), i64::MAX, |_, _, _, _| Fate::Drop);
    let (folder, clock) = (stage.folder(), stage.clock.clone());
    let log = stage.log().clone();
    let mut looked = 0;
    let done = thinning
        .unwrap()
        .carry_out_to("of all".into(), &mut |point| {
            if point == Point::Recorded {
                log.close();
                let other = Log::open(&folder, stage.options(), clock.clone());
                assert!(matches!(other, Err(LogError::Locked(_))));
                looked += 1;
            }
            Ok(())
        });
    assert!(done.is_ok() && looked == 1, "{done:?}");
    drop(log);
    assert!(stage.check().intact());
    stage.restart();
    assert_eq!(stage.log().lacking()[0].segment, span.start);
}

/// A hold that is ordered while a run is under way counts from the next segment on.
#[test]
fn a_hold_that_is_added_during_a_run_counts() {
    let mut stage = Stage::of_old(12);
    stage.clock.advance(61 * DAY);
    stage.fill();
    let periods = usual();
    let now_us = stage.clock.now_us();
    let mut segments = 0;
    let mut turn = || {
        if segments == 2 {
            stage.hold("h", "path:/old/**");
        }
        segments += 1;
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: None,
        })
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    let run = stage.plan(&periods);
    let done = run.go(&mut Ledger::new(stage.log()), &mut turn, go_on);
    let done = done.unwrap();
    assert!(done.records() > 0 && done.held > 0, "{done:?}");
    assert_eq!(stage.log().lacking().len(), 2);
    let old = stage
        .paths()
        .into_iter()
        .filter(|path| path != "/new")
        .count();
    assert!(old > 5, "{old}");
}

/// The log is read for what holds keep while nobody has to wait for that.
#[test]
fn orders_do_not_wait_until_the_log_is_read() {
    let mut stage = Stage::of_old(6);
    stage.hold("h", "path:/old/1");
    stage.clock.advance(61 * DAY);
    stage.fill();
    let orders = Arc::new(tokio::sync::Mutex::new(()));
    let now_us = stage.clock.now_us();
    let mut asked = 0;
    let mut turn = || {
        asked += 1;
        Ok(Turn {
            holds: stage.holds.held(now_us)?,
            guard: Some(orders.clone().try_lock_owned().unwrap()),
        })
    };
    let periods = usual();
    let run = stage.plan(&periods);
    let go_on = &mut |_| ControlFlow::Continue(());
    let done = run.go(&mut Ledger::new(stage.log()), &mut turn, go_on);
    let done = done.unwrap();
    assert_eq!(asked, done.segments + 1, "once more after it is read");
    assert_eq!((done.records(), done.held), (10, 2));
    assert!(orders.try_lock().is_ok());
}
