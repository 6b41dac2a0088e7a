//! `palisade can`: may a caller do something, and why.

use std::path::PathBuf;

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};
use palisade_pdp::decide::Outcome;

use super::{
    Composing, Context, Exit, block_on,
    target::{self, Target},
};
use crate::{
    render::{self, Output, explanation},
    run::pdp::{Can, CanAnswer},
};

/// Arguments of `can`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Who: a service, an identity path or a SPIFFE ID.
    principal: String,
    /// Does what: a method, `grpc:call`, or a business action such as orders:refund.
    verb: String,
    /// To what: SERVICE/PATH, or a URL. May be left out with a business action.
    #[arg(default_value = "")]
    target: String,
    /// Ask this repository instead of the running mesh.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    composing: Composing,
    /// A header field, NAME=VALUE.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Address of the caller.
    #[arg(long, value_name = "IP")]
    source: Option<String>,
    /// When, as RFC 3339; now where nothing is said.
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
    /// Say which policies decided, or which came near.
    #[arg(long)]
    why: bool,
    /// Exit with 6 when the answer is not allow.
    #[arg(long)]
    exit_code: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    match block_on(ask(args, context)) {
        Ok((answer, asked)) => {
            let allowed = answer.explanation.verdict == Outcome::Allow;
            match context.output {
                Output::Json => render::json(&answer),
                Output::Human => explanation::print_can(&args.principal, &answer, &asked, args.why),
            }
            if context.output == Output::Human && !args.why {
                let question = format!("{} {} {}", args.principal, args.verb, args.target);
                let ask = format!("palisade can {} --why", question.trim_end());
                render::next(&[(ask, "which policies decided, and which clause")]);
            }
            if allowed || !args.exit_code {
                Exit::Ok
            } else {
                Exit::Denied
            }
        }
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

/// The answer, and whom it was asked of.
async fn ask(args: &Args, context: &Context) -> Result<(CanAnswer, String), Vec<Diagnostic>> {
    let question = Can {
        principal: args.principal.clone(),
        verb: args.verb.clone(),
        target: args.target.clone(),
        headers: args.headers.clone(),
        source: args.source.clone(),
        now_us: args.at.map(jiff::Timestamp::as_microsecond),
    };
    let target = Target::find((args.policies.as_deref(), &args.composing), context)
        .await
        .map_err(|d| vec![d])?;
    let name = target.name();
    let answer = match target {
        Target::Folder(dir, composing) => {
            let snapshot = target::snapshot_of(&dir, &composing).await?;
            question.answer(&snapshot, &Clock::system())?
        }
        Target::Mesh(mesh) => mesh
            .post("pdp", "/v1/pdp/can", &question)
            .await
            .map_err(|d| vec![d])?,
    };
    Ok((answer, name))
}
