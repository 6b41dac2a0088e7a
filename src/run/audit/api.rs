//! The audit service for whoever is not on its host: the log over HTTP.
//!
//! A caller proves itself by an SVID or a bearer token. Cedar in the operator's hands says
//! what it may ask and which rows it sees; every question is recorded, answered or not.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request as AxumRequest,
    routing::{MethodFilter, on},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CACHE_CONTROL};
use hyper::body::Incoming;
use palisade_mesh::{
    diagnostic::Diagnostic,
    kill::Subject,
    spiffe_id::SpiffeId,
    svid::{Identity, Peer},
};
use palisade_pdp::{
    apis::{Limits, Load, Loads, Proof, Seat},
    readers::ReadAction,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{AuditRole, attended, reads::Reader};
use crate::{
    config::{Config, readers::ReadersSection},
    net::{
        front::{self, Door, bind, seated},
        kill::Held,
    },
    run::tokens::Tokens,
};

mod access;
mod answers;
mod asked;
mod documents;
mod files;
mod openapi;
mod problem;
mod request_id;
mod routes;
mod streams;

pub(crate) use access::Access;
pub use openapi::document;

use problem::Fault;
use request_id::RequestId;
use routes::{ROUTES, Route};

/// Questions of all callers that are worked at, at a time; others wait for their turn.
const TURNS: usize = 8;

/// What an answer may take.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Time of an answer, with the wait for its turn.
    answer: Duration,
    /// Time of a tail.
    tail: Duration,
    /// Time of an export.
    export: Duration,
    /// Records of an export.
    export_rows: u64,
}

/// Everything that an answer needs. Clones are one.
#[derive(Clone)]
struct Office(Arc<Inner>);

struct Inner {
    role: AuditRole,
    access: Access,
    tokens: Option<Tokens>,
    kill: watch::Receiver<Held>,
    loads: Loads,
    limits: Limits,
    bounds: Bounds,
    tails: Arc<Semaphore>,
    tails_max: usize,
    turns: Arc<Semaphore>,
    /// Whoever measures waits for no question, and only one does at a time.
    measuring: Arc<Semaphore>,
}

/// Whoever asks, as its certificate or token proved it.
#[derive(Clone)]
struct Caller {
    id: SpiffeId,
    proof: Proof,
    load: Arc<Load>,
}

/// What is known of a request before it is read.
#[derive(Clone)]
struct Visit {
    caller: Option<Caller>,
    request: RequestId,
}

impl Visit {
    fn caller(&self) -> Result<&Caller, Fault> {
        self.caller.as_ref().ok_or_else(Fault::unproven)
    }
}

/// Opens the listener and answers there until `stop`; where that is.
pub(super) async fn start(
    config: &Config,
    section: &ReadersSection,
    role: AuditRole,
    identity: &Identity,
    kill: watch::Receiver<Held>,
    stop: &CancellationToken,
) -> Result<SocketAddr, Vec<Diagnostic>> {
    let access = Access::read(&section.policy)?;
    let tokens = match &section.tokens {
        Some(path) => Some(Tokens::read(path.clone(), &config.trust_domain)?),
        None => None,
    };
    let (listener, address) = bind("audit.api.listen", section.listen).await?;
    if let Some(tokens) = tokens.clone() {
        tokio::spawn(stop.clone().run_until_cancelled_owned(tokens.follow()));
    }
    let door = Door::Tls {
        identity: identity.clone(),
        open: tokens.is_some(),
    };
    let office = Office::new(section, Bounds::of(section), role, access, tokens, kill);
    let router = router(&office);
    let clerk = move |peer: Option<Peer>| Clerk {
        caller: peer.map(|peer| office.certified(&peer)),
        office: office.clone(),
        router: router.clone(),
    };
    tokio::spawn(front::serve(listener, "audit", door, clerk, stop.clone()));
    Ok(address)
}

impl Bounds {
    fn of(section: &ReadersSection) -> Self {
        Self {
            answer: Duration::from_secs(30),
            tail: Duration::from_secs(3600),
            export: Duration::from_secs(600),
            export_rows: section.export_rows,
        }
    }
}

