//! `palisade rollout`: bring a revision to the proxies step by step, and back.

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::{
    author,
    bundle::codes::INCOMPLETE,
    publish::rollout::{Standing, Stop},
};

use super::{Context, Exit, block_on};
use crate::{
    config::span,
    control::{
        client::Mesh,
        status::{ago, ahead},
    },
    render::{
        self, BAD, DIM, GOOD, Output, WARN, count, paint,
        snippet::clean,
        table::{self, Table, col, styled},
        thousands,
    },
    run::rollout::{RolloutPreview, RolloutStatus, RolloutWish},
};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Turns that are shown.
const TURNS_SHOWN: usize = 8;
/// Policies that are named where several differ.
const POLICIES_SHOWN: usize = 8;

/// What to do with a rollout.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what a rollout would do, and when, without beginning it.
    Plan(Wish),
    /// Begin to bring a revision to the proxies.
    Start(Wish),
    /// Show the rollout in progress, or the last one; ends with 5 if it was halted.
    Status {
        /// Go on showing it until it has ended.
        #[arg(long)]
        watch: bool,
    },
    /// Go on to the next phase now.
    Promote,
    /// Stop the clock; gates are still watched.
    Pause,
    /// Let the clock go on.
    Resume,
    /// Stop the rollout: every proxy goes back to what it had.
    Abort,
    /// Put the revision before the present one in force again at once, or another kept one.
    Rollback {
        /// Its number, or eight or more digits of its digest.
        #[arg(long, value_name = "SEQUENCE|DIGEST")]
        to: Option<String>,
    },
}

/// What is to be rolled out, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Wish {
    /// A policy repository, a kept revision by number or digest; without it what the PDP's
    /// source has.
    #[arg(value_name = "REF")]
    of: Option<String>,
    /// How long all proxies try it beside what they enforce; `0s` for not at all.
    #[arg(long, value_name = "TIME", value_parser = time)]
    shadow: Option<Duration>,
    /// Who enforces it before the others: `svc=NAMESPACE/NAME` or `25%`, joined by commas.
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    canary: Option<Vec<String>>,
    /// Time of each step of the canary.
    #[arg(long, value_name = "TIME", value_parser = time)]
    step: Option<Duration>,
    /// How long all proxies are watched before it is complete.
    #[arg(long, value_name = "TIME", value_parser = time)]
    watch_for: Option<Duration>,
    /// Put one decision in this many to both revisions.
    #[arg(long, value_name = "N")]
    every: Option<u32>,
    /// Decisions that a phase must have seen before it may end well.
    #[arg(long, value_name = "N")]
    min_decisions: Option<u64>,
    /// What halts it, such as `newly-denied>0.1%` or `p99>1.5`; several times for several.
    #[arg(long, value_name = "GATE>LIMIT")]
    abort_on: Vec<String>,
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let done = match command {
        Command::Plan(wish) => block_on(plan(wish, context)),
        Command::Start(wish) => block_on(start(wish, context)),
        Command::Status { watch: false } => block_on(status(context)),
        Command::Status { watch: true } => block_on(watch(context)),
        Command::Promote => block_on(order("promote", context)),
        Command::Pause => block_on(order("pause", context)),
        Command::Resume => block_on(order("resume", context)),
        Command::Abort => block_on(order("abort", context)),
        Command::Rollback { to } => block_on(rollback(to.as_deref(), context)),
    };
    done.unwrap_or_else(|diagnostic| render::failed(context.output, &diagnostic))
}

impl Wish {
    fn read(&self) -> Result<RolloutWish, Diagnostic> {
        let ms =
            |time: Option<Duration>| time.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let mut wish = RolloutWish {
            shadow_ms: ms(self.shadow),
            every: self.every,
            canary: self.canary.clone(),
            step_ms: ms(self.step),
            watch_ms: ms(self.watch_for),
            min_decisions: self.min_decisions,
            abort_on: self.abort_on.clone(),
            ..RolloutWish::default()
        };
        match self.of.as_deref() {
            None => {}
            Some(of) if Path::new(of).exists() => wish.bundle = Some(bundle(Path::new(of))?),
            Some(of) => wish.kept = Some(of.to_owned()),
        }
        Ok(wish)
    }
}

