//! What the log says of what becomes of its segments: what is dropped from them, and where
//! they went.
//!
//! Each time it is told before it is done, with what the segment lacked before and what it
//! will lack, so that what is told of a segment is a chain that begins with a whole one. What
//! came to nothing is told, too, and takes its link off again: who puts it in place later has
//! no record that says so.
//!
//! It is done only when what was told is signed. So what a start finds above the last
//! checkpoint was not done by us, whoever wrote it, and the start says that it counts for
//! nothing before it signs it.

use std::collections::BTreeMap;

use palisade_mesh::{
    spiffe_id::TrustDomain,
    wire::record::{Admin, Dropping, LogLifecycle, Moving},
};
use prost::Message as _;

use crate::{
    checkpoint,
    envelope::{ADMIN, EnvelopeRef, LOG_LIFECYCLE, RecordPeek},
    log::stored::OWN_WORKER,
    merkle::{self, Hash},
    note::Verifier,
    stream::StreamKey,
};

/// The verb under which it is told that records are dropped.
pub(crate) const RECORDS_DROPPED: &str = "records_dropped";

/// The verb under which it is told that they were not.
pub(crate) const RECORDS_LEFT: &str = "records_left";

/// What a record of these begins with that tells of one segment.
pub(crate) const OF_SEGMENT: &str = "of the segment that begins with record ";

/// The verb under which it is told that a segment goes to the archive.
pub(crate) const SEGMENTS_MOVED: &str = "segments_moved";

/// The verb under which it is told of an object that a segment left in the archive when it did
/// not go, and that is deleted.
pub(crate) const SEGMENTS_LEFT: &str = "segments_left";

/// The verb under which it is told that segments came back.
#[cfg(feature = "index")]
pub(crate) const SEGMENTS_RESTORED: &str = "segments_restored";

/// The verb under which it is told that what was told last is done.
pub(crate) const RECORDS_GONE: &str = "records_gone";

/// The verb under which it is told from where on nothing was signed at a start.
pub(crate) const RECORDS_UNSIGNED: &str = "records_unsigned";

/// The verb under which it is recorded that a hold was added.
pub(crate) const HOLD_ADDED: &str = "hold_added";

/// The verb under which it is recorded that one was not, though it was recorded before.
pub(crate) const HOLD_ADD_FAILED: &str = "hold_add_failed";

/// The verb under which it is recorded that a hold was released.
pub(crate) const HOLD_RELEASED: &str = "hold_released";

/// The verb under which it is recorded that one was not, though it was recorded before.
pub(crate) const HOLD_RELEASE_FAILED: &str = "hold_release_failed";

/// All that is recorded of holds.
pub(crate) const ORDERS: [&str; 4] = [
    HOLD_ADDED,
    HOLD_ADD_FAILED,
    HOLD_RELEASED,
    HOLD_RELEASE_FAILED,
];

/// All that was told, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What the rest follows from, by index.
    said: Vec<(u64, Said)>,
    chains: BTreeMap<u64, Chain>,
    /// The segment about which it was told last, as long as that may not be done.
    newest: Option<u64>,
    /// What is told from this record on happens while segments are read.
    meanwhile: Option<u64>,
    /// By segment, each object that was put of it.
    moved: BTreeMap<u64, Vec<MovedTo>>,
}

/// An object that the log says it has put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MovedTo {
    /// Its name.
    pub(crate) object: String,
    /// SHA-256 of its bytes.
    pub(crate) sum: Hash,
    /// The digest of what may stand in the place of the segment; nothing of one that did not go.
    stub: Option<Hash>,
}

/// What one record tells.
#[derive(Debug)]
enum Said {
    Dropped(Dropping),
    Left(Dropping),
    /// What was told last is done.
    Gone(Dropping),
    /// A segment went away, or left an object behind.
    Moved(u64, MovedTo),
    /// Nothing counts that was told from this record on.
    Unsigned(u64),
}

