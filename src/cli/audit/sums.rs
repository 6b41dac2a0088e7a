//! `palisade audit facets`, `timeline` and `gaps`: summaries of the log.

use serde::Serialize;
use serde_json::Value;

use super::saved;
use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{self, Output, summaries},
    run::audit::{Facets, Gaps, Timeline},
};

/// Arguments of `audit facets`.
#[derive(Debug, clap::Args)]
pub(crate) struct FacetsArgs {
    /// The query; all decisions where nothing is said.
    query: Vec<String>,
    /// Fields to count, such as `principal,status`; the usual ones where nothing is said.
    #[arg(long, value_delimiter = ',')]
    by: Vec<String>,
    /// Values of each field.
    #[arg(short = 'n', long, default_value_t = 5)]
    top: usize,
}

/// Arguments of `audit timeline`.
#[derive(Debug, clap::Args)]
pub(crate) struct TimelineArgs {
    /// The query; all decisions where nothing is said.
    query: Vec<String>,
    /// Length of a step, such as 30s, 5m, 1h, 1d; some 60 steps where nothing is said.
    #[arg(long)]
    step: Option<String>,
    /// A field whose values are told apart, such as `decision`.
    #[arg(long)]
    by: Option<String>,
    /// How many of its values.
    #[arg(short = 'n', long)]
    top: Option<usize>,
}

/// Arguments of `audit gaps`.
#[derive(Debug, clap::Args)]
pub(crate) struct GapsArgs {
    /// The time whose losses are listed, such as `last:7d`; gaps that are open now always are.
    time: Vec<String>,
}

pub(super) fn facets(args: FacetsArgs, context: &Context) -> Exit {
    let query = match saved::query(&args.query) {
        Ok(query) => query,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    let asked = Facets {
        query,
        by: args.by,
        top: Some(args.top),
    };
    ask(context, "facets", &asked, summaries::print_facets)
}

pub(super) fn timeline(args: TimelineArgs, context: &Context) -> Exit {
    let query = match saved::query(&args.query) {
        Ok(query) => query,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    let asked = Timeline {
        query,
        step: args.step,
        by: args.by,
        top: args.top,
    };
    ask(context, "timeline", &asked, summaries::print_timeline)
}

pub(super) fn gaps(args: GapsArgs, context: &Context) -> Exit {
    let asked = Gaps {
        query: args.time.join(" "),
    };
    ask(context, "gaps", &asked, render::gaps::print)
}

fn ask(context: &Context, what: &str, asked: &impl Serialize, print: fn(&Value)) -> Exit {
    let answer = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let path = format!("/v1/audit/{what}");
        mesh.post::<Value>("audit", &path, asked).await
    });
    match answer {
        Ok(answer) => {
            match context.output {
                Output::Json => render::json(&answer),
                Output::Human => print(&answer),
            }
            Exit::Ok
        }
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}
