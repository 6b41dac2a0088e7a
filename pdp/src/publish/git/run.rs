//! One run of the `git` program: what it may do, how long, how much.
//!
//! The program is run rather than a library linked: it verifies signatures, speaks every
//! transport of the hosts people use and is kept up to date by the system, and nothing of
//! it enters the binary. It is given an environment of its own, so that neither the user's
//! configuration nor a repository can make it run anything else.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, sink},
    process::Command,
    time::timeout,
};

/// Most bytes of what it says about an error that are kept.
const STDERR_LEN_MAX: u64 = 16 << 10;
/// Variables that are handed on: where programs are, and how to get out.
const HANDED_ON: [&str; 7] = [
    "PATH",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];
/// Its whole configuration, beside that of the repository it is run in.
const CONFIGURATION: &str = "# Written by palisade; changes are lost.
[core]
\thooksPath = /dev/null
\tfsmonitor = false
[credential]
\thelper =
[fetch]
\tfsckObjects = true
\trecurseSubmodules = false
\tunpackLimit = 1
[gc]
\tauto = 0
[gpg]
\tprogram = /bin/false
[gpg \"x509\"]
\tprogram = /bin/false
[http]
\tfollowRedirects = false
\tlowSpeedLimit = 1000
\tlowSpeedTime = 10
[maintenance]
\tauto = false
[protocol]
\tversion = 2
[safe]
\tdirectory = *
[submodule]
\trecurse = false
[transfer]
\tbundleURI = false
";

/// The surroundings it is run in.
#[derive(Debug, Clone)]
pub(super) struct Git {
    /// Holds the configuration; the user's home as far as it can see. Without one it runs as
    /// the user runs it.
    home: Option<PathBuf>,
    /// The repository.
    pub(super) dir: PathBuf,
    /// Settings of this source, each `key=value`.
    settings: Vec<OsString>,
    protocol: &'static str,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run<'a> {
    args: Vec<OsString>,
    input: &'a [u8],
    output_len_max: usize,
    file_len_max: Option<u64>,
    time: Duration,
}

/// Why a run gave nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such program.
    Missing,
    /// It could not be run.
    Io(io::Error),
    /// It gave more than it may.
    Large,
    /// It ended with an error; what it said.
    Said(String),
    /// It took longer than it may.
    Slow(Duration),
}

impl Git {
    /// Prepares `home`, and runs in the repository `dir`.
    pub(super) fn new(home: &Path, dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(home)?;
        fs::write(configuration(home), CONFIGURATION)?;
        Ok(Self {
            home: Some(home.to_owned()),
            dir,
            settings: Vec::new(),
            protocol: "none",
        })
    }

    /// Runs as the user does in the folder `dir`, with what is configured there.
    pub(super) fn of_user(dir: PathBuf) -> Self {
        Self {
            home: None,
            dir,
            settings: Vec::new(),
            protocol: "none",
        }
    }

    /// Lets it speak to servers over `protocol`.
    pub(super) fn over(mut self, protocol: &'static str) -> Self {
        self.protocol = protocol;
        self
    }

    /// Adds a setting.
    pub(super) fn set(mut self, key: &str, value: impl Into<OsString>) -> Self {
        let mut setting = OsString::from(format!("{key}="));
        setting.push(value.into());
        self.settings.push(setting);
        self
    }

    /// Runs it; gives what it wrote. Dropped, it ends at once, with all it started.
    pub(super) async fn run(&self, run: Run<'_>) -> Result<Vec<u8>, Failure> {
        let mut command = self.command(&run);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::Missing,
            _ => Failure::Io(error),
        })?;
        let mut group = Group::of(child.id());
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // It may end before it has read everything; its exit code tells.
                let _ = stdin.write_all(run.input).await;
            }
        };
        let limit = u64::try_from(run.output_len_max).unwrap_or(u64::MAX);
        let work = async {
            let ((), output, said) = tokio::join!(
                feed,
                read(stdout, limit.saturating_add(1), false),
                read(stderr, STDERR_LEN_MAX, true)
            );
            let (output, said) = (output?, said?);
            if output.len() > run.output_len_max {
                return Ok(Err(Failure::Large));
            }
            let status = child.wait().await?;
            Ok(match status.success() {
                true => Ok(output),
                false => Err(Failure::Said(String::from_utf8_lossy(&said).into_owned())),
            })
        };
        let done: io::Result<_> = timeout(run.time, work)
            .await
            .map_err(|_| Failure::Slow(run.time))?;
        let done = done.map_err(Failure::Io)?;
        if !matches!(done, Err(Failure::Large)) {
            group.has_ended();
        }
        done
    }

    fn command(&self, run: &Run<'_>) -> Command {
        let mut command = match run.file_len_max {
            // The limit of the kernel holds for all that the program starts, whatever the
            // server sends. Blocks of 512 bytes (POSIX, `ulimit`).
            Some(len) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -f \"$0\" && exec git \"$@\""]);
                shell.arg((len / 512).to_string());
                shell
            }
            None => Command::new("git"),
        };
        for setting in &self.settings {
            command.arg("-c").arg(setting);
        }
        command.args(&run.args);
        match &self.home {
            Some(home) => self.confine(&mut command, home),
            None => {
                let quiet = [("LC_ALL", "C"), ("GIT_OPTIONAL_LOCKS", "0")];
                command.envs(quiet).current_dir(&self.dir);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Gives it an environment of its own.
    fn confine(&self, command: &mut Command, home: &Path) {
        command.env_clear();
        command.envs(
            HANDED_ON
                .iter()
                .filter_map(|k| Some((k, std::env::var_os(k)?))),
        );
        command.envs([
            ("LC_ALL", "C"),
            ("GIT_ASKPASS", ""),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("SSH_ASKPASS", ""),
            ("GIT_ALLOW_PROTOCOL", self.protocol),
        ]);
        command.env("GIT_CONFIG_GLOBAL", configuration(home));
        command.env("GIT_DIR", &self.dir);
        command.env("HOME", home);
        command.current_dir(home);
    }
}

fn configuration(home: &Path) -> PathBuf {
    home.join("config")
}

impl<'a> Run<'a> {
    /// A run that takes at most `time` and gives at most `output_len_max` bytes.
    pub(super) fn new<A: Into<OsString>>(
        args: impl IntoIterator<Item = A>,
        time: Duration,
        output_len_max: usize,
    ) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            input: &[],
            output_len_max,
            file_len_max: None,
            time,
        }
    }

    /// Gives it `input` to read.
    pub(super) fn input(mut self, input: &'a [u8]) -> Self {
        self.input = input;
        self
    }

    /// Lets no file that it writes grow beyond `len` bytes.
    pub(super) fn file_len_max(mut self, len: u64) -> Self {
        self.file_len_max = Some(len);
        self
    }
}

