//! Unix sockets, bound with care and accepted without end.

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::Stream;
use palisade_mesh::diagnostic::Diagnostic;
use tokio::net::{UnixListener, UnixStream};

/// Longest path of a unix socket on Linux, in bytes (`sun_path` without its NUL).
pub const PATH_LEN_MAX: usize = 107;
/// How long somebody who listens on the path may take to answer.
const PROBE: Duration = Duration::from_secs(1);
/// Pauses after failed accepts: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A bound socket; its file goes when it does.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("socket `{0}` is in use by another process")]
    InUse(PathBuf),
    /// The system refused.
    #[error("socket `{path}` cannot be bound: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is there, and it is not ours to remove.
    #[error("`{0}` exists and is not a socket")]
    NotASocket(PathBuf),
    /// No system call can name it.
    #[error("socket path of {len} bytes exceeds the limit of 107: `{path}`")]
    PathTooLong {
        /// Where.
        path: PathBuf,
        /// Length of the path in bytes.
        len: usize,
    },
}

impl SocketError {
    /// The error as a person should read it.
    pub fn diagnostic(&self) -> Diagnostic {
        let error = |code| Diagnostic::error(code, self.to_string());
        match self {
            Self::PathTooLong { .. } => error(4020)
                .cause("Linux allows 107 bytes in the address of a unix socket")
                .help("choose a shorter folder, such as one under `/run`"),
            Self::InUse(_) => {
                error(4021).help("stop the other process, or choose another socket path")
            }
            Self::NotASocket(_) => error(4022).help("move it away, or choose another socket path"),
            Self::Io { .. } => error(4023)
                .help("the folder must exist and be writable for the user that runs this"),
        }
    }
}

impl Socket {
    /// Binds `path` with these permission bits. A file left by a process that is
    /// gone is replaced; one that somebody listens on is not. Between bind and
    /// chmod the umask decides: put a private socket into a private folder.
    ///
    /// # Errors
    /// When the path is too long, taken, or the system refuses.
    pub async fn bind(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let len = path.as_os_str().len();
        if len > PATH_LEN_MAX {
            return Err(SocketError::PathTooLong {
                path: path.to_owned(),
                len,
            });
        }
        remove_stale(path).await?;
        let failed = |e| failed(path, e);
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed)?;
        let meta = std::fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino()),
        })
    }

    /// Where it is bound.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every connection, for ever: when accepting fails (file descriptors run out,
    /// for instance) it waits and goes on, because ending the loop would end the
    /// service (attack T95).
    pub fn incoming(self) -> impl Stream<Item = UnixStream> {
        futures_util::stream::unfold((self, PAUSE.0), |(socket, mut pause)| async move {
            loop {
                match socket.listener.accept().await {
                    Ok((stream, _)) => return Some((stream, (socket, PAUSE.0))),
                    Err(error) => {
                        tracing::warn!(%error, ?pause, "connection cannot be accepted");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE.1);
                    }
                }
            }
        })
    }
}

impl Drop for Socket {
    /// Removes the file, unless it has been replaced by somebody else's.
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(path, e)),
    };
    if !meta.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match tokio::time::timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|e| failed(path, e))
        }
        Ok(Err(e)) => Err(failed(path, e)),
        Ok(Ok(_)) | Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

fn failed(path: &Path, source: io::Error) -> SocketError {
    SocketError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_accepts_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = Socket::bind(&path, 0o600).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let mut incoming = std::pin::pin!(socket.incoming());
        let (client, server) = tokio::join!(UnixStream::connect(&path), incoming.next());
        assert!(client.is_ok() && server.is_some());
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind");
        let live = Socket::bind(&path, 0o600).await.unwrap();
        let refused = Socket::bind(&path, 0o600).await;
        assert!(matches!(refused, Err(SocketError::InUse(_))));
        drop(live);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        let refused = Socket::bind(&path, 0o600).await;
        assert!(matches!(refused, Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_path_limit_holds_on_both_sides() {
        let dir = tempfile::tempdir().unwrap();
        let room = PATH_LEN_MAX - dir.path().as_os_str().len() - 1;
        let longest = dir.path().join("s".repeat(room));
        assert!(Socket::bind(&longest, 0o600).await.is_ok());
        let longer = dir.path().join("s".repeat(room + 1));
        let refused = Socket::bind(&longer, 0o600).await;
        assert!(matches!(
            refused,
            Err(SocketError::PathTooLong { len: 108, .. })
        ));
    }
}
