//! `palisade join`: tokens for hosts that are to join, and the nodes that have.

use std::time::Duration;

use clap::ValueEnum;
use palisade_ca::join::NodeRole;
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use super::{Context, Exit, block_on, path_segment};
use crate::{
    config::span,
    control::{
        client::Mesh,
        status::{ago, ahead},
    },
    render::{
        self, BAD, DIM, GOOD, Output, WARN,
        table::{self, col},
    },
    run::network::{Ban, NewToken, NodeStatus, TokenMade, TokenStatus},
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make, list and revoke join tokens.
    #[command(subcommand)]
    Token(Token),
    /// List and ban nodes.
    #[command(subcommand)]
    Node(Node),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Token {
    /// Make a token with which one host can join once. It is printed and kept nowhere.
    Create {
        /// Name of the node that the host becomes.
        #[arg(long)]
        node: String,
        /// How long the token can be used, at most 10m.
        #[arg(long, default_value = "10m", value_parser = lifetime)]
        ttl: Duration,
        /// What the node may run; may stand several times. Every node runs an agent.
        #[arg(
            long = "role",
            value_enum,
            default_value = "proxy",
            value_delimiter = ','
        )]
        roles: Vec<Role>,
    },
    /// List tokens that can still be used.
    List,
    /// Revoke a token.
    Revoke {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Node {
    /// List the nodes.
    List,
    /// Ban a node: it gets no certificate any more, and does not come back.
    Ban {
        /// Its name.
        name: String,
        /// Why, for the record.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Role {
    /// Only the agent.
    Agent,
    /// The audit service.
    Audit,
    /// The policy decision point.
    Pdp,
    /// Workloads and their proxies.
    Proxy,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    span(text).ok_or_else(|| "expected a span of time such as `10m`".to_owned())
}

pub(super) fn main(command: &Command, context: &Context) -> Exit {
    let done = block_on(async {
        let mesh = Mesh::find(context.mesh.as_deref()).await?;
        match command {
            Command::Token(command) => token(&mesh, command, context.output).await,
            Command::Node(command) => node(&mesh, command, context.output).await,
        }
    });
    match done {
        Ok(()) => Exit::Ok,
        Err(diagnostic) => render::failed(context.output, &diagnostic),
    }
}

async fn token(mesh: &Mesh, command: &Token, output: Output) -> Result<(), Diagnostic> {
    match command {
        Token::Create { node, ttl, roles } => {
            let new = NewToken {
                node: node.clone(),
                roles: given(roles),
                ttl_s: ttl.as_secs(),
            };
            let made: TokenMade = mesh.post("ca", "/v1/ca/tokens", &new).await?;
            match output {
                Output::Json => render::json(&made),
                // Nothing but the token: it is meant for a file or a pipe.
                Output::Human => render::line(&made.token),
            }
        }
        Token::List => {
            let waiting: Vec<TokenStatus> = mesh.get("ca", "/v1/ca/tokens").await?;
            match output {
                Output::Json => render::json(&waiting),
                Output::Human => list_tokens(&waiting),
            }
        }
        Token::Revoke { id } => {
            let path = format!("/v1/ca/tokens/{}", path_segment(id));
            let () = mesh.post("ca", &path, &()).await?;
            done(output, &format!("join token {id} is revoked"));
        }
    }
    Ok(())
}

async fn node(mesh: &Mesh, command: &Node, output: Output) -> Result<(), Diagnostic> {
    match command {
        Node::List => {
            let nodes: Vec<NodeStatus> = mesh.get("ca", "/v1/ca/nodes").await?;
            match output {
                Output::Json => render::json(&nodes),
                Output::Human => list_nodes(&nodes),
            }
        }
        Node::Ban { name, reason } => {
            let why = Ban {
                reason: reason.clone(),
            };
            let path = format!("/v1/ca/nodes/{}/ban", path_segment(name));
            let () = mesh.post("ca", &path, &why).await?;
            done(output, &format!("node {name} is banned"));
        }
    }
    Ok(())
}

/// The agent is no role to give: every node runs one.
fn given(roles: &[Role]) -> Vec<NodeRole> {
    let mut given: Vec<NodeRole> = roles
        .iter()
        .filter_map(|role| match role {
            Role::Agent => None,
            Role::Audit => Some(NodeRole::Audit),
            Role::Pdp => Some(NodeRole::Pdp),
            Role::Proxy => Some(NodeRole::Proxy),
        })
        .collect();
    given.sort();
    given.dedup();
    given
}

fn done(output: Output, text: &str) {
    match output {
        Output::Json => render::json(&serde_json::json!({ "done": text })),
        Output::Human => render::line(text),
    }
}

fn list_tokens(waiting: &[TokenStatus]) {
    let clock = Clock::system();
    let mut rows = table::Table::new(&[col("ID"), col("NODE"), col("ROLES"), col("ENDS")]);
    for token in waiting {
        rows.row([
            token.id.as_str().into(),
            token.node.as_str().into(),
            words(&token.roles).into(),
            ahead(&clock, token.expires_s).into(),
        ]);
    }
    rows.print();
}

fn list_nodes(nodes: &[NodeStatus]) {
    let clock = Clock::system();
    let mut rows = table::Table::new(&[
        col(""),
        col("NODE"),
        col("ROLES"),
        col("JOINED"),
        col("STATE"),
    ]);
    for node in nodes {
        let (style, mark, state) = match (node.banned_s, node.connected) {
            (Some(at), _) => {
                let since = ago(&clock, at * 1_000_000);
                (BAD, "✗", format!("banned {since} {}", node.reason))
            }
            (None, true) => (GOOD, "✓", "follows".to_owned()),
            (None, false) => (WARN, "!", "away".to_owned()),
        };
        rows.row([
            table::styled(style, mark),
            node.name.as_str().into(),
            table::styled(DIM, words(&node.roles)),
            ago(&clock, node.joined_s * 1_000_000).into(),
            state.trim_end().to_owned().into(),
        ]);
    }
    rows.print();
}

fn words(roles: &[NodeRole]) -> String {
    let words: Vec<&str> = roles.iter().map(|r| r.as_str()).collect();
    if words.is_empty() {
        return "agent".into();
    }
    words.join(",")
}
