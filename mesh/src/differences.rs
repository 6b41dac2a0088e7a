//! What is recorded where an engine has decided otherwise than its reference: a fault of the
//! engine, which whoever reads the log has to hear of.

use std::collections::BTreeMap;

use crate::{decision::SelfCheck, wire::record::Admin};

/// Code of the alarm.
pub const ENGINE_DIFFERS: u16 = 5231;
/// Verb of the records.
pub const DIFFERS: &str = "engine_differs";

/// What was recorded already.
#[derive(Debug, Default)]
pub struct Differences {
    /// By number of the revision: how many had differed then.
    told: BTreeMap<u64, u64>,
}

impl Differences {
    /// Has `record` told of each revision in `found` under which the engine has differed: the
    /// first time, and whenever it was twice as often since, so that a broken engine cannot fill
    /// the log. What is not recorded comes again with the next call.
    ///
    /// # Errors
    /// The first of those that `record` gives.
    pub fn tell<E>(
        &mut self,
        found: &[(u64, SelfCheck)],
        mut record: impl FnMut(u64, SelfCheck) -> Result<(), E>,
    ) -> Result<(), E> {
        self.told
            .retain(|sequence, _| found.iter().any(|(of, _)| of == sequence));
        let mut done = Ok(());
        for (sequence, found) in found {
            let before = self.told.get(sequence).copied().unwrap_or_default();
            if found.mismatched == 0 || found.mismatched < before.saturating_mul(2) {
                continue;
            }
            match record(*sequence, *found) {
                Ok(()) => drop(self.told.insert(*sequence, found.mismatched)),
                Err(error) => done = done.and(Err(error)),
            }
        }
        done
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
}
