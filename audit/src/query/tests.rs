//! The language: what reads, what is refused and where it is marked.

use proptest::prelude::*;

use super::*;
use crate::query::field::{CLASSES, DECISIONS};

fn printed(text: &str) -> String {
    Query::parse(text)
        .unwrap_or_else(|e| panic!("{text}: {e}"))
        .to_string()
}

fn refused(text: &str) -> (u16, String, Option<String>) {
    let told = Query::parse(text).expect_err(text);
    let at = told.location.clone().expect("every mistake has a place");
    let marked = at.text[at.offset..at.offset + at.len].to_owned();
    (told.code.0, marked, told.help)
}

#[test]
fn queries_read_and_print_canonically() {
    let check = |text: &str, expected: &str| assert_eq!(printed(text), expected);
    check("", "");
    check("decision:deny last:24h", "decision:deny since:-1d");
    check("decision:deny AND method:get", "decision:deny method:GET");
    check("not decision:allow", "-decision:allow");
    check("--decision:allow", "decision:allow");
    check("(a:b)".replace("a:b", "host:b").as_str(), "host:b");
    check(
        "decision:deny (method:POST OR method:DELETE)",
        "decision:deny (method:POST OR method:DELETE)",
    );
    check("(host:a OR host:b) last:1h", "(host:a OR host:b) since:-1h");
    check("-(host:a host:b)", "-(host:a host:b)");
    check("path:\"a b*\"", "path:\"a b*\"");
    check(r"path:/a\ b/*", r"path:/a\ b/*");
    check("action:\"orders:refund\"", "action:orders:refund");
    check("latency:>10ms", "latency:>=10001us");
    check("latency:>=1500ms", "latency:>=1500ms");
    check("status:4xx", "status:[400 TO 499]");
    check("revision:12", "sequence:12");
    check("revision:9F2C1A3B", "revision:9f2c1a3b**");
    check("serial:3F:A1", "serial:3fa1");
    check("serial:*:*:", "serial:*");
    check("serial:a*:**", "serial:a**");
    check("host:a host:b OR host:c", "host:a host:b OR host:c");
    check("(host:a host:b) OR host:c", "host:a host:b OR host:c");
    check(
        "since:0000-01-01T00:00:00+10:00",
        "since:-000001-12-31T14:00:00.000000Z",
    );
    check("id:01jd8k2xq4", "id:01JD8K2XQ4");
    check("reason:**", "reason:*");
    check(
        "host:a|count by service,action|top 5",
        "host:a | count by service, action | top 5",
    );
    check("| timeline 5m", "| timeline 300s");
    check(
        "|timeline 5m by reason|top 3",
        "| timeline 300s by reason | top 3",
    );
    check("| last by principal", "| first, last by principal");
    check("| last,first by host", "| first, last by host");
    check(
        "| first,last by principal,route | sort -count | top 7",
        "| first, last by principal, route | sort -count | top 7",
    );
    check(
        "| count by host, route, method, status",
        "| count by host, route, method, status",
    );
    check("| count by host | sort host", "| count by host | sort host");
    check(
        "source:10.0.0.0/8 until:2026-10-01",
        "source:10.0.0.0/8 until:2026-10-01",
    );
}

#[test]
fn mistakes_are_marked_where_they_are() {
    let check = |text: &str, code: u16, marked: &str| {
        let (got, place, _) = refused(text);
        assert_eq!((got, place.as_str()), (code, marked), "{text}");
    };
    check("decision:", 7101, "decision");
    check("(host:a", 7101, "(");
    check("host:a)", 7101, ")");
    check("path:\"a", 7101, "\"");
    check("status:[200 TO", 7101, "[");
    check("host:a OR", 7101, "");
    check("-", 7101, "");
    check("decison:deny", 7102, "decison");
    check("host:a deny", 7103, "deny");
    check("host:a or host:b", 7103, "or");
    check("status:x", 7104, "x");
    check("serial:::", 7104, "::");
    check("last:soon", 7104, "last:soon");
    check("host:a OR last:1h", 7105, "last:1h");
    check("-since:today", 7105, "since:today");
    check("last:1h since:today", 7105, "since:today");
    check("host:a | count by path", 7108, "path");
    check("host:a | top 5", 7109, "top");
    check("host:a | sort", 7109, "sort");
    check("host:a | count by a, b", 7102, "a");
    check("| count by host, host", 7109, "host");
    check("| count by host, route, method, status, mode", 7109, "mode");
    check("| count by host | count", 7109, "count");
    check("| count | top 3", 7109, "top");
    check("| count by host | top 0", 7109, "0");
    check("| count by host | top 1001", 7109, "1001");
    check("| count by host | top 3 | top 3", 7109, "top");
    check("| count by host | sort route", 7109, "route");
    check("| count by host | sort first", 7109, "first");
    check("| count by host | sort host | sort host", 7109, "sort");
    check("| count by host | top 3 | sort host", 7109, "sort");
    check("| first, last", 7109, "");
    check("| first, first by host", 7109, "first");
    check("| first, lst by host", 7109, "lst");
    check("| timeline 5m | top 3", 7109, "top");
    check("| timeline 5m by host | sort host", 7109, "sort");
    check("| timeline 5m by host, route", 7109, ",");
    check("| timeline 5m by path", 7108, "path");
    check("| tmeline 5m", 7109, "tmeline");
}

