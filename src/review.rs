//! An access review: every grant with a verdict and who gave it, and a sign-off over all
//! of it. It is a file that people keep beside the policies, in JSON.

use std::collections::BTreeSet;

use palisade_audit::{
    note::Verifier,
    report::{CellKind, Header, Kind, Report, Section, Table},
};
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest};
use serde::{Deserialize, Serialize};

use crate::{
    grants::{Edge, Grant, Grants, sections},
    run::audit::{SignReview, Signed},
};

/// Version of the file.
const FORMAT: u32 = 1;
/// What the file says that it is.
const KIND: &str = "palisade access review";
/// The report that shows a review.
const REPORT: &str = "access-review";

/// An access review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Review {
    /// [`KIND`].
    kind: String,
    /// [`FORMAT`].
    format: u32,
    /// What the uses were counted in.
    pub(crate) header: Header,
    /// Digest of the policies that grant it all.
    pub(crate) policy: String,
    /// The grants, numbered from 1 in this order.
    pub(crate) grants: Vec<Reviewed>,
    /// Who stands for it.
    pub(crate) sign_off: Option<SignOff>,
}

/// A grant under review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reviewed {
    /// Who may do what to what.
    #[serde(flatten)]
    pub(crate) edge: Edge,
    /// What is known of it.
    #[serde(flatten)]
    pub(crate) grant: Grant,
    /// What was decided about it.
    pub(crate) verdict: Option<Verdict>,
}

/// What a reviewer decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// Which.
    pub(crate) word: Word,
    /// The reviewer, as given.
    pub(crate) by: String,
    /// When, RFC 3339.
    pub(crate) at: String,
    /// Why; may be empty.
    pub(crate) note: String,
}

/// The three verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// Somebody else has to say.
    Ask,
    /// It stays.
    Keep,
    /// It ends.
    Revoke,
}

/// Somebody who stands for a review.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignOff {
    /// Who, as given.
    pub(crate) by: String,
    /// When, RFC 3339.
    pub(crate) at: String,
    /// SHA-256 of everything else in the review, hexadecimal.
    pub(crate) digest: String,
    /// The log's signed statement of it; empty in one of an earlier version.
    #[serde(default)]
    pub(crate) note: String,
}

/// How a review stands, by its sign-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody has signed it off.
    Unsigned,
    /// It says that it is signed off as it is, and no key was there to check that.
    Claimed,
    /// The log of the key has stated the sign-off of what it is.
    Stated,
    /// It is not what was signed off, or not by this log.
    Not,
}

/// Which grants are meant: those that everything given fits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Which {
    /// By number.
    pub(crate) rows: Vec<usize>,
    /// By caller.
    pub(crate) caller: Option<String>,
    /// By a permit that gives it.
    pub(crate) permit: Option<String>,
    /// Those that nobody used.
    pub(crate) unused: bool,
    /// Those without a verdict.
    pub(crate) undecided: bool,
}

impl Review {
    /// Begins a review of `grants`, whose uses are those of `header`.
    pub(crate) fn begin(header: Header, grants: &Grants) -> Self {
        let reviewed = grants.all.iter().map(|(edge, grant)| Reviewed {
            edge: edge.clone(),
            grant: grant.clone(),
            verdict: None,
        });
        Self {
            kind: KIND.to_owned(),
            format: FORMAT,
            header,
            policy: grants.snapshot().versions().policy.to_string(),
            grants: reviewed.collect(),
            sign_off: None,
        }
    }

