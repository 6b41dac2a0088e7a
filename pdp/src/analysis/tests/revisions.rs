//! Whole repositories compared: what changes beside the policies.

use std::sync::Arc;

use super::{
    super::{
        AccessKind, Comparison,
        gate::{Gate, GateVerdict},
        prove::ProofVerdict,
    },
    TIME, solver,
};
use crate::{
    author::{self, sample::write},
    decide::{Snapshot, testing::NOW_US},
};

const SETTINGS: &str = "trust_domain: acme.test\n";
const WEB: &str =
    "service: shop/web\nidentities: [ns/shop/sa/web, ns/any/sa/stranger]\nhosts: [web]\n";

/// A repository of the service `files` with these operations, its caller `web`, and policies.
fn revision(settings: &str, operations: &[&str], policies: &str) -> Arc<Snapshot> {
    let dir = tempfile::tempdir().unwrap();
    let operations: String = operations
        .iter()
        .map(|o| format!("  - {{ {o} }}\n"))
        .collect();
    let files = format!(
        "service: shop/files\nidentities: [ns/shop/sa/files]\nhosts: [files]\noperations:\n{operations}"
    );
    write(dir.path(), "palisade.yaml", settings);
    write(dir.path(), "services/files.yaml", &files);
    write(dir.path(), "services/web.yaml", WEB);
    write(dir.path(), "policies/all.cedar", policies);
    let loaded = author::load(dir.path());
    let compiled = loaded
        .compiled
        .unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
    Snapshot::new(compiled, 1).unwrap()
}

/// Each change as `kind callers → operations`.
fn changes(comparison: &Comparison) -> Vec<String> {
    let changes = comparison.access().changes.into_iter();
    let line = |c: super::super::AccessChange| {
        let (callers, operations) = (c.callers.join(", "), c.operations.join(", "));
        format!("{:?} {callers} → {operations}", c.kind)
    };
    changes.map(line).collect()
}

const READ: &str = "name: read, match: \"GET /a/{x}\"";
const READ_ALL: &str = "name: read, match: \"GET /a/{*rest}\"";
const SEALED: &str = "name: sealed, match: \"GET /a/b/{x}\"";
const PERMIT: &str = "@id(\"read\") permit (principal in Service::\"acme.test/shop/web\", action, \
                      resource == Operation::\"acme.test/shop/files/read\");";

/// The operation has the same name, and the policies do not change.
#[test]
fn an_operation_that_takes_more_requests_is_new_access() {
    let of = |operations: &[&str]| revision(SETTINGS, operations, PERMIT);
    let between = |old: &[&str], new: &[&str]| Comparison::new(of(old), of(new), NOW_US);
    let callers = "shop/web (spiffe://acme.test/ns/any/sa/stranger), \
                   shop/web (spiffe://acme.test/ns/shop/sa/web)";
    let wider = between(&[READ], &[READ_ALL]);
    assert_eq!(
        changes(&wider),
        [format!("Changed {callers} → read GET")],
        "more paths"
    );
    assert_eq!(changes(&between(&[READ_ALL], &[READ])), [] as [String; 0]);
    assert_eq!(changes(&between(&[READ], &[READ])), [] as [String; 0]);
    // What was an operation of its own, and permitted to nobody.
    let swallowed = changes(&between(&[READ, SEALED], &[READ_ALL]));
    let gained = format!("Gained {callers} → sealed GET");
    assert!(swallowed.contains(&gained), "{swallowed:#?}");
}

#[test]
#[ignore = "needs the solver cvc5; .ci/run installs it"]
fn a_proof_about_policies_keeps_no_gate_where_operations_take_more() {
    let of = |operations: &[&str]| revision(SETTINGS, operations, PERMIT);
    let verdict = |old: &[&str], new: &[&str]| {
        let comparison = Comparison::new(of(old), of(new), NOW_US);
        let answer = comparison.answer(&Gate::NoNewAccess, Some(&solver()), TIME, None);
        answer.unwrap().verdict
    };
    assert_eq!(verdict(&[READ], &[READ]), GateVerdict::Kept);
    assert_eq!(verdict(&[READ_ALL], &[READ]), GateVerdict::Kept);
    assert_eq!(verdict(&[READ], &[READ_ALL]), GateVerdict::Unproved);
    assert_eq!(verdict(&[READ, SEALED], &[READ_ALL]), GateVerdict::Broken);
}

const CLOSED: &str = "@id(\"closed\") forbid (principal, action in Action::\"http\", resource) \
                      unless { context.http.headers has \"x-pass\" };";

fn with_header() -> String {
    format!("{SETTINGS}headers: {{ x-pass: single }}\n")
}