#[test]
fn mistakes_suggest_what_was_meant() {
    let check = |text: &str, part: &str| {
        let help = refused(text).2.unwrap_or_default();
        assert!(help.contains(part), "{text}: {help}");
    };
    check("decison:deny", "`decision:`");
    check("spiffe://acme.test/x", "principal:spiffe://");
    check("decision:alow", "decision:allow");
    check("deny", "decision:deny");
    check("web", "principal:web");
    check("/orders", "path:/orders");
    check("403", "status:403");
    check("host:a or host:b", "`OR`");
    check("time:today", "since:");
    check("| cont by host", "`count`");
    check("| where last", "before the first");
    check("| count by hst", "`host:`");
    check(
        "| first, last by host | sort nam",
        "count, host, first, last",
    );
}

#[test]
fn a_query_is_bounded_in_length_depth_and_tests() {
    let long = |n: usize| format!("host:{}", "x".repeat(n - 5));
    assert!(Query::parse(&long(QUERY_LEN_MAX)).is_ok());
    assert_eq!(refused(&long(QUERY_LEN_MAX + 1)).0, 7107);
    let deep = |n: usize| format!("{}host:a{}", "(".repeat(n), ")".repeat(n));
    assert!(Query::parse(&deep(QUERY_DEPTH_MAX)).is_ok());
    assert_eq!(refused(&deep(QUERY_DEPTH_MAX + 1)).0, 7107);
    let turns = QUERY_DEPTH_MAX / 2;
    let tight = format!(
        "{}host:a host:b{}",
        "-(host:a OR ".repeat(turns),
        ")".repeat(turns)
    );
    assert!(Query::parse(&printed(&tight)).is_ok());
    let many = |n: usize| "host:a ".repeat(n);
    assert!(Query::parse(&many(QUERY_TESTS_MAX)).is_ok());
    assert_eq!(refused(&many(QUERY_TESTS_MAX + 1)).0, 7107);
}

#[test]
fn a_query_is_about_decisions_unless_it_says_or_asks_otherwise() {
    let about = |text: &str| Query::parse(text).unwrap().filter().to_string();
    assert_eq!(about("host:a"), "class:decision host:a");
    assert_eq!(about("status:5xx"), "class:decision status:[500 TO 599]");
    assert_eq!(
        about("class:outcome status:5xx"),
        "class:outcome status:[500 TO 599]"
    );
    assert_eq!(about("-class:decision"), "-class:decision");
    assert_eq!(about("actor:ana"), "actor:ana");
    assert_eq!(about("| count by class"), "");
    assert_eq!(about("| count by actor"), "");
    assert_eq!(about("| count by host"), "class:decision");
    assert_eq!(about(""), "class:decision");
}

/// Random queries over a small vocabulary, so that they hit something.
pub(crate) fn any_expr() -> impl Strategy<Value = Expr> {
    let test = |name: &'static str, words: Vec<&'static str>| {
        prop::sample::select(words).prop_map(move |word| {
            let (field, demand) =
                Demand::read(Field::find(name).unwrap(), word, false).expect(word);
            Expr::Test(field, demand)
        })
    };
    let leaf = prop_oneof![
        test("class", CLASSES.to_vec()),
        test("decision", DECISIONS.to_vec()),
        test(
            "principal",
            vec![
                "web",
                "spiffe://acme.test/**",
                "*",
                "sa/*",
                "**/cron",
                "nobody"
            ]
        ),
        test(
            "service",
            vec!["orders", "shop/*", "acme.test/shop/orders", "*"]
        ),
        test(
            "path",
            vec!["/orders/*", "/orders/**", "**7", "/", r"/a\ b", "*"]
        ),
        test("method", vec!["get", "P*", "*"]),
        test("status", vec!["200", "4xx", ">=500", "*", "[0 TO 403]"]),
        test("latency", vec![">1ms", "<=500us", "*"]),
        test("bytes", vec![">1KiB", "0", "*"]),
        test("policy", vec!["p1", "p*", "*"]),
        test("ended", vec!["true", "false"]),
        test("end", vec!["completed", "timed_out", "*"]),
        test("source", vec!["10.0.0.0/8", "10.0.0.1", "::1", "*"]),
        test("trace", vec!["000102030405060708090a0b0c0d0e0f", "*"]),
        test("revision", vec!["1", "01010101", "*"]),
        test("sequence", vec![">1", "2"]),
        test("reporter", vec!["palisade/proxy/a", "*"]),
        test("serial", vec!["0A:0b", "*"]),
        test("id", vec!["01KA5A", "*", "7ZZZZZ"]),
        test("verb", vec!["issued", "*"]),
        test("reason", vec!["no_permit", "*_*"]),
        test("entry", vec!["<20", "[5 TO 40]"]),
        test("cached", vec!["true", "false"]),
        test("error", vec!["*", "reset**"]),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Expr::all),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Expr::any),
            inner.prop_map(Expr::not),
        ]
    })
}

