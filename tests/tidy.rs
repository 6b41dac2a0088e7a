//! Promises about the tree itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of ours with one of these endings.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = [
        "src", "mesh", "proxy", "pdp", "ca", "audit", "tests", "docs", "policies", "deploy",
    ]
    .iter()
    .map(|d| root().join(d))
    .filter(|d| d.exists())
    .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|e| endings.iter().any(|w| e == *w))
            {
                found.push(path);
            }
        }
    }
    found
}

/// Links between our own pages lead somewhere.
#[test]
fn links_in_the_documentation_resolve() {
    let mut pages = files(&["md"]);
    pages.push(root().join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let target = page.parent().unwrap().join(path);
            assert!(target.exists(), "{}: {link}", page.display());
        }
    }
}

/// Heavy dependencies stay behind their one door.
#[test]
fn each_heavy_crate_is_named_in_one_manifest_only() {
    for (dependency, home) in [
        ("cedar-policy", "pdp"),
        ("rcgen", "ca"),
        ("tantivy", "audit"),
        ("sqlx", "ca"),
    ] {
        for folder in ["mesh", "proxy", "pdp", "ca", "audit", "."] {
            let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
            let shipped = manifest.split("[dependencies]").nth(1).unwrap_or_default();
            let shipped = shipped.split("\n[").next().unwrap();
            let named = shipped.lines().any(|l| l.starts_with(dependency));
            assert!(
                !named || folder == home,
                "{dependency} is named in {folder}/Cargo.toml"
            );
        }
    }
}
