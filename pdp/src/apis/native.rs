//! `palisade.decide.v1`: single questions, batches and streams.

use std::{net::SocketAddr, pin::Pin};

use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_mesh::{
    decision::TlsFacts,
    spiffe_id::SpiffeId,
    wire::decide::{
        Answer, CheckBatchRequest, CheckBatchResponse, CheckRequest, CheckResponse,
        CheckStreamRequest, CheckStreamResponse, Context, HttpRequest, Question, Verdict, Versions,
        decisions_server::{Decisions, DecisionsServer},
        question::What,
    },
};
use smol_str::SmolStr;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Api, BATCH_MAX, Caller, MESSAGE_LEN_MAX,
    desk::{Desk, NoAnswer, Ruling},
    force::Force,
    inquiry::{self, Inquiry, Lines, Misread, Raw, Stated, Words},
    stage::Ask,
};
use crate::apis::codes::{BATCH, MALFORMED, UNPROVEN};
use crate::decide::Known;

/// Answers questions of our own API.
pub struct Native(Desk);

/// The gRPC service. Requests must carry their [`Caller`] as an extension.
pub fn service(desk: &Desk) -> DecisionsServer<Native> {
    DecisionsServer::new(Native(desk.clone())).max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[tonic::async_trait]
impl Decisions for Native {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let caller = caller_of(&request)?;
        let question = request.into_inner().question;
        let answer = one(&self.0, &caller, question).await?;
        Ok(Response::new(CheckResponse {
            answer: Some(answer),
        }))
    }

    async fn check_batch(
        &self,
        request: Request<CheckBatchRequest>,
    ) -> Result<Response<CheckBatchResponse>, Status> {
        let caller = caller_of(&request)?;
        let questions = request.into_inner().questions;
        if questions.len() > BATCH_MAX {
            return Err(Status::invalid_argument(format!(
                "PLS{BATCH}: {} questions are too many: at most {BATCH_MAX} in a batch",
                questions.len()
            )));
        }
        let desk = &self.0;
        desk.ask(&caller, questions.len()).map_err(status_of)?;
        let stage = desk.stage();
        let asks = questions
            .into_iter()
            .map(|question| ask(desk, &caller, question));
        let asks = asks.collect();
        let rulings = desk.answers(&caller, Api::Grpc, stage.as_deref(), asks);
        let rulings = rulings.await.map_err(status_of)?;
        Ok(Response::new(CheckBatchResponse {
            answers: rulings.into_iter().map(answer_of).collect(),
        }))
    }

    type CheckStreamStream =
        Pin<Box<dyn Stream<Item = Result<CheckStreamResponse, Status>> + Send>>;

    async fn check_stream(
        &self,
        request: Request<Streaming<CheckStreamRequest>>,
    ) -> Result<Response<Self::CheckStreamStream>, Status> {
        let caller = caller_of(&request)?;
        let questions = request.into_inner();
        let state = Some((self.0.clone(), caller, questions));
        // A refusal ends the stream: what follows would be refused, too.
        let answers = stream::unfold(state, |state| async move {
            let (desk, caller, mut questions) = state?;
            let asked = match questions.next().await? {
                Ok(asked) => asked,
                Err(status) => return Some((Err(status), None)),
            };
            match one(&desk, &caller, asked.question).await {
                Ok(answer) => {
                    let response = CheckStreamResponse {
                        tag: asked.tag,
                        answer: Some(answer),
                    };
                    Some((Ok(response), Some((desk, caller, questions))))
                }
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Who asks, as the listener put it beside the request.
pub(super) fn caller_of<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(unproven)
}

/// What is told to whoever is nobody.
pub(super) fn unproven() -> Status {
    Status::unauthenticated(format!("PLS{UNPROVEN}: the caller has proven nothing"))
}

async fn one(desk: &Desk, caller: &Caller, question: Option<Question>) -> Result<Answer, Status> {
    desk.ask(caller, 1).map_err(status_of)?;
    let question = question
        .ok_or_else(|| Status::invalid_argument(format!("PLS{MALFORMED}: there is no question")))?;
    let stage = desk.stage();
    let asked = ask(desk, caller, question);
    let ruling = desk.answer(caller, Api::Grpc, stage.as_deref(), asked);
    ruling.await.map(answer_of).map_err(status_of)
}

/// What a caller without an answer is told.
pub(super) fn status_of(why: NoAnswer) -> Status {
    let code = match why {
        NoAnswer::Barred(_) | NoAnswer::Refused(_) => Code::PermissionDenied,
        NoAnswer::Busy(_) => Code::ResourceExhausted,
        NoAnswer::Ended => Code::Unauthenticated,
        NoAnswer::Unrecorded => Code::Unavailable,
    };
    Status::new(code, why.to_string())
}

fn ask<'a>(desk: &Desk, caller: &'a Caller, question: Question) -> Ask<'a> {
    let now_us = desk.clock().now_us();
    Box::new(move |force| understand(force, caller.id(), question.clone(), now_us))
}

fn understand(
    force: &Force,
    caller: &SpiffeId,
    question: Question,
    now_us: i64,
) -> Result<Inquiry, Misread> {
    let catalogue = force.catalogue();
    let subject = match question.principal.as_str() {
        "" => caller.clone(),
        name => inquiry::subject(catalogue, name)?,
    };
    let stated = stated(question.context, now_us).map_err(|m| m.about(&subject))?;
    match question.what {
        Some(What::Request(request)) => {
            let headers = lines(&request).map_err(|m| m.about(&subject))?;
            let raw = Raw {
                method: &request.method,
                host: &request.host,
                target: &request.path,
                headers,
            };
            inquiry::request(catalogue, subject, raw, stated)
        }
        Some(What::Words(words)) => {
            let words = Words {
                verb: &words.action,
                target: &words.resource,
                on: None,
                headers: None,
            };
            inquiry::words(catalogue, subject, words, stated)
        }
        None => Err(Misread::words("neither a request nor words").about(&subject)),
    }
}

fn lines(request: &HttpRequest) -> Result<Lines, Misread> {
    let mut map = HeaderMap::new();
    for header in &request.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(&header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            let wrong = format!("`{}` is no header field", header.name.escape_debug());
            return Err(Misread::words(wrong));
        };
        // Beyond what a map holds there is no request, either.
        map.try_append(name, value)
            .map_err(|_| Misread::words("too many header fields"))?;
    }
    Ok(Lines {
        map,
        complete: true,
        joined: false,
    })
}

fn stated(context: Option<Context>, now_us: i64) -> Result<Stated, Misread> {
    let context = context.unwrap_or_default();
    let source = match context.source_ip.as_str() {
        "" => None,
        text => {
            let ip = text
                .parse()
                .map_err(|_| Misread::words(format!("`{text}` is no address")))?;
            let port = u16::try_from(context.source_port)
                .map_err(|_| Misread::words(format!("{} is no port", context.source_port)))?;
            Some(SocketAddr::new(ip, port))
        }
    };
    let mut stated = Stated {
        source,
        port: context.source_port != 0,
        now_us: match context.time_us {
            0 => now_us,
            at => at,
        },
        ..Stated::default()
    };
    if let Some(tls) = context.tls {
        let optional = |text: String| (!text.is_empty()).then(|| SmolStr::from(text));
        let version = version_of(&tls.version)?;
        stated.tls_known = Known::TLS_MTLS
            .and(Known::TLS_SNI)
            .and(Known::TLS_ALPN)
            .and_if(!version.is_empty(), Known::TLS_VERSION);
        stated.tls = Some(TlsFacts {
            version,
            mtls: tls.mtls,
            sni: optional(tls.sni),
            alpn: optional(tls.alpn),
        });
    }
    Ok(stated)
}

/// The version of TLS as policies see it.
pub(super) fn version_of(text: &str) -> Result<&'static str, Misread> {
    let known = ["", "1.2", "1.3"].into_iter().find(|v| *v == text);
    known.ok_or_else(|| Misread::words(format!("`{text}` is no version of TLS: `1.2`, `1.3`")))
}

