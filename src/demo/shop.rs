//! The sample shop: five small services that call each other.
//!
//! Each is an ordinary HTTP service that knows nothing of the mesh: it answers on
//! a plain port, and sends its calls to its proxy's outbound port with the name of
//! the service in `Host`. It counts what it sent and what came back, so that a
//! test can compare with the records.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    routing::{any, get, post},
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{MissedTickBehavior, timeout},
};

/// How long a call may take before the caller gives up.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections a service keeps to its proxy.
const CALLERS: usize = 4;

/// A sample service: its name and what it calls, in turn.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Name, which is also the host others call it by.
    pub name: &'static str,
    calls: &'static [Call],
}

impl Sample {
    /// Whether it sends anything.
    pub fn calls_others(&self) -> bool {
        !self.calls.is_empty()
    }
}

/// One call: method, host, path.
type Call = (&'static str, &'static str, &'static str);

/// The shop.
pub const SHOP: [Sample; 5] = [
    Sample {
        name: "web",
        calls: &[
            ("GET", "orders", "/orders"),
            ("GET", "inventory", "/stock"),
            ("GET", "orders", "/orders/42"),
            ("POST", "orders", "/orders"),
            ("GET", "inventory", "/stock/shoe-42"),
            ("POST", "orders", "/orders/42/refund"),
        ],
    },
    Sample {
        name: "orders",
        calls: &[
            ("POST", "inventory", "/stock/shoe-42/reserve"),
            ("POST", "payments", "/charges"),
        ],
    },
    Sample {
        name: "payments",
        calls: &[],
    },
    Sample {
        name: "inventory",
        calls: &[],
    },
    Sample {
        name: "reports",
        calls: &[
            ("GET", "orders", "/orders"),
            ("GET", "payments", "/cards/1"),
            ("GET", "inventory", "/stock"),
        ],
    },
];

/// What a service has sent and got back.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests sent.
    pub sent: u64,
    /// Answers, by status.
    pub answered: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub failed: u64,
    /// Requests that arrived from others.
    pub received: u64,
    /// The last few failures, in words.
    pub failures: Vec<String>,
}

/// Order to start calling.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Start {
    /// Outbound port of the service's proxy.
    pub outbound: SocketAddr,
    /// Calls per second.
    pub rate: f64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    paused: AtomicBool,
    tally: Mutex<Tally>,
}

impl Counters {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Serves `sample` until the process ends. Prints the bound address on the first
/// line of standard output.
///
/// # Errors
/// When the port cannot be bound.
pub async fn serve(sample: Sample, listen: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    crate::render::line(&listener.local_addr()?.to_string());
    axum::serve(listener, router(sample, Arc::default())).await
}

/// The service's own endpoints, and three for whoever runs the shop: `/-/start`
/// begins the calls, `/-/pause` stops them, `/-/tally` tells the counts.
fn router(sample: Sample, counters: Arc<Counters>) -> Router {
    let name = sample.name;
    // The body is read, though nobody wants it: a server that answers without it
    // closes the connection, and whoever sends the next request on it gets nothing.
    let answer = move |State(counters): State<Arc<Counters>>,
                       method: Method,
                       uri: Uri,
                       _: Bytes| async move {
        counters.received.fetch_add(1, Ordering::Relaxed);
        let status = if method == Method::POST {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        let body =
            serde_json::json!({ "service": name, "method": method.as_str(), "path": uri.path() });
        (status, Json(body))
    };
    Router::new()
        .route("/-/tally", get(tally))
        .route("/-/pause", post(pause))
        .route(
            "/-/start",
            post(move |state, order| start(sample, state, order)),
        )
        .fallback(any(answer))
        .with_state(counters)
}

async fn tally(State(counters): State<Arc<Counters>>) -> Json<Tally> {
    let mut tally = counters.tally().clone();
    tally.received = counters.received.load(Ordering::Relaxed);
    Json(tally)
}

async fn pause(State(counters): State<Arc<Counters>>) -> StatusCode {
    counters.paused.store(true, Ordering::Relaxed);
    StatusCode::NO_CONTENT
}

async fn start(
    sample: Sample,
    State(counters): State<Arc<Counters>>,
    Json(order): Json<Start>,
) -> StatusCode {
    counters.paused.store(false, Ordering::Relaxed);
    if order.rate > 0.0 && !sample.calls.is_empty() {
        tokio::spawn(send_calls(sample.calls, order, counters));
    }
    StatusCode::NO_CONTENT
}

async fn send_calls(calls: &'static [Call], order: Start, counters: Arc<Counters>) {
    let (queue, waiting) = mpsc::channel::<Call>(CALLERS);
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
    for _ in 0..CALLERS {
        tokio::spawn(caller(order.outbound, waiting.clone(), counters.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / order.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for call in calls.iter().cycle() {
        ticks.tick().await;
        if counters.paused.load(Ordering::Relaxed) || queue.send(*call).await.is_err() {
            return;
        }
    }
}

type Queue = Arc<tokio::sync::Mutex<mpsc::Receiver<Call>>>;
type Sender = http1::SendRequest<Full<Bytes>>;

/// Sends calls over one kept connection.
async fn caller(outbound: SocketAddr, queue: Queue, counters: Arc<Counters>) {
    let mut connection: Option<Sender> = None;
    loop {
        let next = queue.lock().await.recv().await;
        let Some(call) = next else { return };
        counters.tally().sent += 1;
        let answered = timeout(CALL_TIMEOUT, send(outbound, &mut connection, call)).await;
        let mut tally = counters.tally();
        match answered {
            Ok(Ok(status)) => *tally.answered.entry(status.as_u16()).or_default() += 1,
            failed => {
                connection = None;
                tally.failed += 1;
                tally.failures.push(format!("{call:?}: {failed:?}"));
                let excess = tally.failures.len().saturating_sub(10);
                tally.failures.drain(..excess);
            }
        }
    }
}

async fn send(
    outbound: SocketAddr,
    kept: &mut Option<Sender>,
    (method, host, path): Call,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let usable = match kept.take() {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let mut sender = match usable {
        Some(sender) => sender,
        None => connect(outbound).await?,
    };
    let body = if method == "POST" {
        Bytes::from_static(b"{\"amount\":42}")
    } else {
        Bytes::new()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, host)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    *kept = Some(sender);
    Ok(status)
}

async fn connect(outbound: SocketAddr) -> Result<Sender, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(outbound).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call of the shop goes to a service of the shop.
    #[test]
    fn the_shop_calls_only_itself() {
        for (_, host, path) in SHOP.iter().flat_map(|s| s.calls) {
            assert!(SHOP.iter().any(|s| s.name == *host), "{host}");
            assert!(path.starts_with('/'));
        }
    }
}
