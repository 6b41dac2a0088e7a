//! How much may be asked, how long it may take, and whose turn it is.

use palisade_audit::query::{QUERY_DEPTH_MAX, QUERY_LEN_MAX, QUERY_TESTS_MAX};

use super::*;

/// A report takes no turn of those who ask, and measuring waits for nobody; one report is
/// made at a time.
#[tokio::test]
async fn reports_and_questions_do_not_wait_for_each_other() {
    let service = Service::ready().await;
    let office = service.office_within(Bounds {
        answer: Duration::from_millis(500),
        ..Bounds::of(&service.section)
    });
    let turns = office.0.turns.available_permits();
    let turns = u32::try_from(turns).unwrap();
    let taken = office.0.turns.clone().acquire_many_owned(turns).await;
    let taken = taken.unwrap();
    let search = "/v1/audit/search?q=last:1h";
    let late = service.ask(&office, Some(READER), "GET", search).await;
    late.is_problem(503, "PLS7911");
    service.get(&office, AUDITOR, "/metrics").await;
    let report = "/v1/audit/reports/denials?period=last:1h";
    service.get(&office, AUDITOR, report).await;
    drop(taken);
    // As a schedule does that makes one.
    let turn = service.role.reporting.clone().acquire_owned().await;
    let reply = service.ask(&office, Some(AUDITOR), "GET", report).await;
    reply.is_problem(429, "PLS7910");
    drop(turn);
    service.get(&service.office(), AUDITOR, report).await;
}

/// A question that takes too long, or whose reader has gone, ends and gives its turn back; so does
/// a report.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_ends_and_gives_its_turn_back() {
    let service = Service::ready().await;
    let asking = |role: AuditRole| async move {
        let query = palisade_audit::query::Query::parse("class:*").unwrap();
        let ask = move || loop {
            role.store.search(&query, 1000, None)?;
        };
        Ok(crate::run::audit::blocking::<()>(ask).await?)
    };
    let reporting = |role: AuditRole| async move {
        let asked = crate::run::audit::RunReport {
            name: "integrity".into(),
            period: "last:1h".into(),
            scope: String::new(),
            to: String::new(),
        };
        let ask = move || loop {
            role.desk(&role.dir.join("log")).run(&asked)?;
        };
        Ok(crate::run::audit::blocking::<()>(ask).await?)
    };
    let short = Duration::from_millis(300);
    let office = service.office_within(Bounds {
        answer: short,
        export: short,
        ..Bounds::of(&service.section)
    });
    let all = async |turns: &Arc<Semaphore>, many: usize| {
        let many = u32::try_from(many).unwrap();
        let all = tokio::time::timeout(Duration::from_secs(60), turns.acquire_many(many));
        drop(all.await.unwrap().unwrap());
    };
    assert_eq!(office.timed(asking).await.unwrap_err().told.code.0, 7911);
    all(&office.0.turns, TURNS).await;
    assert_eq!(
        office.reporting(reporting).await.unwrap_err().told.code.0,
        7911
    );
    all(&service.role.reporting, 1).await;
    let office = service.office();
    let asked = tokio::spawn({
        let office = office.clone();
        async move { office.timed(asking).await }
    });
    while office.0.turns.available_permits() == TURNS {
        tokio::task::yield_now().await;
    }
    asked.abort();
    all(&office.0.turns, TURNS).await;
}

/// Each limit lets the last pass that it allows, and stops the next.
#[tokio::test]
async fn limits_hold_on_both_sides() {
    let service = Service::ready().await;
    let office = service.office();
    for (uri, last, most) in [
        ("search?limit=", 10_000, 10_000),
        ("facets?top=", 1000, 1000),
        ("timeline?top=", 1000, 1000),
    ] {
        let at = |n: usize| format!("/v1/audit/{uri}{n}");
        service.get(&office, AUDITOR, &at(last)).await;
        for beyond in [0, most + 1] {
            let reply = service
                .ask(&office, Some(AUDITOR), "GET", &at(beyond))
                .await;
            reply.is_problem(400, "PLS7909");
        }
    }
    // Records of an export.
    let q = "/v1/audit/export?q=class:decision";
    for (export_rows, fits) in [(2 * EACH as u64, true), (2 * EACH as u64 - 1, false)] {
        let office = service.office_within(Bounds {
            export_rows,
            ..Bounds::of(&service.section)
        });
        let reply = service.ask(&office, Some(AUDITOR), "GET", q).await;
        match fits {
            true => assert_eq!(reply.text().lines().count(), 2 * EACH),
            false => reply.is_problem(422, "PLS7912"),
        }
    }
    // Requests in flight of one caller, two; and of another.
    let caller = service.caller(&office, ORDERS);
    let first = office.enter(&caller).unwrap();
    let _second = office.enter(&caller).unwrap();
    let told = office.enter(&caller).unwrap_err();
    assert_eq!((told.status.as_u16(), told.told.code.0), (429, 7910));
    assert!(office.enter(&service.caller(&office, WEB)).is_ok());
    drop(first);
    // Requests of a second, four; what is left comes back with time.
    let caller = service.caller(&office, BANK);
    for _ in 0..4 {
        assert!(office.enter(&caller).is_ok());
    }
    let told = (0..1000).find_map(|_| office.enter(&caller).err()).unwrap();
    assert_eq!((told.status.as_u16(), told.told.code.0), (429, 7910));
    assert!(told.told.message.contains("a second"), "{told:?}");
    // Tails, one.
    let place = office.tail_place().unwrap();
    let reply = service
        .ask(&office, Some(AUDITOR), "GET", "/v1/audit/tail")
        .await;
    reply.is_problem(429, "PLS7910");
    assert_eq!(reply.header("retry-after"), "1");
    drop(place);
    assert!(office.tail_place().is_ok());
}

