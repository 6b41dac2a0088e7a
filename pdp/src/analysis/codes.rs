//! The numbers of what comparing and proving have to say, in one place so that none is used twice.

/// A change breaks a gate.
pub const GATE_BROKEN: u16 = 2301;
/// A gate is neither kept nor broken, as far as can be told.
pub const GATE_UNPROVED: u16 = 2302;
/// Nothing is called that, for `--no-access-to`.
pub const NO_SUCH_RESOURCE: u16 = 2303;
/// The revisions are of two trust domains.
pub const TRUST_DOMAINS: u16 = 2304;
/// The solver cannot be used.
pub const SOLVER: u16 = 2305;
/// What an invariant says must never be is possible.
pub const INVARIANT_BROKEN: u16 = 2321;
/// An invariant is neither proved nor broken, as far as can be told.
pub const INVARIANT_UNPROVED: u16 = 2322;
