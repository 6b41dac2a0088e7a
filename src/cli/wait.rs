//! `palisade wait`: for scripts, health checks and start-up order. Ends when what runs
//! is ready, or when time is up.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use palisade_mesh::diagnostic::Diagnostic;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Context, Exit, block_on};
use crate::{
    config::span,
    control::{
        api::{Fact, FactState},
        client::Mesh,
        status::ProxyStatus,
    },
    render::{self, Output},
};

/// How often is asked.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer of an admin port.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to wait for.
    #[arg(long = "for", value_enum, default_value_t = What::Ready)]
    what: What,
    /// How long, such as `30s` or `2m`; `0s` asks once.
    #[arg(long, default_value = "30s", value_parser = time)]
    timeout: Duration,
    /// Ask the admin port of one proxy, `http://IP:PORT`, not the mesh of this user.
    #[arg(long, value_name = "URL", value_parser = admin, env = "PALISADE_ADMIN")]
    admin: Option<SocketAddr>,
    /// Roles that must answer, such as `pdp`; repeat it for several.
    #[arg(long, value_name = "ROLE", conflicts_with = "admin")]
    role: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// No part has an error; every proxy has a certificate and a policy snapshot.
    Ready,
    /// A proxy is ready, and has decided a request.
    Decision,
}

fn time(text: &str) -> Result<Duration, String> {
    span(text).ok_or_else(|| "expected a span of time, such as `30s`".to_owned())
}

fn admin(url: &str) -> Result<SocketAddr, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let address = rest
        .trim_end_matches('/')
        .replace("localhost:", "127.0.0.1:");
    address
        .parse()
        .map_err(|_| "expected `http://IP:PORT`, such as `http://127.0.0.1:15021`".to_owned())
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let until = Instant::now() + args.timeout;
    match block_on(wait(args, context, until)) {
        Ok(()) => {
            match context.output {
                Output::Json => render::json(&serde_json::json!({ "ready": true })),
                Output::Human => render::line(&render::paint(render::GOOD, "ready")),
            }
            Exit::Ok
        }
        Err(why) => {
            let late = Diagnostic::error(9201, format!("not ready within {:?}", args.timeout))
                .cause(why)
                .help("see what is wrong: palisade check; or give it more time: --timeout");
            render::failed(context.output, &late)
        }
    }
}

/// Asks until the answer is yes or time is up; then why it is not.
async fn wait(args: &Args, context: &Context, until: Instant) -> Result<(), String> {
    loop {
        let asked = async {
            match args.admin {
                Some(address) => of_proxy(address, args.what).await,
                None => of_mesh(args, context).await,
            }
        };
        // One question is always asked, however short the time.
        let patience = until.max(Instant::now() + ANSWER_TIMEOUT);
        let why = match timeout_at(patience, asked).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => "no answer in time".to_owned(),
        };
        let next = Instant::now() + PAUSE;
        if next >= until {
            return Err(why);
        }
        sleep_until(next).await;
    }
}

/// Asks the processes on this user's control sockets.
async fn of_mesh(args: &Args, context: &Context) -> Result<(), String> {
    let told = |d: Diagnostic| d.message;
    let mesh = Mesh::find(context.mesh.as_deref()).await.map_err(told)?;
    let runs = |role: &str| mesh.processes().any(|p| p.roles.iter().any(|r| r == role));
    if let Some(missing) = args.role.iter().find(|role| !runs(role)) {
        return Err(format!("no process has the role `{missing}`"));
    }
    for role in ["ca", "pdp", "proxy", "audit"] {
        let path = format!("/v1/{role}/check");
        let facts = mesh.get_all::<Vec<Fact>>(role, &path).await.map_err(told)?;
        let wrong = |f: &&Fact| f.state == FactState::Error;
        if let Some(fact) = facts.iter().flatten().find(wrong) {
            return Err(fact.text.clone());
        }
    }
    if args.what == What::Ready {
        return Ok(());
    }
    let path = "/v1/proxy/status";
    let proxies = mesh.get_all::<ProxyStatus>("proxy", path).await;
    match proxies.map_err(told)?.iter().any(|p| p.requests > 0) {
        true => Ok(()),
        false => Err("no proxy has decided a request yet".to_owned()),
    }
}

/// Asks the admin port of a proxy.
async fn of_proxy(address: SocketAddr, what: What) -> Result<(), String> {
    let (status, text) = get(address, "/readyz").await?;
    if status != StatusCode::OK {
        return Err(text.trim().replace('\n', ", "));
    }
    if what == What::Ready {
        return Ok(());
    }
    let (_, text) = get(address, "/metrics").await?;
    let decided = |line: &str| line.starts_with("palisade_decisions_total{");
    match text.lines().any(decided) {
        true => Ok(()),
        false => Err("the proxy has decided no request yet".to_owned()),
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let failed = |why: &dyn std::fmt::Display| format!("http://{address}{path}: {why}");
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Full::<Bytes>::default())
        .map_err(|e| failed(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_LEN_MAX).collect();
    let body = body.await.map_err(|e| failed(&e))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
