//! Characters that show one thing and are another, in every text of a repository.

use super::{sources::composed, *};

/// A policy of the sample with a condition of its own.
fn when(condition: &str) -> String {
    format!(
        "@id(\"x\")\nforbid (principal, action in Action::\"http\", resource)\nwhen {{ {condition} }};\n"
    )
}

/// A condition about a header, asked for as it must be.
fn tenant(test: &str) -> String {
    let header = "context.http.headers[\"x-tenant\"]";
    when(&format!(
        "context.http.headers has \"x-tenant\" && {header} {test}"
    ))
}

/// What is told of the sample with one more file: places of look-alikes, and nothing else.
fn told(name: &str, text: &str) -> Vec<(String, usize)> {
    let dir = copy();
    write(dir.path(), name, text);
    let loaded = load(dir.path());
    let mut found = loaded.diagnostics;
    if let Some(compiled) = &loaded.compiled {
        found.extend(tables::read(dir.path(), compiled, NOW_US).1);
    }
    let places = found.iter().map(|d| {
        assert_eq!(d.code.0, codes::CONFUSABLE, "{text}: {found:#?}");
        assert!(d.is_error() && d.cause.is_some() && d.help.is_some());
        let at = d.location.as_ref().expect("located");
        (at.file.to_string(), at.line)
    });
    places.collect()
}

#[test]
fn what_shows_one_thing_and_is_another_is_refused_wherever_it_stands() {
    let policy = "policies/x.cedar";
    let plain = tenant("== \"evil\"");
    for (name, text, line) in [
        // Text direction, beside a policy and in what people read.
        (policy, format!("// all but\u{202e} this\n{plain}"), 1),
        (policy, format!("// a \u{2066}b\n{plain}"), 1),
        (policy, format!("@deny_message(\"a\u{202e}b\")\n{plain}"), 1),
        ("schema.cedarschema", "// \u{2067}\nentity Team;\n".to_owned(), 1),
        (policy, format!("// a\u{2066}b\u{202c}\u{2069} c\n{plain}"), 1),
        ("services/x.yaml", "service: shop/x\ndescription: \"a\u{202e}b\"\n".to_owned(), 2),
        ("entities/x.yaml", "groups: {} # \u{2067}\n".to_owned(), 1),
        ("invariants/x.cedar", format!("// \u{202e}\n{plain}"), 1),
        ("tests/x.yaml", "tests:\n  - { name: \"a\u{202e}b\", principal: web, request: GET orders/orders, expect: allow }\n".to_owned(), 2),
        ("tests/fixtures/x.yaml", "principals: { \"a\u{200b}\": web }\n".to_owned(), 1),
        (policy, tenant("== \"ev\u{2066}i\u{2069}l\""), 3),
        // What is a break of a line for some, and what rules a terminal.
        (policy, format!("// deny\r{plain}"), 1),
        (policy, format!("// a\u{2028}b\n{plain}"), 1),
        (policy, format!("// a\u{85}b\n{plain}"), 1),
        (policy, format!("// a\u{c}b\n{plain}"), 1),
        (policy, format!("// a\u{1b}[2Kb\n{plain}"), 1),
        (policy, format!("// a\u{8}b\n{plain}"), 1),
        ("services/x.yaml", "service: shop/x # a\u{2029}b\n".to_owned(), 1),
        // What nobody sees, in comments and sentences.
        (policy, format!("// ev\u{200d}il\n{plain}"), 1),
        (policy, format!("// \u{444}\u{e0069}\u{e006c}\n{plain}"), 1),
        (policy, format!("// \u{444}\u{fe0f}\u{fe01}\u{fe02}\u{fe03}\n{plain}"), 1),
        // What nobody sees, in what is compared.
        (policy, tenant("== \"\u{444}\u{200d}\u{444}\""), 3),
        (policy, tenant("== \"ev\u{200e}il\""), 3),
        (policy, tenant("== \"1\u{fe0f}\u{20e3}\""), 3),
        ("policies/\u{444}\u{200d}\u{444}.cedar", plain.clone(), 1),
        ("policies/a\u{200e}.cedar", plain.clone(), 1),
        (policy, tenant("== \"ev\u{200f}il\""), 3),
        (policy, tenant("== \"ev\u{200b}il\""), 3),
        (policy, tenant("== \"ev\u{ad}il\""), 3),
        (policy, tenant("== \"ev\u{200d}il\""), 3),
        (policy, tenant("== \"ev\u{e0069}\u{e006c}il\""), 3),
        (policy, tenant("like \"ev\u{200b}il*\""), 3),
        // Letters of two scripts in one word.
        (policy, format!("@owner(\"te\u{430}m\")\n{plain}"), 1),
        (policy, format!("@owner( // who\n \"te\u{430}m\")\n{plain}"), 2),
        // Greek among Latin that could be Latin, and what is neither a unit nor a sign.
        (policy, format!("@owner(\"te\u{3b1}m\")\n{plain}"), 1),
        (policy, format!("@owner(\"\u{3bf}k\")\n{plain}"), 1),
        (policy, format!("@owner(\"\u{3bc}s\u{3bc}\")\n{plain}"), 1),
        (policy, format!("@owner(\"\u{5d1}GitHub\")\n{plain}"), 1),
        (policy, format!("@owner(\"\u{3b2}\u{430}\")\n{plain}"), 1),
        (policy, tenant("== \"te\u{430}m\""), 3),
        ("entities/x.yaml", "services:\n  shop/web: { labels: { squad: \"te\u{430}m\" } }\n".to_owned(), 2),
        ("entities/x.yaml", "services:\n  shop/web: { labels: { name: \"te\u{430}m\" } }\n".to_owned(), 2),
        ("policies/o\u{430}rders.cedar", plain.clone(), 1),
        ("policies/a\u{200b}.cedar", plain.clone(), 1),
        ("policies/a\u{ff0f}b.cedar", plain.clone(), 1),
        // What no request has in its path, host or method.
        (policy, when("context.http.path like \"\u{ff0f}admin*\""), 3),
        (policy, when("context.http.path == \"/\u{441}\u{43e}\u{441}\u{43e}\""), 3),
        (policy, when("[\"/a\", \"/\u{fc}\"].contains(context.http.path)"), 3),
        (policy, when("context.http.host == \"orders\u{3002}shop\""), 3),
        (policy, when("\"\u{417}\" == context.http.host"), 3),
    ] {
        assert_eq!(told(name, &text), [(name.to_owned(), line)], "{text:?}");
    }
}

