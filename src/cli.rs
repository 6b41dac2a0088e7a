//! The command line: what was asked for, and with which exit code it ended.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use palisade_mesh::diagnostic::Diagnostic;

#[cfg(feature = "full")]
use composing::Composing;

use crate::render::{self, Output};

#[cfg(feature = "full")]
mod access;
#[cfg(feature = "full")]
pub(crate) mod audit;
#[cfg(feature = "full")]
mod bundle;
#[cfg(feature = "full")]
mod ca;
#[cfg(feature = "full")]
mod can;
mod check;
#[cfg(feature = "full")]
mod composing;
mod config;
pub(crate) mod explain;
#[cfg(feature = "full")]
mod identity;
#[cfg(feature = "full")]
mod init;
#[cfg(feature = "full")]
mod join;
#[cfg(feature = "full")]
mod kill;
mod man;
#[cfg(feature = "full")]
pub(crate) mod policy;
#[cfg(feature = "proxy")]
mod proxy;
#[cfg(feature = "full")]
pub(crate) mod report;
#[cfg(feature = "full")]
mod rollout;
mod run;
#[cfg(feature = "full")]
mod shop;
mod status;
#[cfg(feature = "full")]
mod target;
#[cfg(feature = "full")]
pub(crate) mod timing;
#[cfg(feature = "full")]
pub mod verifier;
mod wait;
#[cfg(feature = "full")]
mod why;

/// Exit codes; `docs/reference/cli.md` and the end of `palisade --help` list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Yes, or done.
    Ok = 0,
    /// The operation failed.
    Failed = 1,
    /// The input is not valid.
    Invalid = 3,
    /// Tests failed.
    TestsFailed = 4,
    /// A gate did not hold: more changes than may, or a rollout was halted.
    Gate = 5,
    /// The answer is deny, and `--exit-code` asked to hear of it.
    Denied = 6,
    /// The mesh could not be reached.
    Unreachable = 7,
    /// Verification failed.
    NotVerified = 8,
    /// There are warnings, and `--fail-on warn` asked to hear of them.
    Warnings = 9,
}

