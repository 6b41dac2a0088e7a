//! `palisade bundle`: a policy repository as one file, and who vouches for it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Context, Exit, policy::invariants};
use crate::{
    config::span,
    render::{self, DIM, GOOD, Output, paint, snippet::clean},
};
use palisade_mesh::{
    clock::Clock,
    diagnostic::{Diagnostic, Severity},
};
use palisade_pdp::bundle::{
    codes,
    file::{self, BundleFile},
    key::{self, SigningKey},
    trust::{NAME_LEN_MAX, TrustConfig, WAY_BACK_MAX},
};
use serde_json::json;

/// Highest number that can be given: far beyond any, and well below where counting ends.
const SEQUENCE_MAX: u64 = 1 << 62;
/// What proves invariants.
const SOLVER: &str = "cvc5";

mod log;
mod remote;
mod repository;
mod show;

use remote::Server;
use repository::Repository;

/// What to do with a bundle.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a signing key; prints the line that names it among trusted keys.
    Keygen {
        /// File for the private key; it must not exist.
        file: PathBuf,
        /// Name of the key, for people; without it, the name of the file.
        #[arg(long)]
        name: Option<String>,
    },
    /// Compile a policy repository into one file; the same texts give the same bytes.
    Build {
        #[command(flatten)]
        of: Repository,
        /// File to write, such as `shop.palisade`.
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: PathBuf,
        /// Refuse unless every invariant is proved; exits with 5 if one is not.
        #[arg(long)]
        proved: bool,
    },
    /// Sign the content of a file, its number, or that it is the newest.
    Sign(SignArgs),
    /// Check that enough trusted keys have signed a file; exits with 8 if not.
    Verify(VerifyArgs),
    /// Show what is in a file, and who has signed it.
    Inspect {
        /// The bundle file.
        file: PathBuf,
        /// Names of the signers: a file of public keys.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// Put a bundle file into an OCI registry.
    Push {
        /// The bundle file.
        file: PathBuf,
        #[command(flatten)]
        server: Server,
    },
    /// Fetch a bundle file from an OCI registry or a web server.
    Pull {
        #[command(flatten)]
        server: Server,
        /// File to write.
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: PathBuf,
    },
    /// List the revisions that were in force lately at the running PDP.
    Log,
}

/// Arguments of `bundle sign`.
#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    /// The bundle file; the signature is added to it.
    file: PathBuf,
    /// Private key, PEM of PKCS#8.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Give it this number, or sign the number that it has; numbers only grow.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=SEQUENCE_MAX))]
    sequence: Option<u64>,
    /// Say that it is the newest, for this long, such as `24h`.
    #[arg(long, value_name = "TIME", value_parser = life)]
    stamp: Option<Duration>,
    /// Let it be taken back to the bundle in this file, which has a lower number.
    #[arg(long, value_name = "FILE", requires = "sequence")]
    back_to: Option<PathBuf>,
    /// For how long from now, at most a week; a later signer signs what the first one said.
    #[arg(long, value_name = "TIME", value_parser = way_back, default_value = "24h", requires = "back_to")]
    back_within: Duration,
}

/// Arguments of `bundle verify`.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// The bundle file.
    file: PathBuf,
    /// Trusted keys, one a line.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// How many of them must have signed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threshold: usize,
    /// Demand a stamp that is not older, such as `26h`.
    #[arg(long, value_name = "TIME", value_parser = life)]
    stamp_age: Option<Duration>,
    /// Keys that may sign stamps, when they are others.
    #[arg(long, value_name = "FILE", requires = "stamp_age")]
    stamp_keys: Option<PathBuf>,
    /// Demand that this invariant was proved when the bundle was built; may be given again.
    #[arg(long, value_name = "ID")]
    require_proved: Vec<String>,
}

fn life(text: &str) -> Result<Duration, String> {
    span(text)
        .filter(|life| !life.is_zero())
        .ok_or_else(|| format!("`{text}` is not a span of time such as `30m` or `24h`"))
}