#[test]
fn text_of_any_language_is_in_order() {
    let policy = "policies/x.cedar";
    let plain = tenant("== \"evil\"");
    for (name, text) in [
        (policy, format!("// Доступ для web, 5\u{3bc}s, \u{5e9}\u{5dc}\u{5d5}\u{5dd}\n{plain}")),
        (policy, format!("@owner(\"\u{43a}\u{43e}\u{43c}\u{430}\u{43d}\u{434}\u{430}-web\")\n{plain}")),
        (policy, format!("@owner(\"API\u{3092}\u{4f7f}\u{3046}\")\n{plain}")),
        (policy, format!("@deny_message(\"5\u{3bc}s \u{2764}\u{fe0f}\")\n{plain}")),
        (policy, format!("@description(\"\u{1f469}\u{200d}\u{2764}\u{fe0f}\u{200d}\u{1f468}\")\n{plain}")),
        (policy, format!("\u{feff}{plain}")),
        // Units and signs.
        (policy, format!("@owner(\"5\u{3bc}s\")\n{plain}")),
        (policy, format!("@owner(\"k\u{3a9}-\u{394}t\")\n{plain}")),
        (policy, format!("@owner(\"\u{3b1}\u{7248} 2\u{3b2}\u{7248}\")\n{plain}")),
        (policy, format!("@owner(\"\u{5d1}-GitHub\")\n{plain}")),
        // Keycaps, suffixes of Persian on Latin, half-forms, flags, Han of names, Mongolian, Thai.
        (policy, format!("// 1\u{fe0f}\u{20e3} first, #\u{fe0f}\u{20e3}\n{plain}")),
        (policy, format!("// API\u{200c}\u{647}\u{627}\n{plain}")),
        (policy, format!("// \u{d28}\u{d4d}\u{200d} \u{d28}\u{d4d}\u{200d}.\n{plain}")),
        (policy, format!("// \u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}\n{plain}")),
        (policy, format!("@deny_message(\"\u{845b}\u{e0100} 2\u{fe0f}\u{20e3}\")\n{plain}")),
        (policy, format!("// \u{1820}\u{180e}\u{1820}\u{180b} \u{e01}\u{200b}\u{e02} Dampf\u{ad}schiff\n{plain}")),
        // Marks of direction beside Latin and signs, and what is closed where it stands.
        (policy, format!("// \u{5d0}\u{200f}! \u{200e}API \u{61c}\u{627}\n{plain}")),
        (policy, format!("// \u{5d0} \u{2066}API\u{2069} \u{202b}\u{5d1}\u{202c}\n{plain}")),
        ("services/x.yaml", "service: shop/x # \u{5d0}\u{200f}!\ndescription: 1\u{fe0f}\u{20e3} \u{2067}\u{5d0}\u{2069}\n".to_owned()),
        ("entities/x.yaml", "services:\n  shop/web: { labels: { squad: \"a\\n\u{43f}\u{440}\" } }\n".to_owned()),
        (policy, plain.replace('\n', "\r\n")),
        (policy, format!("// \u{444}\r\n{plain}")),
        ("policies/l\u{2019}\u{e9}quipe \u{2013} \u{7d50}\u{ff08}\u{65e7}\u{ff09}.cedar", plain.clone()),
        (policy, when("context.http.path == \"/\\u{fc}\" || context.http.headers has \"x-tenant\" && context.http.headers[\"x-tenant\"] == \"\u{fc}\"")),
        (policy, tenant("== \"m\u{fc}nchen\"")),
        (policy, tenant("== \"ev\\u{200b}il\"")),
        (policy, when("context.http.path == \"/m%C3%BCnchen\"")),
        ("policies/\u{437}\u{430}\u{43a}\u{430}\u{437}\u{44b}.cedar", plain.clone()),
        ("services/x.yaml", "service: shop/x\ndescription: \u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}\nlabels: { city: k\u{f6}ln }\n".to_owned()),
        ("tests/x.yaml", "tests:\n  - { name: \"\u{394}t\", principal: web, request: GET orders/orders, expect: allow }\n".to_owned()),
    ] {
        if text.starts_with('\u{feff}') {
            // Cedar does not take the mark; that it cannot be seen is not told beside it.
            let found = with(name, &text);
            assert!(found.iter().all(|d| d.code.0 != codes::CONFUSABLE), "{found:#?}");
            continue;
        }
        assert_eq!(told(name, &text), [], "{text:?}");
    }
}

