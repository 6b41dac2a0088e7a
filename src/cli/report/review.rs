//! `palisade report review`: verdicts on every grant, a sign-off, and the change of the
//! policies that ends what was revoked.

use std::{
    fs,
    path::{Path, PathBuf},
};

use palisade_audit::{
    note::Verifier,
    query::Query,
    report::{Checked, Difference, Period, Report, is_unlike},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use serde_json::json;

use super::{
    PERIOD_DEFAULT, Place, Source,
    files::{self, Format},
    granted::{self, Origin},
};
use crate::{
    cli::{Composing, Context, Exit, audit::proof, block_on},
    grants::Edge,
    render::{self, Output, reports, reviews, snippet::clean},
    review::{Review, Standing, Verdict, Which, Word},
    run::audit::RunReport,
};

/// What to do with an access review.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Begin a review: every grant of the policies, with its uses in the period.
    Start {
        /// The file to keep it in, such as 2026-q4.review.json.
        file: PathBuf,
        /// The time whose uses are counted, as for `report run`.
        #[arg(long, default_value = PERIOD_DEFAULT)]
        period: String,
        #[command(flatten)]
        from: Place,
    },
    /// Put a verdict on grants: decide FILE revoke --unused --by ana.
    Decide(DecideArgs),
    /// Show where a review stands, or write it as a report.
    Show {
        /// The review.
        file: PathBuf,
        /// A file to write: .html, .pdf, .xlsx, .csv or .json.
        #[arg(long, value_name = "FILE")]
        to: Vec<PathBuf>,
        /// Replace files that are there.
        #[arg(long)]
        overwrite: bool,
        /// Trusted public key of the log that signed it off: a file such as `checkpoint.pub`,
        /// or `NAME+HASH+KEY`. Without it the sign-off is not checked, which is said.
        #[arg(long)]
        key: Option<String>,
    },
    /// Stand for a review in which every grant is kept or revoked.
    Sign {
        /// The review.
        file: PathBuf,
        /// Who signs.
        #[arg(long, value_name = "NAME")]
        by: String,
        /// The folder of the log that signs with its key, instead of the running mesh.
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
    },
    /// Write the change of the policies that ends what was revoked, and nothing else.
    Patch {
        /// The review.
        file: PathBuf,
        /// The patch to write, for `git apply` in the policy repository.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Replace a file that is there.
        #[arg(long)]
        overwrite: bool,
        /// Trusted public key of the log that signed it off, as for `show`; that of the log
        /// where none is given.
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        from: Place,
    },
}

