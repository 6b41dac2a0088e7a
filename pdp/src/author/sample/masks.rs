//! What records leave out, as the repository says it.

use palisade_mesh::personal::Mask;

use super::*;

/// The sample with these defaults, and a service `shop/x` with `rest`.
fn repository(defaults: &str, rest: &str) -> tempfile::TempDir {
    let dir = copy();
    let path = dir.path().join("palisade.yaml");
    let settings = fs::read_to_string(&path).unwrap();
    let settings = settings.replace("defaults:\n", &format!("defaults:\n{defaults}"));
    write(dir.path(), "palisade.yaml", &settings);
    write(
        dir.path(),
        "services/x.yaml",
        &format!("service: shop/x\n{rest}\n"),
    );
    dir
}

fn compiled(defaults: &str, rest: &str) -> Compiled {
    let loaded = load(repository(defaults, rest).path());
    assert_eq!(loaded.diagnostics, []);
    loaded.compiled.unwrap()
}

fn mask(names: &[&str]) -> Mask {
    Mask::of(names.iter().map(|name| name.parse().unwrap()))
}

/// What is masked of a request to `shop/x` for each of its operations, and of none.
fn masks(compiled: &Compiled) -> [Mask; 3] {
    let service = compiled.catalogue.by_name("shop/x").unwrap();
    let of = |name: &str| service.operations.iter().find(|o| o.name == name);
    [of("a"), of("b"), None].map(|operation| service.mask_of(operation).clone())
}

const OPERATIONS: &str = "operations:\n  - {name: a, match: GET /a}\n  - {name: b, match: \"GET /b/{id}\", mask: [path, \"header:X-Tenant\"]}";

/// An operation adds to its service, and that to the defaults; nobody takes anything away.
#[test]
fn what_stands_below_adds_to_what_stands_above() {
    let plain = masks(&compiled("", ""));
    assert_eq!(plain, [Mask::NONE, Mask::NONE, Mask::NONE]);

    let with = compiled(
        "  mask: source_ip\n",
        &format!("mask: [query, source_ip]\n{OPERATIONS}"),
    );
    let service = mask(&["query", "source_ip"]);
    let all = mask(&["header:x-tenant", "path", "query", "source_ip"]);
    // What is no operation may be a misspelt `b`.
    assert_eq!(masks(&with), [service.clone(), all.clone(), all.clone()]);
    assert_eq!(with.catalogue.mask(), &mask(&["source_ip"]));
    let orders = with.catalogue.by_name("shop/orders").unwrap();
    assert_eq!(orders.mask_of(None), &mask(&["source_ip"]));
    let of_catalogue = |service| with.catalogue.mask_of(service).clone();
    // It may have been meant for any service.
    assert_eq!(of_catalogue(None), all);
    assert_eq!(of_catalogue(Some(&**orders)), mask(&["source_ip"]));

    let emptied = compiled("  mask: [user]\n", "mask: []");
    assert_eq!(masks(&emptied)[2], mask(&["user"]));
    let only_below = compiled("", OPERATIONS);
    let b = mask(&["header:x-tenant", "path"]);
    assert_eq!(masks(&only_below), [Mask::NONE, b.clone(), b]);
}

