//! `palisade report`: evidence from the log, for reviewers and auditors.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_audit::note::Verifier;
use palisade_audit::query::Query;
use palisade_audit::report::{self, Checked, KINDS, Kind, Report, package};
use palisade_mesh::diagnostic::Diagnostic;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Composing, Context, Exit, audit::proof, block_on};
use crate::{
    archive::Archive,
    control::{
        client::{Mesh, broken},
        status::AuditStatus,
    },
    render::{self, Output, comparison, reports},
    review::Review,
    run::audit::{self, RunReport, SignReview, Signed},
};

pub(crate) mod attending;
pub(crate) mod evidence;
pub(crate) mod files;
pub(crate) mod granted;
mod review;
mod schedule;

use granted::{NO_POLICIES, Origin};

/// The time a report is about where nothing is said.
const PERIOD_DEFAULT: &str = "last:30d";

/// How old a checkpoint may be at the end of the period.
const BEHIND_MAX: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// What to do with reports.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the reports and the controls that they are evidence for.
    List,
    /// Make a report: report run pci-dss --period 2026-Q4 --to pci.pdf --to pci.xlsx.
    Run(RunArgs),
    /// Review who has which access: verdicts, sign-off, and the change of the policies.
    #[command(subcommand)]
    Review(review::Command),
    /// Reports that the audit service makes by itself: when they are due, how the last went.
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Make a report or a review again and compare every number and row; of a package of
    /// evidence with nothing but the log's public key.
    Verify {
        /// A report, as JSON or HTML, a package (.tar.zst), or a review.
        file: PathBuf,
        /// Trusted public key of the log: a file such as `checkpoint.pub`, or `NAME+HASH+KEY`.
        /// A package needs it, and the sign-off of a review is checked with it.
        #[arg(long)]
        key: Option<String>,
        /// Of a package: key of a witness that must have cosigned the log, as a file or as
        /// `NAME+HASH+KEY`; may be given several times.
        #[arg(long = "witness", value_name = "KEY")]
        witnesses: Vec<String>,
        /// How many of the witnesses must have cosigned it; all where nothing is said.
        #[arg(long, requires = "witnesses")]
        quorum: Option<usize>,
        #[command(flatten)]
        place: Place,
    },
}

/// Arguments of `report run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Which report; `palisade report list` has all.
    name: String,
    /// The time it is about, UTC: 2026, 2026-Q4, 2026-11, 2026-11-20,
    /// 2026-11-01..2026-11-20, or as in a query: last:30d.
    #[arg(long, default_value = PERIOD_DEFAULT)]
    period: String,
    /// Keep decisions to these, as in a query: 'service:payments'.
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// A file to write, whose ending says the format: .html, .pdf, .xlsx, .csv, .json,
    /// .oscal.json; of `unused` also .patch. May be given several times; of CSV there is a
    /// file for each table. With .tar.zst it is a package of evidence: all forms, the records, their
    /// proofs, signed by the log.
    #[arg(long, value_name = "FILE")]
    to: Vec<PathBuf>,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
    /// Most records of a package.
    #[arg(long, value_name = "N", default_value_t = package::RECORDS_MAX)]
    records_max: usize,
    #[command(flatten)]
    place: Place,
}

/// Where policies and decisions come from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// The policy repository, where policies are asked, too; the revision in force in the
    /// running mesh where nothing is said.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    composing: Composing,
    /// The folder of a log, such as a copy, instead of the running mesh's.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
}

/// What makes reports: the running mesh, or this program from a log in a folder.
enum Source {
    Mesh(Mesh),
    Folder(Arc<Archive>),
}

pub(super) fn main(command: Command, context: &Context) -> Exit {
    let done = match command {
        Command::List => Ok(list(context)),
        Command::Run(args) => run(&args, context),
        Command::Review(command) => return review::main(&command, context),
        Command::Schedule(command) => return schedule::main(&command, context),
        Command::Verify {
            file,
            key,
            witnesses,
            quorum,
            place,
        } => {
            let demanded = proof::Demanded {
                witnesses: &witnesses,
                quorum: quorum.unwrap_or(witnesses.len()),
            };
            let origin = place.origin().map_err(|d| vec![d]);
            origin.and_then(|origin| verify(&file, key.as_deref(), &demanded, &origin, context))
        }
    };
    done.unwrap_or_else(|found| {
        render::diagnostics(context.output, &found);
        found.first().map_or(Exit::Failed, Exit::of)
    })
}

fn list(context: &Context) -> Exit {
    match context.output {
        Output::Human => reports::print_kinds(KINDS),
        Output::Json => {
            let kind = |kind: &Kind| {
                json!({
                    "name": kind.name,
                    "title": kind.title,
                    "question": kind.question,
                    "controls": kind.controls,
                })
            };
            render::json(&json!({ "reports": KINDS.iter().map(kind).collect::<Vec<_>>() }));
        }
    }
    Exit::Ok
}

