//! The `ca` role.

use std::sync::Arc;

use axum::{Json, Router, extract::Query, routing::get};
use palisade_ca::{
    Ca, CaConfig,
    authority::State,
    registration::{self, Registration},
    selector::Selector,
    server::{IssuedCertificate, IssuedFilter},
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic, sink::RecordSink};
use serde::Deserialize;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

use super::{
    Role,
    network::{self, Network},
    rotation, unbound,
};
use crate::{
    config::{CaSection, Config},
    control::{
        api::{Answer, Fact, FactState, Problem},
        status::{CaStatus, IdentityStatus, ahead},
    },
    net::{kill, uds},
    render::hex,
};

/// Share of a certificate's life after which not having renewed it is a warning.
const OVERDUE_PERCENT: i64 = 80;

/// Starts the authority and serves agents on its socket.
pub(super) async fn start(
    config: &Config,
    section: &CaSection,
    sink: &dyn RecordSink,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(Arc<Ca>, Option<Network>), Vec<Diagnostic>> {
    let of_ca = ca_config(config, section);
    let rules = of_ca.rules();
    let mut registrations = registration::parse(&section.registrations, &rules)?;
    registrations.extend(roles(config, section)?);
    let ca = Ca::start(of_ca, clock.clone(), sink.open(0))
        .await
        .map_err(|e| vec![e.diagnostic()])?;
    ca.apply(registrations)
        .await
        .map_err(|e| vec![e.diagnostic()])?;
    let listener = uds::listen(&config.ca_socket())
        .await
        .map_err(|e| vec![unbound("the authority's socket", &e)])?;
    let served = tonic::transport::Server::builder()
        .add_service(ca.service())
        .add_service(kill::service(ca.kill_list()))
        .serve_with_incoming_shutdown(
            UnixListenerStream::new(listener),
            stop.clone().cancelled_owned(),
        );
    tokio::spawn(served);
    let network = network::open(config, section, &ca, sink, clock, stop).await?;
    Ok((ca, network))
}

/// How the authority of this configuration is set up.
pub(crate) fn ca_config(config: &Config, section: &CaSection) -> CaConfig {
    let mut of_ca = CaConfig::new(config.trust_domain.clone(), config.state_dir.join("ca"));
    of_ca.kek_path = section.kek.clone();
    of_ca.svid_ttl = section.svid_ttl;
    of_ca.ack_deadline = section.ack_deadline;
    of_ca.reissue_rate = section.reissue_rate;
    of_ca.demo = config.demo;
    of_ca
}

/// The mesh's own parts: this program, run by this user.
fn roles(config: &Config, section: &CaSection) -> Result<Vec<Registration>, Vec<Diagnostic>> {
    let this =
        std::env::current_exe().map_err(|e| vec![unbound("the path of this program", &e)])?;
    let selectors = vec![
        Selector::Uid(nix::unistd::getuid().as_raw()),
        Selector::Path(this.display().to_string()),
    ];
    let of_role = |role: &Role| {
        Registration::for_role(
            &config.trust_domain,
            role.as_str(),
            selectors.clone(),
            section.svid_ttl,
        )
    };
    Ok(Role::ALL.iter().map(of_role).collect())
}

/// What the role answers on the local socket.
pub(super) fn routes(ca: Arc<Ca>, network: Option<Network>, clock: Clock) -> Router {
    let of_kill = super::kill::routes(ca.clone(), clock.clone());
    let of_joining = network::routes(ca.clone(), network.clone());
    let (of_status, of_list, of_check) = (ca.clone(), ca.clone(), ca.clone());
    rotation::routes(ca)
        .route(
            "/v1/ca/status",
            get(move || async move { status(&of_status).await }),
        )
        .route(
            "/v1/ca/identities",
            get(move |Query(which): Query<Which>| async move { identities(&of_list, which).await }),
        )
        .route(
            "/v1/ca/check",
            get(move || async move {
                let mut facts = check(&of_check, &clock).await?;
                facts.extend(network::check(&of_check, network.as_ref(), &clock));
                Ok::<_, Problem>(facts)
            }),
        )
        .merge(of_joining)
        .merge(of_kill)
}

#[derive(Debug, Deserialize)]
struct Which {
    id: Option<String>,
}

async fn status(ca: &Ca) -> Answer<CaStatus> {
    Ok(Json(rotation::status(ca, identities_now(ca).await?).await))
}

async fn identities(ca: &Ca, which: Which) -> Answer<Vec<IdentityStatus>> {
    let all = newest(
        ca,
        &IssuedFilter {
            spiffe_id: None,
            include_ended: which.id.is_some(),
        },
    )
    .await?;
    let Some(asked) = which.id else {
        return Ok(Json(all));
    };
    let fits =
        |i: &IdentityStatus| i.spiffe_id == asked || i.spiffe_id.ends_with(&format!("/{asked}"));
    let found: Vec<_> = all.iter().filter(|i| fits(i)).cloned().collect();
    if found.is_empty() {
        let ids = all.iter().map(|i| i.spiffe_id.as_str());
        let near = palisade_mesh::diagnostic::did_you_mean(&asked, ids);
        let unknown = Diagnostic::error(4301, format!("no certificate was issued for `{asked}`"));
        return Err(unknown
            .help(near.map_or("palisade identity list".into(), |n| {
                format!("did you mean `{n}`?")
            }))
            .into());
    }
    Ok(Json(found))
}

/// How many identities have a valid certificate.
pub(super) async fn identities_now(ca: &Ca) -> Result<usize, Problem> {
    Ok(newest(ca, &IssuedFilter::default()).await?.len())
}

/// The newest certificate of each identity.
async fn newest(ca: &Ca, filter: &IssuedFilter) -> Result<Vec<IdentityStatus>, Problem> {
    let issued = ca
        .issued(filter)
        .await
        .map_err(|e| Problem::from(e.diagnostic()))?;
    let mut identities: Vec<IdentityStatus> = Vec::new();
    for certificate in &issued {
        match identities
            .iter_mut()
            .find(|i| i.spiffe_id == certificate.spiffe_id.as_str())
        {
            Some(known) => known.issued += 1,
            None => identities.push(identity(certificate)),
        }
    }
    identities.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id));
    Ok(identities)
}