/// Answers, tails and exports end in time; an export that does is cut, not ended.
#[tokio::test]
async fn what_takes_too_long_ends() {
    let service = Service::ready().await;
    let bounds = Bounds::of(&service.section);
    let none = Duration::ZERO;
    let office = service.office_within(Bounds {
        answer: none,
        ..bounds
    });
    // Others are being answered, and nobody's turn comes.
    let all = u32::try_from(TURNS).unwrap();
    let _busy = office.0.turns.acquire_many(all).await.unwrap();
    let reply = service
        .ask(&office, Some(AUDITOR), "GET", "/v1/audit/search")
        .await;
    reply.is_problem(503, "PLS7911");
    let office = service.office_within(Bounds {
        tail: none,
        ..bounds
    });
    let reply = service.get(&office, AUDITOR, "/v1/audit/tail").await;
    let last: Value = serde_json::from_str(reply.text().trim_end()).unwrap();
    assert_eq!(last["ended"], "its time is over: ask again");
    schema::check("TailLine", &last);
    let office = service.office_within(Bounds {
        export: none,
        ..bounds
    });
    let reply = service.get(&office, AUDITOR, "/v1/audit/export").await;
    assert!(reply.body.is_err(), "{reply:?}");
}

/// `class:*` as long, as deep, or with as many tests as a query may be; and with one more.
fn at_the_limits() -> [[String; 2]; 3] {
    let long = |n: usize| format!("class:* -host:{}", "x".repeat(n - "class:* -host:".len()));
    let deep = |n: usize| format!("{}class:*{}", "(".repeat(n), ")".repeat(n));
    let many = |n: usize| vec!["class:*"; n].join(" ");
    let both = |of: &dyn Fn(usize) -> String, most| [most, most + 1].map(of);
    [
        both(&long, QUERY_LEN_MAX),
        both(&deep, QUERY_DEPTH_MAX),
        both(&many, QUERY_TESTS_MAX),
    ]
}

/// Up to the limit a query is answered, to a reader of one service with that one's records alone;
/// beyond it, it is refused as that, whatever is asked and whoever asks.
#[tokio::test]
async fn a_query_is_bounded_at_every_address_and_never_widened() {
    let service = Service::ready().await;
    let refused = async |reader: &str, uri: &str| {
        let office = service.office();
        let reply = service.ask(&office, Some(reader), "GET", uri).await;
        reply.is_problem(400, "PLS7107");
    };
    for [most, beyond] in at_the_limits().map(|both| both.map(|q| q.replace(' ', "%20"))) {
        for reader in [AUDITOR, ORDERS] {
            for (asked, more) in [
                ("search", "&limit=1000"),
                ("facets", "&by=service"),
                ("timeline", "&by=service"),
                ("export", ""),
            ] {
                let uri = |q: &str| format!("/v1/audit/{asked}?q={q}{more}");
                let reply = service.get(&service.office(), reader, &uri(&most)).await;
                let told = reply.text();
                assert!(told.contains("shop"), "{asked}: {told}");
                assert_eq!(told.contains("bank"), reader == AUDITOR, "{asked}: {told}");
                refused(reader, &uri(&beyond)).await;
            }
            refused(reader, &format!("/v1/audit/tail?q={beyond}")).await;
        }
        let report = "/v1/audit/reports/denials?period=last:1h&scope=";
        refused(AUDITOR, &format!("{report}{beyond}")).await;
    }
}
