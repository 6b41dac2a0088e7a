//! Attestation: what the kernel says about the process behind a connection.
//!
//! Credentials are taken when the connection is accepted, with a pidfd where the
//! kernel has one (6.5 and later) and the process' start time everywhere: a pid
//! that is used again names another start, or a dead pidfd. Both are checked before
//! and after the selectors are gathered, so the answer is about one process or
//! there is none.
//!
//! A path counts only where it names the same file for the agent: in a mount
//! namespace of its own, any process can put its program anywhere.
//!
//! Limits, to be known: root on this host can become any workload of it; a path is
//! the caller's view of its file system, so prefer a digest; a socket handed to
//! another process keeps the credentials of the one that connected.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;
use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt},
};
use tokio::{net::UnixStream, sync::Semaphore};

use crate::selector::Selector;

/// Largest executable that is hashed, in bytes; larger ones have no digest.
const EXECUTABLE_LEN_MAX: u64 = 1024 * 1024 * 1024;
/// Executables hashed at the same time: hashing is work a caller can cause.
const HASHING_MAX: usize = 2;
/// Digests remembered; at the limit all are forgotten.
const DIGESTS_MAX: usize = 1024;
/// What the kernel appends to the path of an executable that was removed.
const DELETED: &str = " (deleted)";

/// Why a caller could not be attested.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It became another program while it was looked at.
    #[error("process {0} changed while it was attested")]
    Changed(i32),
    /// The kernel does not tell.
    #[error("peer credentials are not available: {0}")]
    Credentials(io::Error),
    /// It is gone, or its pid is another's now.
    #[error("process {0} is gone")]
    Gone(i32),
    /// It lives in a pid namespace that we cannot see into.
    #[error("caller has no pid in this namespace")]
    NoPid,
}

/// A process that connected.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    uid: u32,
    gid: u32,
    started: u64,
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// Reads who is behind `stream`, at once after it was accepted.
    pub(super) fn of(stream: &UnixStream) -> Result<Self, AttestError> {
        let peer = stream.peer_cred().map_err(AttestError::Credentials)?;
        let pid = peer
            .pid()
            .filter(|pid| *pid > 0)
            .ok_or(AttestError::NoPid)?;
        let process = Self {
            pid,
            uid: peer.uid(),
            gid: peer.gid(),
            started: start_time(pid).ok_or(AttestError::Gone(pid))?,
            pidfd: pidfd(stream, pid)?,
        };
        process.check_alive()?;
        Ok(process)
    }

    /// Effective user when it connected.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Everything that can be said about it now; the digest of its executable only
    /// `with_digest`.
    pub(super) async fn attest(
        &self,
        with_digest: bool,
        digests: &Digests,
    ) -> Result<Attested, AttestError> {
        self.check_alive()?;
        let mut selectors = vec![Selector::Uid(self.uid), Selector::Gid(self.gid)];
        let mut program = None;
        match Executable::of(self.pid) {
            Ok(executable) => {
                program = Some((executable.identity.device, executable.identity.inode));
                selectors.extend(executable.path.clone().map(Selector::Path));
                if with_digest {
                    let digest = digests.of(&executable).await;
                    selectors.extend(digest.map(Selector::Sha256));
                }
                // An exec keeps pid and start time, but not the executable.
                let again = Executable::of(self.pid).map_err(|_| AttestError::Gone(self.pid))?;
                if again.path != executable.path || again.identity != executable.identity {
                    return Err(AttestError::Changed(self.pid));
                }
            }
            Err(error) => {
                tracing::debug!(
                    pid = self.pid,
                    %error,
                    "executable cannot be read; reading another user's needs CAP_SYS_PTRACE"
                );
            }
        }
        self.check_alive()?;
        Ok(Attested { selectors, program })
    }

    fn check_alive(&self) -> Result<(), AttestError> {
        let held = self
            .pidfd
            .as_ref()
            .is_none_or(|fd| pid_of(fd) == Some(self.pid));
        if held && start_time(self.pid) == Some(self.started) {
            Ok(())
        } else {
            Err(AttestError::Gone(self.pid))
        }
    }
}

/// What a process was found to be.
#[derive(Debug, Clone)]
pub(super) struct Attested {
    pub(super) selectors: Vec<Selector>,
    /// Device and inode of its program, which stay taken while it runs.
    program: Option<(u64, u64)>,
}

