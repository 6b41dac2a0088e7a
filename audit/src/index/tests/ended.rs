//! Questions that nobody waits for any more.

use std::ops::ControlFlow;

use super::fake::{Log, NOW, decision, open, runtime};
use crate::{
    going::Going,
    index::{
        Store, StoreError,
        search::{Hit, Visitor},
    },
    query::Query,
};

const DECISIONS: u64 = 100;

fn indexed(dir: &tempfile::TempDir) -> Store {
    let log = Log::new();
    for n in 0..DECISIONS {
        log.append(decision(NOW - 1_000_000, n.into()));
    }
    let store = open(&log, dir.path());
    runtime().block_on(store.flush()).unwrap();
    store
}

/// Ends the work with the third document.
struct Ending(Going, u64);

impl Visitor for Ending {
    fn document(&mut self, _: Hit<'_>) -> ControlFlow<()> {
        self.1 += 1;
        if self.1 == 3 {
            self.0.end();
        }
        ControlFlow::Continue(())
    }
}

#[test]
fn a_search_ends_between_two_documents() {
    let dir = tempfile::tempdir().unwrap();
    let going = Going::default();
    let store = indexed(&dir).heeding(&going);
    let query = Query::parse("class:decision").unwrap();
    let snapshot = store.everything(&query, 0).unwrap();
    let mut ending = Ending(going, 0);
    let mut views = snapshot.views.iter();
    let ended = views.try_for_each(|view| snapshot.visit(view, store.source(), None, &mut ending));
    assert!(matches!(ended, Err(StoreError::Ended(_))), "{ended:?}");
    assert_eq!(ending.1, 3);
}

/// By every kind of question; whoever else asks is answered all the same.
#[test]
fn no_question_is_answered_that_nobody_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = indexed(&dir);
    let going = Going::default();
    let waited = store.heeding(&going);
    let query = Query::parse("class:decision").unwrap();
    let id = waited.search(&query, 1, None).unwrap().rows[0].clone();
    let id = id.text("id").unwrap().to_owned();
    assert_eq!(waited.count(&query).unwrap(), DECISIONS);
    assert!(going.far().records >= DECISIONS, "{:?}", going.far());
    let of_none = Query::parse("class:decision path:/none").unwrap();
    assert_eq!(waited.count(&of_none).unwrap(), 0);
    going.end();
    let asked = [
        waited.search(&query, 1, None).map(drop),
        waited.count(&query).map(drop),
        // Nothing matches, and nothing is shown that could ask.
        waited.count(&of_none).map(drop),
        waited.facets(&query, &["service"], 1).map(drop),
        waited.timeline(&query, None, None, 1).map(drop),
        waited.by_id(&id).map(drop),
    ];
    for (n, answer) in asked.into_iter().enumerate() {
        assert!(
            matches!(answer, Err(StoreError::Ended(_))),
            "{n}: {answer:?}"
        );
    }
    assert_eq!(store.count(&query).unwrap(), DECISIONS);
}