impl Exit {
    /// The code for what went wrong: a mistake in the input, a mesh that does not
    /// answer, or a failure.
    pub fn of(diagnostic: &Diagnostic) -> Self {
        match diagnostic.code.0 {
            1000..=2999
            | 3302..=3304
            | 4401..=4404
            | 7101..=7110
            | 7112..=7114
            | 7208
            | 7210
            | 7213
            | 7531
            | 7533
            | 7547
            | 7701..=7705
            | 7720..=7722
            | 7801..=7805
            | 7807..=7811
            | 7813..=7818
            | 7820..=7821
            | 7828..=7829
            | 7831
            | 7902..=7903
            | 7931
            | 7935
            | 7937..=7938
            | 7940..=7941
            | 7920..=7923
            | 8000..=8999 => Self::Invalid,
            7532 | 7822..=7824 => Self::NotVerified,
            9101..=9105 | 9201 => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

/// What `palisade --help` ends with.
const EXIT_CODES: &str = "\
Exit codes: 0 done, or yes · 1 failed · 2 wrong arguments · 3 invalid input · 4 tests failed ·
5 a gate failed · 6 denied (can --exit-code) · 7 no mesh answers · 8 not verified ·
9 warnings (--fail-on warn)

Every message has a code: palisade explain CODE";

/// What `palisade --version` says: the version, and what was built in.
const VERSION: &str = if cfg!(feature = "full") {
    concat!(env!("CARGO_PKG_VERSION"), " (full)")
} else if cfg!(all(feature = "agent", feature = "proxy")) {
    concat!(env!("CARGO_PKG_VERSION"), " (agent, proxy)")
} else if cfg!(feature = "agent") {
    concat!(env!("CARGO_PKG_VERSION"), " (agent)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (proxy)")
};

/// Heading of the options that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Policy-as-code zero-trust authorization mesh, in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "palisade",
    version = VERSION,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
struct Cli {
    /// How to print: for people, or as JSON.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Human, help_heading = EVERYWHERE)]
    output: Format,
    /// Name of the running mesh to ask, when there are several.
    #[arg(long, global = true, env = "PALISADE_MESH", value_name = "NAME", help_heading = EVERYWHERE)]
    mesh: Option<String>,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, help_heading = EVERYWHERE)]
    color: Color,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

impl From<Format> for Output {
    fn from(format: Format) -> Self {
        match format {
            Format::Human => Self::Human,
            Format::Json => Self::Json,
        }
    }
}

impl Color {
    /// Has the whole process keep to it.
    fn choose(self) {
        match self {
            Self::Auto => {}
            Self::Always => anstream::ColorChoice::Always.write_global(),
            Self::Never => anstream::ColorChoice::Never.write_global(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "full")]
    /// Run a whole mesh on loopback: sample services, traffic, live decisions.
    Demo(crate::demo::DemoArgs),
    #[cfg(feature = "full")]
    /// Start a policy repository that passes its own tests.
    Init(init::Args),
    /// Run a role: the control plane, or one part of it.
    Run(run::Args),
    /// Say what is wrong with the running mesh, and how to mend it.
    Check(check::Args),
    /// Wait until what runs is ready, for scripts and health checks.
    Wait(wait::Args),
    /// Show the running mesh: policy, proxies, certificates, records.
    Status(status::Args),
    #[cfg(feature = "full")]
    /// Validate, lint, test and format a policy repository.
    #[command(subcommand)]
    Policy(policy::Command),
    #[cfg(feature = "full")]
    /// Bring a revision to the proxies step by step, and back.
    #[command(subcommand)]
    Rollout(rollout::Command),
    #[cfg(feature = "full")]
    /// Build, sign and verify a policy repository as one file.
    #[command(subcommand)]
    Bundle(bundle::Command),
    #[cfg(feature = "full")]
    /// Ask whether a caller may do something.
    Can(can::Args),
    #[cfg(feature = "full")]
    /// Ask who may do something: yes, no, or only if.
    WhoCan(access::WhoCan),
    #[cfg(feature = "full")]
    /// Ask what a caller may do: yes, no, or only if.
    WhatCan(access::WhatCan),
    #[cfg(feature = "full")]
    /// Explain a recorded decision.
    Why(why::Args),
    #[cfg(feature = "full")]
    /// Search and verify the decision log.
    #[command(subcommand)]
    Audit(audit::Command),
    #[cfg(feature = "full")]
    /// Make reports for reviewers and auditors, and check them against the log.
    #[command(subcommand)]
    Report(report::Command),
    /// Make, rotate, back up and repair the certificate authority.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Ca(ca::Command),
    #[cfg(feature = "full")]
    /// Show the identities that were issued.
    #[command(subcommand)]
    Identity(identity::Command),
    /// Check, show and begin configuration files.
    #[command(subcommand)]
    Config(config::Command),
    /// Let other hosts join the mesh: tokens, nodes.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Join(join::Command),
    /// Look at one proxy of this host, end it, or replace it by a new process.
    #[cfg(feature = "proxy")]
    #[command(subcommand)]
    Proxy(proxy::Command),
    /// Bar an identity or a certificate at once, whatever policy and lifetime say.
    #[cfg(feature = "full")]
    #[command(subcommand)]
    Kill(kill::Command),
    /// Document a code such as PLS1103, offline.
    Explain(explain::Args),
    /// Print a completion script for a shell.
    Completion {
        /// Shell to complete for.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write a manual page for every command.
    Man(man::Args),
    #[cfg(feature = "full")]
    /// One of the demo's sample services.
    #[command(hide = true)]
    Shop(shop::Args),
}

/// What makes a command fail that looks for mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    Error,
    Warn,
}

/// Parses the arguments, runs the command, and turns its end into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.choose();
    let context = Context {
        output: cli.output.into(),
        mesh: cli.mesh,
    };
    ExitCode::from(dispatch(cli.command, &context) as u8)
}

/// What every command needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// How to print.
    pub(crate) output: Output,
    /// Which running mesh to ask.
    pub(crate) mesh: Option<String>,
}

fn dispatch(command: Option<Command>, context: &Context) -> Exit {
    let Some(command) = command else {
        return welcome();
    };
    match command {
        #[cfg(feature = "full")]
        Command::Demo(args) => crate::demo::main(args, context),
        #[cfg(feature = "full")]
        Command::Init(args) => init::main(&args, context),
        Command::Run(args) => run::main(&args, context),
        Command::Check(args) => check::main(&args, context),
        Command::Wait(args) => wait::main(&args, context),
        Command::Status(args) => status::main(&args, context),
        #[cfg(feature = "full")]
        Command::Policy(command) => policy::main(&command, context),
        #[cfg(feature = "full")]
        Command::Rollout(command) => rollout::main(&command, context),
        #[cfg(feature = "full")]
        Command::Bundle(command) => bundle::main(&command, context),
        #[cfg(feature = "full")]
        Command::Can(args) => can::main(&args, context),
        #[cfg(feature = "full")]
        Command::WhoCan(args) => access::who_can(&args, context),
        #[cfg(feature = "full")]
        Command::WhatCan(args) => access::what_can(&args, context),
        #[cfg(feature = "full")]
        Command::Why(args) => why::main(&args, context),
        #[cfg(feature = "full")]
        Command::Audit(command) => audit::main(command, context),
        #[cfg(feature = "full")]
        Command::Report(command) => report::main(command, context),
        #[cfg(feature = "full")]
        Command::Ca(command) => ca::main(&command, context),
        #[cfg(feature = "full")]
        Command::Identity(command) => identity::main(&command, context),
        Command::Config(command) => config::main(&command, context),
        #[cfg(feature = "full")]
        Command::Join(command) => join::main(&command, context),
        #[cfg(feature = "proxy")]
        Command::Proxy(command) => proxy::main(&command, context),
        #[cfg(feature = "full")]
        Command::Kill(command) => kill::main(&command, context),
        Command::Explain(args) => explain::main(&args, context),
        Command::Completion { shell } => completion(shell),
        Command::Man(args) => man::main(&args, context),
        #[cfg(feature = "full")]
        Command::Shop(args) => shop::main(&args),
    }
}

/// What a newcomer sees: three things to do, not sixty lines of help.
fn welcome() -> Exit {
    render::line("Palisade: nothing passes without an identity, a decision and a record.\n");
    for (command, what) in [
        (
            "palisade demo",
            "a whole mesh on this machine, with live decisions",
        ),
        (
            "palisade init my-policies",
            "start a policy repository that passes its tests",
        ),
        ("palisade --help", "every command"),
    ] {
        render::line(&format!(
            "  {}  {what}",
            render::strong(format!("{command:<27}"))
        ));
    }
    Exit::Ok
}

fn completion(shell: clap_complete::Shell) -> Exit {
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(shell, &mut command, "palisade", &mut std::io::stdout());
    Exit::Ok
}

/// Runs `future` on a runtime of its own.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the runtime needs only threads and an epoll descriptor")
        .block_on(future)
}

