//! Child processes of the demo: started from names of their own, ended with it.
//!
//! A child's standard input is a pipe that we hold: should we die without a word,
//! it reads the end of it and ends too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use tracing::warn;

/// How long a child may take to end after SIGTERM.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Processes in the order they were started.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<(String, Child)>);

impl Children {
    /// Starts `program` with its output in `log`.
    pub(super) fn start(
        &mut self,
        name: &str,
        program: &Path,
        args: &[&str],
        log: &Path,
    ) -> io::Result<()> {
        let output = fs::File::create(log)?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        self.0.push((name.to_owned(), child));
        Ok(())
    }

    /// The first child that has ended by itself, and how.
    pub(super) fn ended(&mut self) -> Option<(String, String)> {
        self.0.iter_mut().find_map(|(name, child)| {
            let status = child.try_wait().ok().flatten()?;
            Some((name.clone(), status.to_string()))
        })
    }

    /// Asks every child to end, newest first, and waits; kills what does not.
    pub(super) async fn end(mut self) {
        for (_, child) in self.0.iter().rev() {
            if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        for (name, child) in &mut self.0 {
            if timeout(END_TIMEOUT, child.wait()).await.is_err() {
                warn!(%name, "child did not end in time, killing it");
                let _ = child.kill().await;
            }
        }
    }
}

/// Gives this binary another name in `folder`, so that the agent tells the process
/// by its path. A hard link where the file system allows, else a copy.
pub(super) fn named_binary(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let named = folder.join(name);
    if fs::hard_link(&this, &named).is_err() {
        fs::copy(&this, &named)?;
    }
    Ok(named)
}
