//! Unix sockets: who may connect is decided by the folder and the peer's uid.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
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

/// As [`listen`], but takes the path over from whoever listens there: the file is
/// replaced in one step, so that it always leads to somebody.
///
/// # Errors
/// As [`listen`].
pub async fn listen_instead(path: &Path) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let listener = listen(Path::new(&beside)).await?;
    fs::rename(&beside, path)?;
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

/// Checks that nobody else can put sockets into `folder`: the temporary folder is
/// open to all, and who is first there may make a folder under our name.
///
/// # Errors
/// `PermissionDenied` when it is a link, of another user, or writable for others.
pub fn check_private(folder: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(folder)?;
    let uid = nix::unistd::geteuid().as_raw();
    let ours = uid == 0 || [uid, 0].contains(&meta.uid());
    if meta.is_dir() && ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let message = format!(
        "others may write to `{}` (owner {}, mode {:04o})",
        folder.display(),
        meta.uid(),
        meta.mode() & 0o7777
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_write_is_not_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("palisade");
        private_folder(&folder).unwrap();
        assert!(check_private(&folder).is_ok());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(check_private(&folder).is_ok());
        for open in [0o777, 0o1777, 0o770] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(open)).unwrap();
            // It is there already, so making it changes nothing.
            private_folder(&folder).unwrap();
            let refused = check_private(&folder).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(check_private(&link).is_err());
    }
}
