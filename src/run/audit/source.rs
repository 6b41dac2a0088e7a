//! The index over a log, with what is missing from the log.

use std::{path::Path, sync::Arc};

use palisade_audit::{
    index::{BucketSpan, Gap, Options, Store, StoreError},
    log::{Log, OpenGap},
    query::Window,
};
use palisade_mesh::clock::Clock;

/// The index of a log, kept in `dir`.
///
/// # Errors
/// When `dir` cannot be used.
pub(crate) fn store_of(
    log: &Log,
    dir: &Path,
    clock: &Clock,
    bucket: BucketSpan,
) -> Result<Store, StoreError> {
    let of_gaps = log.clone();
    let options = Options {
        bucket,
        ..Options::default()
    };
    let store = Store::open(Arc::new(log.clone()), dir, clock.clone(), options)?;
    Ok(store.with_gaps(Arc::new(move |window| gaps_of(&of_gaps, window))))
}

/// The gaps whose records can be of this window: numbered after the boot of their
/// reporter, missed before they were noticed.
fn gaps_of(log: &Log, window: Window) -> Vec<Gap> {
    let boot_us = |gap: &OpenGap| {
        i64::try_from(gap.stream.boot.timestamp_ms())
            .unwrap_or(i64::MAX)
            .saturating_mul(1000)
    };
    let gaps = log.gaps();
    let overlapping = gaps
        .iter()
        .filter(|g| boot_us(g) < window.to_us && window.from_us <= g.noticed_us);
    overlapping
        .map(|gap| Gap {
            reporter: gap.stream.reporter.to_string(),
            first: gap.missing.from,
            last: gap.missing.to,
            noticed_us: gap.noticed_us,
        })
        .collect()
}
