//! Limits on both sides, and hostile input.

use super::*;
use crate::{bundle::manifest, decide::NESTING_MAX};

/// Attack T94: hostile sizes end in a code, not in a crash.
#[test]
fn deep_and_long_policies_are_refused_and_those_at_the_limit_compile() {
    let chain = |n: usize| {
        format!(
            "@id(\"a\")\npermit (principal, action, resource)\nwhen {{ {} }};",
            vec!["context.tls.mtls"; n].join(" && ")
        )
    };
    // Each clause has four operators or accesses, and scope and braces have six.
    let most = (OPERATORS_MAX - 2) / 4;
    assert_eq!(policy(&chain(most)), []);
    let found = policy(&chain(most + 1));
    assert_eq!(found[0].code.0, codes::TOO_DEEP);
    let nested = |n: usize| {
        format!(
            "@id(\"a\")\npermit (principal, action, resource)\nwhen {{ {}context.tls.mtls{} }};",
            "(".repeat(n),
            ")".repeat(n)
        )
    };
    assert_eq!(policy(&nested(BRACKETS_MAX - 1)), []);
    assert_eq!(policy(&nested(BRACKETS_MAX))[0].code.0, codes::TOO_DEEP);
}

/// What nests without a bracket: a sum, and one `if` in the `else` of another.
#[test]
fn sums_and_else_chains_are_bounded_on_both_sides() {
    let sum = |n: usize| format!("0{} < context.source.port", " + 1".repeat(n));
    let or_else = |n: usize| format!("{}true", "if context.tls.mtls then false else ".repeat(n));
    let check = |condition: String, refused: bool| {
        let text = format!(
            "@id(\"a\")\npermit (principal in Service::\"demo.test/shop/web\", action, resource in Service::\"demo.test/shop/orders\")\nwhen {{ {condition} }};"
        );
        let found = policy(&text);
        match refused {
            true => drop(only(found, codes::TOO_DEEP, 1, 1)),
            false => assert_eq!(found, []),
        }
    };
    // The comparison is one more level, and so is what stands at the end.
    check(sum(NESTING_MAX - 2), false);
    check(sum(NESTING_MAX - 1), true);
    // A test of an attribute of the context has three levels.
    check(or_else(NESTING_MAX - 3), false);
    check(or_else(NESTING_MAX - 2), true);
}

/// The longest chain that compiles is evaluated, whoever asks: a worker has 2 MiB of stack, and
/// Cedar's evaluator takes more for it, in a debug build nine.
#[test]
fn the_longest_chain_is_evaluated_on_any_stack() {
    // Each alternative has six operators or accesses, scope and braces have eight.
    let alternatives = (OPERATORS_MAX - 8) / 6;
    let port = |n: usize| format!("context.source.port == {n}");
    let chain: Vec<String> = (1..=alternatives).map(port).collect();
    for (effect, verdict) in [("permit", Verdict::Allow), ("forbid", Verdict::Forbidden)] {
        let text = format!(
            "@id(\"long\")\n{effect} (principal in Service::\"demo.test/shop/web\", action, resource in Service::\"demo.test/shop/web\")\nwhen {{ {} }};",
            chain.join(" || ")
        );
        let dir = copy();
        write(dir.path(), "policies/x.cedar", &text);
        let loaded = load(dir.path());
        assert_eq!(loaded.diagnostics, []);
        let snapshot = crate::decide::Snapshot::new(loaded.compiled.unwrap(), 1).unwrap();
        let ask = Ask {
            principal: "web".into(),
            verb: "GET".into(),
            target: "web/".into(),
            source: Some(format!("10.0.0.7:{alternatives}")),
            now_us: NOW_US,
            ..Ask::default()
        };
        for stack in [1 << 20, 2 << 20] {
            let (snapshot, ask) = (snapshot.clone(), ask.clone());
            let asking = move || {
                let question = question(snapshot.catalogue(), &ask).unwrap();
                let question = question.as_question();
                let answer = snapshot.engine().decide(&question).decision;
                let reference = snapshot.reference(&question);
                let explained = snapshot.explain(&question);
                assert_eq!(explained.determining.len(), 1);
                (answer, reference)
            };
            let thread = std::thread::Builder::new().stack_size(stack).spawn(asking);
            let (answer, reference) = thread.unwrap().join().unwrap();
            for decision in [&*answer, &reference] {
                assert_eq!(decision.verdict, verdict, "{decision:?}");
                assert!(decision.errors.is_empty(), "{decision:?}");
            }
        }
    }
}

fn bundle(files: impl Iterator<Item = (String, String)>) -> Loaded {
    let settings = (
        "palisade.yaml".to_owned(),
        "trust_domain: demo.test\n".to_owned(),
    );
    let files = std::iter::once(settings).chain(files);
    let mut files: Vec<_> = files
        .map(|(path, text)| palisade_mesh::wire::policy::File { path, text })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let bundle = Bundle {
        trust_domain: "demo.test".into(),
        files,
        ..Bundle::default()
    };
    compile(bundle.encode_to_vec().into())
}

