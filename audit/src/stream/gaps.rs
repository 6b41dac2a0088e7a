//! How many gaps are open, of each reporter and each of its starts.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use ulid::Ulid;

use super::{GAPS_MAX, GAPS_PER_BOOT_KEPT, GAPS_PER_BOOT_MAX, GAPS_PER_REPORTER_MAX, StreamKey};

/// Gaps of those that have any. Replicas of a service have one name, and a start each: one
/// that opens many leaves the others some.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    reporters: FxHashMap<Arc<str>, Of>,
}

#[derive(Debug, Default)]
struct Of {
    all: usize,
    boots: FxHashMap<Ulid, usize>,
}

/// Whose gaps would be too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMany {
    #[error("streams of this start of the reporter have more than {GAPS_PER_BOOT_MAX} gaps")]
    Boot,
    #[error("streams of the reporter have more than {GAPS_PER_REPORTER_MAX} gaps")]
    Reporter,
    #[error("stream has more than {GAPS_MAX} gaps")]
    Stream,
}

impl Gaps {
    /// Whether a stream that has `of_stream` may have `more`.
    pub(super) fn admit(
        &self,
        key: &StreamKey,
        of_stream: usize,
        more: usize,
    ) -> Result<(), TooMany> {
        let of = self.reporters.get(key.reporter.as_str());
        let of_boot = of.and_then(|of| of.boots.get(&key.boot));
        let of_boot = of_boot.copied().unwrap_or_default() + more;
        let all = of.map_or(0, |of| of.all) + more;
        if of_stream + more > GAPS_MAX {
            Err(TooMany::Stream)
        } else if of_boot > GAPS_PER_BOOT_MAX {
            Err(TooMany::Boot)
        } else if all > GAPS_PER_REPORTER_MAX && of_boot > GAPS_PER_BOOT_KEPT {
            Err(TooMany::Reporter)
        } else {
            Ok(())
        }
    }

    /// Notes that a stream which had `before` has `now`.
    pub(super) fn change(&mut self, key: &StreamKey, before: usize, now: usize) {
        if now == before {
            return;
        }
        let reporter = key.reporter.as_str();
        if !self.reporters.contains_key(reporter) {
            self.reporters.insert(reporter.into(), Of::default());
        }
        let Some(of) = self.reporters.get_mut(reporter) else {
            return;
        };
        let of_boot = of.boots.entry(key.boot).or_default();
        for count in [&mut *of_boot, &mut of.all] {
            *count = (*count + now).saturating_sub(before);
        }
        if *of_boot == 0 {
            of.boots.remove(&key.boot);
        }
        if of.all == 0 {
            self.reporters.remove(reporter);
        }
    }
}
