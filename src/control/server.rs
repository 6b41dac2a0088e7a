//! Serves the local socket.
//!
//! Each role contributes its own routes; a process merges those of the roles it
//! runs. A peer whose uid is neither ours nor root's is refused before any route.

use std::{
    fmt, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, connect_info::Connected},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
    serve::IncomingStream,
};
use palisade_mesh::diagnostic::Diagnostic;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{About, api::Problem};
use crate::net::uds;

/// Who is at the other end of a local connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerUid(Option<u32>);

/// As records name the author of a change.
impl fmt::Display for PeerUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(uid) => write!(f, "uid:{uid}"),
            None => f.write_str("uid:unknown"),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for PeerUid {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|c| c.uid()))
    }
}

/// The socket's file, which is removed with the value: by whoever ends the process,
/// because nobody waits for the task that serves. One that another process has put in
/// its place stays.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        Self {
            inode: inode(&path),
            path,
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    Some(std::fs::symlink_metadata(path).ok()?.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path) == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Serves `routes` and `/v1/about` on the socket of this process until `stop`. With
/// `take_over`, another process may still answer there; this one does from now on.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve(
    about: About,
    process: &str,
    routes: Router,
    stop: CancellationToken,
    take_over: bool,
) -> io::Result<SocketFile> {
    let path = super::socket(&about.mesh, process);
    let folder = super::folder();
    uds::private_folder(&folder)?;
    uds::check_private(&folder)?;
    let listener = match take_over {
        false => uds::listen(&path).await?,
        true => uds::listen_instead(&path).await?,
    };
    let app = Router::new()
        .route("/v1/about", get(move || async move { Json(about) }))
        .merge(routes)
        .fallback(|| async { Problem::from(unknown_route()).into_response() })
        .layer(middleware::from_fn(only_our_user))
        .into_make_service_with_connect_info::<PeerUid>();
    tokio::spawn(async move {
        let ended = axum::serve(listener, app)
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .await;
        if let Err(error) = ended {
            error!(%error, "control socket failed");
        }
    });
    Ok(SocketFile::new(path))
}

async fn only_our_user(
    ConnectInfo(PeerUid(uid)): ConnectInfo<PeerUid>,
    request: Request,
    next: Next,
) -> Response {
    let ours = nix::unistd::getuid().as_raw();
    match uid {
        Some(uid) if uid == ours || uid == 0 => next.run(request).await,
        _ => Problem::from(
            Diagnostic::error(9106, "this mesh belongs to another user")
                .cause(format!("it runs as uid {ours}, you are {uid:?}"))
                .help("run the command as that user, or as root"),
        )
        .into_response(),
    }
}

fn unknown_route() -> Diagnostic {
    Diagnostic::error(9107, "the running mesh does not know this question")
        .cause("the command and the mesh may be of different versions")
        .help("compare: palisade --version, and palisade status")
}
