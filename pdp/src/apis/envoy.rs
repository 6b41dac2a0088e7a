//! Envoy's external authorization, version 3: an Envoy asks about a request it holds.
//!
//! The caller is the Envoy, and what it says of its peer is an assertion of the caller:
//! the first URI SAN of the certificate that it verified. The request is put in
//! canonical form here, so that every spelling gets the answer that our own proxy
//! gives; the upstream is sent the canonical one. Where Envoy's form of the request has
//! two readings, or leaves out what a policy reads, the answer is undecided.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use palisade_mesh::{
    decision::TlsFacts,
    fields::is_managed,
    spiffe_id::SpiffeId,
    svid::peer_of_pem,
    wire::ext_authz::{
        CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue as Field, HeaderValueOption,
        HttpStatus, OkHttpResponse, RpcStatus,
        attribute_context::HttpRequest,
        authorization_server::{Authorization, AuthorizationServer},
        check_response::HttpResponse,
        header_value_option::HeaderAppendAction,
    },
};
use serde::Serialize;
use smol_str::SmolStr;
use tonic::{Code, Request, Response, Status};

use super::{
    Api, MESSAGE_LEN_MAX,
    desk::{Desk, Ruling},
    force::Force,
    inquiry::{self, Inquiry, Lines, Misread, Raw, Stated},
    native::{caller_of, status_of},
    stage::Ask,
};
use crate::decide::Known;

const DECISION_ID: &str = "palisade-decision-id";
const REFUSED: &str = "palisade-refused";
const XFCC: &str = "x-forwarded-client-cert";
/// Seconds after which an undecided request may come again.
const RETRY_AFTER_S: &str = "1";

/// Answers Envoys.
pub struct ExtAuthz(Desk);

/// The gRPC service. Requests must carry their [`super::Caller`] as an extension.
pub fn service(desk: &Desk) -> AuthorizationServer<ExtAuthz> {
    AuthorizationServer::new(ExtAuthz(desk.clone())).max_decoding_message_size(MESSAGE_LEN_MAX)
}

#[tonic::async_trait]
impl Authorization for ExtAuthz {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let caller = caller_of(&request)?;
        let desk = &self.0;
        desk.ask(&caller, 1).map_err(status_of)?;
        let stage = desk.stage();
        let asked = Asked::of(request.into_inner());
        let now_us = desk.clock().now_us();
        let ask: Ask<'_> = Box::new(|force| asked.understand(force, now_us));
        let ruling = desk.answer(&caller, Api::ExtAuthz, stage.as_deref(), ask);
        let ruling = ruling.await.map_err(status_of)?;
        Ok(Response::new(match ruling.is_allow() {
            true => asked.pass(&ruling),
            false => stop(&ruling),
        }))
    }
}

/// What an Envoy told.
#[derive(Default)]
struct Asked {
    principal: String,
    /// Its certificate, PEM in URL encoding; empty where the Envoy does not pass it on.
    certificate: String,
    /// Who the Envoy is to its peer.
    own: String,
    source: Option<SocketAddr>,
    sni: Option<SmolStr>,
    http: HttpRequest,
}

impl Asked {
    fn of(request: CheckRequest) -> Self {
        let attributes = request.attributes.unwrap_or_default();
        let source = attributes.source.unwrap_or_default();
        let address = source.address.and_then(|a| a.socket_address);
        Self {
            principal: source.principal,
            certificate: source.certificate,
            own: attributes.destination.unwrap_or_default().principal,
            source: address.and_then(|a| {
                let port = u16::try_from(a.port_value).ok()?;
                Some(SocketAddr::new(a.address.parse().ok()?, port))
            }),
            sni: attributes.tls_session.map(|tls| tls.sni.into()),
            http: attributes.request.and_then(|r| r.http).unwrap_or_default(),
        }
    }

    fn understand(&self, force: &Force, now_us: i64) -> Result<Inquiry, Misread> {
        let subject = SpiffeId::parse(&self.principal)
            .map_err(|error| Misread::no_principal(&self.principal, &error))?;
        inquiry::check_domain(force.catalogue(), &subject)?;
        let serial = self.serial(&subject).map_err(|m| m.about(&subject))?;
        let headers = lines(&self.http).map_err(|m| m.about(&subject))?;
        let raw = Raw {
            method: &self.http.method,
            host: &self.http.host,
            target: &self.http.path,
            headers,
        };
        let stated = self.stated(serial, now_us);
        inquiry::request(force.catalogue(), subject, raw, stated)
    }

    /// Serial number of the peer's certificate, for the kill list.
    fn serial(&self, subject: &SpiffeId) -> Result<Arc<[u8]>, Misread> {
        if self.certificate.is_empty() {
            return Ok(Arc::default());
        }
        let pem = unescaped(&self.certificate)
            .ok_or_else(|| Misread::no_certificate("it is not in URL encoding"))?;
        let peer = peer_of_pem(&pem).map_err(Misread::no_certificate)?;
        match peer.id == *subject {
            true => Ok(peer.serial),
            false => Err(Misread::no_certificate(format!("it is of `{}`", peer.id))),
        }
    }