/// Arguments of `report review decide`.
#[derive(Debug, clap::Args)]
pub(crate) struct DecideArgs {
    /// The review.
    file: PathBuf,
    /// The verdict.
    verdict: Word,
    /// The reviewer.
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Why.
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Grants by their numbers in `show`; may be given several times.
    #[arg(long = "row", value_name = "N")]
    rows: Vec<usize>,
    /// Grants of this caller, NAMESPACE/NAME.
    #[arg(long)]
    caller: Option<String>,
    /// Grants that this permit gives.
    #[arg(long, value_name = "ID")]
    permit: Option<String>,
    /// Grants that nobody used.
    #[arg(long)]
    unused: bool,
    /// Grants without a verdict yet.
    #[arg(long)]
    undecided: bool,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let done = match command {
        Command::Start { file, period, from } => start(file, period, from, context),
        Command::Decide(args) => decide(args, context).map_err(|d| vec![d]),
        Command::Show {
            file,
            to,
            overwrite,
            key,
        } => show(file, to, *overwrite, key.as_deref(), context).map_err(|d| vec![d]),
        Command::Sign { file, by, log } => {
            sign(file, by, log.as_deref(), context).map_err(|d| vec![d])
        }
        Command::Patch {
            file,
            to,
            overwrite,
            key,
            from,
        } => {
            let origin = from.origin().map_err(|d| vec![d]);
            origin
                .and_then(|origin| patch(file, (to, *overwrite), key.as_deref(), &origin, context))
        }
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

fn start(
    file: &Path,
    period: &str,
    from: &Place,
    context: &Context,
) -> Result<(), Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    files::free(file).map_err(one)?;
    let origin = from.origin().map_err(one)?;
    let review = block_on(async {
        let source = Source::find(&origin, context).await.map_err(one)?;
        let asked = RunReport {
            name: "access-review".to_owned(),
            period: period.to_owned(),
            scope: String::new(),
            to: super::named_in([file]),
        };
        let header = source.run(asked).await.map_err(one)?.header;
        let (grants, _) = granted::used(&header, &origin, context).await?;
        Ok::<_, Vec<Diagnostic>>(Review::begin(header, &grants))
    })?;
    keep(file, &review).map_err(one)?;
    told(file, &review, None, context);
    Ok(())
}

fn decide(args: &DecideArgs, context: &Context) -> Result<(), Diagnostic> {
    named(&args.by)?;
    let mut review = read(&args.file)?;
    let which = Which {
        rows: args.rows.clone(),
        caller: args.caller.clone(),
        permit: args.permit.clone(),
        unused: args.unused,
        undecided: args.undecided,
    };
    if which.is_empty() {
        return Err(Diagnostic::error(7815, "no grant was named")
            .help("name some: --row N, --caller NAME, --permit ID, --unused, --undecided"));
    }
    let verdict = Verdict {
        word: args.verdict,
        by: args.by.clone(),
        at: now(),
        note: args.note.clone(),
    };
    if review.decide(&which, &verdict) == 0 {
        return Err(Diagnostic::error(7815, "no grant of the review is meant")
            .cause("a grant has to fit everything that was given")
            .help("see their numbers: palisade report review show FILE"));
    }
    keep(&args.file, &review)?;
    told(&args.file, &review, None, context);
    Ok(())
}

fn show(
    file: &Path,
    to: &[PathBuf],
    overwrite: bool,
    key: Option<&str>,
    context: &Context,
) -> Result<(), Diagnostic> {
    let review = read(file)?;
    let key = key.map(proof::trusted).transpose()?;
    let standing = review.standing(key.as_ref());
    let report: Report = review.report(standing);
    let formats = to.iter().map(|to| match files::format_of(to)? {
        Format::Oscal => Err(no_results(to)),
        format => Ok((to, format)),
    });
    for (to, format) in formats.collect::<Result<Vec<_>, _>>()? {
        files::written(&report, to, format, overwrite)?;
    }
    match context.output {
        Output::Json => render::json(&review),
        Output::Human => reviews::print(&review, standing, file),
    }
    Ok(())
}

/// Assessment results have findings on records, and have rows in a report beside them: of a
/// review they would have neither.
fn no_results(to: &Path) -> Diagnostic {
    let name = clean(&to.display().to_string());
    Diagnostic::error(7805, format!("`{name}` cannot be a review"))
        .cause("assessment results leave the rows to the report, and the verdicts of a review are its rows")
        .help("write it as .json, .html or .pdf; as OSCAL the report itself: palisade report run access-review --to FILE.oscal.json")
}

fn sign(file: &Path, by: &str, log: Option<&Path>, context: &Context) -> Result<(), Diagnostic> {
    named(by)?;
    let mut review = read(file)?;
    let asked = review.to_sign(by)?;
    // What cannot be signed is said before anybody is asked.
    asked.statement(&now())?;
    let origin = Origin {
        policies: None,
        composing: Composing::default(),
        log: log.map(Path::to_owned),
        service: None,
    };
    let signed = block_on(async { Source::find(&origin, context).await?.sign(&asked).await })?;
    let key = proof::trusted(&signed.key)?;
    review.sign(asked, signed);
    keep(file, &review)?;
    told(file, &review, Some(&key), context);
    Ok(())
}

fn patch(
    file: &Path,
    (to, overwrite): (&Path, bool),
    key: Option<&str>,
    origin: &Origin,
    context: &Context,
) -> Result<(), Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    let review = read(file).map_err(one)?;
    // A review that nobody signed needs no key.
    let key = match review.standing(None) {
        Standing::Claimed => Some(trusted(key, origin, context).map_err(one)?),
        _ => None,
    };
    let standing = review.standing(key.as_ref());
    if standing == Standing::Not {
        let why = key.and_then(|key| review.is_stated(&key)?.err());
        return Err(one(edited(why)));
    }
    asks(&review).map_err(one)?;
    if !overwrite {
        files::free(to).map_err(one)?;
    }
    let (proposal, flips) = block_on(async {
        let (grants, query) = granted::used(&review.header, origin, context).await?;
        let policy = grants.snapshot().versions().policy.to_string();
        if policy != review.policy {
            return Err(one(changed(&review.policy, &policy)));
        }
        let revoked = review.revoked();
        if let Some(edge) = revoked.iter().find(|edge| !grants.all.contains_key(edge)) {
            return Err(one(not_granted(edge)));
        }
        granted::proposed(&grants, revoked, &query, origin, context).await
    })?;
    files::put(to, proposal.patch.as_bytes()).map_err(one)?;
    match context.output {
        Output::Json => render::json(&json!({
            "file": to.display().to_string(),
            "signed": signed(standing),
            "ended": proposal.ended,
            "cuts": proposal.cuts,
            "flips": flips,
        })),
        Output::Human => reviews::print_patch(standing, &proposal, &flips, to),
    }
    Ok(())
}