fn identity(certificate: &IssuedCertificate) -> IdentityStatus {
    IdentityStatus {
        spiffe_id: certificate.spiffe_id.to_string(),
        serial: hex(&certificate.serial),
        not_before_s: certificate.not_before_s,
        not_after_s: certificate.not_after_s,
        issued: 1,
        selectors: certificate.selectors.clone(),
        authority: hex(certificate.authority.as_bytes()),
    }
}

async fn check(ca: &Ca, clock: &Clock) -> Answer<Vec<Fact>> {
    let mut facts = Vec::new();
    let now_s = clock.now_us() / 1_000_000;
    let authorities = ca.authorities().await;
    // Of a tainted one there is more to say.
    for authority in authorities.iter().filter(|a| a.state != State::Tainted) {
        let kind = authority.kind.as_str();
        let ends = ahead(clock, authority.not_after_s);
        facts.push(if authority.not_after_s > now_s {
            Fact::ok(
                "identity",
                format!(
                    "{kind} {} is {}, ends {ends}",
                    short(authority.key_id.as_bytes()),
                    authority.state.as_str()
                ),
            )
        } else {
            Fact::not_ok(
                "identity",
                FactState::Error,
                4302,
                format!("{kind} {} has expired", short(authority.key_id.as_bytes())),
            )
            .fix("see the authority's log; it renews by itself while it runs")
        });
    }
    facts.extend(rotation::check(ca, clock).await);
    let identities = newest(ca, &IssuedFilter::default()).await?;
    let overdue: Vec<&IdentityStatus> =
        identities.iter().filter(|i| is_overdue(i, now_s)).collect();
    facts.push(match overdue.first() {
        None => Fact::ok(
            "identity",
            format!("{} identities hold a fresh certificate", identities.len()),
        ),
        Some(first) => Fact::not_ok(
            "identity",
            FactState::Warning,
            4303,
            format!(
                "{} of {} identities have not renewed in time",
                overdue.len(),
                identities.len()
            ),
        )
        .cause(format!(
            "{} ends {}",
            first.spiffe_id,
            ahead(clock, first.not_after_s)
        ))
        .fix("see whether the workload still runs, and the agent's log"),
    });
    Ok(Json(facts))
}

fn is_overdue(identity: &IdentityStatus, now_s: i64) -> bool {
    let life = identity.not_after_s - identity.not_before_s;
    (now_s - identity.not_before_s) * 100 > life * OVERDUE_PERCENT
}

pub(super) fn short(bytes: &[u8]) -> String {
    hex(bytes).chars().take(8).collect()
}
