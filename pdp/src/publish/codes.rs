//! The numbers of this part's diagnostics.

/// Bytes of a revision do not have the digest it claims.
pub const DIGEST: u16 = 3003;
/// Revision is older than the one in force.
pub const SEQUENCE: u16 = 3004;
/// A proxy announced what its identity does not entitle it to.
pub const ANNOUNCEMENT: u16 = 3005;
/// State folder cannot be read or written.
pub const STATE_DIR: u16 = 3007;
/// Policy folder cannot be watched.
pub const WATCH: u16 = 3008;
/// No PDP answers.
pub const UNREACHABLE: u16 = 3009;
/// Putting a revision in force failed inside.
pub const APPLY_FAILED: u16 = 3010;
/// The kept revision is not the last one that was in force.
pub const KEPT_OLDER: u16 = 5301;
/// Nothing tells how old the kept revision is.
pub const WORD_MISSING: u16 = 5302;