/// The bundle of a repository on this machine, base64.
fn bundle(dir: &Path) -> Result<String, Diagnostic> {
    let loaded = author::load(dir);
    if let Some(missing) = incomplete(&loaded.diagnostics) {
        return Err(missing);
    }
    let compiled = loaded.compiled.ok_or_else(|| {
        let first = loaded.diagnostics.into_iter().find(Diagnostic::is_error);
        first.unwrap_or_else(|| Diagnostic::error(1002, "the repository cannot be loaded"))
    })?;
    Ok(STANDARD.encode(&compiled.bundle))
}

/// A bundle without what a source contributes, perhaps what it forbids, would be taken for the whole.
fn incomplete(found: &[Diagnostic]) -> Option<Diagnostic> {
    let elsewhere = |d: &&Diagnostic| d.code.0 == author::codes::SOURCE_ELSEWHERE;
    let first = found.iter().find(elsewhere)?;
    let cause = first.cause.clone().unwrap_or_default();
    Some(
        Diagnostic::error(INCOMPLETE, "the bundle would lack a source")
            .cause(format!("{}: {cause}", first.message))
            .help("check the source out, and name the folder in `palisade.yaml`; or let the PDP put the sources together"),
    )
}

async fn plan(wish: &Wish, context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let preview: RolloutPreview = mesh
        .post("pdp", "/v1/pdp/rollout/plan", &wish.read()?)
        .await?;
    match context.output {
        Output::Json => render::json(&preview),
        Output::Human => print_preview(&preview, wish.of.as_deref()),
    }
    Ok(Exit::Ok)
}

async fn start(wish: &Wish, context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let status: Option<RolloutStatus> = mesh
        .post("pdp", "/v1/pdp/rollout/start", &wish.read()?)
        .await?;
    Ok(show(status.as_ref(), context))
}

async fn order(verb: &str, context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let path = format!("/v1/pdp/rollout/{verb}");
    let status: Option<RolloutStatus> = mesh.post("pdp", &path, &()).await?;
    show(status.as_ref(), context);
    Ok(Exit::Ok)
}

async fn rollback(to: Option<&str>, context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let _: Option<RolloutStatus> = mesh.post("pdp", "/v1/pdp/rollout/rollback", &to).await?;
    let pdp: crate::control::status::PdpStatus = mesh.get("pdp", "/v1/pdp/status").await?;
    match (context.output, &pdp.revision) {
        (Output::Json, _) => render::json(&pdp.revision),
        (Output::Human, Some(revision)) => {
            let digest: String = revision.digest.chars().take(8).collect();
            render::line(&format!(
                "{} revision {} ({digest}) is in force",
                paint(GOOD, "✓"),
                revision.sequence
            ));
            render::next(&[
                ("palisade status".into(), "which proxies have it"),
                (
                    "palisade rollout start".into(),
                    "try what the source has again",
                ),
            ]);
        }
        (Output::Human, None) => render::line("no revision is in force"),
    }
    Ok(Exit::Ok)
}

async fn status(context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let status: Option<RolloutStatus> = mesh.get("pdp", "/v1/pdp/rollout").await?;
    Ok(show(status.as_ref(), context))
}

