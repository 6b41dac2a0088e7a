//! The index over a log, with what is missing from the log.

use std::{path::Path, sync::Arc};

use palisade_audit::{
    index::{BucketSpan, GAPS_TOLD_MAX, Gap, GapsFound, Options, Store, StoreError},
    log::{Log, OpenGap},
    query::Window,
    watch::{Silent, Watch},
};
use palisade_mesh::clock::Clock;

/// The index of a log, kept in `dir`; with a `watch`, answers also say who is silent.
///
/// # Errors
/// When `dir` cannot be used.
pub(crate) fn store_of(
    log: &Log,
    dir: &Path,
    clock: &Clock,
    bucket: BucketSpan,
    watch: Option<Arc<Watch>>,
) -> Result<Store, StoreError> {
    let of_gaps = log.clone();
    let options = Options {
        bucket,
        ..Options::default()
    };
    let store = Store::open(Arc::new(log.clone()), dir, clock.clone(), options)?;
    Ok(store.with_gaps(Arc::new(move |window| {
        let silent = watch
            .as_ref()
            .map_or_else(Vec::new, |watch| watch.unheard());
        missing(&of_gaps, silent, window)
    })))
}

/// What can be of this window and is not here: gaps whose records were numbered after the boot of
/// their reporter and missed before they were noticed, and what reporters that were heard of last
/// before it ended may have recorded since.
fn missing(log: &Log, mut silent: Vec<Silent>, window: Window) -> GapsFound {
    silent.retain(|silent| silent.heard_us < window.to_us);
    let silent_more = silent.len().saturating_sub(GAPS_TOLD_MAX);
    silent.truncate(GAPS_TOLD_MAX);
    let boot_us = |gap: &OpenGap| {
        i64::try_from(gap.stream.boot.timestamp_ms())
            .unwrap_or(i64::MAX)
            .saturating_mul(1000)
    };
    let gaps = log.gaps();
    let mut overlapping = gaps
        .iter()
        .filter(|g| boot_us(g) < window.to_us && window.from_us <= g.noticed_us);
    let told = overlapping.by_ref().take(GAPS_TOLD_MAX).map(|gap| Gap {
        reporter: gap.stream.reporter.to_string(),
        first: gap.missing.from,
        last: gap.missing.to,
        noticed_us: gap.noticed_us,
    });
    GapsFound {
        told: told.collect(),
        more: overlapping.count(),
        silent,
        silent_more,
    }
}

#[cfg(test)]
mod tests {
    use palisade_audit::{ingest::Ingest, log::LogOptions};
    use palisade_mesh::{
        spiffe_id::TrustDomain,
        wire::{audit::StreamId, record::Record},
    };
    use prost::Message as _;

    use super::*;

    /// On both sides of the limit.
    #[tokio::test]
    async fn an_answer_names_so_many_gaps_and_counts_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
        let log = Log::open(dir.path(), options, clock.clone()).unwrap();
        let ingest = Ingest::new(log.clone(), clock);
        let stream = StreamId {
            reporter: "spiffe://acme.test/web".into(),
            boot: vec![0; 16],
            worker: 0,
        };
        let push = |sequence| {
            let record = Record {
                id: vec![1; 16],
                reporter: stream.reporter.clone(),
                ..Record::default()
            };
            ingest
                .push(&stream, sequence, vec![record.encode_to_vec().into()])
                .unwrap()
        };
        let window = Window {
            from_us: 0,
            to_us: i64::MAX,
        };
        let found = |gaps: u64| {
            let (log, push) = (log.clone(), &push);
            async move {
                push(2 * gaps).checkpointed().await.unwrap();
                missing(&log, Vec::new(), window)
            }
        };
        for gaps in 1..100 {
            push(2 * gaps).durable().await.unwrap();
        }
        let all = found(100).await;
        assert_eq!((all.told.len(), all.more), (GAPS_TOLD_MAX, 0));
        let most = found(101).await;
        assert_eq!((most.told.len(), most.more), (GAPS_TOLD_MAX, 1));
    }

    /// Of the time since each was heard, on both sides of it and of the limit.
    #[test]
    fn an_answer_about_what_came_since_names_who_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions::new(TrustDomain::parse("acme.test").unwrap());
        let log = Log::open(dir.path(), options, Clock::system()).unwrap();
        let silent: Vec<Silent> = (1..=101)
            .map(|heard_us| Silent {
                reporter: format!("spiffe://acme.test/web{heard_us}"),
                boot: String::new(),
                heard_us,
            })
            .collect();
        let of = |to_us| {
            let window = Window { from_us: 0, to_us };
            let found = missing(&log, silent.clone(), window);
            (found.silent.len(), found.silent_more)
        };
        assert_eq!(of(1), (0, 0));
        assert_eq!(of(2), (1, 0));
        assert_eq!(of(101), (GAPS_TOLD_MAX, 0));
        assert_eq!(of(102), (GAPS_TOLD_MAX, 1));
    }
}