    /// Reads a review; `None` when the text is none.
    ///
    /// # Errors
    /// `PLS7813` when it is one that cannot be read.
    pub(crate) fn read(text: &str) -> Result<Option<Self>, Diagnostic> {
        let value: serde_json::Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) => return Ok(None),
        };
        if value.get("kind").and_then(serde_json::Value::as_str) != Some(KIND) {
            return Ok(None);
        }
        let bad = |why: String| Diagnostic::error(7813, "the review cannot be read").cause(why);
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(bad("another version of palisade wrote it".to_owned())
                .help("use the version that wrote it"));
        }
        let review = serde_json::from_value(value);
        review.map(Some).map_err(|e| {
            bad(e.to_string())
                .help("take it back from where it is kept; what was edited by hand may be at fault")
        })
    }

    /// Puts a verdict on every grant that is meant, and takes a sign-off away; how many.
    pub(crate) fn decide(&mut self, which: &Which, verdict: &Verdict) -> usize {
        let meant = (1..)
            .zip(&mut self.grants)
            .filter(|(n, g)| which.means(*n, g));
        let mut decided = 0;
        for (_, grant) in meant {
            grant.verdict = Some(verdict.clone());
            decided += 1;
        }
        if decided > 0 {
            self.sign_off = None;
        }
        decided
    }

    /// How many grants have this verdict; none for those without one.
    pub(crate) fn count(&self, word: Option<Word>) -> usize {
        let words = self
            .grants
            .iter()
            .map(|g| g.verdict.as_ref().map(|v| v.word));
        words.filter(|found| *found == word).count()
    }

    /// What the log is to state so that it is signed off.
    ///
    /// # Errors
    /// `PLS7814` while grants have no verdict, or one that asks somebody else.
    pub(crate) fn to_sign(&self, by: &str) -> Result<SignReview, Diagnostic> {
        let (open, asked) = (self.count(None), self.count(Some(Word::Ask)));
        if open + asked > 0 {
            return Err(Diagnostic::error(7814, "the review is not finished")
                .cause(format!("{open} grants have no verdict, and {asked} say ask"))
                .help("decide about them: palisade report review decide FILE keep --undecided --by NAME"));
        }
        Ok(SignReview {
            by: by.to_owned(),
            digest: self.digest(),
            policy: self.policy.clone(),
        })
    }

    /// Signs it off, with what the log says of what was to be signed.
    pub(crate) fn sign(&mut self, asked: SignReview, signed: Signed) {
        self.sign_off = Some(SignOff {
            by: asked.by,
            at: signed.at,
            digest: asked.digest,
            note: signed.note,
        });
    }

    /// How it stands; only the key of the log tells a sign-off from what says that it is one.
    pub(crate) fn standing(&self, key: Option<&Verifier>) -> Standing {
        let Some(sign_off) = &self.sign_off else {
            return Standing::Unsigned;
        };
        if sign_off.digest != self.digest() || sign_off.note.is_empty() {
            return Standing::Not;
        }
        match key.and_then(|key| self.is_stated(key)) {
            None => Standing::Claimed,
            Some(Ok(())) => Standing::Stated,
            Some(Err(_)) => Standing::Not,
        }
    }

    /// Whether the log of `key` has stated the sign-off; none without one.
    pub(crate) fn is_stated(&self, key: &Verifier) -> Option<Result<(), String>> {
        let sign_off = self.sign_off.as_ref()?;
        let stated = SignReview {
            by: sign_off.by.clone(),
            digest: self.digest(),
            policy: self.policy.clone(),
        };
        Some(stated.is_stated(&sign_off.at, key, &sign_off.note))
    }

    fn digest(&self) -> String {
        let unsigned = Self {
            sign_off: None,
            ..self.clone()
        };
        let text = serde_json::to_vec(&unsigned).unwrap_or_default();
        Digest::of(&text).to_string()
    }

    /// What is to end.
    pub(crate) fn revoked(&self) -> BTreeSet<Edge> {
        let is_revoked = |g: &&Reviewed| g.verdict.as_ref().is_some_and(|v| v.word == Word::Revoke);
        let revoked = self.grants.iter().filter(is_revoked);
        revoked.map(|g| g.edge.clone()).collect()
    }

    /// What differs from what policies and log say now, in words.
    pub(crate) fn differences(&self, now: &Grants) -> Vec<String> {
        let mut told = Vec::new();
        for (n, said) in (1..).zip(&self.grants) {
            match now.all.get(&said.edge) {
                None => told.push(format!("row {n}: the policies do not grant it")),
                Some(found) if found.uses != said.grant.uses => told.push(format!(
                    "row {n}: {} uses in the review, {} in the log",
                    said.grant.uses, found.uses
                )),
                Some(found) if *found != said.grant => {
                    told.push(format!(
                        "row {n}: other permits or another time of last use"
                    ));
                }
                Some(_) => {}
            }
        }
        let known: BTreeSet<&Edge> = self.grants.iter().map(|g| &g.edge).collect();
        let missing = now.all.keys().filter(|edge| !known.contains(edge)).count();
        if missing > 0 {
            told.push(format!(
                "{missing} grants of the policies are not in the review"
            ));
        }
        told
    }

    /// The report whose head it has, without its parts.
    ///
    /// # Errors
    /// When there is no such report.
    pub(crate) fn counted(&self) -> Result<Report, Diagnostic> {
        let kind = Kind::find(REPORT)?;
        Ok(Report {
            format: palisade_audit::report::FORMAT,
            name: kind.name.to_owned(),
            title: kind.title.to_owned(),
            question: kind.question.to_owned(),
            header: self.header.clone(),
            sections: Vec::new(),
        })
    }

    /// The review as a report, which says how it stands.
    pub(crate) fn report(&self, standing: Standing) -> Report {
        let mut header = self.header.clone();
        header.rows = u64::try_from(self.grants.len()).unwrap_or(u64::MAX);
        Report {
            format: palisade_audit::report::FORMAT,
            name: REPORT.to_owned(),
            title: "Access review".to_owned(),
            question: "Who has which access, and should they keep it?".to_owned(),
            header,
            sections: vec![self.verdicts(standing)],
        }
    }

    fn verdicts(&self, standing: Standing) -> Section {
        let mut table = Table::new(&[
            ("row", CellKind::Number),
            ("caller", CellKind::Text),
            ("service", CellKind::Text),
            ("action", CellKind::Text),
            ("resource", CellKind::Text),
            ("permits", CellKind::Text),
            ("uses", CellKind::Number),
            ("verdict", CellKind::Text),
            ("reviewer", CellKind::Text),
            ("decided", CellKind::Time),
            ("note", CellKind::Text),
        ]);
        table.rows = (1_usize..).zip(&self.grants).map(row).collect();
        table.total = u64::try_from(table.rows.len()).unwrap_or(u64::MAX);
        let mut section = Section::new(
            "verdicts",
            "Verdicts",
            "One row for each grant of the policies, with what the reviewer decided. The log signs the sign-off: who, when, and the digest of everything in the review.",
        )
        .figure(sections::POLICY_DIGEST, &self.policy)
        .figure("grants", self.grants.len())
        .figure("keep", self.count(Some(Word::Keep)))
        .figure("revoke", self.count(Some(Word::Revoke)))
        .figure("ask", self.count(Some(Word::Ask)))
        .figure("without a verdict", self.count(None));
        section = match (&self.sign_off, standing) {
            (Some(sign_off), Standing::Stated) => section
                .figure("signed off by", &sign_off.by)
                .figure("signed off at", &sign_off.at)
                .figure("digest", &sign_off.digest),
            (Some(sign_off), Standing::Claimed) => section
                .figure("claims to be signed off by", &sign_off.by)
                .figure("claims to be signed off at", &sign_off.at)
                .figure("signature of the log", "NOT CHECKED")
                .figure("digest", &sign_off.digest),
            (Some(_), _) => section.figure("signed off", "NOT AS IT STANDS"),
            (None, _) => section.figure("signed off", "no"),
        };
        section.table = Some(table);
        section.cannot_show(
            "that reviewer and signer are who they say: the log vouches for the moment and the content",
        )
    }
}

