//! The control plane: any of ca, agent, pdp and audit in one process.

use std::sync::Arc;

use axum::Router;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use tokio_util::sync::CancellationToken;

use super::{Role, about, agent, audit, authority, link, pdp, records, section, unbound};
use crate::{
    config::Config,
    control::{self, server::SocketFile},
};

/// Roles of the control plane that run in this process.
pub struct ControlPlane {
    /// The authority.
    pub ca: Option<Arc<palisade_ca::Ca>>,
    /// The agent.
    pub agent: Option<Arc<palisade_ca::Agent>>,
    /// The audit service.
    pub audit: Option<audit::AuditRole>,
    /// The decision point.
    pub pdp: Option<pdp::PdpRole>,
    records: records::Records,
    stop: CancellationToken,
    socket: Option<SocketFile>,
}

/// Starts `roles` as `config` says, and the local socket. When it returns, every
/// listener is bound.
///
/// # Errors
/// Everything that keeps a role from starting.
pub async fn control_plane(
    config: &Config,
    roles: &[Role],
    clock: Clock,
) -> Result<ControlPlane, Vec<Diagnostic>> {
    let stop = CancellationToken::new();
    let mut plane = ControlPlane {
        ca: None,
        agent: None,
        audit: None,
        pdp: None,
        records: records::Records::new(config, clock.clone()),
        stop: stop.clone(),
        socket: None,
    };
    let mut routes = Router::new();
    for role in Role::ALL.into_iter().filter(|r| roles.contains(r)) {
        routes = routes.merge(plane.start(role, config, &clock).await?);
    }
    // Parts that came after the authority, or run without one.
    let rest = plane.source(None, config);
    plane.records.identify(&rest, &clock);
    plane.listen_for_records(config, &clock).await?;
    let names: Vec<&str> = Role::ALL
        .iter()
        .filter(|r| roles.contains(r))
        .map(|r| r.as_str())
        .collect();
    let process = if names.len() == Role::ALL.len() {
        "control".to_owned()
    } else {
        names.join("-")
    };
    let about = about(config, &names, &clock);
    let socket = control::server::serve(about, &process, routes, stop)
        .await
        .map_err(|e| vec![unbound("control socket", &e)])?;
    plane.socket = Some(socket);
    Ok(plane)
}

impl ControlPlane {
    async fn start(
        &mut self,
        role: Role,
        config: &Config,
        clock: &Clock,
    ) -> Result<Router, Vec<Diagnostic>> {
        match role {
            Role::Audit => {
                let section = section(config.audit.as_ref(), "audit")?;
                let audit = audit::AuditRole::open(config, section, clock)?;
                self.records.keep_in(audit.log.clone());
                let routes = audit.routes();
                self.audit = Some(audit);
                Ok(routes)
            }
            Role::Ca => {
                let section = section(config.ca.as_ref(), "ca")?;
                let sink = self.records.sink(Role::Ca, section.audit)?;
                let ca =
                    authority::start(config, section, sink.as_ref(), clock, &self.stop).await?;
                self.records.identify(&link::Source::Ca(ca.clone()), clock);
                let routes = authority::routes(ca.clone(), clock.clone());
                self.ca = Some(ca);
                Ok(routes)
            }
            Role::Agent => {
                let sink = self.records.sink(Role::Agent, agent::audit(config))?;
                let (sink, stop) = (sink.as_ref(), &self.stop);
                let agent = match self.ca.clone() {
                    Some(ca) => agent::start(config, ca, sink, clock, stop).await?,
                    None => agent::start(config, agent::remote(config), sink, clock, stop).await?,
                };
                let routes = agent::routes(agent.clone());
                self.agent = Some(agent);
                Ok(routes)
            }
            Role::Pdp => {
                let section = section(config.pdp.as_ref(), "pdp")?;
                let source = self.source(section.identity.clone(), config);
                self.records.identify(&source, clock);
                let sink = self.records.sink(Role::Pdp, section.audit)?;
                let identity = link::identity(&source, Role::Pdp, config, clock).await?;
                let pdp = pdp::PdpRole::start(
                    config,
                    section,
                    identity,
                    sink.as_ref(),
                    clock,
                    &self.stop,
                )
                .await?;
                let routes = pdp.routes();
                self.pdp = Some(pdp);
                Ok(routes)
            }
        }
    }

    /// Opens the ingest listener once there is an identity to be had.
    async fn listen_for_records(
        &mut self,
        config: &Config,
        clock: &Clock,
    ) -> Result<(), Vec<Diagnostic>> {
        let (Some(_), Some(section)) = (&self.audit, &config.audit) else {
            return Ok(());
        };
        let source = self.source(section.identity.clone(), config);
        let identity = link::identity(&source, Role::Audit, config, clock).await?;
        match &mut self.audit {
            Some(audit) => audit.listen(section, &identity, &self.stop).await,
            None => Ok(()),
        }
    }

    fn source(
        &self,
        configured: Option<crate::net::identity::IdentityConfig>,
        config: &Config,
    ) -> link::Source {
        match &self.ca {
            Some(ca) => link::Source::Ca(ca.clone()),
            None => {
                link::Source::Configured(configured.unwrap_or_else(|| config.default_identity()))
            }
        }
    }

    /// Ends every role, in an order that loses nothing.
    pub async fn end(self) {
        self.stop.cancel();
        drop(self.socket);
        drop(self.pdp);
        drop(self.agent);
        if let Some(ca) = self.ca {
            ca.close().await;
        }
        self.records.close();
        if let Some(audit) = self.audit {
            audit.close();
        }
    }
}