/// Checks a review again: its sign-off, and every grant and use.
///
/// # Errors
/// When policies or decisions cannot be had.
pub(super) fn verify(
    review: &Review,
    key: Option<&str>,
    origin: &Origin,
    context: &Context,
) -> Result<Exit, Vec<Diagnostic>> {
    let one = |d: Diagnostic| vec![d];
    asks(review).map_err(one)?;
    let (grants, _) = block_on(granted::used(&review.header, origin, context))?;
    let given = key.map(proof::trusted).transpose().map_err(one)?;
    let (key, checked) = block_on(async {
        let source = Source::find(origin, context).await?;
        let key = match given {
            Some(key) => key,
            None => source.key().await?,
        };
        Ok::<_, Diagnostic>((key, source.check(&review.counted()?).await))
    })
    .map_err(one)?;
    let standing = review.standing(Some(&key));
    let policy = grants.snapshot().versions().policy.to_string();
    let other = (policy != review.policy).then(|| {
        let (then, now) = (&review.policy, &policy);
        format!("the review is of policies {then}, these are {now}")
    });
    let unstated = review.is_stated(&key).and_then(Result::err);
    let unstated = unstated.map(|why| format!("the sign-off is not the log's: {why}"));
    let mut not_compared = Vec::new();
    let found = match checked {
        Ok(checked) => {
            let mut found = of_head(&checked);
            found.extend(review.differences(&grants));
            not_compared = checked.not_compared;
            found
        }
        // The sign-off needs no records.
        Err(told) if is_unlike(&told) && unstated.is_some() => Vec::new(),
        Err(told) if is_unlike(&told) => {
            let help = match standing {
                Standing::Stated => "its sign-off is the log's: what it says is what was signed",
                _ => "begin a review again: palisade report review start FILE",
            };
            return Err(vec![told.help(help)]);
        }
        Err(told) => return Err(vec![told]),
    };
    let differences = other.into_iter().chain(unstated).chain(found);
    let differences: Vec<String> = differences.collect();
    match context.output {
        Output::Json => render::json(&json!({
            "signed": signed(standing),
            "same_policies": policy == review.policy,
            "compared": review.grants.len(),
            "differences": differences,
            "not_compared": not_compared,
        })),
        Output::Human => {
            reviews::print_checked(review, standing, &differences);
            reports::print_not_compared(&not_compared);
        }
    }
    // Without a sign-off nobody stands for it: a review that somebody took it from is as one
    // that is not finished.
    let holds = differences.is_empty() && standing == Standing::Stated;
    Ok(if holds { Exit::Ok } else { Exit::NotVerified })
}

/// What of the head of a review the log does not say, in words.
fn of_head(checked: &Checked) -> Vec<String> {
    let unsigned = (!checked.checkpoint)
        .then(|| "the checkpoint is not one that this log signed and still begins with".to_owned());
    // The sections of the report whose head it is are not in a review.
    let of_head = checked.differences.iter().filter(|difference| {
        difference.section == "header" && !matches!(difference.what.as_str(), "sections" | "rows")
    });
    let of_head = of_head.map(|difference| {
        let Difference {
            what, report, log, ..
        } = difference;
        format!("{what}: {report} in the review, {log} in the log")
    });
    unsigned.into_iter().chain(of_head).collect()
}

