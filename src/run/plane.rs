//! The control plane: any of ca, agent, pdp and audit in one process.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::Router;
use palisade_ca::join::NodeRole;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, svid::Identity};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Role, about, agent, audit, authority, link, links, pdp, places, records, section, unbound,
};
use crate::{
    config::{Config, PartAddress},
    control::{self, server::SocketFile},
    net::{directory::Whereabouts, identity::IdentityConfig, kill, tls, uds},
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
    /// Where the authority takes other hosts, if it does.
    pub network_address: Option<SocketAddr>,
    records: records::Records,
    services: Arc<OnceLock<Box<links::Services>>>,
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
        network_address: None,
        records: records::Records::new(config, clock.clone()),
        services: Arc::default(),
        stop: stop.clone(),
        socket: None,
    };
    let mut routes = Router::new();
    for role in Role::ALL.into_iter().filter(|r| roles.contains(r)) {
        routes = routes.merge(plane.start(role, config, &clock).await?);
    }
    routes = routes.merge(plane.records.routes());
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
    let socket = control::server::serve(about, &process, routes, stop, false)
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
                // Its own directory is there before it is.
                let (sender, directory) = watch::channel(Vec::new());
                let audit = section
                    .audit
                    .map(|a| places::whereabouts(a, NodeRole::Audit, || directory));
                let sink = self.records.sink(Role::Ca, audit)?;
                let (ca, network) =
                    authority::start(config, section, sink.as_ref(), clock, &self.stop).await?;
                self.records.identify(&link::Source::Ca(ca.clone()), clock);
                places::forward(places::of_ca(&ca, &self.stop), sender);
                self.network_address = network.as_ref().map(|n| n.address);
                let routes = authority::routes(ca.clone(), network, clock.clone());
                self.ca = Some(ca);
                Ok(routes)
            }
            Role::Agent => {
                let (agent, kill) = match self.ca.clone() {
                    Some(ca) => {
                        let written = config.agent.as_ref().and_then(|a| a.audit);
                        let audit = written.map(|a| self.whereabouts(a, config));
                        let sink = self.records.sink(Role::Agent, audit)?;
                        let kill = kill::Source::Local(ca.kill_list());
                        let sink = sink.as_ref();
                        agent::start(config, ca, kill, None, sink, clock, &self.stop).await?
                    }
                    None => agent::far(config, &mut self.records, clock, &self.stop).await?,
                };
                let routes = agent::routes(agent.clone(), kill);
                self.agent = Some(agent);
                Ok(routes)
            }
            Role::Pdp => {
                let section = section(config.pdp.as_ref(), "pdp")?;
                let source = self.source(section.identity.clone(), config);
                let audit = section.audit.map(|a| self.whereabouts(a, config));
                let sink = self.records.sink(Role::Pdp, audit.clone())?;
                // Its records travel under its own identity, wherever that is from.
                self.records.identify(&source, clock);
                let identity = link::identity(&source, Role::Pdp, config, clock).await?;
                let shelf = self.shelf(audit, config, &identity);
                let pdp = pdp::PdpRole::start(
                    config,
                    section,
                    identity,
                    self.kill_lists(section.identity.as_ref(), config),
                    sink.as_ref(),
                    clock,
                    &self.stop,
                )
                .await?;
                if let Some(shelf) = shelf {
                    pdp.keep_on(shelf, &self.stop);
                }
                let own = section.identity.as_ref();
                self.announce(NodeRole::Pdp, pdp.address, own, config).await;
                let routes = pdp.routes();
                self.services.set(pdp.services()).map_err(|_| Vec::new())?;
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
        let services = self.services.clone();
        let lists = self.kill_lists(section.identity.as_ref(), config);
        if let Some(audit) = &mut self.audit {
            let kill = audit
                .listen(config, section, &identity, services, lists, &self.stop)
                .await?;
            audit
                .answer(config, section, &identity, kill, &self.stop)
                .await?;
        }
        if let Some(address) = self.audit.as_ref().and_then(|a| a.address) {
            let own = section.identity.as_ref();
            self.announce(NodeRole::Audit, address, own, config).await;
        }
        Ok(())
    }

    /// Tells the directory where a part in this process is.
    async fn announce(
        &self,
        role: NodeRole,
        address: SocketAddr,
        identity: Option<&IdentityConfig>,
        config: &Config,
    ) {
        match (&self.ca, identity) {
            (Some(ca), _) => {
                // Without a network address there is nobody to tell.
                if let Err(error) = ca.announce_local(role, address, None).await {
                    tracing::debug!(role = role.as_str(), %error, "not in the directory");
                }
            }
            // From files: there need not be an agent on this host.
            (None, Some(IdentityConfig::Files(_))) => {}
            (None, identity) => {
                let socket = places::agent_socket(config, identity);
                let announced = vec![(role, address)];
                let _ = crate::net::directory::follow(socket, announced, self.stop.clone());
            }
        }
    }

    /// Where the PDP's revisions are kept: where its records are.
    fn shelf(
        &self,
        audit: Option<Whereabouts>,
        config: &Config,
        identity: &Identity,
    ) -> Option<pdp::Shelf> {
        if let Some(audit) = &self.audit {
            return Some(pdp::Shelf::Here(audit.kept()));
        }
        let listen = || config.audit.as_ref().map(|a| Whereabouts::At(a.listen));
        let expected = config.trust_domain.role(Role::Audit.as_str());
        let channel = tls::channel_to(&audit.or_else(listen)?, &expected, identity);
        Some(pdp::Shelf::Far(channel))
    }

    /// Where the kill list comes from: the authority in this process, else the agent.
    fn kill_lists(&self, identity: Option<&IdentityConfig>, config: &Config) -> kill::Source {
        match &self.ca {
            Some(ca) => kill::Source::Local(ca.kill_list()),
            None => {
                let socket = places::agent_socket(config, identity);
                kill::Source::Far(Box::new(move || uds::channel(&socket)))
            }
        }
    }

    /// Where an audit service is that is not in this process.
    fn whereabouts(&self, written: PartAddress, config: &Config) -> Whereabouts {
        places::whereabouts(written, NodeRole::Audit, || match &self.ca {
            Some(ca) => places::of_ca(ca, &self.stop),
            None => places::of_agent(config, None, &self.stop),
        })
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
        if let Some(pdp) = self.pdp {
            pdp.close();
        }
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
