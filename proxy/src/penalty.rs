//! Addresses that abused a connection, and how long their next ones wait.
//!
//! Ending an abusive connection is cheap for whoever opens the next one at once: each
//! costs us a handshake, on the core that serves everybody else (T80, T81). So an address
//! from which a connection was ended for abuse gets few new ones for a while. Connections
//! that are open, and other addresses, notice nothing; honest callers behind the same
//! address wait for their turn.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// How long after its last abuse an address is held back.
const TERM: Duration = Duration::from_secs(10);
/// Time between two of its connections.
const INTERVAL: Duration = Duration::from_millis(500);
/// Connections that it gets at once.
const BURST: u32 = 4;
/// Longest wait for a turn; who would have to wait longer is refused.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Addresses that are remembered; beyond them the one that is free soonest is forgotten.
const ADDRESSES_MAX: usize = 1024;

/// When a connection may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    /// After this time.
    In(Duration),
    /// Too many wait already.
    Never,
}

/// The addresses that are held back. One for each worker.
#[derive(Debug, Default)]
pub(crate) struct Penalties(HashMap<IpAddr, Term>);

#[derive(Debug, Clone, Copy)]
struct Term {
    ends: Instant,
    /// When the next connection would be due if none came at once.
    next: Instant,
}

impl Penalties {
    /// A connection from `source` was ended for abuse.
    pub(crate) fn note(&mut self, source: IpAddr, now: Instant) {
        let source = neighbourhood(source);
        if !self.0.contains_key(&source) && self.0.len() >= ADDRESSES_MAX {
            self.make_room(now);
        }
        let ends = now + TERM;
        let fresh = Term { ends, next: now };
        self.0.entry(source).or_insert(fresh).ends = ends;
    }

    /// When a new connection from `source` may begin; asking takes the turn.
    pub(crate) fn turn(&mut self, source: IpAddr, now: Instant) -> Turn {
        if self.0.is_empty() {
            return Turn::Now;
        }
        let source = neighbourhood(source);
        let Some(term) = self.0.get_mut(&source) else {
            return Turn::Now;
        };
        if term.ends <= now {
            self.0.remove(&source);
            return Turn::Now;
        }
        let due = term.next.max(now);
        let wait = (due - now).saturating_sub(INTERVAL * (BURST - 1));
        if wait > WAIT_MAX {
            return Turn::Never;
        }
        term.next = due + INTERVAL;
        if wait.is_zero() {
            Turn::Now
        } else {
            Turn::In(wait)
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, term| term.ends > now);
        let soonest = self.0.iter().min_by_key(|(_, term)| term.ends);
        if self.0.len() >= ADDRESSES_MAX
            && let Some((address, _)) = soonest.map(|(a, t)| (*a, *t))
        {
            self.0.remove(&address);
        }
    }
}

/// What one host can choose from is one address: a whole /64 of IPv6 (RFC 6177).
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_floods_gets_a_few_at_once_then_one_after_the_other() {
        let (mut penalties, begun) = (Penalties::default(), Instant::now());
        let (bad, good) = (address("10.0.0.1"), address("10.0.0.2"));
        assert_eq!(penalties.turn(bad, begun), Turn::Now);
        penalties.note(bad, begun);
        for _ in 0..BURST {
            assert_eq!(penalties.turn(bad, begun), Turn::Now);
        }
        for n in 1..=6 {
            assert_eq!(penalties.turn(bad, begun), Turn::In(INTERVAL * n));
        }
        assert_eq!(penalties.turn(bad, begun), Turn::Never);
        assert_eq!(penalties.turn(good, begun), Turn::Now);
        // A turn becomes free with time.
        assert_eq!(penalties.turn(bad, begun + INTERVAL), Turn::In(WAIT_MAX));
    }

    #[test]
    fn a_term_ends_and_begins_anew_with_each_abuse() {
        let (mut penalties, begun) = (Penalties::default(), Instant::now());
        let bad = address("10.0.0.1");
        penalties.note(bad, begun);
        penalties.note(bad, begun + Duration::from_secs(5));
        let late = begun + TERM + Duration::from_secs(4);
        for _ in 0..=20 {
            let _ = penalties.turn(bad, late);
        }
        assert_eq!(penalties.turn(bad, late), Turn::Never);
        let ended = begun + TERM + Duration::from_secs(5);
        (0..=20).for_each(|_| assert_eq!(penalties.turn(bad, ended), Turn::Now));
        assert!(penalties.0.is_empty());
    }

    #[test]
    fn what_one_host_can_choose_from_is_one_address() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            let of = |text| neighbourhood(address(text));
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let (mut penalties, begun) = (Penalties::default(), Instant::now());
        let nth = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..=ADDRESSES_MAX {
            penalties.note(nth(n), begun + Duration::from_millis(n as u64));
        }
        assert_eq!(penalties.0.len(), ADDRESSES_MAX);
        assert!(!penalties.0.contains_key(&nth(0)), "the oldest went");
        assert!(penalties.0.contains_key(&nth(ADDRESSES_MAX)));
    }
}