#[test]
fn a_mistake_is_never_shown_as_half_a_character() {
    for text in [
        "|¡",
        "a )¡",
        "| top ¡",
        "| timeline ¡",
        "| count by ¡",
        "¡:x",
    ] {
        if let Err(told) = Query::parse(text) {
            let at = told.location.unwrap();
            assert!(
                at.text.get(at.offset..at.offset + at.len).is_some(),
                "{text}"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,80}") {
        if let Err(told) = Query::parse(&text) {
            let at = told.location.unwrap();
            prop_assert!(at.text.get(at.offset..at.offset + at.len).is_some());
        }
    }

    #[test]
    fn no_soup_of_the_language_makes_the_parser_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "decision:", "deny", "(", ")", "-", "OR", "AND", "not", " ", "\"", "*", "status:",
                "[1 TO", "]", ">=", "\\", "|", "count", "by", "service", ",", "top", "3",
                "timeline", "5m", "first", "last", "sort", " by ", "last:", "since:", "until:", "-2h", "id:", "01JD8K2X", "ä", "x",
            ]),
            0..24,
        ),
    ) {
        let text = words.concat();
        if let Ok(query) = Query::parse(&text) {
            let again = Query::parse(&query.to_string());
            prop_assert_eq!(again.ok(), Some(query));
        }
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same(expr in any_expr()) {
        let query = Query::parse(&expr.to_string()).unwrap();
        prop_assert_eq!(&query.filter, &expr);
        prop_assert_eq!(query.to_string(), expr.to_string());
    }

    #[test]
    fn any_text_can_be_quoted(value in "[^\\x00]{1,40}") {
        let field = Field::find("path").unwrap();
        let expr = Expr::Test(field, Demand::Text(Pattern::literal(value)));
        let query = Query::parse(&expr.to_string()).unwrap();
        prop_assert_eq!(query.filter, expr);
    }
}

/// Whoever looks for a person is not recorded with the name, and finds what has the
/// pseudonym.
#[test]
fn names_of_persons_become_pseudonyms_wherever_they_stand() {
    let pseudonym = |name: &str| {
        let mut pseudonym = [0; crate::privacy::PSEUDONYM_LEN];
        pseudonym[0] = name.len() as u8;
        Pseudonym(pseudonym)
    };
    let five = "p-05000000000000000000000000000000";
    let check = |text: &str, expected: &str| {
        let named = Query::parse(text).unwrap().naming(&pseudonym);
        assert_eq!(named.text(), expected, "{text}");
        assert_eq!(Query::parse(named.text()).unwrap(), named, "{text}");
    };
    check(
        "subject:alice last:1h",
        &format!("subject:{five} since:-1h"),
    );
    check(
        "-(subject:\"alice\" OR service:shop/*) | count by subject",
        &format!("-(subject:{five} OR service:shop/*) | count by subject"),
    );
    // A pseudonym is one already, and what names nobody stays as it was written.
    check(
        &format!("subject:{five}  last:1h"),
        &format!("subject:{five}  last:1h"),
    );
    check(
        "subject:05000000000000000000000000000000",
        "subject:p-20000000000000000000000000000000",
    );
    check(
        "subject:* path:/alice  last:1h",
        "subject:* path:/alice  last:1h",
    );
}

/// Part of a name has no pseudonym, and must not be recorded.
#[test]
fn a_person_is_named_whole() {
    for text in [
        "subject:ali*",
        "subject:**example.org",
        r#"subject:"a" -subject:b*"#,
    ] {
        let refused = Query::parse(text).unwrap_err();
        assert_eq!(refused.code.0, 7104, "{text}");
        assert_eq!(refused.message, "a person is named whole");
    }
    let names = |text: &str| Query::parse(text).unwrap().names();
    assert_eq!(
        names(r#"-(subject:"ali*" OR subject:bob)"#),
        ["ali*", "bob"]
    );
    let pseudonym = format!("subject:p-{} subject:* actor:ana", "05".repeat(16));
    assert!(names(&pseudonym).is_empty());
}

/// What is recorded of an export is about the same records at any later time.
#[test]
fn a_text_can_be_bound_to_its_window() {
    let query = Query::parse("(service:a OR service:b) last:1h | count").unwrap();
    let window = query
        .window(1_795_176_000_000_000, &Limits::default())
        .unwrap();
    let told = query.told_within(window);
    let again = Query::parse(&told).unwrap();
    let later = 1_895_176_000_000_000;
    assert_eq!(again.window(later, &Limits::default()).unwrap(), window);
    assert_eq!(again.without_time(), query.without_time());
    assert_eq!(
        again.bounds(later),
        (Some(window.from_us), Some(window.to_us))
    );
    assert_eq!(
        Query::parse("until:-1s").unwrap().bounds(5_000_000),
        (None, Some(4_000_000))
    );
}
