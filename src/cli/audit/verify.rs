//! `palisade audit verify`: is the log, or one record of it, what was signed?

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use palisade_audit::{
    archive::Archive,
    going::Going,
    log::{Log, LogError, LogOptions, whose},
    note::{NOTE_LEN_MAX, Verifier},
    policies::Policies,
    query::Query,
    verify::{self, Earlier, VerifyOptions, VerifyReport},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use serde_json::Value;

use super::{archive, proof};
use crate::{
    cli::{
        Context, Exit, block_on,
        report::{
            attending::{self, Work},
            understood,
        },
    },
    control::client::Mesh,
    history::{
        self,
        faithful::{self, Replayed, Seen},
    },
    render::{
        self, Output,
        progress::{Far, Progress},
        records,
    },
    run::audit::{self, VerifyLog},
};

/// Arguments of `audit verify`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Folder of a log, such as a copy, instead of the running mesh's.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Configuration whose `audit.archive` says where segments are that are not in the folder.
    #[arg(long, value_name = "FILE", requires = "dir")]
    archive_config: Option<PathBuf>,
    /// Trusted public key of the log: a file such as `checkpoint.pub`, or `NAME+HASH+KEY`. Without
    /// it the log is only found to agree with itself.
    #[arg(long)]
    key: Option<String>,
    /// A checkpoint of the log from before (a signed note), which the log must continue; may be
    /// given several times.
    #[arg(long = "checkpoint", value_name = "FILE", conflicts_with = "proof")]
    checkpoints: Vec<PathBuf>,
    /// Make the recorded decisions again, each under the revision that it names, and compare: all of
    /// them, or those that a query asks for. It takes longer than to read the log, by far.
    #[arg(
        long,
        value_name = "QUERY",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with = "proof"
    )]
    replay: Option<String>,
    /// A proof that `audit proof` wrote; with --record and --key, and no mesh is asked.
    #[arg(
        long,
        value_name = "FILE",
        requires = "record",
        requires = "key",
        conflicts_with = "dir"
    )]
    proof: Option<PathBuf>,
    /// The record that belongs to the proof.
    #[arg(long, value_name = "FILE", requires = "proof")]
    record: Option<PathBuf>,
    /// Key of a witness that must have cosigned the checkpoint of the proof, as a file or as
    /// `NAME+HASH+KEY`; may be given several times.
    #[arg(long = "witness", value_name = "KEY", requires = "proof")]
    witnesses: Vec<String>,
    /// How many of the witnesses must have cosigned it; all where nothing is said.
    #[arg(long, requires = "witnesses")]
    quorum: Option<usize>,
}

pub(super) fn main(args: Args, context: &Context) -> Exit {
    if let (Some(proof), Some(record), Some(key)) = (&args.proof, &args.record, &args.key) {
        let demanded = proof::Demanded {
            witnesses: &args.witnesses,
            quorum: args.quorum.unwrap_or(args.witnesses.len()),
        };
        return proof::verify(proof, record, key, &demanded, context);
    }
    let key = args.key.as_deref().map(proof::trusted).transpose();
    let wanted = key.and_then(|key| Ok((key, asked(args.replay, &args.checkpoints)?)));
    let report = wanted.and_then(|(key, asked)| match args.dir {
        Some(dir) => {
            let archive = args.archive_config.as_deref();
            let archive = archive.map(|file| archive::named(file, &dir)).transpose()?;
            folder(&dir, archive, key, asked)
        }
        None => block_on(async {
            let mesh = Mesh::find(context.mesh.as_deref()).await?;
            let report = of_mesh(&mesh, &asked).await?;
            proof::is_under(&report, key.as_ref())?;
            Ok(report)
        }),
    });
    told(report, context)
}

/// Verifies the log in a folder, and makes decisions again where that is asked for.
///
/// # Errors
/// `PLS7208` where there is no such folder, and when the report cannot be encoded.
pub(in crate::cli) fn folder(
    dir: &Path,
    archive: Option<Arc<Archive>>,
    key: Option<Verifier>,
    asked: VerifyLog,
) -> Result<Value, Diagnostic> {
    if !dir.is_dir() {
        return Err(Diagnostic::error(
            7208,
            format!("there is no folder `{}` to verify", dir.display()),
        )
        .help("name the folder of a log: the one that holds `checkpoint.pub`"));
    }
    // A mistake in it is told before the log is read.
    let query = asked.replay.as_deref().map(history::read).transpose()?;
    let mut seen = query.as_ref().and_then(|_| Seen::of_folder(dir));
    let report = of_folder(dir, key, archive.clone(), asked.earlier(), seen.as_mut());
    let seen = seen.filter(|_| report.intact());
    let replayed = match query {
        None => None,
        Some(query) => Some(block_on(replay(dir, archive, query, seen))?),
    };
    audit::verified(&report, replayed)
}

