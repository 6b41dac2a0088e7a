//! The decision APIs of the `pdp` role: listener, callers, and what is told about them.

use std::{
    convert::Infallible,
    fmt::Write,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Request, Response};
use hyper::body::Incoming;
use palisade_mesh::{
    decision::SelfCheck,
    diagnostic::Diagnostic,
    svid::{Identity, Peer},
};
use palisade_pdp::apis::{
    Caller, Counts, Desk,
    authzen::{self, Names},
    envoy, is_grpc, native,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::tokens::Tokens;
use crate::{
    config::{Config, EngineChoice, decisions::DecisionsSection},
    control::status::{DecisionsStatus, TallyStatus},
    net::front::{self, Door, bind, seated},
};

/// The decision APIs, served.
#[derive(Clone)]
pub(super) struct Decisions {
    desk: Desk,
    engine: EngineChoice,
    address: SocketAddr,
    insecure: Option<SocketAddr>,
}

impl Decisions {
    /// Opens the listeners and serves `desk` there until `stop`.
    pub(super) async fn start(
        config: &Config,
        (section, engine): (&DecisionsSection, EngineChoice),
        identity: &Identity,
        desk: Desk,
        stop: &CancellationToken,
    ) -> Result<Self, Vec<Diagnostic>> {
        let tokens = match &section.tokens {
            Some(path) => Some(Tokens::read(path.clone(), &config.trust_domain)?),
            None => None,
        };
        let (secure, address) = bind("pdp.decisions.listen", section.listen).await?;
        let insecure = match section.insecure_loopback {
            Some(at) => Some(bind("pdp.decisions.insecure_loopback", at).await?),
            None => None,
        };
        let started = Self {
            desk: desk.clone(),
            engine,
            address,
            insecure: insecure.as_ref().map(|(_, address)| *address),
        };
        if let Some(tokens) = tokens.clone() {
            tokio::spawn(stop.clone().run_until_cancelled_owned(tokens.follow()));
        }
        let names = match &section.authzen {
            Some(written) => written.names(&config.trust_domain)?,
            None => Names::default(),
        };
        let names = Arc::new(names);
        let office = |scheme| Office::new(&desk, tokens.clone(), names.clone(), scheme);
        let door = Door::Tls {
            identity: identity.clone(),
            open: tokens.is_some(),
        };
        open(secure, door, office("https"), stop);
        if let Some((insecure, _)) = insecure {
            open(insecure, Door::Plain, office("http"), stop);
        }
        Ok(started)
    }

    /// What the comparison of its engine with Cedar's own authorizer has found, by the number
    /// of each revision that it answers by or tries.
    pub(super) fn self_checks(&self) -> Vec<(u64, SelfCheck)> {
        self.desk.self_checks()
    }

    /// Records what is left to record, when it is to end.
    pub(super) fn close(&self) {
        self.desk.close();
    }

    /// How it stands, as `status` says it.
    pub(super) fn status(&self) -> DecisionsStatus {
        let Counts {
            answers,
            took,
            searches,
            refused,
            busy,
            tried,
            newly_allowed,
            newly_denied,
            newly_undecided,
            trials_failed,
        } = self.desk.counts();
        let found = self.desk.self_checks();
        DecisionsStatus {
            address: self.address,
            insecure: self.insecure,
            engine: self.engine,
            checked: found.iter().map(|(_, found)| found.checked).sum(),
            differed: found.iter().map(|(_, found)| found.mismatched).sum(),
            answers: answers
                .into_iter()
                .map(|tally| TallyStatus {
                    api: tally.api.as_str().to_owned(),
                    verdict: tally
                        .verdict
                        .as_str_name()
                        .trim_start_matches("VERDICT_")
                        .to_ascii_lowercase(),
                    count: tally.count,
                })
                .collect(),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            searches,
            refused,
            busy,
            tried,
            newly_allowed,
            newly_denied,
            newly_undecided,
            trials_failed,
        }
    }
}

/// What the decision APIs answered, in the Prometheus text format.
pub(super) fn metrics(status: &DecisionsStatus) -> String {
    let mut text = String::new();
    let name = |what: &str| format!("palisade_decision_api_{what}_total");
    let answers = name("answers");
    // Writing to a string does not fail.
    let _ = writeln!(text, "# TYPE {answers} counter");
    for tally in &status.answers {
        let TallyStatus {
            api,
            verdict,
            count,
        } = tally;
        let _ = writeln!(
            text,
            "{answers}{{api=\"{api}\",decision=\"{verdict}\"}} {count}"
        );
    }
    let seconds = name("seconds");
    let took = Duration::from_micros(status.took_us).as_secs_f64();
    let _ = writeln!(text, "# TYPE {seconds} counter\n{seconds} {took}");
    for (what, count) in [
        ("searches", status.searches),
        ("refused", status.refused),
        ("busy", status.busy),
        ("tried", status.tried),
        ("trials_failed", status.trials_failed),
    ] {
        let name = name(what);
        let _ = writeln!(text, "# TYPE {name} counter\n{name} {count}");
    }
    let flips = name("flips");
    let _ = writeln!(text, "# TYPE {flips} counter");
    for (direction, count) in [
        ("newly_allowed", status.newly_allowed),
        ("newly_denied", status.newly_denied),
        ("newly_undecided", status.newly_undecided),
    ] {
        let _ = writeln!(text, "{flips}{{direction=\"{direction}\"}} {count}");
    }
    let name = "palisade_engine_self_checks_total";
    let _ = writeln!(text, "# TYPE {name} counter");
    let agreed = status.checked.saturating_sub(status.differed);
    for (result, count) in [("agreed", agreed), ("differed", status.differed)] {
        let _ = writeln!(text, "{name}{{result=\"{result}\"}} {count}");
    }
    text
}

fn open(listener: TcpListener, door: Door, office: Office, stop: &CancellationToken) {
    let serving = front::serve(
        listener,
        "decisions",
        door,
        move |peer| office.of(peer),
        stop.clone(),
    );
    tokio::spawn(serving);
}

/// Makes a clerk for each connection.
#[derive(Clone)]
struct Office {
    desk: Desk,
    tokens: Option<Tokens>,
    grpc: Router,
    http: Router,
}

impl Office {
    fn new(desk: &Desk, tokens: Option<Tokens>, names: Arc<Names>, scheme: &'static str) -> Self {
        let grpc = tonic::service::Routes::new(native::service(desk))
            .add_service(envoy::service(desk))
            .prepare()
            .into_axum_router();
        Self {
            desk: desk.clone(),
            tokens,
            grpc,
            http: authzen::router(desk, names, scheme),
        }
    }

    fn of(&self, peer: Option<Peer>) -> Clerk {
        let caller = peer.as_ref().map(|peer| self.desk.caller(peer));
        Clerk {
            office: Arc::new(self.clone()),
            caller,
        }
    }
}

/// Takes the requests of one connection to the API they are for. What is gRPC says so
/// by its content type: neither side's answer to unknown paths reaches the other.
#[derive(Clone)]
struct Clerk {
    office: Arc<Office>,
    caller: Option<Caller>,
}

impl Clerk {
    /// Who asks: as the certificate proved it; without one, as a token does.
    fn caller(&self, request: &Request<Incoming>) -> Option<Caller> {
        if self.caller.is_some() {
            return self.caller.clone();
        }
        let (owner, is_good) = self.office.tokens.as_ref()?.bearer(request.headers())?;
        Some(self.office.desk.client(&owner, is_good))
    }
}

impl Service<Request<Incoming>> for Clerk {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let office = &self.office;
        let caller = self.caller(&request);
        let seat = match office.desk.enter(caller.as_ref(), request.headers()) {
            Ok(seat) => seat,
            Err(refused) => return Box::pin(std::future::ready(Ok(refused))),
        };
        let mut api = match is_grpc(request.headers()) {
            true => &office.grpc,
            false => &office.http,
        }
        .clone();
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        Box::pin(async move { Ok(seated(api.call(request).await?, seat)) })
    }
}
