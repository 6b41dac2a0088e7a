//! The sample policy repository, carried by the binary.

use std::{fs, io, path::Path};

/// Path within the repository and text, of every file in `policies/`.
const FILES: &[(&str, &str)] = &[
    ("README.md", include_str!("../../policies/README.md")),
    (
        "entities/groups.yaml",
        include_str!("../../policies/entities/groups.yaml"),
    ),
    (
        "palisade.yaml",
        include_str!("../../policies/palisade.yaml"),
    ),
    (
        "policies/guard-rails.cedar",
        include_str!("../../policies/policies/guard-rails.cedar"),
    ),
    (
        "policies/inventory.cedar",
        include_str!("../../policies/policies/inventory.cedar"),
    ),
    (
        "policies/orders.cedar",
        include_str!("../../policies/policies/orders.cedar"),
    ),
    (
        "policies/payments.cedar",
        include_str!("../../policies/policies/payments.cedar"),
    ),
    (
        "services/inventory.yaml",
        include_str!("../../policies/services/inventory.yaml"),
    ),
    (
        "services/orders.yaml",
        include_str!("../../policies/services/orders.yaml"),
    ),
    (
        "services/payments.yaml",
        include_str!("../../policies/services/payments.yaml"),
    ),
    (
        "services/reports.yaml",
        include_str!("../../policies/services/reports.yaml"),
    ),
    (
        "services/web.yaml",
        include_str!("../../policies/services/web.yaml"),
    ),
    (
        "tests/edges.yaml",
        include_str!("../../policies/tests/edges.yaml"),
    ),
    (
        "tests/refusals.yaml",
        include_str!("../../policies/tests/refusals.yaml"),
    ),
];

/// Writes the sample into `dir`.
pub(super) fn write(dir: &Path) -> io::Result<()> {
    for (path, text) in FILES {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the binary carries is the whole sample, nothing more.
    #[test]
    fn every_file_of_the_sample_is_carried() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(path.strip_prefix(&root).unwrap().display().to_string()),
                }
            }
        }
        found.sort();
        let carried: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        assert_eq!(found, carried);
    }
}
