//! `palisade why`: explain a recorded decision.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use palisade_mesh::{diagnostic::Diagnostic, snapshot::Digest};
use palisade_pdp::{
    author,
    compiled::Absent,
    decide::{Outcome, Snapshot},
};
use serde::Serialize;
use serde_json::Value;

use super::{Composing, Context, Exit, block_on, target};
use crate::{
    control::client::Mesh,
    render::{self, DIM, NAME, Output, explanation, paint, records, snippet::clean},
    run::{
        audit::{AskRevision, Found, KEPT_ROUTE, whole},
        pdp::{Explained, Recorded},
        policy,
    },
};

/// Decisions of one id that are looked at.
const LOOKED_AT_MAX: usize = 16;

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Decision id, or its first six or more characters.
    id: String,
    /// Replay against this repository instead of the revision that decided.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    composing: Composing,
}

/// The record and its explanation.
#[derive(Debug, Serialize)]
struct Why {
    /// Whether it was explained under the very revision that decided.
    exact: bool,
    record: Value,
    explanation: palisade_pdp::decide::Explanation,
    /// Whether its reporter is the service that it is about; nothing where nobody can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    by_the_service: Option<bool>,
    /// Whether the revision that decided says otherwise than the record.
    contradicted: bool,
    /// Other decisions of the same id: whoever has an identity may write one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<Value>,
    /// Sources that the revision lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    absent: Vec<Absent>,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    match block_on(ask(args, context)) {
        Ok(why) => {
            match context.output {
                Output::Json => render::json(&why),
                Output::Human => print(&why, args),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn ask(args: &Args, context: &Context) -> Result<Why, Diagnostic> {
    args.composing.placed(args.policies.as_deref())?;
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let found: Found = mesh
        .get(
            "audit",
            &format!("/v1/audit/record/{}", super::path_segment(&args.id)),
        )
        .await?;
    let mut decisions = found.rows;
    decisions.retain(|row| text(row, "class") == "decision");
    if decisions.is_empty() {
        return Err(no_decision(&args.id));
    }
    let against = match &args.policies {
        Some(dir) => Against::Folder(snapshot(dir, &args.composing).await?),
        None => Against::Mesh(&mesh),
    };
    let (record, explained) = the_one(&decisions, &against, args).await?;
    let others = decisions.iter().filter(|d| d["entry"] != record["entry"]);
    let (_, then) = records::standing(record);
    let (_, now) = explanation::verdict(explained.explanation.verdict);
    let told = !matches!(
        explained.explanation.verdict,
        Outcome::Undecided | Outcome::Unknown
    );
    Ok(Why {
        contradicted: explained.exact && told && now != then,
        others: others.cloned().collect(),
        record: record.clone(),
        exact: explained.exact,
        by_the_service: explained.by_the_service,
        explanation: explained.explanation,
        absent: against.absent(),
    })
}

/// By what a record is explained.
enum Against<'m> {
    /// The revision that decided, or else the present one.
    Mesh(&'m Mesh),
    /// A working copy.
    Folder(Arc<Snapshot>),
}

impl Against<'_> {
    async fn explain(&self, record: &Value) -> Result<Explained, Diagnostic> {
        let recorded = recorded(record);
        match self {
            Self::Folder(snapshot) => {
                let exact = snapshot.versions().policy.to_string() == recorded.revision;
                recorded.explained(snapshot, exact)
            }
            Self::Mesh(mesh) => {
                let explained: Explained = mesh.post("pdp", "/v1/pdp/explain", &recorded).await?;
                let kept = match explained.exact {
                    true => None,
                    false => kept(mesh, &recorded).await,
                };
                Ok(kept.unwrap_or(explained))
            }
        }
    }

    fn absent(&self) -> Vec<Absent> {
        match self {
            Self::Folder(snapshot) => snapshot.compiled().absent.clone(),
            Self::Mesh(_) => Vec::new(),
        }
    }
}

/// Of the decisions of one id the first whose reporter is the service that it is about, or else
/// the first: an id is no secret, and whoever has an identity may write a record with it.
async fn the_one<'d>(
    decisions: &'d [Value],
    against: &Against<'_>,
    args: &Args,
) -> Result<(&'d Value, Explained), Diagnostic> {
    let mut first = None;
    for record in decisions.iter().take(LOOKED_AT_MAX) {
        let explained = match text(record, "decision") {
            "refused" => Err(refused(record)),
            _ => against.explain(record).await,
        };
        let is_foreign = match &explained {
            Ok(explained) => explained.by_the_service == Some(false),
            Err(_) => false,
        };
        if !is_foreign {
            return Ok((record, explained?));
        }
        first = first.or(Some((record, explained?)));
    }
    first.ok_or_else(|| no_decision(&args.id))
}

fn no_decision(id: &str) -> Diagnostic {
    Diagnostic::error(7301, format!("`{id}` is not the id of a decision"))
        .help(format!("see what it is: palisade audit show {id}"))
}

/// The explanation under the revision that is kept beside the log, where it is.
async fn kept(mesh: &Mesh, recorded: &Recorded) -> Option<Explained> {
    let asked = AskRevision {
        digest: recorded.revision.clone(),
    };
    let mut bundle = Vec::new();
    let read = mesh.bytes("audit", KEPT_ROUTE, &asked, |bytes| {
        bundle.extend_from_slice(bytes);
        true
    });
    read.await.ok()?;
    let digest = Digest::from_hex(&recorded.revision)?;
    let bundle = Bytes::from(bundle);
    whole(&digest.0, bundle.clone()).ok()?;
    let snapshot = policy::snapshot(author::compile(bundle).compiled?, 0).ok()?;
    recorded.explained(&snapshot, true).ok()
}

/// A refused request never reached the engine: the record itself is the reason.
fn refused(record: &Value) -> Diagnostic {
    Diagnostic::error(7302, "this request was refused before any policy was asked")
        .cause(format!(
            "{} ({} {})",
            text(record, "reason"),
            text(record, "method"),
            text(record, "path")
        ))
        .help(format!(
            "see the whole record: palisade audit show {}",
            text(record, "id")
        ))
}

async fn snapshot(dir: &Path, composing: &Composing) -> Result<Arc<Snapshot>, Diagnostic> {
    let snapshot = target::snapshot_of(dir, composing).await;
    snapshot.map_err(|found| {
        let first = found.into_iter().find(Diagnostic::is_error);
        first.unwrap_or_else(|| Diagnostic::error(1002, "the repository cannot be loaded"))
    })
}

fn recorded(record: &Value) -> Recorded {
    let resource = text(record, "resource");
    let context = record.get("context").map_or_else(String::new, |c| match c {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Recorded {
        principal: text(record, "principal").into(),
        action: text(record, "action").into(),
        resource_type: text(record, "resource_type").into(),
        resource_id: resource.into(),
        context_json: context,
        revision: text(record, "revision_digest").into(),
        reporter: text(record, "reporter").into(),
        service: text(record, "service").into(),
    }
}

/// Says that other policies decide otherwise, where they do, and that those that decided do.
fn print_turn(why: &Why, args: &Args) {
    let (_, then) = records::standing(&why.record);
    let (style, now) = explanation::verdict(why.explanation.verdict);
    let under = match why.exact {
        true if why.contradicted => "the revision that the record names: the record is not true",
        false if now != then => &other(args),
        _ => return,
    };
    render::line(&format!("{}  under {under}", paint(style.bold(), now)));
}

/// Says who it is that says so, where that is not the service, or not the only one.
fn print_doubts(why: &Why) {
    let reporter = text(&why.record, "reporter");
    if why.by_the_service == Some(false) {
        let service = text(&why.record, "service");
        let what = format!("reported by {reporter}, which is not {service}");
        render::line(&paint(render::WARN, clean(&what)));
    }
    if !why.others.is_empty() {
        let mut by: Vec<&str> = why.others.iter().map(|d| text(d, "reporter")).collect();
        by.sort_unstable();
        by.dedup();
        let count = why.others.len();
        let what = format!(
            "{count} more of this id, by {}; this one is by {reporter}",
            by.join(", ")
        );
        render::line(&paint(render::WARN, clean(&what)));
    }
}

/// The policies that explain what another revision decided.
fn other(args: &Args) -> String {
    match &args.policies {
        Some(dir) => format!("{} instead of the revision that decided", dir.display()),
        None => "the present revision".into(),
    }
}

fn text<'r>(record: &'r Value, key: &str) -> &'r str {
    record.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn print(why: &Why, args: &Args) {
    let record = &why.record;
    // What was decided then, whatever the policies say that explain it now.
    let (style, word) = records::standing(record);
    render::line(&format!(
        "{}  {} → {}   {} {}   {}",
        paint(style.bold(), word),
        clean(super::short_id(text(record, "principal"))),
        clean(super::short_service(text(record, "service"))),
        clean(text(record, "method")),
        clean(text(record, "path")),
        paint(DIM, clean(&when(record))),
    ));
    print_turn(why, args);
    print_doubts(why);
    render::line(&format!(
        "{}  {}",
        paint(NAME, "reason"),
        explanation::reason(&why.explanation)
    ));
    explanation::print_reasons(&why.explanation);
    print_shadows(record);
    let revision: String = text(record, "revision_digest").chars().take(8).collect();
    let certificate = match text(record, "serial") {
        // Whom another program named has none here.
        "" => String::new(),
        serial => format!(" · certificate {}", clean(serial)),
    };
    render::line(&paint(
        DIM,
        format!(
            "\nprincipal {}{certificate} · revision {revision} · id {}",
            clean(text(record, "principal")),
            clean(text(record, "id"))
        ),
    ));
    if !why.exact {
        let under = match &args.policies {
            Some(_) => "",
            None => "the revision that decided is not at hand any more; ",
        };
        let under = format!("{under}explained under {}", other(args));
        render::line(&paint(render::WARN, under));
    }
    let id = clean(text(record, "id"));
    let mut next = vec![(format!("palisade audit show {id}"), "the whole record")];
    if args.policies.is_none() {
        let replay = format!("palisade why {id} --policies DIR");
        next.push((replay, "the same request under a working copy"));
    }
    render::next(&next);
}

/// What else was asked about the same request, and what it would have changed.
fn print_shadows(record: &Value) {
    let shadows = record.get("shadows").and_then(Value::as_array);
    for shadow in shadows.into_iter().flatten() {
        let (who, verb) = match shadow.get("sequence").and_then(Value::as_u64) {
            Some(0) | None => ("permits in shadow mode".to_owned(), "they"),
            Some(n) => {
                let digest: String = text(shadow, "revision_digest").chars().take(8).collect();
                (format!("revision {n} {digest}"), "it")
            }
        };
        let policies = shadow.get("policies").and_then(Value::as_array);
        let policies: Vec<&str> = policies
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let by = match policies.is_empty() {
            true => text(shadow, "reason").replace('_', " "),
            false => policies.join(", "),
        };
        let flip = match text(shadow, "flip") {
            "" => "no change".to_owned(),
            flip => flip.replace('_', " "),
        };
        let decision = text(shadow, "decision").replace('_', " ");
        render::line(&format!(
            "\n{}  {}: with {verb} {} ({}), {}",
            paint(NAME, "tried"),
            clean(&who),
            clean(&decision),
            clean(&by),
            paint(render::WARN, clean(&flip)),
        ));
    }
}

/// When it was decided, and how long that took.
fn when(record: &Value) -> String {
    let time = text(record, "time").replace('T', " ");
    let time: String = time.chars().take("2026-11-20 19:08:37.836".len()).collect();
    match record.get("decision_ns").and_then(Value::as_u64) {
        Some(ns) => format!("{time} UTC   took {} µs", ns / 1000),
        None => format!("{time} UTC"),
    }
}
