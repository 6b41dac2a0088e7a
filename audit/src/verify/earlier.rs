//! Checkpoints that somebody has kept from before: whether the log still continues them.
//!
//! The log's own checkpoints lie beside it, and whoever rewrites it can rewrite these. One that an
//! auditor took away cannot be: a log that was cut back is shorter than it, and one that was
//! written anew has another root at its size.

use serde::Serialize;

use super::{Finding, FindingKind, stored::about};
use crate::{
    checkpoint::Checkpoint,
    merkle::{self, Hash},
    note::Verifier,
};

/// A checkpoint from before, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// What to call it, such as the name of its file.
    pub name: String,
    /// The signed note.
    pub note: String,
}

/// What came of a checkpoint from before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EarlierReport {
    /// What it is called.
    pub name: String,
    /// How many records it is of; absent where it is not signed by the log's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was signed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// What the log is to it.
    pub standing: Standing,
}

/// What the log is to a checkpoint from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It begins with the very records that were signed.
    Continued,
    /// It is damaged or ends before it could be compared.
    NotCompared,
    /// It is shorter.
    RolledBack,
    /// The same key has signed other records.
    SplitView,
    /// The key of the log has not signed it.
    Unsigned,
}

/// Those that are compared while a log is read.
#[derive(Default)]
pub(super) struct Kept {
    reports: Vec<EarlierReport>,
    /// Root that each has signed, and where it differs, the one that the log has.
    roots: Vec<(Hash, Option<Hash>)>,
}

impl Kept {
    /// Opens each with the key of the log, of which the newest checkpoint is of `signed`
    /// records; gives those that the log reaches, with their place, and findings about others.
    pub(super) fn open(
        given: &[Earlier],
        key: &Verifier,
        signed: u64,
    ) -> (Self, Vec<(usize, Checkpoint)>, Vec<Finding>) {
        let (mut kept, mut reached, mut findings) = (Self::default(), Vec::new(), Vec::new());
        for (n, earlier) in given.iter().enumerate() {
            let name = &earlier.name;
            let mut report = EarlierReport {
                name: name.clone(),
                size: None,
                time: None,
                standing: Standing::Unsigned,
            };
            let mut root = Hash::default();
            match Checkpoint::open(key, &earlier.note) {
                Err(why) => {
                    let what = format!("it is no checkpoint of this log: {why}");
                    findings.push(about(FindingKind::Checkpoint, name, what));
                }
                Ok(checkpoint) => {
                    report.size = Some(checkpoint.size);
                    report.time = Some(checkpoint.time.to_string());
                    report.standing = Standing::NotCompared;
                    root = checkpoint.root;
                    if checkpoint.size > signed {
                        report.standing = Standing::RolledBack;
                        let size = checkpoint.size;
                        let what = format!(
                            "the log was rolled back: {size} records were signed, and it has {signed}"
                        );
                        findings.push(about(FindingKind::RolledBack, name, what));
                    } else {
                        reached.push((n, checkpoint));
                    }
                }
            }
            kept.reports.push(report);
            kept.roots.push((root, None));
        }
        (kept, reached, findings)
    }

    /// Notes that the log has this root at the size of the `n`th. Whether one that differs is
    /// a split view shows at the next checkpoint of the log's own.
    pub(super) fn met(&mut self, n: usize, computed: Hash) {
        let (Some(report), Some((root, found))) = (self.reports.get_mut(n), self.roots.get_mut(n))
        else {
            return;
        };
        match *root == computed {
            true => report.standing = Standing::Continued,
            false => *found = Some(computed),
        }
    }

    /// Notes that all that was read so far is what the log's own checkpoints signed: gives
    /// findings about those that say otherwise.
    pub(super) fn settle(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (report, (root, found)) in self.reports.iter_mut().zip(&mut self.roots) {
            let Some(computed) = found.take() else {
                continue;
            };
            report.standing = Standing::SplitView;
            let size = report.size.unwrap_or_default();
            let what = format!(
                "split view: the key of this log has signed other {size} records than it has, and signed these, too"
            );
            findings.push(Finding {
                stored: Some(merkle::hex(root)),
                computed: Some(merkle::hex(&computed)),
                ..about(FindingKind::SplitView, &report.name, what)
            });
        }
        findings
    }

    pub(super) fn report(self) -> Vec<EarlierReport> {
        self.reports
    }
}
