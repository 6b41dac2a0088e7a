//! The way back: by the word of its signers, a revision may be taken back to one with a lower
//! number.
//!
//! Without it only who signs can undo a revision that others have numbered, by signing the old
//! content under a higher number. With it a PDP can, as long as the signers said, and to
//! nothing but what they named.
//!
//! It is optional, and whoever only carries a bundle can put another in its place. So one that
//! does not serve leaves the revision as good as it is without it.

use std::time::Duration;

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Revision, WayBack},
};

use super::{Keys, Trust, forged};
use crate::bundle::{
    broken, codes,
    file::BundleFile,
    statement::{self, Statement},
};

/// Longest time from when a number was given to the end of its way back.
pub const WAY_BACK_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether the way back of a revision, where it has one, is one, and nothing about it is
/// forged. Whether it leads anywhere is another question ([`way_back`]).
///
/// # Errors
/// When it leads to no lower number, or a signature is no signature.
pub(super) fn check(
    keys: &Keys,
    domain: &TrustDomain,
    revision: (Digest, u64),
    back: Option<&WayBack>,
) -> Result<(), Diagnostic> {
    let Some(back) = back else {
        return Ok(());
    };
    let signers = said(domain, revision, back)?.signers(&back.signatures);
    signers.map(drop).map_err(|f| forged(&f, keys))
}

/// Until when `from`, which is in force and is policy of `domain`, may be taken back to the
/// revision with this digest and number, microseconds since the Unix epoch.
///
/// # Errors
/// Attack T104: that it may not, because its signers, as far as `trust` believes them now,
/// named nothing, something else, or a time that is over or too long.
pub fn way_back(
    trust: Option<&Trust>,
    domain: &TrustDomain,
    from: &Revision,
    (digest, sequence): (Digest, u64),
    now_us: i64,
) -> Result<i64, Diagnostic> {
    let refused = |cause: String| {
        Diagnostic::error(
            codes::WAY_BACK,
            format!(
                "policy revision {} may not be taken back to {sequence} ({})",
                from.sequence,
                digest.short()
            ),
        )
        .cause(cause)
        .help("sign the old content under the next number: palisade bundle sign FILE --key KEY --sequence N")
    };
    let Some(back) = &from.way_back else {
        return Err(refused("its signers gave it no way back".to_owned()));
    };
    let own = Digest::from_slice(&from.sha256).ok_or_else(|| broken("it has no digest"))?;
    let name = (own, from.sequence);
    match trust {
        // A key that was taken out counts no longer.
        Some(trust) => {
            let what = format!("policy revision {} ({})", from.sequence, own.short());
            let signers = trust.signers(&said(domain, name, back)?, &back.signatures)?;
            trust.enough(&what, "its way back", &signers)?;
        }
        None => check(&Keys::default(), domain, name, Some(back))?,
    }
    if back.signatures.is_empty() {
        return Err(refused("nobody has signed its way back".to_owned()));
    }
    let named = Digest::from_slice(&back.sha256).unwrap_or_default();
    if (named, back.sequence) != (digest, sequence) {
        let cause = format!(
            "its signers named {} ({}), and nothing else",
            back.sequence,
            named.short()
        );
        return Err(refused(cause));
    }
    let at = jiff::Timestamp::from_microsecond(back.until_us).unwrap_or_default();
    if is_too_long(from.issued_us, back.until_us) {
        return Err(refused(format!(
            "its way back would last until {at:.0}, and at most 7 days are good"
        )));
    }
    if now_us >= back.until_us {
        return Err(refused(format!("its way back ended at {at:.0}")));
    }
    Ok(back.until_us)
}

/// Whether a way back ends later than any may, of a number that was given at `issued_us`.
pub(crate) fn is_too_long(issued_us: i64, until_us: i64) -> bool {
    let max_us = i64::try_from(WAY_BACK_MAX.as_micros()).unwrap_or(i64::MAX);
    until_us.saturating_sub(issued_us) > max_us
}

impl Trust {
    /// The number that the number of a file may be taken back to, and until when, microseconds
    /// since the Unix epoch; none where it was given no way back.
    ///
    /// # Errors
    /// Why its way back does not serve at `now_us`.
    pub fn way_back_of(
        &self,
        file: &BundleFile,
        now_us: i64,
    ) -> Result<Option<(u64, i64)>, Diagnostic> {
        let release = file.signed.release.as_ref();
        let Some((release, back)) = release.and_then(|r| Some((r, r.way_back.as_ref()?))) else {
            return Ok(None);
        };
        let from = Revision {
            sha256: file.digest.0.to_vec(),
            sequence: release.sequence,
            issued_us: release.issued_us,
            way_back: Some(back.clone()),
            ..Revision::default()
        };
        let to = Digest::from_slice(&back.sha256).unwrap_or_default();
        let to = (to, back.sequence);
        let until_us = way_back(Some(self), &file.domain, &from, to, now_us)?;
        Ok(Some((back.sequence, until_us)))
    }
}

/// What is signed about a way back.
fn said<'a>(
    domain: &'a TrustDomain,
    (digest, sequence): (Digest, u64),
    back: &WayBack,
) -> Result<Statement<'a>, Diagnostic> {
    if back.sequence == 0 || back.sequence >= sequence {
        return Err(broken("its way back does not lead to a lower number"));
    }
    let said = statement::way_back(domain, digest, sequence, back);
    said.ok_or_else(|| broken("its way back names no digest"))
}
