//! `palisade demo`: a whole mesh on loopback, with sample services and traffic.
//!
//! One supervisor process runs the control plane. Sample services and their
//! proxies are child processes, started from hard links of this binary so that
//! the agent tells them by path. Everything listens on loopback, on ports that
//! were free, and is gone at the end.

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use palisade_audit::{index::TailEvent, query::Query, row::Row};
use palisade_mesh::{diagnostic::Diagnostic, wire::record::Verdict};
use serde::Serialize;
use serde_json::json;

use crate::{
    cli::{Context, Exit, block_on, short_id, short_service},
    config,
    render::{self, DIM, GOOD, NAME, Output, WARN, paint, screen, strong},
    run::Signals,
};

mod children;
mod events;
mod live;
mod mesh;
mod policies;
pub mod shop;

use live::{Live, REDRAW, Seen};
use mesh::{DEFAULT_NAME, DemoMesh};

/// How long a demo runs where nothing is said: nobody forgets one for a week.
const DURATION_DEFAULT: &str = "8h";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Requests per second that the services send each other.
    #[arg(long, default_value_t = 40.0, value_parser = rate)]
    rate: f64,
    /// Life of a certificate.
    #[arg(long, default_value = "60s", value_parser = span)]
    svid_ttl: Duration,
    /// A policy repository to use instead of a copy of the sample.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// When to end by itself.
    #[arg(long, default_value = DURATION_DEFAULT, value_parser = span)]
    duration: Duration,
    /// Address to listen on; loopback only.
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=2000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number from 0 to 2000".into()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    config::span(text).ok_or_else(|| "expected a span of time such as 60s or 8h".into())
}

pub(crate) fn main(args: DemoArgs, context: &Context) -> Exit {
    if !args.address.is_loopback() {
        let refused = Diagnostic::error(
            9001,
            format!("a demo does not listen on `{}`", args.address),
        )
        .cause("its identities and policies are samples that anybody knows")
        .help("run it on loopback; for other hosts see `palisade run`");
        return render::failure(context.output, &refused, Exit::Invalid);
    }
    match block_on(run(&args, context)) {
        Ok(()) => Exit::Ok,
        Err(found) => {
            render::diagnostics(context.output, &found);
            Exit::Failed
        }
    }
}

async fn run(args: &DemoArgs, context: &Context) -> Result<(), Vec<Diagnostic>> {
    let started = Instant::now();
    if context.output == Output::Human {
        render::line(&format!(
            "{}  {}\n",
            strong("Palisade demo"),
            paint(DIM, "loopback only, gone when you press Ctrl-C")
        ));
    }
    let spinner = spinner(context.output);
    let mut signals = Signals::heard().map_err(|d| vec![d])?;
    let mesh = tokio::select! {
        mesh = DemoMesh::start(args, |step| spinner.set_message(step.to_owned())) => mesh,
        () = signals.end() => Err(Vec::new()),
    };
    spinner.finish_and_clear();
    let mut mesh = mesh?;
    match context.output {
        Output::Human => welcome(&mesh, args, started.elapsed()),
        Output::Json => event(
            "ready",
            &json!({ "mesh": mesh.name, "policies": mesh.policies }),
        ),
    }
    let mut view = View::new(context.output);
    let ended = tokio::select! {
        ended = watch(&mut mesh, &mut view) => ended,
        () = signals.end() => Ok(()),
        () = tokio::time::sleep(args.duration) => Ok(()),
    };
    view.finish();
    mesh.end().await;
    if context.output == Output::Json {
        return ended;
    }
    render::line("  Everything that the demo made is gone.");
    if ended.is_ok() {
        let this = this();
        render::next(&[
            (
                format!("{this} init my-policies"),
                "a policy repository of your own",
            ),
            (
                format!("{this} policy test my-policies"),
                "its tests, on the engine that enforces",
            ),
        ]);
    }
    ended
}

/// This program as it was called, to be copied.
fn this() -> String {
    std::env::args().next().unwrap_or_else(|| "palisade".into())
}

fn spinner(output: Output) -> ProgressBar {
    if output == Output::Json {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(80));
    spinner
}

