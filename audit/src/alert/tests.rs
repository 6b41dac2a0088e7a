//! When rules are met, and what is bounded.

use palisade_mesh::wire::{
    audit::Envelope,
    record::{Decision, Peer, Record, Verdict},
};

use super::{rule::bounded, *};
use crate::source::Entry;

const S: i64 = 1_000_000;

fn text<'t>(threshold: u64, window_s: i64, by: Option<&'t str>) -> RuleText<'t> {
    RuleText {
        name: "refusals",
        query: "decision:deny",
        threshold,
        window_us: window_s * S,
        cooldown_us: 60 * S,
        by,
        severity: Severity::High,
    }
}

fn denied(at: u64, time_s: i64, principal: &str) -> Item {
    let record = Record {
        time_us: time_s * S,
        body: Some(Body::Decision(Decision {
            verdict: Verdict::NotPermitted.into(),
            principal: Some(Peer {
                spiffe_id: principal.into(),
                ..Peer::default()
            }),
            ..Decision::default()
        })),
        ..Record::default()
    };
    of(at, time_s, record)
}

fn of(at: u64, time_s: i64, record: Record) -> Item {
    Item::new(Entry {
        index: at,
        envelope: Envelope {
            received_us: time_s * S,
            ..Envelope::default()
        },
        record,
    })
}

fn fired(book: &mut Book, rule: &Rule, items: &[(u64, i64, &str)]) -> Vec<(u64, String)> {
    let rules = [rule.clone()];
    let items = items.iter();
    let met = items.flat_map(|(at, s, who)| book.take(&rules, &denied(*at, *s, who)));
    met.map(|firing| (firing.entry, firing.group)).collect()
}

#[test]
fn a_rule_fires_at_its_threshold_within_its_window_and_is_quiet_afterwards() {
    let rule = Rule::new(&text(3, 10, None)).unwrap();
    let mut book = Book::at(0);
    let none = fired(
        &mut book,
        &rule,
        &[(0, 100, "a"), (1, 105, "b"), (2, 111, "c")],
    );
    assert_eq!(none, [], "three, but over eleven seconds");
    assert_eq!(
        fired(&mut book, &rule, &[(3, 115, "d")]),
        [(3, String::new())]
    );
    let quiet: Vec<_> = (4..20).map(|n| (n, 116, "a")).collect();
    assert_eq!(fired(&mut book, &rule, &quiet), []);
    let after = [(20, 175, "a"), (21, 176, "a"), (22, 177, "a")];
    assert_eq!(fired(&mut book, &rule, &after), [(22, String::new())]);
}

#[test]
fn groups_are_counted_apart_and_bounded() {
    let rule = Rule::new(&text(2, 10, Some("principal"))).unwrap();
    let mut book = Book::at(0);
    let met = fired(&mut book, &rule, &[(0, 1, "a"), (1, 2, "b"), (2, 3, "a")]);
    assert_eq!(met, [(2, "a".to_owned())]);
    for n in 0..GROUPS_MAX as u64 + 5 {
        let who = format!("caller-{n}");
        assert_eq!(fired(&mut book, &rule, &[(10 + n, 100, &who)]), []);
    }
    assert_eq!(book.counts["refusals"].groups.len(), GROUPS_MAX);
    // All but the first that was forgotten was being counted; what is quiet is apart.
    assert_eq!(book.forgotten("refusals"), 5);
    assert_eq!(book.counts["refusals"].quiet.len(), 1);
    let rule = Rule::new(&text(THRESHOLD_MAX, 10, Some("principal"))).unwrap();
    let mut book = Book::at(0);
    for n in 0..60 {
        fired(&mut book, &rule, &[(n, 1, &format!("caller-{n}"))]);
    }
    assert_eq!(book.counts["refusals"].groups.len(), 50);
}

