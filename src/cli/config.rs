//! `palisade config`: check, show, begin and describe a configuration file.

use std::{env, fs::OpenOptions, io::Write, path::PathBuf};

use palisade_mesh::diagnostic::Diagnostic;

use super::{Context, Exit};
use crate::{
    config::{
        Config,
        layers::{Effective, Origin, Overrides},
        schema,
        template::{self, Template},
    },
    render::{
        self, Output,
        table::{self, col},
    },
};

/// What to do with a configuration.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Tell every mistake in a configuration at once.
    Check(CheckArgs),
    /// Show the value of every key, and who set it.
    Show(ShowArgs),
    /// Print the JSON Schema of the file, for editors.
    Schema,
    /// Begin a file: every key of a role, with what it is for and its default.
    Init(InitArgs),
}

/// Which configuration, under which overrides.
#[derive(Debug, clap::Args)]
pub(super) struct Given {
    /// Configuration file.
    #[arg(env = "PALISADE_CONFIG", default_value = "palisade-mesh.yaml")]
    file: PathBuf,
    #[command(flatten)]
    set: Set,
}

/// Overrides from the command line.
#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Override a key of the file and of the environment, such as `proxy.workers=4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    flags: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    given: Given,
    /// Also refuse a file without the sections of this role.
    #[arg(long, value_enum)]
    role: Option<Template>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    given: Given,
    /// Also show who set each value: default, file, environment or flag.
    #[arg(long)]
    origin: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// What the file is for.
    #[arg(value_enum)]
    role: Template,
    /// File to write, which must not exist yet; standard output without it.
    file: Option<PathBuf>,
}

impl Set {
    /// What overrides the file: the environment, then the flags.
    ///
    /// # Errors
    /// Every variable and flag that names no key.
    pub(super) fn overrides(&self) -> Result<Overrides, Vec<Diagnostic>> {
        // A variable that is no text is none of ours.
        let texts = env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Overrides::from_environment(texts)?.with_flags(&self.flags)
    }
}

impl Given {
    fn read(&self) -> Result<(Config, Vec<Effective>), Vec<Diagnostic>> {
        Config::read_over(&self.file, &self.set.overrides()?)
    }
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let done = match command {
        Command::Check(args) => check(args, context),
        Command::Show(args) => show(args, context),
        Command::Schema => {
            render::json(&schema::schema());
            Ok(())
        }
        Command::Init(args) => init(args, context),
    };
    match done {
        Ok(()) => Exit::Ok,
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

fn check(args: &CheckArgs, context: &Context) -> Result<(), Vec<Diagnostic>> {
    let (config, _) = args.given.read()?;
    let mut found = registrations(&config);
    found.extend(readers(&config));
    let sections = sections(&config);
    for section in args.role.iter().flat_map(|r| r.sections()) {
        if !sections.contains(section) {
            found.push(crate::run::no_section(section));
        }
    }
    if !found.is_empty() {
        return Err(found);
    }
    match context.output {
        Output::Json => {
            render::json(&serde_json::json!({ "diagnostics": [], "sections": sections }))
        }
        Output::Human => render::line(&format!(
            "{} {} is in order: {}",
            render::paint(render::GOOD, "✓"),
            args.given.file.display(),
            match sections.as_slice() {
                [] => "no role has a section".to_owned(),
                roles => roles.join(", "),
            }
        )),
    }
    Ok(())
}

/// What the authority would say about the list of registrations.
fn registrations(config: &Config) -> Vec<Diagnostic> {
    use palisade_ca::registration::{self, Rules, TTL_MAX};
    let Some(ca) = &config.ca else {
        return Vec::new();
    };
    let rules = Rules {
        trust_domain: config.trust_domain.clone(),
        ttl_default: ca.svid_ttl,
        ttl_max: TTL_MAX,
    };
    registration::parse(&ca.registrations, &rules)
        .err()
        .unwrap_or_default()
}

/// What is wrong with the policies about readers of the audit log.
#[cfg(feature = "full")]
fn readers(config: &Config) -> Vec<Diagnostic> {
    let api = config.audit.as_ref().and_then(|audit| audit.api.as_ref());
    let read = api.map(|api| crate::run::audit::Access::read(&api.policy));
    read.and_then(Result::err).unwrap_or_default()
}

/// This build has no audit service.
#[cfg(not(feature = "full"))]
fn readers(_: &Config) -> Vec<Diagnostic> {
    Vec::new()
}

fn sections(config: &Config) -> Vec<&'static str> {
    let there = [
        ("ca", config.ca.is_some()),
        ("agent", config.agent.is_some()),
        ("pdp", config.pdp.is_some()),
        ("audit", config.audit.is_some()),
        ("proxy", config.proxy.is_some()),
    ];
    let written = there.into_iter().filter(|(_, is)| *is);
    written.map(|(name, _)| name).collect()
}

fn show(args: &ShowArgs, context: &Context) -> Result<(), Vec<Diagnostic>> {
    let (_, values) = args.given.read()?;
    if context.output == Output::Json {
        let all: Vec<_> = values
            .iter()
            .map(|v| {
                serde_json::json!({
                    "key": v.path, "value": v.value, "origin": origin(args, &v.origin),
                })
            })
            .collect();
        render::json(&all);
        return Ok(());
    }
    let mut columns = vec![col("KEY"), col("VALUE")];
    if args.origin {
        columns.push(col("ORIGIN"));
    }
    let mut out = table::Table::new(&columns);
    for value in &values {
        let mut cells = vec![value.path.into(), value.value.as_str().into()];
        if args.origin {
            cells.push(origin(args, &value.origin).into());
        }
        out.row(cells);
    }
    out.print();
    Ok(())
}

fn origin(args: &ShowArgs, origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".to_owned(),
        Origin::Environment(name) => format!("environment {name}"),
        Origin::File(line) => format!("file {}:{line}", args.given.file.display()),
        Origin::Flag => "flag --set".to_owned(),
    }
}

fn init(args: &InitArgs, context: &Context) -> Result<(), Vec<Diagnostic>> {
    let text = template::annotated(args.role);
    let Some(file) = &args.file else {
        text.lines().for_each(render::line);
        return Ok(());
    };
    let refused = |error: std::io::Error| {
        let (code, what) = match error.kind() {
            std::io::ErrorKind::AlreadyExists => (9111, "is already there"),
            _ => (9112, "cannot be written"),
        };
        vec![
            Diagnostic::error(code, format!("`{}` {what}", file.display()))
                .cause(error.to_string())
                .help("name another file"),
        ]
    };
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .map_err(refused)?;
    out.write_all(text.as_bytes()).map_err(refused)?;
    match context.output {
        Output::Json => render::json(&serde_json::json!({ "file": file })),
        Output::Human => render::line(&format!(
            "{} wrote {}",
            render::paint(render::GOOD, "✓"),
            file.display()
        )),
    }
    Ok(())
}
