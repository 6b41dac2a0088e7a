//! Whatever happens, in whatever order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    log::Lacking,
    merkle::{self, Hash, Tree, leaf, verify_inclusion},
};

/// A step of the story that a property tells.
#[derive(Debug, Clone, Copy)]
enum Step {
    Requests(u8, bool),
    Days(u8),
    Run,
    Crash(Point),
    Fail(Point),
    Hold,
    Release,
    Restart,
}

fn point() -> impl Strategy<Value = Point> {
    prop_oneof![
        Just(Point::Written),
        Just(Point::Recorded),
        Just(Point::Unindexed),
        Just(Point::Replaced),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6u8, any::<bool>()).prop_map(|(n, held)| Step::Requests(n, held)),
        3 => (1..50u8).prop_map(Step::Days),
        3 => Just(Step::Run),
        2 => point().prop_map(Step::Crash),
        2 => point().prop_map(Step::Fail),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
        2 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: the tree is what it would have been, what is there
    /// is proven, what is not was over and not held, and verification agrees.
    #[test]
    fn the_tree_stays_and_only_what_is_over_and_free_goes(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut stage = Stage::new();
        let mut leaves: Vec<Hash> = Vec::new();
        let mut ever_over = BTreeSet::new();
        let mut held = false;
        for step in steps {
            match step {
                Step::Requests(n, held) => for n in 0..n {
                    let path = if held { "/held" } else { "/free" };
                    stage.request(&format!("{path}/{n}"), 200);
                },
                Step::Days(days) => stage.clock.advance(u32::from(days) * DAY),
                Step::Run => drop(stage.run()),
                Step::Crash(point) => {
                    stage.run_of(&usual(), false, Some((point, true)));
                    stage.restart();
                }
                Step::Fail(point) => drop(stage.run_of(&usual(), false, Some((point, false)))),
                Step::Hold if !held => {
                    stage.hold("h", "path:/held/**");
                    held = true;
                }
                Step::Release if held => {
                    stage.holds.release("h").unwrap();
                    held = false;
                }
                Step::Hold | Step::Release => {}
                Step::Restart => stage.restart(),
            }
            // What is in the log now, before anything more of it may go.
            stage.signed();
            let log = stage.log();
            let checkpoint = log.checkpoint();
            let (periods, now) = (usual(), stage.clock.now());
            for index in 0..log.len() {
                match log.leaf(index) {
                    Ok(bytes) => {
                        let hash = leaf(&bytes);
                        match leaves.get(index as usize) {
                            Some(known) => prop_assert_eq!(*known, hash),
                            None => leaves.push(hash),
                        }
                        let entry = log.read(index).unwrap();
                        let class = crate::query::field::class_of(&entry.record);
                        let over = periods.over_before_us(class, now);
                        let received_us = entry.envelope.received_us;
                        let kept = held && matches!(&entry.record.body,
                            Some(Body::Decision(d)) if d.path.starts_with("/held"));
                        match over.is_some_and(|over| received_us < over) && !kept {
                            true => ever_over.insert(index),
                            false => ever_over.remove(&index),
                        };
                    }
                    Err(LogError::Dropped { .. }) => {
                        prop_assert!(ever_over.contains(&index), "{}", index);
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
            let mut tree = Tree::new();
            let signed = checkpoint.size as usize;
            leaves.iter().take(signed).for_each(|hash| tree.push(*hash));
            prop_assert_eq!(merkle::hex(&tree.root()), merkle::hex(&checkpoint.root));
        }
        let log = stage.log();
        let checkpoint = log.checkpoint();
        for index in 0..checkpoint.size {
            let proof = log.prove_under(index, checkpoint.size).unwrap();
            verify_inclusion(&leaves[index as usize], index, checkpoint.size, &proof, &checkpoint.root).unwrap();
        }
        let there = log.scan(0).map(|entry| entry.unwrap().index).collect::<BTreeSet<_>>();
        let gone = log.lacking().iter().map(Lacking::records).sum::<u64>();
        prop_assert_eq!(there.len() as u64 + gone, log.len());
        stage.log().close();
        let report = stage.check();
        prop_assert_eq!(report.findings, []);
        prop_assert_eq!(report.dropped, gone);
    }
}
