//! Access evaluation, and several at once with their defaults and semantics.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Fault, json as as_json,
    names::Names,
    words::{Evaluation, Whole, understand},
};
use crate::apis::codes::{BATCH, NOT_UNDERSTOOD, UNDECIDED};
use crate::apis::{
    Api, BATCH_MAX, Caller,
    desk::{Desk, Ruling},
    stage::Ask,
};

/// An access evaluations request.
#[derive(Debug, Deserialize)]
pub(super) struct Evaluations {
    #[serde(flatten)]
    defaults: Evaluation,
    #[serde(default)]
    evaluations: Vec<Evaluation>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
struct Options {
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// When to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Semantic {
    DenyOnFirstDeny,
    #[default]
    ExecuteAll,
    PermitOnFirstPermit,
}

/// A decision of the information model.
#[derive(Debug, Serialize)]
pub(super) struct Decision {
    decision: bool,
    context: Map<String, Value>,
}

/// Several, in the order of the questions.
#[derive(Debug, Serialize)]
struct Decisions {
    evaluations: Vec<Decision>,
}

/// Answers one question.
pub(super) async fn single(
    desk: &Desk,
    names: &Names,
    caller: &Caller,
    asked: Evaluation,
) -> Result<Decision, Fault> {
    let whole = asked.whole()?;
    desk.ask(caller, 1)?;
    let stage = desk.stage();
    let ask = meaning(desk, names, &whole);
    let ruling = desk.answer(caller, Api::Authzen, stage.as_deref(), ask);
    let ruling = decided(ruling.await?)?;
    match is_nonsense(&ruling) {
        true => Err(Fault::bad(format!(
            "PLS{NOT_UNDERSTOOD}: {}",
            message(&ruling)
        ))),
        false => Ok(decision(&ruling)),
    }
}

/// Answers several, all under one revision, or those of one moment of a rollout.
pub(super) async fn several(
    desk: &Desk,
    names: &Names,
    caller: &Caller,
    asked: Evaluations,
) -> Result<Response, Fault> {
    if asked.evaluations.is_empty() {
        return single(desk, names, caller, asked.defaults)
            .await
            .map(as_json);
    }
    let count = asked.evaluations.len();
    if count > BATCH_MAX {
        return Err(Fault::bad(format!(
            "PLS{BATCH}: {count} evaluations are too many: at most {BATCH_MAX} in a request"
        )));
    }
    let defaults = asked.defaults;
    let whole = asked
        .evaluations
        .into_iter()
        .map(|e| e.over(&defaults).whole());
    let whole: Vec<Whole> = whole.collect::<Result<_, _>>()?;
    desk.ask(caller, count)?;
    let stage = desk.stage();
    let stop_at = match asked.options.evaluations_semantic {
        Semantic::DenyOnFirstDeny => Some(false),
        Semantic::ExecuteAll => None,
        Semantic::PermitOnFirstPermit => Some(true),
    };
    let mut rulings = match stop_at {
        None => {
            let asks = whole.iter().map(|w| meaning(desk, names, w)).collect();
            let answers = desk.answers(caller, Api::Authzen, stage.as_deref(), asks);
            answers.await?
        }
        Some(stop_at) => {
            let mut rulings = Vec::new();
            for whole in &whole {
                let ask = meaning(desk, names, whole);
                let ruling = desk.answer(caller, Api::Authzen, stage.as_deref(), ask);
                let ruling = ruling.await?;
                let last = ruling.is_allow() == stop_at;
                rulings.push(ruling);
                if last {
                    break;
                }
            }
            rulings
        }
    };
    // Without a revision it is the request as a whole that has no answer.
    if stage.is_none()
        && let Some(ruling) = rulings.pop()
    {
        decided(ruling)?;
    }
    let evaluations = rulings.iter().map(decision).collect();
    Ok(as_json(Decisions { evaluations }))
}

fn meaning<'a>(desk: &Desk, names: &'a Names, whole: &'a Whole) -> Ask<'a> {
    let now_us = desk.clock().now_us();
    Box::new(move |force| understand(names, force.catalogue(), whole, now_us))
}

/// What could not be decided is a fault where it is all that was asked: an enforcement
/// point must not take it for a denial, and must not pass it either.
fn decided(ruling: Ruling) -> Result<Ruling, Fault> {
    match ruling.is_undecided() {
        true => Err(Fault(
            http::StatusCode::SERVICE_UNAVAILABLE,
            undecided(&ruling),
        )),
        false => Ok(ruling),
    }
}

fn undecided(ruling: &Ruling) -> String {
    format!(
        "PLS{UNDECIDED}: the question could not be decided ({}, decision {}): {}",
        ruling.judged.reason,
        ruling.id,
        message(ruling)
    )
}

/// Whether the words meant nothing, so that no request was asked about.
fn is_nonsense(ruling: &Ruling) -> bool {
    ruling.judged.reason == "not_understood"
}

fn message(ruling: &Ruling) -> &str {
    let message = ruling.judged.message.as_deref();
    message.unwrap_or("there was no way to decide")
}

fn decision(ruling: &Ruling) -> Decision {
    let judged = &ruling.judged;
    let mut context = Map::new();
    let mut put = |key: &str, value: Value| drop(context.insert(key.to_owned(), value));
    put("id", json!(ruling.id.to_string()));
    let error = match (is_nonsense(ruling), ruling.is_undecided()) {
        (true, _) => Some(message(ruling).to_owned()),
        (false, true) => Some(undecided(ruling)),
        (false, false) => None,
    };
    match error {
        Some(message) => put(
            "error",
            json!({ "status": judged.status, "message": message }),
        ),
        None => {
            put("reason", json!(judged.reason));
            if let Some(message) = judged.message.as_deref() {
                put("reason_user", json!({ "en": message }));
            }
        }
    }
    if let Some(answer) = judged.answer.as_ref().filter(|_| ruling.explained) {
        let policies: Vec<&str> = answer
            .decision
            .determining
            .iter()
            .map(|p| p.as_str())
            .collect();
        put("policies", json!(policies));
    }
    Decision {
        decision: ruling.is_allow(),
        context,
    }
}
