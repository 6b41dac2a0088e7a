//! Paths, targets, hosts and methods (T1 to T19): one reading, or none.

use super::*;

#[test]
fn t1_dot_segments_are_resolved_before_the_decision() {
    let stage = Stage::new();
    for target in ["/public/../admin", "/public/./../admin", "/./admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
}

#[test]
fn t2_slashes_are_merged() {
    let stage = Stage::new();
    for target in ["//admin", "/public//../admin", "///admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
}

#[test]
fn t3_encoded_separators_are_refused() {
    let stage = Stage::new();
    for target in [
        "/public%2f..%2fadmin",
        "/public%2F..%2Fadmin",
        "/public%5c..%5cadmin",
        "/public%5C..%5Cadmin",
    ] {
        let expect = Expect::refused(400, "path_ambiguous");
        stage.check(&Ask::get(target), &Door::ALL, &expect);
    }
}

#[test]
fn t4_encoded_dots_are_dots() {
    let stage = Stage::new();
    for target in ["/public/%2e%2e/admin", "/public/%2E./admin", "/%2e/admin"] {
        stage.check(&Ask::get(target), &Door::ALL, &Expect::forbidden("/admin"));
    }
}