fn way_back(text: &str) -> Result<Duration, String> {
    match life(text)? {
        long if long > WAY_BACK_MAX => Err("a way back lasts at most 7 days".to_owned()),
        span => Ok(span),
    }
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let output = context.output;
    let done = match command {
        Command::Keygen { file, name } => keygen(file, name.as_deref(), output),
        Command::Build { of, file, proved } => return build(of, file, *proved, output),
        Command::Sign(args) => sign(args, output),
        Command::Verify(args) => return verify(args, output),
        Command::Inspect { file, keys } => show::inspect(file, keys.as_deref(), output),
        Command::Push { file, server } => remote::push(file, server, output),
        Command::Pull { server, file } => remote::pull(server, file, output),
        Command::Log => return log::main(context),
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(diagnostic) => render::failed(output, &diagnostic),
    }
}

fn keygen(path: &Path, name: Option<&str>, output: Output) -> Result<(), Diagnostic> {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = name.map(str::to_owned).or(stem).unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(fits) {
        return Err(
            Diagnostic::error(codes::KEYS, format!("`{name}` cannot name a key"))
                .cause(format!(
                    "a name has letters, digits and `-_.@`, at most {NAME_LEN_MAX} of them"
                ))
                .help("give it another one: --name release"),
        );
    }
    let unwritten = |cause: String| {
        Diagnostic::error(
            codes::SIGNING_KEY,
            format!("signing key `{}` cannot be made", path.display()),
        )
        .cause(cause)
        .help("name a file that does not exist, in a folder that you may write")
    };
    let (key, pem) = SigningKey::generate().map_err(|e| unwritten(e.to_string()))?;
    let mut options = fs::File::options();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| {
            file.write_all(pem.as_bytes())?;
            file.sync_all()
        })
        .map_err(|e| unwritten(e.to_string()))?;
    match output {
        Output::Json => render::json(&json!({
            "file": path,
            "name": name,
            "key": key.public().to_string(),
        })),
        Output::Human => {
            render::note(&format!(
                "{} wrote {}; those who trust it add this line to their keys",
                paint(GOOD, "✓"),
                clean(&path.display().to_string())
            ));
            render::line(&format!("{name} {}", key.public()));
        }
    }
    Ok(())
}

fn build(of: &Repository, path: &Path, all_proved: bool, output: Output) -> Exit {
    let loaded = match of.load() {
        Ok(loaded) => loaded,
        Err(diagnostic) => return render::failed(output, &diagnostic),
    };
    let Some(compiled) = loaded.compiled else {
        render::diagnostics(output, &loaded.diagnostics);
        return Exit::Invalid;
    };
    let policies = compiled.info.len();
    // Whatever the clock says here, no permit has expired where it will be enforced.
    let mut invariants = invariants::check(&compiled, 0);
    if all_proved {
        let unproved = invariants.findings.iter_mut();
        unproved.for_each(|d| d.severity = Severity::Error);
    }
    if invariants.findings.iter().any(Diagnostic::is_error) {
        render::diagnostics(output, &invariants.findings);
        return Exit::Gate;
    }
    let proved = &invariants.proved;
    let written = BundleFile::new(compiled.bundle).and_then(|file| {
        let file = file.attesting(proved.iter().map(String::as_str), SOLVER);
        write(path, &file)?;
        Ok(file)
    });
    let file = match written {
        Ok(file) => file,
        Err(diagnostic) => return render::failed(output, &diagnostic),
    };
    match output {
        Output::Json => render::json(&json!({
            "file": path,
            "digest": file.digest.to_string(),
            "policies": policies,
            "proved": proved,
        })),
        Output::Human => {
            render::diagnostics(output, &invariants.findings);
            let name = path.display();
            render::line(&format!(
                "{} {name}: {} of {}  {}",
                paint(GOOD, "✓"),
                render::count(policies, "policy", "policies"),
                file.domain,
                paint(DIM, format!("sha256:{}", file.digest)),
            ));
            invariants.lines.iter().for_each(|line| render::line(line));
            let next = format!("palisade bundle sign {name} --key KEY --sequence N");
            render::next(&[(next, "vouch for it, under a number")]);
        }
    }
    Exit::Ok
}

