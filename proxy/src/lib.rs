//! The policy enforcement point: mTLS, one decision and one record for every
//! request.
//!
//! A proxy runs one single-threaded runtime per core. Each worker owns what a
//! request needs (listener, decision engine, upstream connections, record
//! buffer, counters), so that nothing on the request path takes a lock or wakes
//! another thread. In reading order:
//!
//! - [`config`], [`policy`], [`endpoints`]: what a proxy is given
//! - [`proxy`]: starting, draining and stopping one
//! - `worker`, `listener`, `connection`, `penalty`: one core, its sockets, their deadlines and abuse
//! - `inbound`: canonical request, enforcement, records, forwarding
//! - `outbound`: the local application's calls to other services
//! - `shadow`, `health`: a revision tried beside the one in force, and what comes of each
//! - `rejudge`: deciding again what is open, when something changes or time passes
//! - `headers`, `hosts`, `body`, `exchange`, `tunnel`, `respond`: the parts a request is made of
//! - `upstream`: connections to applications and to other proxies
//! - `telemetry`, `admin`: what can be seen from outside

pub mod config;
pub mod endpoints;
pub mod headers;
pub mod health;
pub mod policy;
pub mod proxy;
pub mod shadow;

mod admin;
mod body;
mod connection;
mod exchange;
mod forward;
mod hosts;
mod inbound;
mod listener;
mod outbound;
mod penalty;
mod recorder;
mod rejudge;
mod respond;
mod settle;
mod telemetry;
mod tunnel;
mod upstream;
mod worker;

pub use config::ProxyConfig;
pub use endpoints::{Endpoint, EndpointTable};
pub use health::Health;
pub use listener::Sockets;
pub use policy::{Decider, LivePolicy, PolicySlot, PolicySnapshot};
pub use proxy::{Counters, DrainReport, Parts, Proxy, ProxyError, RunningProxy};
pub use shadow::{Candidate, Counts};

#[cfg(test)]
mod tests;
