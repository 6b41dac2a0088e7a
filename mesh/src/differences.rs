//! What is recorded where an engine has decided otherwise than its reference: a fault of the
//! engine, which whoever reads the log has to hear of.

use std::collections::VecDeque;

use crate::{decision::SelfCheck, wire::record::Admin};

/// Code of the alarm.
pub const ENGINE_DIFFERS: u16 = 5231;
/// Verb of the records.
pub const DIFFERS: &str = "engine_differs";

/// Revisions of which it is remembered what was recorded.
const TOLD_MAX: usize = 64;

/// What was recorded already.
#[derive(Debug, Default)]
pub struct Differences {
    /// Numbers of revisions, and how many had differed then; the one asked about last is the
    /// last.
    told: VecDeque<(u64, u64)>,
}

impl Differences {
    /// Has `record` tell of each revision in `found` under which the engine has differed: the
    /// first time, and whenever it was twice as often since, so that a broken engine cannot fill
    /// the log. One that has differed less often than before was made anew, and begins anew. What
    /// is not recorded comes again with the next call.
    ///
    /// # Errors
    /// The first of those that `record` gives.
    pub fn tell<E>(
        &mut self,
        found: &[(u64, SelfCheck)],
        mut record: impl FnMut(u64, SelfCheck) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut done = Ok(());
        for (sequence, found) in found.iter().filter(|(_, found)| found.mismatched > 0) {
            let before = self.take(*sequence).filter(|n| *n <= found.mismatched);
            let is_news = before.is_none_or(|before| found.mismatched / 2 >= before);
            let told = match is_news.then(|| record(*sequence, *found)) {
                Some(Ok(())) => Some(found.mismatched),
                Some(Err(error)) => {
                    done = done.and(Err(error));
                    before
                }
                None => before,
            };
            self.told.extend(told.map(|told| (*sequence, told)));
            if self.told.len() > TOLD_MAX {
                self.told.pop_front();
            }
        }
        done
    }

    fn take(&mut self, sequence: u64) -> Option<u64> {
        let at = self.told.iter().position(|(of, _)| *of == sequence)?;
        self.told.remove(at).map(|(_, told)| told)
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

    #[test]
    fn a_difference_is_told_once_and_again_when_it_has_doubled() {
        let mut differences = Differences::default();
        let mut told = |mismatched: u64, takes: bool| {
            let found = SelfCheck {
                checked: 100,
                mismatched,
            };
            let mut heard = Vec::new();
            let done = differences.tell(&[(7, found), (8, SelfCheck::default())], |of, found| {
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
            let found = SelfCheck {
                checked: 100,
                mismatched,
            };
            let mut heard = 0;
            let done = differences.tell(&[(of, found)], |_, _| {
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
    }
}
