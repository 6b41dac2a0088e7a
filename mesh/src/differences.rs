//! What is recorded where an engine has decided otherwise than its reference: a fault of the
//! engine, which whoever reads the log has to hear of.

use std::{collections::VecDeque, sync::Arc};

use crate::{decision::SelfCheck, wire::record::Admin};

/// Code of the alarm.
pub const ENGINE_DIFFERS: u16 = 5231;
/// Verb of the records.
pub const DIFFERS: &str = "engine_differs";

/// Snapshots of which it is remembered what was recorded.
const TOLD_MAX: usize = 64;

/// What was found of the engines of one snapshot. Of one revision there may be several snapshots:
/// one that goes, and one that was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The snapshot, by where it is; another one may be there when it is gone.
    snapshot: usize,
    /// Number of its revision.
    pub sequence: u64,
    /// What comparing has found.
    pub check: SelfCheck,
}

impl Found {
    /// What was found of `snapshot`, of the revision with the number `sequence`.
    pub fn of<S: ?Sized>(snapshot: &Arc<S>, sequence: u64, check: SelfCheck) -> Self {
        Self {
            snapshot: Arc::as_ptr(snapshot).cast::<()>().addr(),
            sequence,
            check,
        }
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.snapshot, self.sequence) == (other.snapshot, other.sequence)
    }
}

/// What was recorded already. Whoever shares it reads what was found while holding it, or what
/// another has told meanwhile is more than what was read, and looks like an engine made anew.
#[derive(Debug, Default)]
pub struct Differences {
    /// As it was when it was recorded; the one asked about last is the last.
    told: VecDeque<Found>,
}

impl Differences {
    /// Has `record` tell of each snapshot in `found` whose engines have differed: the
    /// first time, and whenever it was twice as often since, so that a broken engine cannot fill
    /// the log. One that has differed less often than before was made anew, and begins anew. What
    /// is not recorded comes again with the next call.
    ///
    /// # Errors
    /// The first of those that `record` gives.
    pub fn tell<E>(
        &mut self,
        found: &[Found],
        mut record: impl FnMut(u64, SelfCheck) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = Ok(());
        for found in found.iter().filter(|found| found.check.mismatched > 0) {
            let mismatched = found.check.mismatched;
            let before = self
                .take(found)
                .filter(|b| b.check.mismatched <= mismatched);
            let is_news = before.is_none_or(|b| mismatched / 2 >= b.check.mismatched);
            let told = match is_news.then(|| record(found.sequence, found.check)) {
                Some(Ok(())) => Some(*found),
                Some(Err(error)) => {
                    done = done.and(Err(error));
                    before
                }
                None => before,
            };
            self.told.extend(told);
            if self.told.len() > TOLD_MAX {
                self.told.pop_front();
            }
        }
        done
    }

    fn take(&mut self, found: &Found) -> Option<Found> {
        let at = self.told.iter().position(|told| told.is_of(found))?;
        self.told.remove(at)
    }
}

/// The body of the record about the revision with the number `sequence`, by `reporter`.
pub fn differed(reporter: &str, sequence: u64, found: SelfCheck) -> Admin {
    let SelfCheck {
        checked,
        mismatched,
    } = found;
    Admin {
        actor: reporter.to_owned(),
        verb: DIFFERS.to_owned(),
        object: format!("revision {sequence}"),
        detail: format!(
            "PLS{ENGINE_DIFFERS}: {mismatched} of {checked} decisions that were compared with Cedar's own authorizer differed"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the snapshot at `snapshot`, of revision `sequence`.
    fn found(snapshot: usize, sequence: u64, mismatched: u64) -> Found {
        let check = SelfCheck {
            checked: 100,
            mismatched,
        };
        Found {
            snapshot,
            sequence,
            check,
        }
    }

    #[test]
    fn a_difference_is_told_once_and_again_when_it_has_doubled() {
        let mut differences = Differences::default();
        let mut told = |mismatched: u64, takes: bool| {
            let found = [found(1, 7, mismatched), found(2, 8, 0)];
            let mut heard = Vec::new();
            let done = differences.tell(&found, |of, found| {
                heard.push((of, found.mismatched));
                takes.then_some(()).ok_or("full")
            });
            assert_eq!(done.is_ok(), takes || heard.is_empty());
            heard
        };
        assert_eq!(told(0, true), []);
        assert_eq!(told(1, false), [(7, 1)], "not recorded");
        assert_eq!(told(1, true), [(7, 1)]);
        assert_eq!(told(1, true), []);
        assert_eq!(told(2, true), [(7, 2)]);
        assert_eq!(told(3, true), []);
        assert_eq!(told(4, true), [(7, 4)]);
    }

    /// A revision whose engine was made anew counts from nothing, and so does what is told of
    /// it; what is told of others stays.
    #[test]
    fn an_engine_that_was_made_anew_is_told_anew() {
        let mut differences = Differences::default();
        let mut told = |of: u64, mismatched: u64| {
            let mut heard = 0;
            let done = differences.tell(&[found(1, of, mismatched)], |_, _| {
                heard += 1;
                Ok::<(), ()>(())
            });
            done.expect("nothing fails");
            heard == 1
        };
        assert!(told(7, 4) && told(8, 1));
        assert!(!told(7, 4) && !told(7, 0));
        assert!(told(7, 1), "of a new one");
        assert!(!told(7, 1) && told(7, 2) && !told(8, 1));
        // Of more revisions than are remembered the newest are told once.
        (100..200).for_each(|of| assert!(told(of, 1)));
        assert!(!told(199, 1));
        assert!(told(100, 1), "it is forgotten");
    }

    /// A snapshot that goes and one that came stand beside each other for a while, both of one
    /// revision: each is told once.
    #[test]
    fn two_snapshots_of_one_revision_are_told_apart() {
        let mut differences = Differences::default();
        let mut told = |old: u64, new: u64| -> Vec<u64> {
            let mut heard = Vec::new();
            let both = [found(1, 7, old), found(2, 7, new)];
            let done = differences.tell(&both, |_, found| {
                heard.push(found.mismatched);
                Ok::<(), ()>(())
            });
            done.expect("nothing fails");
            heard
        };
        assert_eq!(told(4, 1), [4, 1]);
        assert!(told(4, 1).is_empty());
        assert_eq!(told(5, 2), [2]);
        assert_eq!(told(8, 3), [8]);
    }
}
