//! What is wrong with an archive, for as long as it is.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Away, Why};

/// After a store did not answer, nobody waits for it again before this time is over.
pub(super) const DOWN_FOR: Duration = Duration::from_secs(5);

/// Objects of which it is kept what is wrong with them; of more nothing is known until they
/// are read again.
const OBJECTS_MAX: usize = 10_000;

/// All that is wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// The store did not answer, or refused.
    store: Option<(Instant, String, String)>,
    /// The place is another than the log's.
    mark: Option<String>,
    /// What was fetched found no place here.
    local: Option<String>,
    /// Objects that are missing or altered, until each reads well.
    objects: BTreeMap<String, String>,
    /// Exchanges that came to nothing.
    pub(super) failed: u64,
}

impl Faults {
    /// Takes in what went wrong.
    pub(super) fn take(&mut self, away: &Away) {
        self.failed += 1;
        let text = away.to_string();
        match away.why {
            Why::Altered | Why::Missing => {
                if self.objects.len() < OBJECTS_MAX || self.objects.contains_key(&away.object) {
                    self.objects.insert(away.object.clone(), text);
                }
            }
            Why::Foreign => self.mark = Some(text),
            Why::Local | Why::NoRoom => self.local = Some(text),
            Why::Unreachable => self.store = Some((Instant::now(), away.cause.clone(), text)),
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
        let (since, cause, _) = self.store.as_ref()?;
        (since.elapsed() < DOWN_FOR).then(|| cause.clone())
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
            0 => first.clone(),
            more => format!("{first}; and so of {more} more"),
        })
    }
}
