use super::*;

const POLICIES: &str = r#"
@id("auditors-read")
@rows("*")
permit (principal is Client, action in Action::"audit:read", resource)
when { principal.name == "auditor" };

@id("shop-sees-its-own")
@rows("service:shop/*")
permit (principal is Workload, action in [Action::"audit:search", Action::"audit:tail"], resource)
when { principal.path like "/ns/shop/*" };

@id("web-sees-the-bank")
@rows("service:bank/*")
permit (principal is Workload, action == Action::"audit:search", resource)
when { principal.path == "/ns/shop/sa/web" };

@id("the-officer-sees-persons")
@rows("class:decision")
permit (principal is Client, action == Action::"audit:reveal", resource)
when { principal.name == "officer" };

@id("not-the-guest")
forbid (principal is Workload, action, resource)
when { principal.path == "/ns/shop/sa/guest" };
"#;

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://acme.test/{path}")).unwrap()
}

#[test]
fn readers_get_what_a_permit_says_and_nothing_else() {
    let readers = Readers::parse("readers.cedar", POLICIES).unwrap();
    // Whoever may read everything is shown nobody by that.
    let apart = [ReadAction::Holds, ReadAction::Metrics, ReadAction::Reveal];
    let of_reads = |action: &ReadAction| !apart.contains(action);
    let auditor = id("palisade/client/auditor");
    for action in apart {
        assert!(readers.decide(&auditor, action).is_err(), "{action:?}");
    }
    let officer = id("palisade/client/officer");
    let granted = readers.decide(&officer, ReadAction::Reveal).unwrap();
    assert_eq!(granted.rows, ["class:decision"]);
    assert!(readers.decide(&officer, ReadAction::Show).is_err());
    for action in ReadAction::ALL.into_iter().filter(of_reads) {
        let granted = readers
            .decide(&id("palisade/client/auditor"), action)
            .unwrap();
        assert_eq!(granted.policies, ["auditors-read"]);
        assert_eq!(granted.rows, ["*"]);
        for nobody in ["palisade/client/other", "palisade/pdp", "ns/bank/sa/web"] {
            let refused = readers.decide(&id(nobody), action).unwrap_err();
            assert!(refused.policies.is_empty(), "{nobody}");
        }
        let guest = readers.decide(&id("ns/shop/sa/guest"), action).unwrap_err();
        assert_eq!(guest.policies, ["not-the-guest"]);
    }
    let web = id("ns/shop/sa/web");
    let mut granted = readers.decide(&web, ReadAction::Search).unwrap();
    granted.rows.sort_unstable();
    assert_eq!(granted.rows, ["service:bank/*", "service:shop/*"]);
    assert_eq!(granted.policies, ["shop-sees-its-own", "web-sees-the-bank"]);
    let granted = readers.decide(&web, ReadAction::Tail).unwrap();
    assert_eq!(granted.rows, ["service:shop/*"]);
    assert!(readers.decide(&web, ReadAction::Export).is_err());
    // A file without policies lets nobody read.
    let none = Readers::parse("readers.cedar", "// nobody\n").unwrap();
    assert!(none.decide(&web, ReadAction::Search).is_err());
}

/// What is wrong is told all at once, each with its line.
#[test]
fn mistakes_of_the_file_are_told_with_their_lines() {
    let check = |text: &str, line: usize, said: &str| {
        let found = Readers::parse("readers.cedar", text).unwrap_err();
        let told = found.iter().find(|d| d.to_string().contains(said));
        let told = told.unwrap_or_else(|| panic!("{said}: {found:#?}"));
        assert_eq!(told.code.0, WRONG);
        assert_eq!(told.location.as_ref().unwrap().line, line, "{told:#?}");
    };
    check("\npermit (principal, action", 2, "unexpected");
    check(
        "@rows(\"*\")\npermit (principal, action, resource);",
        1,
        "no `@id`",
    );
    check(
        "\n\n@id(\"a\")\npermit (principal, action, resource);",
        3,
        "which rows",
    );
    check(
        "@id(\"a\")\n@rows(\"*\")\nforbid (principal, action, resource);",
        2,
        "`forbid` has no rows",
    );
    check(
        "@id(\"a\")\n@row(\"*\")\npermit (principal, action, resource);",
        2,
        "`@row` has no meaning",
    );
    let twice = "@id(\"a\")\n@rows(\"*\")\npermit (principal, action, resource);\n";
    check(&twice.repeat(2), 4, "two policies");
    let when = |clause: &str| {
        format!(
            "@id(\"a\")\n@rows(\"*\")\npermit (principal is Workload, action, resource)\nwhen {{ {clause} }};"
        )
    };
    check(&when("principal.pth == \"/x\""), 4, "pth");
    check(
        "@id(\"a\")\n@rows(\"*\")\npermit (principal, action == Action::\"audit:serach\", resource);",
        3,
        "audit:serach",
    );
    check(
        "@id(\"a\")\n@rows(\"*\")\npermit (principal == ?principal, action, resource);",
        1,
        "templates",
    );
}

#[test]
fn a_file_is_read_up_to_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("readers.cedar");
    assert!(Readers::read(&file).is_err());
    let limit = usize::try_from(FILE_LEN_MAX).unwrap();
    fs::write(&file, " ".repeat(limit)).unwrap();
    assert!(Readers::read(&file).is_ok());
    fs::write(&file, " ".repeat(limit + 1)).unwrap();
    assert_eq!(Readers::read(&file).unwrap_err()[0].code.0, WRONG);
    let policies = |n: usize| -> String {
        let one =
            |n| format!("@id(\"p{n}\")\n@rows(\"*\")\npermit (principal, action, resource);\n");
        (0..n).map(one).collect()
    };
    assert!(Readers::parse("r", &policies(POLICIES_MAX)).is_ok());
    assert!(Readers::parse("r", &policies(POLICIES_MAX + 1)).is_err());
}
