//! Records that reporters numbered and the log has not received: which, and how the log notes
//! them.

use std::{collections::HashMap, sync::Arc};

use crate::stream::{Range, StreamKey, Streams};

#[cfg(feature = "index")]
mod noticed;

#[cfg(feature = "index")]
pub(super) use noticed::Noticed;
#[cfg(feature = "index")]
pub use noticed::told;

/// Bytes that name streams in one note of what is missing: what a note has room for, less the number
/// of the others.
const NAMED_LEN_MAX: usize = 4000;

/// What stands between the streams of a note.
const BETWEEN: &str = "; ";

/// What stands between a stream and its numbers.
const OF_NUMBERS: &str = " sequence ";

/// Numbers that are missing from a stream now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenGap {
    /// The stream.
    pub stream: Arc<StreamKey>,
    /// The numbers.
    pub missing: Range,
    /// When it was noticed, or this log was opened, microseconds since the Unix epoch.
    pub noticed_us: i64,
}

/// The gaps of `streams`; those among `known` keep their time.
pub(super) fn open_gaps(streams: &Streams, known: &[OpenGap], now_us: i64) -> Arc<[OpenGap]> {
    let noticed: HashMap<(&StreamKey, u64), i64> = known
        .iter()
        .map(|gap| ((gap.stream.as_ref(), gap.missing.to), gap.noticed_us))
        .collect();
    let with_gaps = streams.with_gaps();
    let all = with_gaps.flat_map(|(key, missing)| {
        let noticed = &noticed;
        missing.iter().map(move |range| OpenGap {
            stream: key.clone(),
            missing: *range,
            noticed_us: noticed
                .get(&(key.as_ref(), range.to))
                .copied()
                .unwrap_or(now_us),
        })
    });
    all.collect()
}

/// How a note names the numbers of one stream.
pub(super) fn one(stream: &StreamKey, range: Range) -> String {
    format!("{stream}{OF_NUMBERS}{range}")
}

/// How one note names what is missing from several streams, as far as it has room; the others are
/// counted.
pub(super) fn noted(missing: &[(Arc<StreamKey>, Range)]) -> String {
    let mut noted = String::new();
    for (n, (stream, range)) in missing.iter().enumerate() {
        let one = one(stream, *range);
        if n > 0 && noted.len() + BETWEEN.len() + one.len() > NAMED_LEN_MAX {
            return format!("{noted}, and of {} streams more", missing.len() - n);
        }
        if n > 0 {
            noted += BETWEEN;
        }
        noted += &one;
    }
    noted
}
