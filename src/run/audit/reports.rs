//! Reports of a log: made, made again to check one, packed with their evidence and signed.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, DefaultBodyLimit},
    response::Response,
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use palisade_audit::{
    checkpoint::Checkpoint,
    decisions::Decisions,
    envelope::DecisionRef,
    going::Ended,
    index::{Store, StoreError},
    log::{Log, LogError},
    merkle::Hash,
    note::Verifier,
    policies::Policies,
    query::{Limits, Query},
    report::{self, Checked, Evidence, Ground, Kind, Period, Report, package},
    statement::{Statement, StatementError, Subject},
};
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest};
use palisade_pdp::decide::Snapshot;
use serde::{Deserialize, Serialize};

use super::{AuditRole, Unlike, attended, broken, reads::Reader, whole};
use crate::{
    cli::report::{behind, granted},
    control::{
        api::{Answer, Problem},
        server::PeerUid,
    },
};

/// Longest report that is checked, bytes.
const REPORT_LEN_MAX: usize = 64 << 20;

/// What `report run` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunReport {
    /// Which report.
    pub name: String,
    /// The time it is about, as [`Period::read`] reads it.
    pub period: String,
    /// What decisions are kept to, as a query.
    pub scope: String,
    /// The files that it goes into, as far as that is known.
    #[serde(default)]
    pub to: String,
}

/// What `report run --to FILE.tar.zst` asks.
#[derive(Debug, Serialize, Deserialize)]
pub struct PackReport {
    /// The report, as it was made.
    pub report: Report,
    /// Files that go with it: name, and content in base64.
    pub attached: BTreeMap<String, String>,
    /// Most records.
    pub records_max: usize,
    /// The file that it goes into, as far as that is known.
    #[serde(default)]
    pub to: String,
}

/// The bundle of a revision as a file that goes with a report: its name, and it in base64.
pub(crate) fn attached(bundle: &[u8]) -> (String, String) {
    let name = format!("{}.bundle", Digest::of(bundle));
    (name, BASE64.encode(bundle))
}

/// What `report review sign` asks: that the log states the sign-off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignReview {
    /// Who signs, as given.
    pub by: String,
    /// SHA-256 of everything else in the review, hexadecimal.
    pub digest: String,
    /// Digest of the policies that were reviewed, hexadecimal.
    pub policy: String,
}

/// A sign-off with the log behind it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Signed {
    /// When the log signed, RFC 3339, by its clock.
    pub at: String,
    /// The signed note.
    pub note: String,
    /// The log's public key, `NAME+HASH+KEY`.
    pub key: String,
}

impl SignReview {
    /// What the log says when it signs `at` a moment.
    ///
    /// # Errors
    /// `PLS7828` for a name that is no single line.
    pub(crate) fn statement(&self, at: &str) -> Result<Statement, Diagnostic> {
        let said = || -> Result<Statement, StatementError> {
            Statement::new(Subject::Review)
                .with("by", &self.by)?
                .with("at", at)?
                .with("sha256", &self.digest)?
                .with("policies", &self.policy)
        };
        said().map_err(|e| {
            Diagnostic::error(7828, "the sign-off cannot be signed by the log")
                .cause(e.to_string())
                .help("give a name of one line: --by NAME")
        })
    }

    /// Whether a note is the log's statement of exactly this, at this moment.
    ///
    /// # Errors
    /// In words, why it is not.
    pub(crate) fn is_stated(&self, at: &str, key: &Verifier, note: &str) -> Result<(), String> {
        let said = Statement::open(Subject::Review, key, note).map_err(|e| e.to_string())?;
        match self.statement(at) {
            Ok(expected) if expected == said => Ok(()),
            _ => Err("the log signed another sign-off".to_owned()),
        }
    }
}

/// What reports are made from.
pub(crate) struct Desk<'a> {
    /// The index.
    pub(crate) store: &'a Store,
    /// The log.
    pub(crate) log: &'a Log,
    /// The folder of the log.
    pub(crate) dir: &'a Path,
    /// The present moment, microseconds since the Unix epoch.
    pub(crate) now_us: i64,
}

