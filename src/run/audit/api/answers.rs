//! Answers to requests: who asks is let or not, and then asks the same functions as the
//! local socket.

use axum::{
    Json,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header::CONTENT_TYPE};
use palisade_audit::query::{FIELDS, Query};
use palisade_pdp::readers::ReadAction;
use serde_json::{Value, json};

use super::{
    super::{reads::Reader, unnamed::About},
    Office, Visit,
    asked::{Asked, Question},
    documents, openapi,
    problem::Fault,
    routes::{Route, What},
    streams,
};

/// Answers one request.
pub(super) async fn answer(
    office: Office,
    route: &'static Route,
    visit: &Visit,
    request: Request,
) -> Result<Response, Fault> {
    let action = match route.what {
        What::Document => return Ok(Json(openapi::document()).into_response()),
        What::Fields => {
            visit.caller()?;
            return Ok(Json(fields()).into_response());
        }
        What::Metrics => {
            office.admit(visit.caller()?, ReadAction::Metrics, "", &visit.request)?;
            return metrics(&office).await;
        }
        What::Read(action) => action,
    };
    let caller = visit.caller()?;
    let question = Question::read(action, request).await;
    // Whoever may not read is told so first, whatever it sent.
    let told = |asked: &Asked| asked.told(|query| office.role().told(query));
    let text = question.as_ref().map(|question| told(&question.asked));
    let text = text.unwrap_or_default();
    let reader = office.admit(caller, action, &text, &visit.request)?;
    let Question { mut asked, reason } = question?;
    let reader = match asked.is_a_copy() {
        // Who may take no files takes none in pieces.
        true => reader.also(office.admit(caller, ReadAction::Export, &text, &visit.request)?),
        false => reader,
    };
    if asked.is_of_the_whole() {
        office.admit_to_the_whole(caller, action, &text, (&reader, &visit.request))?;
    }
    let mut query = String::new();
    if let Some(written) = asked.query() {
        *written = office.role().saved.expanded(reader.actor(), written)?;
        query.clone_from(written);
    }
    let reader = for_reason(&office, visit, reader, &query, reason)?;
    if asked.is_of_the_whole() {
        // Who may reveal some rows alone sees no more than these when it asks by name.
        office.admit_to_the_whole(caller, action, &text, (&reader, &visit.request))?;
    }
    match asked {
        Asked::Report(asked) => {
            let work = |role| documents::report(role, reader, asked);
            office.reporting(work).await
        }
        Asked::Export(asked) => streams::export(office, caller.clone(), reader, asked).await,
        Asked::Tail(asked) => streams::tail(&office, caller.clone(), &reader, &asked.query).await,
        Asked::Checkpoint => checkpoint(&office, &reader).await,
        asked => {
            let work = |role| summed_up(role, reader, asked);
            office.timed(work).await
        }
    }
}

/// The reader with its reason. Whoever asks by name learns whom a pseudonym means, so that
/// is only for those who may reveal and say why.
fn for_reason(
    office: &Office,
    visit: &Visit,
    reader: Reader,
    query: &str,
    reason: Option<String>,
) -> Result<Reader, Fault> {
    let named = Query::parse(query).map_or_else(|_| Vec::new(), |query| query.names());
    let reader = match named.as_slice() {
        [] => reader,
        _ => {
            let told = office.role().told(query);
            let reveals =
                office.admit(visit.caller()?, ReadAction::Reveal, &told, &visit.request)?;
            reader.also(reveals)
        }
    };
    Ok(match reason {
        None if named.is_empty() => reader,
        given => {
            let given = given.unwrap_or_default();
            reader.because(office.role().reason(&given, &About::of(query))?)
        }
    })
}

/// What is computed as a whole before it is answered.
async fn summed_up(
    role: super::super::AuditRole,
    reader: Reader,
    asked: Asked,
) -> Result<Response, Fault> {
    Ok(match asked {
        Asked::Search(asked) => role.search(reader, asked).await?.into_response(),
        Asked::Facets(asked) => role.facets(reader, asked).await?.into_response(),
        Asked::Timeline(asked) => role.timeline(reader, asked).await?.into_response(),
        Asked::Gaps(asked) => role.gaps(reader, asked).await?.into_response(),
        Asked::Reveal(asked) => {
            let unknown = Fault::unknown(&asked.id);
            match role.reveal(reader, asked).await {
                Ok(found) if found.records.is_empty() => return Err(unknown),
                Ok(found) => found.into_response(),
                Err(problem) => return Err(known(problem.into(), unknown)),
            }
        }
        Asked::Alerts => role.alerts.clone().list(reader).await?.into_response(),
        Asked::BeginVerification => Json(role.begin_verification(reader).await?).into_response(),
        Asked::Forget(name) => Json(role.forget(reader, name).await?).into_response(),
        Asked::Holds => role.list_holds(&reader).await?.into_response(),
        Asked::Proof(wanted) => {
            let unknown = Fault::unknown(&wanted.id);
            let proven = role.proof(reader, wanted).await;
            let proven = proven.map_err(|problem| known(problem.into(), unknown))?;
            proven.into_response()
        }
        Asked::Reports => {
            role.reads.note(&reader, "reports", "", 0).await?;
            Json(documents::kinds()).into_response()
        }
        Asked::Save(asked) => Json(role.save(reader, asked).await?).into_response(),
        Asked::Saved => Json(role.saved_list(reader).await?).into_response(),
        Asked::Tile(asked) => {
            let mut response = role.tile(reader, asked).await?.into_response();
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Asked::Verification => Json(role.verification(reader).await?).into_response(),
        Asked::Show(id) => {
            let unknown = Fault::unknown(&id);
            match role.record(reader, id).await {
                // Whether there is one that it may not see is not for the reader to know.
                Ok(found) if found.rows.is_empty() => return Err(unknown),
                Ok(found) => found.into_response(),
                Err(problem) => return Err(known(problem.into(), unknown)),
            }
        }
        Asked::Checkpoint | Asked::Export(_) | Asked::Report(_) | Asked::Tail(_) => {
            return Err(Fault::malformed("bug: this is answered elsewhere"));
        }
    })
}

/// A fault that does not tell whether there is a record that the reader may not see.
fn known(fault: Fault, unknown: Fault) -> Fault {
    match fault.told.code.0 {
        7111 => unknown,
        _ => fault,
    }
}

async fn metrics(office: &Office) -> Result<Response, Fault> {
    let text = office.measured(|role| async move { Ok(role.metrics().await?) });
    let text = text.await?;
    Ok(([(CONTENT_TYPE, super::super::metrics::KIND)], text).into_response())
}

async fn checkpoint(office: &Office, reader: &Reader) -> Result<Response, Fault> {
    let role = office.role();
    role.reads.note(reader, "checkpoint", "", 0).await?;
    let mut response = role.log.checkpoint().note.into_response();
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// The table of fields, as programs want it.
fn fields() -> Value {
    let fields = FIELDS.iter().map(|field| {
        json!({
            "name": field.name,
            "values": field.kind.describe(),
            "classes": field.classes,
            "countable": field.countable,
            "help": field.help,
            "example": field.example,
        })
    });
    json!({ "fields": fields.collect::<Vec<_>>() })
}
