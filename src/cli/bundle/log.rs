//! `palisade bundle log`: which revisions were in force lately.

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use crate::{
    cli::{Context, Exit, block_on},
    control::{
        client::Mesh,
        status::{PastRevision, ago},
    },
    render::{
        self, DIM, GOOD, Output,
        table::{self, col},
    },
};

pub(super) fn main(context: &Context) -> Exit {
    match block_on(ask(context)) {
        Ok(revisions) => {
            match context.output {
                Output::Json => render::json(&revisions),
                Output::Human => print(&revisions),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn ask(context: &Context) -> Result<Vec<PastRevision>, Diagnostic> {
    let mesh = Mesh::find(context.mesh.as_deref()).await?;
    mesh.get("pdp", "/v1/pdp/revisions").await
}

fn print(revisions: &[PastRevision]) {
    let clock = Clock::system();
    let mut rows = table::Table::new(&[
        col(""),
        col("REVISION").right(),
        col("DIGEST"),
        col("IN FORCE"),
        col("POLICIES").right(),
        col("COMMIT").optional(),
        col("SIGNED"),
        col("KEPT").optional(),
    ]);
    for (i, one) in revisions.iter().enumerate() {
        let short = |text: &str| text.chars().take(8).collect::<String>();
        let signers = match one.signers.is_empty() {
            true => one.signed.clone(),
            false => format!("{}: {}", one.signed, one.signers.join(", ")),
        };
        rows.row([
            table::styled(GOOD, if i == 0 { "✓" } else { "" }),
            render::thousands(one.sequence).into(),
            short(&one.digest).into(),
            ago(&clock, one.since_us).into(),
            render::thousands(one.policies).into(),
            table::styled(DIM, short(&one.git_revision)),
            signers.into(),
            table::styled(DIM, if one.kept { "whole" } else { "" }),
        ]);
    }
    rows.print();
}
