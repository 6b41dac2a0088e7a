//! Whether a part hears the kill list, for `check`.

use std::time::Duration;

use crate::{
    control::api::{Fact, FactState},
    net::kill::Holder,
    render,
};

/// How long no newly signed list may be heard before that is worth a word: the
/// authority signs one every five seconds.
const LATE: Duration = Duration::from_secs(30);

/// What to say of a part that has not heard the list for too long.
pub(super) fn fact(group: &str, name: &str, holder: &Holder) -> Option<Fact> {
    let silence = holder.silence();
    if silence < LATE {
        return None;
    }
    let text = format!(
        "{name} has not heard the kill list for {}",
        render::duration(silence)
    );
    let list = holder.held().borrow().list.clone();
    let cause = match list.issued_us() {
        0 => "it knows none: whoever is barred is let in here".to_owned(),
        _ => format!(
            "it goes on with list {}; who is barred since is let in here",
            list.sequence()
        ),
    };
    Some(
        Fact::not_ok(group, FactState::Warning, 4410, text)
            .cause(cause)
            .fix("see whether the authority runs, and what lies between: agent, PDP, clocks"),
    )
}

#[cfg(test)]
mod tests {
    use palisade_mesh::{clock::Clock, spiffe_id::TrustDomain, svid::TrustBundle};

    use super::*;

    #[test]
    fn a_list_that_is_not_heard_is_told_of_from_the_limit_on() {
        let clock = Clock::manual(jiff::Timestamp::now());
        let domain = TrustDomain::parse("acme.test").unwrap();
        let trust_domain = domain.clone();
        let nobody = move || TrustBundle {
            trust_domain: trust_domain.clone(),
            roots: Vec::new(),
        };
        let holder = Holder::new(&domain, nobody, clock.clone(), None);
        clock.advance(LATE - Duration::from_secs(1));
        assert_eq!(fact("proxies", "orders", &holder), None);
        clock.advance(Duration::from_secs(1));
        let told = fact("proxies", "orders", &holder).unwrap();
        assert_eq!(
            (told.state, told.code),
            (FactState::Warning, Some(4410)),
            "{told:?}"
        );
    }
}