/// What was told of one segment.
#[derive(Debug, Default)]
struct Chain {
    /// What it lacks when all is done that was told; nothing for a whole one.
    last: Option<Hash>,
    /// What it lacked before that.
    before: Option<Hash>,
    /// What it lacked at some time since segments are read.
    earlier: Vec<Option<Hash>>,
}

/// How a segment is to be judged by what it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is as it was told.
    Told,
    /// It is as it was before what was told last of all, which may not be done yet.
    Pending,
    /// It lacks what nothing that was told explains.
    Untold,
    /// It has what it was told to lack.
    Back,
}

impl Standing {
    /// What is wrong, in words; none where nothing need be.
    pub(crate) fn fault(self) -> Option<&'static str> {
        match self {
            Self::Told | Self::Pending => None,
            Self::Untold => Some("records were dropped from it, and no record of the log says so"),
            Self::Back => {
                Some("records that the log says were dropped from it are there: it was put back")
            }
        }
    }
}

impl Told {
    /// Of segments that are read while records from `first` on are written.
    pub(crate) fn meanwhile(first: u64) -> Self {
        Self {
            meanwhile: Some(first),
            ..Self::default()
        }
    }

    /// Takes in the record at `index`.
    ///
    /// # Errors
    /// What it says that cannot be, in words.
    pub(crate) fn take(
        &mut self,
        index: u64,
        lifecycle: &LogLifecycle,
    ) -> Result<(), &'static str> {
        let said = match (lifecycle.verb.as_str(), &lifecycle.dropping) {
            (RECORDS_DROPPED, Some(dropping)) => Said::Dropped(dropping.clone()),
            (RECORDS_LEFT, Some(dropping)) => Said::Left(dropping.clone()),
            (RECORDS_GONE, Some(dropping)) => Said::Gone(dropping.clone()),
            (SEGMENTS_MOVED | SEGMENTS_LEFT, _) => match &lifecycle.moving {
                Some(moving) => {
                    let goes = lifecycle.verb == SEGMENTS_MOVED;
                    Said::Moved(moving.segment, MovedTo::read(moving, goes)?)
                }
                None => return Ok(()),
            },
            (RECORDS_UNSIGNED, _) => match lifecycle.unsigned_from {
                Some(from) => Said::Unsigned(from),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let linked = match &said {
            Said::Unsigned(_) => {
                self.said.push((index, said));
                self.again();
                return Ok(());
            }
            said => self.link(index, said),
        };
        self.said.push((index, said));
        linked
    }

    /// Takes in again what counts of all that was said.
    fn again(&mut self) {
        let said = std::mem::take(&mut self.said);
        *self = Self {
            meanwhile: self.meanwhile,
            ..Self::default()
        };
        let marks = said.iter().filter_map(|(index, said)| match said {
            Said::Unsigned(from) => Some((*index, *from)),
            _ => None,
        });
        let marks: Vec<(u64, u64)> = marks.collect();
        let void = voided(&marks);
        for (index, said) in said.iter().filter(|(index, _)| !void(*index)) {
            // What is wrong with one was told when it was taken in.
            let _ = self.link(*index, said);
        }
        self.said = said;
    }

    fn link(&mut self, index: u64, said: &Said) -> Result<(), &'static str> {
        if let Said::Moved(segment, to) = said {
            let all = self.moved.entry(*segment).or_default();
            if !all.contains(to) {
                all.push(to.clone());
            }
        }
        let (Said::Dropped(dropping) | Said::Left(dropping) | Said::Gone(dropping)) = said else {
            return Ok(());
        };
        let hash = |bytes: &[u8]| Hash::try_from(bytes).ok();
        let previous = match dropping.previous.as_slice() {
            [] => Some(None),
            bytes => hash(bytes).map(Some),
        };
        let (Some(digest), Some(previous)) = (hash(&dropping.digest), previous) else {
            return Err("it does not say what was dropped");
        };
        let meanwhile = self.meanwhile.is_some_and(|from| index >= from);
        if meanwhile
            && let Some(newest) = self.newest.and_then(|newest| self.chains.get_mut(&newest))
        {
            // It may have been read before that was done.
            newest.earlier.push(newest.before);
        }
        let chain = self.chains.entry(dropping.segment).or_default();
        if !matches!(said, Said::Dropped(_)) {
            // Only what was told last can have come to nothing, or be done only now.
            let fits = (chain.last, chain.before) == (Some(digest), previous);
            if fits && self.newest == Some(dropping.segment) {
                if matches!(said, Said::Left(_)) {
                    chain.goes_to(previous, meanwhile);
                }
                self.newest = None;
            }
            return Ok(());
        }
        let goes_on = chain.last == previous;
        chain.goes_to(Some(digest), meanwhile);
        chain.before = previous;
        self.newest = Some(dropping.segment);
        match goes_on {
            true => Ok(()),
            false => Err("it says that the segment lacked something else before than was told"),
        }
    }

