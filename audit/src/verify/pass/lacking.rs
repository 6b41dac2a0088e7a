//! What segments lack, against what they and the records of the log say of that.

use palisade_mesh::diagnostic::Severity;

use super::{
    super::{Finding, FindingKind, stored::about},
    Lacks, Pass,
    names::At,
};
use crate::{
    envelope::{class_name, is_always_kept},
    merkle,
    segment::{self, GoneRun, HEADER_LEN, sum_of},
    told::{self, Standing},
};

impl Pass<'_> {
    /// Takes in what records left that were dropped; gives how many they were.
    pub(super) fn gone(
        &mut self,
        at: At<'_>,
        encoded: &[u8],
        next: Option<u64>,
        lacks: &mut Lacks,
    ) -> u64 {
        let run = GoneRun::read(encoded);
        if self.report.live && run.as_ref().is_some_and(|run| run.next() > self.signed) {
            // Dropped since it is read: what was dropped is signed.
            self.goes_on();
        }
        let most = next.unwrap_or(self.signed).min(self.signed);
        let run = run.filter(|run| run.first() == at.leaf && run.next() <= most);
        let Some(run) = run else {
            let what = "it does not say which records were dropped";
            self.find(at.finding(FindingKind::Record, what));
            self.lose(at.leaf, at.leaf + 1);
            lacks.damaged = true;
            return 1;
        };
        sum_of(&mut lacks.sum, encoded, &run);
        for (leaf, record) in (at.leaf..).zip(run.records()) {
            if let Some(stored) = self.tile_hash(leaf)
                && stored != record.leaf
                && self.suspect.is_none()
            {
                self.suspect = Some(Finding {
                    stored: Some(merkle::hex(&stored)),
                    computed: Some(merkle::hex(&record.leaf)),
                    ..At { leaf, ..at }.finding(
                        FindingKind::Leaf,
                        "what was dropped is not the record that was signed",
                    )
                });
            }
            self.certificates.dropped(record.class);
            if is_always_kept(record.class) {
                let class = class_name(record.class);
                let what = format!("a record of the class {class} is never dropped");
                self.find(At { leaf, ..at }.finding(FindingKind::Dropped, what));
            }
            if !self.streams.dropped(record.stream, record.sequence) {
                self.find(At { leaf, ..at }.finding(
                    FindingKind::Duplicate,
                    "the record that was dropped is in the log before",
                ));
            }
            self.push(record.leaf, None);
        }
        self.report.dropped += run.len();
        run.len()
    }

    /// Compares what a segment lacks with what it says of itself.
    pub(super) fn lacks(&mut self, file: &str, first: u64, lacks: Lacks) {
        let Lacks { sum, said, damaged } = lacks;
        let found = (!sum.is_empty()).then(|| sum.encode());
        // What is damaged is named; it lacks what it says, as far as can be told.
        let found = match damaged {
            true => said.clone().or(found),
            false => found,
        };
        if said != found && !damaged {
            let what = "what it says that it lacks is not what it lacks";
            self.find(Finding {
                leaf: Some(first),
                offset: Some(HEADER_LEN),
                ..about(FindingKind::Dropped, file, what)
            });
        }
        let lacks = found.map(|found| told::digest(&found));
        self.lacking.push((first, lacks));
    }

    /// Whether a segment is not as it was told so far.
    pub(super) fn is_untold(&self) -> bool {
        #[cfg(feature = "index")]
        if self
            .away
            .iter()
            .any(|(first, stub)| !self.told.is_moved(*first, stub))
        {
            return true;
        }
        let mut all = self.lacking.iter();
        all.any(|(first, lacks)| self.told.standing(*first, *lacks).fault().is_some())
    }

    /// Names segments that lack what no signed record says was dropped, or have what one
    /// says was.
    pub(super) fn untold(&mut self) {
        #[cfg(feature = "index")]
        for (first, stub) in std::mem::take(&mut self.away) {
            if !self.told.is_moved(first, &stub) {
                let file = segment::relative(first).with_extension(segment::MOVED);
                let what = "no record of the log says that this segment went to an archive, or that this stays of it";
                self.find(Finding {
                    leaf: Some(first),
                    computed: Some(merkle::hex(&stub)),
                    ..about(FindingKind::Archive, &file.to_string_lossy(), what)
                });
            }
        }
        for (first, lacks) in std::mem::take(&mut self.lacking) {
            let standing = self.told.standing(first, lacks);
            let (severity, what) = match (standing, standing.fault()) {
                (_, Some(fault)) => (Severity::Error, fault),
                (Standing::Pending, None) if !self.report.live => (
                    Severity::Warning,
                    "the log ends before what it says was dropped from it was: a start of the audit service settles it",
                ),
                _ => continue,
            };
            let file = segment::relative(first);
            self.find(Finding {
                severity,
                leaf: Some(first),
                computed: lacks.map(|digest| merkle::hex(&digest)),
                ..about(FindingKind::Dropped, &file.to_string_lossy(), what)
            });
        }
    }
}