#[test]
fn a_look_alike_is_named_with_what_it_looks_like_and_the_fix() {
    let said = |name: &str, text: &str| {
        let found = with(name, text);
        let [one] = found.as_slice() else {
            panic!("{found:#?}")
        };
        let parts = [Some(&one.message), one.label.as_ref(), one.help.as_ref()];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        (parts.join("; "), marked(one).to_owned())
    };
    let (text, marked) = said(
        "policies/x.cedar",
        &when("context.http.path like \"\u{ff0f}admin*\""),
    );
    assert_eq!(text, "`\u{ff0f}` (U+FF0F) looks like `/`; type `/`");
    assert_eq!(marked, "\u{ff0f}");
    let (text, _) = said(
        "policies/x.cedar",
        &when("context.http.path == \"/\u{fc}\""),
    );
    assert!(
        text.ends_with("write `%C3%BC`, as a request has it"),
        "{text}"
    );
    let owner = format!("@owner(\"te\u{430}m\")\n{}", tenant("== \"evil\""));
    let (text, marked) = said("policies/x.cedar", &owner);
    assert!(text.contains("two scripts; U+0430 is Cyrillic"), "{text}");
    assert_eq!(marked, "\u{430}");
    let (text, _) = said("policies/o\u{430}rders.cedar", &tenant("== \"evil\""));
    assert!(text.contains("policies/o\\u{430}rders.cedar"), "{text}");
}

/// Cedar speaks of a whole expression; what else is wrong in it is told beside.
#[test]
fn of_one_expression_each_string_is_told() {
    let text = tenant("== \"a\" || \"ev\u{200b}il\" like \"te\u{430}m*\"");
    let found = with("policies/x.cedar", &text);
    let told = found.iter().filter(|d| d.code.0 == codes::CONFUSABLE);
    let mut marks: Vec<&str> = told.map(marked).collect();
    marks.sort_unstable();
    assert_eq!(marks, ["\"te\u{430}m*\"", "\u{200b}"], "{found:#?}");
}

/// Files of a source are looked at as the repository's own are.
#[test]
fn a_source_contributes_no_look_alike() {
    let policy = "@id(\"pay-x\")\n@owner(\"te\u{430}m\")\npermit (principal, action, resource in Namespace::\"demo.test/pay\");\n";
    let (_dir, loaded) = composed(&[("policies/x.cedar", policy)]);
    let found: Vec<_> = loaded.diagnostics.iter().filter(|d| d.is_error()).collect();
    let [one] = found[..] else {
        panic!("{found:#?}")
    };
    let at = one.location.as_ref().unwrap();
    assert_eq!(
        (one.code.0, &*at.file, at.line),
        (codes::CONFUSABLE, "pay/policies/x.cedar", 2)
    );
}

