//! `policy fmt`.

use super::*;

#[test]
fn fmt_shows_a_diff_and_writes_only_what_differs() {
    let dir = copy();
    write(
        dir.path(),
        "policies/x.cedar",
        "// kept\n@id(\"a\") permit(principal,action,resource in Service::\"demo.test/shop/web\");",
    );
    let (formatted, found) = fmt::check(dir.path());
    assert_eq!(found, []);
    let changed: Vec<_> = formatted.iter().filter(|f| f.changed).collect();
    assert_eq!(changed.len(), 1);
    assert!(
        changed[0].diff.contains("\n-@id(\"a\") permit(")
            && changed[0].diff.contains("\n+@id(\"a\")\n"),
        "{}",
        changed[0].diff
    );
    fmt::write(dir.path(), &formatted).unwrap();
    let text = fs::read_to_string(dir.path().join("policies/x.cedar")).unwrap();
    assert!(text.starts_with("// kept\n@id(\"a\")\npermit"), "{text}");
    assert!(fmt::check(dir.path()).0.iter().all(|f| !f.changed));
}

#[test]
fn fmt_leaves_a_broken_file_alone() {
    let dir = copy();
    write(dir.path(), "policies/x.cedar", "permit (");
    let (formatted, found) = fmt::check(dir.path());
    assert_eq!(found[0].code.0, codes::CEDAR_SYNTAX);
    assert!(formatted.iter().all(|f| f.file != "policies/x.cedar"));
}
