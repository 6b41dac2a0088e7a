//! What legal holds keep: the records that they are about, and what belongs to these.

use palisade_mesh::{
    diagnostic::Diagnostic,
    wire::{audit::Envelope, record::Record},
};
use prost::Message as _;
use rustc_hash::FxHashSet;

use crate::{
    holds::Held,
    item::Item,
    log::{Log, LogError},
    source::Entry,
};

/// Most ids that holds may keep at a time.
pub const HELD_IDS_MAX: usize = 4_000_000;

/// What holds keep.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) holds: Vec<Held>,
    /// Ids under which there is a record that is held: what belongs to it is, too.
    pub(super) ids: FxHashSet<[u8; 16]>,
    /// Whether damage to the log keeps them from being known.
    pub(super) damaged: bool,
}

impl Kept {
    /// Looks in the whole log for what is held, where the holds are others than before: what
    /// belongs to a record may come long after it.
    pub(super) fn follow(&mut self, log: &Log, holds: Vec<Held>) -> Result<(), Diagnostic> {
        if self.is_about(&holds) {
            return Ok(());
        }
        self.holds = holds;
        self.ids = match self.is_empty() {
            true => FxHashSet::default(),
            false => self.held_ids(log, HELD_IDS_MAX)?,
        };
        Ok(())
    }

    /// Whether it is what these keep.
    pub(super) fn is_about(&self, holds: &[Held]) -> bool {
        let known = self.holds.iter().map(|hold| &hold.id);
        known.eq(holds.iter().map(|hold| &hold.id))
    }

    /// The ids of what is held, no more than `most`. What cannot be read may be held, and so may
    /// what belongs to it, however late it came: then nothing is known.
    pub(super) fn held_ids(
        &mut self,
        log: &Log,
        most: usize,
    ) -> Result<FxHashSet<[u8; 16]>, Diagnostic> {
        let mut ids = FxHashSet::default();
        for entry in log.scan(0) {
            let entry = match entry {
                Ok(entry) => entry,
                // It stays, whatever it is.
                Err(LogError::Undecodable { .. }) => continue,
                Err(error) => {
                    self.damaged = error.is_damage();
                    return Err(untold(&error.to_string()));
                }
            };
            let item = item(entry.index, entry.envelope, entry.record);
            if let Ok(id) = <[u8; 16]>::try_from(item.record.id.as_slice())
                && self.holds.iter().any(|hold| hold.may_keep(&item))
            {
                ids.insert(id);
            }
            if ids.len() > most {
                return Err(untold(&format!("they keep more than {most} ids")));
            }
        }
        Ok(ids)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holds.is_empty()
    }

    /// Whether the record at `index` stays; one that cannot be decoded does.
    pub(super) fn keeps(&self, index: u64, leaf: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut bytes = Vec::new();
        leaf(&mut bytes);
        let Ok(envelope) = Envelope::decode(bytes.as_slice()) else {
            return true;
        };
        let Ok(record) = Record::decode(envelope.record.clone()) else {
            return true;
        };
        let id = <[u8; 16]>::try_from(record.id.as_slice());
        if id.is_ok_and(|id| self.ids.contains(&id)) {
            return true;
        }
        let item = item(index, envelope, record);
        self.holds.iter().any(|hold| hold.may_keep(&item))
    }
}

fn item(index: u64, envelope: Envelope, record: Record) -> Item {
    Item::new(Entry {
        index,
        envelope,
        record,
    })
}

fn untold(cause: &str) -> Diagnostic {
    Diagnostic::error(7575, "it cannot be told which records are held")
        .cause(cause.to_owned())
        .help("nothing is dropped meanwhile; release holds, or see: palisade audit verify")
}
