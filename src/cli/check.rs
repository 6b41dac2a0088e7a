//! `palisade check`: what is wrong with the running mesh, and how to mend it.

use super::{Context, Exit, FailOn, block_on};
use crate::{
    control::{
        api::{Fact, FactState},
        client::Mesh,
    },
    render::{self, Output},
};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What makes the command fail.
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
}

pub(super) fn main(args: &Args, context: &Context) -> Exit {
    let facts = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        let mut facts = Vec::new();
        for role in ["ca", "agent", "pdp", "proxy", "audit"] {
            for more in mesh
                .get_all::<Vec<Fact>>(role, &format!("/v1/{role}/check"))
                .await?
            {
                facts.extend(more);
            }
        }
        for role in ["ca", "agent", "pdp"] {
            let path = format!("/v1/{role}/records");
            facts.extend(mesh.get_all::<Vec<Fact>>(role, &path).await?.concat());
        }
        facts.extend(unseen(&mesh));
        Ok(facts)
    });
    let facts = match facts {
        Ok(facts) => facts,
        Err(diagnostic) => return render::failed(context.output, &diagnostic),
    };
    let count = |state| facts.iter().filter(|f| f.state == state).count();
    let (errors, warnings) = (count(FactState::Error), count(FactState::Warning));
    match context.output {
        Output::Json => render::json(&facts),
        Output::Human => print(&facts, errors, warnings),
    }
    match (errors, warnings, args.fail_on) {
        (0, 0, _) | (0, _, FailOn::Error) => Exit::Ok,
        (0, _, FailOn::Warn) => Exit::Warnings,
        _ => Exit::Failed,
    }
}

/// Roles of which nobody answers. They may run elsewhere, or not at all: without a
/// word about them, a mesh whose control plane is gone would be in order.
fn unseen(mesh: &Mesh) -> impl Iterator<Item = Fact> {
    let runs = |role: &str| mesh.processes().any(|p| p.roles.iter().any(|r| r == role));
    let roles = ["ca", "agent", "pdp", "audit"];
    roles
        .into_iter()
        .filter(move |role| !runs(role))
        .map(|role| Fact::unknown("elsewhere", format!("no process here answers for `{role}`")))
}

fn print(facts: &[Fact], errors: usize, warnings: usize) {
    let mut group = "";
    for fact in facts {
        if fact.group != group {
            group = &fact.group;
            render::line(&render::strong(group));
        }
        let (style, mark) = match fact.state {
            FactState::Ok => (render::GOOD, "✓"),
            FactState::Warning => (render::WARN, "!"),
            FactState::Error => (render::BAD, "✗"),
            FactState::Unknown => (render::DIM, "?"),
        };
        let code = fact
            .code
            .map(|c| format!("  PLS{c:04}"))
            .unwrap_or_default();
        render::line(&format!(
            "  {} {}{}",
            render::paint(style, mark),
            fact.text,
            render::paint(render::DIM, code)
        ));
        for (word, text) in [("cause", &fact.cause), ("fix", &fact.fix)] {
            if let Some(text) = text {
                render::line(&format!(
                    "      {}  {text}",
                    render::paint(render::NAME, format!("{word:<5}"))
                ));
            }
        }
    }
    let verdict = match (errors, warnings) {
        (0, 0) if facts.iter().any(|f| f.state == FactState::Unknown) => {
            render::paint(render::GOOD, "what can be seen from here is in order")
        }
        (0, 0) => render::paint(render::GOOD, "everything is in order"),
        (0, w) => render::paint(render::WARN, render::count(w, "warning", "warnings")),
        (e, w) => render::paint(
            render::BAD,
            format!(
                "{}, {}",
                render::count(e, "error", "errors"),
                render::count(w, "warning", "warnings")
            ),
        ),
    };
    render::line(&format!("result: {verdict}"));
}