/// Reads at most `limit` bytes; what comes after them is thrown away, or left.
async fn read(
    from: Option<impl AsyncRead + Unpin>,
    limit: u64,
    drain: bool,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let mut limited = from.take(limit);
        limited.read_to_end(&mut bytes).await?;
        if drain {
            tokio::io::copy(&mut limited.into_inner(), &mut sink()).await?;
        }
    }
    Ok(bytes)
}

/// The processes of a run. It starts others (`git-remote-https`, `index-pack`), which must
/// not outlive it.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        let pid = leader.and_then(|id| i32::try_from(id).ok());
        Self(pid.map(Pid::from_raw))
    }

    /// The leader was waited for: from here on the number can be another's.
    fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

impl Failure {
    /// What happened, for people.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Missing => "there is no program `git` here".to_owned(),
            Self::Io(error) => error.to_string(),
            Self::Large => "there is more of it than may be".to_owned(),
            Self::Said(said) => last_words(said),
            Self::Slow(time) => format!("no answer within {} s", time.as_secs()),
        }
    }
}

/// The lines of an error that tell something, joined.
fn last_words(said: &str) -> String {
    let told: Vec<&str> = said
        .lines()
        .map(|l| l.trim_start_matches("remote: ").trim())
        .filter_map(|l| {
            l.strip_prefix("fatal: ")
                .or_else(|| l.strip_prefix("error: "))
        })
        .collect();
    let told = match told.as_slice() {
        [] => said
            .lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .unwrap_or("no reason given")
            .to_owned(),
        told => told.join("; "),
    };
    told.chars().filter(|c| !c.is_control()).take(500).collect()
}
