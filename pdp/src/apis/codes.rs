//! Codes of what callers of the decision APIs are told.

/// The caller has proven nothing.
pub(super) const UNPROVEN: u16 = 6101;
/// There is no such API.
pub(super) const NO_API: u16 = 6102;
/// The request names no host.
pub(super) const NO_HOST: u16 = 6103;
/// The message is not announced as JSON.
pub(super) const NOT_JSON: u16 = 6104;
/// The message takes too long.
pub(super) const SLOW: u16 = 6105;
/// The message is too long.
pub(super) const TOO_LONG: u16 = 6106;
/// The message is not of the API's form.
pub(super) const MALFORMED: u16 = 6107;
/// The question means nothing here.
pub(super) const NOT_UNDERSTOOD: u16 = 6108;
/// The question could not be decided.
pub(super) const UNDECIDED: u16 = 6109;
/// Too many requests in flight.
pub(super) const IN_FLIGHT: u16 = 6110;
/// Too many questions in a second.
pub(super) const RATE: u16 = 6111;
/// Too many questions in a batch.
pub(super) const BATCH: u16 = 6112;
/// The answer cannot be recorded.
pub(super) const UNRECORDED: u16 = 6114;
/// The page token is not of this search.
pub(super) const PAGE: u16 = 6115;
/// The caller is on the kill list.
pub(super) const BARRED: u16 = 6124;
/// A name of callers is mapped to two things.
pub(super) const MAP_MEANINGS: u16 = 6125;
/// Two names of callers are mapped to one thing.
pub(super) const MAP_NAMES: u16 = 6126;
/// A mapping is about a type that nothing has.
pub(super) const MAP_KIND: u16 = 6127;
/// A name of callers cannot be mapped.
pub(super) const MAP_WRONG: u16 = 6128;
/// A property that is read cannot be left out.
pub(super) const MAP_UNREAD: u16 = 6129;
/// A search broke off.
pub(super) const BROKEN: u16 = 6116;