fn welcome(mesh: &DemoMesh, args: &DemoArgs, took: Duration) {
    let n = shop::SHOP.len();
    for done in [
        format!(
            "certificate authority, certificates live {}",
            render::duration(args.svid_ttl)
        ),
        format!(
            "policy decision point, {}",
            render::count(mesh.policy_count(), "policy", "policies")
        ),
        format!("{n} sample services, each behind its own proxy, mTLS between them"),
        format!(
            "audit log, {:.0} requests a second       ready in {:.1} s",
            args.rate,
            took.as_secs_f64()
        ),
    ] {
        render::line(&format!("  {} {done}", paint(GOOD, "✓")));
    }
    let orders = shown(&mesh.policies.join("policies/orders.cedar"));
    let policies = shown(&mesh.policies);
    let found = if args.policies.is_none() && mesh.found_policies() {
        "  as found here, kept at the end"
    } else {
        ""
    };
    for (name, text) in [
        ("Policies", paint(NAME, policies) + found),
        ("", "edit and save: in force within a second".into()),
        (
            "Try it",
            "the shop cannot refund: take the slashes away at the end of".into(),
        ),
        ("", format!("{} and save,", paint(NAME, orders))),
        (
            "",
            "then break the file: the line is shown, nothing stops".into(),
        ),
    ] {
        let gap = if name == "Policies" || name == "Try it" {
            "\n"
        } else {
            ""
        };
        render::line(&format!("{gap}  {}  {text}", strong(format!("{name:<8}"))));
    }
    let mesh_name = match mesh.name.as_str() {
        DEFAULT_NAME => String::new(),
        name => format!(" --mesh {name}"),
    };
    let this = this();
    render::line(&format!("\n  {}", strong("In a second terminal")));
    let commands = [
        (
            "can web POST orders/42/refund --why",
            "may the shop refund?",
        ),
        ("audit search decision:deny", "who was denied"),
        ("audit verify", "is the log as recorded?"),
        ("identity list", "who has which certificate"),
        ("status", "how everything stands"),
    ];
    let commands = commands.map(|(c, what)| (format!("{this} {c}{mesh_name}"), what));
    let longest = commands.iter().map(|(c, _)| c.len()).max().unwrap_or(0);
    for (command, what) in commands {
        let line = format!("    {command:<longest$}  {}", paint(DIM, what));
        match screen::width() {
            Some(width) if longest + what.len() + 6 > width => {
                render::line(&format!("    {command}"));
            }
            _ => render::line(&line),
        }
    }
    render::line(&paint(DIM, "\n  Ctrl-C ends it."));
}

/// A path as people type it: from the working folder where it lies in it.
fn shown(path: &std::path::Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let within = path.strip_prefix(&here).unwrap_or(path);
    within.display().to_string()
}

/// Where decisions and events go: the live rows, or a JSON document on each line.
enum View {
    Rows(Box<Live>),
    Lines,
}

impl View {
    fn new(output: Output) -> Self {
        match output {
            Output::Human => Self::Rows(Box::new(Live::new())),
            Output::Json => Self::Lines,
        }
    }

    fn see(&mut self, row: &Row) {
        match self {
            Self::Rows(live) => live.see(seen(row)),
            Self::Lines => event("decision", row),
        }
    }

    fn event(&mut self, text: &str) {
        match self {
            Self::Rows(live) => live.event(text),
            Self::Lines => event("note", &anstream::adapter::strip_str(text).to_string()),
        }
    }

    fn redraw(&mut self, summary: &str) {
        if let Self::Rows(live) = self {
            live.redraw(summary);
        }
    }

    fn finish(&mut self) {
        if let Self::Rows(live) = self {
            live.finish();
        }
    }
}

/// Prints `{"event": NAME, "NAME": …}` on one line.
fn event(name: &str, value: &impl Serialize) {
    render::line(&json!({ "event": name, name: value }).to_string());
}

/// Shows decisions and events until something ends the demo.
async fn watch(mesh: &mut DemoMesh, view: &mut View) -> Result<(), Vec<Diagnostic>> {
    let query = Query::parse("class:decision").map_err(|d| vec![d])?;
    let mut decisions = Box::pin(mesh.audit()?.store.tail(&query));
    let mut policy = mesh.pdp()?.state.clone();
    policy.mark_unchanged();
    let mut redraw = tokio::time::interval(REDRAW);
    let in_force = policy.borrow().current.as_ref().map_or(0, |c| c.sequence());
    let mut notes = events::Notes::new(mesh.agent()?, in_force);
    loop {
        tokio::select! {
            event = decisions.next() => match event {
                Some(TailEvent::Row(row)) => view.see(&row),
                Some(TailEvent::Skipped(n)) => view.event(&paint(WARN, format!("  … {n} decisions came faster than they can be shown"))),
                Some(TailEvent::Unreadable(_)) => {}
                None => return Ok(()),
            },
            Ok(()) = policy.changed() => {
                let state = policy.borrow_and_update().clone();
                for line in notes.policy(&state, mesh.pdp()?).await {
                    view.event(&line);
                }
            }
            _ = redraw.tick() => {
                notes.look();
                view.redraw(&notes.summary());
                if render::closed() {
                    return Ok(());
                }
                if let Some((name, how)) = mesh.ended_child() {
                    return Err(vec![mesh.lost(&name, &how)]);
                }
            }
        }
    }
}

fn seen(row: &Row) -> Seen {
    let text = |name| row.text(name).unwrap_or_default();
    Seen {
        caller: short_id(text("principal")).into(),
        service: short_service(text("service")).into(),
        request: match row.text("route") {
            Some(route) if !route.is_empty() => format!("{} {route}", text("method")),
            _ => format!("{} {}", text("method"), text("path")),
        },
        verdict: match text("decision") {
            "allow" => Verdict::Allow,
            "forbidden" => Verdict::Forbidden,
            "not_permitted" => Verdict::NotPermitted,
            "undecided" => Verdict::Undecided,
            "refused" => Verdict::Refused,
            _ => Verdict::Unspecified,
        },
        policies: row.texts("policy").into_iter().map(str::to_owned).collect(),
        id: text("id").into(),
        decision_ns: row.number("decision_ns").unwrap_or_default(),
    }
}
