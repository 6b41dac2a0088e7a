//! The door at which other logs get our cosignature (C2SP tlog-witness).

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use palisade_audit::{
    cosignature::Cosigner,
    witness::{REQUEST_LEN_MAX, Seen, Witness, WitnessRefusal},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, spiffe_id::TrustDomain};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    config::witness::WitnessSection,
    control::{
        api::{Fact, FactState},
        status::WitnessingStatus,
    },
    net::front::{self, Door},
    run::unusable,
};

/// Checkpoints that are looked at at a time.
const TURNS: usize = 4;
/// What the answer to another size than ours is called.
const SIZE_TYPE: &str = "text/x.tlog.size";

/// The witness of this process.
#[derive(Clone)]
pub(super) struct Witnessing {
    witness: Arc<Witness>,
    address: SocketAddr,
}

impl Witnessing {
    /// Opens the witness in `dir` and serves it until `stop`.
    pub(super) async fn start(
        section: &WitnessSection,
        dir: &Path,
        trust_domain: &TrustDomain,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Result<Self, Vec<Diagnostic>> {
        let name = section.name.clone();
        let name = name.unwrap_or_else(|| format!("{trust_domain}/witness"));
        let opened = || {
            let cosigner = Cosigner::load(&dir.join("witness.key"), &name, true)?;
            let logs = section
                .keys()
                .map_err(|d| std::io::Error::other(d.message))?;
            Witness::open(dir, cosigner, logs, clock.clone())
        };
        let witness = opened()
            .map_err(|e| vec![unusable(&format!("witness in `{}`: {e}", dir.display()))])?;
        let (bound, address) = front::bind("audit.witness.listen", section.listen).await?;
        let witness = Arc::new(witness);
        let router = router(witness.clone());
        let office = move |_| {
            let router = router.clone();
            tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let router = router.clone();
                async move {
                    use tower::ServiceExt as _;
                    router.oneshot(request.map(axum::body::Body::new)).await
                }
            })
        };
        tokio::spawn(front::serve(
            bound,
            "witness",
            Door::Plain,
            office,
            stop.clone(),
        ));
        Ok(Self { witness, address })
    }

    pub(super) fn status(&self) -> WitnessingStatus {
        WitnessingStatus {
            address: self.address,
            key: self.witness.key().to_string(),
            logs: self
                .witness
                .seen()
                .iter()
                .map(|s| (s.origin.clone(), s.size))
                .collect(),
        }
    }

    /// What is to be told of the logs that are witnessed.
    pub(super) fn check(&self) -> Vec<Fact> {
        let seen = self.witness.seen();
        let forked = |seen: &&Seen| seen.forked;
        seen.iter().filter(forked).map(fork).collect()
    }
}

fn fork(seen: &Seen) -> Fact {
    let text = format!("log `{}` has signed two roots for one size", seen.origin);
    Fact::not_ok("audit", FactState::Error, 7544, text)
        .cause("it showed one of them to this witness and another later: a split view")
        .fix("both signed checkpoints are in the witness's folder (`*.fork`); show them to those who rely on that log")
}

fn router(witness: Arc<Witness>) -> Router {
    let turns = Arc::new(Semaphore::new(TURNS));
    let take = post(move |body: String| async move {
        // Each takes a thread and an fsync; who has to wait asks again.
        match turns.try_acquire() {
            Ok(_turn) => answer(witness, body).await,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    });
    Router::new()
        .route("/add-checkpoint", take)
        .layer(DefaultBodyLimit::max(REQUEST_LEN_MAX))
}

async fn answer(witness: Arc<Witness>, body: String) -> Response {
    let asked = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body));
    let refusal = match asked.await {
        Ok(Ok(lines)) => return lines.into_response(),
        Ok(Err(refusal)) => refusal,
        Err(error) => WitnessRefusal::State(std::io::Error::other(error)),
    };
    let status = StatusCode::from_u16(refusal.status());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match refusal {
        WitnessRefusal::Conflict { size, .. } => {
            (status, [(CONTENT_TYPE, SIZE_TYPE)], format!("{size}\n")).into_response()
        }
        // Where our state is, is for our log alone.
        WitnessRefusal::State(error) => {
            tracing::error!(%error, "witness cannot read or write its state");
            status.into_response()
        }
        refused => (status, format!("{refused}\n")).into_response(),
    }
}
