//! The next process of a running proxy: started with its listening sockets, and given
//! the word when it is ready.
//!
//! Until then nothing has changed: a new process that does not become ready in time is
//! ended, and the old one goes on. Both hold the lock on the state folder meanwhile.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::{fd::RawFd, unix::net::UnixStream},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use palisade_mesh::diagnostic::Diagnostic;
use palisade_proxy::Sockets;
use tokio::process::{Child, Command};

use super::Core;
use crate::{
    config::RecordTarget,
    net::inherited::{HANDOVER, bequeath},
};

/// How long the next process may take to become ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// What it says then.
const READY: &[u8] = b"ready\n";

/// How this process was started, and how the next one is.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Launch {
    /// As this process was started. `None` when that cannot be told.
    pub fn of_this_process() -> Option<Self> {
        Some(Self {
            program: std::env::current_exe().ok()?,
            arguments: std::env::args_os().skip(1).collect(),
        })
    }
}

/// Starts the next process and waits until it serves; gives its id.
///
/// # Errors
/// `PLS5323` when this proxy cannot be replaced so, `PLS5325` when the binary does not
/// start, `PLS5324` when it does not become ready. This proxy goes on then.
pub(super) async fn start_next(core: &Core, binary: Option<PathBuf>) -> Result<u32, Diagnostic> {
    let mut launch = core.launch.clone().ok_or_else(|| {
        impossible("it ends with the process that started it, such as `palisade demo`")
    })?;
    if matches!(core.section().records, RecordTarget::Log(_)) {
        return Err(impossible(
            "it writes a log of its own, which only one process can",
        ));
    }
    if core.running().is_leaving() {
        return Err(impossible("it is draining"));
    }
    if let Some(binary) = binary {
        launch.program = binary;
    }
    let failed = |why: String| {
        Diagnostic::error(5324, "the new process did not become ready")
            .cause(why)
            .help("this proxy goes on as before; see the log of the new process")
    };
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    let mut child = spawn(core, &launch, theirs)?;
    let said = tokio::task::spawn_blocking(move || {
        let mut said = [0; READY.len()];
        ours.set_read_timeout(Some(READY_MAX))?;
        (&ours).read_exact(&mut said)?;
        Ok::<_, io::Error>((said == READY, ours))
    });
    let ready = match said.await {
        Ok(Ok((true, word))) => {
            // Closed by the end of this process: then the other takes what it left.
            core.keep_word(word);
            return child.id().ok_or_else(|| failed("it has ended".to_owned()));
        }
        Ok(Ok((false, _))) => "it said something else".to_owned(),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let status = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
            status.map_or_else(
                |_| "it closed the connection".to_owned(),
                |ended| ended.map_or_else(|e| e.to_string(), |s| format!("it ended: {s}")),
            )
        }
        Ok(Err(error)) if is_timeout(&error) => {
            format!("it said nothing for {} s", READY_MAX.as_secs())
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let _ = child.kill().await;
    Err(failed(ready))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Copies of what is handed over; they are closed here once the child has its own.
struct Bequest {
    sockets: Sockets,
    lock: File,
    word: UnixStream,
}

impl Bequest {
    fn describe(&self) -> io::Result<String> {
        let mut parts = vec![format!("from={}", std::process::id())];
        let mut add = |name: &str, number: RawFd| parts.push(format!("{name}={number}"));
        let Sockets {
            inbound,
            outbound,
            admin,
        } = &self.sockets;
        let doors: [(&str, &[TcpListener]); 3] = [
            ("inbound", inbound),
            ("outbound", outbound),
            ("admin", admin),
        ];
        for (name, sockets) in doors {
            for socket in sockets {
                add(name, bequeath(socket)?);
            }
        }
        add("lock", bequeath(&self.lock)?);
        add("word", bequeath(&self.word)?);
        Ok(parts.join(","))
    }
}

fn spawn(core: &Core, launch: &Launch, word: UnixStream) -> Result<Child, Diagnostic> {
    let failed = |why: io::Error| {
        let program = launch.program.display();
        Diagnostic::error(5325, format!("`{program}` cannot be started"))
            .cause(why.to_string())
            .help("this proxy goes on as before; name a binary that can be run: --binary PATH")
    };
    let bequest = Bequest {
        sockets: core.running().sockets().map_err(failed)?,
        lock: core.lock.try_clone().map_err(failed)?,
        word,
    };
    let described = bequest.describe().map_err(failed)?;
    Command::new(&launch.program)
        .args(&launch.arguments)
        .env(HANDOVER, described)
        // It names the process before; its successor is to give signs of life as well.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .spawn()
        .map_err(failed)
}

/// Tells the process before that this one is ready.
///
/// # Errors
/// What the system says; then that process has ended.
pub(super) fn say_ready(mut word: &UnixStream) -> io::Result<()> {
    word.write_all(READY)
}

fn impossible(why: &str) -> Diagnostic {
    Diagnostic::error(5323, "this proxy cannot be replaced while it runs")
        .cause(why.to_owned())
        .help("restart it instead; clients are told to wait by its drain")
}