    /// What is to be thought of `segment`, if this is the digest of what it says that it
    /// lacks.
    pub(crate) fn standing(&self, segment: u64, lacks: Option<Hash>) -> Standing {
        let Some(chain) = self.chains.get(&segment) else {
            return match lacks {
                None => Standing::Told,
                Some(_) => Standing::Untold,
            };
        };
        match lacks {
            lacks if lacks == chain.last || chain.earlier.contains(&lacks) => Standing::Told,
            lacks if self.newest == Some(segment) && lacks == chain.before => Standing::Pending,
            None => Standing::Back,
            Some(_) => Standing::Untold,
        }
    }

    /// Whether a signed record says that `segment` went away, and that this is the digest of
    /// what stays of it. An earlier one that was put back is known by what its object lacks.
    #[cfg(feature = "index")]
    pub(crate) fn is_moved(&self, segment: u64, stub: &Hash) -> bool {
        self.moved_as(segment, stub).is_some()
    }

    /// The object that a signed record names where this is the digest of what stays of `segment`.
    #[cfg(feature = "index")]
    pub(crate) fn moved_as(&self, segment: u64, stub: &Hash) -> Option<&MovedTo> {
        let mut all = self.moved.get(&segment)?.iter();
        all.find(|to| to.stub.as_ref() == Some(stub))
    }

    /// The object of `segment` of that name, if a signed record names it.
    #[cfg(feature = "index")]
    pub(crate) fn put_as(&self, segment: u64, object: &str) -> Option<&MovedTo> {
        let mut all = self.moved.get(&segment)?.iter();
        all.find(|to| to.object == object)
    }

    /// What was told last, as long as it may not be done: the segment, what it lacks then,
    /// and before.
    #[cfg(feature = "index")]
    pub(crate) fn pending(&self) -> Option<(u64, Hash, Option<Hash>)> {
        let segment = self.newest?;
        let chain = self.chains.get(&segment)?;
        Some((segment, chain.last?, chain.before))
    }
}

impl MovedTo {
    /// What a record says; of a segment that `goes` something stays.
    fn read(moving: &Moving, goes: bool) -> Result<Self, &'static str> {
        let sum = Hash::try_from(moving.sha256.as_slice());
        let stub = Hash::try_from(moving.stub.as_slice()).ok();
        match (sum, stub) {
            (Err(_), _) => Err("it does not say what went"),
            (Ok(_), None) if goes => Err("it does not say what stays of a segment"),
            (Ok(sum), stub) => Ok(Self {
                object: moving.object.clone(),
                sum,
                stub: stub.filter(|_| goes),
            }),
        }
    }
}

impl Chain {
    fn goes_to(&mut self, state: Option<Hash>, meanwhile: bool) {
        let before = std::mem::replace(&mut self.last, state);
        if meanwhile {
            self.earlier.push(before);
        }
    }
}

/// Whether the record at an index counts for nothing: what was not signed when the log was
/// opened, by the ascending (index, first record that was not signed) of those that tell so.
/// One that is itself among these tells nothing.
pub(crate) fn voided(marks: &[(u64, u64)]) -> impl Fn(u64) -> bool {
    let mut spans: Vec<std::ops::Range<u64>> = Vec::new();
    for (index, from) in marks.iter().rev() {
        let counts = spans.last().is_none_or(|later| *index < later.start);
        if counts && from < index {
            spans.push(*from..*index);
        }
    }
    move |index| spans.iter().any(|span| span.contains(&index))
}