#[test]
fn files_and_bytes_of_a_bundle_are_bounded() {
    let many = |n: usize| bundle((0..n).map(|i| (format!("notes/{i}"), String::new())));
    assert!(many(FILES_MAX - 1).compiled.is_some());
    assert_eq!(
        many(FILES_MAX).diagnostics[0].code.0,
        codes::REPOSITORY_TOO_LARGE
    );
    let large =
        |n: usize, len: usize| bundle((0..n).map(|i| (format!("notes/{i}"), " ".repeat(len))));
    assert!(large(31, FILE_LEN_MAX).compiled.is_some());
    assert_eq!(
        large(32, FILE_LEN_MAX).diagnostics[0].code.0,
        codes::REPOSITORY_TOO_LARGE
    );
    assert_eq!(
        large(1, FILE_LEN_MAX + 1).diagnostics[0].code.0,
        codes::FILE_TOO_LARGE
    );
}

/// Attack T94: whatever the size of the mistake, the answer is short and comes soon.
#[test]
fn a_flood_of_mistakes_is_told_in_part() {
    let groups: String = (0..3_000)
        .map(|i| {
            format!(
                "  g{i}: {{services: [shop/no{i}], groups: [g{}]}}\n",
                (i + 1) % 3_000
            )
        })
        .collect();
    let loaded = bundle(std::iter::once((
        "entities/x.yaml".to_owned(),
        format!("groups:\n{groups}"),
    )));
    assert_eq!(loaded.diagnostics.len(), DIAGNOSTICS_MAX + 1);
    assert_eq!(loaded.diagnostics[DIAGNOSTICS_MAX].code.0, codes::MORE);
    let same = "  - {name: o0, match: GET /a}\n".to_owned();
    let overlapping: String = (1..200)
        .map(|i| format!("  - {{name: o{i}, match: GET /a}}\n"))
        .collect();
    let text = format!("service: shop/x\noperations:\n{same}{overlapping}");
    let loaded = bundle(std::iter::once(("services/x.yaml".to_owned(), text)));
    assert!(loaded.diagnostics.len() <= 20);
}

static WHOLE: std::sync::LazyLock<Bundle> = std::sync::LazyLock::new(|| {
    let compiled = load(&sample()).compiled.expect("compiles");
    Bundle::decode(compiled.bundle).expect("decodes")
});

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]

    /// Bytes from elsewhere: a bundle with any file cut, doubled or seasoned with
    /// syntax compiles or is refused, and every place lies within its file.
    #[test]
    fn a_mutilated_bundle_never_ends_the_compiler(
        file in 0_usize..40,
        at in 0_usize..400,
        len in 0_usize..40,
        junk in "(\\{|\\}|\\[|\\]|\"|'|:|,|;|&|\\*|@|#|- |\n|\u{e9}|\u{202e}|permit|unless|::|\\?principal){0,4}",
    ) {
        let mut whole = WHOLE.clone();
        let of_files = whole.files.iter_mut().map(|f| &mut f.text);
        let policies = whole.groups.iter_mut().flat_map(|g| &mut g.policies);
        let mut texts: Vec<_> = of_files.chain(policies.map(|p| &mut p.text)).collect();
        let count = texts.len();
        let text = &mut *texts[file % count];
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.min(chars.len());
        let end = (at + len).min(chars.len());
        chars.splice(at..end, junk.chars());
        *text = chars.into_iter().collect();
        for group in &mut whole.groups {
            *group = manifest::group(group.scope.clone(), std::mem::take(&mut group.policies));
        }
        let loaded = compile(whole.encode_to_vec().into());
        proptest::prop_assert!(loaded.compiled.is_some() || !loaded.diagnostics.is_empty());
        for d in &loaded.diagnostics {
            proptest::prop_assert!(d.code.0 != codes::UNREADABLE, "{d:?}");
            if let Some(l) = &d.location {
                proptest::prop_assert!(l.text.get(l.offset..l.offset + l.len).is_some(), "{d:?}");
            }
        }
    }
}

#[test]
fn operations_of_a_service_are_bounded() {
    let operations = |n: usize| {
        let all: Vec<_> = (0..n)
            .map(|i| format!("  - {{name: o{i}, match: GET /o{i}}}\n"))
            .collect();
        with(
            "services/x.yaml",
            &format!("service: shop/x\noperations:\n{}", all.concat()),
        )
    };
    assert_eq!(operations(OPERATIONS_MAX), []);
    assert_eq!(
        operations(OPERATIONS_MAX + 1)[0].code.0,
        codes::REPOSITORY_TOO_LARGE
    );
}