fn row((n, reviewed): (usize, &Reviewed)) -> Vec<String> {
    let Reviewed {
        edge,
        grant,
        verdict,
    } = reviewed;
    let permits: Vec<String> = grant.permits.iter().cloned().collect();
    let (word, by, at, note) = match verdict {
        Some(v) => (
            v.word.as_str(),
            v.by.as_str(),
            v.at.as_str(),
            v.note.as_str(),
        ),
        None => ("", "", "", ""),
    };
    vec![
        n.to_string(),
        edge.caller.clone(),
        edge.service.clone(),
        edge.action.clone(),
        crate::history::flips::short(&edge.resource).to_owned(),
        permits.join(", "),
        grant.uses.to_string(),
        word.to_owned(),
        by.to_owned(),
        at.to_owned(),
        note.to_owned(),
    ]
}

impl Word {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Keep => "keep",
            Self::Revoke => "revoke",
        }
    }
}

impl Which {
    /// Whether nothing at all was given.
    pub(crate) fn is_empty(&self) -> bool {
        let named = self.caller.is_some() || self.permit.is_some();
        self.rows.is_empty() && !named && !self.unused && !self.undecided
    }

    fn means(&self, n: usize, reviewed: &Reviewed) -> bool {
        let Reviewed {
            edge,
            grant,
            verdict,
        } = reviewed;
        let is =
            |name: &Option<String>, test: &dyn Fn(&String) -> bool| name.as_ref().is_none_or(test);
        (self.rows.is_empty() || self.rows.contains(&n))
            && is(&self.caller, &|caller| edge.caller == *caller)
            && is(&self.permit, &|permit| grant.permits.contains(permit))
            && (!self.unused || grant.uses == 0)
            && (!self.undecided || verdict.is_none())
    }
}
