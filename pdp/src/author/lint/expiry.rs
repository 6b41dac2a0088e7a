//! Permits whose time is over, or soon will be.

use jiff::Timestamp;
use palisade_mesh::diagnostic::Diagnostic;

use super::{Finding, Policy, Study};
use crate::author::codes;

/// Days before `@expires` from which on it is told.
pub const EXPIRES_SOON_DAYS: i64 = 30;
const US_PER_DAY: i64 = 86_400_000_000;

/// Permits that expire, with how long they still hold, in microseconds.
fn expiring(study: &Study) -> impl Iterator<Item = (&Policy, i64, i64)> {
    study.policies.iter().filter_map(|policy| {
        let at = study.read(policy).info.expires_us?;
        Some((policy, at, at.saturating_sub(study.now_us)))
    })
}

fn told(study: &Study, policy: &Policy, diagnostic: Diagnostic) -> Finding {
    let at = study.read(policy).find("@expires");
    diagnostic.at(at).into()
}

pub(super) fn expired(study: &Study, findings: &mut Vec<Finding>) {
    findings.extend(
        expiring(study)
            .filter(|(.., left)| *left <= 0)
            .map(|(policy, at, _)| {
                let diagnostic = Diagnostic::warning(
                    codes::EXPIRED,
                    format!("permit `{}` has expired", policy.id),
                )
                .label(format!("at {}", moment(at)))
                .cause("it permits nothing any more")
                .help("remove it, or give it a later `@expires`");
                told(study, policy, diagnostic)
            }),
    );
}

pub(super) fn soon(study: &Study, findings: &mut Vec<Finding>) {
    let near = |left: i64| left > 0 && left <= EXPIRES_SOON_DAYS * US_PER_DAY;
    findings.extend(
        expiring(study)
            .filter(|(.., left)| near(*left))
            .map(|(policy, at, left)| {
                let diagnostic = Diagnostic::warning(
                    codes::EXPIRES_SOON,
                    format!("permit `{}` expires in {} d", policy.id, left / US_PER_DAY),
                )
                .label(format!("at {}", moment(at)))
                .cause("what it permits is denied from then on")
                .help("give it a later `@expires`, or see that nobody needs it by then");
                told(study, policy, diagnostic)
            }),
    );
}

fn moment(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |t| t.to_string())
}
