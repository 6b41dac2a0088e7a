//! What is wrong with an archive, for as long as it is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Away, Why};

/// After a store did not answer, nobody waits for it again before this time is over.
const DOWN_FOR: Duration = Duration::from_secs(5);

/// After an object was not there, nobody asks for it again before this time is over, who does
/// not have to know.
const MISSING_FOR: Duration = Duration::from_secs(60);

/// The same of one with other bytes, which is read whole to see that.
const ALTERED_FOR: Duration = Duration::from_secs(600);

/// Objects of which it is kept what is wrong with them; of more nothing is known until they
/// are read again.
const OBJECTS_MAX: usize = 10_000;

/// All that is wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The store did not answer, or refused: until when it is not asked again, and why.
    store: Option<(Instant, String, String)>,
    /// The place is another than the log's.
    mark: Option<String>,
    /// What was fetched found no place here.
    local: Option<String>,
    /// Objects that are missing or altered, until each reads well.
    objects: BTreeMap<String, Lost>,
    /// Exchanges that came to nothing.
    pub(super) failed: u64,
}

/// What was found of an object.
#[derive(Debug)]
struct Lost {
    /// Until when that is believed.
    until: Instant,
    away: Away,
}

impl Faults {
    /// Takes in what went wrong.
    pub(super) fn take(&mut self, away: &Away) {
        self.failed += 1;
        let text = away.to_string();
        match away.why {
            Why::Altered | Why::Missing => {
                if self.objects.len() < OBJECTS_MAX || self.objects.contains_key(&away.object) {
                    let time = match away.why {
                        Why::Altered => ALTERED_FOR,
                        _ => MISSING_FOR,
                    };
                    let lost = Lost {
                        until: Instant::now() + time,
                        away: away.clone(),
                    };
                    self.objects.insert(away.object.clone(), lost);
                }
            }
            Why::Foreign => self.mark = Some(text),
            Why::Local | Why::NoRoom => self.local = Some(text),
            Why::Unreachable => {
                let until = Instant::now() + DOWN_FOR;
                self.store = Some((until, away.cause.clone(), text));
            }
            Why::Start | Why::Unset => {}
        }
    }

    /// An object was read, and is what was signed.
    pub(super) fn reads_well(&mut self, object: &str) {
        self.store = None;
        self.objects.remove(object);
    }

    /// An object is no more, as it should be.
    pub(super) fn is_gone(&mut self, object: &str) {
        self.reads_well(object);
    }

    /// An object is asked for no more: its segment is another by now, or is here.
    pub(super) fn is_replaced(&mut self, object: &str) {
        self.objects.remove(object);
    }

    /// The segment that begins with `first` is in the archive as `object` now, or is here.
    pub(super) fn has_moved(&mut self, first: u64, object: Option<&str>) {
        let is_now = |name: &String| object == Some(name.as_str());
        self.objects
            .retain(|name, lost| lost.away.segment != first || is_now(name));
    }

    /// Whether the place was found to be another than the log's.
    pub(super) fn is_foreign(&self) -> bool {
        self.mark.is_some()
    }

    /// What was fetched has its place here.
    pub(super) fn is_written(&mut self) {
        self.local = None;
    }

    /// The place has the mark of the log's archive.
    pub(super) fn is_marked(&mut self) {
        self.store = None;
        self.mark = None;
    }

    /// Why the store is not asked just now.
    pub(super) fn down(&self) -> Option<String> {
        let (until, cause, _) = self.store.as_ref()?;
        (Instant::now() < *until).then(|| cause.clone())
    }

    /// What was found of an object a moment ago, if it was missing or altered.
    pub(super) fn known(&self, object: &str, now: Instant) -> Option<Away> {
        let lost = self.objects.get(object)?;
        (now < lost.until).then(|| lost.away.clone())
    }

    #[cfg(test)]
    pub(super) fn doubt(&mut self) {
        let now = Instant::now();
        self.objects.values_mut().for_each(|lost| lost.until = now);
        if let Some((until, _, _)) = &mut self.store {
            *until = now;
        }
    }

    /// What is wrong, in words.
    pub(super) fn told(&self) -> Option<String> {
        let of_all = self.store.as_ref().map(|(_, _, text)| text);
        let of_all = of_all.or(self.mark.as_ref()).or(self.local.as_ref());
        if let Some(text) = of_all {
            return Some(text.clone());
        }
        let first = self.objects.values().next()?;
        Some(match self.objects.len() - 1 {
            0 => first.away.to_string(),
            more => format!("{}; and so of {more} more", first.away),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was found of an object is believed for its time, and not once it reads well.
    #[test]
    fn what_was_found_of_an_object_is_believed_for_a_while() {
        let away = |why| Away {
            store: "file:///s".into(),
            segment: 0,
            next: 7,
            object: "o".into(),
            why,
            cause: "so it is".into(),
        };
        for (why, time) in [(Why::Missing, MISSING_FOR), (Why::Altered, ALTERED_FOR)] {
            let mut faults = Faults::default();
            let before = Instant::now();
            faults.take(&away(why));
            let now = Instant::now();
            assert_eq!(faults.known("o", before), Some(away(why)));
            assert_eq!(faults.known("another", before), None);
            let last = before + time - Duration::from_millis(1);
            assert_eq!(faults.known("o", last), Some(away(why)));
            assert_eq!(faults.known("o", now + time), None);
            assert!(faults.told().is_some(), "it is told until it reads well");
            faults.reads_well("o");
            assert_eq!((faults.known("o", before), faults.told()), (None, None));
        }
    }
}