/// A header that nobody declares is never there, whatever a request brings.
#[test]
fn a_header_that_is_declared_opens_what_asked_for_it() {
    let policies = format!("{PERMIT} {CLOSED}");
    let old = revision(SETTINGS, &[READ], &policies);
    let new = revision(&with_header(), &[READ], &policies);
    let comparison = Comparison::new(old.clone(), new.clone(), NOW_US);
    let access = comparison.access();
    let kinds: Vec<AccessKind> = access.changes.iter().map(|c| c.kind).collect();
    assert_eq!(kinds, [AccessKind::Gained], "{access:#?}");
    assert_eq!(access.changes[0].by[0].id, "closed");
    assert!(
        Comparison::new(new.clone(), new, NOW_US)
            .access()
            .changes
            .is_empty()
    );
    assert!(
        Comparison::new(old.clone(), old, NOW_US)
            .access()
            .changes
            .is_empty()
    );
}

#[test]
#[ignore = "needs the solver cvc5; .ci/run installs it"]
fn nothing_is_proved_of_policies_whose_header_means_something_else() {
    let both = format!("{PERMIT} {CLOSED}");
    let pass = PERMIT.replace(';', " when { context.http.headers has \"x-pass\" };");
    for new in [&both, &pass] {
        let old = revision(SETTINGS, &[READ], &both);
        let new = revision(
            &with_header(),
            &[READ],
            &new.replace("action,", "action in Action::\"http\","),
        );
        let proof = Comparison::new(old, new, NOW_US).prove(&solver(), TIME);
        assert_ne!(proof.verdict, ProofVerdict::Proved, "{proof:#?}");
    }
}

/// A service may be called what stands for all who are no service, and a policy may name it.
#[test]
fn whoever_stands_for_the_unknown_is_unknown() {
    let anybody = "@id(\"p\") permit (principal is Unregistered, action, resource);";
    let named = "@id(\"q\") forbid (principal == \
                 Unregistered::\"spiffe://acme.test/ns/any/sa/stranger-1\", action, resource);";
    let old = revision(SETTINGS, &[READ], named);
    let new = revision(SETTINGS, &[READ], &format!("{named} {anybody}"));
    let found = Comparison::new(old, new, NOW_US).access();
    let callers: Vec<&String> = found.changes.iter().flat_map(|c| &c.callers).collect();
    assert_eq!(
        callers,
        [
            "any unregistered workload of acme.test",
            "any workload of another trust domain"
        ]
    );
}

/// What records leave out is reviewed like everything else: told of the service, and of an
/// operation only where that is another change.
#[test]
fn a_changed_mask_is_told_of_what_it_stands_at() {
    let (path, query) = (
        format!("{READ}, mask: [path]"),
        format!("{SEALED}, mask: [query]"),
    );
    let told = |old: (&str, &[&str]), new: (&str, &[&str])| -> Vec<String> {
        let of = |(defaults, operations): (&str, &[&str])| {
            revision(&format!("{SETTINGS}{defaults}"), operations, PERMIT)
        };
        let items = Comparison::new(of(old), of(new), NOW_US).texts();
        let line = |i: super::super::texts::Item| {
            format!("{:?} {} {}", i.kind, i.id, i.details.join("; "))
        };
        items.into_iter().map(line).collect()
    };
    let (plain, all) = ("", "defaults: { mask: [path, user] }\n");
    assert_eq!(told((all, &[READ]), (all, &[READ])), [] as [String; 0]);
    let defaults = [
        "Service shop/files mask +path +user",
        "Service shop/web mask +path +user",
        "Setting palisade.yaml mask +path +user",
    ];
    assert_eq!(told((plain, &[READ]), (all, &[READ])), defaults);
    let less: Vec<String> = defaults.iter().map(|d| d.replace('+', "−")).collect();
    assert_eq!(told((all, &[READ]), (plain, &[READ])), less);
    assert_eq!(
        told((plain, &[READ, SEALED]), (plain, &[&path, &query])),
        [
            "Service shop/files of requests that are no operation mask +path +query",
            "Operation shop/files/read mask +path",
            "Operation shop/files/sealed mask +query"
        ]
    );
    // Another name hides no mask.
    let renamed = path.replace("name: read", "name: get");
    let plainly = READ.replace("name: read", "name: get");
    assert_ne!(renamed, path);
    let matched = "GET /a/{x}";
    assert_eq!(
        told((plain, &[&path]), (plain, &[&plainly])),
        [
            "Service shop/files of requests that are no operation mask −path".to_owned(),
            format!("Operation shop/files/get {matched}"),
            format!("Operation shop/files/read {matched}; mask −path"),
        ]
    );
    assert_eq!(
        told(
            (plain, &[READ]),
            (plain, &[READ, &renamed.replace("GET", "PUT")])
        ),
        [
            "Service shop/files of requests that are no operation mask +path".to_owned(),
            format!(
                "Operation shop/files/get {}; mask +path",
                matched.replace("GET", "PUT")
            ),
        ]
    );
    // One has it already, the other gains more than its service.
    let both = told((plain, &[&path, SEALED]), (all, &[&path, &query]));
    let of_operations: Vec<&String> = both.iter().filter(|t| t.starts_with("Op")).collect();
    assert_eq!(
        of_operations,
        [
            "Operation shop/files/read mask +user",
            "Operation shop/files/sealed mask +path +query +user"
        ]
    );
}