/// What a record says of what became of segments, where the log whose key is `key` says it itself.
pub(crate) fn said(
    key: &Verifier,
    envelope: &EnvelopeRef<'_>,
    peek: &RecordPeek<'_>,
) -> Option<LogLifecycle> {
    if peek.class != LOG_LIFECYCLE {
        return None;
    }
    let lifecycle = LogLifecycle::decode(peek.body).ok()?;
    if lifecycle.dropping.is_none()
        && lifecycle.moving.is_none()
        && lifecycle.unsigned_from.is_none()
    {
        return None;
    }
    let stream = of_audit(key, envelope)?;
    (stream.worker == OWN_WORKER).then_some(lifecycle)
}

/// What a record says of a legal hold, where the audit service of the log whose key is `key`
/// says it.
pub(crate) fn ordered(
    key: &Verifier,
    envelope: &EnvelopeRef<'_>,
    peek: &RecordPeek<'_>,
) -> Option<Admin> {
    if peek.class != ADMIN {
        return None;
    }
    let admin = Admin::decode(peek.body).ok()?;
    if !ORDERS.contains(&admin.verb.as_str()) {
        return None;
    }
    of_audit(key, envelope).map(|_| admin)
}

/// The stream of a record, if it is one of the audit service.
fn of_audit(key: &Verifier, envelope: &EnvelopeRef<'_>) -> Option<StreamKey> {
    let stream = StreamKey::decode(envelope.stream)?;
    let domain = TrustDomain::parse(checkpoint::domain(key.name())?).ok()?;
    (stream.reporter == domain.role("audit")).then_some(stream)
}

/// The digest by which is told what a segment lacks.
pub(crate) fn digest(sparse: &[u8]) -> Hash {
    merkle::sha256(sparse)
}

#[cfg(test)]
mod tests {
    use palisade_mesh::wire::record::Dropping;

    use super::*;

    fn told(verb: &str, segment: u64, previous: Option<u8>, digest: u8) -> LogLifecycle {
        LogLifecycle {
            verb: verb.into(),
            detail: String::new(),
            dropping: Some(Dropping {
                segment,
                digest: vec![digest; 32],
                previous: previous.map_or_else(Vec::new, |byte| vec![byte; 32]),
            }),
            moving: None,
            unsigned_from: None,
        }
    }

    fn unsigned(from: u64) -> LogLifecycle {
        LogLifecycle {
            verb: RECORDS_UNSIGNED.into(),
            unsigned_from: Some(from),
            ..LogLifecycle::default()
        }
    }

    fn is(byte: u8) -> Option<Hash> {
        Some([byte; 32])
    }

    #[test]
    fn a_segment_is_as_it_was_told_last_and_before_only_while_that_may_not_be_done() {
        let mut all = Told::default();
        assert_eq!(all.standing(0, None), Standing::Told);
        assert_eq!(all.standing(0, is(1)), Standing::Untold);
        all.take(5, &told(RECORDS_DROPPED, 0, None, 1)).unwrap();
        assert_eq!(all.standing(0, None), Standing::Pending);
        assert_eq!(all.standing(0, is(1)), Standing::Told);
        all.take(6, &told(RECORDS_DROPPED, 9, None, 7)).unwrap();
        assert_eq!(all.standing(0, None), Standing::Back);
        all.take(7, &told(RECORDS_DROPPED, 0, Some(1), 2)).unwrap();
        assert_eq!(all.standing(0, is(1)), Standing::Pending);
        assert_eq!(all.standing(0, is(3)), Standing::Untold);
        all.take(8, &told(RECORDS_LEFT, 0, Some(1), 2)).unwrap();
        assert_eq!(all.standing(0, is(1)), Standing::Told);
        assert_eq!(all.standing(0, is(2)), Standing::Untold);
        // What was left before is told of again.
        all.take(9, &told(RECORDS_DROPPED, 0, Some(1), 2)).unwrap();
        assert_eq!(all.standing(0, is(2)), Standing::Told);
    }

