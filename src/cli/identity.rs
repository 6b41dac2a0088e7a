//! `palisade identity`: who has which certificate.

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use super::{Context, Exit, block_on};
use crate::{
    control::{
        client::Mesh,
        status::{IdentityStatus, ahead},
    },
    render::{
        self, GOOD, NAME, Output, WARN, paint,
        snippet::clean,
        table::{self, col},
    },
};

/// Share of its life after which a certificate should have been renewed.
const DUE_PERCENT: i64 = 80;

/// What to show.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List identities with their newest certificate.
    List,
    /// Show one identity.
    Show {
        /// SPIFFE ID, or the end of its path.
        id: String,
    },
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    match block_on(ask(command, context)) {
        Ok(identities) => {
            match (context.output, command) {
                (Output::Json, _) => render::json(&identities),
                (Output::Human, Command::List) => list(&identities),
                (Output::Human, Command::Show { .. }) => identities.iter().for_each(show),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn ask(command: &Command, context: &Context) -> Result<Vec<IdentityStatus>, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    let path = match command {
        Command::List => "/v1/ca/identities".to_owned(),
        Command::Show { id } => format!("/v1/ca/identities?id={}", super::path_segment(id)),
    };
    mesh.get("ca", &path).await
}

fn list(identities: &[IdentityStatus]) {
    let clock = Clock::system();
    let mut rows = table::Table::new(&[
        col(""),
        col("SPIFFE ID"),
        col("SERIAL").optional(),
        col("ENDS"),
        col("ISSUED").right(),
    ]);
    for identity in identities {
        let (style, mark) = standing(identity, &clock);
        rows.row([
            table::styled(style, mark),
            identity.spiffe_id.as_str().into(),
            table::styled(render::DIM, short(&identity.serial)),
            ahead(&clock, identity.not_after_s).into(),
            identity.issued.to_string().into(),
        ]);
    }
    rows.print();
    render::next(&[(
        "palisade identity show NAME".into(),
        "serial, validity and attestation of one",
    )]);
}

fn show(identity: &IdentityStatus) {
    let clock = Clock::system();
    let (style, mark) = standing(identity, &clock);
    render::line(&format!(
        "{} {}",
        paint(style, mark),
        render::strong(clean(&identity.spiffe_id))
    ));
    let at =
        |s: i64| jiff::Timestamp::from_second(s).map_or_else(|_| s.to_string(), |t| t.to_string());
    for (name, value) in [
        ("serial", identity.serial.clone()),
        ("valid from", at(identity.not_before_s)),
        (
            "valid until",
            format!(
                "{} ({})",
                at(identity.not_after_s),
                ahead(&clock, identity.not_after_s)
            ),
        ),
        ("authority", identity.authority.clone()),
        ("attested by", identity.selectors.join(", ")),
        ("issued so far", identity.issued.to_string()),
    ] {
        render::line(&format!(
            "  {}  {}",
            paint(NAME, format!("{name:<13}")),
            clean(&value)
        ));
    }
}

fn standing(identity: &IdentityStatus, clock: &Clock) -> (anstyle::Style, &'static str) {
    let life = identity.not_after_s - identity.not_before_s;
    let age = clock.now_us() / 1_000_000 - identity.not_before_s;
    if age * 100 > life * DUE_PERCENT {
        (WARN, "!")
    } else {
        (GOOD, "✓")
    }
}

fn short(serial: &str) -> String {
    serial.chars().take(12).collect()
}
