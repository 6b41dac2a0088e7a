//! Unix sockets: who may connect is decided by the folder and the peer's uid.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// Longest path of a unix socket on Linux, without the closing NUL.
pub const PATH_LEN_MAX: usize = 107;

/// Binds `path` with mode 0600 in a folder of mode 0700 that it makes if needed.
///
/// A socket file that nobody listens on is replaced; one that somebody answers
/// on is left alone.
///
/// # Errors
/// `AddrInUse` when somebody listens there, `InvalidInput` when the path is longer
/// than [`PATH_LEN_MAX`], else what the system says.
pub async fn listen(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > PATH_LEN_MAX {
        let message = format!(
            "socket path `{}` is longer than {PATH_LEN_MAX} bytes",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            let message = format!("`{}` is in use by another process", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Makes `folder` with mode 0700 where it does not exist.
///
/// # Errors
/// What the system says.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// A gRPC channel over a unix socket; connects when first used, and again after a loss.
pub fn channel(path: &Path) -> Channel {
    let path = path.to_path_buf();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}
