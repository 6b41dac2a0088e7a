//! Who has access and does not need it: a seeded year with grants that nobody used, the
//! change that ends them, and a review with verdicts and a sign-off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

mod support;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use palisade_mesh::wire::record::{Record, Verdict, record::Body};
use serde_json::Value;
use support::{
    Home, copy,
    report::{figure, rows, section},
    year::{self, Habit},
};

/// Policies beside the sample's: one that nobody uses, and one that is used in part.
const SEEDED: &str = r#"@id("refunds-for-reports")
@owner("team-orders")
permit (
  principal in Service::"demo.test/shop/reports",
  action == Action::"orders:refund",
  resource in Service::"demo.test/shop/orders"
);

// Web may do everything with the stock.
@id("stock-for-web")
@owner("team-inventory")
permit (
  principal in Service::"demo.test/shop/web",
  action,
  resource in Service::"demo.test/shop/inventory"
);
"#;

/// What is granted and not used, by caller, action and resource.
const UNUSED: [(&str, &str, &str); 3] = [
    ("shop/reports", "GET", "demo.test/shop/inventory/read"),
    (
        "shop/reports",
        "orders:refund",
        "demo.test/shop/orders/refund",
    ),
    (
        "shop/web",
        "inventory:reserve",
        "demo.test/shop/inventory/reserve",
    ),
];

const PERIOD: &str = "last:366d";

type Edges = BTreeSet<(String, String, String)>;

/// A home with `policies` and the `log` of a year in which everything that they grant is
/// used each day, except [`UNUSED`].
fn seeded() -> Home {
    seeded_with(|_, _| {})
}

/// The same, with each record as `edit` leaves it.
fn seeded_with(edit: impl Fn(&Habit, &mut Record)) -> Home {
    let home = Home::new();
    copy(&support::sample_policies(), &home.path("policies"));
    fs::write(home.path("policies/policies/seeded.cedar"), SEEDED).unwrap();
    let mut habits: Vec<Habit> = granted(&home, "policies")
        .iter()
        .filter(|answer| !unused().contains(&edge(answer)))
        .map(|answer| habit(answer, Verdict::Allow))
        .collect();
    assert!(habits.len() > 5, "{habits:?}");
    // Denied every day, and so no use of anything.
    habits.push(Habit {
        principal: "spiffe://demo.test/ns/shop/sa/web".into(),
        service: "shop/orders".into(),
        action: "orders:refund".into(),
        method: "POST",
        resource: "demo.test/shop/orders/refund".into(),
        path: "/orders/42/refund".into(),
        verdict: Verdict::NotPermitted,
    });
    year::fill_with(&home.path("log"), &habits, edit);
    home
}

fn unused() -> Edges {
    UNUSED
        .iter()
        .map(|(caller, action, resource)| {
            (
                (*caller).to_owned(),
                (*action).to_owned(),
                (*resource).to_owned(),
            )
        })
        .collect()
}

/// Everything that somebody may do, by the command that people ask.
fn granted(home: &Home, policies: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for caller in support::demo::SHOP {
        let said = home.json(&["what-can", caller, "--policies", policies]);
        let answers = said["answers"].as_array().unwrap().iter();
        all.extend(answers.filter(|a| a["may"] != "no").cloned());
    }
    all
}

fn edge(answer: &Value) -> (String, String, String) {
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    (text("caller"), text("action"), text("resource"))
}

fn habit(answer: &Value, verdict: Verdict) -> Habit {
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    let action = text("action");
    let method = match action.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "payments:read-cards" => "GET",
        _ => "POST",
    };
    Habit {
        principal: text("principal"),
        service: text("service"),
        method,
        resource: text("resource"),
        path: text("path").replace("{id}", "42").replace("{sku}", "7"),
        action,
        verdict,
    }
}

/// Arguments of `report review`.
fn review<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["report", "review"], args].concat()
}

