//! The journal of authorities: every transition, chained.
//!
//! An authority's state is what the journal says. Each entry carries an HMAC over
//! itself and the one before, under a key from the key-encryption key: whoever can
//! write the database but not read that key can neither add, change, reorder nor
//! drop an entry in the middle. Dropping the newest entries together with the
//! stored head is noticed only against the audit log, where every transition is a
//! record too.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::hmac;

use crate::{
    authority::{KeyId, State},
    context::framed,
};

const ENTRY_DOMAIN: &str = "palisade/ca/journal-entry/v1";

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Counts from 1, without gaps.
    pub(crate) sequence: i64,
    /// Microseconds since the Unix epoch.
    pub(crate) time_us: i64,
    /// Whose transition.
    pub(crate) key_id: KeyId,
    /// State it was in; none when it is made.
    pub(crate) before: Option<State>,
    /// State it is in now.
    pub(crate) after: State,
    /// SHA-256 of its certificate, so that no other can be put in its place.
    pub(crate) certificate: [u8; 32],
    /// Why, for people.
    pub(crate) reason: String,
    /// HMAC over all of it and the entry before.
    pub(crate) mac: Vec<u8>,
}

/// What is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// An authority and the journal do not agree.
    #[error("authority `{0}` is not the one the journal speaks of")]
    Authority(KeyId),
    /// The last entries are missing.
    #[error("journal ends at entry {found}, expected {expected}")]
    Cut {
        /// Where it should end.
        expected: i64,
        /// Where it ends.
        found: i64,
    },
    /// An entry was changed, moved or made under another key.
    #[error("journal entry {0} does not verify")]
    Entry(i64),
    /// An entry makes a transition that the state machine has not.
    #[error("journal entry {0} makes an impossible transition")]
    Transition(i64),
}

/// Where an authority stands.
#[derive(Clone)]
struct Standing {
    state: State,
    certificate: [u8; 32],
    since_us: i64,
}

/// The head of the chain and the states it leads to.
#[derive(Clone)]
pub(crate) struct Journal {
    key: hmac::Key,
    sequence: i64,
    mac: Vec<u8>,
    states: HashMap<KeyId, Standing>,
}

impl Journal {
    /// Replays stored entries, oldest first, and compares with the stored head.
    pub(crate) fn replay(
        key: hmac::Key,
        entries: &[Entry],
        head: i64,
    ) -> Result<Self, JournalError> {
        let mut journal = Self {
            key,
            sequence: 0,
            mac: Vec::new(),
            states: HashMap::new(),
        };
        for entry in entries {
            journal.check(entry)?;
            journal.accept(entry);
        }
        if journal.sequence != head {
            return Err(JournalError::Cut {
                expected: head,
                found: journal.sequence,
            });
        }
        Ok(journal)
    }

    /// The state of an authority with this certificate.
    pub(crate) fn state(&self, id: KeyId, certificate: &[u8; 32]) -> Result<State, JournalError> {
        match self.states.get(&id) {
            Some(s) if s.certificate == *certificate => Ok(s.state),
            _ => Err(JournalError::Authority(id)),
        }
    }

    /// Since when an authority is in its state, microseconds since the Unix epoch.
    pub(crate) fn since_us(&self, id: KeyId) -> Option<i64> {
        self.states.get(&id).map(|s| s.since_us)
    }

    /// The number of the last entry.
    pub(crate) fn head(&self) -> i64 {
        self.sequence
    }

    /// An authority that it speaks of but that is not among `known`.
    pub(crate) fn missing(&self, known: impl Iterator<Item = KeyId>) -> Option<KeyId> {
        let known: HashSet<KeyId> = known.collect();
        self.states.keys().find(|id| !known.contains(id)).copied()
    }

    /// Builds the entry that would come next; [`Journal::accept`] it once it is stored.
    pub(crate) fn next(
        &self,
        time_us: i64,
        key_id: KeyId,
        after: State,
        certificate: [u8; 32],
        reason: &str,
    ) -> Result<Entry, JournalError> {
        let mut entry = Entry {
            sequence: self.sequence + 1,
            time_us,
            key_id,
            before: self.states.get(&key_id).map(|s| s.state),
            after,
            certificate,
            reason: reason.into(),
            mac: Vec::new(),
        };
        entry.mac = hmac::sign(&self.key, &self.bytes(&entry)).as_ref().to_vec();
        self.check(&entry)?;
        Ok(entry)
    }