impl Desk<'_> {
    /// Makes a report under the newest checkpoint. Blocks on the disk.
    ///
    /// # Errors
    /// What is wrong with the question, or with the log.
    pub(crate) fn run(&self, asked: &RunReport) -> Result<Report, StoreError> {
        self.run_under(&self.log.checkpoint(), asked)
    }

    /// Makes a report under a checkpoint of the log. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Desk::run`].
    pub(crate) fn run_under(
        &self,
        checkpoint: &Checkpoint,
        asked: &RunReport,
    ) -> Result<Report, StoreError> {
        let kind = Kind::find(&asked.name)?;
        let period = Period::read(&asked.period, self.now_us)?;
        let evidence = self.evidence(period, &asked.scope, checkpoint)?;
        report::run(kind, &evidence)
    }

    /// Makes a report again and compares. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Desk::run`].
    pub(crate) fn check(&self, told: &Report) -> Result<Checked, StoreError> {
        let scope = &told.header.scope;
        report::check(told, self.log, |period, checkpoint| {
            self.evidence(period, scope, checkpoint)
        })
    }

    /// Packs a report with its evidence; the key of the log signs it. Blocks on the disk.
    ///
    /// # Errors
    /// As [`package::pack`].
    pub(crate) fn pack(&self, asked: &PackReport) -> Result<Vec<u8>, StoreError> {
        let attached = asked.attached.iter().map(|(name, content)| {
            let content = BASE64.decode(content);
            content.map(|content| (name.clone(), content))
        });
        let attached: BTreeMap<_, _> = attached
            .collect::<Result<_, _>>()
            .map_err(|e| broken(&e.to_string()))?;
        let now = jiff::Timestamp::from_microsecond(self.now_us).unwrap_or_default();
        let mut lacks = self.of_policies(&asked.report, &attached)?;
        lacks.extend(granted::beside(&asked.report.header).cloned());
        let behind = behind(&asked.report);
        lacks.extend(behind.filter(|lack| asked.report.header.lacks.contains(lack)));
        let (checkpoint, period) = report::covered(&asked.report, self.log)?;
        let evidence = self.evidence(period, &asked.report.header.scope, &checkpoint)?;
        let policies = Policies::beside(self.dir);
        // One that cannot be read, or is not what it says, does not go with the evidence. What
        // this version does not understand, another one may.
        let kept = |digest: &Hash| {
            let bundle = policies.read(digest).ok().flatten()?;
            let other = whole(digest, bundle.clone().into());
            (!matches!(other, Err(Unlike::Other(_)))).then_some(bundle)
        };
        let beside = package::Beside {
            attached,
            kept: &kept,
            lacks,
        };
        package::pack(&asked.report, &evidence, beside, asked.records_max, now)
    }

    /// What a report lacks by the policies that it is about. Refuses one whose parts that only
    /// these can tell are not what those that go with it say of the records.
    fn of_policies(
        &self,
        report: &Report,
        attached: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<String>, StoreError> {
        let said = report.of_policies();
        let is_of_log = !granted::is_of_policies(&report.name) || granted::says_none(report);
        if said.is_empty() && is_of_log {
            return Ok(Vec::new());
        }
        let bundles = attached.values().map(Vec::as_slice);
        let bundle = granted::bundle_of(&said, bundles).ok_or_else(|| {
            Diagnostic::error(7826, "the log does not say what the report says")
                .cause("the policies that parts of it are about do not go with it")
                .help("make the report again, and the package with it")
        })?;
        let again = granted::again(report, &said, bundle, &mut |query, take| {
            self.decisions(query, take)
        });
        let again = again.map_err(first)?;
        let lacks = granted::not_replayed_of(&mut report.header.clone());
        let mut checked = Checked::default();
        again.compare(&said, &lacks, &mut checked);
        match checked.differences.is_empty() {
            true => Ok(again.lacks),
            false => Err(package::unsaid(&checked).into()),
        }
    }

    /// Shows every decision of the log that a query asks for.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) fn decisions(
        &self,
        query: &Query,
        take: &mut dyn FnMut(&DecisionRef<'_>),
    ) -> Result<(), Diagnostic> {
        let window = query.window(self.now_us, &Limits::default())?;
        let failed = |e: LogError| e.diagnostic();
        let decisions = Decisions::new(self.log, query, window).map_err(failed)?;
        let mut decisions = decisions.heeding(self.store.going());
        let shown = decisions.visit(|_, leaf| {
            if let Some(decision) = DecisionRef::of_leaf(leaf) {
                take(&decision);
            }
            ControlFlow::<()>::Continue(())
        });
        shown.map(drop).map_err(failed)
    }

    /// Has the key of the log sign a review off.
    ///
    /// # Errors
    /// `PLS7828` for a name that cannot be signed, `PLS7825` without a key.
    pub(crate) fn sign(&self, asked: &SignReview) -> Result<Signed, Diagnostic> {
        let now = jiff::Timestamp::from_microsecond(self.now_us).unwrap_or_default();
        let at = format!("{now:.0}");
        let note = self.log.sign(&asked.statement(&at)?);
        let note = note.map_err(|e| package::unsigned(&e))?;
        let key = self.log.verifier().to_string();
        Ok(Signed { at, note, key })
    }

    fn evidence(
        &self,
        period: Period,
        scope: &str,
        checkpoint: &Checkpoint,
    ) -> Result<Evidence<'_>, StoreError> {
        let ground = Ground::Log(self.log, self.dir);
        Evidence::new(self.store, ground, period, scope, checkpoint, self.now_us)
    }
}