fn sign(args: &SignArgs, output: Output) -> Result<(), Diagnostic> {
    let mut file = file::read(&args.file)?;
    let key = read_key(&args.key)?;
    let now_us = Clock::system().now_us();
    // Who only stamps does not vouch for what is in it.
    if args.sequence.is_some() || args.stamp.is_none() {
        show::compiled(&file)?;
        file.sign_content(&key);
    }
    if let Some(sequence) = args.sequence {
        file.sign_release(&key, sequence, now_us);
    }
    if let Some(to) = &args.back_to {
        let until_us = now_us.saturating_add(micros(args.back_within));
        file.sign_way_back(&key, &file::read(to)?, until_us)?;
    }
    if let Some(life) = args.stamp {
        if file.release().is_none() {
            return Err(Diagnostic::error(
                codes::NO_NUMBER,
                "a bundle without a number cannot be stamped",
            )
            .cause("a stamp says that a number is the newest")
            .help("give it one: --sequence N"));
        }
        file.stamp(&key, now_us, now_us.saturating_add(micros(life)));
    }
    write(&args.file, &file)?;
    match output {
        Output::Json => render::json(&show::view(&file, None)),
        Output::Human => {
            let id = key.public().id();
            render::line(&format!("{} signed with key {id}", paint(GOOD, "✓")));
            show::signatures(&file, None);
        }
    }
    Ok(())
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn verify(args: &VerifyArgs, output: Output) -> Exit {
    let checked = file::read(&args.file).and_then(|file| {
        let config = TrustConfig {
            keys: args.keys.clone(),
            threshold: args.threshold,
            stamp_age: args.stamp_age,
            stamp_keys: args.stamp_keys.clone(),
            proved: args.require_proved.clone(),
        };
        let (trust, now_us) = (config.load()?, Clock::system().now_us());
        let signed = trust.check_file(&file, now_us)?;
        show::compiled(&file)?;
        let back = trust.way_back_of(&file, now_us);
        Ok((file, signed, back))
    });
    match checked {
        Ok((file, signed, back)) => {
            match output {
                Output::Json => render::json(&json!({
                    "digest": file.digest.to_string(),
                    "signed": signed.to_string(),
                    "signers": signed.signers(),
                    "sequence": file.signed.release.as_ref().map(|r| r.sequence),
                    "way_back": show::leads(&back),
                })),
                Output::Human => {
                    let number = file.signed.release.as_ref().map_or_else(
                        || "it has no number yet".to_owned(),
                        |r| format!("number {}", r.sequence),
                    );
                    render::line(&format!(
                        "{} {signed}: {} · {number}  {}",
                        paint(GOOD, "✓"),
                        signed.signers().join(", "),
                        paint(DIM, format!("sha256:{}", file.digest)),
                    ));
                    show::way_back(&back);
                }
            }
            Exit::Ok
        }
        Err(diagnostic) => {
            let exit = match diagnostic.code.0 {
                codes::FORGED | codes::NOT_SIGNED | codes::STAMP | codes::NOT_PROVED => {
                    Exit::NotVerified
                }
                _ => Exit::of(&diagnostic),
            };
            render::failure(output, &diagnostic, exit)
        }
    }
}

fn read_key(path: &Path) -> Result<SigningKey, Diagnostic> {
    let unusable = |cause: String| {
        Diagnostic::error(
            codes::SIGNING_KEY,
            format!("signing key `{}` cannot be used", path.display()),
        )
        .cause(cause)
        .help("make one: palisade bundle keygen FILE")
    };
    key::read(path).map_err(|e| unusable(e.to_string()))
}

/// Replaces a file whole: a reader sees the old one or the new one.
fn write(path: &Path, file: &BundleFile) -> Result<(), Diagnostic> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let written = || -> io::Result<()> {
        fs::write(&draft, file.encode())?;
        fs::rename(&draft, path)
    };
    written().map_err(|error| {
        let _ = fs::remove_file(&draft);
        Diagnostic::error(
            codes::FILE,
            format!("bundle file `{}` cannot be written", path.display()),
        )
        .cause(error.to_string())
        .help("name a file in a folder that you may write")
    })
}