impl Office {
    fn new(
        section: &ReadersSection,
        bounds: Bounds,
        role: AuditRole,
        access: Access,
        tokens: Option<Tokens>,
        kill: watch::Receiver<Held>,
    ) -> Self {
        Self(Arc::new(Inner {
            role,
            access,
            tokens,
            kill,
            loads: Loads::default(),
            limits: Limits {
                in_flight: section.in_flight,
                questions_per_s: section.requests_per_s,
            },
            bounds,
            tails: Arc::new(Semaphore::new(section.tails)),
            tails_max: section.tails,
            turns: Arc::new(Semaphore::new(TURNS)),
            measuring: Arc::new(Semaphore::new(1)),
        }))
    }

    fn role(&self) -> &AuditRole {
        &self.0.role
    }

    fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }

    fn certified(&self, peer: &Peer) -> Caller {
        Caller {
            id: peer.id.clone(),
            proof: Proof::Certificate {
                serial: peer.serial.clone(),
                until_s: peer.not_after_s,
            },
            load: self.0.loads.of(&peer.id, &self.0.limits),
        }
    }

    /// Whoever a token proves.
    fn bearer(&self, headers: &HeaderMap) -> Option<Caller> {
        let (id, is_good) = self.0.tokens.as_ref()?.bearer(headers)?;
        Some(Caller {
            load: self.0.loads.of(&id, &self.0.limits),
            proof: Proof::Token(Arc::new(is_good)),
            id,
        })
    }

    /// Lets a request in, if its caller is still who it was and has not too many.
    fn enter(&self, caller: &Caller) -> Result<Seat, Fault> {
        self.present(caller)?;
        let seat = caller.load.enter(&self.0.limits)?;
        caller.load.ask(&self.0.limits, 1)?;
        Ok(seat)
    }

    /// Whether the caller is still proven, and not barred.
    fn present(&self, caller: &Caller) -> Result<(), Fault> {
        let now_us = self.role().clock.now_us();
        if !caller.proof.holds(now_us) {
            return Err(Fault::ended());
        }
        let subject = Subject {
            id: &caller.id,
            serial: caller.proof.serial(),
            authorities: &[],
        };
        let list = self.0.kill.borrow().list.clone();
        match list.bars(&subject, now_us) {
            Some(entry) => Err(Fault::barred(entry.target.reason())),
            None => Ok(()),
        }
    }

    /// Lets the caller read what it may see, or records that it may not read.
    fn admit(
        &self,
        caller: &Caller,
        action: ReadAction,
        told: &str,
        request: &RequestId,
    ) -> Result<Reader, Fault> {
        match self.0.access.decide(&caller.id, action) {
            Ok((rows, policies)) => Ok(Reader::permitted(
                &caller.id,
                rows,
                policies,
                request.as_str(),
            )),
            Err(refused) => {
                let (reads, verb) = (&self.role().reads, action.as_str());
                reads.denied(&caller.id, verb, told, &refused.policies, request.as_str());
                Err(Fault::denied(&refused))
            }
        }
    }

    /// Lets only whoever may see every record ask about the log as a whole: what is told
    /// of that cannot be kept to some rows.
    fn admit_to_the_whole(
        &self,
        caller: &Caller,
        action: ReadAction,
        told: &str,
        (reader, request): (&Reader, &RequestId),
    ) -> Result<(), Fault> {
        let Some(seen) = reader.rows().text() else {
            return Ok(());
        };
        let (reads, verb) = (&self.role().reads, action.as_str());
        reads.denied(&caller.id, verb, told, &[], request.as_str());
        Err(Fault::of_the_whole(seen))
    }

    /// A place among those who follow.
    fn tail_place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let place = self.0.tails.clone().try_acquire_owned();
        place.map_err(|_| Fault::tails(self.0.tails_max))
    }

    /// Has the role work when its turn comes, within the time of an answer. Work ends soon after
    /// that, and when nobody waits for it any more; it keeps its turn until then.
    async fn timed<T: Send + 'static, W: Work<T>>(
        &self,
        work: impl FnOnce(AuditRole) -> W,
    ) -> Result<T, Fault> {
        self.timed_by(&self.0.turns, work).await
    }

    /// Measures, whatever is being asked.
    async fn measured<T: Send + 'static, W: Work<T>>(
        &self,
        work: impl FnOnce(AuditRole) -> W,
    ) -> Result<T, Fault> {
        self.timed_by(&self.0.measuring, work).await
    }

    /// Makes a report, where none is being made: it takes minutes and much memory, and no
    /// turn of those who ask meanwhile.
    async fn reporting<T: Send + 'static, W: Work<T>>(
        &self,
        work: impl FnOnce(AuditRole) -> W,
    ) -> Result<T, Fault> {
        let turn = self.role().reporting.clone().try_acquire_owned();
        let turn = turn.map_err(|_| Fault::reporting())?;
        let deadline = Instant::now() + self.bounds().export;
        self.done_until(deadline, turn, work).await
    }

    async fn timed_by<T: Send + 'static, W: Work<T>>(
        &self,
        turns: &Arc<Semaphore>,
        work: impl FnOnce(AuditRole) -> W,
    ) -> Result<T, Fault> {
        let deadline = Instant::now() + self.bounds().answer;
        let turn = timeout_at(deadline, turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Fault::late("the answer"))?;
        let turn = turn.map_err(|error| super::broken(&error.to_string()))?;
        self.done_until(deadline, turn, work).await
    }

    /// What the work comes to, if it does before `deadline`.
    async fn done_until<T: Send + 'static, W: Work<T>>(
        &self,
        deadline: Instant,
        turn: OwnedSemaphorePermit,
        work: impl FnOnce(AuditRole) -> W,
    ) -> Result<T, Fault> {
        let done = timeout_at(deadline, attended(self.role(), turn, work)).await;
        done.map_err(|_| Fault::late("the answer"))??
    }
}