/// What is told of a verification that its user ended.
pub(in crate::cli) fn interrupted() -> Diagnostic {
    Diagnostic::error(7216, "the verification was interrupted")
        .cause("what was found until then is not known")
        .help("verify it again; it begins anew")
}

/// Tells what a verification found; the exit code says it, too.
pub(in crate::cli) fn told(report: Result<Value, Diagnostic>, context: &Context) -> Exit {
    match report {
        Ok(report) => {
            match context.output {
                Output::Json => render::json(&report),
                Output::Human => records::print_verified(&report),
            }
            if records::is_verified(&report) {
                Exit::Ok
            } else {
                Exit::NotVerified
            }
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

/// Has the service of a running mesh verify its log; a terminal hears how far that is.
async fn of_mesh(mesh: &Mesh, asked: &VerifyLog) -> Result<Value, Diagnostic> {
    let work = Work {
        what: "the audit service verifies its log",
        waits: "another verification is going on",
        interrupted,
    };
    let report = attending::of_mesh(mesh, "/v1/audit/verify", asked, &work).await?;
    understood(&report)
}

/// Verifies a folder; a terminal hears how far that is.
fn of_folder(
    dir: &Path,
    key: Option<Verifier>,
    archive: Option<Arc<Archive>>,
    earlier: Vec<Earlier>,
    seen: Option<&mut Seen>,
) -> VerifyReport {
    let mut line = Progress::begin();
    let shown = line.is_shown();
    let mut tell = |far: verify::Progress| {
        line.tell(Far {
            records: far.records,
            of: None,
            by: Some((far.bytes, far.bytes_total)),
        });
    };
    let mut see = seen.map(|seen| |index: u64, leaf: &[u8]| seen.take(index, leaf));
    verify::verify(
        dir,
        VerifyOptions {
            key,
            archive,
            earlier,
            progress: match shown {
                true => Some(&mut tell),
                false => None,
            },
            seen: see.as_mut().map(|see| see as verify::Seen<'_>),
        },
    )
}

/// What is asked, with the checkpoints from before.
///
/// # Errors
/// `PLS7213` for a file that is no signed note.
pub(in crate::cli) fn asked(
    replay: Option<String>,
    checkpoints: &[PathBuf],
) -> Result<VerifyLog, Diagnostic> {
    let read = |file: &PathBuf| {
        let unread = |cause: String| {
            Diagnostic::error(7213, format!("`{}` is no checkpoint", file.display()))
                .cause(cause)
                .help("name a signed note, such as a copy of `checkpoint` in the folder of a log")
        };
        let mut note = String::new();
        let opened = fs::File::open(file).map_err(|e| unread(e.to_string()))?;
        let most = u64::try_from(NOTE_LEN_MAX).unwrap_or(u64::MAX);
        let read = opened.take(most + 1).read_to_string(&mut note);
        read.map_err(|e| unread(e.to_string()))?;
        match note.len() > NOTE_LEN_MAX {
            true => Err(unread(format!("it has more than {NOTE_LEN_MAX} bytes"))),
            false => Ok((file.display().to_string(), note)),
        }
    };
    Ok(VerifyLog {
        replay,
        earlier: checkpoints.iter().map(read).collect::<Result<_, _>>()?,
    })
}

/// Makes decisions of the log in `dir` again: all, where the query asks for nothing, and of all its
/// time, where that says none.
///
/// # Errors
/// `PLS7216` when the user ended it. Inside, what was wrong with the log.
async fn replay(
    dir: &Path,
    archive: Option<Arc<Archive>>,
    query: Query,
    seen: Option<Seen>,
) -> Result<Result<Replayed, Diagnostic>, Diagnostic> {
    let dir = dir.to_owned();
    let again = move |going: &Going| {
        let clock = Clock::system();
        let options = LogOptions {
            read_only: true,
            archive,
            ..LogOptions::new(whose(&dir).map_err(|e| unread(&dir, &e))?)
        };
        let log = Log::open(&dir, options, clock.clone()).map_err(|e| unread(&dir, &e))?;
        going.parts(1);
        let (policies, now_us) = (Policies::beside(&dir), clock.now_us());
        faithful::of_query(&log, &policies, (&query, now_us), seen, going)
    };
    attending::apart("decisions are made again", interrupted, again).await
}

fn unread(dir: &Path, why: &LogError) -> Diagnostic {
    let what = format!("the log in `{}` cannot be read", dir.display());
    Diagnostic::error(7809, what).cause(why.to_string())
}
