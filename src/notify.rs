//! Tells the service manager how this process stands, by the protocol of `sd_notify(3)`:
//! datagrams to the unix socket that `$NOTIFY_SOCKET` names. Without one, nothing is
//! told to nobody.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

/// Where to tell.
#[derive(Debug)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the service manager has set it up in the environment of this process.
    pub fn from_environment() -> Self {
        let watched =
            env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let every = env::var("WATCHDOG_USEC")
            .ok()
            .filter(|_| watched)
            .and_then(|text| text.parse().ok())
            .map(Duration::from_micros);
        Self::new(env::var_os("NOTIFY_SOCKET"), every)
    }

    /// To the socket at `address`: a path, or a name after `@` for the abstract
    /// namespace. `watchdog` is how long the manager waits for a sign of life.
    pub fn new(address: Option<OsString>, watchdog: Option<Duration>) -> Self {
        let socket = address.and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be told how this process stands");
                None
            }
        });
        let watchdog = watchdog.filter(|every| socket.is_some() && !every.is_zero());
        Self { socket, watchdog }
    }

    /// The role serves: it has its identity, and a proxy its policy.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// What the role is doing, for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", line(status)));
    }

    /// The configuration is read again; [`Self::ready`] must follow.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
            i128::from(t.tv_sec()) * 1_000_000 + i128::from(t.tv_nsec()) / 1000
        });
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// Another process has taken over and is the main one from now on.
    pub fn succeeded(&self, pid: u32) {
        self.tell(&format!("MAINPID={pid}\nSTATUS=serving"));
    }

    /// The role ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending");
    }

    /// Gives signs of life, twice as often as they are asked for; for ever. Run beside
    /// the role on the same runtime: when that hangs, they cease.
    pub async fn watchdog(&self) {
        let Some(every) = self.watchdog else {
            return std::future::pending().await;
        };
        let mut ticks = tokio::time::interval(every / 2);
        loop {
            ticks.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(state.as_bytes()) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }
}

fn connect(address: &OsString) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    let bytes = address.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if bytes.starts_with(b"/") => SocketAddr::from_pathname(address)?,
        None => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "neither a path nor an abstract name",
            ));
        }
    };
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold a role up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A status is one line.
fn line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn states_go_to_a_path_and_to_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("palisade-test-{}", std::process::id());
        let of_name = SocketAddr::from_abstract_name(&name).unwrap();
        let managers = [
            (
                path.clone().into_os_string(),
                UnixDatagram::bind(&path).unwrap(),
            ),
            (
                format!("@{name}").into(),
                UnixDatagram::bind_addr(&of_name).unwrap(),
            ),
        ];
        for (address, manager) in managers {
            let notify = Notify::new(Some(address), None);
            notify.ready("serving\nbadly");
            assert_eq!(received(&manager), "READY=1\nSTATUS=serving badly");
            notify.reloading();
            assert!(received(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
            notify.stopping();
            assert_eq!(received(&manager), "STOPPING=1\nSTATUS=ending");
        }
    }

    #[test]
    fn without_a_manager_nothing_is_told_and_nothing_fails() {
        for address in [
            None,
            Some("relative".into()),
            Some("/nowhere/at/all".into()),
        ] {
            let notify = Notify::new(address, Some(Duration::from_secs(1)));
            notify.ready("serving");
            assert!(notify.watchdog.is_none());
        }
    }

    #[tokio::test]
    async fn signs_of_life_come_twice_as_often_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let every = Duration::from_millis(20);
        let notify = Notify::new(Some(path.into_os_string()), Some(every));
        let alive = tokio::time::timeout(Duration::from_millis(200), notify.watchdog());
        assert!(alive.await.is_err());
        for _ in 0..3 {
            assert_eq!(received(&manager), "WATCHDOG=1");
        }
    }
}