/// Work of the role for a reader.
trait Work<T>: Future<Output = Result<T, Fault>> + Send + 'static {}

impl<T, W: Future<Output = Result<T, Fault>> + Send + 'static> Work<T> for W {}

/// Every route, and an answer to what is none.
fn router(office: &Office) -> Router {
    let routed = |router: Router, route: &'static Route| {
        let office = office.clone();
        let handler = move |request: AxumRequest| answer(office, route, request);
        let filter = MethodFilter::try_from(route.method.clone()).unwrap_or(MethodFilter::GET);
        router.route(route.path, on(filter, handler))
    };
    let none = |status: StatusCode| {
        move |request: AxumRequest| async move {
            let request = visit(&request).request;
            Fault::no_route(status).response(&request)
        }
    };
    ROUTES
        .iter()
        .fold(Router::new(), routed)
        .fallback(none(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(none(StatusCode::METHOD_NOT_ALLOWED))
}

async fn answer(office: Office, route: &'static Route, request: AxumRequest) -> Response<Body> {
    let visit = visit(&request);
    let answered = answers::answer(office, route, &visit, request).await;
    answered.unwrap_or_else(|fault| fault.response(&visit.request))
}

/// Who asks, as the clerk of the connection knows; nobody, where none asked it.
fn visit(request: &AxumRequest) -> Visit {
    let known = request.extensions().get::<Visit>().cloned();
    known.unwrap_or_else(|| Visit {
        caller: None,
        request: RequestId::of(request.headers()),
    })
}

/// Takes the requests of one connection.
#[derive(Clone)]
struct Clerk {
    office: Office,
    router: Router,
    caller: Option<Caller>,
}

impl Service<Request<Incoming>> for Clerk {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let id = RequestId::of(request.headers());
        // As the certificate proved it; without one, as a token does.
        let caller = self.caller.clone();
        let caller = caller.or_else(|| self.office.bearer(request.headers()));
        let entered = caller.as_ref().map(|caller| self.office.enter(caller));
        let seat = match entered.transpose() {
            Ok(seat) => seat,
            Err(fault) => {
                let refused = marked(fault.response(&id), &id);
                return Box::pin(std::future::ready(Ok(refused)));
            }
        };
        request.extensions_mut().insert(Visit {
            caller,
            request: id.clone(),
        });
        let mut router = self.router.clone();
        Box::pin(async move {
            let answer = router.call(request).await?;
            Ok(seated(marked(answer, &id), seat))
        })
    }
}

/// What every answer carries: its request's identifier, and that it is nobody else's.
fn marked(mut answer: Response<Body>, id: &RequestId) -> Response<Body> {
    let headers = answer.headers_mut();
    headers.extend(id.header().map(|value| (request_id::HEADER, value)));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests;