fn applied(home: &Home, patch: &str, to: &str) {
    let patch = fs::canonicalize(home.path(patch)).unwrap();
    let output = Command::new("git")
        .args(["apply", "--whitespace=nowarn"])
        .arg(patch)
        .current_dir(home.path(to))
        .env("GIT_CEILING_DIRECTORIES", Path::new("/"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", support::said(&output));
}

/// Exactly the seeded grants are found; the change ends them, keeps all others, and flips
/// no decision of the year.
#[test]
fn the_grants_that_nobody_used_in_a_year_are_found_and_ended() {
    let home = seeded();
    let place = ["--policies", "policies", "--log", "log"];
    let run = ["report", "run", "unused", "--period", PERIOD];
    let to = [
        "--to",
        "unused.json",
        "--to",
        "unused.patch",
        "--to",
        "unused.html",
        "--to",
        "unused.pdf",
    ];
    home.json(&[&run[..], &place, &to].concat());
    let text = fs::read_to_string(home.path("unused.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let found: Edges = rows(section(&report, "unused-grants"))
        .iter()
        .map(|row| {
            (
                row[0].into(),
                row[2].into(),
                format!("demo.test/{}", row[3]),
            )
        })
        .collect();
    assert_eq!(found, unused());
    let proposals: BTreeSet<(&str, &str)> = rows(section(&report, "permits"))
        .iter()
        .map(|row| (row[0], row[6]))
        .filter(|(_, proposal)| *proposal != "keep")
        .collect();
    let expected = [
        ("inventory-read", "narrow by 1"),
        ("refunds-for-reports", "remove"),
        ("stock-for-web", "narrow by 1"),
    ];
    assert_eq!(proposals, expected.into());
    let of_change = |label| figure(section(&report, "proposed-change"), label);
    assert_eq!(of_change("newly denied by the change"), "0");
    assert_eq!(of_change("newly allowed by the change"), "0");
    assert_eq!(of_change("could not be made again"), "0");
    let decisions: u32 = of_change("recorded decisions made again").parse().unwrap();
    assert!(decisions > 8 * year::DAYS && decisions.is_multiple_of(year::DAYS));

    let verify = ["report", "verify", "unused.html"];
    let checked = home.json(&[&verify[..], &place].concat());
    assert_eq!(checked["differences"], serde_json::json!([]));
    assert!(checked["compared"].as_u64() > Some(15), "{checked}");

    copy(&home.path("policies"), &home.path("narrower"));
    applied(&home, "unused.patch", "narrower");
    home.says(&["policy", "validate", "narrower"], 0);
    let left: Edges = granted(&home, "narrower").iter().map(edge).collect();
    let before: Edges = granted(&home, "policies").iter().map(edge).collect();
    assert_eq!(left, before.difference(&unused()).cloned().collect());
    let impact = home.json(&[
        "policy",
        "impact",
        "narrower",
        "--against",
        "policies",
        "--log",
        "log",
        "--max-newly-denied",
        "0",
        "--max-newly-allowed",
        "0",
    ]);
    assert_eq!(impact["decisions"], decisions);
    assert_eq!(impact["newly_denied"]["count"], 0, "{impact}");
    assert_eq!(impact["newly_allowed"]["count"], 0, "{impact}");

    // The parts that policies were asked for cannot be left out.
    let mut less = report.clone();
    less["sections"]
        .as_array_mut()
        .unwrap()
        .retain(|s| s["of_policies"] == false);
    fs::write(home.path("less.json"), less.to_string()).unwrap();
    let less = ["report", "verify", "less.json"];
    home.says(&[&less[..], &place].concat(), 8);

    // Of other policies the report does not hold.
    let other = ["--policies", "narrower", "--log", "log"];
    let said = home.says(&[&verify[..], &other].concat(), 8);
    assert!(said.contains("✗ does not hold"), "{said}");
}

/// A record without what policies read.
fn masked(record: &mut Record) {
    if let Some(Body::Decision(decision)) = &mut record.body {
        decision.context_json.clear();
    }
}

/// Where no recorded decision can be made again there is no change; where some cannot, the
/// report is not complete, and says how many.
#[test]
fn a_change_that_no_decision_bears_out_is_not_proposed() {
    let home = seeded_with(|_, record| masked(record));
    let place = ["--policies", "policies", "--log", "log"];
    let run = ["report", "run", "unused", "--period", PERIOD];
    let said = home.says(&[&run[..], &place].concat(), 3);
    assert!(said.contains("PLS7808"), "{said}");
    assert!(said.contains("the context was not recorded"), "{said}");

    let home = seeded_with(|habit, record| {
        if habit.verdict != Verdict::Allow {
            masked(record);
        }
    });
    home.json(&[&run[..], &place, &["--to", "u.json"]].concat());
    let text = fs::read_to_string(home.path("u.json")).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["header"]["complete"], false);
    let lacks = report["header"]["lacks"].to_string();
    let told = format!("{} of ", year::DAYS);
    assert!(
        lacks.contains(&told) && lacks.contains("could not be made again"),
        "{lacks}"
    );
    let verify = |file: &str, code: i32| {
        home.says(&[&["report", "verify", file][..], &place].concat(), code)
    };
    verify("u.json", 0);
    let less = text.replace(&told, "1 of ");
    fs::write(home.path("less.json"), less).unwrap();
    assert!(verify("less.json", 8).contains("header, lacks"));
    // The package has it, and the same is found from that alone.
    home.json(&[&run[..], &place, &["--to", "u.tar.zst"]].concat());
    let key = ["--key", "log/checkpoint.pub"];
    home.says(&[&["report", "verify", "u.tar.zst"][..], &key].concat(), 0);
    // Of a report without policies it is nothing that can be.
    let denials = ["report", "run", "denials", "--period", "last:60d"];
    home.json(&[&denials[..], &place, &["--to", "d.json"]].concat());
    let mut report: Value =
        serde_json::from_str(&fs::read_to_string(home.path("d.json")).unwrap()).unwrap();
    let invented = "1 of 2 recorded decisions could not be made again under the change";
    report["header"]["lacks"] = serde_json::json!([invented]);
    report["header"]["complete"] = serde_json::json!(false);
    fs::write(home.path("d.json"), report.to_string()).unwrap();
    assert!(verify("d.json", 8).contains("header, lacks"));
}

/// Without a decision nothing can be called unused; other reports say that there is none.
#[test]
fn a_period_without_records_is_told_and_never_taken_for_evidence() {
    let home = seeded();
    let place = [
        "--policies",
        "policies",
        "--log",
        "log",
        "--period",
        "2024-01",
    ];
    let said = home.says(&[&["report", "run", "unused"][..], &place].concat(), 3);
    assert!(said.contains("PLS7810"), "{said}");
    let files = ["--to", "a.html", "--to", "a.csv"];
    home.says(
        &[&["report", "run", "denials"][..], &place, &files].concat(),
        0,
    );
    let page = fs::read_to_string(home.path("a.html")).unwrap();
    assert!(page.contains("No record at all in this period") && page.contains("log begins"));
    let table = fs::read_to_string(home.path("a-02-denied-attempts.csv")).unwrap();
    assert!(table.contains("(no record of the period)"), "{table}");
    assert!(table.contains("No record at all in this period"), "{table}");
    for (args, code) in [
        (&["unused", "--log", "log"][..], "PLS7811"),
        (&["denials", "--log", "policies"], "PLS7809"),
        (&["denials", "--log", "log", "--to", "a.patch"], "PLS7805"),
    ] {
        let said = home.says(&[&["report", "run"], args].concat(), 3);
        assert!(said.contains(code), "{args:?}: {said}");
    }
}

/// Of a log alone, what policies would be asked for is said to be lacking; the longest
/// period can be asked for.
#[test]
fn a_report_without_policies_says_so() {
    let home = seeded();
    let run = ["report", "run", "access-review", "--period", "last:400d"];
    let place = ["--log", "log"];
    home.json(&[&run[..], &place, &["--to", "a.json"]].concat());
    let text = fs::read_to_string(home.path("a.json")).unwrap();
    assert!(text.contains("no policies were named"), "{text}");
    let said = home.says(&[&["report", "verify", "a.json"][..], &place].concat(), 0);
    assert!(said.contains("not compared: the access in force"), "{said}");
}

/// Labels of services say which data a report about personal data is about, where policies are
/// named that have some; they are verified by these, or by those in the package. Without any the
/// report is whole.
#[test]
fn a_report_about_personal_data_has_the_labels_of_services() {
    let home = seeded();
    let entities = |class: &str| {
        let text = format!("services:\n  shop/orders: {{ labels: {{ data: {class} }} }}\n");
        fs::write(home.path("policies/entities/classes.yaml"), text).unwrap();
    };
    entities("personal");
    let run = ["report", "run", "personal-data", "--period", "last:30d"];
    let (log, policies) = (["--log", "log"], ["--policies", "policies"]);
    let files = ["--to", "p.json", "--to", "p.tar.zst"];
    home.says(&[&run[..], &log, &policies, &files].concat(), 0);
    let text = fs::read_to_string(home.path("p.json")).unwrap();
    let made: Value = serde_json::from_str(&text).unwrap();
    let labels = section(&made, "service-labels");
    let rows = rows(labels);
    let of = |service: &str| rows.iter().find(|row| row[0] == service).unwrap()[1];
    assert!(of("demo.test/shop/orders").contains("data: personal"));
    assert_eq!(figure(labels, "services"), rows.len().to_string());
    let verify = |file: &str, place: &[&str], code: i32| {
        home.says(&[&["report", "verify", file], place].concat(), code)
    };
    verify("p.json", &[log, policies].concat(), 0);
    let said = verify("p.json", &log, 0);
    assert!(
        said.contains("(service-labels): name the repository"),
        "{said}"
    );
    verify("p.tar.zst", &["--key", "log/checkpoint.pub"], 0);
    entities("public");
    let said = verify("p.json", &[log, policies].concat(), 8);
    assert!(said.contains("data: public"), "{said}");

    let made = home.json(&[&run[..], &log, &["--to", "w.json"]].concat());
    let lacks = made["header"]["lacks"].to_string();
    assert!(!lacks.contains("policies"), "{lacks}");
    for place in [&log[..], &[log, policies].concat()] {
        let said = verify("w.json", place, 0);
        assert!(said.contains("not compared: labels of services"), "{said}");
    }
}

/// A review goes from verdicts to a sign-off to a change that ends what was revoked.
#[test]
fn a_review_is_decided_signed_and_becomes_a_change() {
    let home = seeded();
    let place = ["--policies", "policies", "--log", "log"];
    let start = review(&["start", "q.json", "--period", PERIOD]);
    let begun = home.json(&[&start[..], &place].concat());
    assert_eq!(begun["undecided"], begun["grants"]);
    assert!(
        home.says(&[&start[..], &place].concat(), 3)
            .contains("PLS7703")
    );
    let said = home.says(&review(&["decide", "q.json", "keep", "--by", "ana"]), 3);
    assert!(said.contains("PLS7815"), "{said}");

    let said = home.says(
        &review(&["decide", "q.json", "keep", "--undecided", "--by", " "]),
        3,
    );
    assert!(said.contains("nobody was named"), "{said}");
    let said = home.says(&[&["report", "verify", "q.json"][..], &place].concat(), 8);
    assert!(
        said.contains("not signed off, unfinished") && !said.contains('✓'),
        "{said}"
    );

    let revoked = home.json(&review(&[
        "decide", "q.json", "revoke", "--unused", "--by", "ana",
    ]));
    assert_eq!(revoked["revoke"], UNUSED.len());
    home.json(&review(&[
        "decide", "q.json", "ask", "--row", "1", "--by", "ana", "--note", "who?",
    ]));
    home.json(&review(&[
        "decide",
        "q.json",
        "keep",
        "--undecided",
        "--by",
        "ana",
    ]));
    let sign = review(&["sign", "q.json", "--by", "ben", "--log", "log"]);
    let said = home.says(&sign, 3);
    assert!(
        said.contains("PLS7814") && said.contains("1 say ask"),
        "{said}"
    );
    home.json(&review(&[
        "decide", "q.json", "revoke", "--row", "1", "--by", "ana",
    ]));
    let said = home.says(
        &review(&["sign", "q.json", "--by", "ben\nby: eve", "--log", "log"]),
        3,
    );
    assert!(said.contains("PLS7828"), "{said}");
    copy(&home.path("log"), &home.path("keyless"));
    fs::remove_file(home.path("keyless/checkpoint.key")).unwrap();
    let said = home.says(
        &review(&["sign", "q.json", "--by", "ben", "--log", "keyless"]),
        1,
    );
    assert!(said.contains("PLS7825"), "{said}");
    let signed = home.json(&sign);
    assert_eq!(signed["signed"], true);
    // Without the key it is what the file says of itself.
    // Assessment results would leave the verdicts out, and nothing is written beside them.
    let both = ["show", "q.json", "--to", "r.pdf", "--to", "r.OSCAL.json"];
    let said = home.says(&review(&both), 3);
    assert!(
        said.contains("PLS7805") && said.contains("verdicts"),
        "{said}"
    );
    assert!(!home.path("r.pdf").exists());
    let said = home.says(&review(&["show", "q.json", "--to", "q.html"]), 0);
    assert!(
        said.contains("claims to be signed off by ben") && !said.contains('✓'),
        "{said}"
    );
    let page = fs::read_to_string(home.path("q.html")).unwrap();
    assert!(page.contains("claims to be signed off by") && page.contains("NOT CHECKED"));
    let shown = [
        "--key",
        "log/checkpoint.pub",
        "--to",
        "q.html",
        "--overwrite",
    ];
    let said = home.says(&[&review(&["show", "q.json"])[..], &shown].concat(), 0);
    assert!(said.contains("✓ signed off by ben"), "{said}");
    let page = fs::read_to_string(home.path("q.html")).unwrap();
    assert!(page.contains("ben") && !page.contains("claims to be"));
    home.says(&[&["report", "verify", "q.json"][..], &place].concat(), 0);

    // A head that the log does not say is found, whoever signed it off.
    let text = fs::read_to_string(home.path("q.json")).unwrap();
    for (name, value) in [
        ("decisions", serde_json::json!(7)),
        ("lacks", serde_json::json!(["a year"])),
        ("made", serde_json::json!("2020-01-01T00:00:00.000000Z")),
    ] {
        let mut other: Value = serde_json::from_str(&text).unwrap();
        other["header"][name] = value;
        fs::write(home.path("h.json"), other.to_string()).unwrap();
        let sign = review(&["sign", "h.json", "--by", "ben", "--log", "log"]);
        home.says(&sign, 0);
        let said = home.says(&[&["report", "verify", "h.json"][..], &place].concat(), 8);
        assert!(said.contains("in the review"), "{name}: {said}");
    }

    // The log signed this name, this moment and this text, and no other.
    let key = ["--key", "log/checkpoint.pub"];
    home.says(
        &[&["report", "verify", "q.json"][..], &place, &key].concat(),
        0,
    );
    let text = fs::read_to_string(home.path("q.json")).unwrap();
    fs::write(home.path("eve.json"), text.replace("\"ben\"", "\"eve\"")).unwrap();
    let said = home.says(&[&["report", "verify", "eve.json"][..], &place].concat(), 8);
    assert!(said.contains("the sign-off is not the log's"), "{said}");
    let shown = ["--key", "log/checkpoint.pub"];
    let said = home.says(&[&review(&["show", "eve.json"])[..], &shown].concat(), 0);
    assert!(
        said.contains("not by this log") && !said.contains('✓'),
        "{said}"
    );
    let forged = review(&["patch", "eve.json", "--to", "eve.patch"]);
    let said = home.says(&[&forged[..], &place].concat(), 3);
    assert!(said.contains("PLS7814"), "{said}");
    // What it lacked by its own word and the log does not is told.
    let mut other: Value = serde_json::from_str(&text).unwrap();
    other["header"]["lacks"] = serde_json::json!(["what nobody knows"]);
    other["header"]["complete"] = serde_json::json!(false);
    fs::write(home.path("more.json"), other.to_string()).unwrap();
    let sign = review(&["sign", "more.json", "--by", "ben", "--log", "log"]);
    home.says(&sign, 0);
    let said = home.says(
        &[&["report", "verify", "more.json"][..], &place].concat(),
        0,
    );
    assert!(
        said.contains("not compared") && said.contains("what nobody knows"),
        "{said}"
    );
    // The sign-off needs no records: it is checked also where there are other ones by now.
    let mut other: Value = serde_json::from_str(&text).unwrap();
    other["header"]["lacks"] = serde_json::json!(["the index waits: for more"]);
    other["header"]["complete"] = serde_json::json!(false);
    fs::write(home.path("other.json"), other.to_string()).unwrap();
    let verify = [&["report", "verify", "other.json"][..], &place].concat();
    let said = home.says(&verify, 8);
    assert!(said.contains("the sign-off is not the log's"), "{said}");
    let sign = review(&["sign", "other.json", "--by", "ben", "--log", "log"]);
    home.says(&sign, 0);
    let said = home.says(&verify, 3);
    assert!(
        said.contains("PLS7817") && said.contains("its sign-off is the log's"),
        "{said}"
    );
    // A review that somebody took the sign-off from is not finished.
    let mut bare: Value = serde_json::from_str(&text).unwrap();
    bare["sign_off"] = Value::Null;
    fs::write(home.path("bare.json"), bare.to_string()).unwrap();
    home.says(
        &[&["report", "verify", "bare.json"][..], &place].concat(),
        8,
    );

    let patch = review(&["patch", "q.json", "--to", "q.patch"]);
    let done = home.json(&[&patch[..], &place].concat());
    let ended = done["ended"].as_array().unwrap();
    let first = edge(&ended[0]);
    // Row 1 was in use: that its requests will be denied is said.
    let used = !unused().contains(&first);
    assert_eq!(
        done["flips"]["newly_denied"]["count"].as_u64() > Some(0),
        used,
        "{done}"
    );
    assert_eq!(done["flips"]["newly_allowed"]["count"], 0);
    copy(&home.path("policies"), &home.path("narrower"));
    applied(&home, "q.patch", "narrower");
    let left: Edges = granted(&home, "narrower").iter().map(edge).collect();
    let all: Edges = ended.iter().map(edge).collect();
    let before: Edges = granted(&home, "policies").iter().map(edge).collect();
    assert_eq!(left, before.difference(&all).cloned().collect());
    let other = ["--policies", "narrower", "--log", "log"];
    let said = home.says(&[&patch[..], &other, &["--overwrite"]].concat(), 3);
    assert!(said.contains("PLS7816"), "{said}");

    // A verdict that is changed afterwards is seen.
    let text = fs::read_to_string(home.path("q.json")).unwrap();
    fs::write(
        home.path("q.json"),
        text.replacen("\"revoke\"", "\"keep\"", 1),
    )
    .unwrap();
    let said = home.says(&[&["report", "verify", "q.json"][..], &place].concat(), 8);
    assert!(said.contains("changed since it was signed off"), "{said}");
    let said = home.says(&[&patch[..], &place, &["--overwrite"]].concat(), 3);
    assert!(said.contains("PLS7814"), "{said}");

    // What is not granted cannot be revoked.
    let mut edited: Value = serde_json::from_str(&text).unwrap();
    edited["sign_off"] = Value::Null;
    let revoked = edited["grants"].as_array_mut().unwrap().iter_mut();
    let mut revoked = revoked.filter(|g| g["verdict"]["word"] == "revoke");
    revoked.next().unwrap()["caller"] = "shop/nobody".into();
    fs::write(home.path("q.json"), edited.to_string()).unwrap();
    let said = home.says(&[&patch[..], &place, &["--overwrite"]].concat(), 3);
    assert!(
        said.contains("PLS7816") && said.contains("not granted"),
        "{said}"
    );
}

/// As OSCAL it is the same whenever it is made, and has what policies were asked for.
#[test]
fn a_report_as_oscal_is_the_same_bytes_each_time() {
    let home = seeded();
    let ago = |days: i64| {
        let then = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days);
        then.to_string()[..10].to_owned()
    };
    // Over, so that its end does not move.
    let period = format!("{}..{}", ago(50), ago(2));
    let run = ["report", "run", "access-review", "--period", &period];
    let place = ["--policies", "policies", "--log", "log"];
    for name in ["a.oscal.json", "b.oscal.json"] {
        home.json(&[&run[..], &place, &["--to", name]].concat());
    }
    let read = |name: &str| fs::read_to_string(home.path(name)).unwrap();
    assert_eq!(read("a.oscal.json"), read("b.oscal.json"));
    let document: Value = serde_json::from_str(&read("a.oscal.json")).unwrap();
    let result = &document["assessment-results"]["results"][0];
    let observations = result["observations"].as_array().unwrap();
    let mut remarks = observations.iter().filter_map(|o| o["remarks"].as_str());
    assert!(remarks.any(|r| r.contains("the log does not bear it out")));
    let said = home.says(&["report", "verify", "a.oscal.json"], 3);
    assert!(said.contains("PLS7803"), "{said}");
}

/// A package is made of a log, and verified by whoever has it and the log's key: no mesh, no
/// log. One byte of it changed is named.
#[test]
fn a_package_of_evidence_is_verified_with_the_key_alone() {
    let home = seeded();
    let run = ["report", "run", "access-review", "--period", "last:60d"];
    let place = ["--policies", "policies", "--log", "log"];
    let to = ["--to", "e.tar.zst"];
    let made = home.json(&[&run[..], &place, &to].concat());
    assert_eq!(made["files"], serde_json::json!(["e.tar.zst"]));
    let elsewhere = Home::new();
    for (from, to) in [("e.tar.zst", "e.tar.zst"), ("log/checkpoint.pub", "key")] {
        fs::copy(home.path(from), elsewhere.path(to)).unwrap();
    }
    let verify = ["report", "verify", "e.tar.zst", "--key", "key"];
    let said = elsewhere.says(&verify, 0);
    assert!(
        said.contains("✓ signed") && said.contains("✓ holds"),
        "{said}"
    );
    assert!(!said.contains("what policies were asked for"), "{said}");
    let said = elsewhere.says(&[&verify[..], &["--policies", "."]].concat(), 3);
    assert!(said.contains("PLS7818"), "{said}");
    for kind in ["reach", "unused"] {
        let file = format!("{kind}.tar.zst");
        let run = ["report", "run", kind, "--period", "last:60d", "--to", &file];
        home.json(&[&run[..], &place].concat());
        fs::copy(home.path(&file), elsewhere.path(&file)).unwrap();
        let said = elsewhere.says(&["report", "verify", &file, "--key", "key"], 0);
        assert!(
            !said.contains("what policies were asked for"),
            "{kind}: {said}"
        );
    }
    let checked = elsewhere.json(&verify);
    assert!(checked["records"].as_u64() > Some(100), "{checked}");
    let files = checked["files"].as_array().unwrap();
    let is_bundle = |f: &&Value| f.as_str().unwrap().starts_with("policy/");
    assert_eq!(files.iter().filter(is_bundle).count(), 1);
    assert_eq!(checked["checked"]["differences"], serde_json::json!([]));
    for name in ["oscal-ar.json", "verify.html"] {
        assert!(files.iter().any(|file| file == name), "{files:?}");
    }

    let said = elsewhere.says(&["report", "verify", "e.tar.zst"], 3);
    assert!(said.contains("PLS7829"), "{said}");
    let mut bytes = fs::read(elsewhere.path("e.tar.zst")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(elsewhere.path("f.tar.zst"), bytes).unwrap();
    let damaged = elsewhere.run(&["report", "verify", "f.tar.zst", "--key", "key"]);
    let said = support::said(&damaged);
    // Where it cannot be unpacked any more, no file can be named.
    assert!(
        said.contains("PLS7820") || said.contains("PLS7822"),
        "{said}"
    );
    assert!(!said.contains('✓'), "{said}");

    // As many records as it has are allowed, and not one fewer.
    let records = checked["records"].as_u64().unwrap();
    let most = |n: u64, code: i32| {
        let n = n.to_string();
        let args = ["--records-max", &n, "--overwrite"];
        home.says(&[&run[..], &place, &to, &args].concat(), code)
    };
    most(records, 0);
    assert!(most(records - 1, 3).contains("PLS7821"));
    let said = home.says(&review(&["show", "none.json", "--to", "r.tar.zst"]), 3);
    assert!(said.contains("PLS7813"), "{said}");
}
