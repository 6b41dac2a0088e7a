//! What the whole-mesh stories share: a home of their own for each, the binary as a
//! user runs it, and waiting for a condition instead of sleeping.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each story uses its part, and a panic here is a failed test"
)]

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

pub mod authority;
pub mod decisions;
pub mod demo;
pub mod git;
pub mod http;
pub mod https;
pub mod inside;
pub mod lone;
pub mod mesh;
pub mod records;
pub mod registry;
pub mod report;
pub mod spool;
pub mod year;

/// Longest wait for something that a loaded machine does in a few seconds.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Folders of one story: runtime sockets, state, working folder.
pub struct Home {
    dir: tempfile::TempDir,
    /// The search that had no complete answer last, and what was said instead.
    wanting: Mutex<String>,
}

impl Home {
    pub fn new() -> Self {
        // With `PALISADE_TEST_KEEP`, whatever was left there can be looked at.
        let keep = std::env::var_os("PALISADE_TEST_KEEP").is_some();
        let mut kind = tempfile::Builder::new();
        let dir = kind.disable_cleanup(keep).tempdir().unwrap();
        if keep {
            println!("kept: {}", dir.path().display());
        }
        fs::create_dir_all(dir.path().join("run")).unwrap();
        Self {
            dir,
            wanting: Mutex::default(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary, in this home.
    pub fn palisade(&self, args: &[&str]) -> Command {
        self.program(Path::new(env!("CARGO_BIN_EXE_palisade")), args)
    }

    fn program(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.dir.path())
            .env_remove("PALISADE_MESH")
            .env("NO_COLOR", "1");
        command
    }

    /// Runs the binary to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.palisade(args).output().unwrap()
    }

    /// Runs the binary with `-o json`; a failure panics with what it said.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}\n{}", said(&output)))
    }

    /// Runs the binary and expects this exit code; gives all that it printed.
    pub fn says(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
        said(&output)
    }

    /// Runs the auditors' program to its end.
    pub fn verifier(&self, args: &[&str]) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_palisade-verify"));
        self.program(program, args).output().unwrap()
    }

    /// Has both programs verify the log in `dir`, with the key that lies in it; they end with this
    /// exit code and say the same. Gives all that was printed, and the report.
    pub fn verifies_alike(&self, dir: &str, more: &[&str], code: i32) -> (String, Value) {
        let key = format!("{dir}/checkpoint.pub");
        let key = ["--key", &key];
        let of_log = [&["log", dir], &key[..], more].concat();
        let output = self.verifier(&of_log);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        let ours = [&["audit", "verify", "--dir", dir], &key[..], more].concat();
        assert_eq!(said(&output), self.says(&ours, code), "{dir}");
        let encoded = self.verifier(&[&of_log[..], &["-o", "json"]].concat());
        let report: Value = serde_json::from_slice(&encoded.stdout).unwrap();
        assert_eq!(report, self.json(&ours), "{dir}");
        (said(&output), report)
    }

    /// How many decisions the running mesh has recorded, once its index has seen
    /// every record that arrived; none while it cannot answer.
    pub fn decisions(&self) -> Option<u64> {
        let answer = self.complete(&["audit", "search", "class:decision last:1h | count"])?;
        (answer["behind"] == 0).then_some(())?;
        answer["total"].as_u64()
    }

    /// Rows of a search, newest first; none while it cannot answer.
    pub fn rows(&self, query: &str) -> Option<Vec<Value>> {
        let answer = self.complete(&["audit", "search", query, "-n", "10000"])?;
        Some(answer["rows"].as_array()?.clone())
    }

    /// A complete answer; none while there is none. What there is instead is told when the
    /// story fails.
    fn complete(&self, args: &[&str]) -> Option<Value> {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let complete = answer.filter(|answer| answer["complete"] == true);
        *self.wanting.lock().unwrap() = match complete {
            Some(_) => String::new(),
            None => format!("{args:?}: {}", said(&output)),
        };
        complete
    }

    /// Starts the binary in the background, with its output in `NAME.log`.
    pub fn start(&self, name: &str, args: &[&str]) -> Running {
        self.start_program(Path::new(env!("CARGO_BIN_EXE_palisade")), name, args)
    }

    /// As [`Home::start`], from a binary that has another name.
    pub fn start_program(&self, program: &Path, name: &str, args: &[&str]) -> Running {
        let log = self.path(&format!("{name}.log"));
        let mut options = fs::OpenOptions::new();
        let output = options.create(true).append(true).open(&log).unwrap();
        let child = self
            .program(program, args)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Running { child, log }
    }
}

