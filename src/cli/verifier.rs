//! `palisade-verify`: what an auditor holds of a mesh, checked without one.
//!
//! A program of its own, so that whoever checks a log, a record or a package trusts, carries and
//! reads no more than checking takes: no role, index or network is in it, and it writes nothing.
//! Its checks are those of `palisade audit verify` and `palisade report verify`, by the same code.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use palisade_mesh::diagnostic;

use super::{Color, Context, Exit, Format, audit, explain, report};
use crate::render;

const NAME: &str = "palisade-verify";

/// What the help ends with.
const EXIT_CODES: &str = "\
Exit codes: 0 verified · 1 failed · 2 wrong arguments · 3 invalid input · 8 not verified

Every message has a code: palisade-verify explain CODE";

/// Checks the audit log of a Palisade mesh, one record, or a package of evidence, offline.
#[derive(Debug, Parser)]
#[command(
    name = NAME,
    version,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
struct Cli {
    /// How to print: for people, or as JSON.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Human)]
    output: Format,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a copy of a whole log: every byte, checkpoint, stream, signed head and certificate.
    Log(LogArgs),
    /// Check one record by its proof, as `palisade audit proof` wrote both.
    Proof(ProofArgs),
    /// Check a package: signature, sums, each record's proof, rows and texts, each decision again.
    Package(PackageArgs),
    /// Document a code such as PLS7532, offline.
    Explain(explain::Args),
}

#[derive(Debug, clap::Args)]
struct LogArgs {
    /// Folder of the log: the one that holds `checkpoint.pub`.
    dir: PathBuf,
    #[command(flatten)]
    key: Key,
    /// A checkpoint of the log from before (a signed note), which the log must continue; may be
    /// given several times.
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Make the recorded decisions again, each under the revision that it names, and compare: all of
    /// them, or those that a query asks for: --replay='service:orders'. The revisions lie in its
    /// folder `policies`.
    #[arg(
        long,
        value_name = "QUERY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    replay: Option<String>,
}

#[derive(Debug, clap::Args)]
struct ProofArgs {
    /// The proof, a C2SP tlog-proof.
    proof: PathBuf,
    /// The record that belongs to it.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    witnesses: Witnesses,
}

#[derive(Debug, clap::Args)]
struct PackageArgs {
    /// The package, a `.tar.zst`.
    package: PathBuf,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    witnesses: Witnesses,
}

#[derive(Debug, clap::Args)]
struct Key {
    /// Public key of the log, from somewhere that you trust and not from whom you check: a file
    /// such as `checkpoint.pub`, or `NAME+HASH+KEY`.
    #[arg(long)]
    key: String,
}

#[derive(Debug, clap::Args)]
struct Witnesses {
    /// Key of a witness that must have cosigned the checkpoint, as a file or as `NAME+HASH+KEY`;
    /// may be given several times.
    #[arg(long = "witness", value_name = "KEY")]
    witnesses: Vec<String>,
    /// How many of the witnesses must have cosigned it; all where nothing is said.
    #[arg(long, requires = "witnesses")]
    quorum: Option<usize>,
}

impl Witnesses {
    fn demanded(&self) -> audit::proof::Demanded<'_> {
        audit::proof::Demanded {
            witnesses: &self.witnesses,
            quorum: self.quorum.unwrap_or(self.witnesses.len()),
        }
    }
}

/// Parses the arguments, checks, and turns what was found into an exit code.
pub fn main() -> ExitCode {
    diagnostic::call_program(NAME);
    let cli = Cli::parse();
    cli.color.choose();
    let context = Context {
        output: cli.output.into(),
        mesh: None,
    };
    let exit = match cli.command {
        Command::Log(args) => log(args, &context),
        Command::Proof(args) => {
            let demanded = args.witnesses.demanded();
            audit::proof::verify(
                &args.proof,
                &args.record,
                &args.key.key,
                &demanded,
                &context,
            )
        }
        Command::Package(args) => package(&args, &context),
        Command::Explain(args) => explain::main(&args, &context),
    };
    ExitCode::from(exit as u8)
}

fn log(args: LogArgs, context: &Context) -> Exit {
    let key = audit::proof::trusted(&args.key.key);
    let verified = key.and_then(|key| {
        let asked = audit::verify::asked(args.replay, &args.checkpoints)?;
        audit::verify::folder(&args.dir, None, Some(key), asked)
    });
    audit::verify::told(verified, context)
}

fn package(args: &PackageArgs, context: &Context) -> Exit {
    let demanded = args.witnesses.demanded();
    let verified =
        report::evidence::verify_signed(&args.package, &args.key.key, &demanded, context);
    verified.unwrap_or_else(|diagnostic| render::failed(context.output, &diagnostic))
}