impl AuditRole {
    pub(super) fn reports(&self) -> Router {
        let (of_run, of_check) = (self.clone(), self.clone());
        let (of_pack, of_sign) = (self.clone(), self.clone());
        Router::new()
            .route(
                "/v1/audit/report/run",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<RunReport>| async move {
                        of_run.reported(|role| async move {
                            encoded(&role.report(Reader::local(uid), q).await?.0)
                        })
                    },
                ),
            )
            .route(
                "/v1/audit/report/check",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(r): Json<Report>| async move {
                        of_check.reported(|role| async move {
                            encoded(&role.check_report(Reader::local(uid), r).await?.0)
                        })
                    },
                ),
            )
            .route(
                "/v1/audit/report/package",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<PackReport>| async move {
                        of_pack.reported(|role| role.pack(Reader::local(uid), q))
                    },
                ),
            )
            .route(
                "/v1/audit/review/sign",
                post(
                    move |ConnectInfo(uid): ConnectInfo<PeerUid>, Json(q): Json<SignReview>| async move {
                        of_sign.sign_review(&uid.to_string(), q).await
                    },
                ),
            )
            .layer(DefaultBodyLimit::max(REPORT_LEN_MAX))
    }

    /// Works on a report when it is its turn, and tells whoever reads the answer how far that is.
    fn reported<W>(&self, work: impl FnOnce(Self) -> W) -> Response
    where
        W: Future<Output = Result<Bytes, Problem>> + Send + 'static,
    {
        attended::told(self, attended::turn_of(&self.reporting), work)
    }

    pub(super) async fn report(self, reader: Reader, mut asked: RunReport) -> Answer<Report> {
        // Before the index catches up, so that it has everything under it.
        let checkpoint = self.log.checkpoint();
        let reader = reader.exporting(&asked.to);
        self.unnamed(&reader, &asked.scope)?;
        self.catch_up().await?;
        asked.scope = self.asked(&asked.scope)?.text().to_owned();
        let (role, question) = (self.clone(), told(&asked.name, &asked.period, &asked.scope));
        let make = move || {
            let dir = role.dir.join("log");
            role.desk(&dir).run_under(&checkpoint, &asked)
        };
        let made = self.answered((&reader, "report", &question), make).await?;
        let rows = usize::try_from(made.header.rows).unwrap_or(usize::MAX);
        self.reads.note(&reader, "report", &question, rows).await?;
        Ok(Json(made))
    }

    /// A report of this log with what only the policies can tell of it, and the revision that
    /// told it.
    ///
    /// # Errors
    /// When policies or decisions cannot be had.
    pub(super) async fn joined(
        &self,
        mut report: Report,
    ) -> Result<(Report, Option<Arc<Snapshot>>), Diagnostic> {
        let is_asked = self.policies.is_some() && granted::is_optional(&report.name);
        if !is_asked && !granted::is_of_policies(&report.name) {
            return Ok((report, None));
        }
        let (policies, mesh) = (self.policies.clone(), self.mesh.clone());
        let runtime = tokio::runtime::Handle::current();
        // Policies are compiled and asked for minutes: not on a thread of the runtime.
        let going = self.store.going().clone();
        let joined = tokio::task::spawn_blocking(move || {
            let of = runtime.block_on(granted::join(&mut report, policies, (&mesh, going)))?;
            Ok::<_, Vec<Diagnostic>>((report, of))
        });
        let joined = joined.await.map_err(|e| broken(&e.to_string()))?;
        joined.map_err(first)
    }

    async fn check_report(self, reader: Reader, report: Report) -> Answer<Checked> {
        self.catch_up_with_all().await?;
        let header = &report.header;
        let question = told(&report.name, &header.from, &self.told(&header.scope));
        let role = self.clone();
        let check = move || role.desk(&role.dir.join("log")).check(&report);
        let asked = (&reader, "report_verify", question.as_str());
        let checked = self.answered(asked, check).await?;
        self.reads
            .note(&reader, "report_verify", &question, 0)
            .await?;
        Ok(Json(checked))
    }

    async fn pack(self, reader: Reader, asked: PackReport) -> Result<Bytes, Problem> {
        let header = &asked.report.header;
        let reader = reader.exporting(&asked.to);
        self.unnamed(&reader, &header.scope)?;
        self.catch_up_with_all().await?;
        let question = told(&asked.report.name, &header.from, &self.told(&header.scope));
        let rows = usize::try_from(header.records).unwrap_or(usize::MAX);
        let role = self.clone();
        let pack = move || role.desk(&role.dir.join("log")).pack(&asked);
        let of = (&reader, "report_package", question.as_str());
        let packed = self.answered(of, pack).await?;
        self.reads
            .note(&reader, "report_package", &question, rows)
            .await?;
        Ok(packed.into())
    }

    async fn sign_review(self, actor: &str, asked: SignReview) -> Answer<Signed> {
        let (role, dir) = (self.clone(), self.dir.join("log"));
        let (by, digest) = (asked.by.clone(), asked.digest.clone());
        // A device may take its time.
        let signed = tokio::task::spawn_blocking(move || role.desk(&dir).sign(&asked)).await;
        let signed = signed.map_err(|e| broken(&e.to_string()))??;
        let detail = format!("by {by} at {}", signed.at);
        let object = digest.as_str();
        self.reads
            .acted(actor, "review_signed", object, &detail)
            .await?;
        Ok(Json(signed))
    }

    pub(super) fn desk<'a>(&'a self, dir: &'a Path) -> Desk<'a> {
        Desk {
            store: &self.store,
            log: &self.log,
            dir,
            now_us: self.clock.now_us(),
        }
    }

    /// Lets the index take in what the log has; a report says what it lacks while that waits for
    /// an archive.
    pub(super) async fn catch_up(&self) -> Result<(), Problem> {
        match self.flushed().await {
            Ok(()) => Ok(()),
            Err(error) if error.is_away() => Ok(()),
            Err(error) => Err(unread(error)),
        }
    }

    /// Waits until the index has taken in what the log has, as long as somebody waits for that.
    async fn flushed(&self) -> Result<(), StoreError> {
        tokio::select! {
            flushed = self.store.flush() => flushed,
            () = self.store.going().gone() => Err(Ended.into()),
        }
    }

    /// The same, where a report is made again and compared: from a part of the records it would
    /// be another, and a sound one be called wrong. Says what is waited for.
    async fn catch_up_with_all(&self) -> Result<(), Problem> {
        let flushed = self.flushed().await;
        if let Some(why) = self.store.status().stalled {
            return Err(broken(&why).into());
        }
        flushed.map_err(unread)
    }
}

/// The first of what the policies tell where they cannot be asked.
fn first(found: Vec<Diagnostic>) -> Diagnostic {
    let first = found.into_iter().next();
    first.unwrap_or_else(|| broken("bug: the policies tell nothing, and not why"))
}

/// Why the index has not taken in what the log has.
fn unread(error: StoreError) -> Problem {
    match error {
        StoreError::Ended(ended) => ended.diagnostic().into(),
        StoreError::Query(mistake) => Problem::from(*mistake),
        error => broken(&error.to_string()).into(),
    }
}

/// An answer as it is sent.
pub(super) fn encoded(answer: &impl Serialize) -> Result<Bytes, Problem> {
    let encoded = serde_json::to_vec(answer);
    Ok(encoded.map_err(|e| broken(&e.to_string()))?.into())
}

/// A report as the record of its reading names it.
pub(super) fn told(name: &str, period: &str, scope: &str) -> String {
    match scope {
        "" => format!("{name} of {period}"),
        scope => format!("{name} of {period}: {scope}"),
    }
}
