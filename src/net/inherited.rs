//! Descriptors that this process was started with: listening sockets of the process
//! before it (an upgrade), or of systemd (socket activation).
//!
//! An upgrade says in `PALISADE_HANDOVER` what it hands over and who it is, as in
//! `from=4711,inbound=9,inbound=10,lock=11,word=12`; systemd uses `LISTEN_PID`,
//! `LISTEN_FDS` and `LISTEN_FDNAMES` (`sd_listen_fds(3)`). Both are taken once, at the
//! start; a variable that was meant for another process is ignored.

use std::{
    env,
    fs::File,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    os::unix::net::UnixStream,
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use palisade_mesh::diagnostic::Diagnostic;
use palisade_proxy::Sockets;

/// What an upgrade hands over, and from whom.
pub const HANDOVER: &str = "PALISADE_HANDOVER";
/// Number of the first descriptor that systemd passes.
const LISTEN_FDS_START: RawFd = 3;
/// Most descriptors that are taken.
pub const INHERITED_MAX: usize = 4096;

/// What was taken.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listening sockets, by the listener they belong to.
    pub sockets: Sockets,
    /// From the process before, when this is an upgrade.
    pub handover: Option<Handover>,
    /// Whether the sockets are systemd's.
    pub activated: bool,
}

/// The other end of an upgrade.
#[derive(Debug)]
pub struct Handover {
    /// The lock on the state folder, which both hold.
    pub lock: File,
    /// Told when this process is ready; ends with the process before.
    pub word: UnixStream,
}

impl Inherited {
    /// Takes what the environment names.
    ///
    /// # Errors
    /// `PLS5322` when it names what is not there, or what nobody knows.
    pub fn take() -> Result<Self, Diagnostic> {
        let of_upgrade = env::var(HANDOVER).ok();
        if let Some(text) = of_upgrade
            && let Some(named) = named_by_upgrade(&text)?
        {
            return Self::collect(named);
        }
        let variable = |name| env::var(name).ok();
        let named = named_by_systemd(
            variable("LISTEN_PID").as_deref(),
            variable("LISTEN_FDS").as_deref(),
            variable("LISTEN_FDNAMES").as_deref(),
        )?;
        let mut inherited = Self::collect(named)?;
        inherited.activated = !inherited.is_empty();
        Ok(inherited)
    }

    fn is_empty(&self) -> bool {
        let Sockets {
            inbound,
            outbound,
            admin,
        } = &self.sockets;
        inbound.is_empty() && outbound.is_empty() && admin.is_empty()
    }

    /// Addresses that are listened on, each with its listener's name.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let Sockets {
            inbound,
            outbound,
            admin,
        } = &self.sockets;
        [
            ("inbound", inbound),
            ("outbound", outbound),
            ("admin", admin),
        ]
        .into_iter()
        .flat_map(|(name, sockets)| {
            let at = sockets.iter().filter_map(|s| s.local_addr().ok());
            at.map(move |at| (name, at))
        })
        .collect()
    }

    fn collect(named: Vec<(String, RawFd)>) -> Result<Self, Diagnostic> {
        let mut inherited = Self::default();
        let (mut lock, mut word) = (None, None);
        for (name, number) in named {
            let owned = take(number).map_err(|e| broken(&format!("descriptor {number}: {e}")))?;
            let sockets = &mut inherited.sockets;
            match name.as_str() {
                "inbound" => sockets.inbound.push(listening(owned)?),
                "outbound" => sockets.outbound.push(listening(owned)?),
                "admin" => sockets.admin.push(listening(owned)?),
                "lock" => lock = Some(File::from(owned)),
                "word" => word = Some(UnixStream::from(owned)),
                other => {
                    return Err(broken(&format!(
                        "`{other}` is none of `inbound`, `outbound` and `admin`"
                    )));
                }
            }
        }
        inherited.handover = lock.zip(word).map(|(lock, word)| Handover { lock, word });
        Ok(inherited)
    }
}

fn named_by_upgrade(text: &str) -> Result<Option<Vec<(String, RawFd)>>, Diagnostic> {
    let mut named = Vec::new();
    let mut from = None;
    for part in text.split(',') {
        let (name, number) = part
            .split_once('=')
            .and_then(|(name, number)| Some((name, number.parse::<RawFd>().ok()?)))
            .ok_or_else(|| broken(&format!("{HANDOVER} is `{text}`")))?;
        match name {
            "from" => from = Some(number),
            name => named.push((name.to_owned(), number)),
        }
    }
    let parent = nix::unistd::getppid().as_raw();
    Ok((from == Some(parent)).then_some(named))
}

