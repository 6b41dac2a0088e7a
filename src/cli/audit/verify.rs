//! `palisade audit verify`: is the log, or one record of it, what was signed?

use std::path::{Path, PathBuf};

use palisade_audit::{
    note::Verifier,
    verify::{self, VerifyOptions, VerifyReport},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde_json::Value;

use super::proof;
use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{
        self, Output,
        progress::{Far, Progress},
        records,
    },
};

/// Arguments of `audit verify`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Folder of a log, such as a copy, instead of the running mesh's.
    #[arg(long)]
    dir: Option<PathBuf>,
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
        Some(dir) => serde_json::to_value(of_folder(&dir, key)).map_err(|e| {
            Diagnostic::error(7206, "the report cannot be written").cause(e.to_string())
        }),
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
fn of_folder(dir: &Path, key: Option<Verifier>) -> VerifyReport {
    let mut line = Progress::begin();
    let shown = line.is_shown();
    let mut tell = |far: verify::Progress| {
        line.tell(Far {
            records: far.records,
            of: None,
            by: Some((far.bytes, far.bytes_total)),
        });
    };
    verify::verify(
        dir,
        VerifyOptions {
            key,
            progress: match shown {
                true => Some(&mut tell),
                false => None,
            },
        },
    )
}
