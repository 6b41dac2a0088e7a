//! `palisade audit verify`: is the log, or one record of it, what was signed?

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use palisade_audit::{
    archive::Archive,
    note::Verifier,
    verify::{self, Progress, VerifyOptions, VerifyReport},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::Value;

use super::{archive, proof};
use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{self, Output, records, screen},
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
    let key = match args.key.as_deref().map(proof::trusted).transpose() {
        Ok(key) => key,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    let report = match args.dir {
        Some(dir) if !dir.is_dir() => Err(Diagnostic::error(
            7208,
            format!("there is no folder `{}` to verify", dir.display()),
        )
        .help("name the folder of a log, or leave --dir out to verify the running mesh's")),
        Some(dir) => {
            let archive = args.archive_config.as_deref();
            let archive = archive.map(|file| archive::named(file, &dir)).transpose();
            archive.and_then(|archive| {
                serde_json::to_value(of_folder(&dir, key, archive)).map_err(|e| {
                    Diagnostic::error(7206, "the report cannot be written").cause(e.to_string())
                })
            })
        }
        None => block_on(async {
            let mesh = Mesh::find(context.mesh.as_deref()).await?;
            let report = mesh.post::<Value>("audit", "/v1/audit/verify", &()).await?;
            proof::is_under(&report, key.as_ref())?;
            Ok(report)
        }),
    };
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

/// Verifies a folder; a terminal hears how far that is.
fn of_folder(dir: &Path, key: Option<Verifier>, archive: Option<Arc<Archive>>) -> VerifyReport {
    let begun = Instant::now();
    let mut tell = |progress| screen::progress(&said(progress, begun.elapsed()));
    let shown = screen::tells_progress();
    let report = verify::verify(
        dir,
        VerifyOptions {
            key,
            archive,
            progress: match shown {
                true => Some(&mut tell),
                false => None,
            },
        },
    );
    if shown {
        screen::progress("");
    }
    report
}

/// How far it is: records, rate, and by the bytes of the segments the time that is left.
fn said(progress: Progress, taken: Duration) -> String {
    let Progress {
        records,
        bytes,
        bytes_total,
    } = progress;
    let millis = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = |n: u64| n.saturating_mul(1000) / millis;
    let said = format!(
        "{} records · {}/s",
        render::thousands(records),
        render::thousands(rate(records))
    );
    match (bytes_total.checked_sub(bytes), rate(bytes)) {
        (Some(left), per_second) if per_second > 0 => {
            let left = Duration::from_secs(left.div_ceil(per_second));
            format!("{said} · {} left", render::duration(left))
        }
        _ => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_records_rate_and_time_left() {
        let progress = Progress {
            records: 2_000_000,
            bytes: 1 << 30,
            bytes_total: 3 << 30,
        };
        let told = said(progress, Duration::from_secs(2));
        assert_eq!(told, "2,000,000 records · 1,000,000/s · 4 s left");
        let begun = said(
            Progress {
                bytes: 0,
                ..progress
            },
            Duration::ZERO,
        );
        assert!(!begun.contains("left"), "{begun}");
    }
}
