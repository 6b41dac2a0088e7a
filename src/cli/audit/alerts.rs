//! `palisade audit alerts`: what the rules found, who answered for it, and whether they work.

use serde_json::Value;

use crate::{
    cli::{Context, Exit, block_on},
    control::client::Mesh,
    render::{self, Output, alerts},
    run::audit::{Acknowledge, Listed, Test, Tested},
};

/// What to do with alerts.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the rules, and what they found that nobody has answered for.
    List,
    /// Try a rule on what is in the log.
    Test {
        /// The rule.
        name: String,
        /// Bring a message to its targets, marked as a test.
        #[arg(long)]
        deliver: bool,
    },
    /// Answer for an alert: who and why become a record of the log.
    Ack {
        /// Its id, or the first six or more characters.
        id: String,
        /// What was found, and what was done.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

pub(super) fn main(command: Command, context: &Context) -> Exit {
    let done = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        match command {
            Command::List => {
                let listed: Listed = mesh.get("audit", "/v1/audit/alerts").await?;
                told(context, &listed, || alerts::print_list(&listed));
                Ok(Exit::Ok)
            }
            Command::Ack { id, reason } => {
                let asked = Acknowledge { id, reason };
                let open: Value = mesh.post("audit", "/v1/audit/alerts/ack", &asked).await?;
                told(context, &open, || alerts::print_acknowledged(&open));
                Ok(Exit::Ok)
            }
            Command::Test { name, deliver } => {
                let asked = Test { name, deliver };
                let tested: Tested = mesh.post("audit", "/v1/audit/alerts/test", &asked).await?;
                told(context, &tested, || {
                    alerts::print_tested(&asked.name, &tested)
                });
                let taken = tested.delivered.iter().all(|d| d.fault.is_none());
                Ok(if taken { Exit::Ok } else { Exit::Failed })
            }
        }
    });
    done.unwrap_or_else(|diagnostic| render::failed(context.output, &diagnostic))
}

fn told(context: &Context, answer: &impl serde::Serialize, print: impl FnOnce()) {
    match context.output {
        Output::Json => render::json(answer),
        Output::Human => print(),
    }
}
