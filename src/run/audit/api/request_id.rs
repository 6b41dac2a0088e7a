//! The identifier of a request: the caller's own, or one of ours. It is in the answer, in
//! a problem, and in the record of the read.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use ulid::Ulid;

pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest identifier of a caller, in bytes; a longer one is not taken over.
const LEN_MAX: usize = 128;

#[derive(Debug, Clone)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    /// What the caller calls its request, where that is visible ASCII and short enough.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(HEADER).and_then(|value| value.to_str().ok());
        let is_usable = |id: &&str| {
            (1..=LEN_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
        };
        match own.filter(is_usable) {
            Some(own) => Self(own.into()),
            None => Self(Ulid::generate().to_string().into()),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}
