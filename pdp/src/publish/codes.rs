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
/// There is no program `git`.
pub const GIT_MISSING: u16 = 3200;
/// A source does not answer.
pub const UNREACHABLE_SOURCE: u16 = 3201;
/// A source has no such branch, tag or folder.
pub const REFERENCE_MISSING: u16 = 3202;
/// What a source sent is not whole, or more than may be.
pub const FETCH_FAILED: u16 = 3203;
/// A revision is not signed by an allowed signer.
pub const NOT_SIGNED: u16 = 3204;
/// A signed revision is older than one that was in force.
pub const REWOUND: u16 = 3205;
/// Commit and author of policies are not known.
pub const NO_AUTHORS: u16 = 3206;
/// Policy is of another trust domain.
pub const FOREIGN_DOMAIN: u16 = 3216;
/// The bundle of a source is put together from several sources.
pub const NESTED_SOURCE: u16 = 3215;
/// A source is not where a repository in git can name it by a path.
pub const BESIDE_GIT: u16 = 3217;
/// The kept revision is not the last one that was in force.
pub const KEPT_OLDER: u16 = 5301;
/// Nothing tells how old the kept revision is.
pub const WORD_MISSING: u16 = 5302;
/// A rollout was halted.
pub const ROLLOUT_HALTED: u16 = 3300;
/// No rollout is in progress.
pub const ROLLOUT_NONE: u16 = 3301;
/// There is nothing that could be rolled out.
pub const ROLLOUT_NOTHING: u16 = 3302;
/// No kept revision has this name.
pub const ROLLOUT_UNKNOWN: u16 = 3303;
/// The plan of a rollout is not one.
pub const ROLLOUT_PLAN: u16 = 3304;
/// A rollout is in progress already.
pub const ROLLOUT_BUSY: u16 = 3305;
/// A rollout cannot do this now.
pub const ROLLOUT_ORDER: u16 = 3306;
/// A subscriber cannot try a revision beside the one in force.
pub const UNTRIED: u16 = 3307;
/// What is known of a rollout cannot be read.
pub const ROLLOUT_JOURNAL: u16 = 3308;
/// A revision has a way back that does not serve, and goes to all proxies at once.
pub const ROLLOUT_NO_CANARY: u16 = 3311;