/// Many that were met do not push out one that is about to be.
#[test]
fn what_is_quiet_takes_no_room_of_what_is_counted() {
    let rule = Rule::new(&text(2, 1000, Some("principal"))).unwrap();
    let mut book = Book::at(0);
    assert_eq!(fired(&mut book, &rule, &[(0, 1, "slow")]), []);
    for n in 0..GROUPS_MAX as u64 + 5 {
        let who = format!("caller-{n}");
        let twice = [
            (1 + 2 * n, 100, who.as_str()),
            (2 + 2 * n, 100, who.as_str()),
        ];
        assert_eq!(fired(&mut book, &rule, &twice).len(), 1);
    }
    assert_eq!(book.counts["refusals"].quiet.len(), GROUPS_MAX);
    let met = fired(&mut book, &rule, &[(9000, 101, "slow")]);
    assert_eq!(met, [(9000, "slow".to_owned())]);
}

/// A caller with an endless name is one group, and its alert has room in a record.
#[test]
fn a_long_value_is_cut_and_told_from_others() {
    let rule = Rule::new(&text(1, 10, Some("principal"))).unwrap();
    let rules = [rule];
    let mut book = Book::at(0);
    let long = "ä".repeat(300);
    let (other, endless) = (format!("{long}x"), "ä".repeat(30_000));
    let met = [&long, &other, &endless].map(|who| book.take(&rules, &denied(0, 1, who)).remove(0));
    assert_ne!(met[0].group, met[1].group);
    for firing in &met {
        assert_eq!(firing.group.chars().filter(|c| *c == 'ä').count(), 128);
        assert!(prost::Message::encoded_len(&firing.record()) < 1024);
    }
    assert!(book.take(&rules, &denied(1, 2, &long)).is_empty(), "quiet");
    let fits = "x".repeat(GROUP_LEN_MAX);
    assert_eq!(bounded(&fits), fits.as_str());
}

/// A clock that was ahead neither keeps a rule quiet for years nor counts for it.
#[test]
fn a_clock_that_is_set_back_does_not_silence() {
    let rule = Rule::new(&text(2, 10, None)).unwrap();
    let mut book = Book::at(0);
    let ahead = [(0, 9_000_000, "a"), (1, 9_000_001, "a")];
    assert_eq!(fired(&mut book, &rule, &ahead).len(), 1);
    assert_eq!(fired(&mut book, &rule, &[(2, 100, "a")]), []);
    let back = fired(&mut book, &rule, &[(3, 101, "a"), (4, 102, "a")]);
    assert_eq!(back, [(3, String::new())]);
    let mut book = Book::at(0);
    let one = [(0, 9_000_000, "a"), (1, 100, "a"), (2, 101, "a")];
    assert_eq!(fired(&mut book, &rule, &one), [(2, String::new())]);
}

#[test]
fn a_new_rule_begins_at_the_end_of_the_log() {
    let rule = Rule::new(&text(1, 10, None)).unwrap();
    let mut book = Book::at(0);
    book.keep_to(std::slice::from_ref(&rule), 5);
    assert_eq!(fired(&mut book, &rule, &[(4, 1, "a")]), []);
    assert_eq!(fired(&mut book, &rule, &[(5, 2, "a")]).len(), 1);
}

/// What could not be delivered is recorded; that cannot be delivered either.
#[test]
fn what_was_given_up_sets_off_nothing() {
    let rule = Rule::new(&RuleText {
        query: "class:admin",
        ..text(1, 10, None)
    })
    .unwrap();
    let given_up = |reporter: &str| Record {
        reporter: reporter.into(),
        body: Some(Body::Admin(palisade_mesh::wire::record::Admin {
            actor: "spiffe://acme.test/palisade/audit".into(),
            verb: UNDELIVERED.into(),
            ..Default::default()
        })),
        ..Record::default()
    };
    let rules = [rule];
    let mut book = Book::at(0);
    let ours = given_up("spiffe://acme.test/palisade/audit");
    assert_eq!(book.take(&rules, &of(0, 1, ours)), []);
    let theirs = given_up("spiffe://acme.test/ns/shop/sa/web");
    assert_eq!(book.take(&rules, &of(1, 1, theirs)).len(), 1);
}