#[test]
fn every_mistake_of_a_mask_is_told_at_its_place() {
    let dir = repository(
        "  mask: [pth, author, \"header:x-tenat\"]\n",
        "mask: [query, x-tenant, query, \"header:\"]\noperations:\n  - {name: a, match: GET /a, mask: {path: true}}\n  - {name: b, match: GET /b, mask: [\"header:X-TENANT\", \"header:x-tenant\", [path]]}",
    );
    let found = load(dir.path()).diagnostics;
    let seen: Vec<_> = found
        .iter()
        .map(|d| {
            let label = d.label.as_deref().unwrap_or_default();
            (d.code.0, marked(d), label)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (codes::MASK_FIELD, "pth", "did you mean `path`?"),
            (codes::MASK_FIELD, "author", ""),
            (
                codes::MASK_FIELD,
                "\"header:x-tenat\"",
                "did you mean `header:x-tenant`?"
            ),
            (
                codes::MASK_FIELD,
                "x-tenant",
                "did you mean `header:x-tenant`?"
            ),
            (codes::MASK_TWICE, "query", "second time"),
            (codes::MASK_FIELD, "\"header:\"", ""),
            (codes::WRONG_KIND, "{", "this is a map"),
            (codes::MASK_TWICE, "\"header:x-tenant\"", "second time"),
            (codes::WRONG_KIND, "[", "this is a list"),
        ]
    );
    let found = with("services/x.yaml", "service: shop/x\nmsk: [path]\n");
    let found = only(found, codes::UNKNOWN_KEY, 2, 1);
    assert_eq!(found.label.as_deref(), Some("did you mean `mask`?"));
    // Nothing is masked by a list that is not there; `[]` says so.
    for text in ["service: shop/x\nmask:\n", "service: shop/x\nmask: ~\n"] {
        let found = with("services/x.yaml", text);
        let nothing = |d: &Diagnostic| d.label.as_deref() == Some("this is nothing");
        assert!(
            found
                .iter()
                .any(|d| d.code.0 == codes::WRONG_KIND && nothing(d)),
            "{found:?}"
        );
    }
}

/// A header that stands under `headers` with a mistake is not told of a second time.
#[test]
fn a_header_that_cannot_be_declared_so_is_told_of_once() {
    let text =
        "trust_domain: demo.test\nheaders: { x-a: many }\ndefaults: { mask: [\"header:x-a\"] }\n";
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "palisade.yaml", text);
    only(load(dir.path()).diagnostics, codes::INVALID_VALUE, 2, 17);
}

#[test]
fn a_mask_is_bounded_on_both_sides() {
    let loaded = |n: usize| {
        let names = |f: fn(usize) -> String| (0..n).map(f).collect::<Vec<_>>().join(", ");
        let dir = tempfile::tempdir().unwrap();
        let headers = names(|i| format!("x-{i}: single"));
        let mask = names(|i| format!("\"header:x-{i}\""));
        let text = format!(
            "trust_domain: demo.test\nheaders: {{ {headers} }}\ndefaults: {{ mask: [{mask}] }}\n"
        );
        write(dir.path(), "palisade.yaml", &text);
        load(dir.path())
    };
    let most = loaded(MASK_FIELDS_MAX);
    assert_eq!(most.diagnostics, []);
    let catalogue = most.compiled.unwrap().catalogue;
    assert_eq!(catalogue.mask().fields().count(), MASK_FIELDS_MAX);
    let more = loaded(MASK_FIELDS_MAX + 1).diagnostics;
    assert_eq!(more[0].code.0, codes::REPOSITORY_TOO_LARGE, "{more:?}");
}

/// A mask travels with the texts, and a build that would not know it is told beforehand; what
/// masks nothing is the bundle that it was before there were masks.
#[test]
fn a_mask_goes_with_the_bundle_and_is_asked_for() {
    let needs = |compiled: &Compiled| {
        let bundle = Bundle::decode(compiled.bundle.clone()).unwrap();
        bundle.features
    };
    let plain = compiled("", "");
    assert_eq!(needs(&plain), ["cedar-4", "catalogue-1", "manifest-1"]);
    for (defaults, rest) in [
        ("  mask: [path]\n", ""),
        ("", "mask: [path]"),
        ("", OPERATIONS),
    ] {
        let sent = compiled(defaults, rest);
        assert_eq!(
            needs(&sent),
            ["cedar-4", "catalogue-1", "manifest-1", "masks-1"]
        );
        assert_ne!(sent.digest, plain.digest);
        let received = compile(sent.bundle.clone());
        assert_eq!(received.diagnostics, []);
        let received = received.compiled.unwrap();
        assert_eq!(received.digest, sent.digest);
        assert_eq!(masks(&received), masks(&sent));
        assert_eq!(received.catalogue.mask(), sent.catalogue.mask());
    }
    let before = compile(plain.bundle.clone()).compiled.unwrap();
    assert_eq!(masks(&before), [Mask::NONE, Mask::NONE, Mask::NONE]);
}
