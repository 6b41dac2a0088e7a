//! What the local socket asks of a proxy, and how its orders reach the proxy's own loop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    routing::{get, post},
};
use palisade_mesh::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::Core;
use crate::{
    config::span,
    control::api::{Answer, Problem},
};

/// What the local socket asks for.
pub(super) enum Order {
    Drain(Option<Duration>),
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<u32, Diagnostic>>),
}

/// Body of `/v1/proxy/drain`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DrainOrder {
    /// Another deadline than the configured one, such as `10s`.
    pub deadline: Option<String>,
}

/// Body of `/v1/proxy/upgrade`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UpgradeOrder {
    /// Another binary than the present one.
    pub binary: Option<PathBuf>,
}

/// Answer to both: the processes concerned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ordered {
    /// The process that ends.
    pub ends: u32,
    /// The process that has taken over, if one has.
    pub goes_on: Option<u32>,
    /// How long the one that ends may take, as people write it.
    pub deadline: String,
}

/// What the role answers on the local socket.
pub(super) fn routes(core: &Arc<Core>, orders: &mpsc::Sender<Order>) -> Router {
    let (of_status, of_check, of_config) = (core.clone(), core.clone(), core.clone());
    let (of_drain, of_upgrade) = (core.clone(), core.clone());
    let (to_drain, to_upgrade) = (orders.clone(), orders.clone());
    Router::new()
        .route(
            "/v1/proxy/status",
            get(move || async move { Json(of_status.status()) }),
        )
        .route(
            "/v1/proxy/check",
            get(move || async move { Json(of_check.check()) }),
        )
        .route(
            "/v1/proxy/config",
            get(move || async move { Json(of_config.config_status()) }),
        )
        .route(
            "/v1/proxy/drain",
            post(move |Json(order): Json<DrainOrder>| async move {
                ask_to_drain(&of_drain, &to_drain, order).await
            }),
        )
        .route(
            "/v1/proxy/upgrade",
            post(move |Json(order): Json<UpgradeOrder>| async move {
                ask_to_upgrade(&of_upgrade, &to_upgrade, order).await
            }),
        )
}

async fn ask_to_drain(
    core: &Core,
    orders: &mpsc::Sender<Order>,
    order: DrainOrder,
) -> Answer<Ordered> {
    let deadline = match &order.deadline {
        None => None,
        Some(text) => Some(span(text).ok_or_else(|| {
            Diagnostic::error(5331, format!("`{text}` is not a span of time"))
                .help("such as `10s` or `1m`")
        })?),
    };
    send(orders, Order::Drain(deadline)).await?;
    Ok(Json(ordered(
        None,
        deadline.unwrap_or_else(|| core.section().drain.deadline),
    )))
}

async fn ask_to_upgrade(
    core: &Core,
    orders: &mpsc::Sender<Order>,
    order: UpgradeOrder,
) -> Answer<Ordered> {
    let (reply, answer) = oneshot::channel();
    send(orders, Order::Upgrade(order.binary, reply)).await?;
    let pid = answer.await.map_err(|_| ending())??;
    Ok(Json(ordered(Some(pid), core.section().drain.deadline)))
}

async fn send(orders: &mpsc::Sender<Order>, order: Order) -> Result<(), Problem> {
    orders.send(order).await.map_err(|_| ending().into())
}

fn ending() -> Diagnostic {
    Diagnostic::error(5332, "this proxy is ending already").help("wait for it: palisade status")
}

fn ordered(goes_on: Option<u32>, deadline: Duration) -> Ordered {
    Ordered {
        ends: std::process::id(),
        goes_on,
        deadline: crate::render::duration(deadline),
    }
}
