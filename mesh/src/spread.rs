//! How durations spread: counts by buckets that two parts of the mesh agree on.
//!
//! A proxy counts, its PDP adds up and asks for quantiles. Four buckets for each
//! doubling tell durations apart that differ by a fifth, from 128 ns to two minutes.

use std::time::Duration;

/// Buckets of a spread.
pub const BUCKETS: usize = 4 * (LAST - FIRST);
/// The first bucket begins at 2^7 ns; what is shorter is counted there.
const FIRST: usize = 7;
/// The last one ends at 2^37 ns; what is longer is counted there.
const LAST: usize = 37;

/// The bucket of a duration.
pub fn bucket(duration: Duration) -> usize {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let octave = ns.max(1 << FIRST).ilog2();
    // The two bits below the leading one.
    let quarter = (ns.max(1 << FIRST) >> (octave - 2)) & 3;
    let octave = usize::try_from(octave).unwrap_or(LAST);
    let quarter = usize::try_from(quarter).unwrap_or(3);
    (4 * (octave - FIRST) + quarter).min(BUCKETS - 1)
}

/// The duration below which all of a bucket lies.
pub fn upper(bucket: usize) -> Duration {
    let bucket = bucket.min(BUCKETS - 1);
    let octave = 1_u64 << (FIRST + bucket / 4);
    let quarter = u64::try_from(bucket % 4 + 1).unwrap_or(4);
    Duration::from_nanos(octave + octave / 4 * quarter)
}

/// Below what `percent` of the counted durations lie; none where nothing was counted.
pub fn quantile(counts: &[u64], percent: u32) -> Option<Duration> {
    let total: u64 = counts.iter().sum();
    let wanted = total.checked_mul(u64::from(percent))?.div_ceil(100).max(1);
    let mut below = 0;
    let at = counts.iter().position(|count| {
        below += count;
        below >= wanted
    });
    at.map(upper)
}

/// Adds `more` to `sum`, bucket by bucket; what is beyond the last is left out.
pub fn add(sum: &mut Vec<u64>, more: &[u64]) {
    let len = more.len().min(BUCKETS).max(sum.len());
    sum.resize(len, 0);
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// What `sum` has beyond `first`, bucket by bucket.
pub fn since(sum: &[u64], first: &[u64]) -> Vec<u64> {
    let first = first.iter().copied().chain(std::iter::repeat(0));
    sum.iter()
        .zip(first)
        .map(|(sum, first)| sum.saturating_sub(first))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_the_end_of_its_bucket_and_not_far() {
        for ns in [
            128,
            129,
            159,
            160,
            1_000,
            1_023,
            1_024,
            50_000,
            7_000_000_000,
        ] {
            let duration = Duration::from_nanos(ns);
            let end = upper(bucket(duration));
            assert!(duration < end, "{ns}");
            assert!(end.as_nanos() * 4 <= u128::from(ns) * 5, "{ns}: {end:?}");
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_nanos(127)), 0);
        assert_eq!(bucket(Duration::from_secs(136)), BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_quantile_is_where_that_part_of_all_lies_below() {
        assert_eq!(quantile(&[], 99), None);
        assert_eq!(quantile(&[0, 0], 99), None);
        assert_eq!(quantile(&[99, 1], 99), Some(upper(0)));
        assert_eq!(quantile(&[98, 2], 99), Some(upper(1)));
        assert_eq!(quantile(&[0, 1], 50), Some(upper(1)));
    }

    #[test]
    fn spreads_of_any_length_add_up_within_the_bound() {
        let mut sum = vec![1];
        add(&mut sum, &[1, 2]);
        add(&mut sum, &[]);
        assert_eq!(sum, [2, 2]);
        add(&mut sum, &vec![1; BUCKETS + 7]);
        assert_eq!(sum.len(), BUCKETS);
    }
}