/// A process that this test started; it ends with the value.
pub struct Running {
    child: Child,
    pub log: PathBuf,
}

impl Running {
    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub fn end(&mut self) -> ExitStatus {
        self.end_by(Signal::SIGTERM)
    }

    /// Ctrl-C, and waits for the end.
    pub fn interrupt(&mut self) -> ExitStatus {
        self.end_by(Signal::SIGINT)
    }

    fn end_by(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        wait_for("the end of a process", LIMIT, || {
            self.child.try_wait().unwrap()
        })
    }

    /// Its exit status, once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processes that it has started and that still run.
    pub fn children(&self) -> Vec<u32> {
        let is_child = |pid: &u32| parent(*pid) == Some(self.id());
        processes().filter(is_child).collect()
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let wanting = self.wanting.lock().unwrap();
        if thread::panicking() && !wanting.is_empty() {
            eprintln!("--- never complete: {wanting}");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.printed());
        }
    }
}

/// Every process of the machine.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().map(Result::unwrap);
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The parent of a process that has not ended; a zombie has ended.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    (fields.next()? != "Z").then_some(())?;
    fields.next()?.parse().ok()
}

/// Whether a process runs.
pub fn runs(pid: u32) -> bool {
    parent(pid).is_some()
}

/// Asks again and again until there is an answer; panics after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "{what}: not within {limit:?}");
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// A loopback port for a process to listen on: free now, given once by this process, and below
/// the ports that the kernel chooses, so that no connection takes it before the process does.
/// Processes that run side by side begin at different ports, and seldom meet.
pub fn free_port() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let ports = u32::from(LEAST_PORT)..first_chosen_port();
    let begin = process::id().wrapping_mul(PORTS_OF_A_PROCESS);
    for _ in 0..ports.len() {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = ports.start + begin.wrapping_add(given) % ports.len() as u32;
        let address = SocketAddr::from(([127, 0, 0, 1], port.try_into().unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port of {ports:?} is free");
}

/// The least port of [`free_port`]; well-known services listen below.
const LEAST_PORT: u16 = 12_000;
/// How far apart processes that run side by side begin.
const PORTS_OF_A_PROCESS: u32 = 97;

/// The least port that the kernel gives to a connection, or to who listens on port 0;
/// Linux' own where nothing is said, or nothing is left below.
fn first_chosen_port() -> u32 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > 2 * u32::from(LEAST_PORT))
        .unwrap_or(32_768)
}

pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Lines of the section `audit` that have every alert brought to this file.
pub fn alerts_to(file: &Path) -> String {
    let file = file.display();
    format!("  deliver:\n    - {{ name: file, exec: [/bin/sh, -c, \"cat >> {file}\"] }}\n")
}

/// What was brought to a file about this rule, each message once; none while one is being written.
pub fn alerted(file: &Path, rule: &str) -> Option<Vec<Value>> {
    let text = fs::read_to_string(file).ok()?;
    let told = serde_json::Deserializer::from_str(&text).into_iter();
    let mut told: Vec<Value> = told.collect::<Result<_, _>>().ok()?;
    told.retain(|message| message["rule"] == rule);
    // A service that ends between telling and noting it tells again, with the same id.
    let mut ids = std::collections::BTreeSet::new();
    told.retain(|message| ids.insert(message["id"].to_string()));
    Some(told)
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The sample repository.
pub fn sample_policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")
}
