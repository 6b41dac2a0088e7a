//! This host as a node: whether it is one, and with which token it becomes one.

use std::{fs, path::PathBuf, sync::Arc};

use palisade_ca::{
    agent::node::{Node, NodeConfig},
    join::token::{JoinToken, TOKEN_LEN_MAX},
    selector::Selector,
};
use palisade_mesh::{clock::Clock, diagnostic::Diagnostic};

use crate::{config::Config, net::authority::ToAuthority};

/// Name of systemd's credential with the token.
const CREDENTIAL: &str = "join-token";
/// Environment variable with the token itself.
const VARIABLE: &str = "PALISADE_JOIN_TOKEN";

/// Becomes the node that this host is to be; none where it is not to join.
///
/// # Errors
/// What only a person can mend.
pub(super) async fn node(
    config: &Config,
    clock: &Clock,
) -> Result<Option<Arc<Node>>, Vec<Diagnostic>> {
    let state_dir = config.state_dir.join("node");
    let section = config.agent.as_ref().and_then(|a| a.join.clone());
    let has_joined = state_dir.join("node.json").exists();
    let token = match read_token(section.as_ref().and_then(|s| s.token_file.clone())) {
        // A token that is gone after it was spent is as it should be.
        Err(_) if has_joined => None,
        other => other.map_err(|d| vec![d])?,
    };
    if section.is_none() && token.is_none() && !has_joined {
        return Ok(None);
    }
    let section = section.unwrap_or_default();
    let of_node = NodeConfig {
        trust_domain: config.trust_domain.clone(),
        state_dir,
        name: section.node,
        token,
        authority: section.ca.map(|a| a.to_string()),
    };
    let doors = Arc::new(ToAuthority::new(clock.clone()));
    let node = Node::start(of_node, doors, clock.clone()).await;
    node.map(Some).map_err(|d| vec![d])
}

/// What a process of this program shows to this agent: the roles that the node was
/// given are registered by that.
pub(super) fn own_selectors() -> Vec<Selector> {
    let uid = Selector::Uid(nix::unistd::getuid().as_raw());
    let path = std::env::current_exe().ok();
    let path = path.map(|p| Selector::Path(p.display().to_string()));
    // Without the path every process of the user would be a part of the mesh.
    path.map_or_else(Vec::new, |path| vec![uid, path])
}

fn read_token(file: Option<PathBuf>) -> Result<Option<JoinToken>, Diagnostic> {
    let credential = || {
        let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
        let path = folder.join(CREDENTIAL);
        path.exists().then_some(path)
    };
    let text = match file.or_else(credential) {
        Some(path) => read(&path)?,
        None => match std::env::var(VARIABLE) {
            Ok(text) => text,
            Err(_) => return Ok(None),
        },
    };
    JoinToken::parse(&text).map(Some)
}

fn read(path: &std::path::Path) -> Result<String, Diagnostic> {
    let unreadable = |why: String| {
        Diagnostic::error(4110, format!("`{}` holds no join token", path.display()))
            .cause(why)
            .help("where the authority runs: palisade join token create --node NAME > FILE")
    };
    let len = fs::metadata(path)
        .map_err(|e| unreadable(e.to_string()))?
        .len();
    if len > TOKEN_LEN_MAX as u64 + 2 {
        return Err(unreadable(format!("it has {len} bytes")));
    }
    fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))
}
