//! The way back: by the word of its signers, a revision may be taken back to one with a lower
//! number.
//!
//! Without it only who signs can undo a revision that others have numbered, by signing the old
//! content under a higher number. With it a PDP can, as long as the signers said, and to
//! nothing but what they named.

use palisade_mesh::{
    diagnostic::Diagnostic,
    snapshot::Digest,
    spiffe_id::TrustDomain,
    wire::policy::{Revision, WayBack},
};

use super::{Keys, Trust, forged};
use crate::bundle::{
    broken, codes,
    statement::{self, Statement},
};

impl Trust {
    /// Whether the way back of the revision that diagnostics call `what`, where it has one, is
    /// signed by as many as its number has to be.
    ///
    /// # Errors
    /// Who has signed, and who is missing.
    pub(super) fn check_way_back(
        &self,
        what: &str,
        domain: &TrustDomain,
        revision: (Digest, u64),
        back: Option<&WayBack>,
    ) -> Result<(), Diagnostic> {
        let Some(back) = back else {
            return Ok(());
        };
        let signers = self.signers(&said(domain, revision, back)?, &back.signatures)?;
        self.enough(what, "its way back", &signers)
    }
}

/// The same where nobody in particular has to have signed: somebody must.
///
/// # Errors
/// When a signature is no signature, or there is none.
pub(super) fn check_untrusting(
    domain: &TrustDomain,
    revision: (Digest, u64),
    back: Option<&WayBack>,
) -> Result<(), Diagnostic> {
    let Some(back) = back else {
        return Ok(());
    };
    let signers = said(domain, revision, back)?.signers(&back.signatures);
    let signers = signers.map_err(|f| forged(&f, &Keys::default()))?;
    match signers.is_empty() {
        true => Err(broken("nobody has signed its way back")),
        false => Ok(()),
    }
}

/// Until when `from`, which is in force and is policy of `domain`, may be taken back to the
/// revision with this digest and number, microseconds since the Unix epoch.
///
/// # Errors
/// Attack T104: that it may not, because its signers, as far as `trust` believes them now,
/// named nothing, something else, or a time that is over.
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
            trust.check_way_back(&what, domain, name, Some(back))?;
        }
        None => check_untrusting(domain, name, Some(back))?,
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
    if now_us >= back.until_us {
        let at = jiff::Timestamp::from_microsecond(back.until_us).unwrap_or_default();
        return Err(refused(format!("its way back ended at {at:.0}")));
    }
    Ok(back.until_us)
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