impl Attested {
    /// Takes a later attestation of the same process; `None` if it runs another
    /// program by now. Of the same program the first path counts: an upgrade that
    /// puts a new file in its place must not cost the running process its identity.
    pub(super) fn renewed(&self, later: Self) -> Option<Self> {
        if self.program != later.program {
            return None;
        }
        let is_digest = |s: &Selector| matches!(s, Selector::Sha256(_));
        let first = self.selectors.iter().filter(|s| !is_digest(s)).cloned();
        let digest = later.selectors.into_iter().filter(is_digest);
        Some(Self {
            selectors: first.chain(digest).collect(),
            program: self.program,
        })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {} uid {} gid {}", self.pid, self.uid, self.gid)
    }
}

/// The pidfd of the peer, taken by the kernel when it connected; `None` on kernels
/// without it.
fn pidfd(stream: &UnixStream, pid: i32) -> Result<Option<OwnedFd>, AttestError> {
    match getsockopt(&stream.as_fd(), sockopt::PeerPidfd) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOPROTOOPT) => Ok(None),
        Err(_) => Err(AttestError::Gone(pid)),
    }
}

/// The pid behind a pidfd; -1 and thus `None` once the process has been reaped.
fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Start of a process in clock ticks since boot: field 22 of its `stat`. Its second
/// field is the name, in parentheses, and may hold any byte.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|b| *b == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The program a process runs.
struct Executable {
    file: File,
    /// As the process sees it; `None` when it was removed or is not UTF-8.
    path: Option<String>,
    identity: Identity,
}

/// Tells one content of a file from another. The change time is part of it, since
/// an owner can set the modification time back but not that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

/// Whether `path` names this very file here. In a mount namespace of its own,
/// which needs no privilege, a process gives its program any path it likes.
fn names(path: &str, program: &Metadata) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|here| (here.dev(), here.ino()) == (program.dev(), program.ino()))
}

impl Executable {
    fn of(pid: i32) -> io::Result<Self> {
        let link = format!("/proc/{pid}/exe");
        // Opened first: what the link names may change, what is open does not.
        let file = File::open(&link)?;
        let meta = file.metadata()?;
        let path = std::fs::read_link(&link)?;
        Ok(Self {
            path: path
                .to_str()
                .filter(|p| p.starts_with('/') && !p.ends_with(DELETED) && names(p, &meta))
                .map(str::to_owned),
            identity: Identity {
                device: meta.dev(),
                inode: meta.ino(),
                len: meta.len(),
                modified_ns: (meta.mtime(), meta.mtime_nsec()),
                changed_ns: (meta.ctime(), meta.ctime_nsec()),
            },
            file,
        })
    }
}

/// Digests of executables, computed once for each content.
#[derive(Debug)]
pub(super) struct Digests {
    known: Mutex<HashMap<Identity, [u8; 32]>>,
    hashing: Arc<Semaphore>,
}

impl Default for Digests {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            hashing: Arc::new(Semaphore::new(HASHING_MAX)),
        }
    }
}

impl Digests {
    /// SHA-256 of an executable; `None` when it is too large or cannot be read.
    async fn of(&self, executable: &Executable) -> Option<[u8; 32]> {
        let identity = executable.identity;
        if identity.len > EXECUTABLE_LEN_MAX {
            tracing::warn!(len = identity.len, "executable is too large to be hashed");
            return None;
        }
        if let Some(digest) = self.known(|known| known.get(&identity).copied()) {
            return Some(digest);
        }
        let permit = self.hashing.clone().acquire_owned().await.ok()?;
        let file = executable.file.try_clone().ok()?;
        let digest = tokio::task::spawn_blocking(move || {
            let digest = sha256(file);
            drop(permit);
            digest
        })
        .await
        .ok()?
        .ok()?;
        self.known(|known| {
            if known.len() >= DIGESTS_MAX {
                known.clear();
            }
            known.insert(identity, digest);
        });
        Some(digest)
    }

    fn known<T>(&self, look: impl FnOnce(&mut HashMap<Identity, [u8; 32]>) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn sha256(file: File) -> io::Result<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    let mut file = file.take(EXECUTABLE_LEN_MAX);
    loop {
        let len = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..len).filter(|r| !r.is_empty()) else {
            break;
        };
        context.update(read);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

#[cfg(test)]
mod tests;