/// What a source has in its comments and sentences is its own affair: nobody else's change waits.
#[test]
fn what_a_source_has_in_its_comments_holds_up_nobody_else() {
    for mark in ["\u{202e}", "\u{2028}", "\u{1b}", "\u{e0069}"] {
        let policy = format!(
            "// a{mark}b\n@id(\"pay-x\")\n@description(\"a{mark}b\")\npermit (principal, action, resource in Namespace::\"demo.test/pay\");\n"
        );
        // YAML has no such mark at all.
        let of_yaml = if mark == "\u{1b}" { "" } else { mark };
        let service = format!("service: pay/x # a{of_yaml}b\n");
        let (dir, loaded) =
            composed(&[("policies/x.cedar", &policy), ("services/x.yaml", &service)]);
        assert!(loaded.compiled.is_some(), "{:#?}", loaded.diagnostics);
        let told = |found: &[Diagnostic], file: &str, errors: bool| {
            let is_it = |d: &&Diagnostic| {
                let of_file = d.location.as_ref().is_some_and(|at| &*at.file == file);
                d.code.0 == codes::CONFUSABLE && of_file && d.is_error() == errors
            };
            found.iter().filter(is_it).count()
        };
        assert_eq!(told(&loaded.diagnostics, "pay/policies/x.cedar", false), 2);
        // Where the source itself is checked, it is an error.
        write(
            dir.path(),
            "teams/pay/palisade.yaml",
            "trust_domain: demo.test\n",
        );
        let own = load(&dir.path().join("teams/pay"));
        assert!(own.compiled.is_none());
        assert_eq!(told(&own.diagnostics, "policies/x.cedar", true), 2);
    }
}

/// What a parser refuses anyway is told by it alone.
#[test]
fn a_mark_that_yaml_has_not_is_told_once() {
    let found = with("services/x.yaml", "service: shop/x # a\u{1b}b\n");
    let codes: Vec<u16> = found.iter().map(|d| d.code.0).collect();
    assert_eq!(codes, [codes::YAML_SYNTAX]);
}

/// Cedar ends a comment where the line is returned; so does the search for strings.
#[test]
fn a_return_of_the_line_hides_no_string() {
    let text = format!("// note\r@owner(\"te\u{430}m\")\n{}", tenant("== \"evil\""));
    let found = with("policies/x.cedar", &text);
    let marks: Vec<&str> = found.iter().map(marked).collect();
    assert_eq!(marks, ["\r", "\u{430}"], "{found:#?}");
}

/// Whoever is given a revision that has one takes it, and so can compare what mends it.
#[test]
fn a_revision_that_is_there_is_taken_with_its_look_alikes() {
    let dir = copy();
    let text = format!("// a\u{202e}b\n{}", tenant("== \"evil\""));
    write(dir.path(), "policies/x.cedar", &text);
    assert!(load(dir.path()).compiled.is_none());
    let compared = load_with(dir.path(), &Shared::default()).compiled.unwrap();
    assert_eq!(compile(compared.bundle).diagnostics, []);
    // Also where Cedar itself finds it.
    write(dir.path(), "policies/x.cedar", &tenant("== \"te\u{430}m\""));
    assert!(load(dir.path()).compiled.is_none());
    let compared = load_with(dir.path(), &Shared::default()).compiled.unwrap();
    let received = compile(compared.bundle);
    let [told] = &received.diagnostics[..] else {
        panic!("{:#?}", received.diagnostics)
    };
    assert!(received.compiled.is_some() && !told.is_error());
    assert_eq!(
        (told.code.0, marked(told)),
        (codes::CONFUSABLE, "\"te\u{430}m\"")
    );
}

/// The lint tells it too, with whatever else it finds, also where there is no policy to look at.
#[test]
fn the_lint_tells_look_alikes_beside_other_mistakes() {
    let dir = copy();
    let text = format!("// a\u{202e}b\n{}", tenant("== \"evil\""));
    write(dir.path(), "policies/x.cedar", &text);
    write(
        dir.path(),
        "services/x.yaml",
        "service: shop/x\nhosts: [A]\n",
    );
    let options = lint::Options::default();
    let found = lint::run(dir.path(), &options).unwrap().findings;
    let codes: Vec<u16> = found.iter().map(|d| d.code.0).collect();
    for code in [codes::CONFUSABLE, codes::HOST] {
        assert!(codes.contains(&code), "{found:#?}");
    }
}
