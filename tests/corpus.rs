//! Replays the inputs that fuzzing found worth keeping, on the stable toolchain,
//! through the bodies that the fuzz targets run (`tests/fuzz`).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::duplicate_mod,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a panic here is a failed test; the bodies belong to another package, too"
)]

use std::{fs, path::Path};

#[path = "fuzz/bodies/bundle.rs"]
mod bundle;
#[path = "fuzz/bodies/canonical.rs"]
mod canonical;
#[path = "fuzz/bodies/certificate.rs"]
mod certificate;
#[path = "fuzz/bodies/issue_request.rs"]
mod issue_request;
#[path = "fuzz/bodies/leaf.rs"]
mod leaf;
#[path = "fuzz/bodies/proof.rs"]
mod proof;
#[path = "fuzz/bodies/query.rs"]
mod query;
#[path = "fuzz/bodies/request_head.rs"]
mod request_head;
#[path = "fuzz/bodies/spiffe_id.rs"]
mod spiffe_id;

/// Most inputs of one target.
const FILES_MAX: usize = 50;
/// Most bytes of all inputs of one target.
const BYTES_MAX: usize = 200 * 1024;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

fn replay(target: &str, check: fn(&[u8])) {
    for (name, bytes) in corpus(target) {
        if std::panic::catch_unwind(|| check(&bytes)).is_err() {
            panic!("{name} breaks a promise of {target}");
        }
    }
}

const TARGETS: [&str; 9] = [
    "bundle",
    "canonical",
    "certificate",
    "issue_request",
    "leaf",
    "proof",
    "query",
    "request_head",
    "spiffe_id",
];

#[test]
fn what_compiles_has_an_engine_that_agrees_with_the_reference() {
    replay("bundle", bundle::check);
}

#[test]
fn what_is_canonical_has_one_spelling() {
    replay("canonical", canonical::check);
}

#[test]
fn an_unproven_certificate_is_read_or_refused() {
    replay("certificate", certificate::check);
}

#[test]
fn only_a_proven_key_of_a_registered_identity_is_certified() {
    replay("issue_request", issue_request::check);
}

#[test]
fn any_record_can_be_kept_shown_and_asked_about() {
    replay("leaf", leaf::check);
}

/// What a demo's log has proven is proven, and no forgery of it is.
#[test]
fn a_forged_proof_is_refused() {
    replay("proof", proof::check);
    let (mut genuine, mut forged) = (0, 0);
    for (name, bytes) in corpus("proof") {
        let file = Path::new(&name).file_name().unwrap().to_str().unwrap();
        let proven = proof::verified(&bytes);
        match file.split_once('-') {
            Some(("genuine", _)) => {
                assert!(proven.is_some(), "{name} is not proven");
                genuine += 1;
            }
            Some(("forged", _)) => {
                assert_eq!(proven, None, "{name} is proven");
                forged += 1;
            }
            // What a run has found.
            _ => {}
        }
    }
    assert!(genuine >= 3 && forged >= 30, "{genuine} and {forged}");
}

#[test]
fn any_text_is_a_query_or_a_mistake_with_a_place() {
    replay("query", query::check);
}

#[test]
fn whatever_gets_through_has_one_reading() {
    replay("request_head", request_head::check);
}

#[test]
fn an_identity_is_accepted_as_it_is_spelled() {
    replay("spiffe_id", spiffe_id::check);
}

/// Small enough to be kept with the sources, and nothing is kept that nobody replays.
#[test]
fn the_corpus_is_small_and_every_target_has_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let names = |of: &str| {
        let mut names: Vec<String> = fs::read_dir(folder.join(of))
            .unwrap()
            .map(|e| e.unwrap().path())
            .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("corpus"), TARGETS);
    assert_eq!(names("bodies"), TARGETS);
    assert_eq!(names("fuzz_targets"), TARGETS);
    for target in TARGETS {
        let inputs = corpus(target);
        let bytes: usize = inputs.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!((1..=FILES_MAX).contains(&inputs.len()), "{target}");
        assert!(bytes <= BYTES_MAX, "{target} has {bytes} bytes");
    }
}