fn answer_of(ruling: Ruling) -> Answer {
    let Ruling {
        id,
        judged,
        versions,
        explained,
    } = ruling;
    let verdict = Verdict::try_from(i32::from(judged.verdict)).unwrap_or_default();
    let mut answer = Answer {
        verdict: verdict.into(),
        reason: judged.reason.to_owned(),
        decision_id: id.to_string(),
        status: judged.status.into(),
        message: judged.message.map_or_else(String::new, Into::into),
        versions: versions.map(|v| Versions {
            policy_digest: v.policy.to_string(),
            policy_sequence: v.sequence,
            kill_list: v.kill_list,
        }),
        service: judged
            .service
            .map_or_else(String::new, |s| s.id.to_string()),
        missing: judged.missing,
        ..Answer::default()
    };
    if let Some(decided) = judged.answer {
        let decision = &decided.decision;
        answer.action = decision.action.to_string();
        answer.resource_type = decision.resource_type.to_owned();
        answer.resource_id = decision.resource_id.to_string();
        answer.help_url = decision.help_url.as_deref().unwrap_or_default().to_owned();
        answer.valid_until_us = decision.valid_until_us.unwrap_or_default();
        if explained {
            let ids = decision.determining.iter();
            answer.policies = ids.map(ToString::to_string).collect();
        }
    }
    answer
}