/// The key that was given, else that of the log.
fn trusted(key: Option<&str>, origin: &Origin, context: &Context) -> Result<Verifier, Diagnostic> {
    match key {
        Some(key) => proof::trusted(key),
        None => block_on(async { Source::find(origin, context).await?.key().await }),
    }
}

/// Whether it is signed off, as far as that was checked.
fn signed(standing: Standing) -> Option<bool> {
    match standing {
        Standing::Unsigned => None,
        Standing::Stated => Some(true),
        Standing::Claimed | Standing::Not => Some(false),
    }
}

fn told(file: &Path, review: &Review, key: Option<&Verifier>, context: &Context) {
    let standing = review.standing(key);
    match context.output {
        Output::Json => render::json(&json!({
            "file": file.display().to_string(),
            "grants": review.grants.len(),
            "keep": review.count(Some(Word::Keep)),
            "revoke": review.count(Some(Word::Revoke)),
            "ask": review.count(Some(Word::Ask)),
            "undecided": review.count(None),
            "signed": signed(standing),
        })),
        Output::Human => reviews::print_standing(review, standing, file),
    }
}

fn read(file: &Path) -> Result<Review, Diagnostic> {
    let none = |why: String| {
        Diagnostic::error(7813, format!("`{}` is no review", file.display()))
            .cause(why)
            .help("begin one: palisade report review start FILE")
    };
    let text = fs::read_to_string(file).map_err(|e| none(e.to_string()))?;
    let review = Review::read(&text)?;
    review.ok_or_else(|| none("it does not say that it is one".to_owned()))
}

fn keep(file: &Path, review: &Review) -> Result<(), Diagnostic> {
    let text = serde_json::to_string_pretty(review);
    let text = text.map_err(|e| {
        Diagnostic::error(7806, format!("`{}` cannot be written", file.display()))
            .cause(e.to_string())
    })?;
    files::put(file, format!("{text}\n").as_bytes())
}

fn changed(then: &str, now: &str) -> Diagnostic {
    Diagnostic::error(7816, "the policies have changed since the review began")
        .cause(format!("the review is of {then}, these are {now}"))
        .help("give the repository as it was, --policies DIR, or begin a review of these")
}

/// Refuses a name that says nothing.
fn named(by: &str) -> Result<(), Diagnostic> {
    match by.trim().is_empty() {
        false => Ok(()),
        true => {
            Err(Diagnostic::error(7815, "nobody was named")
                .help("say who decides or signs: --by NAME"))
        }
    }
}

/// Refuses a review whose head asks for something else than it says.
fn asks(review: &Review) -> Result<(), Diagnostic> {
    let header = &review.header;
    let bounds = format!("since:{} until:{}", header.from, header.to);
    let period = Period::read(&bounds, i64::MAX / 2);
    let read = period.and_then(|_| Query::parse(&header.scope));
    match read {
        Ok(scope) if scope.stage().is_none() => Ok(()),
        Ok(_) => Err(bad_head("its scope has a summary".to_owned())),
        Err(mistake) => Err(bad_head(mistake.to_string())),
    }
}

fn bad_head(why: String) -> Diagnostic {
    Diagnostic::error(7813, "the review cannot be read")
        .cause(why)
        .help("take it back from where it is kept; what was edited by hand may be at fault")
}

fn edited(why: Option<String>) -> Diagnostic {
    let digest = || "the digest of the sign-off is of another text".to_owned();
    Diagnostic::error(7814, "the review was changed after it was signed off")
        .cause(why.unwrap_or_else(digest))
        .help("see what it says, and sign it again: palisade report review sign FILE --by NAME")
}

fn not_granted(edge: &Edge) -> Diagnostic {
    let Edge {
        caller,
        action,
        resource,
        ..
    } = edge;
    Diagnostic::error(
        7816,
        format!("the review revokes {action} on {resource} from {caller}, which is not granted"),
    )
    .cause("the policies do not grant it: the review was edited, or is of other policies")
    .help("take the review back from where it is kept, or begin one of these policies")
}

/// The present moment, as it stands in reviews.
fn now() -> String {
    let now = jiff::Timestamp::from_microsecond(Clock::system().now_us());
    format!("{:.0}", now.unwrap_or_default())
}