#[cfg(feature = "full")]
/// `text` as one segment of a path or a value of a query.
pub(crate) fn path_segment(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => drop(write!(out, "%{byte:02X}")),
        }
        out
    })
}

/// The last segment of a SPIFFE ID, as people call the workload.
pub(crate) fn short_id(spiffe_id: &str) -> &str {
    spiffe_id.rsplit('/').next().unwrap_or(spiffe_id)
}

#[cfg(feature = "full")]
/// The name of a service without trust domain and namespace.
pub(crate) fn short_service(service: &str) -> &str {
    service.rsplit('/').next().unwrap_or(service)
}

#[cfg(feature = "full")]
/// A policy repository given on the command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Repository {
    /// Folder of the policy repository.
    #[arg(default_value = ".")]
    pub(crate) dir: std::path::PathBuf,
    #[command(flatten)]
    pub(crate) composing: Composing,
}

#[cfg(feature = "full")]
/// The folder of a policy repository, of which nothing is read but its own files.
#[derive(Debug, clap::Args)]
pub(crate) struct Folder {
    /// Folder of the policy repository.
    #[arg(default_value = ".")]
    pub(crate) dir: std::path::PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame_decides_the_exit_code() {
        let exit = |code| Exit::of(&Diagnostic::error(code, ""));
        assert_eq!(exit(1103), Exit::Invalid, "a policy");
        assert_eq!(exit(7104), Exit::Invalid, "a query");
        assert_eq!(exit(7111), Exit::Failed, "nothing has this id");
        assert_eq!(exit(9101), Exit::Unreachable, "no mesh");
        assert_eq!(exit(9112), Exit::Failed, "the disk");
    }

    #[test]
    fn the_command_tree_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
