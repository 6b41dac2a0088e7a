//! Records that reporters numbered and the log has not received.

use std::{collections::HashMap, sync::Arc};

use crate::stream::{Range, StreamKey, Streams};

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