/// Shows each change until the rollout has ended.
async fn watch(context: &Context) -> Result<Exit, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let mut shown = String::new();
    loop {
        let status: Option<RolloutStatus> = mesh.get("pdp", "/v1/pdp/rollout").await?;
        let Some(status) = status else {
            return Ok(show(None, context));
        };
        let ended = matches!(status.phase.as_str(), "rolled_back" | "completed");
        let now = match context.output {
            Output::Json => {
                let status = serde_json::to_string(&status).unwrap_or_default();
                render::snippet::inert(&status).into_owned()
            }
            Output::Human => summary(&status),
        };
        if now != shown && !ended {
            render::line(&now);
        }
        shown = now;
        if ended || render::closed() {
            return Ok(show(Some(&status), context));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Prints how it stands; the exit code says whether it was halted.
fn show(status: Option<&RolloutStatus>, context: &Context) -> Exit {
    match (context.output, status) {
        (Output::Json, _) => render::json(&status),
        (Output::Human, None) => {
            render::line("no rollout is in progress, and none was before");
            render::next(&[("palisade rollout plan".into(), "what one would do")]);
        }
        (Output::Human, Some(status)) => print(status),
    }
    exit(status)
}

fn exit(status: Option<&RolloutStatus>) -> Exit {
    let halted = |by| matches!(by, Stop::Gate | Stop::Refused | Stop::TimedOut);
    let stopped = status.and_then(|s| s.stopped.as_ref());
    match stopped.is_some_and(|stopped| halted(stopped.by)) {
        true => Exit::Gate,
        false => Exit::Ok,
    }
}

/// One line: the phase, what was seen, when it ends.
pub(super) fn summary(status: &RolloutStatus) -> String {
    let clock = Clock::system();
    let (style, mark) = standing(status);
    let mut parts = vec![status.text.clone()];
    if let Some(by) = &status.paused_by {
        parts.push(format!("paused by {by}"));
    }
    if status.decisions_needed > 0 {
        parts.push(format!(
            "{} of {} decisions",
            thousands(status.decisions),
            thousands(status.decisions_needed)
        ));
    }
    let flips = status.newly_denied + status.newly_allowed + status.newly_undecided;
    parts.push(format!(
        "{} of {} evaluations differ",
        thousands(flips),
        thousands(status.evaluated)
    ));
    parts.extend(outlook(status, &clock));
    format!(
        "{} {}  {}",
        paint(style, mark),
        status.candidate,
        parts.join(" · ")
    )
}

/// What happens next, and when.
fn outlook(status: &RolloutStatus, clock: &Clock) -> Option<String> {
    let has_seen = status.decisions >= status.decisions_needed;
    let ripe_us = status.ripe_us.filter(|us| *us > clock.now_us());
    match (&status.paused_by, ripe_us) {
        (None, Some(us)) if has_seen => Some(format!("goes on {}", ahead(clock, us / 1_000_000))),
        _ => {
            let at = ahead(clock, status.ends_us? / 1_000_000);
            Some(format!("{at} {}", status.then.as_ref()?))
        }
    }
}

fn standing(status: &RolloutStatus) -> (anstyle::Style, &'static str) {
    match (status.phase.as_str(), exit(Some(status))) {
        (_, Exit::Gate) => (BAD, "✗"),
        ("completed", _) => (GOOD, "✓"),
        ("halted" | "rolled_back", _) => (WARN, "!"),
        _ if status.paused_by.is_some() => (WARN, "!"),
        _ => (GOOD, "▸"),
    }
}

fn print(status: &RolloutStatus) {
    let clock = Clock::system();
    render::line(&summary(status));
    render::line(&paint(
        DIM,
        format!(
            "  in place of {}, started {} by {}",
            status.baseline,
            ago(&clock, status.started_us),
            clean(&status.actor)
        ),
    ));
    if let Some(us) = status.back_until_us {
        render::line(&paint(DIM, format!("  {}", way_back(us, &clock))));
    }
    if let Some(stopped) = &status.stopped {
        render::line(&format!(
            "  {}  {}, during {}",
            paint(BAD, "halted"),
            clean(&stopped.why),
            clean(&stopped.during)
        ));
        if let Some(restored) = status.restored {
            render::line(&format!(
                "  the content before is in force as revision {restored}"
            ));
        }
    }
    print_gates(status);
    print_proxies(status);
    print_turns(status);
    render::next(&next(status));
}

/// How long it may be taken back, by the word of those who have numbered it.
fn way_back(until_us: i64, clock: &Clock) -> String {
    match until_us > clock.now_us() {
        true => format!(
            "its signers' way back ends {}",
            ahead(clock, until_us / 1_000_000)
        ),
        false => "its signers' way back has ended".to_owned(),
    }
}

fn print_gates(status: &RolloutStatus) {
    render::line("");
    let mut rows = Table::new(&[col(""), col("GATE"), col("SEEN"), col("HALTS BEYOND")]);
    for gate in &status.gates {
        let (style, mark) = match gate.standing {
            Standing::Exceeded => (BAD, "✗"),
            Standing::Holds => (GOOD, "✓"),
            Standing::Unknown => (DIM, "·"),
        };
        rows.row([
            styled(style, mark),
            gate.gate.as_str().into(),
            gate.value.as_str().into(),
            gate.limit.as_str().into(),
        ]);
    }
    rows.print();
}

fn print_proxies(status: &RolloutStatus) {
    if status.proxies.is_empty() {
        return;
    }
    render::line("");
    let mut rows = Table::new(&[
        col(""),
        col("PROXY"),
        col("ENFORCES").right(),
        col("TRIES").right(),
    ]);
    for proxy in &status.proxies {
        let (style, mark) = match proxy.enforces == proxy.wanted {
            true => (GOOD, "✓"),
            false => (WARN, "!"),
        };
        rows.row([
            styled(style, mark),
            match proxy.apis {
                true => "the decision APIs".into(),
                false => clean(&proxy.instance).into(),
            },
            table::Cell::from(proxy.enforces.to_string()),
            match proxy.tries {
                0 => "".into(),
                n => table::Cell::from(n.to_string()),
            },
        ]);
    }
    rows.print();
}

fn print_turns(status: &RolloutStatus) {
    render::line("");
    let clock = Clock::system();
    let skipped = status.turns.len().saturating_sub(TURNS_SHOWN);
    for turn in status.turns.iter().skip(skipped) {
        let by = turn.by.as_ref().map(|by| format!("by {by}"));
        let why = Some(turn.why.clone()).filter(|why| !why.is_empty());
        let why: Vec<String> = why.into_iter().chain(by).collect();
        render::line(&format!(
            "  {}  {}  {}",
            paint(DIM, format!("{:>12}", ago(&clock, turn.at_us))),
            clean(&turn.what),
            paint(DIM, clean(&why.join(" ")))
        ));
    }
}

fn next(status: &RolloutStatus) -> Vec<(String, &'static str)> {
    let flips = format!(
        "palisade audit search 'shadow_sequence:{} flip:*'",
        status.candidate.sequence
    );
    match status.phase.as_str() {
        "completed" => vec![("palisade rollout rollback".into(), "back to the one before")],
        "halted" | "rolled_back" => vec![
            (flips, "the requests that would change"),
            (
                "palisade rollout start".into(),
                "try the source's content again",
            ),
        ],
        _ if status.paused_by.is_some() => vec![
            ("palisade rollout resume".into(), "let the clock go on"),
            ("palisade rollout abort".into(), "go back"),
        ],
        _ => vec![
            (flips, "the requests that would change"),
            (
                "palisade rollout promote".into(),
                "go on to the next phase now",
            ),
            ("palisade rollout abort".into(), "go back"),
        ],
    }
}

fn print_preview(preview: &RolloutPreview, of: Option<&str>) {
    let digest: String = preview.digest.chars().take(8).collect();
    render::line(&format!(
        "content {digest} in place of {}",
        preview.baseline
    ));
    for (verb, ids) in [
        ("added", &preview.added),
        ("removed", &preview.removed),
        ("changed", &preview.changed),
    ] {
        if !ids.is_empty() {
            let named: Vec<String> = ids
                .iter()
                .take(POLICIES_SHOWN)
                .map(|id| clean(id))
                .collect();
            let more = match ids.len().saturating_sub(POLICIES_SHOWN) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            let n = count(ids.len(), "policy", "policies");
            render::line(&format!("  {n} {verb}: {}{more}", named.join(", ")));
        }
    }
    render::line("");
    let mut rows = Table::new(&[
        col("PHASE"),
        col("FOR").right(),
        col("AT MOST").right(),
        col("THEN").short(),
    ]);
    for phase in &preview.phases {
        let time = |s: u64| match s {
            0 => String::new(),
            s => render::duration(Duration::from_secs(s)),
        };
        rows.row([
            phase.phase.as_str().into(),
            table::Cell::from(time(phase.for_s)),
            table::Cell::from(time(phase.limit_s)),
            phase.then.as_str().into(),
        ]);
    }
    rows.print();
    if let Some(us) = preview.back_until_us {
        render::line(&format!("\n{}", way_back(us, &Clock::system())));
    }
    if let Some(note) = &preview.note {
        render::line(&format!("\n{} {}", paint(WARN, "!"), clean(note)));
    }
    render::line(&format!(
        "\nhalts on {}; a phase needs {}",
        preview.gates.join(", "),
        count(
            usize::try_from(preview.min_decisions).unwrap_or(usize::MAX),
            "decision",
            "decisions"
        )
    ));
    let of = of.map_or_else(String::new, |of| format!(" {of}"));
    render::next(&[(format!("palisade rollout start{of}"), "begin it")]);
}

fn time(text: &str) -> Result<Duration, String> {
    span(text).ok_or_else(|| format!("`{text}` is not a span of time such as `30m`"))
}