    /// A chain that does not go on is one into which somebody has written.
    #[test]
    fn what_was_told_goes_on_from_what_was_told_before() {
        let mut all = Told::default();
        assert!(all.take(1, &told(RECORDS_DROPPED, 0, Some(4), 1)).is_err());
        assert!(all.take(2, &told(RECORDS_DROPPED, 0, None, 2)).is_err());
        assert!(all.take(3, &told(RECORDS_DROPPED, 0, Some(2), 3)).is_ok());
        let mut torn = told(RECORDS_DROPPED, 0, Some(3), 4);
        torn.dropping.as_mut().unwrap().digest.pop();
        assert!(all.take(4, &torn).is_err());
        assert_eq!(all.standing(0, is(3)), Standing::Told);
    }

    /// Only what was told last of all can have come to nothing.
    #[test]
    fn what_is_done_is_not_undone_by_word() {
        let mut all = Told::default();
        all.take(1, &told(RECORDS_DROPPED, 0, None, 1)).unwrap();
        all.take(2, &told(RECORDS_DROPPED, 9, None, 7)).unwrap();
        all.take(3, &told(RECORDS_LEFT, 0, None, 1)).unwrap();
        all.take(4, &told(RECORDS_LEFT, 9, None, 8)).unwrap();
        assert_eq!(all.standing(0, None), Standing::Back);
        assert_eq!(all.standing(9, is(7)), Standing::Told);
    }

    /// On both sides of what was signed, and though it says the same of what was.
    #[test]
    fn what_was_not_signed_when_the_log_was_opened_counts_for_nothing() {
        let mut all = Told::default();
        all.take(1, &told(RECORDS_DROPPED, 0, None, 1)).unwrap();
        all.take(2, &told(RECORDS_DROPPED, 9, None, 7)).unwrap();
        all.take(3, &told(RECORDS_DROPPED, 0, Some(1), 2)).unwrap();
        all.take(4, &unsigned(0)).unwrap();
        all.take(5, &told(RECORDS_LEFT, 0, Some(1), 2)).unwrap();
        assert_eq!(all.standing(9, None), Standing::Told);
        all.take(6, &unsigned(3)).unwrap();
        // Of those above, the one that says that none counts does not count either.
        assert_eq!(all.standing(0, is(1)), Standing::Told);
        assert_eq!(all.standing(0, is(2)), Standing::Untold);
        assert_eq!(all.standing(9, is(7)), Standing::Told);
        assert_eq!(all.standing(9, None), Standing::Pending);
        all.take(7, &told(RECORDS_DROPPED, 0, Some(1), 3)).unwrap();
        assert_eq!(all.standing(0, is(3)), Standing::Told);
    }

    /// A segment may have been read before or after what is told meanwhile.
    #[test]
    fn while_segments_are_read_each_state_counts_that_one_was_in() {
        let mut all = Told::meanwhile(10);
        all.take(1, &told(RECORDS_DROPPED, 0, None, 1)).unwrap();
        all.take(10, &told(RECORDS_DROPPED, 0, Some(1), 2)).unwrap();
        all.take(11, &told(RECORDS_DROPPED, 9, None, 7)).unwrap();
        for (lacks, standing) in [
            // It was told before, and may have been done since.
            (None, Standing::Told),
            (is(1), Standing::Told),
            (is(2), Standing::Told),
            (is(3), Standing::Untold),
        ] {
            assert_eq!(all.standing(0, lacks), standing);
        }
        let mut all = Told::meanwhile(10);
        all.take(1, &told(RECORDS_DROPPED, 0, None, 1)).unwrap();
        all.take(2, &told(RECORDS_DROPPED, 9, None, 7)).unwrap();
        all.take(10, &told(RECORDS_DROPPED, 9, Some(7), 8)).unwrap();
        assert_eq!(
            all.standing(0, None),
            Standing::Back,
            "that was done before"
        );
        assert_eq!(all.standing(9, None), Standing::Told);
    }
}