fn run(args: &RunArgs, context: &Context) -> Result<Exit, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    // What is wrong with the request is said before minutes of work.
    Kind::find(&args.name).map_err(one)?;
    let formats = args
        .to
        .iter()
        .map(|to| Ok((to.as_path(), files::format_of(to)?)))
        .collect::<Result<Vec<_>, Diagnostic>>()
        .map_err(one)?;
    if !args.overwrite {
        args.to
            .iter()
            .try_for_each(|to| files::free(to))
            .map_err(one)?;
    }
    // Nor is a person named by what is recorded.
    let persons = Query::parse(&args.scope).map_err(one)?.names();
    let all = named_in(args.to.iter().map(PathBuf::as_path));
    audit::nameless(&all, &persons).map_err(one)?;
    let origin = args.place.origin().map_err(one)?;
    let (made, of) = block_on(async {
        let source = Source::find(&origin, context).await.map_err(one)?;
        let to = formats
            .iter()
            .filter(|(_, format)| *format != files::Format::Package);
        let asked = RunReport {
            name: args.name.clone(),
            period: args.period.clone(),
            scope: args.scope.clone(),
            to: named_in(to.map(|(to, _)| *to)),
        };
        let mut made = source.run(asked).await.map_err(one)?;
        let lacks = lacking(&made, &origin);
        made.header.lacks.extend(lacks);
        let snapshot = granted::put(&mut made, &origin, context).await?;
        Ok::<_, Vec<Diagnostic>>((made, snapshot))
    })?;
    let mut contents = Vec::new();
    for (to, format) in formats {
        attending::ask().map_err(one)?;
        if format == files::Format::Package {
            let asked = (args.records_max, named_in([to]));
            let packed = evidence::packed((&made, of.as_deref()), asked, &origin, context);
            contents.push((to.to_owned(), packed.map_err(one)?));
            continue;
        }
        contents.extend(files::contents(&made, to, format).map_err(one)?);
    }
    // From here on all of it is written.
    attending::ask().map_err(one)?;
    let written = files::put_all(contents, args.overwrite).map_err(one)?;
    match (context.output, written.is_empty()) {
        (Output::Human, _) => reports::print(&made, &written),
        (Output::Json, true) => render::json(&made),
        (Output::Json, false) => render::json(&json!({
            "files": written.iter().map(|f| f.display().to_string()).collect::<Vec<_>>(),
            "header": made.header,
        })),
    }
    Ok(Exit::Ok)
}

/// Files as whoever looks for them later needs them.
pub(crate) fn named_in<'f>(files: impl IntoIterator<Item = &'f Path>) -> String {
    let whole = |file: &Path| std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let named: Vec<String> = files
        .into_iter()
        .map(|file| whole(file).display().to_string())
        .collect();
    named.join(", ")
}

fn verify(
    file: &Path,
    key: Option<&str>,
    demanded: &proof::Demanded<'_>,
    origin: &Origin,
    context: &Context,
) -> Result<Exit, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    if matches!(files::format_of(file), Ok(files::Format::Package)) {
        return evidence::verify(file, key, origin, demanded, context).map_err(one);
    }
    if !demanded.witnesses.is_empty() {
        let told = Diagnostic::error(7831, "witnesses are asked for of a package alone")
            .cause(format!("`{}` is none: no checkpoint of theirs is in it", file.display()))
            .help("verify a package (.tar.zst), or one record: palisade audit verify --proof FILE --witness KEY");
        return Err(one(told));
    }
    let text = fs::read(file).map_err(|e| {
        let unread = format!("`{}` cannot be read", file.display());
        one(Diagnostic::error(7803, unread)
            .cause(e.to_string())
            .help("name the JSON or HTML file of a report, or a review"))
    })?;
    let text = String::from_utf8_lossy(&text);
    if let Some(review) = Review::read(&text).map_err(one)? {
        return review::verify(&review, key, origin, context);
    }
    let mut told = report::read(&text).map_err(one)?;
    let page = report::page(&text, &told).map_err(one)?;
    let of_policies = told.take_of_policies();
    let without_policies = granted::says_none(&told);
    let lacks_by_policies = take_lacks(&mut told);
    let checked = block_on(async {
        let source = Source::find(origin, context).await.map_err(one)?;
        let mut checked = source.check(&told).await.map_err(one)?;
        checked.differences.extend(page);
        if without_policies && of_policies.is_empty() {
            checked.not_compared.push(NO_POLICIES.to_owned());
            checked.same("header", "lacks", &lacks_by_policies.join("\n"), "");
        } else if granted::is_optional(&told.name) && of_policies.is_empty() {
            let said =
                "labels of services: the report was made without policies, or these had none";
            checked.not_compared.push(said.to_owned());
            checked.same("header", "lacks", &lacks_by_policies.join("\n"), "");
        } else if granted::lacks_policies(&told.name, origin) {
            let ids: Vec<&str> = of_policies.iter().map(|s| s.id.as_str()).collect();
            let ids = if ids.is_empty() {
                "none there".to_owned()
            } else {
                ids.join(", ")
            };
            checked.not_compared.push(format!(
                "what policies were asked for ({ids}): name the repository, --policies DIR"
            ));
            checked.not_compared.extend(lacks_by_policies);
        } else {
            let again = granted::sections_of(&told, origin, context).await?;
            again.compare(&of_policies, &lacks_by_policies, &mut checked);
        }
        if behind(&told).is_some() {
            let signed = &told.header.checkpoint.time;
            let later = format!("what was recorded after {signed}: it is not under the checkpoint");
            checked.not_compared.push(later);
        }
        Ok::<_, Vec<Diagnostic>>(checked)
    })?;
    match context.output {
        Output::Human => reports::print_checked(&told, &checked),
        Output::Json => render::json(&checked),
    }
    Ok(match checked.holds() {
        true => Exit::Ok,
        false => Exit::NotVerified,
    })
}