/// A restart goes on from what was kept; gone through again, the same is found.
#[test]
fn what_is_kept_and_read_back_goes_on_as_if_nothing_had_been() {
    let rule = Rule::new(&text(3, 10, None)).unwrap();
    let items: Vec<_> = (0..30)
        .map(|n| (n, 100 + 25 * (n as i64 / 3), "a"))
        .collect();
    let whole = fired(&mut Book::at(0), &rule, &items);
    assert!(whole.len() > 2, "{whole:?}");
    for cut in 0..items.len() {
        let mut book = Book::at(0);
        let mut met = fired(&mut book, &rule, &items[..cut]);
        let kept = serde_json::to_string(&book).unwrap();
        let mut book: Book = serde_json::from_str(&kept).unwrap();
        book.keep_to(std::slice::from_ref(&rule), 0);
        assert_eq!(book.position, cut as u64);
        met.extend(fired(&mut book, &rule, &items[cut..]));
        assert_eq!(met, whole, "cut at {cut}");
    }
    let ids = |book: &mut Book| -> Vec<String> {
        let rules = [rule.clone()];
        let items = items.iter();
        let met = items.flat_map(|(at, s, who)| book.take(&rules, &denied(*at, *s, who)));
        met.map(|firing| firing.id).collect()
    };
    assert_eq!(ids(&mut Book::at(0)), ids(&mut Book::at(0)));
}

#[test]
fn a_firing_is_open_until_it_is_acknowledged_and_sets_off_nothing() {
    let rule = Rule::new(&RuleText {
        query: "class:*",
        ..text(1, 10, None)
    })
    .unwrap();
    let rules = [rule];
    let mut book = Book::at(0);
    let met = book.take(&rules, &denied(0, 100, "a"));
    let record = met[0].record();
    assert_eq!(book.take(&rules, &of(1, 200, record.clone())), []);
    let open: Vec<_> = book.open().cloned().collect();
    assert_eq!(open[0].id, met[0].id);
    let Some(Body::Alert(mut ack)) = record.body else {
        unreachable!()
    };
    ack.verb = "acknowledged".into();
    let ack = Record {
        body: Some(Body::Alert(ack)),
        ..Record::default()
    };
    assert_eq!(book.take(&rules, &of(2, 201, ack)), []);
    assert_eq!(book.open().count(), 0);
    for n in 0..OPEN_MAX as u64 + 3 {
        let firing = Firing::of_state("silent", Severity::High, &n.to_string(), 1, "x");
        book.take(&rules, &of(10 + n, 300, firing.record()));
    }
    assert_eq!(book.open().count(), OPEN_MAX);
}

#[test]
fn a_rule_that_cannot_be_met_or_bounded_is_refused() {
    let refused = |text: RuleText<'_>| Rule::new(&text).map(|_| ()).unwrap_err().code.0;
    for (threshold, window_s) in [(0, 1), (THRESHOLD_MAX + 1, 1), (1, 0), (1, 31 * 86400 + 1)] {
        assert_eq!(refused(text(threshold, window_s, None)), 7931);
    }
    assert!(Rule::new(&text(THRESHOLD_MAX, 31 * 86400, None)).is_ok());
    assert_eq!(refused(text(1, 1, Some("principle"))), 7931);
    for query in [
        "decision:deny | count",
        "decision:deny last:1h",
        "decision:deny until:2026-11-29",
        "desision:deny",
        "-subject:alice@example.org",
    ] {
        assert_eq!(
            refused(RuleText {
                query,
                ..text(1, 1, None)
            }),
            7931,
            "{query}"
        );
    }
    let of_nobody = RuleText {
        query: "subject:p-00112233445566778899aabbccddeeff",
        ..text(1, 1, None)
    };
    assert!(Rule::new(&of_nobody).is_ok());
    let long = "x".repeat(NAME_LEN_MAX + 1);
    for name in ["", "a b", "a\nb", "ä", &long] {
        assert_eq!(
            refused(RuleText {
                name,
                ..text(1, 1, None)
            }),
            7931,
            "{name}"
        );
    }
    let name = &long[1..];
    assert!(
        Rule::new(&RuleText {
            name,
            ..text(1, 1, None)
        })
        .is_ok()
    );
}
