//! The numbers of this part's diagnostics.

/// A signature does not verify.
pub const FORGED: u16 = 3101;
/// Too few trusted keys have signed.
pub const NOT_SIGNED: u16 = 3102;
/// No stamp, a stamp by nobody who may, or one that has ended.
pub const STAMP: u16 = 3103;
/// A file of public keys cannot be used.
pub const KEYS: u16 = 3104;
/// A private key cannot be used.
pub const SIGNING_KEY: u16 = 3105;
/// A slice leaves out policies that concern whom it was sent to.
pub const OMITTED: u16 = 3106;
/// A slice where the whole is needed.
pub const NOT_WHOLE: u16 = 3107;
/// A bundle file cannot be read or written, or is none.
pub const FILE: u16 = 3108;
/// A bundle without a number cannot be stamped.
pub const NO_NUMBER: u16 = 3109;
/// A folder, which carries no signatures, where signatures are demanded.
pub const UNSIGNED_FOLDER: u16 = 3110;
/// A bundle would lack what a source contributes.
pub const INCOMPLETE: u16 = 3113;
/// An invariant that must be proved is not.
pub const NOT_PROVED: u16 = 3114;
/// A revision is too large to be sent.
pub const TOO_LARGE: u16 = 3115;
/// A revision may not be taken back to the one that is offered.
pub const WAY_BACK: u16 = 3117;
/// What was proved of a bundle is attested as the format before did.
pub const OLD_PROOFS: u16 = 3118;