fn named_by_systemd(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> Result<Vec<(String, RawFd)>, Diagnostic> {
    let own = std::process::id().to_string();
    let (Some(count), true) = (count, pid == Some(&own)) else {
        return Ok(Vec::new());
    };
    let count = count
        .parse::<usize>()
        .ok()
        .filter(|n| *n <= INHERITED_MAX)
        .ok_or_else(|| broken(&format!("LISTEN_FDS is `{count}`")))?;
    let names = names.filter(|n| !n.is_empty()).unwrap_or("unknown");
    let mut names = names.split(':');
    let numbers = LISTEN_FDS_START..;
    Ok(numbers
        .take(count)
        .map(|number| (names.next().unwrap_or("unknown").to_owned(), number))
        .collect())
}

/// Takes an open descriptor by its number; it does not go to children by itself any
/// more.
#[expect(
    unsafe_code,
    reason = "a number in the environment is how descriptors are inherited; std has no safe door for it"
)]
fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number < LISTEN_FDS_START {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: the number came from the environment, for this process alone, so that it
    // has been taken since the process began and nothing else here owns it; each is
    // taken once. Should it not be open after all, the next call says so, touches
    // nothing, and it is forgotten.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(owned),
        Err(error) => {
            // Nothing of ours: there is nothing to close.
            std::mem::forget(owned);
            Err(error.into())
        }
    }
}

fn listening(owned: OwnedFd) -> Result<TcpListener, Diagnostic> {
    use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
    match getsockopt(&owned, AcceptConn) {
        Ok(true) => Ok(TcpListener::from(owned)),
        _ => Err(broken("a descriptor is no listening socket")),
    }
}

/// Lets a descriptor go to the next child that is started; gives its number. Whoever
/// calls this starts no other child meanwhile.
///
/// # Errors
/// What the system says.
pub fn bequeath(descriptor: &impl AsFd) -> io::Result<RawFd> {
    let borrowed = descriptor.as_fd();
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(borrowed.as_raw_fd())
}

fn broken(why: &str) -> Diagnostic {
    Diagnostic::error(5322, "sockets that were handed over cannot be used")
        .cause(why.to_owned())
        .help("name them in the socket unit: FileDescriptorName=inbound, outbound or admin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_meant_for_this_process_is_taken() {
        let own = std::process::id().to_string();
        let of = |pid: &str, count, names| named_by_systemd(Some(pid), Some(count), names);
        assert!(of("1", "2", None).unwrap().is_empty());
        let named = of(&own, "2", Some("inbound:admin")).unwrap();
        assert_eq!(named, [("inbound".into(), 3), ("admin".into(), 4)]);
        assert_eq!(of(&own, "1", None).unwrap(), [("unknown".into(), 3)]);
        for wrong in ["-1", "x", "4097"] {
            assert_eq!(of(&own, wrong, None).unwrap_err().code.0, 5322);
        }
        assert_eq!(of(&own, "4096", None).unwrap().len(), INHERITED_MAX);
        let parent = nix::unistd::getppid().as_raw();
        let text = format!("from={parent},inbound=9,lock=11");
        let named = named_by_upgrade(&text).unwrap().unwrap();
        assert_eq!(named, [("inbound".into(), 9), ("lock".into(), 11)]);
        assert_eq!(named_by_upgrade("from=1,inbound=9").unwrap(), None);
        assert!(named_by_upgrade("inbound").is_err());
    }

    #[test]
    fn a_bequeathed_socket_is_taken_by_its_number() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let number = bequeath(&listener).unwrap();
        // From here on it belongs to whoever takes it.
        std::mem::forget(listener);
        let taken = Inherited::collect(vec![("inbound".into(), number)]).unwrap();
        assert_eq!(taken.addresses(), [("inbound", address)]);
        for (name, number) in [("inbound", 1), ("inbound", 1_000_000), ("other", 1_000_000)] {
            assert!(Inherited::collect(vec![(name.into(), number)]).is_err());
        }
    }
}
