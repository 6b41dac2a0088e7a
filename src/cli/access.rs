//! `palisade who-can` and `palisade what-can`: questions about many requests at once.

use std::path::PathBuf;

use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use super::{
    Composing, Context, Exit, block_on,
    target::{self, Target},
};
use crate::{
    render::{self, Output, access},
    run::access::{Answers, Asked, ROUTE},
};

/// The word for every action.
const ANY: &str = "*";

/// Arguments of `who-can`.
#[derive(Debug, clap::Args)]
pub(super) struct WhoCan {
    /// Does what: a method, `grpc:call`, a business action such as orders:refund, or `*`.
    action: String,
    /// To what: a service, an operation such as orders/refund, or a path.
    resource: String,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `what-can`.
#[derive(Debug, clap::Args)]
pub(super) struct WhatCan {
    /// Who: a service, an identity path or a SPIFFE ID.
    principal: String,
    /// Only this action: a method, `grpc:call`, or a business action.
    #[arg(long)]
    action: Option<String>,
    /// Put together what belongs to one service.
    #[arg(long, value_enum, value_name = "WHAT")]
    group_by: Option<access::GroupBy>,
    #[command(flatten)]
    place: Place,
}

/// Where to ask, and about when.
#[derive(Debug, clap::Args)]
struct Place {
    /// Ask this repository instead of the running mesh.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    composing: Composing,
    /// When, as RFC 3339: decides conditions on the clock, too. Where nothing is said,
    /// they stay open, and what has expired by now is gone.
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
}

pub(super) fn who_can(args: &WhoCan, context: &Context) -> Exit {
    let asked = Asked {
        principal: None,
        action: Some(args.action.clone()).filter(|action| action != ANY),
        resource: Some(args.resource.clone()),
        at_us: args.place.at_us(),
    };
    answer(&asked, &args.place, context, access::print_who)
}

pub(super) fn what_can(args: &WhatCan, context: &Context) -> Exit {
    let asked = Asked {
        principal: Some(args.principal.clone()),
        action: args.action.clone(),
        resource: None,
        at_us: args.place.at_us(),
    };
    let by = args.group_by;
    answer(&asked, &args.place, context, |answers, place| {
        access::print_what(answers, by, place);
    })
}

impl Place {
    fn at_us(&self) -> Option<i64> {
        self.at.map(jiff::Timestamp::as_microsecond)
    }
}

fn answer(
    asked: &Asked,
    place: &Place,
    context: &Context,
    print: impl FnOnce(&Answers, &str),
) -> Exit {
    match block_on(ask(asked, place, context)) {
        Ok((answers, _)) if context.output == Output::Json => {
            render::json(&answers);
            Exit::Ok
        }
        Ok((answers, place)) => {
            print(&answers, &place);
            Exit::Ok
        }
        Err(found) => {
            render::diagnostics(context.output, &found);
            found.first().map_or(Exit::Failed, Exit::of)
        }
    }
}

/// The answers, and whom they were asked of.
async fn ask(
    asked: &Asked,
    place: &Place,
    context: &Context,
) -> Result<(Answers, String), Vec<Diagnostic>> {
    let wanted = (place.policies.as_deref(), &place.composing);
    let found = Target::find(wanted, context).await.map_err(|d| vec![d])?;
    let name = found.name();
    let answers = match found {
        Target::Folder(dir, composing) => {
            let snapshot = target::snapshot_of(&dir, &composing).await?;
            asked.answer(&snapshot, &Clock::system())
        }
        Target::Mesh(mesh) => mesh.post("pdp", ROUTE, asked).await,
    };
    Ok((answers.map_err(|d| vec![d])?, name))
}
