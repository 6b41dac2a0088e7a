//! `palisade run proxy -- COMMAND`: the application as a child of its proxy, which
//! starts when the proxy can decide and ends it all when it ends.

use std::{ffi::OsString, io, process::ExitStatus};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use palisade_mesh::diagnostic::Diagnostic;
use tokio::{
    process::Command,
    signal::unix::{self, SignalKind},
    sync::mpsc,
};

/// Signals that the command gets in our place; what asks us to end is told apart.
const FORWARDED: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];
/// What the service manager told us is not for the command.
const OURS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];
/// Exit codes of a command that a signal ended begin above this, as in a shell.
const SIGNALLED: i32 = 128;

/// Runs `command` with `environment` added, until it ends; signals go on to it.
/// When `told` resolves it is asked to end, by SIGTERM. Gives the exit code to end with.
///
/// # Errors
/// `PLS9212` when it cannot be started.
pub(super) async fn run(
    command: &[OsString],
    environment: &[(&str, String)],
    told: impl Future<Output = ()>,
) -> Result<i32, Diagnostic> {
    let (program, args) = command
        .split_first()
        .ok_or_else(|| refused("", &io::ErrorKind::InvalidInput.into()))?;
    let refused = |error: &io::Error| refused(&program.to_string_lossy(), error);
    let mut child = Command::new(program);
    child.args(args);
    OURS.iter().for_each(|name| {
        child.env_remove(name);
    });
    child.envs(environment.iter().map(|(k, v)| (k, v)));
    let mut signals = forwarded().map_err(|e| refused(&e))?;
    let mut child = child.spawn().map_err(|e| refused(&e))?;
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    let mut told = std::pin::pin!(told);
    let mut asked = false;
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map(code).map_err(|e| refused(&e)),
            Some(signal) = signals.recv() => send(pid, signal),
            () = &mut told, if !asked => {
                asked = true;
                send(pid, Signal::SIGTERM);
            }
        }
    }
}

/// Every signal that is to be forwarded, as it comes.
fn forwarded() -> io::Result<mpsc::Receiver<Signal>> {
    let (tell, signals) = mpsc::channel(FORWARDED.len());
    for signal in FORWARDED {
        let mut stream = unix::signal(SignalKind::from_raw(signal as i32))?;
        let tell = tell.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && tell.send(signal).await.is_ok() {}
        });
    }
    Ok(signals)
}

fn send(pid: Option<Pid>, signal: Signal) {
    // The child is not waited for yet, so its id is still its own.
    if let Some(pid) = pid {
        let _ = kill(pid, signal);
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal().map(|s| SIGNALLED + s);
    status.code().or(signal).unwrap_or(SIGNALLED)
}

fn refused(program: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::error(9212, format!("`{program}` cannot be run"))
        .cause(error.to_string())
        .help("give the command after `--`, by its path or as it is found in PATH")
}