    /// Takes a stored entry as the new head.
    pub(crate) fn accept(&mut self, entry: &Entry) {
        self.sequence = entry.sequence;
        self.mac.clone_from(&entry.mac);
        let standing = Standing {
            state: entry.after,
            certificate: entry.certificate,
            since_us: entry.time_us,
        };
        self.states.insert(entry.key_id, standing);
    }

    fn check(&self, entry: &Entry) -> Result<(), JournalError> {
        let at = entry.sequence;
        if at != self.sequence + 1
            || hmac::verify(&self.key, &self.bytes(entry), &entry.mac).is_err()
        {
            return Err(JournalError::Entry(at));
        }
        let known = self.states.get(&entry.key_id);
        let legal = match (known, entry.before) {
            (None, None) => entry.after == State::Prepared,
            (Some(known), Some(before)) => {
                known.state == before
                    && before.may_become(entry.after)
                    && known.certificate == entry.certificate
            }
            _ => false,
        };
        if legal {
            Ok(())
        } else {
            Err(JournalError::Transition(at))
        }
    }

    fn bytes(&self, e: &Entry) -> Vec<u8> {
        framed(
            ENTRY_DOMAIN,
            &[
                &self.mac,
                &e.sequence.to_be_bytes(),
                &e.time_us.to_be_bytes(),
                e.key_id.as_bytes(),
                e.before.map_or("", State::as_str).as_bytes(),
                e.after.as_str().as_bytes(),
                &e.certificate,
                e.reason.as_bytes(),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    fn story() -> Vec<Entry> {
        let mut journal = Journal::replay(key(1), &[], 0).unwrap();
        let mut entries = vec![];
        for (who, after) in [
            (1, State::Prepared),
            (1, State::Active),
            (2, State::Prepared),
            (1, State::Retiring),
            (2, State::Active),
            (1, State::Retired),
        ] {
            let id = KeyId::from_slice(&[who; 20]).unwrap();
            let entry = journal.next(77, id, after, [who; 32], "test").unwrap();
            journal.accept(&entry);
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn a_journal_replays_to_the_states_it_tells() {
        let entries = story();
        let journal = Journal::replay(key(1), &entries, 6).unwrap();
        let id = |n| KeyId::from_slice(&[n; 20]).unwrap();
        assert_eq!(journal.state(id(1), &[1; 32]), Ok(State::Retired));
        assert_eq!(journal.state(id(2), &[2; 32]), Ok(State::Active));
        assert!(journal.state(id(2), &[3; 32]).is_err());
        assert!(journal.state(id(3), &[3; 32]).is_err());
        assert!(journal.next(1, id(1), State::Active, [1; 32], "").is_err());
        assert!(journal.next(1, id(4), State::Active, [4; 32], "").is_err());
    }

    #[test]
    fn a_cut_a_gap_a_swap_and_another_key_are_noticed() {
        let entries = story();
        let cut = Journal::replay(key(1), &entries[..5], 6).err();
        assert_eq!(
            cut,
            Some(JournalError::Cut {
                expected: 6,
                found: 5
            })
        );
        for gone in 0..5 {
            let mut less = entries.clone();
            less.remove(gone);
            assert!(Journal::replay(key(1), &less, 6).is_err(), "without {gone}");
            let mut swapped = entries.clone();
            swapped.swap(gone, gone + 1);
            assert!(
                Journal::replay(key(1), &swapped, 6).is_err(),
                "swapped {gone}"
            );
        }
        assert!(Journal::replay(key(2), &entries, 6).is_err());
    }

    proptest! {
        #[test]
        fn every_change_of_an_entry_is_noticed(at in 0usize..6, field in 0usize..6, bit in 0u8..8) {
            let mut entries = story();
            let entry = &mut entries[at];
            let flip = 1u8 << bit;
            match field {
                0 => entry.time_us ^= i64::from(flip),
                1 => entry.key_id = KeyId::from_slice(&[flip | 0x80; 20]).unwrap(),
                2 => entry.certificate[usize::from(bit)] ^= flip,
                3 => entry.reason.push('x'),
                4 => entry.mac[usize::from(bit)] ^= flip,
                _ => entry.after = if entry.after == State::Tainted { State::Active } else { State::Tainted },
            }
            prop_assert!(Journal::replay(key(1), &entries, 6).is_err());
        }
    }
}
