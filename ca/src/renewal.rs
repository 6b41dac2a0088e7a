//! When a certificate is renewed.

use std::time::Duration;

use palisade_mesh::svid::X509Svid;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::{random, trust::Superseded};

/// Longest sleep of whoever waits for a wall-clock time: the wall clock may jump
/// (suspend, NTP), and timers do not see it.
pub(crate) const NAP_MAX: Duration = Duration::from_secs(1);

/// When to renew a certificate that has `left` to live: at half of it, 20 % sooner
/// or later, so that a fleet that started together does not renew together.
pub(crate) fn renewal_after(left: Duration) -> Duration {
    left.mul_f64(0.4 + 0.2 * random::fraction())
}

/// Key id of the authority that signed this certificate, as it names it.
pub(crate) fn issuer_of(svid: &X509Svid) -> Option<Vec<u8>> {
    let (_, leaf) = X509Certificate::from_der(svid.chain.first()?).ok()?;
    leaf.extensions()
        .iter()
        .find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|k| k.0.to_vec())
            }
            _ => None,
        })
}

/// The order to replace this certificate before its time, if there is one.
pub(crate) fn is_superseded<'s>(
    svid: &X509Svid,
    superseded: &'s [Superseded],
) -> Option<&'s Superseded> {
    if superseded.is_empty() {
        return None;
    }
    let issuer = issuer_of(svid)?;
    superseded.iter().find(|s| s.authority == issuer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_half_of_the_life_give_or_take_a_fifth() {
        let times: Vec<_> = (0..1000)
            .map(|_| renewal_after(Duration::from_secs(3600)).as_secs())
            .collect();
        assert!(times.iter().all(|t| (1440..=2160).contains(t)));
        let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
        assert!(spread > 360, "jitter is missing");
        assert_eq!(renewal_after(Duration::ZERO), Duration::ZERO);
    }
}