/// What a report lacks by how it was asked for.
fn lacking(report: &Report, origin: &Origin) -> Vec<String> {
    let mut lacks = Vec::new();
    if granted::lacks_policies(&report.name, origin) && !granted::is_optional(&report.name) {
        lacks.push(NO_POLICIES.to_owned());
    }
    // The checkpoint of a running mesh is the newest there is.
    if origin.log.is_some() {
        lacks.extend(behind(report));
    }
    lacks
}

/// Takes out of a report's head what [`lacking`] put there, and what only the policies can
/// say, which is given; the log alone cannot say it.
fn take_lacks(told: &mut Report) -> Vec<String> {
    let ours = [Some(NO_POLICIES.to_owned()), behind(told)];
    let header = &mut told.header;
    let before = header.lacks.len();
    header
        .lacks
        .retain(|lack| !ours.contains(&Some(lack.clone())));
    let without = |lack: &mut String| lack.starts_with(comparison::WITHOUT);
    let mut of_policies: Vec<String> = header.lacks.extract_if(.., without).collect();
    of_policies.extend(granted::not_replayed_of(header));
    if header.lacks.len() < before {
        // A report that said both, complete and what it lacks, goes on contradicting itself.
        header.complete = !header.complete && header.lacks.is_empty();
    }
    of_policies
}

/// What to say where the period goes on after the checkpoint.
pub(crate) fn behind(report: &Report) -> Option<String> {
    let header = &report.header;
    let signed: jiff::Timestamp = header.checkpoint.time.parse().ok()?;
    let to: jiff::Timestamp = header.to.parse().ok()?;
    let behind = to.duration_since(signed) > BEHIND_MAX;
    behind.then(|| {
        format!(
            "nothing after {} is under the checkpoint",
            header.checkpoint.time
        )
    })
}

impl Place {
    /// # Errors
    /// When it is said how a repository is put together and none is named.
    fn origin(&self) -> Result<Origin, Diagnostic> {
        self.composing.placed(self.policies.as_deref())?;
        Ok(Origin {
            policies: self.policies.clone(),
            composing: self.composing.clone(),
            log: self.log.clone(),
            service: None,
        })
    }
}

impl Source {
    /// The folder that was named, else the running mesh.
    async fn find(origin: &Origin, context: &Context) -> Result<Self, Diagnostic> {
        match &origin.log {
            Some(dir) => Ok(Self::Folder(Arc::new(Archive::open(dir).await?))),
            None => Ok(Self::Mesh(Mesh::find(context.mesh.as_deref()).await?)),
        }
    }

    async fn run(&self, asked: RunReport) -> Result<Report, Diagnostic> {
        match self {
            Self::Mesh(mesh) => {
                let work = attending::Work::on_report("the audit service makes the report");
                let path = "/v1/audit/report/run";
                understood(&attending::of_mesh(mesh, path, &asked, &work).await?)
            }
            Self::Folder(archive) => {
                let made = archive.working("the report is made", move |desk| desk.run(&asked));
                made.await
            }
        }
    }

    /// Has the log state a sign-off.
    async fn sign(&self, asked: &SignReview) -> Result<Signed, Diagnostic> {
        match self {
            Self::Mesh(mesh) => mesh.post("audit", "/v1/audit/review/sign", asked).await,
            Self::Folder(archive) => archive.desk().sign(asked),
        }
    }

    /// The log's public key.
    async fn key(&self) -> Result<Verifier, Diagnostic> {
        match self {
            Self::Mesh(mesh) => {
                let status: AuditStatus = mesh.get("audit", "/v1/audit/status").await?;
                proof::trusted(&status.key)
            }
            Self::Folder(archive) => Ok(archive.desk().log.verifier().clone()),
        }
    }

    async fn check(&self, report: &Report) -> Result<Checked, Diagnostic> {
        match self {
            Self::Mesh(mesh) => {
                let path = "/v1/audit/report/check";
                let work = attending::Work::on_report("the audit service makes the report again");
                understood(&attending::of_mesh(mesh, path, report, &work).await?)
            }
            Self::Folder(archive) => {
                let told = report.clone();
                let what = "the report is made again";
                archive.working(what, move |desk| desk.check(&told)).await
            }
        }
    }
}

/// What the audit service made.
pub(super) fn understood<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Diagnostic> {
    serde_json::from_slice(answer).map_err(|e| broken(&e))
}