    /// Envoy says nothing of version and application protocol. That the principal is a
    /// URI SAN is said only of a certificate that it verified.
    fn stated(&self, serial: Arc<[u8]>, now_us: i64) -> Stated {
        let sni = self.sni.clone().filter(|sni| !sni.is_empty());
        Stated {
            source: self.source,
            port: true,
            tls: Some(TlsFacts {
                version: "",
                mtls: true,
                sni,
                alpn: None,
            }),
            tls_known: Known::TLS_MTLS.and_if(self.sni.is_some(), Known::TLS_SNI),
            serial,
            now_us,
        }
    }

    /// The request goes on, as it was decided: under its canonical path, with the
    /// decision's id, and without fields that only we may set.
    fn pass(&self, ruling: &Ruling) -> CheckResponse {
        let judged = &ruling.judged;
        let mut headers = vec![set(DECISION_ID, ruling.id.to_string())];
        if judged.rewritten {
            let target = match &judged.query {
                Some(query) => format!("{}?{query}", judged.path),
                None => judged.path.to_string(),
            };
            headers.push(set(":path", target));
        }
        let by = match self.own.is_empty() {
            true => String::new(),
            false => format!("By={};", self.own),
        };
        headers.push(set(XFCC, format!("{by}URI={}", self.principal)));
        let names = self.names().filter(|name| is_claim(name));
        ok(OkHttpResponse {
            headers,
            headers_to_remove: names.collect(),
        })
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let listed = self.http.header_map.iter().flat_map(|map| &map.headers);
        let listed = listed.map(|h| h.key.to_ascii_lowercase());
        let joined = self.http.headers.keys().map(|k| k.to_ascii_lowercase());
        listed.chain(joined)
    }
}

/// Whether a field claims an identity or a decision. `x-forwarded-for`, `-proto`, `-host`
/// and `-port` are Envoy's own to keep, and it has set them.
fn is_claim(name: &str) -> bool {
    let plain = name.replace('_', "-");
    let of_envoy = ["for", "proto", "host", "port"]
        .iter()
        .any(|what| name.strip_prefix("x-forwarded-") == Some(what));
    is_managed(name) && plain != DECISION_ID && name != XFCC && !of_envoy
}

fn lines(request: &HttpRequest) -> Result<Lines, Misread> {
    let mut map = HeaderMap::new();
    let mut complete = false;
    let mut add = |name: &str, value: &[u8]| {
        // Pseudo-header fields say what the request says itself, and that nothing was
        // filtered out.
        if let Some(pseudo) = name.strip_prefix(':') {
            complete |= pseudo == "path";
            return Ok(());
        }
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .zip(HeaderValue::from_bytes(value).ok());
        let appended = parsed.and_then(|(name, value)| map.try_append(name, value).ok());
        match appended {
            Some(_) => Ok(()),
            None => Err(Misread::words(format!(
                "`{}` is no header field",
                name.escape_debug()
            ))),
        }
    };
    let raw = request
        .header_map
        .as_ref()
        .filter(|m| !m.headers.is_empty());
    if let Some(raw) = raw {
        for field in &raw.headers {
            let value = match field.raw_value.is_empty() {
                true => field.value.as_bytes(),
                false => &field.raw_value,
            };
            add(&field.key, value)?;
        }
    } else {
        for (name, value) in &request.headers {
            add(name, value.as_bytes())?;
        }
    }
    let joined = raw.is_none();
    Ok(Lines {
        map,
        complete,
        joined,
    })
}

/// The bytes of a text in URL encoding (RFC 3986 section 2.1); none for half an escape.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                u8::try_from(value).ok()?
            }
            plain => plain,
        });
    }
    Some(bytes)
}

fn ok(response: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(RpcStatus {
            code: Code::Ok.into(),
            message: String::new(),
        }),
        http_response: Some(HttpResponse::OkResponse(response)),
    }
}

/// Problem details (RFC 9457), as our own proxy answers.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    decision_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

fn stop(ruling: &Ruling) -> CheckResponse {
    let judged = &ruling.judged;
    let code = http::StatusCode::from_u16(judged.status);
    let code = code.unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
    let undecided = ruling.is_undecided();
    let neutral = match undecided {
        true => "The request could not be decided at the moment.",
        false => "The caller may not do this.",
    };
    // What an undecided answer lacks is for the one who runs the Envoy, in the record.
    let said = judged.message.as_deref().filter(|_| !undecided);
    let decision = judged.answer.as_ref().map(|a| &a.decision);
    let problem = Problem {
        r#type: format!("urn:palisade:problem:{}", judged.reason),
        title: code.canonical_reason().unwrap_or_default(),
        status: code.as_u16(),
        detail: said.unwrap_or(neutral),
        decision_id: ruling.id.to_string(),
        help: decision.and_then(|d| d.help_url.as_deref()),
    };
    let mut headers = vec![
        set("content-type", "application/problem+json".into()),
        set(DECISION_ID, ruling.id.to_string()),
        set(REFUSED, judged.reason.to_owned()),
    ];
    if undecided {
        headers.push(set("retry-after", RETRY_AFTER_S.into()));
    }
    CheckResponse {
        status: Some(RpcStatus {
            code: match undecided {
                true => Code::Unavailable.into(),
                false => Code::PermissionDenied.into(),
            },
            message: judged.reason.to_owned(),
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: code.as_u16().into(),
            }),
            headers,
            // Text and numbers always are JSON.
            body: serde_json::to_string(&problem).unwrap_or_default(),
        })),
    }
}

fn set(key: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Field {
            key: key.to_owned(),
            value,
            raw_value: Vec::new(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}
